"""
A table whose source, ledger and output are in an object store that takes 30 ms a call, beside the local disk.

The store is a file system of fsspec over a local folder that sleeps where an object store has a round trip: 30 ms to
put, list (for each 1,000 names), delete or stat an object, and to get one (with another to ask for its size first, as
fsspec does). It is attached to Airflow like any other store.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from benchmarks import processes
from benchmarks.measure import Measure, versus
from benchmarks.processes import AIOHTTP, DEFAULT, Figures
from benchmarks.rows import TaskInstance, load, measured, operator, table_of
from benchmarks.server import running
from benchmarks.table import ANSWER

GOAL = 0.6
DELAY = 0.03
LISTED = 1000
"""Names that one call of a store lists."""


@dataclass(frozen=True)
class Size:
    """
    How much is measured, and how often.

    :param rows: of the table whose requests take a second, as those of the fastest models do.
    :param at_once: of the table whose requests take no time, so that only the store and the CPU count.
    """

    rows: int = 1000
    at_once: int = 3000
    turns: int = 2


class SlowStore(LocalFileSystem):
    """An object store on the local disk."""

    protocol = "memory"
    calls: ClassVar[Counter[str]] = Counter()
    listings: ClassVar[dict[tuple[int, str], list[str]]] = {}
    lock = threading.Lock()

    def call(self, kind: str, times: int = 1) -> None:
        with self.lock:
            self.calls[kind] += times
        time.sleep(DELAY * times)

    def _strip(self, path: str) -> str:
        return "/" + str(path).removeprefix("memory://").strip("/")

    def ls(self, path: str, detail: bool = False, **kwargs: Any) -> Any:
        folder = self._strip(path)
        names = self.listings.pop((threading.get_ident(), folder), None) or self._list(folder)
        return [self._about(name) for name in names] if detail else names

    def isdir(self, path: str) -> bool:
        # Clients of stores list a folder for this, and keep the listing for who asks next.
        folder = self._strip(path)
        with contextlib.suppress(FileNotFoundError):
            self.listings[threading.get_ident(), folder] = self._list(folder)
            return True
        return False

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget what :meth:`isdir` has listed."""
        self.listings.clear()

    def _list(self, folder: str) -> list[str]:
        names = [f"{folder}/{name}"[1:] for name in os.listdir(folder)] if Path(folder).is_dir() else []  # noqa: PTH208
        self.call("list", 1 + len(names) // LISTED)
        if not Path(folder).is_dir():
            raise FileNotFoundError(folder)
        return names

    def _about(self, name: str) -> dict[str, Any]:
        path = Path(self._strip(name))
        return {"name": name, "size": path.stat().st_size, "type": "directory" if path.is_dir() else "file"}

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        self.call("stat")
        return self._about(str(path).removeprefix("memory://").strip("/"))

    def exists(self, path: str, **kwargs: Any) -> bool:
        self.call("stat")
        return Path(self._strip(path)).exists()

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """No-op: a store has no folders."""

    makedirs = mkdir

    def rm_file(self, path: str) -> None:
        self.call("delete")
        Path(self._strip(path)).unlink()

    def _rm(self, path: str) -> None:
        self.rm_file(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        for one in [path] if isinstance(path, str) else path:
            self.rm_file(one)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        self.call("get")
        return Path(self._strip(path)).read_bytes()[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self.call("put")
        target = Path(self._strip(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(value)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if "w" in mode:
            return _Upload(self, path)
        self.call("stat")
        return io.BytesIO(self.cat_file(path))


class _Upload(io.BytesIO):
    def __init__(self, store: SlowStore, path: str) -> None:
        super().__init__()
        self._store, self._path = store, path

    def discard(self) -> None:
        super().close()

    def close(self) -> None:
        if not self.closed:
            self._store.pipe_file(self._path, self.getvalue())
        super().close()


@contextmanager
def answered(rows: int, seconds: float, *, install: str, slow: bool) -> Iterator[Figures]:
    """Have a table answered, with all of its files in the store or on the local disk."""
    with table_of(rows) as table, running(answer=ANSWER, seconds=seconds) as server:
        job = {"folder": str(table.folder), "url": server.url, "slow": slow}
        figures = processes.figures_of("slow_store", job, install=install)
        if wrong := table.check():
            raise RuntimeError(f"the output is not right: {wrong}")
        yield figures


def measures(size: Size) -> list[Measure]:
    """Compare rows per second, in turn."""
    return [
        measure
        for install in (DEFAULT, AIOHTTP)
        for rows, seconds in ((size.rows, 1.0), (size.at_once, 0.0))
        for measure in _compared(rows, seconds, size.turns, install)
    ]


def _compared(rows: int, seconds: float, turns: int, install: str) -> list[Measure]:
    pairs, calls = [], []
    for _ in range(turns):
        with answered(rows, seconds, install=install, slow=True) as store:
            pass
        with answered(rows, seconds, install=install, slow=False) as local:
            pass
        pairs.append((rows / store["seconds"], rows / local["seconds"]))
        calls.append(store["calls"])
    name = f"requests of {seconds:.0f} s, storage of {DELAY * 1000:.0f} ms a call"
    rate = versus(f"rows per second, {name}, to local", install, pairs, unit="rows/s", goal=GOAL, at_least=True)
    each = statistics.median(calls) / rows * 1000
    return [rate, Measure(f"calls of the storage per 1,000 rows, {name}", install, each, "calls", 1000.0)]


def child(job: dict[str, Any]) -> None:
    """Do one job."""
    folder, paths = job["folder"], {}
    # On a busy machine six heartbeats in five seconds are too many.
    os.environ["AIRFLOW__SEGMIND__WRITER_TIMEOUT"] = "60"
    if job["slow"]:
        from airflow.sdk.io import attach

        fsspec.register_implementation("memory", SlowStore, clobber=True)
        attach("memory", fs=SlowStore())
        paths = {"source": f"memory://{folder}/source.jsonl", "output_path": f"memory://{folder}/output.jsonl"}
    load()
    task = operator(folder, job["url"], **paths)
    _, figures = measured(lambda: task.execute({"ti": TaskInstance()}))
    processes.report({**figures, "calls": sum(SlowStore.calls.values()), **SlowStore.calls})


if __name__ == "__main__":
    child(json.loads(sys.argv[1]))
