"""Working copies on the worker's own disk, so that memory does not grow with the table."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_PAGE = 4096


class Spool:
    """
    Lines in a temporary file that is gone with the process.

    Places are handed out before lines are written, so that one thread may decide the order and another may write.
    """

    def __init__(self) -> None:
        self._descriptor, name = tempfile.mkstemp(prefix="segmind-spool-")
        # Without a name the file goes with its descriptor, however the process ends.
        Path(name).unlink()
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
        """Write lines in the order in which their places were reserved."""
        data = memoryview(b"".join(line + b"\n" for line in lines))
        while data:
            data = data[os.write(self._descriptor, data) :]

    def read(self, place: int) -> bytes:
        """Return one line."""
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
        while data := os.pread(self._descriptor, 1 << 18, at):
            at += len(data)
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield place, line
                place += len(line) + 1
