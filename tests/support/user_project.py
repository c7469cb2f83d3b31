"""A user's project with DAGs and tests in a folder of its own, where this repository's configuration does not apply."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "test-your-dag.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
MORE = Path(__file__).with_name("user_tests.txt")


def make_project(folder: Path) -> None:
    """Write the files of the documentation as it names them, and further tests."""
    dag, *tests = BLOCKS
    (folder / "dags").mkdir()
    (folder / "dags" / "triage.py").write_text(dag)
    (folder / "tests").mkdir()
    (folder / "tests" / "test_triage.py").write_text("\n\n".join(tests))
    (folder / "tests" / "test_more.py").write_text(MORE.read_text())
    (folder / "pytest.ini").write_text("[pytest]\n")


def run_tests(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a project as its owner does, with the plugins that are installed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTEST", "SEGMIND"))}
    plugins = [f"-pairflow_provider_segmind.{room}.pytest_plugin" for room in ("emulator", "testing")]
    ours = {"PYTHONPATH": str(ROOT), "HOME": str(folder), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-pno:cacheprovider", *plugins, *options],
        cwd=folder,
        env={**kept, **ours, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
