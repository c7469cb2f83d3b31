"""
Budgets in a database that Airflow has a DB-API hook for: PostgreSQL, SQLite, MariaDB or MySQL.

A counter is one row. ``UPDATE … WHERE spent + reserved + x <= limit`` either changes it or does not, whatever other
transactions do at the same time: the database re-evaluates the condition once it has locked the row. (Inserting a
reservation only if the sum of the others allows it would be a race condition under READ COMMITTED.) Transactions lock a
reservation before counters, and counters in the order of their keys, so that they cannot deadlock.
"""

from __future__ import annotations

import json
import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

from airflow_provider_segmind.budget.limits import WARN_AT, Window, spent_warning
from airflow_provider_segmind.budget.store import (
    PARTS,
    Granted,
    Refused,
    Reservation,
    ReservedInWindow,
    ReserveOutcome,
    Usage,
    flight_key,
    from_parts,
    in_parts,
    log_warning,
    warn_from,
)
from airflow_provider_segmind.enrichment.sql.dialects import (
    FIRST_PAUSE,
    MOST_TRIES,
    described,
    is_about_connection,
    is_missing_table,
)
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindStateError

COUNTERS = "segmind_budget_counters"
RESERVATIONS = "segmind_budget_reservations"
REQUESTS = "segmind_budget_requests"
_COUNTER_COLUMNS = {
    "window_key": "{text}(300) NOT NULL PRIMARY KEY",
    "spent": "BIGINT NOT NULL",
    "reserved": "BIGINT NOT NULL",
    "window_limit": "BIGINT NOT NULL",
    "warned": "SMALLINT NOT NULL",
    "revision": "BIGINT NOT NULL",
}
_RESERVATION_COLUMNS = {
    "id": "{text}(64) NOT NULL PRIMARY KEY",
    "owner": "{text}(1000) NOT NULL",
    "kind": "{text}(20) NOT NULL",
    "amount": "BIGINT NOT NULL",
    "windows": "{text}(4000) NOT NULL",
    "slots": "INTEGER NOT NULL",
    **dict.fromkeys(("connection", "model", "digest", "request_id"), "{text}(255) NOT NULL"),
    "sending": "SMALLINT NOT NULL",
    "ledger": "{text}(2000) NOT NULL",
    **dict.fromkeys(("reserved_at", "renewed_at", "spent", "base", "revision"), "BIGINT NOT NULL"),
}
_REQUEST_COLUMNS = {
    "request_id": "{text}(255) NOT NULL PRIMARY KEY",
    "reservation": "{text}(64) NOT NULL",
    "windows": "{text}(4000) NOT NULL",
    "noted_at": "BIGINT NOT NULL",
}
_TABLES = {COUNTERS: _COUNTER_COLUMNS, RESERVATIONS: _RESERVATION_COLUMNS, REQUESTS: _REQUEST_COLUMNS}
_NAMES = ", ".join(_RESERVATION_COLUMNS)
_BEGIN: Mapping[str, tuple[tuple[str, ...], str | None]] = {
    "postgres": ((), None),
    # A transaction that begins by reading could not go on to write once another one has written.
    "sqlite": (("PRAGMA busy_timeout = 30000",), "BEGIN IMMEDIATE"),
    # InnoDB's default reads what was committed before the transaction, but changes what is committed now.
    "mysql": (("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",), None),
}
"""
By Connection type: the statements for a new connection, and the one that begins a transaction if its driver does not.
"""
_PLACE_OF_KEY = {"postgres": "strpos(windows, ?)", "sqlite": "instr(windows, ?)", "mysql": "INSTR(windows, ?)"}
"""By Connection type: the position of a key in the windows of a reservation, 0 if it is not there."""
_MYSQL_TEXT = "VARCHAR({}) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_Result = TypeVar("_Result")


class _Counter(NamedTuple):
    spent: int
    reserved: int
    limit: int
    warned: int


class _UndoError(Exception):
    """Roll the transaction back and return a result."""

    def __init__(self, result: ReserveOutcome) -> None:
        self.result = result


