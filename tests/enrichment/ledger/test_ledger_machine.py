"""
Any interleaving of claim, submit, finish, free, commit, crash and compaction, by two writers on shards of one run and a
third of another run that asks about all rows and knows nothing of them.

The truth is a set of events. What it means is said once more here, in the plainest way, and every reader must agree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from airflow_provider_segmind.enrichment.ledger.compaction import compact
from airflow_provider_segmind.enrichment.ledger.events import Claimed, Event, Finished, Freed, Submitted
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.segments import segment_names, writer_and_number
from airflow_provider_segmind.enrichment.outcomes import Outcome
from tests.support.enrichment import KilledError
from tests.support.examples import examples
from tests.support.ledger_events import claimed, finished, freed, mark, submitted
from tests.support.object_stores import ObjectPath, ObjectStore

ROWS = 2
RUNS = {"a": "r", "b": "r", "c": "s"}
WRITERS = st.sampled_from("abc")
STEPS = st.tuples(
    WRITERS,
    st.integers(0, ROWS - 1),
    st.sampled_from([Outcome.INVALID, Outcome.FAILED, Outcome.SUCCESS]),
    st.booleans(),
    st.booleans(),
)
FEW, MORE = st.integers(1, 4), st.integers(1, 8)
COST = 0.5


class Objects(dict[str, bytes]):
    """The objects of a store, with something that happens at the n-th time one is read, written or deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.plan(0, lambda: None)

    def plan(self, nth: int, what: Callable[[], None]) -> None:
        self._left, self._what = nth, what

    def _step(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._what()

    def __getitem__(self, key: str) -> bytes:
        self._step()
        if key not in self:
            # As a store answers that has deleted it since it was asked whether it is there.
            raise FileNotFoundError(key)
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: bytes) -> None:
        self._step()
        super().__setitem__(key, value)

    def pop(self, key: str, *default: Any) -> Any:
        self._step()
        return super().pop(key, *default)


def die() -> None:
    raise KilledError


@dataclass
class Truth:
    """What the events of one row mean to a run."""

    run: str
    outcome: Finished | None
    claims: list[Claimed]
    requests: list[Submitted]
    freed: set[str]
    attempt: int

    def is_followed(self, name: str) -> bool:
        return any(claim.follows == name for claim in self.claims)

    @property
    def submitted(self) -> Submitted | None:
        waited = [one for one in self.requests if not self.is_followed(one.claim)]
        return min(waited, key=lambda one: (-one.attempt, one.request_id), default=None)

    @property
    def unresolved(self) -> list[Claimed]:
        sent = {one.claim for one in self.requests}
        ended = self.freed | sent
        return [claim for claim in self.claims if claim.id not in ended and not self.is_followed(claim.id)]

    @property
    def is_open(self) -> bool:
        return bool(self.submitted or self.unresolved)

    @property
    def claim(self) -> Claimed | None:
        if self.submitted is not None:
            return next(claim for claim in self.claims if claim.id == self.submitted.claim)
        if self.unresolved:
            return min(self.unresolved, key=lambda claim: (claim.at, claim.id))
        paid = [claim for claim in self.claims if claim.run == self.run and claim.request_ids]
        return max(paid or self.claims, key=lambda claim: (claim.attempt, -claim.at, claim.id), default=None)

    @property
    def succeeded(self) -> bool:
        return self.outcome is not None and self.outcome.outcome is Outcome.SUCCESS


def truth(events: Iterable[Event], number: int, run: str) -> Truth:
    """Say what events mean: a success stands for good, else an outcome ends what was noted up to its attempt."""
    own = [event for event in events if event.fingerprint == mark(number)]
    ends = [event for event in own if isinstance(event, Finished)]
    good = [event for event in ends if event.outcome is Outcome.SUCCESS]
    if good:
        outcome = max(good, key=lambda end: (-end.attempt, -end.at, end.request_ids))
        return Truth(run, outcome, [], [], set(), outcome.attempt)
    outcome = max(ends, key=lambda end: (end.attempt, -end.at, end.request_ids, end.outcome), default=None)
    passed = outcome.attempt if outcome is not None else 0
    left = [event for event in own if event.attempt > passed]
    return Truth(
        run,
        outcome,
        [event for event in left if isinstance(event, Claimed)],
        [event for event in left if isinstance(event, Submitted)],
        {event.claim for event in left if isinstance(event, Freed)},
        max((event.attempt for event in own), default=0),
    )


