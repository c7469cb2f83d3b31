"""The requests, their way from QUEUED to the end, the accounts, the bill, and the rate limit of each key."""

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
from airflow_provider_segmind.emulator.faults import FaultBook
from airflow_provider_segmind.emulator.recorder import BillEntry, JobEntry, Recorder
from airflow_provider_segmind.emulator.scripts import ScriptBook
from airflow_provider_segmind.emulator.settings import Settings

WINDOW = 60.0
RESET_HEADER = "x-rate-limit-reset-at-utc"


class RateLimiter:
    """Counts accepted calls; refused ones do not count."""

    def __init__(self, settings: Settings, clock: EmulatorClock) -> None:
        self._settings = settings
        self._clock = clock
        self._accepted: dict[str, deque[float]] = {}

    def refuse_until(self, key: str, now: float, *, paid: bool) -> float | None:
        """Take a place in the window, or return the moment at which the next one is free.

        :param key: API key; each has its own window.
        :param now: emulated time.
        :param paid: GETs pass uncounted unless the settings say otherwise.
        """
        limit = self._settings.rpm
        if limit is None or not (paid or self._settings.rpm_counts_gets):
            return None
        accepted = self._accepted.setdefault(key, deque())
        while accepted and accepted[0] <= now - WINDOW:
            accepted.popleft()
        if len(accepted) >= limit:
            # with a limit of zero no place ever becomes free
            return (accepted[len(accepted) - limit] if limit > 0 else now) + WINDOW
        accepted.append(now)
        return None

    def forget(self) -> None:
        """Empty all windows."""
        self._accepted.clear()

    def next_reset(self, key: str, now: float) -> float:
        """Return when the window of a key frees its oldest place."""
        accepted = self._accepted.get(key)
        return accepted[0] + WINDOW if accepted else now + WINDOW


def reset_headers(moment: float, form: str, clock: EmulatorClock, *, whose: str) -> dict[str, str]:
    """Write the reset moment in one of the forms a client may meet.

    :param moment: emulated time.
    :param form: a ``reset_format`` of the settings; ``absent`` writes nothing, ``retry_after`` what a proxy would.
    :param whose: ``client`` writes wall-clock time, ``emulator`` the emulated one.
    """
    if form == "absent":
        return {}
    told = clock.in_client_time(moment) if whose == "client" else moment
    if form == "retry_after":
        base = clock.source() if whose == "client" else clock.now()
        return {"retry-after": str(max(0, math.ceil(told - base)))}
    return {RESET_HEADER: stamp(told, form=form)}


@dataclass(slots=True)
class Account:
    """What a key can spend."""

    credits: float | None
    free: float
    reserved: float = 0.0

    @property
    def total(self) -> float:
        """Paid and free credits together; whether the gateway adds them up is not known."""
        return (self.credits or 0.0) + self.free

    def pay(self, amount: float) -> None:
        """Take an amount, free credits first."""
        from_free = min(self.free, amount)
        self.free = round(self.free - from_free, 10)
        self.credits = round((self.credits or 0.0) - (amount - from_free), 10)


@dataclass(slots=True)
class Job:
    """One submitted request with the end it will come to."""

    id: str
    key: str
    model: str
    kind: str
    #: which surface it came through: v1, v2
    via: str
    submitted: float
    starts: float
    finishes: float
    cost: float
    #: looks until PROCESSING and until the end, when it moves by looks
    looks: tuple[int, int] | None = None
    seen: int = 0
    #: the words of a FAILED request
    words: str | None = None
    #: keys of the v2 result beside status, error and metrics
    fields: dict[str, Any] = field(default_factory=dict)
    native: dict[str, Any] | None = None
    urls: tuple[str, ...] = ()
    body: bytes | None = None
    #: when it ended, and the balance then
    ended: float | None = None
    remaining: float | None = None

    def status(self, now: float) -> str:
        """Return the state at a moment; it only moves forward."""
        if self.ended is not None:
            return "COMPLETED" if self.words is None else "FAILED"
        if self.looks is not None:
            return "QUEUED" if self.seen <= self.looks[0] else "PROCESSING"
        return "QUEUED" if now < self.starts else "PROCESSING"


class EmulatorState:
    """Everything one emulator knows. Guard it with ``lock``: the server's thread and the test's both come here."""

    def __init__(self, settings: Settings, source: Callable[[], float], *, scale: float = 1.0) -> None:
        # an RLock: the in-process verbs and the server enter it, and an event loop's watchdog takes it for non-blocking
        self.lock = threading.RLock()
        self.settings = settings
        self.clock = EmulatorClock(source, scale=scale)
        self.base_url = ""
        self.scripts = ScriptBook()
        self.faults = FaultBook()
        self.limiter = RateLimiter(settings, self.clock)
        self.recorder = Recorder(settings)
        self.clear()

    def clear(self) -> None:
        """Forget requests, accounts, bill and files."""
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
        """Return an id no other request has, even of another emulator."""
        made = uuid.uuid4()
        return str(made) if self.settings.id_format == "uuid" else made.hex

    def add(self, job: Job) -> None:
        """Accept a request: reserve its cost and put its end on the calendar."""
        self.jobs[job.id] = job
        self.submitted += 1
        self._kept.append(job)
        self.account(job.key).reserved += job.cost
        if job.looks is None:
            heapq.heappush(self._ends, (job.finishes, self.submitted, job.id))

    def settle(self) -> float:
        """Let everything that is due end, whether anyone looks or not, and return the emulated time."""
        now = self.clock.now()
        while self._ends and self._ends[0][0] <= now:
            moment, _, job_id = heapq.heappop(self._ends)
            self._end(self.jobs[job_id], moment)
        # nobody can read an expired result, so a long run need not hold it
        while self._kept and now >= self._kept[0].submitted + self.settings.ttl and self._kept[0].ended is not None:
            expired = self._kept.popleft()
            expired.fields, expired.native = {}, None
        return now

    def look(self, job: Job, now: float) -> str:
        """Return a request's state to somebody who looks; the look itself may move it."""
        if job.looks is not None and job.ended is None:
            job.seen += 1
            if job.seen > sum(job.looks):
                self._end(job, now)
        return job.status(now)

    def _end(self, job: Job, moment: float) -> None:
        job.ended = moment
        account = self.account(job.key)
        account.reserved = max(0.0, account.reserved - job.cost)
        if job.words is None:
            account.pay(job.cost)
            self.bill.append(BillEntry(job.id, job.model, job.cost, moment))
        job.remaining = round(account.total, 8)

    def find(self, job_id: str, key: str, now: float) -> Job | None:
        """Return a request of this key whose result has not expired."""
        job = self.jobs.get(job_id)
        if job is None or job.key != key or now >= job.submitted + self.settings.ttl:
            return None
        return job

    def entries(self) -> list[JobEntry]:
        """Return all requests as rows, in the order of submission."""
        now = self.settle()
        return [
            JobEntry(
                job.id, job.model, job.via, job.status(now), job.submitted, job.ended, job.cost, job.words, job.seen
            )
            for job in self.jobs.values()
        ]
