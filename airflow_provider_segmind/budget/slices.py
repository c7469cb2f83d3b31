"""
The slice of a table: one reservation for all of its requests, made larger and smaller while it runs.

A table sends thousands of requests and cannot ask a store before each of them. It reserves what it needs for the next
seconds, and returns what it does not use. The less is left of a budget, the less it takes, down to one request, so
that no task is refused because of budget that another task has reserved but does not use.

The bill of a slice is always what the ledger says that the run has cost, less what it had cost when the slice was
reserved. So a retry that takes over the slice of a killed try, and a task that settles an orphaned one,
come to the same figure.

Decisions are made in the engine's loop: :meth:`TableSlice.admits`, :meth:`TableSlice.plan` and
:meth:`TableSlice.apply`. The other methods block and run in a thread.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_segmind.budget.guard import seconds_until_room
from airflow_provider_segmind.budget.limits import BudgetRule, Window, windows
from airflow_provider_segmind.budget.orphaned_reservations import ROUNDING, conclude
from airflow_provider_segmind.budget.store import BudgetStore, Granted, Refused, Reservation, Usage
from airflow_provider_segmind.enrichment.settings import RunFigures
from airflow_provider_segmind.exceptions import (
    SegmindBudgetError,
    SegmindError,
    SegmindInFlightError,
    SegmindStateError,
)
from airflow_provider_segmind.money import exact_micros, usd

AHEAD = 2.0
"""How far ahead a table reserves, in seconds at its current rate of spending."""
PART_OF_REST = 8
"""A table reserves at most this fraction (1/n) of what is left at a time, or one request if that is more."""
IDLE = 3.0
"""Seconds for which a part of a slice may be unused before it is returned."""
REPORT_INTERVAL = 2.0
"""Seconds between two reports of what was billed, while there is nothing else to send to the store."""
ASK_INTERVAL = 1.0
"""Seconds between two attempts to reserve after one that was refused."""
LEASE = 10.0
"""Seconds after its last renewal for which a slice may be used; a process that was frozen for longer asks again."""
TAKE_OVER_AFTER = LEASE + 5.0
"""Seconds since it was last renewed after which a retry may take over a slice; the clocks of two workers may differ."""
PATIENCE = 3600.0
"""Seconds to wait for what others have reserved; each of their requests has ended within this time."""
DEFER_PATIENCE = 60.0
"""The same for a table that may defer instead, and has no request in flight."""
LOST_PATIENCE = 30.0
"""The same if the run has requests with an unknown outcome, and no others: they are looked up when it ends."""
SLOT_PATIENCE = 60.0
"""Seconds without a slot, and without a request in flight, after which a table that may defer stops."""
SILENCE_PATIENCE = 300.0
"""Seconds for which the store may not answer before the run stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """
    What the store is to do. Amounts are micro-dollars.

    :param billed: to be moved from reserved to spent.
    :param returned: not needed any more.
    :param released: slots that are not needed any more.
    :param close: settle the slice first, because a new window has begun.
    :param least: to reserve; with less not even one request can be sent.
    :param wanted: to reserve if there is so much.
    :param slots: to reserve.
    :param cheapest: the most that the cheapest of the waiting requests may cost.
    :param must_have_slot: whether nothing can be sent without one of the slots.
    :param lost: what the run's own requests with an unknown outcome may cost, if it has no others open; else None.
    :param base: what the run has cost, for a new slice.
    """

    billed: float = 0.0
    returned: int = 0
    released: int = 0
    close: bool = False
    least: int = 0
    wanted: int = 0
    slots: int = 0
    cheapest: int = 0
    must_have_slot: bool = False
    lost: float | None = None
    base: float = 0.0

    @property
    def asks(self) -> bool:
        """Whether there is something to reserve."""
        return bool(self.wanted or self.slots)


