"""
Tries of table tasks in processes that die at some moment, and what the tries that end leave behind.

One process imports Airflow and forks another one for each try, which then starts at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
MODEL = "gemini-3.1-flash-lite"
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


@dataclass(frozen=True, kw_only=True)
class Try:
    """
    What a process does.

    :param task: the names of the task instance.
    :param rows: numbers of the table; each is asked "question N".
    :param die_after: seconds until the process dies, None for never.
    :param die_at: the step around the writes to the spend record at which it dies, None for none.
    :param environment: additional settings of Airflow.
    """

    task: Mapping[str, Any]
    folder: str
    rows: list[int]
    die_after: float | None = None
    die_at: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


class TableTries:
    """Starts the tries; enter it."""

    def __init__(self, **environment: str) -> None:
        self._environment = {**os.environ, **environment}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.table_tries"],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(self, wanted: Try) -> dict[str, Any] | None:
        """Run a try; return the ``value`` of the task, its ``facet`` and its ``error``, None if it died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(wanted)) + "\n")
        self._process.stdin.flush()
        status = json.loads(self._process.stdout.readline())
        folder = Path(wanted.folder)
        # Another run would learn from the missing heartbeat that this one is dead; that is tested elsewhere.
        for registration in folder.glob("**/live/*.writer"):
            registration.with_suffix(".ended").touch()
        if status in (signal.SIGALRM, signal.SIGKILL):
            return None
        assert status == 0, f"the process ended with {status}"
        ended: dict[str, Any] = json.loads((folder / "ended.json").read_text())
        return ended


def serve() -> None:
    """Fork a process for each line of the standard input, and write how it ended."""
    # What Airflow prints is not for the other process.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import tests.support.airflow_fakes  # noqa: F401 - the forks have them
    from airflow_provider_segmind.execution import enrichment, file_table, lineage  # noqa: F401
    from airflow_provider_segmind.operators import enrich  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                perform(Try(**json.loads(line)))
                code = 0
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        replies.write(f"{abs(status)}\n")
        replies.flush()


def perform(wanted: Try) -> None:
    """Run the task and write what it leaves behind."""
    from openlineage.client.serde import Serde

    from airflow_provider_segmind.exceptions import SegmindError
    from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
    from tests.support.airflow_fakes import Run

    os.environ.update(wanted.environment)
    folder = Path(wanted.folder)
    task = SegmindEnrichFileOperator(
        task_id=wanted.task["task_id"],
        model=MODEL,
        key="id",
        prompt="question {id}",
        source=[{"id": number} for number in wanted.rows],
        output_path=str(folder / "out.jsonl"),
        output_type=SCHEMA,
        max_repairs=1,
        max_failed_rows=None,
        on_partial="succeed",
    )
    run = Run(**wanted.task)
    if wanted.die_at is not None:
        die_around_writes(wanted.die_at)
    if wanted.die_after is not None:
        # The signal ends a process that has no handler for it, as SIGKILL does.
        signal.setitimer(signal.ITIMER_REAL, wanted.die_after)
    value, error = None, None
    try:
        value = task.execute(run.context())
    except SegmindError as failed:
        error = str(failed)
    signal.setitimer(signal.ITIMER_REAL, 0)
    facets = task.get_openlineage_facets_on_complete(run.ti).run_facets
    ended = {"value": value, "error": error, "facet": Serde.to_dict(facets["segmind_table"])}
    (folder / "ended.json").write_text(json.dumps(ended))


def die_around_writes(step: int) -> None:
    """Kill this process right before or after a write to the spend record."""
    from airflow_provider_segmind.spend.files import FileStore

    write: Callable[..., None] = FileStore.write
    left = step

    def pass_step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def recording(store: FileStore, entries: Any) -> None:
        pass_step()
        write(store, entries)
        pass_step()

    FileStore.write = recording  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    serve()
