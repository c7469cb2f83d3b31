"""The spend record as a table of any database that Airflow has a DB-API hook for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from airflow_provider_segmind.enrichment.sql.dialects import (
    DIALECTS,
    again_after_conflicts,
    described,
    is_missing_table,
)
from airflow_provider_segmind.exceptions import SegmindStateError
from airflow_provider_segmind.spend.entries import SpendEntry, combine, merged

SPEND_TABLE = "segmind_spend"
_NAME = "VARCHAR(255) NOT NULL"
_COLUMNS = {
    "request_id": "VARCHAR(255) NOT NULL PRIMARY KEY",
    "finished_at": "DOUBLE PRECISION NOT NULL",
    "finished_day": "VARCHAR(10) NOT NULL",
    **dict.fromkeys(("connection", "dag_id", "task_id", "run_id"), _NAME),
    **dict.fromkeys(("map_index", "try_number"), "INTEGER NOT NULL"),
    "model": _NAME,
    "outcome": "VARCHAR(20) NOT NULL",
    "tokens": "BIGINT",
    "cost_micros": "NUMERIC(20, 6)",
    "reused": "SMALLINT NOT NULL",
}
_NAMES = ", ".join(_COLUMNS)
_Item = TypeVar("_Item")
MOST_ROWS = 100
"""Rows in one statement; some databases take about 2,000 values in one."""
MOST_RACES = 5
"""How often a write is repeated because another task has just added the same request."""


class SqlStore:
    """
    The spend record in a table, which is created with the first entry.

    :param hook: of the database; its placeholders are positional.
    :raises SegmindStateError: from every method: the database did not respond, or refused.
    """

    def __init__(self, hook: Any, conn_id: str) -> None:
        self.name = f"the table {SPEND_TABLE} of connection {conn_id!r}"
        self._connect: Callable[[], Any] = hook.get_conn
        self._marker: str = hook.placeholder
        dialect = DIALECTS.get(hook.conn_type)
        self._begin = dialect.begin if dialect else None
        self._exists = False

    def write(self, entries: Sequence[SpendEntry]) -> None:
        """Insert the entries; an existing entry is completed with what the new one knows."""
        with self._opened() as connection:
            self._create(connection)
            for some in _parts(merged(entries).values()):
                again_after_conflicts(partial(self._write_patiently, connection, some))

    def read(self, *, since: float | None = None, until: float | None = None) -> Iterator[SpendEntry]:
        """Yield the entries."""
        bounds = [("finished_at >= ", since), ("finished_at < ", until)]
        given = [(condition + self._marker, value) for condition, value in bounds if value is not None]
        where = f" WHERE {' AND '.join(condition for condition, _ in given)}" if given else ""
        with self._opened() as connection:
            if not self._is_there(connection):
                return
            cursor = connection.cursor()
            cursor.execute(f"SELECT {_NAMES} FROM {SPEND_TABLE}{where}", [value for _, value in given])
            while rows := cursor.fetchmany(1000):
                yield from map(_entry, rows)

    def tidy(self, *, since: float, now: float) -> None:
        """Do nothing: the database keeps its tables in order."""

    def known(self, request_ids: Iterable[str]) -> set[str]:
        """Return which of the given requests are in the table."""
        with self._opened() as connection:
            if not self._is_there(connection):
                return set()
            parts = _parts(dict.fromkeys(request_ids))
            return {request_id for part in parts for request_id in self._select(connection, part)}

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with closing(self._connect()) as connection:
                yield connection
        except Exception as error:
            # PEP 249 gives the drivers no common class, only its name.
            if "Error" not in {kind.__name__ for kind in type(error).__mro__}:
                raise
            raise SegmindStateError(
                f"The spend record ({self.name}) cannot be used: {described(error, values=True)}."
            ) from None

    def _create(self, connection: Any) -> None:
        if self._is_there(connection):
            return
        columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
        try:
            connection.cursor().execute(f"CREATE TABLE {SPEND_TABLE} ({columns})")
            if self._begin is None:
                connection.commit()
        except Exception:
            _roll_back(connection)
            # Another task may have created it meanwhile.
            if not self._is_there(connection):
                raise

    def _is_there(self, connection: Any) -> bool:
        if not self._exists:
            try:
                connection.cursor().execute(f"SELECT {_NAMES} FROM {SPEND_TABLE} WHERE 1 = 0")
            except Exception as error:
                _roll_back(connection)
                if not is_missing_table(error):
                    raise
                return False
            self._exists = True
        return True

    def _write_patiently(self, connection: Any, entries: Sequence[SpendEntry]) -> None:
        for races_left in reversed(range(MOST_RACES)):
            try:
                self._write(connection, entries)
            except Exception as error:
                _roll_back(connection)
                if not races_left or "IntegrityError" not in {kind.__name__ for kind in type(error).__mro__}:
                    raise
            else:
                return

    def _write(self, connection: Any, entries: Sequence[SpendEntry]) -> None:
        cursor = connection.cursor()
        if self._begin:
            cursor.execute(self._begin)
        known = self._select(connection, [entry.request_id for entry in entries])
        new = [entry for entry in entries if entry.request_id not in known]
        if new:
            one = f"({', '.join([self._marker] * len(_COLUMNS))})"
            statement = f"INSERT INTO {SPEND_TABLE} ({_NAMES}) VALUES {', '.join([one] * len(new))}"
            cursor.execute(statement, [value for entry in new for value in _row(entry)])
        for entry in entries:
            old = known.get(entry.request_id)
            if old is not None and (both := combine(old, entry)) != old:
                changes = ", ".join(f"{name} = {self._marker}" for name in _COLUMNS)
                cursor.execute(
                    f"UPDATE {SPEND_TABLE} SET {changes} WHERE request_id = {self._marker}",
                    [*_row(both), entry.request_id],
                )
        if self._begin:
            # DuckDB's cursors are connections of their own.
            cursor.execute("COMMIT")
        else:
            connection.commit()

    def _select(self, connection: Any, request_ids: Sequence[str]) -> dict[str, SpendEntry]:
        cursor = connection.cursor()
        markers = ", ".join([self._marker] * len(request_ids))
        cursor.execute(f"SELECT {_NAMES} FROM {SPEND_TABLE} WHERE request_id IN ({markers})", list(request_ids))
        return {entry.request_id: entry for entry in map(_entry, cursor.fetchall())}


def _parts(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    every = list(items)
    return (every[start : start + MOST_ROWS] for start in range(0, len(every), MOST_ROWS))


def _roll_back(connection: Any) -> None:
    # The earlier error is the one to raise; DuckDB raises another if there is no transaction.
    with suppress(Exception):
        connection.rollback()


def _row(entry: SpendEntry) -> list[Any]:
    values = {**entry.to_json(), "finished_at": entry.at, "finished_day": entry.day, "reused": int(entry.reused)}
    return [values[name] for name in _COLUMNS]


def _entry(row: Sequence[Any]) -> SpendEntry:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["at"] = values["finished_at"]
    entry = SpendEntry.from_json(values)
    cost = None if entry.cost_micros is None else float(entry.cost_micros)
    return replace(entry, cost_micros=cost, reused=bool(entry.reused))