SYNC = Order()
"""The order that reads the slice and renews it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderResult:
    """
    The result of an order.

    :param began: monotonic seconds before the store was called.
    :param slice: the open reservation, None if there is none.
    :param windows: those of the slice.
    :param lost: whether somebody else has closed the slice or taken it over.
    :param refused: why not everything was reserved.
    :param final: why the run must stop: the window will not have room for the cheapest request, whatever others return.
    :param ask_again_in: seconds after which others may have returned enough; None if the run has requests in flight, or
        waits for something else.
    :param lost_cost: what the run's own requests with an unknown outcome may cost, if it has no others open.
    :param left: micro-dollars left in the window with the least room, None if unknown.
    :param error: why the store could not be reached; then nothing else is known.
    """

    began: float
    slice: Reservation | None = None
    windows: tuple[Window, ...] = ()
    lost: bool = False
    refused: Refused | None = None
    final: SegmindBudgetError | None = None
    ask_again_in: float | None = None
    lost_cost: float = 0.0
    left: float | None = None
    error: SegmindError | None = None


class SpendingPace:
    """How much of a slice is used per second, smoothed over some seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._last: tuple[float, float] | None = None
        self.a_second = 0.0
        """Micro-dollars."""

    def observe(self, used: float) -> None:
        """Record what is used so far, billed or held, in micro-dollars."""
        now = self._monotonic()
        if self._last is not None:
            seconds = now - self._last[0]
            if seconds < 0.1:
                return
            share = math.exp(-seconds / AHEAD)
            self.a_second = share * self.a_second + (1 - share) * max(0.0, used - self._last[1]) / seconds
        self._last = (now, used)


