"""Local working state: an index of fingerprints in 24 bytes an entry, and a spill file."""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from airflow_provider_segmind.exceptions import SegmindEnrichmentError

KEY_BYTES = 16
"""How much of a fingerprint is kept: 128 bits, so that a billion rows do not collide."""
_FULLEST = 0.7


class CompactIndex:
    """
    An open-addressed table over two flat arrays; entries can be added and changed, not removed.

    Values are whole numbers from 1 to 2**64 - 1. Keys must be evenly spread bytes, as digests are.
    """

    def __init__(self, slots: int = 1024) -> None:
        self._allocate(slots)

    def __len__(self) -> int:
        return self._used

    def get(self, fingerprint: bytes) -> int:
        """Return the value, 0 when there is none."""
        return int(self._values[self._slot(fingerprint[:KEY_BYTES])])

    def put(self, fingerprint: bytes, value: int) -> None:
        """Set the value."""
        key = fingerprint[:KEY_BYTES]
        slot = self._slot(key)
        if not self._values[slot]:
            if self._used >= _FULLEST * (self._mask + 1):
                self._grow()
                slot = self._slot(key)
            self._used += 1
            self._keys[slot * KEY_BYTES : slot * KEY_BYTES + KEY_BYTES] = key
        self._values[slot] = value

    def first_sight(self, fingerprint: bytes, seen: bytearray) -> bool:
        """
        Tell whether an entry is met for the first time, and remember it in ``seen``.

        :param seen: what :meth:`no_sights` gave; good as long as nothing is added.
        """
        byte, bit = divmod(self._slot(fingerprint[:KEY_BYTES]), 8)
        if seen[byte] >> bit & 1:
            return False
        seen[byte] |= 1 << bit
        return True

    def no_sights(self) -> bytearray:
        """Return a note that no entry was met yet: one bit each."""
        return bytearray((self._mask + 8) // 8)

    def _slot(self, key: bytes) -> int:
        slot = int.from_bytes(key[:8], "little") & self._mask
        keys, values = self._keys, self._values
        while values[slot] and keys[slot * KEY_BYTES : slot * KEY_BYTES + KEY_BYTES] != key:
            slot = (slot + 1) & self._mask
        return slot

    def _allocate(self, slots: int) -> None:
        self._mask = slots - 1
        self._used = 0
        self._keys = bytearray(slots * KEY_BYTES)
        self._values = array("Q", bytes(slots * 8))

    def _grow(self) -> None:
        keys, values = self._keys, self._values
        self._allocate(2 * (self._mask + 1))
        for slot, value in enumerate(values):
            if value:
                self.put(bytes(keys[slot * KEY_BYTES : slot * KEY_BYTES + KEY_BYTES]), value)


_PAGE = 4096


class Spool:
    """
    Lines in a temporary file that is gone with the process.

    Places are handed out before lines are written, so that one thread may decide the order and another may write.

    :raises SegmindEnrichmentError: the temporary folder takes no file.
    """

    def __init__(self) -> None:
        try:
            self._descriptor, name = tempfile.mkstemp(prefix="segmind-spool-")
            # Without a name the file goes with its descriptor, however the process ends.
            Path(name).unlink()
        except OSError as error:
            raise _full(error, "Nothing was sent in this try") from error
        self.trouble: SegmindEnrichmentError | None = None
        self._written = self._next = 0
        self._kept: dict[int, bytes] = {}
        self._release = weakref.finalize(self, os.close, self._descriptor)
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete the file."""
        self._release()

    def reserve(self, line: bytes) -> int:
        """Return the place of a line that will be the next to be written."""
        place = self._end
        self._end += len(line) + 1
        return place

    def write(self, lines: list[bytes]) -> None:
        """Write lines in the order in which their places were reserved; see :attr:`trouble`."""
        if self.trouble is None:
            try:
                self._write(lines)
            except OSError as error:
                self.trouble = _full(error, "Nothing more is asked; what was answered is in the ledger")
            else:
                return
        for line in lines:
            self._kept[self._next] = line
            self._next += len(line) + 1

    def _write(self, lines: list[bytes]) -> None:
        data = memoryview(b"".join(line + b"\n" for line in lines))
        size = len(data)
        while data:
            data = data[os.write(self._descriptor, data) :]
        # What a full disk took of the last lines lies behind this, and is not read.
        self._written = self._next = self._written + size

    def read(self, place: int) -> bytes:
        """Return one line."""
        if place >= self._written:
            try:
                return self._kept[place]
            except KeyError:
                raise EOFError(f"no line at place {place}") from None
        length = _PAGE
        while True:
            data = os.pread(self._descriptor, length, place)
            end = data.find(b"\n")
            if end >= 0:
                return data[:end]
            if len(data) < length:
                raise EOFError(f"no whole line at place {place}")
            length *= 4

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield every line written so far with its place, in order."""
        place, rest, at = 0, b"", 0
        while data := os.pread(self._descriptor, min(1 << 18, self._written - at), at):
            at += len(data)
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield place, line
                place += len(line) + 1
        yield from list(self._kept.items())


def _full(error: OSError, meaning: str) -> SegmindEnrichmentError:
    return SegmindEnrichmentError(
        f"The temporary folder of the worker cannot hold working files: {error}. {meaning}. Free space there, or set "
        "TMPDIR to a folder that has it; a retry goes on.",
        retryable=True,
    )