class _CounterMissingError(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


class SqlBudgetStore:
    """
    Budgets in three tables, which are created when they are first needed.

    May be used by several threads, each of which has its own connection.

    :param hook: of the database; its placeholders are positional.
    :param conn_id: id of its Connection, for messages.
    :param warn: called with a warning.
    :raises SegmindConfigError: budgets cannot be kept in a database of that kind.
    """

    def __init__(
        self, hook: Any, conn_id: str, *,
        warn: Callable[[str], None] = log_warning, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        if hook.conn_type not in _BEGIN:
            raise SegmindConfigError(
                f"Budgets cannot be kept in connection {conn_id!r} of type {hook.conn_type!r}: they need PostgreSQL, "
                "MariaDB or MySQL, SQLite, or Redis. Nothing was sent."
            )
        self.name = f"the tables {COUNTERS} and {RESERVATIONS} of connection {conn_id!r}"
        self._hook = hook
        self._kind: str = hook.conn_type
        self._marker: str = hook.placeholder
        self._warn = warn
        self._sleep = sleep
        self._thread = threading.local()

    def reserve(
        self, reservation: Reservation, windows: Sequence[Window], *, max_in_flight: int | None
    ) -> ReserveOutcome:
        """Reserve an amount in all windows and its slots, or nothing."""
        while True:
            try:
                return self._transaction(partial(self._reserve, reservation, windows, max_in_flight))
            except _UndoError as undo:
                return self._refused(undo.result, windows)
            except _CounterMissingError as missing:
                self._transaction(partial(self._add_counter, missing.key))

    def _reserve(
        self, reservation: Reservation, windows: Sequence[Window], max_in_flight: int | None, cursor: Any
    ) -> ReserveOutcome:
        slots = {flight_key(reservation.connection): reservation.slots} if reservation.slots else {}
        refused = self._take_all(cursor, reservation.amount, windows, slots, max_in_flight)
        if refused is not None:
            raise _UndoError(refused if self._read(cursor, reservation.id) is None else Granted())
        granted = self._granted(cursor, windows)
        if not self._insert(cursor, reservation):
            raise _UndoError(Granted())
        return granted

    def extend(
        self, reservation_id: str, amount: int, windows: Sequence[Window], *, slots: int = 0, max_in_flight: int | None
    ) -> ReserveOutcome | None:
        """Reserve more for an open reservation, or nothing; None if it is not open."""
        while True:
            try:
                return self._transaction(
                    partial(self._extend, reservation_id, amount, windows, slots, max_in_flight), repeatable=False
                )
            except _UndoError as undo:
                return self._refused(undo.result, windows)
            except _CounterMissingError as missing:
                self._transaction(partial(self._add_counter, missing.key))

    def _extend(
        self, reservation_id: str, amount: int, windows: Sequence[Window], slots: int, limit: int | None, cursor: Any
    ) -> ReserveOutcome | None:
        row = self._locked(cursor, reservation_id)
        if row is None:
            return None
        wanted = {flight_key(row["connection"]): slots} if slots else {}
        refused = self._take_all(cursor, amount, windows, wanted, limit)
        if refused is not None:
            raise _UndoError(refused)
        statement = f"UPDATE {RESERVATIONS} SET amount = amount + ?, slots = slots + ? WHERE id = ?"
        self._execute(cursor, statement, [in_parts(amount), slots, reservation_id])
        return self._granted(cursor, windows)

    def _take_all(
        self, cursor: Any, amount: int, windows: Sequence[Window], slots: Mapping[str, int], max_in_flight: int | None
    ) -> Refused | None:
        """Reserve in all counters, in the order of their keys; the first that has no room is returned."""
        wanted: dict[str, tuple[Window | None, int, int | None]] = {
            window.key: (window, in_parts(amount), in_parts(window.limit)) for window in windows
        }
        wanted |= {key: (None, count, max_in_flight) for key, count in slots.items()}
        for key in sorted(wanted):
            window, needed, limit = wanted[key]
            if not self._take(cursor, key, needed, limit):
                counter = self._counters(cursor, [key]).get(key)
                if counter is None:
                    raise _CounterMissingError(key)
                left = max(0, (limit or 0) - counter.spent - counter.reserved)
                return Refused(None, left, needed) if window is None else Refused(window, from_parts(left), amount)
        return None

    def _take(self, cursor: Any, key: str, needed: int, limit: int | None) -> bool:
        room = "" if limit is None else " AND spent + reserved + ? <= ?"
        values = [needed, limit or 0, key, *([] if limit is None else [needed, limit])]
        statement = (
            f"UPDATE {COUNTERS} SET reserved = reserved + ?, window_limit = ?, revision = revision + 1 "
            f"WHERE window_key = ?{room}"
        )
        return self._execute(cursor, statement, values) == 1

    def _refused(self, outcome: ReserveOutcome, windows: Sequence[Window]) -> ReserveOutcome:
        """
        Store the current limits after a refusal, whose transaction was rolled back: one may have been lowered.

        This is done only if little is left of the window that refused; other limits are stored with the next
        reservation.
        """
        window = outcome.window if isinstance(outcome, Refused) else None
        # With more left than this, too little can have been spent for a warning.
        if window is not None and outcome.left <= (1 - WARN_AT) * window.limit + 1:
            self._transaction(partial(self._note_limits, windows))
        return outcome

    def _note_limits(self, windows: Sequence[Window], cursor: Any) -> None:
        for window in windows:
            statement = f"UPDATE {COUNTERS} SET window_limit = ?, revision = revision + 1 WHERE window_key = ?"
            self._execute(cursor, statement, [in_parts(window.limit), window.key])
        self._warn_once(cursor, self._counters(cursor, [window.key for window in windows]))

    def _granted(self, cursor: Any, windows: Sequence[Window]) -> Granted:
        counters = self._counters(cursor, [window.key for window in windows])
        self._warn_once(cursor, counters)
        room = [one.limit - one.spent - one.reserved for one in counters.values()]
        return Granted(from_parts(max(0, min(room))) if room else math.inf)

    def _warn_once(self, cursor: Any, counters: Mapping[str, _Counter]) -> None:
        """Note which windows to warn about when the transaction is committed; it has locked their counters."""
        for key, one in counters.items():
            if one.limit and not one.warned and one.spent >= warn_from(one.limit):
                self._execute(cursor, f"UPDATE {COUNTERS} SET warned = 1 WHERE window_key = ?", [key])
                self._thread.warnings.append(spent_warning(key, from_parts(one.limit)))

    def _insert(self, cursor: Any, one: Reservation) -> bool:
        values = {
            **{name: getattr(one, name) for name in _RESERVATION_COLUMNS if name != "revision"},
            "amount": in_parts(one.amount),
            "spent": in_parts(one.spent),
            "base": in_parts(one.base),
            "windows": json.dumps(one.windows),
            "sending": int(one.sending),
            "reserved_at": _milliseconds(one.reserved_at),
            "renewed_at": _milliseconds(one.renewed_at),
            "revision": 0,
        }
        markers = ", ".join("?" for _ in _RESERVATION_COLUMNS)
        columns = [values[name] for name in _RESERVATION_COLUMNS]
        return self._add(cursor, f"INTO {RESERVATIONS} ({_NAMES}) VALUES ({markers})", columns)

    def _add_counter(self, key: str, cursor: Any) -> bool:
        names = ", ".join(_COUNTER_COLUMNS)
        return self._add(cursor, f"INTO {COUNTERS} ({names}) VALUES (?, 0, 0, 0, 0, 0)", [key])

    def _add(self, cursor: Any, row: str, values: Sequence[Any]) -> bool:
        """Insert a row unless one with its key is there; return whether it was inserted."""
        statement = f"INSERT IGNORE {row}" if self._kind == "mysql" else f"INSERT {row} ON CONFLICT DO NOTHING"
        return self._execute(cursor, statement, values) == 1

    def sending(self, reservation_id: str, now: float) -> bool:
        """Record that the request may be sent from now on; return whether this had not been recorded before."""
        statement = (
            f"UPDATE {RESERVATIONS} SET sending = 1, reserved_at = ?, renewed_at = ?, revision = revision + 1 "
            "WHERE id = ? AND sending = 0"
        )
        values = [_milliseconds(now), _milliseconds(now), reservation_id]
        return self._transaction(lambda cursor: self._execute(cursor, statement, values), repeatable=False) == 1

    def accepted(self, reservation_id: str, request_id: str) -> bool:
        """Record the id that Segmind gave to a request; return whether its bill is to be settled here."""
        return self._transaction(partial(self._accepted, reservation_id, request_id))

    def _accepted(self, reservation_id: str, request_id: str, cursor: Any) -> bool:
        row = self._locked(cursor, reservation_id)
        windows = "" if row is None else json.dumps(row["windows"])
        values = [request_id, reservation_id, windows, _milliseconds(time.time())]
        if not self._add(cursor, f"INTO {REQUESTS} ({', '.join(_REQUEST_COLUMNS)}) VALUES (?, ?, ?, ?)", values):
            statement = f"SELECT reservation, windows FROM {REQUESTS} WHERE request_id = ?"
            self._execute(cursor, statement, [request_id])
            first, counted_in = cursor.fetchone()
            if first != reservation_id and windows and counted_in == windows:
                return False
        statement = f"UPDATE {RESERVATIONS} SET request_id = ?, sending = 1 WHERE id = ?"
        self._execute(cursor, statement, [request_id, reservation_id])
        return True

    def known(self, request_ids: Iterable[str]) -> set[str]:
        """Return which of these requests have a known reservation, open or closed."""
        ids = list(request_ids)
        return self._transaction(partial(self._known, ids)) if ids else set()

    def _known(self, ids: Sequence[str], cursor: Any) -> set[str]:
        markers = ", ".join("?" for _ in ids)
        self._execute(cursor, f"SELECT request_id FROM {REQUESTS} WHERE request_id IN ({markers})", ids)
        return {request_id for (request_id,) in cursor.fetchall()}

    def forget(self, before: float) -> None:
        """Forget the ids of requests that were recorded before a time."""
        statement = f"DELETE FROM {REQUESTS} WHERE noted_at < ?"
        self._transaction(lambda cursor: self._execute(cursor, statement, [_milliseconds(before)]))

    def take_over(self, reservation_id: str, new_id: str) -> bool:
        """Continue an open reservation under another id."""
        statement = f"UPDATE {RESERVATIONS} SET id = ?, revision = revision + 1 WHERE id = ?"
        return (
            self._transaction(
                lambda cursor: self._execute(cursor, statement, [new_id, reservation_id]), repeatable=False
            )
            == 1
        )

    def spend(
        self, reservation_id: str, billed: float, *, returned: int = 0, release_slots: int = 0, now: float | None = None
    ) -> bool:
        """Move a bill from reserved to spent; the rest stays reserved, except for what is returned."""
        return self._transaction(
            partial(self._spend, reservation_id, in_parts(billed), in_parts(returned), release_slots, now),
            repeatable=False,
        )

    def _spend(
        self, reservation_id: str, billed: int, returned: int, slots: int, now: float | None, cursor: Any
    ) -> bool:
        row = self._locked(cursor, reservation_id)
        if row is None:
            return False
        left = max(0, row["amount"] - row["spent"])
        slots, returned = min(slots, row["slots"]), min(returned, max(0, left - billed))
        if billed or returned or slots:
            self._move(cursor, row, returned=min(billed, left) + returned, billed=billed, slots=slots)
        renewed = row["renewed_at"] if now is None else _milliseconds(now)
        statement = (
            f"UPDATE {RESERVATIONS} SET spent = spent + ?, amount = amount - ?, slots = slots - ?, renewed_at = ? "
            "WHERE id = ?"
        )
        self._execute(cursor, statement, [billed, returned, slots, renewed, reservation_id])
        return True

    def settle(self, reservation_id: str, billed: float) -> bool:
        """Close a reservation: what was billed is spent, the rest and the slots are returned."""
        return self._transaction(partial(self._settle, reservation_id, in_parts(billed)))

    def _settle(self, reservation_id: str, billed: int, cursor: Any) -> bool:
        row = self._locked(cursor, reservation_id)
        if row is None:
            return False
        self._move(cursor, row, returned=max(0, row["amount"] - row["spent"]), billed=billed, slots=row["slots"])
        self._execute(cursor, f"DELETE FROM {RESERVATIONS} WHERE id = ?", [reservation_id])
        return True

    def release_slots(self, reservation_id: str) -> bool:
        """Return the slots of a reservation and keep its amount; return whether it had any."""
        return self._transaction(partial(self._release_slots, reservation_id))

    def _release_slots(self, reservation_id: str, cursor: Any) -> bool:
        row = self._locked(cursor, reservation_id)
        if row is None or not row["slots"]:
            return False
        self._move(cursor, {**row, "windows": ()}, returned=0, billed=0, slots=row["slots"])
        self._execute(cursor, f"UPDATE {RESERVATIONS} SET slots = 0 WHERE id = ?", [reservation_id])
        return True

    def _locked(self, cursor: Any, reservation_id: str) -> dict[str, Any] | None:
        """Lock an open reservation and return its row, None if it is not open."""
        lock = f"UPDATE {RESERVATIONS} SET revision = revision + 1 WHERE id = ?"
        return self._read(cursor, reservation_id) if self._execute(cursor, lock, [reservation_id]) else None

    def _read(self, cursor: Any, reservation_id: str) -> dict[str, Any] | None:
        self._execute(cursor, f"SELECT {_NAMES} FROM {RESERVATIONS} WHERE id = ?", [reservation_id])
        row = cursor.fetchone()
        return None if row is None else _values(row)

    def _move(self, cursor: Any, row: Mapping[str, Any], *, returned: int, billed: int, slots: int) -> None:
        changes = dict.fromkeys(row["windows"], (billed, returned))
        if slots:
            changes[flight_key(row["connection"])] = 0, slots
        statement = (
            f"UPDATE {COUNTERS} SET spent = spent + ?, reserved = reserved - ?, revision = revision + 1 "
            "WHERE window_key = ?"
        )
        for key in sorted(changes):
            self._execute(cursor, statement, [*changes[key], key])
        if billed:
            self._warn_once(cursor, self._counters(cursor, row["windows"]))

    def claim(self, reservation: Reservation, now: float) -> bool:
        """Renew a reservation unless another process renewed it since it was read; return whether it was renewed."""
        statement = f"UPDATE {RESERVATIONS} SET renewed_at = ?, revision = revision + 1 WHERE id = ? AND renewed_at = ?"
        values = [_milliseconds(now), reservation.id, _milliseconds(reservation.renewed_at)]
        return self._transaction(lambda cursor: self._execute(cursor, statement, values), repeatable=False) == 1

    def find(self, request_id: str) -> Reservation | None:
        """Return the open reservation of a request, None if there is none."""
        found = self._select({"request_id = ?": request_id})
        return found[0] if found else None

    def open_reservations(
        self, *, owner: str | None = None, connection: str | None = None, renewed_before: float | None = None
    ) -> list[Reservation]:
        """Return open reservations, the oldest first."""
        before = None if renewed_before is None else _milliseconds(renewed_before)
        return self._select({"owner = ?": owner, "connection = ?": connection, "renewed_at < ?": before})

    def _select(self, conditions: Mapping[str, Any]) -> list[Reservation]:
        given = {condition: value for condition, value in conditions.items() if value is not None}
        where = f" WHERE {' AND '.join(given)}" if given else ""
        statement = f"SELECT {_NAMES} FROM {RESERVATIONS}{where} ORDER BY reserved_at, id"

        def read(cursor: Any) -> list[Reservation]:
            self._execute(cursor, statement, list(given.values()))
            return [_reservation(_values(row)) for row in cursor.fetchall()]

        return self._transaction(read)

    def reserved_in(self, key: str, before: float) -> ReservedInWindow:
        """Return what is reserved in a window."""
        return self._transaction(partial(self._reserved_in, json.dumps(key), _milliseconds(before)))

    def _reserved_in(self, quoted_key: str, before: int, cursor: Any) -> ReservedInWindow:
        statement = (
            "SELECT MAX(reserved_at), SUM(CASE WHEN kind <> 'slice' AND reserved_at < ? AND amount > spent "
            f"THEN amount - spent ELSE 0 END) FROM {RESERVATIONS} WHERE {_PLACE_OF_KEY[self._kind]} > 0"
        )
        self._execute(cursor, statement, [before, quoted_key])
        latest, old = cursor.fetchone()
        return ReservedInWindow(from_parts(int(old or 0)), None if latest is None else int(latest) / 1000)

    def usage(self, keys: Iterable[str]) -> dict[str, Usage]:
        """Return what is used of each window; nothing if it is not known to the store."""
        counters = self._transaction(partial(self._counters, keys=list(keys)))
        return {key: Usage(from_parts(one.spent), from_parts(one.reserved)) for key, one in counters.items()}

    def in_flight(self, connection: str) -> int:
        """Return the number of paid requests in flight of a Connection that have a slot."""
        key = flight_key(connection)
        counters = self._transaction(partial(self._counters, keys=[key]))
        return counters[key].reserved if key in counters else 0

    def _counters(self, cursor: Any, keys: Sequence[str]) -> dict[str, _Counter]:
        if not keys:
            return {}
        markers = ", ".join("?" for _ in keys)
        columns = "window_key, spent, reserved, window_limit, warned"
        self._execute(cursor, f"SELECT {columns} FROM {COUNTERS} WHERE window_key IN ({markers})", list(keys))
        return {key: _Counter(*map(int, values)) for key, *values in cursor.fetchall()}

    # Transactions.

    def _execute(self, cursor: Any, statement: str, values: Sequence[Any]) -> int:
        cursor.execute(statement.replace("?", self._marker), list(values))
        return int(cursor.rowcount)

    def _transaction(self, work: Callable[[Any], _Result], *, repeatable: bool = True) -> _Result:
        """
        Run some work in a transaction, again after a conflict or a lost connection.

        :param repeatable: whether it may be repeated if it is not known whether it was committed.
        :raises SegmindStateError: the database did not answer.
        """
        created = False
        for tries_left in reversed(range(MOST_TRIES)):
            committing = False
            self._thread.warnings = []
            try:
                connection = self._connection()
                cursor = connection.cursor()
                if begin := _BEGIN[self._kind][1]:
                    cursor.execute(begin)
                result = work(cursor)
                committing = True
                connection.commit()
            except (_UndoError, _CounterMissingError):
                self._roll_back()
                raise
            except Exception as error:  # noqa: BLE001 (PEP 249 gives the drivers no common class)
                self._disconnect()
                if is_missing_table(error) and not created:
                    created = True
                    self._create()
                elif not tries_left or not is_about_connection(error) or (committing and not repeatable):
                    raise SegmindStateError(
                        f"The store of budgets ({self.name}) cannot be used: {described(error, values=True)}."
                    ) from None
                else:
                    self._sleep(FIRST_PAUSE * 2 ** (MOST_TRIES - tries_left) * random.random())
            except BaseException:
                # Airflow ends a task by an exception in this thread; nothing of an unfinished transaction may remain.
                self._disconnect()
                raise
            else:
                for text in self._thread.warnings:
                    self._warn(text)
                return result
        raise AssertionError("unreachable")

    def _connection(self) -> Any:
        found = getattr(self._thread, "connection", None)
        if found is None:
            found = self._hook.get_conn()
            for statement in _BEGIN[self._kind][0]:
                found.cursor().execute(statement)
            self._thread.connection = found
        return found

    def _roll_back(self) -> None:
        try:
            self._connection().rollback()
        except Exception:  # noqa: BLE001 (PEP 249 gives the drivers no common class)
            self._disconnect()

    def _disconnect(self) -> None:
        found, self._thread.connection = getattr(self._thread, "connection", None), None
        if found is not None:
            # The earlier error is the one to raise.
            with suppress(Exception):
                found.close()

    def close(self) -> None:
        """Close the connection of this thread."""
        self._disconnect()

    def _create(self) -> None:
        text = _MYSQL_TEXT if self._kind == "mysql" else "VARCHAR({})"
        ending = " ENGINE=InnoDB" if self._kind == "mysql" else ""
        for table, columns in _TABLES.items():
            described_columns = ", ".join(f"{name} {_typed(kind, text)}" for name, kind in columns.items())
            # Another task may be creating it; if not, the repeated work reports what is wrong.
            with suppress(Exception):
                connection = self._connection()
                connection.cursor().execute(f"CREATE TABLE IF NOT EXISTS {table} ({described_columns}){ending}")
                connection.commit()
            self._disconnect()


def _typed(kind: str, text: str) -> str:
    return re.sub(r"{text}\((\d+)\)", lambda match: text.format(match[1]), kind)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _values(row: Sequence[Any]) -> dict[str, Any]:
    values = dict(zip(_RESERVATION_COLUMNS, row, strict=True))
    return {**values, "windows": tuple(json.loads(values["windows"]))}


def _reservation(values: Mapping[str, Any]) -> Reservation:
    known = {name: value for name, value in values.items() if name != "revision"}
    read = {
        "amount": values["amount"] // PARTS,
        "spent": from_parts(values["spent"]),
        "base": from_parts(values["base"]),
        "sending": bool(values["sending"]),
        "reserved_at": values["reserved_at"] / 1000,
        "renewed_at": values["renewed_at"] / 1000,
    }
    return Reservation(**{**known, **read})