class TableSlice:
    """
    The slice of one try of a table.

    :param rules: the budgets that apply.
    :param owner: the task instance, as the ledger names its run.
    :param ledger: URI of the ledger.
    :param max_in_flight: paid requests in flight of the Connection, None for any number.
    :param deferrable: whether the task can wait elsewhere for a slot.
    :param defers: whether it can wait elsewhere for what others have reserved.
    :param clock: epoch seconds.
    :param monotonic: by which the slice's lease is timed.
    """

    def __init__(
        self, store: BudgetStore, rules: Sequence[BudgetRule], *,
        owner: str, connection: str, model: str, ledger: str, max_in_flight: int | None, log: Any,
        deferrable: bool = False, defers: bool = False,
        clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._store = store
        self._rules = tuple(rules)
        self._owner, self._connection, self._model, self._ledger = owner, connection, model, ledger
        self._max_in_flight = max_in_flight
        self._deferrable, self._defers = deferrable, defers
        self._without_slot_since: float | None = None
        self._log = log
        self._clock = clock
        self._monotonic = monotonic
        self._slice: Reservation | None = None
        self._windows: tuple[Window, ...] = ()
        self._granted = self._slots = 0
        self._renewed = self._asked = -math.inf
        self._left: float | None = None
        self._typical = 0.0
        self._pace = SpendingPace(monotonic)
        self._spare_since: float | None = None
        self._used_up_since: float | None = None
        self.refused: Refused | None = None
        """The latest refusal, None if there was none since the last grant."""
        self._refused_since = 0.0
        self._silent_since: float | None = None
        self._claimed: list[Reservation] = []
        self.error: SegmindError | None = None
        """Why the run must stop, None while it may go on; a ``SegmindBudgetError`` if a budget is used up."""

    # In the loop.

    def is_usable(self) -> bool:
        """Return whether there is a slice, and its store has confirmed it within the last seconds."""
        return self._slice is not None and self._silent_since is None and self._monotonic() - self._renewed < LEASE

    def admits(self, run: RunFigures, cost: float) -> bool:
        """
        Return whether one more paid request may be sent.

        :param cost: USD it may cost at most.
        """
        self._typical = exact_micros(cost)
        if not self.is_usable() or (self._max_in_flight is not None and run.in_flight >= self._slots):
            return False
        return exact_micros(cost) <= self._room(run) + ROUNDING

    def without_slot(self, run: RunFigures) -> SegmindError | None:
        """Return an error if open requests of earlier tries, with rows not read yet, use every slot."""
        if self._max_in_flight is None or run.unread < max(1, self._max_in_flight):
            return None
        return SegmindInFlightError(
            f"Requests of earlier tries use all slots of max_paid_in_flight ({self._max_in_flight}), and their rows "
            "come later in the source. They are fetched now; a retry continues with the rows before them. If their "
            "rows are no longer in the source, the slots are freed about an hour after the requests were sent."
        )

    def plan(self, run: RunFigures) -> Order | None:
        """Return what the store is to do now, None for nothing."""
        now = self._monotonic()
        self._pace.observe(exact_micros(run.spent + run.held))
        self._note_slots(run, now)
        if self._slice is None:
            return self._asking(run, opening=True) if run.waiting and self._may_ask() else None
        if not self.is_usable():
            return SYNC
        owed = max(0.0, exact_micros(run.spent) - self._slice.base - self._slice.spent)
        changed = self.windows_changed()
        if self._is_used_up(run, now, changed=changed):
            # What a request may cost whose outcome is unknown, or not fetched yet, counts in the window in which it was
            # sent. If it is found later, its bill counts in the new one as well: too much, never too little.
            return replace(self._asking(run, opening=True), close=True, billed=owed + exact_micros(run.held))
        order = self._asking(run) if not changed and self._may_ask() else Order()
        returned, released = self._spare(run, order)
        if not (order.asks or returned or released) and now - self._renewed < REPORT_INTERVAL:
            return None
        # Reduced at once, so that nothing is sent from what is on its way back.
        self._granted -= returned
        self._slots -= released
        return replace(order, billed=owed, returned=returned, released=released)

    def windows_changed(self) -> bool:
        """Return whether the slice counts in earlier windows than those that are open now."""
        return self._slice is not None and windows(self._rules, self._clock()) != self._windows

    def _is_used_up(self, run: RunFigures, now: float, *, changed: bool) -> bool:
        """Return whether a slice of earlier windows is to be replaced."""
        if not (changed and run.waiting) or run.in_flight > run.unread or self.admits(run, min(run.waiting)):
            self._used_up_since = None
            return False
        if not run.unread:
            return True
        # Open requests of earlier tries are waited for as well, unless rows before theirs cannot be set aside.
        self._used_up_since = now if self._used_up_since is None else self._used_up_since
        return now - self._used_up_since >= IDLE

    def apply(self, result: OrderResult) -> None:
        """Process the result of an order."""
        if result.error is not None:
            self._note_silence(result.error)
            return
        self._silent_since = None
        if result.lost:
            self.error = SegmindStateError(
                "The part of the budget that this run had reserved was taken over by another try of the task, or "
                "settled because it had not been renewed for too long. Nothing more is sent; a retry continues."
            )
        grew = result.slice is not None and (
            self._slice is None or (result.slice.amount, result.slice.slots) > (self._granted, self._slots)
        )
        self._slice, self._windows, self._renewed = result.slice, result.windows, result.began
        self._granted, self._slots = (0, 0) if result.slice is None else (result.slice.amount, result.slice.slots)
        if result.left is not None:
            self._left = result.left
        self._note_refusal(result, grew=grew)

    def _room(self, run: RunFigures) -> float:
        return 0.0 if self._slice is None else self._slice.base + self._granted - exact_micros(run.spent + run.held)

    def _may_ask(self) -> bool:
        return self.refused is None or self._monotonic() - self._asked >= ASK_INTERVAL

    def _asking(self, run: RunFigures, *, opening: bool = False) -> Order:
        """Return what to reserve for the requests that wait, and for those of the next seconds."""
        # A new slice must have room for what earlier tries have open, too.
        room, slots = (-exact_micros(run.held), 0) if opening else (self._room(run), self._slots)
        waiting = [exact_micros(cost) for cost in run.waiting]
        least = max(0, math.ceil(min(waiting) - room - ROUNDING)) if waiting else 0
        wanted = max(0, math.ceil(sum(waiting) - room - ROUNDING))
        if self._left is not None:
            wanted = max(least, min(wanted, math.floor(self._left / PART_OF_REST)))
            ahead = min(AHEAD * self._pace.a_second, self._left / PART_OF_REST)
            if not least and room < ahead / 2 and ahead - room > self._typical:
                wanted = max(wanted, math.ceil(ahead - room))
        missing = 0
        if self._max_in_flight is not None:
            missing = max(0, min(run.in_flight + len(waiting), self._max_in_flight) - slots)
        if least or missing:
            self._asked = self._monotonic()
        return Order(
            least=least, wanted=wanted, slots=missing, must_have_slot=missing > 0 and run.in_flight >= slots,
            cheapest=math.ceil(min(waiting)) if waiting else 0, base=exact_micros(run.spent),
            lost=None if run.in_flight > run.unread else exact_micros(run.held),
        )  # fmt: skip

    def _spare(self, run: RunFigures, order: Order) -> tuple[int, int]:
        """Return what is not needed: micro-dollars and slots."""
        room, now = self._room(run), self._monotonic()
        idle = 0 if self._max_in_flight is None else max(0, self._slots - run.in_flight - len(run.waiting))
        if self.refused is not None and run.waiting and not order.asks:
            return self._unusable(run)
        needed = max(AHEAD * self._pace.a_second, exact_micros(sum(run.waiting)))
        spare = max(0, math.floor(room - needed))
        if order.asks or not (spare or idle):
            self._spare_since = None
            return 0, 0
        self._spare_since = now if self._spare_since is None else self._spare_since
        return (spare, idle) if now - self._spare_since >= IDLE else (0, 0)

    def _unusable(self, run: RunFigures) -> tuple[int, int]:
        """Return what is reserved but unusable because the rest is missing; other tasks may be waiting for it."""
        room = max(0, math.floor(self._room(run)))
        if self.refused is not None and self.refused.window is None:
            return (0 if self._slots else room), 0
        if room >= exact_micros(min(run.waiting)):
            return 0, 0
        return room, max(0, self._slots - run.in_flight) if self._max_in_flight is not None else 0

    def _note_slots(self, run: RunFigures, now: float) -> None:
        if self.refused is None or self.refused.window is not None or run.in_flight or not run.waiting:
            self._without_slot_since = None
            return
        if self._without_slot_since is None:
            self._without_slot_since = now
        if self._deferrable and self.error is None and now - self._without_slot_since >= SLOT_PATIENCE:
            self.error = SegmindInFlightError(
                f"As many paid requests of connection {self._connection!r} are in flight as max_paid_in_flight allows "
                f"({self._max_in_flight})."
            )

    def _note_refusal(self, result: OrderResult, *, grew: bool) -> None:
        refused, now = result.refused, self._monotonic()
        if refused is None or grew:
            self.refused = None
            return
        if self.refused is None:
            self._refused_since = now
        self.refused = refused
        waited = now - self._refused_since
        if result.final is not None:
            self.error = result.final
        elif refused.window is None:
            return
        elif result.lost_cost and waited >= LOST_PATIENCE:
            self.error = used_up(refused.window, refused.left, refused.needed, result.lost_cost)
        elif result.ask_again_in is not None and waited >= (DEFER_PATIENCE if self._defers else PATIENCE):
            self.error = SegmindBudgetError(
                f"{_too_little_left(refused.window, refused.left, refused.needed)}; the rest is spent or reserved for "
                "other requests that are not billed yet.",
                resets_at=refused.window.resets_at,
                ask_again_in=result.ask_again_in,
            )
        elif waited >= PATIENCE:
            self.error = used_up(refused.window, refused.left, refused.needed, 0.0)

    def _note_silence(self, error: SegmindError) -> None:
        now = self._monotonic()
        if self._silent_since is None:
            self._silent_since = now
            self._log.warning("%s No row is sent until the budget store responds", error)
        if not error.retryable or now - self._silent_since >= SILENCE_PATIENCE:
            self.error = error

    # In a thread.

    def describe(self) -> Iterator[str]:
        """
        Yield what is left of each budget, for the log.

        :raises SegmindStateError: the store did not answer.
        """
        open_now = windows(self._rules, self._clock())
        used = self._store.usage([window.key for window in open_now])
        for window in open_now:
            have = used.get(window.key, Usage())
            left = max(0.0, window.limit - have.spent - have.reserved)
            yield f"{usd(left)} of {usd(window.limit)} left for {window.title}"
        if self._max_in_flight is not None:
            yield f"max_paid_in_flight {self._max_in_flight:,}"

    def claim_earlier(self) -> float:
        """
        Claim the slices of earlier tries, which then cannot use them; return the seconds after which that is certain.

        Called once, before the ledger is read: it then has everything that was billed to those tries.

        :raises SegmindStateError: the store did not answer.
        """
        latest = -math.inf
        for one in self._own_slices():
            name = uuid.uuid4().hex
            if self._store.take_over(one.id, name):
                self._claimed.append(replace(one, id=name))
                latest = max(latest, one.renewed_at)
        # Not longer, however far the clock of an earlier worker was ahead: those tries cannot renew their slices now.
        return min(TAKE_OVER_AFTER, max(0.0, latest + TAKE_OVER_AFTER - self._clock()))

    def take_over(self, run: RunFigures) -> None:
        """
        Continue with what earlier tries had reserved; called once, before anything is sent.

        What the ledger says was billed since is spent, and what no open request needs is returned later.

        :raises SegmindStateError: the store did not answer.
        """
        if not self._claimed:
            return
        began, now = self._monotonic(), self._clock()
        owed = (
            exact_micros(run.spent) - min(one.base for one in self._claimed) - sum(one.spent for one in self._claimed)
        )
        *others, latest = self._claimed
        for one in others:
            part = max(0.0, min(owed, one.left))
            self._store.settle(one.id, part)
            owed -= part
        owed = max(0.0, owed)
        if not self._store.spend(latest.id, owed, now=now):
            return
        # It may have spent more than is in the ledger by now: what was not durable yet is fetched, and billed, again.
        taken = replace(latest, spent=latest.spent + owed, base=min(one.base for one in self._claimed))
        open_now = windows(self._rules, now)
        keys = tuple(window.key for window in open_now)
        self.apply(OrderResult(began=began, slice=taken, windows=open_now if keys == latest.windows else ()))

    def execute_order(self, order: Order) -> OrderResult:
        """Carry out an order; errors of the store are part of the result."""
        began, current = self._monotonic(), self._slice
        try:
            if not self.is_usable() and current is not None:
                return self._read_again(current, began)
            return self._execute(order, current, began)
        except SegmindError as error:
            return OrderResult(began=began, error=error)

    def _read_again(self, current: Reservation, began: float) -> OrderResult:
        now = self._clock()
        found = next((one for one in self._store.open_reservations(owner=self._owner) if one.id == current.id), None)
        if found is None or not self._store.spend(found.id, 0.0, now=now):
            return OrderResult(began=began, lost=True)
        return OrderResult(began=began, slice=replace(found, base=current.base, renewed_at=now), windows=self._windows)

    def _execute(self, order: Order, current: Reservation | None, began: float) -> OrderResult:
        if current is not None and order.close:
            if not self._store.settle(current.id, order.billed):
                return OrderResult(began=began, lost=True)
            current = None
        if current is not None:
            current = self._report(order, current)
            if current is None:
                return OrderResult(began=began, lost=True)
        if not order.asks:
            return OrderResult(began=began, slice=current, windows=self._windows)
        return self._reserve(order, current, began)

    def _report(self, order: Order, current: Reservation) -> Reservation | None:
        now = self._clock()
        is_open = self._store.spend(
            current.id, order.billed, returned=order.returned, release_slots=order.released, now=now
        )
        return None if not is_open else replace(
            current, spent=current.spent + order.billed, amount=current.amount - order.returned,
            slots=current.slots - order.released, renewed_at=now,
        )  # fmt: skip

    def _reserve(self, order: Order, current: Reservation | None, began: float) -> OrderResult:
        """Reserve what is wanted, or as much of it as there is."""
        open_now = windows(self._rules, self._clock()) if current is None else self._windows
        amount, slots, refused = order.wanted, order.slots, None
        for _ in range(3):
            outcome, grown = self._try(order, current, open_now, amount, slots)
            if outcome is None:
                return OrderResult(began=began, lost=True)
            if isinstance(outcome, Granted):
                left = outcome.left if math.isfinite(outcome.left) else None
                return OrderResult(began=began, slice=grown, windows=open_now, left=left)
            refused = outcome
            if outcome.window is None:
                slots = max(0, min(slots - 1, math.floor(outcome.left)))
                if not slots and (order.must_have_slot or not order.least):
                    break
            elif amount > order.least and outcome.left >= order.least:
                amount = max(order.least, math.floor(outcome.left / PART_OF_REST))
            else:
                break
        final, again = self._prospect(order, refused)
        return OrderResult(
            began=began, slice=current, windows=open_now, refused=refused, final=final, ask_again_in=again,
            lost_cost=order.lost or 0.0,
            left=None if refused is None or refused.window is None else refused.left,
        )  # fmt: skip

    def _try(
        self, order: Order, current: Reservation | None, open_now: tuple[Window, ...], amount: int, slots: int
    ) -> tuple[Granted | Refused | None, Reservation | None]:
        limit = self._max_in_flight
        if current is not None:
            outcome = self._store.extend(current.id, amount, open_now, slots=slots, max_in_flight=limit)
            grown = replace(current, amount=current.amount + amount, slots=current.slots + slots)
            return outcome, grown if isinstance(outcome, Granted) else None
        now = self._clock()
        new = Reservation(
            id=uuid.uuid4().hex, owner=self._owner, kind="slice", amount=amount, slots=slots, base=order.base,
            windows=tuple(window.key for window in open_now), connection=self._connection, model=self._model,
            ledger=self._ledger, reserved_at=now, renewed_at=now,
        )  # fmt: skip
        outcome = self._store.reserve(new, open_now, max_in_flight=limit)
        return outcome, new if isinstance(outcome, Granted) else None

    def _prospect(self, order: Order, refused: Refused | None) -> tuple[SegmindBudgetError | None, float | None]:
        """
        Return why the run must stop, if neither its own requests nor those of others can return enough, and otherwise
        after how many seconds others may have returned it.

        Neither while the run has requests in flight, or only a slot is missing.
        """
        if refused is None or (window := refused.window) is None or not order.least or order.lost is None:
            return None, None
        again = seconds_until_room(self._store, window, order.cheapest + order.lost, self._clock())
        if again is not None:
            return None, again
        return used_up(window, refused.left, order.cheapest, order.lost), None

    def close(self, run: RunFigures) -> None:
        """
        Return what no open request needs; called once, when nothing more is sent.

        :raises SegmindStateError: the store did not answer; what is reserved stays so until a retry, or somebody
            else, settles it from the ledger.
        """
        if self._slice is None:
            return
        found = next((one for one in self._own_slices() if self._slice is not None and one.id == self._slice.id), None)
        if found is not None:
            found = replace(found, base=self._slice.base)
            # Nothing uses it any more, so the next try need not wait.
            ended = self._clock() - TAKE_OVER_AFTER
            conclude(self._store, found, exact_micros(run.spent), exact_micros(run.held), run.in_flight, ended)
        self._slice = None

    def _own_slices(self) -> list[Reservation]:
        return [one for one in self._store.open_reservations(owner=self._owner) if one.kind == "slice"]


def used_up(window: Window, left: float, needed: float, lost: float) -> SegmindBudgetError:
    """
    Return the error of a table for whose next request a window has no room.

    :param lost: micro-dollars reserved for requests whose outcome is unknown.
    """
    message = _too_little_left(window, left, needed)
    if lost > ROUNDING:
        message += f", and {usd(lost)} is reserved for requests whose outcome is unknown; a retry looks them up"
    error = SegmindBudgetError(f"{message}.", resets_at=window.resets_at)
    error.retryable = lost > ROUNDING
    return error


def _too_little_left(window: Window, left: float, needed: float) -> str:
    title = window.title[0].upper() + window.title[1:]
    return (
        f"{title} cannot cover another request of up to {usd(needed)}: {usd(max(0.0, left))} of "
        f"{usd(window.limit)} is left"
    )
