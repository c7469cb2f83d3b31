"""
A run over a table as a process of its own, made to be killed.

It is what a task does without Airflow, whose import would take longer than the run: the engine, the real client over
real sockets, a ledger on disk, and the output.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from airflow_provider_segmind.chat import reply_policy as repairs
from airflow_provider_segmind.chat.messages import build_chat_inputs
from airflow_provider_segmind.chat.output_type import OutputType
from airflow_provider_segmind.chat.replies import read_reply
from airflow_provider_segmind.client.account import ClientConfig
from airflow_provider_segmind.client.async_client import AsyncSegmindClient
from airflow_provider_segmind.client.endpoints import Endpoints
from airflow_provider_segmind.client.models import RequestRecord, RequestResult, SubmittedRequest
from airflow_provider_segmind.client.rate_limiter import RateSettings
from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.outcomes import Accept, AskAgain, Outcome, Refuse, Reply, Verdict
from airflow_provider_segmind.enrichment.output import write_output
from airflow_provider_segmind.enrichment.rows import Row
from airflow_provider_segmind.enrichment.run_limits import Limits
from airflow_provider_segmind.enrichment.settings import Question, Settings
from tests.support.rate_clocks import FastClock

MODEL = "gemini-3.1-flash-lite"
SCHEMA = {"type": "object", "properties": {"said": {"type": "string"}}, "required": ["said"]}
MAX_QUESTIONS = 2
SETTLES_AFTER = 60.0
"""Seconds after which the history is believed; longer than the emulator ever delays it."""
CONCURRENCY = 8
SCALE = 20.0
"""How much faster than the wall clock all clocks go."""
MINUTE = 2.0
"""Seconds of the minute in which calls are counted, so that what a 429 teaches is soon overtaken."""
POINTS = (
    "claimed", "accepted", "answered", "looked_up", "committing", "committed", "folding", "folded", "unlinking",
    "landing", "landed", "registering",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Order:
    """
    What to do.

    :param anchor: wall-clock seconds at which Segmind's clock shows ``now``.
    :param folder: where ledger and outputs go.
    :param rows: how many rows the table has; only so many ``distinct`` ones.
    :param run: names the run; its ``outputs`` go to a folder below, the ledger is that of all.
    :param death_after: wall-clock seconds after which a writer whose heartbeat stands still is dead.
    :param point: where to die, at the ``nth`` time it gets there; see :data:`POINTS`. None to live.
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
    run: str = "night"
    outputs: str = "."
    death_after: float = 60.0


class Death:
    """Ends the process where the order says, as a lost machine does: without a last word."""

    def __init__(self, order: Order) -> None:
        self._point = order.point
        self._left = order.nth

    def may_come(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class MortalClient(AsyncSegmindClient):
    """The client, with the moments around a paid call at which a process may die."""

    death: Death

    async def submit(
        self, model: str, inputs: Any, *, on_permit: Any = None, before_send: Any = None
    ) -> SubmittedRequest:
        async def claimed() -> None:
            await on_permit()
            self.death.may_come("claimed")

        submitted = await super().submit(model, inputs, on_permit=claimed, before_send=before_send)
        self.death.may_come("accepted")
        return submitted

    async def wait(self, *args: Any, **options: Any) -> Any:
        state = await super().wait(*args, **options)
        assert isinstance(state, RequestResult)
        self.death.may_come("answered")
        return state

    async def list_request_records(self, **filters: Any) -> list[RequestRecord]:
        records = await super().list_request_records(**filters)
        self.death.may_come("looked_up")
        return records


class MortalPath(type(Path())):  # type: ignore[misc]
    """A path on disk, with the moments around a change of it at which a process may die."""

    death: Death

    def replace(self, target: Any) -> Any:
        before, after = ("committing", "committed")
        if "compact-" in Path(target).name:
            before, after = "folding", "folded"
        elif Path(target).parent.name == "live" and Path(target).suffix != ".jsonl":
            before = after = "registering"
        elif Path(target).suffix != ".jsonl" or Path(target).parent.name not in ("ledger", "live"):
            before = after = "landed"
        self.death.may_come(before)
        found = super().replace(target)
        self.death.may_come(after)
        return found

    def unlink(self, missing_ok: bool = False) -> None:
        super().unlink(missing_ok)
        self.death.may_come("unlinking")


def table(order: Order) -> list[dict[str, Any]]:
    return [{"id": number, "text": f"product {number % order.distinct}"} for number in range(order.rows)]


def question() -> Question:
    output_type = OutputType.from_(SCHEMA)
    wanted = output_type.response_format("gemini")

    def build(row: Row) -> dict[str, Any]:
        return build_chat_inputs(model=MODEL, prompt=row.fill("Describe {text}."), response_format=wanted)

    def read(reply: Reply) -> Verdict:
        said = read_reply(reply.result.to_json(), model=MODEL)
        left = MAX_QUESTIONS - reply.attempt
        decision = repairs.decide(
            said, output_type.parse(said.text), follow_ups_left=left,
            output_cap=repairs.output_cap_of(reply.inputs),
        )  # fmt: skip
        tokens = said.usage.total_tokens
        if isinstance(decision, repairs.Accept):
            return Accept(decision.result, tokens)
        if isinstance(decision, repairs.AskAgainLarger):
            return AskAgain(repairs.enlarge_inputs(reply.inputs, decision.cap), "cut off", tokens)
        if isinstance(decision, repairs.Repair):
            return AskAgain(repairs.repair_inputs(reply.inputs, decision), "not the data", tokens)
        return Refuse(Outcome(decision.reason), decision.detail, tokens)

    return Question(
        model=MODEL, build=build, read=read, key=("id",), answer_columns=("said",), schema=output_type.schema
    )


def live(order: Order, begun: Connection) -> None:
    """Carry out the order as a process, and tell when the work begins."""
    asyncio.run(work(order, begin=lambda: begun.send("begun")))


async def work(order: Order, *, begin: Callable[[], None] = lambda: None) -> None:
    """Carry out the order; a try that is not killed leaves out.jsonl, dead_letters.jsonl and manifest.json."""
    death = MortalPath.death = MortalClient.death = Death(order)
    folder = MortalPath(order.folder)
    config = ClientConfig(order.api_key, Endpoints(order.url, order.url, order.url, order.url))
    clock = FastClock(order.anchor, order.now, SCALE)
    async with MortalClient(config, clock=clock, sleep=clock.sleep) as client:
        client.limiter.configure(RateSettings(window=MINUTE))
        engine = Engine(
            question=question(),
            rows=table(order),
            ledger_folder=folder / "ledger",
            client=client,
            run_id=order.run,
            limits=Limits(max_cost=order.max_cost),
            settings=Settings(
                concurrency=CONCURRENCY,
                poll_interval=1.0,
                max_questions=MAX_QUESTIONS,
                commit_delay=0.02,
                fold_at=8,
                block_rows=16,
                history_settles_after=SETTLES_AFTER,
                death_after=order.death_after,
                contest_pause=0.2,
            ),
            clock=clock,
            sleep=clock.sleep,
        )
        begin()
        await engine.run()
    outputs = folder / order.outputs
    outputs.mkdir(exist_ok=True)
    manifest = write_output(
        engine,
        output=outputs / "out.jsonl",
        dead_letters=outputs / "dead_letters.jsonl",
        each=lambda _: death.may_come("landing"),
    )
    manifest.write(outputs / "manifest.json")
    engine.close()
