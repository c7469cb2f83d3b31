"""
Files in any store: path objects that can open, list and delete.

``pathlib.Path`` is one; so is any wrapper of an object store with the same methods. A file is written whole: its reader
finds all of it or nothing, even when the writer is killed halfway.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Protocol, TypeGuard, TypeVar

T = TypeVar("T")

WHOLE_PUT_PROTOCOLS = frozenset(
    {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "r2", "wasb", "memory"}
)
"""Stores where an object appears when its upload is complete; elsewhere a second name and a rename are needed."""
SMALL = 32 << 20
"""Bytes of an upload that are collected in memory."""
_REFUSALS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
        *(errno.ENAMETOOLONG, errno.EINVAL, errno.ENOENT),
    }
)


class StorePath(Protocol):
    """A path in a store: a ``pathlib.Path`` or an equivalent for object stores."""

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
        """Return whether it exists."""

    def is_dir(self) -> bool:
        """Return whether it is a folder."""

    def iterdir(self) -> Iterator[Any]:
        """List a folder."""

    def glob(self, pattern: str, /) -> Iterator[Any]:
        """List what matches a pattern."""

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


def is_on_local_disk(path: object) -> bool:
    """Return whether a path is on the local disk, wrapped or not."""
    return _protocol(path) in ("", "file", "local")


def is_refusal(error: BaseException) -> bool:
    """Return whether a store would refuse the same write again, as opposed to one that has failed for now."""
    return isinstance(error, PermissionError) or getattr(error, "errno", None) in _REFUSALS


def make_folder(path: StorePath) -> None:
    """Create a folder and those above it, if the store has folders; on a local disk they survive a power failure."""
    if not _is_local(path):
        path.mkdir(parents=True, exist_ok=True)
        return
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in made:
        _sync_folder(folder.parent)


def list_names(folder: StorePath) -> list[str]:
    """
    Return the names in a folder as they are in the store now, bypassing the client's cache of listings.

    :raises FileNotFoundError: the folder does not exist.
    """
    _forget_listings(folder)
    return [path.name for path in folder.iterdir()]


def names_if_any(folder: StorePath) -> list[str]:
    """
    Return the names in a folder, as :func:`list_names`; none if it does not exist.

    :raises OSError: it cannot be listed, which is not the same as absent.
    """
    try:
        return list_names(folder)
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        # universal_pathlib says so of a folder that does not exist, and of any that the store cannot tell it about.
        if not is_absent(folder):
            raise
        return []


def is_absent(path: StorePath) -> bool:
    """
    Return whether the store says that a path does not exist; :meth:`StorePath.exists` says so after any error, too.

    :raises OSError: the store does not say.
    """
    fs: Any = None if _is_local(path) else getattr(path, "fs", None)
    if fs is None:
        return not path.exists()
    try:
        fs.info(_key(path))
    except FileNotFoundError:
        return True
    return False


def read_now(path: StorePath) -> bytes:
    """Return the content of a file that may have been overwritten, bypassing the client's cache."""
    _forget_listings(path.parent)
    with path.open("rb") as file:
        content: bytes = file.read()
    return content


def read_at_once(path: StorePath) -> bytes:
    """
    Return the content of a small file; one call of an object store, where opening a file asks for its size first.

    :raises FileNotFoundError: it does not exist.
    """
    fs: Any = None if _is_local(path) else getattr(path, "fs", None)
    content: bytes
    if fs is not None:
        content = fs.cat_file(_key(path))
    else:
        with path.open("rb") as file:
            content = file.read()
    return content


STORE_CALLS = 8
"""Calls of an object store at a time where many files are read or deleted; each takes tens of milliseconds."""


def for_each(paths: Sequence[StorePath], work: Callable[[StorePath], T]) -> Iterator[T]:
    """Yield what a function returns for each path, in order; several at a time unless they are on the local disk."""
    if len(paths) < 2 or _is_local(paths[0]):
        yield from map(work, paths)
        return
    pool = ThreadPoolExecutor(STORE_CALLS, "segmind-storage")
    pending: deque[Future[T]] = deque()
    try:
        for path in paths:
            pending.append(pool.submit(work, path))
            if len(pending) >= STORE_CALLS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def delete(path: StorePath) -> None:
    """Delete a file if it exists; one call of an object store, where paths ask first whether it does."""
    fs: Any = None if _is_local(path) else getattr(path, "fs", None)
    with contextlib.suppress(FileNotFoundError):
        if fs is not None:
            fs.rm(_key(path))
        else:
            path.unlink()


