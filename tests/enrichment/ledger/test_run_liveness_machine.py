"""
A model of the claim rule: whatever writers do, and whatever happens to them, no row is sent for twice.

It drives the real code: the claim before a POST, the ledger, its folder `live`, compaction. Time passes when
a rule says so; a listing may miss or hold what comes and goes while it is made; in the middle of whatever a writer does
to the store others act; writers die, stand still and go on, are declared dead, and end. The request history is one that
knows at once what was sent, so that a second send is never the fault of what it says.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from airflow_provider_segmind.chat.cost_estimate import UNBOUNDED
from airflow_provider_segmind.enrichment.ledger.compaction import compact
from airflow_provider_segmind.enrichment.ledger.events import Claimed, Event, Finished, Freed, Submitted
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.run_liveness import BEATS, Membership
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.row_request import NotSentError, PostClaim
from airflow_provider_segmind.enrichment.settings import Shard
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.enrichment.ledger.test_ledger_machine import Objects
from tests.support.examples import examples
from tests.support.ledger_events import mark
from tests.support.object_stores import ObjectStore

ROWS = 2
DEATH_AFTER = 60.0
NAMES = st.sampled_from("abc")
NUMBERS = st.integers(0, ROWS - 1)
ACTIONS = st.sampled_from(
    ["claim", "claim", "send", "send", "note", "finish", "fail", "observe", "recover", "fold", "unregister"]
)
STORY = ("recover", "claim", "send", "note", "finish")
OFTEN = st.lists(st.tuples(NAMES, NUMBERS, ACTIONS), min_size=3, max_size=10)


class Commits:
    """What the group commit does, at once."""

    def __init__(self, ledger: Ledger, member: Membership) -> None:
        self._ledger, self._member = ledger, member

    async def commit(self, event: Event | None) -> None:
        if event is not None:
            self._ledger.append(event)
        self._ledger.commit()
        self._member.refresh()
        self.take_in()

    def forbidden(self) -> SegmindEnrichmentError | None:
        return self._member.trouble()

    def take_in(self) -> None:
        while self._member.inbox:
            self._ledger.absorb(*self._member.inbox.popleft())


def finish_now(steps: Coroutine[Any, Any, None]) -> None:
    """Run what never really waits."""
    try:
        steps.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


@dataclass
class World:
    """What every writer shares, and the truth about what was sent."""

    now: float = 1000.0
    store: ObjectStore = field(default_factory=ObjectStore)
    sent: dict[int, Claimed] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    requests: set[str] = field(default_factory=set)

    def send(self, number: int, claim: Claimed) -> None:
        assert number not in self.answered, f"row {number} was sent again after its answer: {claim}"
        assert number not in self.sent, f"row {number} was sent twice: {self.sent[number]} and {claim}"
        self.sent[number] = claim
        self.requests.add(claim.id)

    def ended(self, number: int, request_id: str, *, answered: bool) -> None:
        if number in self.sent and f"q-{self.sent[number].id}" == request_id:
            del self.sent[number]
            if answered:
                self.answered.add(number)


class Writer:
    """One process; what it has in mind is lost with it."""

    halted = paused = False

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.waiting_for_permit = 0
        self.frozen = False
        self.member = Membership(
            world.store.path("bucket/ledger"),  # type: ignore[arg-type]
            writer=name, shard=Shard(), writer_timeout=DEATH_AFTER, clock=self.clock, monotonic=self.clock,
            wall=self.clock,
        )  # fmt: skip
        self.ledger = Ledger(
            world.store.path("bucket/ledger"),  # type: ignore[arg-type]
            run=name, writer=name, clock=self.clock, live=self.member,
        )  # fmt: skip
        self.commits = Commits(self.ledger, self.member)
        self.claims: dict[int, PostClaim] = {}
        self.accepted: dict[int, Submitted] = {}
        self.begin()

    def begin(self) -> None:
        self.member.register()
        self.ledger.replay()
        self.commits.take_in()

    def clock(self) -> float:
        return self.world.now

    def may_still_send(self) -> bool:
        return True

    def note(self, *events: Event) -> None:
        for event in events:
            self.ledger.append(event)
        self.ledger.commit()

    def claim(self, number: int) -> None:
        state = self.ledger.row_state(mark(number))
        if state.success or state.open is not None or number in self.claims:
            return
        claim = Claimed(
            fingerprint=mark(number), attempt=state.attempt + 1, at=self.clock(), run=self.ledger.run,
            writer=self.ledger.writer, model="m", body="b", id=self.ledger.claim_id(),
        )  # fmt: skip
        claiming = self.claims[number] = PostClaim(self, claim, UNBOUNDED, self.clock)  # type: ignore[arg-type]
        self._step(number, claiming.on_permit)

    def send(self, number: int) -> None:
        claiming = self.claims.get(number)
        if claiming is not None and claiming.claimed and self._step(number, claiming.before_send):
            del self.claims[number]
            self.world.send(number, claiming.claim)
            self.accepted[number] = Submitted(
                fingerprint=mark(number), attempt=claiming.claim.attempt, at=self.clock(),
                request_id=f"q-{claiming.claim.id}", claim=claiming.claim.id,
            )  # fmt: skip

    def _step(self, number: int, step: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        try:
            finish_now(step())
        except NotSentError:
            claiming = self.claims.pop(number, None)
            if claiming is not None and claiming.claimed:
                claim = claiming.claim
                self.note(
                    Freed(
                        fingerprint=mark(number), attempt=claim.attempt, at=self.clock(),
                        claim=claim.id,
                    )
                )  # fmt: skip
            return False
        return True

    def submitted(self, number: int) -> None:
        if number in self.accepted:
            self.note(self.accepted.pop(number))

    def finish(self, number: int, outcome: Outcome) -> None:
        """Take the answer of a request that the ledger names, whoever sent it."""
        state = self.ledger.row_state(mark(number))
        if state.open is None or state.open.submitted is None:
            return
        one = state.open.submitted
        self.world.ended(number, one.request_id, answered=outcome is Outcome.SUCCESS)
        self.note(
            Finished(
                fingerprint=mark(number), attempt=one.attempt, at=self.clock(), run=self.ledger.run, model="m",
                outcome=outcome, request_ids=(one.request_id,), answer={},
            )
        )  # fmt: skip

    def recover(self, number: int) -> None:
        """Ask the history what became of claims that nobody holds any more."""
        row = self.ledger.row_state(mark(number)).open
        if row is None or row.submitted is not None or number in self.claims or number in self.accepted:
            return
        if any(self.member.is_active(writer) for writer in row.writers()):
            return
        claims = row.unresolved
        for claim in claims:
            if claim.id in self.world.requests:
                self.note(
                    Submitted(
                        fingerprint=mark(number), attempt=claim.attempt, at=self.clock(),
                        request_id=f"q-{claim.id}", claim=claim.id,
                    )
                )  # fmt: skip
            else:
                self.note(
                    Freed(
                        fingerprint=mark(number), attempt=claim.attempt, at=self.clock(),
                        claim=claim.id,
                    )
                )  # fmt: skip

    def refresh(self) -> None:
        self.member.refresh()
        self.commits.take_in()

    def observe(self) -> None:
        self.member.observe()
        self.commits.take_in()

    def fold(self) -> None:
        self.member.fold(self.member.movable(self.ledger.is_live))
        self.commits.take_in()

    @property
    def may_unregister(self) -> bool:
        return not (self.claims or self.accepted)


class Claims(RuleBasedStateMachine):
    """Three writers at most, of which each may be followed by another one of its name."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.objects = Objects()
        self.world.store.objects = self.objects
        self.writers: dict[str, Writer] = {}
        self.gone: list[Writer] = []
        self.lives = 0
        self.rows = ROWS
        self.busy: set[str] = set()

    def teardown(self) -> None:
        for writer in (*self.writers.values(), *self.gone):
            writer.ledger.close()

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        rng = random.Random(seed)
        self.world.store.shows_change = lambda: rng.random() < 0.5

    def act(self, name: str, number: int, what: str) -> None:
        """Let a writer do something, or begin."""
        if name in self.busy:
            return
        self.busy.add(name)
        try:
            self._act(name, number, what)
        finally:
            self.busy.discard(name)

    def _act(self, name: str, number: int, what: str) -> None:
        writer = self.writers.get(name)
        if writer is None:
            self.lives += 1
            self.writers[name] = Writer(self.world, f"{name}{self.lives}")
            return
        if writer.frozen:
            return
        if what == "unregister":
            if writer.may_unregister:
                writer.member.unregister()
                self.gone.append(self.writers.pop(name))
            return
        {
            "claim": lambda: writer.claim(number),
            "send": lambda: writer.send(number),
            "note": lambda: writer.submitted(number),
            "finish": lambda: writer.finish(number, Outcome.SUCCESS),
            "fail": lambda: writer.finish(number, Outcome.FAILED),
            "observe": writer.observe,
            "recover": lambda: writer.recover(number),
            "refresh": writer.refresh,
            "fold": writer.fold,
        }[what]()

    @rule(steps=OFTEN)
    def continue_all(self, steps: list[tuple[str, int, str]]) -> None:
        for step in steps:
            self.act(*step)

    @rule(outer=st.tuples(NAMES, NUMBERS, ACTIONS), inner=OFTEN, nth=st.integers(1, 12), listing=st.booleans())
    def act_while_another_acts(
        self, outer: tuple[str, int, str], inner: list[tuple[str, int, str]], nth: int, listing: bool
    ) -> None:
        """Others act in the middle of what one does: of a listing, or at its n-th access to an object."""

        def others() -> None:
            self.undisturbed()
            for step in inner:
                self.act(*step)

        if listing:
            self.world.store.during_listing = others
        else:
            self.objects.plan(nth, others)
        self.act(*outer)
        self.undisturbed()

    def undisturbed(self) -> None:
        self.world.store.during_listing = lambda: None
        self.objects.plan(0, lambda: None)

    @rule(seconds=st.sampled_from([1.0, 10.0, 20.0, 40.0, 100.0]), watching=NAMES)
    def time_passes(self, seconds: float, watching: str) -> None:
        """Whoever is not frozen shows that it is alive; one looks who else is."""
        while seconds > 0:
            self.world.now += min(seconds, DEATH_AFTER / BEATS)
            seconds -= DEATH_AFTER / BEATS
            for writer in self.writers.values():
                if not writer.frozen:
                    writer.member.beat()
            if watching in self.writers:
                self.act(watching, 0, "observe")

    @rule(name=NAMES)
    def stand_still(self, name: str) -> None:
        if name in self.writers:
            self.writers[name].frozen = True

    @rule(name=NAMES, then=st.sampled_from(["send", "send", "claim", "note", "finish", "observe"]), number=NUMBERS)
    def wake(self, name: str, then: str, number: int) -> None:
        if name in self.writers and self.writers[name].frozen:
            self.writers[name].frozen = False
            self.act(name, number, then)

    @rule(
        name=NAMES,
        others=NAMES,
        claimed=st.booleans(),
        beat=st.booleans(),
        steps=st.integers(0, len(STORY)),
        end=st.sampled_from(["fold", "unregister", "observe"]),
        seconds=st.sampled_from([10.0, 70.0, 75.0, 100.0]),
    )
    def stand_still_while_another_takes_over(
        self, name: str, others: str, claimed: bool, beat: bool, steps: int, end: str, seconds: float
    ) -> None:
        """A whole story at once, as are those that follow: a search finds them rarely step by step."""
        number = self.fresh_row()
        if claimed:
            self.act(name, number, "claim")
        self.stand_still(name)
        self.time_passes(seconds, others)
        for what in (*STORY[:steps], end):
            self.act(others, number, what)
        self.thaw(name)
        if beat and name in self.writers:
            self.writers[name].member.beat()
        for what in ("send", "claim", "send"):
            self.act(name, number, what)

    @rule(name=NAMES, others=NAMES, nth=st.integers(1, 12))
    def wake_while_another_declares_it_dead(self, name: str, others: str, nth: int) -> None:
        number = self.fresh_row()
        if name == others or not {name, others} <= self.writers.keys():
            return
        self.act(name, number, "claim")
        self.stand_still(name)
        self.time_passes(60.0, others)
        self.world.now += 10.0

        def wake() -> None:
            self.undisturbed()
            self.thaw(name)
            self.writers[name].member.beat()
            self.act(name, number, "refresh")

        self.objects.plan(nth, wake)
        self.act(others, number, "observe")
        self.undisturbed()
        for what in STORY:
            self.act(others, number, what)
        self.act(name, number, "send")

    @rule(
        name=NAMES,
        others=NAMES,
        nth=st.integers(0, 12),
        end=st.sampled_from(["fold", "unregister"]),
        at_once=st.booleans(),
    )
    def begin_or_look_while_another_does_all(self, name: str, others: str, nth: int, end: str, at_once: bool) -> None:
        number = self.fresh_row()

        def story() -> None:
            self.undisturbed()
            for what in ("observe", *STORY, *([end] if at_once else [])):
                self.act(others, number, what)

        if nth:
            self.objects.plan(nth, story)
        else:
            self.world.store.during_listing = story
        self.act(name, number, "refresh")
        self.undisturbed()
        if name in self.writers:
            self.writers[name].member.beat()
        self.act(others, number, end)
        for what in ("claim", "send"):
            self.act(name, number, what)

    def fresh_row(self) -> int:
        self.rows += 1
        return self.rows

    def thaw(self, name: str) -> None:
        if name in self.writers:
            self.writers[name].frozen = False

    @rule(name=NAMES)
    def die(self, name: str) -> None:
        if name in self.writers:
            self.gone.append(self.writers.pop(name))

    @rule()
    def compact_the_ledger(self) -> None:
        compact(self.world.store.path("bucket/ledger"), clock=lambda: 6.0)  # type: ignore[arg-type]


TestClaims = Claims.TestCase
TestClaims.settings = settings(max_examples=examples(300), stateful_step_count=50)
