"""The state of the emulated service: requests and their statuses, accounts, bill, and the rate limit of each key."""

from __future__ import annotations

import heapq
import math
import threading
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segmind.emulator.clock import EmulatorClock, stamp
from airflow_provider_segmind.emulator.faults import FaultList
from airflow_provider_segmind.emulator.recorder import BillEntry, JobEntry, Recorder
from airflow_provider_segmind.emulator.scripts import ScriptList
from airflow_provider_segmind.emulator.settings import Settings

WINDOW = 60.0
RESET_HEADER = "x-rate-limit-reset-at-utc"


class RateLimiter:
    """Counts accepted calls in a sliding window; refused ones do not count."""

    def __init__(self, settings: Settings, clock: EmulatorClock) -> None:
        self._settings = settings
        self._clock = clock
        self._accepted: dict[str, deque[float]] = {}

    def refuse_until(self, key: str, now: float, *, paid: bool) -> float | None:
        """Count a call and return None, or return the time until which calls are refused.

        :param paid: whether it is a paid POST; GETs are not counted unless the settings say so.
        """
        limit = self._settings.rpm
        if limit is None or not (paid or self._settings.rpm_counts_gets):
            return None
        accepted = self._accepted.setdefault(key, deque())
        while accepted and accepted[0] <= now - WINDOW:
            accepted.popleft()
        if len(accepted) >= limit:
            # with a limit of zero, calls are always refused
            return (accepted[len(accepted) - limit] if limit > 0 else now) + WINDOW
        accepted.append(now)
        return None

    def forget(self) -> None:
        """Empty all windows."""
        self._accepted.clear()

    def next_reset(self, key: str, now: float) -> float:
        """Return when the oldest call of a key leaves its window."""
        accepted = self._accepted.get(key)
        return accepted[0] + WINDOW if accepted else now + WINDOW


def reset_headers(moment: float, form: str, clock: EmulatorClock, *, whose: str) -> dict[str, str]:
    """Return the headers that announce when the rate limit resets.

    :param moment: emulated time.
    :param form: a ``reset_format`` of the settings; ``absent`` gives no header, ``retry_after`` that of a proxy.
    :param whose: ``client`` for wall-clock time, ``emulator`` for emulated time.
    """
    if form == "absent":
        return {}
    reset_at = clock.in_client_time(moment) if whose == "client" else moment
    if form == "retry_after":
        base = clock.source() if whose == "client" else clock.now()
        return {"retry-after": str(max(0, math.ceil(reset_at - base)))}
    return {RESET_HEADER: stamp(reset_at, form=form)}


@dataclass(slots=True)
class Account:
    """The balance of a key."""

    credits: float | None
    free: float
    reserved: float = 0.0

    @property
    def total(self) -> float:
        """Paid and free credits together; whether the gateway adds them up is not known."""
        return (self.credits or 0.0) + self.free

    def pay(self, amount: float) -> None:
        """Charge an amount, free credits first."""
        from_free = min(self.free, amount)
        self.free = round(self.free - from_free, 10)
        self.credits = round((self.credits or 0.0) - (amount - from_free), 10)


@dataclass(slots=True)
class Job:
    """One accepted request with its planned outcome."""

    id: str
    key: str
    model: str
    kind: str
    #: the API it was submitted to: v1 or v2
    via: str
    submitted: float
    starts: float
    finishes: float
    cost: float
    #: how many polls it stays QUEUED and PROCESSING, if it advances by polls
    polls: tuple[int, int] | None = None
    polled: int = 0
    #: the error of a FAILED request
    error: str | None = None
    #: keys of the v2 result next to status, error and metrics
    fields: dict[str, Any] = field(default_factory=dict)
    native: dict[str, Any] | None = None
    urls: tuple[str, ...] = ()
    body: bytes | None = None
    #: when it ended, and the balance then
    ended: float | None = None
    remaining: float | None = None

    def status(self, now: float) -> str:
        """Return the status at a moment; it only moves forward."""
        if self.ended is not None:
            return "COMPLETED" if self.error is None else "FAILED"
        if self.polls is not None:
            return "QUEUED" if self.polled <= self.polls[0] else "PROCESSING"
        return "QUEUED" if now < self.starts else "PROCESSING"


