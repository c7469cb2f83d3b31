"""An in-memory Segmind with a bill and scripted faults, a virtual clock, and a process that can be killed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segmind.chat.reply_policy import Accept
from airflow_provider_segmind.client.models import RecordPage, RequestRecord, RequestResult, SubmittedRequest
from airflow_provider_segmind.client.poll_schedule import Pending
from airflow_provider_segmind.defaults import RESULT_LIFETIME
from airflow_provider_segmind.enrichment.outcomes import RowReply, RowVerdict
from airflow_provider_segmind.enrichment.question import Question
from airflow_provider_segmind.enrichment.rows import Row
from airflow_provider_segmind.exceptions import (
    SegmindConnectionError,
    SegmindRateLimitError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindSubmissionUnknownError,
)
from tests.support.object_stores import ObjectStore

PRICE = 0.01


class KilledError(BaseException):
    """The process has been killed; nothing may catch this and continue."""


class Clock:
    """Epoch seconds that advance only when ``sleep`` is called."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


@dataclass
class Job:
    """One accepted request."""

    id: str
    model: str
    body: dict[str, Any]
    at: float
    failed: str | None = None
    cost: float | None = PRICE
    output: Any = None


class FakeSegmind:
    """
    The service: accepted requests and their cost.

    :param trouble: called at each POST; returns ``limit``, ``refused``, ``lost`` (accepted, response lost), ``gone``
        (not accepted, response lost), an exception to raise, or None.
    :param failing: called with each body; returns the error of a request that fails, or None.
    :param history_delay: seconds until a request appears in the history.
    :param skew: seconds by which the service's clock is ahead.
    :param defaults: fields that the history adds to each body.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        trouble: Callable[[Mapping[str, Any]], str | BaseException | None] = lambda _: None,
        failing: Callable[[Mapping[str, Any]], str | None] = lambda _: None,
        answer: Callable[[Mapping[str, Any]], Any] = lambda body: str(body["prompt"]).upper(),
        cost: Callable[[Mapping[str, Any]], float] = lambda _: PRICE,
        history_delay: float = 0.0,
        steps: int = 1,
        rng: random.Random | None = None,
        skew: float = 0.0,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.skew = skew
        self.defaults = defaults or {}
        self.clock = clock
        self.jobs: dict[str, Job] = {}
        self.posts = 0
        self.fetches = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.history_calls = 0
        self.trouble, self.failing, self.answer = trouble, failing, answer
        self.history_delay = history_delay
        self.cost = cost
        self.steps = steps
        self.rng = rng or random.Random(0)
        self.typical = 1.0
        self.until_submit = 0.0
        self.tick: Callable[[], None] = lambda: None
        self.count: Callable[[bool], None] = lambda paid: None

    def count_calls(self, count: Callable[[bool], None]) -> None:
        self.count = count

    @property
    def bill(self) -> float:
        """USD charged: completed requests only."""
        return round(sum(job.cost or 0.0 for job in self.jobs.values() if job.failed is None), 9)

    @property
    def paid_bodies(self) -> list[str]:
        return sorted(json.dumps(job.body, sort_keys=True) for job in self.jobs.values() if job.failed is None)

    async def pause(self, at_least: int = 1) -> None:
        for _ in range(self.rng.randint(at_least, self.steps)):
            self.clock.now += 0.01
            self.tick()
            await asyncio.sleep(0)
        self.tick()

    def seconds_until_submit(self) -> float:
        return self.until_submit

    def typical_seconds(self, model: str) -> float:
        return self.typical

    async def submit(
        self, model: str, inputs: Mapping[str, Any], *, on_permit: Callable[[], Awaitable[object]],
        before_send: Callable[[], Awaitable[object]],
    ) -> SubmittedRequest:  # fmt: skip
        await self.pause()
        await on_permit()
        await self.pause()
        await before_send()
        self.posts += 1
        self.count(True)
        trouble = self.trouble(inputs)
        if isinstance(trouble, BaseException):
            raise trouble
        if trouble == "limit":
            raise SegmindRateLimitError("429")
        if trouble == "refused":
            raise SegmindConnectionError("refused")
        if trouble == "gone":
            raise SegmindSubmissionUnknownError("504")
        number = len(self.jobs)
        job = Job(hashlib.md5(str(number).encode()).hexdigest(), model, json.loads(json.dumps(inputs)), self.clock.now)
        job.failed = self.failing(inputs)
        job.cost = self.cost(inputs)
        job.output = self.answer(inputs)
        self.jobs[job.id] = job
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await self.pause()
        if trouble == "lost":
            raise SegmindSubmissionUnknownError("reset")
        return SubmittedRequest(request_id=job.id)

    async def wait(self, pending: Pending, *, fetch: bool = False) -> RequestResult:
        assert fetch
        await self.pause()
        self.fetches += 1
        self.count(False)
        job = self.jobs.get(pending.request_id)
        if job is None or self.clock.now - job.at > RESULT_LIFETIME:
            raise SegmindRequestExpiredError("404", request_id=pending.request_id)
        await self.pause()
        self.in_flight -= 1
        if job.failed is not None:
            raise SegmindRequestFailedError("FAILED", request_id=job.id, reason=job.failed)
        return RequestResult(
            request_id=job.id,
            status="COMPLETED",
            output=job.output,
            metrics={} if job.cost is None else {"cost": job.cost},
        )

    async def get_request_record(self, request_id: str) -> RequestRecord:
        await self.pause()
        return self._record(self.jobs[request_id])

    async def list_request_records(self, *, model: str, page: int, **_: Any) -> RecordPage:
        await self.pause()
        self.history_calls += 1
        seen = [
            job for job in self.jobs.values() if job.at + self.history_delay <= self.clock.now and job.model == model
        ]
        return RecordPage(self._record(job) for job in list(reversed(seen))[(page - 1) * 100 : page * 100])

    def _record(self, job: Job) -> RequestRecord:
        return RequestRecord(
            request_id=job.id,
            model_name=job.model,
            model_status="COMPLETED" if job.failed is None else "FAILED",
            credits_deduction=job.cost if job.failed is None else 0.0,
            request_body={**self.defaults, **job.body},
            error=job.failed,
            model_created=job.at + self.skew,
        )


@dataclass
class KillableProcess:
    """
    A process that is killed at its n-th step, wherever that is; after that its store accepts nothing.

    :param kill_at: the step, None for never.
    """

    store: ObjectStore
    segmind: FakeSegmind
    kill_at: int | None = None
    steps: int = 0
    dead: bool = False
    killed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.segmind.tick = self.store.before_put = self.store.after_put = self.step

    def step(self) -> None:
        self.steps += 1
        if self.dead or self.steps == self.kill_at:
            if not self.dead:
                self.dead = True
                self.loop.call_soon_threadsafe(self.killed.set)
            raise KilledError

    async def run_until_killed(self, running: Any) -> bool:
        """Run until the end or the kill; return whether it reached the end."""
        task = asyncio.ensure_future(running)
        killed = asyncio.ensure_future(self.killed.wait())
        await asyncio.wait({task, killed}, return_when=asyncio.FIRST_COMPLETED)
        killed.cancel()
        if not self.dead:
            await task
            return True
        task.cancel()
        await asyncio.gather(task, killed, return_exceptions=True)
        return False


def build(row: Row) -> dict[str, Any]:
    return {"prompt": row.fill("Say {text}"), "temperature": 0}


def read(reply: RowReply) -> RowVerdict:
    return RowVerdict(Accept({"said": reply.result.output}), tokens=5)


def question(**changes: Any) -> Question:
    values: dict[str, Any] = {"model": "m", "build": build, "read": read, "key": ("id",), "answer_columns": ("said",)}
    values["placeholders"] = frozenset({"text"})
    return Question(**{**values, **changes})


def table(*texts: str) -> list[dict[str, Any]]:
    return [{"id": number, "text": text} for number, text in enumerate(texts)]