def write_at_once(path: StorePath, content: bytes) -> None:
    """
    Write a small file whole; one call of an object store.

    The folder is created only where the store says that it is missing.
    """
    fs: Any = getattr(path, "fs", None)
    if fs is not None and _protocol(path) in WHOLE_PUT_PROTOCOLS:
        fs.pipe_file(_key(path), content)
        return
    try:
        _write_file(path, content)
    except FileNotFoundError:
        make_folder(path.parent)
        _write_file(path, content)


def overwrite(path: StorePath, content: bytes) -> None:
    """
    Replace the content of a small file whose name stays in the folder for concurrent listings.

    On a local disk a reader may find it empty or cut short.
    """
    if _is_local(path):
        with path.open("wb") as file:
            file.write(content)
    else:
        _upload(io.BytesIO(content), path)


def move(names: Sequence[str], source: StorePath, target: StorePath) -> list[str]:
    """
    Rename files durably into another folder if the store can do that at no cost; one that is missing was moved before.

    :returns: the names that stay where they are.
    """
    if not (_is_local(source) and _is_local(target)):
        return list(names)
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            (source / name).replace(target / name)
    if names:
        _sync_folder(target)
    return []


def caching_mount(path: StorePath) -> str | None:
    """Return the options of the NFS mount that a local path is on, if its clients may see stale listings."""
    if not _is_local(path):
        return None
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    # A link may point to the mount.
    return stale_options(Path(os.path.realpath(path)), mounts)


def stale_options(path: Path, mounts: Iterable[str]) -> str | None:
    """
    Return whether a path is on an NFS mount whose clients cache listings and attributes; EFS is mounted as NFS.

    :param mounts: lines as in ``/proc/mounts``.
    """
    above = {str(folder) for folder in (path, *path.parents)}
    found = ("", "", "")
    for line in mounts:
        fields = line.split(" ")
        if len(fields) > 3 and (point := fields[1].replace("\\040", " ")) in above and len(point) >= len(found[0]):
            found = (point, fields[2], fields[3])
    _, kind, options = found
    given = set(options.split(","))
    uncached = "noac" in given or {"actimeo=0"} <= given or {"acdirmin=0", "acdirmax=0", "acregmax=0"} <= given
    if kind not in ("nfs", "nfs4") or (uncached and given & {"lookupcache=none", "lookupcache=0"}):
        return None
    return options


@contextlib.contextmanager
def write_whole(path: StorePath) -> Iterator[IO[bytes]]:
    """
    Open a file for writing bytes that appears under its name when the block ends, and never when it fails.

    The parent folder of a local path must exist. If the store has no rename, the content is first collected on
    the local disk, because closing a half-written upload would publish it.
    """
    if _is_local(path):
        with _renamed(path) as file:
            yield file
        return
    # Small files, such as segments of a ledger, do not depend on the local disk.
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
            # Otherwise a machine that loses power can keep the name and lose the bytes.
            os.fsync(file.fileno())
        temporary.replace(path)
        # The bytes are useless without the name, which is in the folder.
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems (FUSE, SMB) cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def _forget_listings(folder: StorePath) -> None:
    """Drop the listings that fsspec caches."""
    fs: Any = getattr(folder, "fs", None)
    forget = getattr(fs, "invalidate_cache", None)
    if forget is None:
        return
    try:
        forget(_key(folder))
    except TypeError:
        forget()


def _write_file(path: StorePath, content: bytes) -> None:
    with write_whole(path) as file:
        file.write(content)


def _key(path: StorePath) -> str:
    """Return the name by which a file system of fsspec knows a path."""
    return str(getattr(path, "path", path))


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
    """Return whether a path is plainly local; universal_pathlib before 0.3 derives those of object stores from it."""
    return isinstance(path, Path) and not _protocol(path)


def _protocol(path: object) -> str:
    protocol = getattr(path, "protocol", "")
    return str(protocol[0] if isinstance(protocol, (list, tuple)) and protocol else protocol)
