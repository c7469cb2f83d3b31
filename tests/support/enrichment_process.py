"""
One enrichment in its own process, which can be told where to kill itself.

It does what a task does, without Airflow, whose import would take longer than the run: the engine, the real client over
real sockets, a ledger on disk, and the output.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from airflow_provider_segmind.chat.messages import build_chat_inputs
from airflow_provider_segmind.chat.output_type import OutputType
from airflow_provider_segmind.chat.replies import read_reply
from airflow_provider_segmind.chat.reply_policy import decide_reply
from airflow_provider_segmind.client.async_client import AsyncSegmindClient
from airflow_provider_segmind.client.config import ClientConfig
from airflow_provider_segmind.client.endpoints import Endpoints
from airflow_provider_segmind.client.models import RecordPage, RequestResult, SubmittedRequest
from airflow_provider_segmind.client.rate_limiter import RateSettings
from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.outcomes import RowReply, RowVerdict
from airflow_provider_segmind.enrichment.output import write_output
from airflow_provider_segmind.enrichment.question import Question
from airflow_provider_segmind.enrichment.rows import Row
from airflow_provider_segmind.enrichment.run_limits import Limits
from airflow_provider_segmind.spend.files import FileStore
from airflow_provider_segmind.spend.recorder import SpendBuffer, SpendRecorder
from tests.support.engine_tuning import tuned
from tests.support.rate_clocks import FastClock

MODEL = "gemini-3.1-flash-lite"
SCHEMA = {"type": "object", "properties": {"said": {"type": "string"}}, "required": ["said"]}
MAX_REPAIRS = 1
SETTLES_AFTER = 60.0
"""Seconds after which the history counts as complete; longer than the emulator ever delays it."""
CONCURRENCY = 8
SCALE = 20.0
"""How much faster all clocks are than the wall clock."""
MINUTE = 2.0
"""Seconds of the window in which calls are counted, so that a limit learned from a 429 is soon outdated."""
FLUSH_PAUSE = 0.2
"""Wall-clock seconds between writes to the spend record."""
POINTS = (
    "claimed", "accepted", "completed", "looked_up", "committing", "committed", "compacting", "compacted", "unlinking",
    "writing", "written", "registering",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """
    What the process does.

    :param anchor: wall-clock time at which Segmind's clock shows ``now``.
    :param folder: the folder of ledger and outputs.
    :param rows: the number of rows, of which ``distinct`` are different.
    :param run: the name of the run; its outputs go to the folder ``outputs`` below ``folder``, runs share the ledger.
    :param writer_timeout: wall-clock seconds without a heartbeat after which a writer counts as dead.
    :param point: where it kills itself, the ``nth`` time it gets there; see :data:`POINTS`. None for nowhere.
    """

    anchor: float
    now: float
    url: str
    api_key: str
    folder: str
    rows: int
    distinct: int
    max_cost: float | None = None
    point: str | None = None
    nth: int = 1
    run: str = "run"
    outputs: str = "."
    writer_timeout: float = 60.0


class KillSwitch:
    """Kills the process with SIGKILL at the point in the settings."""

    def __init__(self, settings: ProcessSettings) -> None:
        self._point = settings.point
        self._left = settings.nth

    def pass_point(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class KillableClient(AsyncSegmindClient):
    """The client, with points around a paid call at which the process may be killed."""

    kill_switch: KillSwitch

    async def submit(
        self, model: str, inputs: Any, *, on_permit: Any = None, before_send: Any = None
    ) -> SubmittedRequest:
        async def claimed() -> None:
            await on_permit()
            self.kill_switch.pass_point("claimed")

        submitted = await super().submit(model, inputs, on_permit=claimed, before_send=before_send)
        self.kill_switch.pass_point("accepted")
        return submitted

    async def wait(self, *args: Any, **options: Any) -> Any:
        state = await super().wait(*args, **options)
        assert isinstance(state, RequestResult)
        self.kill_switch.pass_point("completed")
        return state

    async def list_request_records(self, **filters: Any) -> RecordPage:
        records = await super().list_request_records(**filters)
        self.kill_switch.pass_point("looked_up")
        return records


class KillablePath(type(Path())):  # type: ignore[misc]
    """A path on disk, with points around each change at which the process may be killed."""

    kill_switch: KillSwitch

    def replace(self, target: Any) -> Any:
        before, after = ("committing", "committed")
        if "compact-" in Path(target).name:
            before, after = "compacting", "compacted"
        elif Path(target).parent.name == "live" and Path(target).suffix != ".jsonl":
            before = after = "registering"
        elif Path(target).suffix != ".jsonl" or Path(target).parent.name not in ("ledger", "live"):
            before = after = "written"
        self.kill_switch.pass_point(before)
        found = super().replace(target)
        self.kill_switch.pass_point(after)
        return found

    def unlink(self, missing_ok: bool = False) -> None:
        super().unlink(missing_ok)
        self.kill_switch.pass_point("unlinking")


def table(settings: ProcessSettings) -> list[dict[str, Any]]:
    return [{"id": number, "text": f"product {number % settings.distinct}"} for number in range(settings.rows)]


def question() -> Question:
    output_type = OutputType.from_(SCHEMA)
    wanted = output_type.response_format("gemini")

    def build(row: Row) -> dict[str, Any]:
        return build_chat_inputs(model=MODEL, prompt=row.fill("Describe {text}."), response_format=wanted)

    def read(reply: RowReply) -> RowVerdict:
        said = read_reply(reply.result.to_json(), model=MODEL)
        decision = decide_reply(
            said, output_type.parse(said.text), first=lambda: reply.inputs, sent=lambda: reply.sent,
            follow_ups=reply.follow_ups, max_repairs=MAX_REPAIRS,
        )  # fmt: skip
        return RowVerdict(decision, said.usage.total_tokens)

    return Question(
        model=MODEL, build=build, read=read, key=("id",), answer_columns=("said",), schema=output_type.schema
    )


def run_process(settings: ProcessSettings, started: Connection) -> None:
    """Do the work in a process, and report when it starts."""
    asyncio.run(work(settings, begin=lambda: started.send("started")))


async def _flush(spend: SpendBuffer) -> None:
    """Record finished requests now and then, as the main thread of a task does."""
    while True:
        await asyncio.sleep(FLUSH_PAUSE)
        spend.flush()


async def work(settings: ProcessSettings, *, begin: Callable[[], None] = lambda: None) -> None:
    """Do the work; an attempt that is not killed writes out.jsonl, dead_letters.jsonl and manifest.json."""
    kill_switch = KillablePath.kill_switch = KillableClient.kill_switch = KillSwitch(settings)
    folder = KillablePath(settings.folder)
    config = ClientConfig(settings.api_key, Endpoints(settings.url, settings.url, settings.url, settings.url))
    clock = FastClock(settings.anchor, settings.now, SCALE)
    task = {"dag_id": "a_dag", "run_id": settings.run, "task_id": "a_task", "map_index": -1, "try_number": 1}
    spend = SpendBuffer(
        SpendRecorder("an_account", task, log=logging.getLogger(__name__), store=lambda: FileStore(folder / "spend"))
    )
    async with KillableClient(config, clock=clock, sleep=clock.sleep) as client:
        client.limiter.configure(RateSettings(window=MINUTE))
        engine = Engine(
            question=question(),
            rows=table(settings),
            ledger_folder=folder / "ledger",
            client=client,
            run_id=settings.run,
            limits=Limits(max_cost=settings.max_cost),
            settings=tuned(
                concurrency=CONCURRENCY,
                commit_delay=0.02,
                fold_at=8,
                block_rows=16,
                history_complete_after=SETTLES_AFTER,
                writer_timeout=settings.writer_timeout,
                contest_pause=0.2,
                spend=spend,
            ),
            clock=clock,
            sleep=clock.sleep,
        )
        begin()
        flushing = asyncio.create_task(_flush(spend))
        await engine.run()
        flushing.cancel()
        await asyncio.wait([flushing])
        assert spend.flush()
    outputs = folder / settings.outputs
    outputs.mkdir(exist_ok=True)
    manifest = write_output(
        engine,
        output=outputs / "out.jsonl",
        dead_letters=outputs / "dead_letters.jsonl",
        each=lambda _: kill_switch.pass_point("writing"),
    )
    manifest.write(outputs / "manifest.json")
    engine.close()
