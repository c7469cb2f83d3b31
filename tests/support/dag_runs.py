"""
Run DAGs with ``dag.test()`` in a separate process.

In production a worker process ends with its task; so do open connections and the warnings of Airflow's in-process API
server, which must not appear in the process of the tests.

Such a process takes 17 s of CPU before its first task runs: it imports Airflow and builds the API server. So one
process does this and then forks for each call, with the environment of that call.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib.metadata
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

import httpx

ROOT = Path(__file__).resolve().parents[2]
MARK = "=== ended: "
HOLD = "SEGMIND_TESTS_HOLD"
SERVE = "--serve"
TIMEOUT = 300
READ_AT_IMPORT = ("AIRFLOW__CORE__UNIT_TEST_MODE", "AIRFLOW__METRICS__", "AIRFLOW__OPENLINEAGE__")
"""What Airflow reads before it could be changed for one call."""


def run_dags(
    *dags: tuple[str, str], connection: str, hold: float | None = None, **environment: str
) -> dict[str, dict[str, Any]]:
    """
    Run DAGs one after the other.

    :param dags: file (relative to the project) and dag_id of each.
    :param connection: ``segmind_default``, as JSON.
    :param hold: seconds for which a trigger delays its event, where many tasks defer; None for the default.
    :returns: for each dag_id its ``state``, ``log`` and ``values``: the return value by task_id, a list if mapped.
    """
    arguments = [part for dag in dags for part in dag]
    full = {**os.environ, "AIRFLOW_CONN_SEGMIND_DEFAULT": connection, HOLD: str(hold or ""), **environment}
    forked = _airflow() >= (3, 3) and not any(name.startswith(READ_AT_IMPORT) for name in environment)
    done = (_forked if forked else _started)(arguments, full)
    assert done.code == 0, f"{done.out}\n{done.error}"
    ended: dict[str, dict[str, Any]] = {}
    begins = 0
    lines = done.out.splitlines()
    for number, line in enumerate(lines):
        if line.startswith(MARK):
            # Another process may write its log to the same line.
            one, _ = json.JSONDecoder().raw_decode(line.removeprefix(MARK))
            ended[one["dag_id"]] = {**one, "log": "\n".join(lines[begins:number])}
            begins = number + 1
    return ended


class _Done(NamedTuple):
    code: int
    out: str
    error: str


def _airflow() -> tuple[int, ...]:
    return tuple(int(part) for part in importlib.metadata.version("apache-airflow").split(".")[:2])


def _started(arguments: list[str], environment: dict[str, str]) -> _Done:
    """Run DAGs in a process that imports Airflow for them."""
    command = [sys.executable, "-m", "tests.support.dag_runs", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT
    )
    return _Done(done.returncode, done.stdout, done.stderr)


def _forked(arguments: list[str], environment: dict[str, str]) -> _Done:
    """Run DAGs in a fork of a process that has imported Airflow already."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory(prefix="segmind-dags-") as folder:
        server.stdin.write(json.dumps({"arguments": arguments, "environment": environment, "folder": folder}) + "\n")
        server.stdin.flush()
        ready, _, _ = select.select([server.stdout], [], [], TIMEOUT)
        code = server.stdout.readline() if ready else ""
        if not code:
            _server.cache_clear()
            os.killpg(server.pid, signal.SIGKILL)
        out, error = (Path(folder, name) for name in ("out", "error"))
        texts = [path.read_text() if path.exists() else "" for path in (out, error)]
    return _Done(int(code or -1), *texts)


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.dag_runs", SERVE],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def end() -> None:
        # It ends when it has nothing more to read.
        server.communicate()

    atexit.register(end)
    return server


def _serve() -> None:
    """Fork for each line of the standard input, and write the exit code of each child."""
    # Airflow writes to the standard output, also when it is imported.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _warm_up()
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            os.environ.clear()
            os.environ.update(job["environment"])
            for number, name in ((1, "out"), (2, "error")):
                os.dup2(os.open(Path(job["folder"], name), os.O_CREAT | os.O_WRONLY), number)
            _run_all(job["arguments"])
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _warm_up() -> None:
    """Have Airflow import and build what it does for the first task, and leave no thread and no connection behind."""
    from airflow import settings
    from airflow.sdk.execution_time.supervisor import in_process_api_server

    server: Any = in_process_api_server()
    loop = asyncio.new_event_loop()
    lifespan = server.app.router.lifespan_context(server.app)
    loop.run_until_complete(lifespan.__aenter__())
    # Instead of Airflow's own, whose loop has a thread, which a fork would not have.
    server.transport = _OnThisThread(server.app, loop)
    load_dag("tests/dags/warm_up_data.py", "warm_up_data").test()
    del server.transport
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    settings.Session.remove()
    settings.engine.dispose()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(10)
    left = threading.enumerate()
    assert left == [threading.current_thread()], left


class _OnThisThread(httpx.BaseTransport):
    """Serves requests in the thread that makes them."""

    def __init__(self, app: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = httpx.ASGITransport(app)
        self._loop = loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def served() -> httpx.Response:
            response = await self._inner.handle_async_request(request)
            content = await response.aread()
            return httpx.Response(response.status_code, headers=response.headers, content=content)

        return self._loop.run_until_complete(served())


def import_errors(folder: Path) -> dict[str, str]:
    """Return the import errors of a folder of DAG files, by file."""
    return dict(_dag_bag(folder).import_errors)


def _dag_bag(path: Path) -> Any:
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:
        # Airflow before 3.2 has it here.
        from airflow.models.dagbag import DagBag  # type: ignore[no-redef]
    return DagBag(str(path))


def load_dag(path: str, dag_id: str) -> Any:
    """Parse a file as Airflow's DAG processor does; an import error fails the test."""
    bag = _dag_bag(ROOT / path)
    if bag.import_errors:
        raise SystemExit(str(bag.import_errors))
    return bag.dags[dag_id]


def _run(path: str, dag_id: str) -> None:
    run = load_dag(path, dag_id).test()
    values: dict[str, Any] = {}
    for instance in sorted(run.get_task_instances(), key=lambda one: one.map_index):
        value = instance.xcom_pull(task_ids=instance.task_id, map_indexes=instance.map_index)
        if instance.map_index < 0:
            values[instance.task_id] = value
        else:
            values.setdefault(instance.task_id, []).append(value)
    state = getattr(run.state, "value", run.state)
    print(MARK + json.dumps({"dag_id": dag_id, "state": state, "values": values}))


def _shorten_the_hold() -> None:
    """Shorten the delay of events: ``dag.test()`` runs triggers inline and has no scheduler that needs it."""
    if given := os.environ.get(HOLD):
        from airflow_provider_segmind import deferral

        deferral.HOLD_SECONDS = float(given)


def _keep_the_api_server() -> None:
    """Build Airflow's in-process API server once, as 3.3 does; 3.0 to 3.2 build it for each task, in two seconds."""
    try:
        from airflow.sdk.execution_time import supervisor
    except ImportError:
        return
    supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)


def _run_all(arguments: list[str]) -> None:
    _shorten_the_hold()
    _keep_the_api_server()
    for number in range(0, len(arguments), 2):
        _run(arguments[number], arguments[number + 1])


if __name__ == "__main__":
    if sys.argv[1:] == [SERVE]:
        _serve()
    else:
        _run_all(sys.argv[1:])
