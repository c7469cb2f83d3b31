"""What a DAG parse imports."""

from __future__ import annotations

import ast
import subprocess
import sys

PACKAGE = "airflow_provider_segmind"
PARSE_TIME = ("operators.request", "operators.chat", "operators.enrich", "sensors.request", "decorators.chat")
WORKER_ROOMS = ("client", "chat", "enrichment", "execution", "hooks", "triggers", "task_state", "result_storage")


def test_a_dag_parse_imports_nothing_that_only_a_worker_needs() -> None:
    code = (
        f"import sys\nimport {', '.join(f'{PACKAGE}.{module}' for module in PARSE_TIME)}\n"
        f"print(sorted(name for name in sys.modules if name.startswith('{PACKAGE}.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    assert {f"{PACKAGE}.{module}" for module in PARSE_TIME} <= set(loaded)
    rooms = {name.removeprefix(f"{PACKAGE}.").split(".")[0] for name in loaded}
    assert not rooms & set(WORKER_ROOMS), loaded
