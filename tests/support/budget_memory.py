"""A store of budgets in memory, for simulations: thousands of steps in a second."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

from airflow_provider_segmind.budget.limits import Window, spent_warning
from airflow_provider_segmind.budget.store import (
    Granted,
    Refused,
    Reservation,
    ReservedInWindow,
    ReserveOutcome,
    Usage,
    flight_key,
    from_parts,
    in_parts,
    warn_from,
)
from airflow_provider_segmind.exceptions import SegmindStateError


def _step(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def locked(self: MemoryStore, *args: Any, **options: Any) -> Any:
        with self.lock:
            self.steps += 1
            self.before(method.__name__)
            result = method(self, *args, **options)
            self.after(method.__name__)
            return result

    return locked


class MemoryStore:
    """
    Counts in whole parts of a micro-dollar, as the real stores do.

    :ivar before: called with the name of each step before it is done.
    :ivar after: called when it is done; what it raises is an answer that got lost.
    :ivar warnings: what it has warned of.
    """

    name = "memory"

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.steps = 0
        self.spent: Counter[str] = Counter()
        self.reserved: Counter[str] = Counter()
        self.rows: dict[str, Reservation] = {}
        self.parts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        """Amount and bills of each reservation."""
        self.before: Callable[[str], None] = lambda _: None
        self.after: Callable[[str], None] = lambda _: None
        self.limits: dict[str, int] = {}
        self.warnings: list[str] = []
        self._warned: set[str] = set()

    def silent(self, *names: str) -> None:
        """Answer none of some steps, or no step at all."""

        def refuse(name: str) -> None:
            if not names or name in names:
                raise SegmindStateError("The store of budgets (memory) cannot be used: it is silent.")

        self.before = refuse

    def answering(self) -> None:
        """Answer again."""
        self.before = self.after = lambda _: None

    @_step
    def reserve(
        self, reservation: Reservation, windows: Sequence[Window], *, max_in_flight: int | None
    ) -> ReserveOutcome:
        if reservation.id in self.rows:
            return Granted()
        outcome = self._take(reservation.amount, reservation.slots, reservation.connection, windows, max_in_flight)
        if isinstance(outcome, Granted):
            self.rows[reservation.id] = reservation
            self.parts[reservation.id] = [in_parts(reservation.amount), 0]
        return outcome

    @_step
    def extend(
        self, reservation_id: str, amount: int, windows: Sequence[Window], *, slots: int = 0, max_in_flight: int | None
    ) -> ReserveOutcome | None:
        row = self.rows.get(reservation_id)
        if row is None:
            return None
        assert row.windows == tuple(window.key for window in windows)
        outcome = self._take(amount, slots, row.connection, windows, max_in_flight)
        if isinstance(outcome, Granted):
            self.parts[row.id][0] += in_parts(amount)
            self.rows[row.id] = replace(row, amount=row.amount + amount, slots=row.slots + slots)
        return outcome

    def _take(
        self, amount: int, slots: int, connection: str, windows: Sequence[Window], max_in_flight: int | None
    ) -> ReserveOutcome:
        for one in windows:
            self.limits[one.key] = in_parts(one.limit)
            self._warn_once(one.key)
        room = {one.key: in_parts(one.limit) - self.spent[one.key] - self.reserved[one.key] for one in windows}
        for one in windows:
            if room[one.key] < in_parts(amount):
                return Refused(one, from_parts(max(0, room[one.key])), amount)
        flight = flight_key(connection)
        if slots and max_in_flight is not None and self.reserved[flight] + slots > max_in_flight:
            return Refused(None, max(0, max_in_flight - self.reserved[flight]), slots)
        self.reserved[flight] += slots
        for one in windows:
            self.reserved[one.key] += in_parts(amount)
        return Granted(from_parts(min(room.values(), default=0) - in_parts(amount)))

    def _warn_once(self, key: str) -> None:
        limit = self.limits[key]
        if limit and key not in self._warned and self.spent[key] >= warn_from(limit):
            self._warned.add(key)
            self.warnings.append(spent_warning(key, from_parts(limit)))

    def sending(self, reservation_id: str, now: float) -> bool:
        row = self.rows.get(reservation_id)
        if row is None or row.sending:
            return False
        self.rows[row.id] = replace(row, sending=True, reserved_at=now, renewed_at=now)
        return True

    def accepted(self, reservation_id: str, request_id: str) -> bool:
        if reservation_id in self.rows:
            self.rows[reservation_id] = replace(self.rows[reservation_id], request_id=request_id, sending=True)
        return True

    @_step
    def take_over(self, reservation_id: str, new_id: str) -> bool:
        row = self.rows.pop(reservation_id, None)
        if row is None:
            return False
        self.rows[new_id] = replace(row, id=new_id)
        self.parts[new_id] = self.parts.pop(reservation_id)
        return True

    @_step
    def spend(
        self, reservation_id: str, billed: float, *, returned: int = 0, release_slots: int = 0, now: float | None = None
    ) -> bool:
        row = self.rows.get(reservation_id)
        if row is None:
            return False
        amount, spent = self.parts[row.id]
        self._move(row, billed=in_parts(billed), freed=min(in_parts(billed), max(0, amount - spent)))
        spent += in_parts(billed)
        back = min(in_parts(returned), max(0, amount - spent))
        self._move(row, billed=0, freed=back)
        slots = min(release_slots, row.slots)
        self.reserved[flight_key(row.connection)] -= slots
        self.parts[row.id] = [amount - back, spent]
        self.rows[row.id] = replace(
            row, amount=int(from_parts(amount - back)), spent=from_parts(spent), slots=row.slots - slots,
            renewed_at=row.renewed_at if now is None else now,
        )  # fmt: skip
        return True

    @_step
    def settle(self, reservation_id: str, billed: float) -> bool:
        row = self.rows.pop(reservation_id, None)
        if row is None:
            return False
        amount, spent = self.parts.pop(row.id)
        self._move(row, billed=in_parts(billed), freed=max(0, amount - spent))
        self.reserved[flight_key(row.connection)] -= row.slots
        return True

    def _move(self, row: Reservation, *, billed: int, freed: int) -> None:
        for key in row.windows:
            self.spent[key] += billed
            self.reserved[key] -= freed
            self._warn_once(key)

    def release_slots(self, reservation_id: str) -> bool:
        row = self.rows.get(reservation_id)
        if row is None or not row.slots:
            return False
        self.reserved[flight_key(row.connection)] -= row.slots
        self.rows[reservation_id] = replace(row, slots=0)
        return True

    def claim(self, reservation: Reservation, now: float) -> bool:
        row = self.rows.get(reservation.id)
        if row is None or row.renewed_at != reservation.renewed_at:
            return False
        self.rows[row.id] = replace(row, renewed_at=now)
        return True

    def renew(self, reservation_ids: Iterable[str], now: float) -> None:
        for name in reservation_ids:
            if name in self.rows:
                self.rows[name] = replace(self.rows[name], renewed_at=now)

    def find(self, request_id: str) -> Reservation | None:
        return next((row for row in self.rows.values() if row.request_id == request_id), None)

    @_step
    def open_reservations(
        self, *, owner: str | None = None, connection: str | None = None, renewed_before: float | None = None
    ) -> list[Reservation]:
        return [
            row
            for row in self.rows.values()
            if owner in (None, row.owner)
            and connection in (None, row.connection)
            and (renewed_before is None or row.renewed_at < renewed_before)
        ]

    def reserved_in(self, key: str, before: float) -> ReservedInWindow:
        found = [row for row in self.rows.values() if key in row.windows]
        old = sum(row.left for row in found if row.kind != "slice" and row.reserved_at < before)
        return ReservedInWindow(old, max((row.reserved_at for row in found), default=None))

    @_step
    def usage(self, keys: Iterable[str]) -> dict[str, Usage]:
        return {
            key: Usage(from_parts(self.spent[key]), from_parts(self.reserved[key]))
            for key in keys
            if key in self.spent or key in self.reserved
        }

    def in_flight(self, connection: str) -> int:
        return self.reserved[flight_key(connection)]

    def close(self) -> None: ...
