"""Any interleaving of claim, submit, finish, free, crash and compaction by two writers, each on its own shard."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from airflow_provider_segmind.bulk.compaction import compact
from airflow_provider_segmind.bulk.events import Event, Finished
from airflow_provider_segmind.bulk.ledger import Ledger
from airflow_provider_segmind.bulk.verdicts import Outcome
from tests.bulk.events import claimed, finished, freed, mark, submitted

WRITERS = ("a", "b")
ROWS = st.integers(0, 5)
OUTCOMES = st.sampled_from([Outcome.SUCCESS, Outcome.FAILED, Outcome.INVALID])


@dataclass
class Known:
    """What is true of a row: its latest attempt and step, and its latest outcome."""

    attempt: int = 0
    step: str = "none"
    outcome: Finished | None = None
    history: list[Event] = field(default_factory=list)


class TwoWriters(RuleBasedStateMachine):
    """Row ``n`` belongs to writer ``n % 2``; ``durable`` is what a crash leaves, ``seen`` what the writer sees."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.durable = {number: Known() for number in range(6)}
        self.seen = {number: Known() for number in range(6)}
        self.buffer: dict[str, list[tuple[int, Event]]] = {writer: [] for writer in WRITERS}
        self.lives = 0
        self.ledgers: dict[str, Ledger] = {}
        for writer in WRITERS:
            self.start(writer)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def start(self, writer: str) -> None:
        self.lives += 1
        ledger = Ledger(self.folder, run="r", writer=f"{writer}{self.lives}", clock=lambda: 5.0)
        ledger.replay()
        self.ledgers[writer] = ledger

    def note(self, number: int, event: Event) -> None:
        writer = WRITERS[number % 2]
        self.ledgers[writer].append(event)
        self.buffer[writer].append((number, event))
        apply(self.seen[number], event)

    @rule(number=ROWS)
    def claim(self, number: int) -> None:
        known = self.seen[number]
        if known.step in ("none", "freed", "finished") and not succeeded(known):
            writer = self.ledgers[WRITERS[number % 2]].writer
            self.note(number, claimed(number, known.attempt + 1, writer=writer))

    @rule(number=ROWS)
    def submit(self, number: int) -> None:
        if self.seen[number].step == "claimed":
            self.note(number, submitted(number, self.seen[number].attempt))

    @rule(number=ROWS)
    def free(self, number: int) -> None:
        known = self.seen[number]
        if known.step == "claimed":
            claim = known.history[-1]
            self.note(number, freed(number, known.attempt, writer=claim.writer))  # type: ignore[union-attr]

    @rule(number=ROWS, outcome=OUTCOMES)
    def finish(self, number: int, outcome: Outcome) -> None:
        if self.seen[number].step == "submitted":
            attempt = self.seen[number].attempt
            self.note(number, finished(number, attempt, outcome=outcome, answer={"n": [number, attempt]}))

    @rule(writer=st.sampled_from(WRITERS))
    def commit(self, writer: str) -> None:
        self.ledgers[writer].commit()
        for number, event in self.buffer[writer]:
            apply(self.durable[number], event)
        self.buffer[writer] = []

    @rule(writer=st.sampled_from(WRITERS), leftover=st.booleans())
    def crash(self, writer: str, leftover: bool) -> None:
        if leftover:
            (self.folder / f".{self.lives}.jsonl.tmp").write_bytes(b'{"event":')
        self.buffer[writer] = []
        for number in range(6):
            if WRITERS[number % 2] == writer:
                known = self.durable[number]
                self.seen[number] = Known(known.attempt, known.step, known.outcome, list(known.history))
        self.start(writer)

    @rule(size=st.sampled_from([1, 1000, 1 << 20]))
    def compact_everything(self, size: int) -> None:
        compact(self.folder, clock=lambda: 6.0, segment_bytes=size)

    @rule(writer=st.sampled_from(WRITERS))
    def compact_own_segments(self, writer: str) -> None:
        ledger = self.ledgers[writer]
        ledger.own_segments = compact(self.folder, clock=lambda: 6.0, names=ledger.own_segments)

    @rule(half=st.integers(1, 3))
    def crash_in_the_middle_of_compaction(self, half: int) -> None:
        kept = {path.name: path.read_bytes() for path in self.folder.glob("*.jsonl")}
        compact(self.folder, clock=lambda: 6.0)
        for name in list(kept)[half:]:
            (self.folder / name).write_bytes(kept[name])

    @invariant()
    def each_writer_sees_its_own_rows_as_they_are(self) -> None:
        for number, known in self.seen.items():
            check(self.ledgers[WRITERS[number % 2]], number, known)

    @invariant()
    def a_new_reader_sees_what_was_committed(self) -> None:
        reader = Ledger(self.folder, run="r", writer="reader", clock=lambda: 5.0)
        reader.replay()
        for number, known in self.durable.items():
            check(reader, number, known)
        assert reader.totals().cost == sum(known.outcome.cost or 0 for known in self.durable.values() if known.outcome)
        reader.close()


def succeeded(known: Known) -> bool:
    return known.outcome is not None and known.outcome.outcome is Outcome.SUCCESS


def apply(known: Known, event: Event) -> None:
    known.attempt, known.step = event.attempt, event.kind
    known.history.append(event)
    if isinstance(event, Finished):
        known.outcome = event


def check(ledger: Ledger, number: int, known: Known) -> None:
    standing = ledger.standing(mark(number))
    assert standing.attempt == known.attempt
    assert (standing.open is not None) == (known.step in ("claimed", "submitted"))
    if standing.open is not None:
        assert (standing.open.submitted is not None) == (known.step == "submitted")
    assert ledger.finished(mark(number)) == known.outcome
    assert standing.success == succeeded(known)


TestTwoWriters = TwoWriters.TestCase
TestTwoWriters.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
