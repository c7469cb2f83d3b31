"""
Reads the table once, in blocks, and remembers on the local disk in which order its rows came.

The rows themselves are not kept: their number, key columns and fingerprint are enough to write the output later, in
input order, from what the ledger holds.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, TypeAlias

from airflow_provider_segmind.bulk.index import CompactIndex
from airflow_provider_segmind.bulk.plan import KeyedTarget, Prepared, Question, Settings, Shard
from airflow_provider_segmind.bulk.rows import Row
from airflow_provider_segmind.bulk.spool import Spool
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindRowError, shorten

_Built: TypeAlias = tuple[Row, Mapping[str, Any], Prepared | SegmindConfigError]
_TAG = "\x00segmind"


@dataclass(frozen=True, slots=True)
class Place:
    """
    One row of the output.

    :param number: its place in the source, from 0.
    :param key: its key columns.
    :param fingerprint: what was asked for it, None when its question could not be built.
    :param trouble: why it could not.
    """

    number: int
    key: Mapping[str, Any]
    fingerprint: bytes | None = None
    trouble: str = ""


class Feeder:
    """
    Turns rows into questions, and remembers their order.

    :param rows: the table; read once.
    :param question: what is asked of each.
    :param target: where the answers go, when that has a say in which rows are asked about.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        question: Question,
        shard: Shard,
        settings: Settings,
        target: KeyedTarget | None = None,
    ) -> None:
        self.rows_seen = 0
        self.rows_elsewhere = 0
        self.rows_unchanged = 0
        self.exhausted = False
        self.of_this_run = CompactIndex()
        self._question = question
        self._shard = shard
        self._settings = settings
        self._target = target
        self._pool = ThreadPoolExecutor(question.abreast, "segmind-rows") if question.abreast > 1 else None
        self._rows = self._built(rows)
        self._order = Spool()

    @property
    def rows_read(self) -> int:
        """Return how many rows of this shard were read."""
        return self.rows_seen - self.rows_elsewhere

    def close(self) -> None:
        """Forget the order."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._order.close()

    def next_block(self) -> list[Prepared]:
        """
        Read some rows; an empty list need not be the end, see :attr:`exhausted`. Blocks on the source.

        :raises SegmindConfigError: the question cannot be built for the very first row.
        """
        block, lines = [], []
        room, left = self._settings.block_bytes, self._settings.block_rows
        while left and room > 0:
            built = next(self._rows, None)
            if built is None:
                self.exhausted = True
                break
            place, prepared = self._prepare(built)
            self.rows_seen += 1
            left -= 1
            if place is not None:
                lines.append(_to_line(place))
            if prepared is not None:
                block.append(prepared)
                room -= prepared.size
        if lines:
            self._order.write(lines)
        return block

    def places(self) -> Iterator[Place]:
        """Yield every row read, in order."""
        return (_from_line(line) for _, line in self._order.lines())

    def _built(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[_Built]:
        numbered = (Row(number, values) for number, values in enumerate(rows))
        if self._pool is None:
            yield from map(self._build, numbered)
            return
        while group := list(itertools.islice(numbered, self._question.abreast)):
            yield from self._pool.map(self._build, group)

    def _build(self, row: Row) -> _Built:
        key: dict[str, Any] = {}
        try:
            key = row.key(self._question.key)
            return row, key, self._question.prepare(row)
        except SegmindConfigError as error:
            return row, key, error

    def _prepare(self, built: _Built) -> tuple[Place | None, Prepared | None]:
        row, key, prepared = built
        if isinstance(prepared, SegmindConfigError):
            if row.number == 0 and not isinstance(prepared, SegmindRowError):
                raise prepared
            return self._unasked(row, key, shorten(str(prepared))), None
        if self._target is not None and (trouble := self._target.trouble(key)):
            return self._unasked(row, key, f"{trouble}; nothing was sent for it"), None
        if not self._shard.owns(prepared.fingerprint):
            self.rows_elsewhere += 1
            return None, None
        if self._holds(key, prepared.fingerprint):
            self.rows_unchanged += 1
            return None, None
        return Place(row.number, key, prepared.fingerprint), prepared

    def _holds(self, key: Mapping[str, Any], fingerprint: bytes) -> bool:
        """Tell whether the target has the answer, and from another run: of its own a run must tell the cost."""
        held = self._target is not None and self._target.holds(key, fingerprint)
        return held and not self.of_this_run.get(fingerprint)

    def _unasked(self, row: Row, key: Mapping[str, Any], trouble: str) -> Place | None:
        """Return the place of a row without a question; it belongs to the first shard, so that it is counted once."""
        if self._shard.index == 0:
            return Place(row.number, key, trouble=trouble)
        self.rows_elsewhere += 1
        return None


def _to_line(place: Place) -> bytes:
    mark = place.fingerprint.hex() if place.fingerprint else None
    values = (place.number, dict(place.key), mark, place.trouble)
    return json.dumps(values, default=_tagged, separators=(",", ":")).encode("ascii")


def _from_line(line: bytes) -> Place:
    number, key, mark, trouble = json.loads(line, object_hook=_untagged)
    return Place(number, key, bytes.fromhex(mark) if mark else None, trouble)


def _tagged(value: Any) -> Any:
    """Write what JSON has no form for, so that a key column keeps its type from source to output."""
    for name, (kind, write, _) in _TYPES.items():
        if isinstance(value, kind):
            return {_TAG: name, "value": write(value)}
    return str(value)


def _untagged(value: dict[str, Any]) -> Any:
    if _TAG not in value:
        return value
    return _TYPES[value[_TAG]][2](value["value"])


_TYPES: dict[str, tuple[Any, Any, Any]] = {
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "decimal": (Decimal, str, Decimal),
    "bytes": (bytes, lambda value: base64.b64encode(value).decode("ascii"), base64.b64decode),
}
