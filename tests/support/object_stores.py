"""A fake object store: a dict of whole objects behind the path methods that the enrichment uses."""

from __future__ import annotations

import fnmatch
import io
from collections.abc import Callable, Iterator
from typing import Any


class _Upload(io.BytesIO):
    def __init__(self, store: ObjectStore, key: str) -> None:
        super().__init__()
        self._store, self._key = store, key

    def write(self, data: Any) -> int:
        if self._store.broken:
            raise OSError("the store is out of reach")
        return super().write(data)

    def discard(self) -> None:
        super().close()

    def close(self) -> None:
        if not self.closed:
            self._store.before_put()
            self._store.objects[self._key] = self.getvalue()
            self._store.after_put()
        super().close()


class ObjectStore:
    """Objects by key; there are no folders, and no append."""

    def __init__(self, protocol: str = "s3") -> None:
        self.protocol = protocol
        self.objects: dict[str, bytes] = {}
        self.broken = False
        self.before_put: Callable[[], None] = lambda: None
        self.after_put: Callable[[], None] = lambda: None
        self.during_listing: Callable[[], None] = lambda: None
        self.shows_change: Callable[[], bool] = lambda: True
        """Whether a listing contains what was added or removed during it: object stores guarantee neither."""

    def view(self) -> ObjectStore:
        """Return the same objects as another process sees them, with its own failures."""
        view = ObjectStore(self.protocol)
        view.objects = self.objects
        return view

    def path(self, key: str) -> ObjectPath:
        return ObjectPath(self, key)


class ObjectPath:
    """One key of an :class:`ObjectStore`."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self.store, self.key, self.protocol = store, key.strip("/"), store.protocol

    def __str__(self) -> str:
        return f"{self.protocol}://{self.key}"

    def __truediv__(self, other: str) -> ObjectPath:
        return ObjectPath(self.store, f"{self.key}/{other}")

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.store, self.key.rpartition("/")[0])

    def open(self, mode: str = "rb") -> Any:
        if "w" in mode:
            return _Upload(self.store, self.key)
        if self.key not in self.store.objects:
            raise FileNotFoundError(self.key)
        return io.BytesIO(self.store.objects[self.key])

    def exists(self) -> bool:
        return self.key in self.store.objects or self.is_dir()

    def is_dir(self) -> bool:
        return any(key.startswith(f"{self.key}/") for key in list(self.store.objects))

    def iterdir(self) -> Iterator[ObjectPath]:
        before = [key for key in list(self.store.objects) if self._holds(key)]
        self.store.during_listing()
        after = [key for key in list(self.store.objects) if self._holds(key)]
        changed = [key for key in (*before, *after) if (key in before) != (key in after)]
        listed = [key for key in before if key in after] + [key for key in changed if self.store.shows_change()]
        return iter([self / key.removeprefix(f"{self.key}/") for key in listed])

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        return (path for path in self.iterdir() if fnmatch.fnmatch(path.name, pattern))

    def unlink(self, missing_ok: bool = False) -> None:
        self.store.before_put()
        if self.store.objects.pop(self.key, None) is None and not missing_ok:
            raise FileNotFoundError(self.key)

    def replace(self, target: ObjectPath) -> None:
        self.store.objects[target.key] = self.store.objects.pop(self.key)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        pass

    def _holds(self, key: str) -> bool:
        return key.startswith(f"{self.key}/") and "/" not in key.removeprefix(f"{self.key}/")
