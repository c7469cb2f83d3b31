"""
What the bulk room asks of a place that holds files: any path object that can open, list and delete.

``pathlib.Path`` is one; so is whatever wraps an object store in the same methods. A file is written whole: its reader
finds all of it or none, also when the writer is killed half way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol, TypeGuard

WHOLE_PUT_PROTOCOLS = frozenset(
    {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "r2", "wasb", "memory"}
)
"""Stores where an object appears when its upload is complete; elsewhere a second name and a rename are needed."""


SMALL = 32 << 20
"""Bytes of an upload that are collected in memory."""


class StorePath(Protocol):
    """A path in some store; both ``pathlib.Path`` and its look-alikes for object stores fit."""

    @property
    def name(self) -> str:
        """The last part of the path."""

    @property
    def parent(self) -> StorePath:
        """The folder."""

    def __truediv__(self, other: str, /) -> StorePath: ...

    def open(self, mode: str, /) -> IO[Any]:
        """Open the file."""

    def exists(self) -> bool:
        """Tell whether something is there."""

    def is_dir(self) -> bool:
        """Tell whether it is a folder."""

    def iterdir(self) -> Iterator[Any]:
        """List a folder."""

    def glob(self, pattern: str, /) -> Iterator[Any]:
        """List what fits a pattern."""

    def unlink(self, missing_ok: bool = ...) -> None:
        """Delete the file."""

    def mkdir(self, mode: int = ..., parents: bool = ..., exist_ok: bool = ...) -> None:
        """Create a folder."""


def store_path(path: str | os.PathLike[str] | StorePath) -> StorePath:
    """Return a path object; one that only wraps the local disk becomes a plain local path, which can rename."""
    if _protocol(path) in ("file", "local"):
        return Path(str(getattr(path, "path", path)))
    if isinstance(path, str) or _is_local(path):
        return Path(path)
    return path  # type: ignore[return-value]


def make_folder(path: StorePath) -> None:
    """Create a folder and those above it, where the store knows folders."""
    path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def write_whole(path: StorePath) -> Iterator[IO[bytes]]:
    """
    Open a file for writing bytes that appears under its name when the block ends, and never when it fails.

    The parent folder of a local path must exist. What is written is first collected on the local disk where the store
    has no rename, because closing a half-written upload would publish it.
    """
    if _is_local(path):
        with _renamed(path) as file:
            yield file
        return
    # What is small, as a segment of a ledger is, does not depend on the local disk.
    with tempfile.SpooledTemporaryFile(SMALL) as collected:
        yield collected
        collected.seek(0)
        if _protocol(path) in WHOLE_PUT_PROTOCOLS:
            _upload(collected, path)
        else:
            temporary: Any = path.parent / temporary_name(path.name)
            _upload(collected, temporary)
            temporary.replace(path)


def temporary_name(name: str) -> str:
    """Return the name under which a file is written before it is whole; readers ignore it."""
    return f".{name}.{uuid.uuid4().hex[:8]}.tmp"


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator[IO[bytes]]:
    temporary = path.with_name(temporary_name(path.name))
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            # Without it a machine that loses power can keep the name and lose the bytes.
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _upload(source: IO[bytes], path: StorePath) -> None:
    target = path.open("wb")
    try:
        shutil.copyfileobj(source, target, 1 << 20)
    except BaseException:
        # Closing would publish what was sent so far; stores that can drop an upload say so with this method.
        getattr(target, "discard", lambda: None)()
        raise
    target.close()


def _is_local(path: object) -> TypeGuard[Path]:
    """Tell a plain local path from one of an object store, which universal_pathlib before 0.3 derives from it."""
    return isinstance(path, Path) and not _protocol(path)


def _protocol(path: object) -> str:
    protocol = getattr(path, "protocol", "")
    return str(protocol[0] if isinstance(protocol, (list, tuple)) and protocol else protocol)