class EmulatorState:
    """The state of one emulator. Hold ``lock``: the threads of the server and of the test both use it."""

    def __init__(self, settings: Settings, source: Callable[[], float], *, scale: float = 1.0) -> None:
        # an RLock: commands and server enter it, and an event loop's watchdog considers it non-blocking
        self.lock = threading.RLock()
        self.settings = settings
        self.clock = EmulatorClock(source, scale=scale)
        self.base_url = ""
        self.scripts = ScriptList()
        self.faults = FaultList()
        self.limiter = RateLimiter(settings, self.clock)
        self.recorder = Recorder(settings)
        self.clear()

    def clear(self) -> None:
        """Remove requests, accounts, bill and files."""
        self.jobs: dict[str, Job] = {}
        self.bill: list[BillEntry] = []
        self.accounts: dict[str, Account] = {}
        self.files: dict[str, tuple[bytes, str, float]] = {}
        self.leaks: list[str] = []
        self.submitted = 0
        self._ends: list[tuple[float, int, str]] = []
        self._kept: deque[Job] = deque()

    def account(self, key: str) -> Account:
        """Return the account of a key, opened at its first use."""
        if key not in self.accounts:
            self.accounts[key] = Account(self.settings.balance, self.settings.free_credits)
        return self.accounts[key]

    def new_id(self) -> str:
        """Return an id that is unique across emulators."""
        made = uuid.uuid4()
        return str(made) if self.settings.id_format == "uuid" else made.hex

    def add(self, job: Job) -> None:
        """Accept a request: reserve its cost and schedule its end."""
        self.jobs[job.id] = job
        self.submitted += 1
        self._kept.append(job)
        self.account(job.key).reserved += job.cost
        if job.polls is None:
            heapq.heappush(self._ends, (job.finishes, self.submitted, job.id))

    def complete_due(self) -> float:
        """Complete all requests that are due, polled or not, and return the emulated time."""
        now = self.clock.now()
        while self._ends and self._ends[0][0] <= now:
            moment, _, job_id = heapq.heappop(self._ends)
            self._end(self.jobs[job_id], moment)
        # an expired result cannot be read any more, so a long run need not keep it
        while self._kept and now >= self._kept[0].submitted + self.settings.ttl and self._kept[0].ended is not None:
            expired = self._kept.popleft()
            expired.fields, expired.native = {}, None
        return now

    def poll(self, job: Job, now: float) -> str:
        """Return the status of a request for a poll, which may itself advance it."""
        if job.polls is not None and job.ended is None:
            job.polled += 1
            if job.polled > sum(job.polls):
                self._end(job, now)
        return job.status(now)

    def _end(self, job: Job, moment: float) -> None:
        job.ended = moment
        account = self.account(job.key)
        account.reserved = max(0.0, account.reserved - job.cost)
        if job.error is None:
            account.pay(job.cost)
            self.bill.append(BillEntry(job.id, job.model, job.cost, moment))
        job.remaining = round(account.total, 8)

    def find(self, job_id: str, key: str, now: float) -> Job | None:
        """Return the request of a key, None if it does not exist or its result has expired."""
        job = self.jobs.get(job_id)
        if job is None or job.key != key or now >= job.submitted + self.settings.ttl:
            return None
        return job

    def job_entries(self) -> list[JobEntry]:
        """Return all requests in the order of submission."""
        now = self.complete_due()
        return [
            JobEntry(
                job.id, job.model, job.via, job.status(now), job.submitted, job.ended, job.cost, job.error, job.polled
            )
            for job in self.jobs.values()
        ]
