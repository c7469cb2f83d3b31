"""
What a store of budgets does: it counts what is spent, reserved and in flight, for all tasks together.

Amounts are micro-dollars. What is reserved are whole ones, rounded up. Segmind bills fractions of a micro-dollar; a
store keeps six decimals of them and adds them up exactly.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from airflow_provider_segmind.budget.limits import MOST_DOLLARS, WARN_AT, Window

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """
    The most that a request, or a slice of a table, may cost, until its bill is known.

    :param id: made by the reserver; unique.
    :param owner: the task instance, ``dag_id/run_id/task_id/map_index``.
    :param amount: its upper bound in micro-dollars.
    :param windows: keys of the windows it counts in, sorted: those of the moment at which it was reserved.
    :param slots: the number of paid requests in flight that it covers.
    :param connection: id of the Connection.
    :param digest: of a request's body, see ``json_digest``; never the body.
    :param request_id: Segmind's id of a request, empty until it was accepted.
    :param sending: whether the request may have been sent.
    :param ledger: URI of the ledger of a slice.
    :param reserved_at: epoch seconds; those of :meth:`BudgetStore.sending` once the request may have been sent.
    :param renewed_at: epoch seconds at which its owner, or a task that looked for its bill, last renewed it.
    :param spent: micro-dollars that were billed and moved out of it so far.
    :param base: micro-dollars that the run of a slice had cost before, as its ledger says.
    """

    id: str
    owner: str
    kind: Literal["request", "slice"]
    amount: int
    windows: tuple[str, ...]
    slots: int = 0
    connection: str
    model: str
    digest: str = ""
    request_id: str = ""
    sending: bool = False
    ledger: str = ""
    reserved_at: float
    renewed_at: float
    spent: float = 0.0
    base: float = 0.0

    @property
    def left(self) -> float:
        """What is still reserved, in micro-dollars."""
        return max(0.0, self.amount - self.spent)


@dataclass(frozen=True, slots=True)
class Granted:
    """
    The amount is reserved.

    :param left: micro-dollars left in the window with the least room.
    """

    left: float = field(default=math.inf, compare=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """
    Nothing was reserved.

    :param window: the one without room, None if ``max_paid_in_flight`` is reached.
    :param left: micro-dollars left in it, or slots.
    :param needed: micro-dollars, or slots.
    """

    window: Window | None
    left: float
    needed: int


ReserveOutcome: TypeAlias = Granted | Refused


@dataclass(frozen=True, slots=True)
class Usage:
    """
    How much of a window is used, in micro-dollars.

    :param spent: billed.
    :param reserved: the most that open reservations may still cost.
    """

    spent: float = 0.0
    reserved: float = 0.0


@dataclass(frozen=True, slots=True)
class ReservedInWindow:
    """
    What is reserved in a window and may be returned.

    :param old: micro-dollars that are reserved for requests since before a time.
    :param latest: epoch seconds at which something was reserved last, None if nothing is.
    """

    old: float = 0.0
    latest: float | None = None


class BudgetStore(Protocol):
    """
    Counters and open reservations. Each method is one transaction, or one script, and durable on return.

    A counter knows the limit with which something was last reserved. The method that first finds
    :data:`~airflow_provider_segmind.budget.limits.WARN_AT` of it spent warns: the one that counts the bill that reaches
    it, whichever task that is, or the first that reserves or refuses under a limit that was lowered. So there is one
    warning for each window over all tasks, or none if the task dies at that moment or the store's response is lost.

    All of them block.

    :raises SegmindStateError: from every method: the store did not respond; nothing is known to have changed.
    """

    name: str
    """Where the store is, for messages."""

    def reserve(
        self, reservation: Reservation, windows: Sequence[Window], *, max_in_flight: int | None
    ) -> ReserveOutcome:
        """
        Reserve an amount in all windows and its slots, or nothing.

        Repeating it for the same id reserves once.

        :param max_in_flight: slots of the Connection, None for any number.
        """

    def sending(self, reservation_id: str, now: float) -> bool:
        """
        Record that the request may be sent from now on.

        :param now: epoch seconds, from which it is looked for in the history: a retry may send what was reserved long
            before.
        :returns: whether the reservation was open and this had not been recorded before: of two tries that have the
            same reservation, one may send.
        """

    def accepted(self, reservation_id: str, request_id: str) -> bool:
        """
        Record the id that Segmind gave to a request, even if its reservation has been closed.

        :returns: whether its bill is to be settled here. If not, it is counted for another reservation of the same
            windows, which an equal request left behind, and which was looked up in the history first.
        """

    def known(self, request_ids: Iterable[str]) -> set[str]:
        """Return which of these requests have a known reservation, open or closed."""

    def forget(self, before: float) -> None:
        """
        Forget the ids of requests that were recorded before a time.

        :param before: epoch seconds.
        """

    def extend(
        self, reservation_id: str, amount: int, windows: Sequence[Window], *, slots: int = 0, max_in_flight: int | None
    ) -> ReserveOutcome | None:
        """
        Reserve more for an open reservation, or nothing; None if it is not open.

        :param windows: those that it counts in.
        """

    def take_over(self, reservation_id: str, new_id: str) -> bool:
        """
        Continue an open reservation under another id, so that a worker which wakes late cannot use it any more.

        :returns: whether it was open.
        """

    def spend(
        self, reservation_id: str, billed: float, *, returned: int = 0, release_slots: int = 0, now: float | None = None
    ) -> bool:
        """
        Move a bill from reserved to spent; the rest stays reserved.

        A bill above the rest is counted in full.

        :param returned: micro-dollars of the rest that are not needed any more.
        :param now: epoch seconds, to renew it as well.
        :returns: whether the reservation was open; nothing was changed otherwise.
        """

    def settle(self, reservation_id: str, billed: float) -> bool:
        """
        Close a reservation: what was billed is spent, the rest and the slots are returned.

        :param billed: micro-dollars since the last :meth:`spend`.
        :returns: whether it was open; nothing was changed otherwise.
        """

    def release_slots(self, reservation_id: str) -> bool:
        """Return the slots of a reservation and keep its amount; return whether it had any."""

    def claim(self, reservation: Reservation, now: float) -> bool:
        """Renew a reservation unless another process renewed it since it was read; return whether it was renewed."""

    def find(self, request_id: str) -> Reservation | None:
        """Return the open reservation of a request, None if there is none."""

    def open_reservations(
        self, *, owner: str | None = None, connection: str | None = None, renewed_before: float | None = None
    ) -> list[Reservation]:
        """Return open reservations, the oldest first."""

    def reserved_in(self, key: str, before: float) -> ReservedInWindow:
        """
        Return what is reserved in a window; one call, which returns no reservations.

        :param before: epoch seconds.
        """

    def usage(self, keys: Iterable[str]) -> dict[str, Usage]:
        """Return what is used of each window; nothing if it is not known to the store."""

    def in_flight(self, connection: str) -> int:
        """Return the number of paid requests in flight of a Connection that have a slot."""

    def close(self) -> None:
        """Close the connection of this thread, if there is one; the store may be used again."""


def flight_key(connection: str) -> str:
    """Return the key of the counter of a Connection's requests in flight."""
    return f"in-flight:{connection}"


def log_warning(text: str) -> None:
    """Warn in the log of the task."""
    _log.warning("%s", text)


def warn_from(limit: int) -> int:
    """
    Return how much must be spent in a window for a warning; 0 if its limit is 0.

    :param limit: in the unit of the stores, as is the returned value.
    """
    return int(WARN_AT * limit)


PARTS = 1_000_000
"""Parts of a micro-dollar that the stores count, in whole numbers: trillionths of a dollar."""


MOST_COUNTED = MOST_DOLLARS * 1_000_000
"""
The highest amount that is counted, in micro-dollars: enough to use up any limit; the sum of several fits into 64 bits.
"""


def in_parts(micros: float) -> int:
    """Return micro-dollars as the stores count them, rounded to six decimals, :data:`MOST_COUNTED` at most."""
    micros = min(micros, MOST_COUNTED)
    whole = math.floor(micros)
    # Only the fraction is multiplied, so that nothing is lost of a large amount.
    return whole * PARTS + round((micros - whole) * PARTS)


def from_parts(parts: int) -> float:
    """Return micro-dollars with six decimals."""
    return parts / PARTS