class Process:
    """
    One life of a writer.

    :param seen: the events it knows: those that were there when it began, and its own.
    """

    def __init__(self, folder: ObjectPath, *, run: str, writer: str, seen: Iterable[Event]) -> None:
        self.ledger = Ledger(folder, run=run, writer=writer, clock=lambda: 5.0)  # type: ignore[arg-type]
        self.ledger.replay()
        self.seen = list(seen)
        self.buffer: list[Event] = []

    def note(self, event: Event) -> None:
        self.ledger.append(event)
        self.seen.append(event)
        self.buffer.append(event)


class ManyWriters(RuleBasedStateMachine):
    """``durable`` is what a crash of everybody would leave."""

    def __init__(self) -> None:
        super().__init__()
        self.objects = Objects()
        self.store = ObjectStore()
        self.store.objects = self.objects
        self.folder = self.store.path("bucket/ledger")
        self.durable: list[Event] = []
        self.lives = 0
        self.now = 1.0
        self.processes: dict[str, Process] = {}
        for name in RUNS:
            self.start(name)

    def teardown(self) -> None:
        for process in self.processes.values():
            process.ledger.close()

    def start(self, name: str) -> None:
        self.lives += 1
        if name in self.processes:
            self.processes[name].ledger.close()
        writer = f"{name}{self.lives}"
        self.processes[name] = Process(self.folder, run=RUNS[name], writer=writer, seen=self.durable)

    @rule(steps=st.lists(STEPS, min_size=4, max_size=12))
    def work(self, steps: list[tuple[str, int, Outcome, bool, bool]]) -> None:
        for name, number, end, free, commit in steps:
            self.go_on(name, number, end, free)
            if commit:
                self.commit(name)

    def go_on(self, name: str, number: int, end: Outcome, free: bool) -> None:
        """Take a row one step further, by what this process knows of it."""
        process = self.processes[name]
        known = truth(process.seen, number, process.ledger.run)
        self.now += 1
        if known.succeeded or (name != "c" and number != "ab".index(name)):
            return
        if not known.is_open:
            process.note(self._claim(process, number, known))
        elif known.submitted is not None and free:
            process.note(self._follow(process, number, known))
        elif known.submitted is not None:
            claim, one = known.claim, known.submitted
            assert claim is not None
            ids = (*claim.request_ids, one.request_id)
            event = finished(number, one.attempt, outcome=end, run=claim.run, at=self.now, answer=[self.now])
            process.note(replace(event, request_ids=ids, cost=COST * len(ids)))
        elif free:
            claim = known.unresolved[-1]
            process.note(freed(number, claim.attempt, writer=claim.writer, at=self.now, claim=claim.id))
        else:
            claim = known.unresolved[0]
            event = submitted(number, claim.attempt, request_id=f"q{self.now:05}", at=self.now, claim=claim.id)
            process.note(event)

    def _follow(self, process: Process, number: int, known: Truth) -> Claimed:
        """Ask a further question, because the answer to the one before cannot be used."""
        claim, one = known.claim, known.submitted
        assert claim is not None
        assert one is not None
        return replace(
            claimed(number, claim.attempt + 1, writer=process.ledger.writer, run=process.ledger.run, at=self.now),
            id=process.ledger.claim_id(),
            follows=claim.id,
            follow_ups=(*claim.follow_ups, 0),
            request_ids=(*claim.request_ids, one.request_id),
            cost=claim.cost + COST,
        )

    def _claim(self, process: Process, number: int, known: Truth) -> Claimed:
        ledger = process.ledger
        name = ledger.claim_id()
        event = claimed(number, known.attempt + 1, writer=ledger.writer, run=ledger.run, at=self.now, name=name)
        earlier = known.claim or known.outcome
        if earlier is None or earlier.run != ledger.run or not earlier.request_ids:
            return event
        return replace(event, request_ids=earlier.request_ids, cost=earlier.cost or 0.0)

    @rule(name=WRITERS)
    def commit(self, name: str) -> None:
        process = self.processes[name]
        process.ledger.commit()
        self.durable += process.buffer
        process.buffer = []

    @rule(name=WRITERS)
    def crash(self, name: str) -> None:
        self.start(name)

    @rule(name=WRITERS, after=st.booleans())
    def crash_in_the_middle_of_a_commit(self, name: str, after: bool) -> None:
        process = self.processes[name]
        if after:
            self.commit(name)
        else:
            self.store.broken = True
            batch = process.ledger.take()
            with contextlib.suppress(OSError):
                process.ledger.write(batch)
            self.store.broken = False
        self.start(name)

    @rule(size=st.sampled_from([1, 600, 1 << 20]))
    def compact_everything(self, size: int) -> None:
        compact(self.folder, clock=lambda: 6.0, segment_bytes=size)  # type: ignore[arg-type]

    @rule(name=WRITERS)
    def compact_own_segments(self, name: str) -> None:
        writer = self.processes[name].ledger.writer
        own = [each for each in segment_names(self.folder) if writer_and_number(each)[0] == writer]  # type: ignore[arg-type]
        compact(self.folder, clock=lambda: 6.0, names=own)  # type: ignore[arg-type]

    @rule(nth=MORE)
    def crash_in_the_middle_of_a_compaction(self, nth: int) -> None:
        self.objects.plan(nth, die)
        with contextlib.suppress(KilledError):
            compact(self.folder, clock=lambda: 6.0, segment_bytes=600)  # type: ignore[arg-type]
        self.objects.plan(0, die)

    @rule(nth=MORE, name=WRITERS)
    def commit_in_the_middle_of_a_compaction(self, nth: int, name: str) -> None:
        self.objects.plan(nth, lambda: self.commit(name))
        compact(self.folder, clock=lambda: 6.0)  # type: ignore[arg-type]
        self.objects.plan(0, die)

    @rule(nth=MORE, name=WRITERS)
    def start_in_the_middle_of_a_compaction(self, nth: int, name: str) -> None:
        self.objects.plan(nth, lambda: self.start(name))
        compact(self.folder, clock=lambda: 6.0)  # type: ignore[arg-type]
        self.objects.plan(0, die)

    @rule(nth=FEW, name=WRITERS)
    def compact_while_a_process_starts(self, nth: int, name: str) -> None:
        self.objects.plan(nth, self.compact_once)
        self.start(name)
        self.objects.plan(0, die)

    @rule(nth=MORE)
    def compact_twice_at_the_same_time(self, nth: int) -> None:
        self.objects.plan(nth, self.compact_once)
        self.compact_once()
        self.objects.plan(0, die)

    def compact_once(self) -> None:
        compact(self.folder, clock=lambda: 6.0)  # type: ignore[arg-type]

    @invariant()
    def each_process_sees_what_it_knows(self) -> None:
        for process in self.processes.values():
            check(process.ledger, process.seen)

    @invariant()
    def a_new_process_sees_what_was_committed(self) -> None:
        for run in ("r", "s"):
            reader = Ledger(self.folder, run=run, writer="reader", clock=lambda: 5.0)  # type: ignore[arg-type]
            reader.replay()
            check(reader, self.durable)
            reader.close()


def check(ledger: Ledger, events: list[Event]) -> None:
    rows, cost = 0, 0.0
    for number in range(ROWS):
        known, state = truth(events, number, ledger.run), ledger.row_state(mark(number))
        assert state.attempt == known.attempt
        assert state.success == known.succeeded
        assert ledger.finished(mark(number)) == known.outcome
        assert (state.open is not None) == known.is_open
        assert state.claim == known.claim
        if state.open is not None:
            assert state.open.submitted == known.submitted
        spent = _spent(known, ledger.run)
        rows += spent is not None
        cost += spent or 0.0
    totals = ledger.totals()
    assert (totals.rows, totals.cost) == (rows, cost)


def _spent(known: Truth, run: str) -> float | None:
    """Return what a run has spent on a row, None when it did not ask about it."""
    claim = known.claim
    if claim is not None and claim.run == run and (claim.request_ids or known.is_open):
        return claim.cost
    return known.outcome.cost if known.outcome is not None and known.outcome.run == run else None


TestManyWriters = ManyWriters.TestCase
TestManyWriters.settings = settings(max_examples=examples(100), stateful_step_count=40)
