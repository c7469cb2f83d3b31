"""The DAG of the README, unchanged but for the import that it says Airflow 2.11 has instead."""

from __future__ import annotations

from pathlib import Path

import airflow

ROOT = Path(__file__).resolve().parents[2]
NEW, OLD = "from airflow.sdk import DAG", "from airflow import DAG"

said = (ROOT / "README.md").read_text()
source = said.partition("```python\n")[2].partition("```")[0]
if airflow.__version__.startswith("2."):
    assert f"`{OLD}`" in said
    source = source.replace(NEW, OLD)
exec(compile(source, "README.md", "exec"))
