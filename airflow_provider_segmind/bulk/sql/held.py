"""What a table of answers says of a row before it is asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from airflow_provider_segmind.bulk.index import CompactIndex
from airflow_provider_segmind.bulk.sql.kinds import MisfitError
from airflow_provider_segmind.bulk.sql.target import key_mark

_MARK_BYTES = 8


class HeldRows:
    """
    The keys and fingerprints that a table holds answers for, and the keys met in the source; some 100 bytes a row.

    :param held: the mark of the key and the fingerprint in hex of every row that has its answer.
    :param mark: returns the mark of a key, one for all keys that the table takes as equal; it raises MisfitError for a
        key that cannot be told from others there.
    """

    def __init__(
        self, held: Iterable[tuple[bytes, str]] = (), mark: Callable[[Mapping[str, Any]], bytes] = key_mark
    ) -> None:
        self._mark = mark
        self._keys = CompactIndex()
        self._fingerprints = CompactIndex()
        self._met = CompactIndex()
        for key, text in held:
            try:
                fingerprint = bytes.fromhex(text or "")
            except ValueError:
                continue
            if len(fingerprint) >= _MARK_BYTES:
                self._keys.put(key, _number(fingerprint))
                self._fingerprints.put(fingerprint, 1)

    def trouble(self, key: Mapping[str, Any], number: int) -> str | None:
        """
        Say why a row of this key can have no place in the table, and remember the key.

        :param number: the row's, from 0.
        """
        empty = [name for name, value in key.items() if value is None]
        if empty:
            return f"its key column {empty[0]!r} is NULL"
        try:
            mark = self._mark(key)
        except MisfitError as error:
            return str(error)
        if before := self._met.get(mark):
            where = f"its key stands in an earlier row of the source, too (row {before - 1}, counted from 0)"
            return where if self._mark is key_mark else f"{where}, as the table compares keys"
        self._met.put(mark, number + 1)
        return None

    def holds(self, key: Mapping[str, Any], fingerprint: bytes) -> bool:
        """Tell whether the table holds the answer to just this question under this key."""
        return self._keys.get(self._mark(key)) == _number(fingerprint)

    def knows(self, fingerprint: bytes) -> bool:
        """Tell whether the table held the answer to this question, under any key, before the run."""
        return bool(self._fingerprints.get(fingerprint))


def _number(fingerprint: bytes) -> int:
    # An index holds no zero.
    return int.from_bytes(fingerprint[:_MARK_BYTES], "big") | 1
