"""
Read a table once, in blocks, and keep the order of its rows in a temporary database.

The rows themselves are not kept: number, key columns and fingerprint are enough to write the output later from the
ledger, in input order. When the source fails, the rows read so far are processed like any others.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any, TypeAlias

from airflow_provider_segmind.enrichment.files.readers import cannot_be_read
from airflow_provider_segmind.enrichment.local_database import LocalDatabase
from airflow_provider_segmind.enrichment.question import Prepared, Question
from airflow_provider_segmind.enrichment.rows import Row, column_names, is_name, json_value, plain_text
from airflow_provider_segmind.enrichment.settings import KeyedTarget, Shard
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindEnrichmentError,
    SegmindError,
    SegmindRowError,
    shorten,
)
from airflow_provider_segmind.wording import counted

BLOCK_ROWS = 256
"""Rows read at a time."""
BLOCK_BYTES = 16 << 20
"""Bytes of bodies after which no more rows are read at a time."""
FIRST_ROWS = 256
"""How many rows are searched at most, before anything is sent, for a column that a placeholder names."""
FIRST_BYTES = 16 << 20
Built: TypeAlias = tuple[Row, Mapping[str, Any], Prepared | SegmindError]
"""A row, its key columns, and what is sent for it, or why nothing is."""
StoredRow: TypeAlias = tuple[int, bytes | None, Mapping[str, Any], str]
"""The first four attributes of a :class:`SourceRow`; plain tuples are stored several times as fast."""
_UNWRITABLE = (ValueError, TypeError, ArithmeticError, LookupError, RecursionError)
_KEPT = (str, float, bytes, datetime, date, time, Decimal)
"""Types that a key column keeps from source to output, apart from integers and JSON."""
_SCHEMA = """
CREATE TABLE blocks (first INTEGER PRIMARY KEY, packed BLOB);
CREATE TABLE rows (number INTEGER PRIMARY KEY, fingerprint BLOB);
CREATE TABLE repeated (number INTEGER PRIMARY KEY);
CREATE TABLE answered (fingerprint BLOB PRIMARY KEY) WITHOUT ROWID;
"""
_BY_FINGERPRINT = "CREATE INDEX IF NOT EXISTS by_fingerprint ON rows (fingerprint)"
_REPEATED = """
INSERT INTO repeated SELECT rows.number FROM rows JOIN (
    SELECT fingerprint, min(number) AS first FROM rows GROUP BY fingerprint HAVING count(*) > 1
) AS several ON rows.fingerprint = several.fingerprint WHERE rows.number > several.first
"""
_EQUAL = """
SELECT number, (SELECT max(first) FROM blocks WHERE first <= rows.number), NOT EXISTS (
    SELECT 1 FROM rows AS earlier WHERE earlier.fingerprint = rows.fingerprint AND earlier.number < rows.number
) FROM rows WHERE fingerprint = ? AND number > ? ORDER BY number LIMIT ?
"""
BLOCKS_AT_HAND = 8
"""Blocks that :meth:`RowReader.equal_rows` has in memory; rows finish in about the order in which they are read."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """
    A row that was read, as the output needs it.

    :param number: its position in the source, from 0.
    :param key: its key columns.
    :param fingerprint: of its question, None when that could not be built.
    :param trouble: why it could not be built.
    :param first: whether no equal row precedes it.
    """

    number: int
    key: Mapping[str, Any]
    fingerprint: bytes | None = None
    trouble: str = ""
    first: bool = True


def numbered(rows: Iterable[Mapping[str, Any]], question: Question) -> Iterator[Row]:
    """
    Number the rows of a table after checking that it has the columns that a question needs.

    :raises SegmindConfigError: the first rows lack such a column, or the question refers to no column at all, so that
        all rows would be the same request; nothing was sent.
    """
    source = iter(rows)
    needed = {name for name in question.placeholders if is_name(name)}.union(question.key)
    sought = question.placeholders.union(question.key)
    first, broken = _first_rows(source, sought)
    known = {name for values in first for name in column_names(values)}
    if first:
        try:
            _check_columns(question, needed - known, known, len(first))
        except SegmindConfigError:
            if broken is not None:
                raise broken from None
            raise
    columns, unmet = frozenset(known & sought), sought - known
    for number, values in enumerate(itertools.chain(first, source if broken is None else ())):
        if unmet and not unmet.isdisjoint(names := column_names(values)):
            # From now on it is a column of the table, even for rows that do not have it.
            columns, unmet = columns.union(unmet.intersection(names)), unmet.difference(names)
        yield Row(number, values, columns)
    if broken is not None:
        raise broken


def _first_rows(
    source: Iterator[Mapping[str, Any]], sought: frozenset[str]
) -> tuple[list[Mapping[str, Any]], Exception | None]:
    """
    Return rows until they have all columns that are sought, and the error if the source failed before.

    Whether braces that are not around words name a column can only be decided from the rows.
    """
    first: list[Mapping[str, Any]] = []
    unmet, size = set(sought), 0
    try:
        for values in itertools.islice(source, FIRST_ROWS):
            first.append(values)
            unmet.difference_update(column_names(values))
            size += sum(len(value) for value in values.values() if isinstance(value, (str, bytes)))
            if not unmet or size > FIRST_BYTES:
                break
    except Exception as error:  # noqa: BLE001
        # A reader may raise anything; the rows before it are processed first.
        return first, error
    return first, None


def _check_columns(question: Question, missing: set[str], known: set[str], rows: int) -> None:
    there = f"Its columns are: {', '.join(sorted(map(str, known)))}. Nothing was sent"
    if missing:
        name = min(missing)
        role = "key" if name in question.key else "placeholder"
        literal = "" if role == "key" else f"; for literal braces, double them: {{{{{name}}}}}"
        raise SegmindConfigError(
            f"The source has no column {name!r}, which a {role} names (looked for in {counted(rows, 'row')}). "
            f"{there}{literal}."
        )
    if question.placeholders and not question.placeholders & known:
        raise SegmindConfigError(
            f"No {{column}} placeholder names a column of the source, so all rows would be the same request. {there}."
        )


def build(row: Row, question: Question) -> Built:
    """Build the request of a row; blocks if that reads files."""
    key: dict[str, Any] = {}
    try:
        key = {name: _storable(value) for name, value in row.key(question.key).items()}
        return row, key, question.prepare(row)
    except SegmindError as error:
        return row, key, error
    except OSError as error:
        return row, key, SegmindEnrichmentError(_out_of_reach(row, error), retryable=True)
    except _UNWRITABLE as error:
        reason = f"the values of row {row.number} cannot be sent ({type(error).__name__}); nothing was sent for it"
        return row, key, SegmindRowError(reason)


def is_fatal(built: Built) -> bool:
    """Return whether an error ends the run: a store is unreachable, or already the first row is misconfigured."""
    row, _, prepared = built
    if not isinstance(prepared, SegmindError) or isinstance(prepared, SegmindRowError):
        return False
    return row.number == 0 or not isinstance(prepared, SegmindConfigError)


class RowReader:
    """
    Turns rows into requests and keeps their order.

    :param rows: the table; read once.
    :param question: what is sent for each.
    :param target: the output, if it is one that already has answers or refuses some keys.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        question: Question,
        shard: Shard,
        target: KeyedTarget | None = None,
    ) -> None:
        self.columns: tuple[str, ...] = ()
        """The columns of the first row, once it is read."""
        self.rows_seen = 0
        self.rows_elsewhere = 0
        self.rows_unchanged = 0
        self.exhausted = False
        self.broken: SegmindError | None = None
        self._question = question
        self._shard = shard
        self._target = target
        self._pool = (
            ThreadPoolExecutor(question.parallel_builds, "segmind-rows") if question.parallel_builds > 1 else None
        )
        self._each = self._until_broken(self._built(rows))
        self._local = LocalDatabase(_SCHEMA)
        self._rows_compared = 0
        self._keys_of_block = lru_cache(BLOCKS_AT_HAND)(self._read_keys)
        if target is not None:
            # It is asked for equal rows while they are read; otherwise all are sorted at once, at the end.
            self._local.change(_BY_FINGERPRINT)

    @property
    def rows_read(self) -> int:
        """The number of rows of this shard that were read."""
        return self.rows_seen - self.rows_elsewhere

    def close(self) -> None:
        """Delete the temporary database."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._local.close()

    def add_answered(self, fingerprints: Iterable[bytes]) -> None:
        """Add rows that this run has paid for: its output includes them even if the target has their answers."""
        if self._target is not None:
            self._local.write(("INSERT OR IGNORE INTO answered VALUES (?)", ((mark,) for mark in fingerprints)))

    def next_block(self) -> list[Prepared]:
        """
        Read some rows; blocks on the source.

        An empty list need not be the end: at the end :attr:`exhausted` is true, or :attr:`broken` is the error of the
        source. Rows read before an error are returned first.
        """
        if self.broken is not None:
            return []
        block: list[Prepared] = []
        rows: list[StoredRow] = []
        counts = self.rows_seen, self.rows_elsewhere, self.rows_unchanged
        room, left = BLOCK_BYTES, BLOCK_ROWS
        for built in self._each:
            row, prepared = self._prepare(built)
            self.rows_seen += 1
            left -= 1
            if row is not None:
                rows.append(row)
            if prepared is not None:
                block.append(prepared)
                room -= prepared.size
            if not left or room <= 0:
                break
        try:
            self._store(rows)
        except SegmindEnrichmentError as error:
            # Rows whose order cannot be kept are not sent, as if the source had failed before them.
            self.broken, self.exhausted = error, False
            self.rows_seen, self.rows_elsewhere, self.rows_unchanged = counts
            return []
        return block

    def _until_broken(self, rows: Iterator[Built]) -> Iterator[Built]:
        """Yield rows to the end, or to where the source fails."""
        while True:
            try:
                built = next(rows, None)
            except SegmindError as error:
                self.broken = error
                return
            except Exception as error:  # noqa: BLE001
                # A store, a driver or XCom may raise anything here, and earlier rows have been paid for.
                self.broken = cannot_be_read(error, f"The source, after {counted(self.rows_seen, 'row')},")
                return
            if built is None:
                self.exhausted = True
                return
            if isinstance(built[2], SegmindError) and is_fatal(built):
                self.broken = built[2]
                return
            yield built

    def source_rows(self) -> Iterator[SourceRow]:
        """Yield every row that was read, in order."""
        repeated_in = self._finder_of_repeated()
        for rows in self._blocks():
            repeated = repeated_in(rows)
            for number, mark, key, trouble in rows:
                yield SourceRow(number, key, mark, trouble, number not in repeated)

    def _blocks(self) -> Iterator[list[StoredRow]]:
        """Yield the rows that were read, in order, as they were stored."""
        first, query = -1, "SELECT first, packed FROM blocks WHERE first > ? ORDER BY first LIMIT 1"
        while (found := self._local.first(query, first)) is not None:
            first, packed = found
            yield pickle.loads(packed)  # noqa: S301 - no other process can write to a file without a name

    def _finder_of_repeated(self) -> Callable[[list[StoredRow]], Set[int]]:
        """Return what finds the rows of a block that an equal one precedes."""
        try:
            self._compare()
        except SegmindEnrichmentError:
            # The temporary folder is full, and the rows that were read have been paid for: equal rows are found in
            # memory instead.
            return partial(_repeated, set())
        query = "SELECT number FROM repeated WHERE number BETWEEN ? AND ?"
        return lambda rows: {number for (number,) in self._local.all(query, rows[0][0], rows[-1][0])}

    def _compare(self) -> None:
        """Find the rows that an equal one precedes, all at once: sorting takes less time than a search for each."""
        if self._rows_compared == self.rows_seen:
            return
        if self._target is None:
            self._local.change("DELETE FROM rows")
            for rows in self._blocks():
                self._local.write((_ADD_ROW, _fingerprints(rows)))
            self._local.change(_BY_FINGERPRINT)
        self._local.change("DELETE FROM repeated")
        self._local.change(_REPEATED)
        self._rows_compared = self.rows_seen

    def equal_rows(self, fingerprint: bytes, *, after: int, most: int) -> list[SourceRow]:
        """Return some of the rows read so far with a fingerprint, in order; from any thread, if there is a target."""
        return [
            SourceRow(number, self._keys_of_block(block)[number], fingerprint, first=bool(first))
            for number, block, first in self._local.all(_EQUAL, fingerprint, after, most)
        ]

    def _read_keys(self, block: int) -> dict[int, Mapping[str, Any]]:
        (packed,) = self._local.first("SELECT packed FROM blocks WHERE first = ?", block)
        return {number: key for number, _, key, _ in pickle.loads(packed)}  # noqa: S301 (as above)

    def _store(self, rows: list[StoredRow]) -> None:
        if not rows:
            return
        # SQLite takes a bytearray without looking for a conversion of it.
        block = (rows[0][0], bytearray(pickle.dumps(rows)))
        # Without a target, equal rows are not searched for before all are read.
        marks = () if self._target is None else _fingerprints(rows)
        self._local.write(("INSERT INTO blocks VALUES (?, ?)", (block,)), (_ADD_ROW, marks))

    def _built(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Built]:
        source = iter(rows)
        first = list(itertools.islice(source, 1))
        self.columns = tuple(str(name) for values in first for name in column_names(values))
        each = numbered(itertools.chain(first, source), self._question)
        build_row = partial(build, question=self._question)
        if self._pool is None:
            yield from map(build_row, each)
            return
        for group in _groups(each, self._question.parallel_builds):
            yield from self._pool.map(build_row, group)

    def _prepare(self, built: Built) -> tuple[StoredRow | None, Prepared | None]:
        row, key, prepared = built
        if isinstance(prepared, SegmindError):
            return self._unasked(row, key, shorten(str(prepared))), None
        if self._target is not None and (trouble := self._target.trouble(key, row.number)):
            return self._unasked(row, key, f"{trouble}; nothing was sent for it"), None
        if not self._shard.owns(prepared.fingerprint):
            self.rows_elsewhere += 1
            return None, None
        if self._target is not None and self._is_unchanged(self._target, key, prepared.fingerprint):
            self.rows_unchanged += 1
            return None, None
        return (row.number, prepared.fingerprint, key, ""), prepared

    def _is_unchanged(self, target: KeyedTarget, key: Mapping[str, Any], fingerprint: bytes) -> bool:
        """Return whether the target has the answer from another run; a run must report the cost of its own answers."""
        if not target.has_answer(key, fingerprint):
            return False
        return self._local.first("SELECT 1 FROM answered WHERE fingerprint = ?", fingerprint) is None

    def _unasked(self, row: Row, key: Mapping[str, Any], trouble: str) -> StoredRow | None:
        """Return a row without a question; it belongs to the first shard, so that it is counted once."""
        if self._shard.index == 0:
            return row.number, None, key, trouble
        self.rows_elsewhere += 1
        return None


def _repeated(seen: set[bytes], rows: list[StoredRow]) -> set[int]:
    """Return the rows of a block that an equal one precedes, there or in an earlier block."""
    repeated = set()
    for number, mark, _, _ in rows:
        if mark in seen:
            repeated.add(number)
        elif mark is not None:
            seen.add(mark)
    return repeated


_ADD_ROW = "INSERT INTO rows VALUES (?, ?)"


def _fingerprints(rows: Iterable[StoredRow]) -> Iterator[tuple[int, bytearray]]:
    return ((number, bytearray(mark)) for number, mark, _, _ in rows if mark is not None)


def _groups(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Yield lists of rows; those before an error come first."""
    while True:
        group: list[Row] = []
        try:
            group.extend(itertools.islice(rows, size))
        except Exception:
            yield group
            raise
        if not group:
            return
        yield group


def _out_of_reach(row: Row, error: OSError) -> str:
    return (
        f"A file that row {row.number} of the source names cannot be read: {type(error).__name__} "
        f"({shorten(error.strerror or '')}). The row itself is valid: the store of the file cannot be reached."
    )


def _storable(value: Any) -> Any:
    """Return a key's value in a form that can be kept until the output is written; lists and objects become JSON."""
    kind = type(value)
    if kind is str:
        return value
    if kind is int or isinstance(value, (Mapping, list, tuple, int)):
        return json_value(value)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if value is None or (isinstance(value, _KEPT) and not getattr(value, "nanosecond", 0)):
        return value
    return plain_text(value)
