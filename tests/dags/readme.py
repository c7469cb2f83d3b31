"""The DAG of the README, unchanged except for the import that the README gives for Airflow 2.11."""

from __future__ import annotations

from pathlib import Path

import airflow

ROOT = Path(__file__).resolve().parents[2]
NEW, OLD = "from airflow.sdk import DAG", "from airflow import DAG"

text = (ROOT / "README.md").read_text()
source = text.partition("```python\n")[2].partition("```")[0]
if airflow.__version__.startswith("2."):
    assert f"`{OLD}`" in text
    source = source.replace(NEW, OLD)
exec(compile(source, "README.md", "exec"))
