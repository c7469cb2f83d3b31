"""The command, over the metadata database of the tests, an account and a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_segmind.client.submission import Fingerprint, SubmissionRecord
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.monitoring.cli import main
from tests.support.table_tasks import Table, things

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

MODEL = "gemini-3.1-flash-lite"
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def stored(airflow_database: Path) -> Iterator[Metadata]:
    from tests.support.metadata import stored_metadata

    with stored_metadata() as opened:
        yield opened


@pytest.fixture
def account(stored: Metadata, segmind_emulator: SegmindEmulator, monkeypatch: pytest.MonkeyPatch) -> SegmindEmulator:
    """The emulator behind ``segmind_default``, a Connection of the metadata database alone."""
    monkeypatch.delenv("AIRFLOW_CONN_SEGMIND_DEFAULT", raising=False)
    add_connection(stored, "segmind_default", segmind_emulator.connection_json)
    return segmind_emulator


@pytest.fixture
def command(stored: Metadata, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command; return its exit code and what it printed."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(arguments)
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out + printed.err

    return run


@pytest.fixture
def table(tmp_path: Path, account: SegmindEmulator, monkeypatch: pytest.MonkeyPatch) -> Table:
    """Five rows, of which one failed and two are equal."""
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", account.connection_json)
    made = Table(tmp_path, account)
    account.script(match="rose", fail="too red \x1b[31m[bold]indeed[/bold]")
    made.ask(source=things("sky", "rose", "snow", "coal", "sky"), max_failed_rows=None)
    return made


def add_connection(stored: Metadata, conn_id: str, text: str) -> None:
    from sqlalchemy import delete

    from airflow_provider_segmind.compat import CoreConnection

    stored.session.execute(delete(CoreConnection))
    stored.session.add(CoreConnection.from_json(text, conn_id=conn_id))
    stored.session.commit()


def manifest_file(table: Table) -> str:
    return str(table.output.with_name("colours.manifest.json"))


def ledger_of(table: Table) -> Path:
    return table.output.parent / "_segmind_ledger"


def wait_for(stored: Metadata, account: SegmindEmulator, task_id: str = "ask", **task: Any) -> str:
    """Submit a request, and add the unfinished task that has its record; return its id."""
    from airflow_provider_segmind.monitoring.reader import CoreHook

    hook = CoreHook()
    submitted = hook.submit(MODEL, {"messages": [{"role": "user", "content": task_id}]})
    hook.close()
    fingerprint = Fingerprint.of(model=MODEL, inputs={}, connection="segmind_default at http://localhost")
    record = SubmissionRecord(fingerprint, time.time() - 300, submitted.request_id, time.time() - 300)
    stored.state(stored.task(task_id, "SegmindChatOperator", "running", **task), "segmind_request", record.to_json())
    stored.session.commit()
    return submitted.request_id
