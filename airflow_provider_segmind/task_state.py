"""
Where the submission record of a task instance is kept, so that it survives a retry.

XCom cannot do this: Airflow deletes a task instance's XComs when the next try starts. The record is written to object
storage under ``state_path`` where one is set, else to Airflow's task state store where the version has one (3.3), else
to an Airflow Variable. With the latter two a copy is written under ``output_path``: Airflow may empty its store
(``[state_store] clear_on_success``, a button of its UI), and old Variables are deleted. The copy alone is not enough,
as an ``output_path`` can be a folder of one worker.

Every store that may have a record is read. A record in none of them means a first try. A store that cannot be read
raises, so that the task stops and can be retried: unknown is not absent.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_segmind.client.submission import SubmissionRecord, latest
from airflow_provider_segmind.compat import airflow_version, conf
from airflow_provider_segmind.enrichment.storage import make_folder, store_path, write_whole
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindStateError
from airflow_provider_segmind.stores import missing_package
from airflow_provider_segmind.variables import read_variable

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import Context


log = logging.getLogger(__name__)
STATE_KEY = "segmind_request"
RECORD_FOLDER = "_segmind_state"
"""Folder for records under an ``output_path``; readers of tables ignore names that start with ``_``."""
VARIABLE_RETENTION_DAYS = 30
INDEX_LISTS = 64
"""Variables that list the indexes, so that many tasks that begin at once rarely write the same one."""
MOST_CLEANED = 20
"""Indexes of other tasks that one task cleans up; each takes three calls of Airflow's API, and each record two."""
MOST_DELETED = 100
"""Old records of its own that one task reads, and deletes if allowed; as many again of other tasks."""
RECHECK = 86_400.0
"""Minimum seconds before an index with records that must stay is checked again."""
LAST_KEEPING = (3, 3)
"""The newest Airflow known to keep task state when a task is cleared; later ones may not (#72100, #72929)."""
_NO_FOLDER = (errno.ENOTDIR, errno.ENAMETOOLONG)
"""Errors of a path that cannot be a folder."""
LONGEST_NAME = 150
"""Characters of an id in a file name; file systems allow 255 bytes, the suffix while writing included."""


def _read_variable(key: str) -> str | None:
    return read_variable(
        key,
        "An earlier try would have recorded its request there. Nothing is submitted until it can be read; a retry "
        "reads it again.",
    )


class TaskState(ABC):
    """Stores the submission record of one task instance."""

    name: str
    setting: str | None = None
    """The argument or setting that names the store, None for one of Airflow's own."""
    warning: str | None = None
    """What clearing the finished task would cost and why, None when it costs nothing."""

    @abstractmethod
    def read(self) -> SubmissionRecord | None:
        """
        Return the record, None when no try has written one.

        :raises Exception: any error of the store when it cannot be read; the task can be retried.
        """

    @abstractmethod
    def write(self, record: SubmissionRecord) -> None:
        """Store the record durably before returning."""


class AirflowTaskState(TaskState):
    """The task state store of Airflow 3.3 and later: shared by all tries of one task instance."""

    name = "Airflow's task state store"

    def __init__(self, store: Any, part: str = "") -> None:
        self._store = store
        self._key = f"{STATE_KEY}_{part}" if part else STATE_KEY

    def read(self) -> SubmissionRecord | None:
        """Read the record."""
        value = self._store.get(self._key)
        return None if value is None else SubmissionRecord.from_json(value)

    def write(self, record: SubmissionRecord) -> None:
        """Write the record."""
        try:
            from airflow_provider_segmind.compat import NEVER_EXPIRE
        except ImportError:
            self._store.set(self._key, record.to_json())
        else:
            self._store.set(self._key, record.to_json(), retention=NEVER_EXPIRE)


class PathTaskState(TaskState):
    """One small JSON file for each task instance on object storage, readable with ``ls`` and ``cat``."""

    name = "object storage"

    def __init__(self, state_path: str, identity: Identity, part: str = "", setting: str = "state_path") -> None:
        from airflow_provider_segmind.compat import untracked_path

        try:
            root = untracked_path(state_path)
        except ValueError as error:
            raise SegmindConfigError(
                f"{setting!r}: {state_path!r} cannot be a folder for records of requests: {error}. Nothing was sent."
            ) from error
        self._folder = _folder_of(root, identity)
        name = f"{_name('task_id', identity.task_id)}{identity.index}"
        self._file = self._folder / (f"{name}.{part}.json" if part else f"{name}.json")
        self.name = f"object storage ({self._file})"
        self.setting = setting

    def read(self) -> SubmissionRecord | None:
        """Read the record."""
        try:
            text = self._file.read_text()
        except FileNotFoundError:
            return None
        except (ImportError, ValueError) as error:
            if package := missing_package(str(self._file), error):
                raise SegmindConfigError(
                    f"The folder for records of requests is {str(self._folder)!r}, in a storage system that this "
                    f"Airflow does not support: install {package} where tasks and triggers run ({error}). Nothing was "
                    f"sent."
                ) from error
            raise
        return _decode(text)

    def write(self, record: SubmissionRecord) -> None:
        """Write the record; on a file system, atomically and synced to disk."""
        text = json.dumps(record.to_json())
        if self._file.protocol not in ("file", "local", ""):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file.write_text(text)
            return
        file = store_path(self._file)
        make_folder(file.parent)
        with write_whole(file) as whole:
            whole.write(text.encode())


def records_under(state_path: str, identity: Identity) -> Iterator[SubmissionRecord]:
    """
    Yield the records of a task instance under a ``state_path``: one for each of its requests.

    :raises SegmindStateError: one cannot be read.
    :raises OSError: or another error of the store.
    """
    from airflow_provider_segmind.compat import ObjectStoragePath, with_root

    folder = _folder_of(ObjectStoragePath(with_root(state_path)), identity)
    name = f"{_name('task_id', identity.task_id)}{identity.index}"
    for file in sorted(folder.iterdir(), key=str) if folder.is_dir() else ():
        if file.name == f"{name}.json" or (file.name.startswith(f"{name}.") and file.name.endswith(".json")):
            yield _decode(file.read_text())


class VariableTaskState(TaskState):
    """
    An Airflow Variable for each task instance, which any Airflow has.

    Before Airflow 3.3 no task can list Variables, so index Variables name the Variables of each task, and one more
    names the index Variables.
    Adding a record deletes some records older than ``[segmind] variable_retention_days``, of this task and of others.
    """

    name = "an Airflow Variable"

    def __init__(self, identity: Identity, part: str = "", clock: Callable[[], float] = time.time) -> None:
        task = quote(identity.task_id, safe="") + identity.index
        text = "\x1f".join((identity.dag_id, identity.run_id, task, *([part] if part else [])))
        self._key = f"segmind_request_{hashlib.sha256(text.encode()).hexdigest()[:40]}"
        self._about = f"{identity.dag_id} {identity.run_id} {task}"
        self.name = f"the Airflow Variable {self._key!r}"
        self._index = VariableIndex(identity)
        self._clock = clock

    def read(self) -> SubmissionRecord | None:
        """Read the record."""
        text = _read_variable(self._key)
        return None if text is None else _decode(text)

    def write(self, record: SubmissionRecord) -> None:
        """Write the record, after adding its Variable to those that are deleted when they are old."""
        from airflow_provider_segmind.compat import Variable

        self._index.enter(self._key, self._clock())
        Variable.set(self._key, json.dumps(record.to_json()), description=f"Segmind request of {self._about}")


class VariableIndex:
    """
    The Variable that names the record Variables of one task, or of one map index of it, so that old ones are deleted.

    Two runs that add theirs at the same time can lose an entry, never a record; each checks that its own is there.
    """

    def __init__(self, identity: Identity) -> None:
        task = quote(identity.task_id, safe="") + identity.index
        text = "\x1f".join((identity.dag_id, task))
        self._key = f"segmind_requests_{hashlib.sha256(text.encode()).hexdigest()[:40]}"
        self._about = f"Variables with Segmind requests of {identity.dag_id} {task}"
        self._entered: set[str] = set()

    def enter(self, key: str, now: float) -> None:
        """Add a Variable, and delete some of those that are no longer needed, of this task and of others."""
        if key in self._entered:
            return
        self._entered.add(key)
        try:
            retention = _retention()
            entries = _read_times(self._key)
            for _ in range(3):
                if key in entries and entries[key] >= now - retention:
                    break
                # An old entry of the same record is renewed, so that the record about to be written is not deleted.
                others = {other: added for other, added in entries.items() if other != key}
                left, _ = _without_old(others, now, retention, MOST_DELETED)
                _write_times(self._key, {**left, key: now}, self._about)
                entries = _read_times(self._key)
            if retention < math.inf:
                IndexList.of(self._key).add(self._key, now + retention)
                IndexList.of(key).clean(now, retention)
        except Exception:
            # Cleaning up must not fail a task, whatever the store of Variables raises; the record itself comes next.
            log.warning("Could not clean up the Airflow %s", self._about, exc_info=True)


class IndexList:
    """
    One of the Variables that name all indexes of the deployment, each with the time from which it may be empty.

    A task that is renamed or deleted, or a map index that no longer runs, leaves Variables that it does not clean up
    itself; the next tasks that record a request do that, a few Variables at a time.
    """

    def __init__(self, number: int) -> None:
        self._key = f"segmind_lists_{number:02d}"

    @classmethod
    def of(cls, key: str) -> IndexList:
        """Return the list to which a key belongs."""
        return cls(int(key[-8:], 16) % INDEX_LISTS)

    def add(self, index: str, due: float) -> None:
        """Add an index; one that is listed already stays as it is."""
        for _ in range(3):
            listed = _read_times(self._key)
            if index in listed:
                return
            self._write({**listed, index: due})

    def clean(self, now: float, retention: float) -> None:
        """Delete old records of a few indexes, and the indexes that have none left."""
        listed = _read_times(self._key)
        due = sorted((index for index in listed if listed[index] <= now), key=lambda index: listed[index])
        changed: dict[str, float | None] = {}
        most = MOST_DELETED
        for index in due[:MOST_CLEANED]:
            if most > 0:
                changed[index], read = self._clean_index(index, now, retention, most)
                most -= read
        if changed:
            # Read again, because another task may have added its index in the meantime.
            times = {**_read_times(self._key), **changed}
            if left := {index: at for index, at in times.items() if at is not None}:
                self._write(left)
            else:
                _delete_variable(self._key)

    @staticmethod
    def _clean_index(index: str, now: float, retention: float, most: int) -> tuple[float | None, int]:
        """Return from when the index may be empty, None if it is, and how many records were read."""
        entries = _read_times(index)
        left, read = _without_old(entries, now, retention, most)
        if _read_times(index) != entries:
            # Its task has added a record meanwhile, which must not be lost from the index.
            return now + RECHECK, read
        if not left:
            # A Variable that somebody has deleted by hand is not deleted again: some versions refuse that.
            if entries:
                _delete_variable(index)
            return None, read
        if left != entries:
            _write_times(index, left, "Variables with Segmind requests")
        return now if read >= most else max(now + RECHECK, max(left.values()) + retention), read

    def _write(self, listed: dict[str, float]) -> None:
        _write_times(self._key, listed, "Variables that list those with Segmind requests")


def _retention() -> float:
    """Return for how many seconds a record is kept, infinity for ever."""
    days = conf.getint("segmind", "variable_retention_days", fallback=VARIABLE_RETENTION_DAYS)
    return days * 86_400.0 if days > 0 else math.inf


def _read_times(key: str) -> dict[str, float]:
    text = _read_variable(key)
    try:
        return {str(name): float(at) for name, at in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        log.warning("The Airflow Variable %s, which lists other Variables, is unreadable; starting a new one", key)
        return {}


def _write_times(key: str, times: dict[str, float], about: str) -> None:
    from airflow_provider_segmind.compat import Variable

    Variable.set(key, json.dumps(times), description=about)


def _delete_variable(key: str) -> None:
    from airflow_provider_segmind.compat import Variable

    Variable.delete(key)


def _without_old(entries: dict[str, float], now: float, retention: float, most: int) -> tuple[dict[str, float], int]:
    """Delete old records, return the other entries and how many records were read, the given number at most."""
    old = sorted((key for key in entries if entries[key] < now - retention), key=lambda key: entries[key])[:most]
    left = dict(entries)
    for key in old:
        if _delete_record(key, now - retention):
            del left[key]
        else:
            # A record that must stay is read again only after the retention, not by every task.
            left[key] = now
    return left, len(old)


def _delete_record(key: str, oldest: float) -> bool:
    """Delete a record unless it is in use, or the outcome of its POST is unknown; return whether it is gone."""
    text = _read_variable(key)
    if text is None:
        return True
    try:
        record = _decode(text)
    except SegmindStateError:
        return False
    if (record.request_id is None and record.outcome is None) or record.age_from >= oldest:
        return False
    _delete_variable(key)
    return True


class CombinedTaskState(TaskState):
    """
    All stores that may have the record of one task instance.

    :param written: where a record is written, to each before the task continues.
    :param others: where an earlier try may have written it, with another setting or on another Airflow.
    """

    def __init__(self, written: Sequence[TaskState], others: Sequence[TaskState], warning: str | None = None) -> None:
        self._written = written
        self._others = others
        self.warning = warning
        self.name = " and ".join(each.name for each in written)

    def read(self) -> SubmissionRecord | None:
        """Return the newest record of all."""
        return latest([record for store in (*self._written, *self._others) for record in _read(store)])

    def write(self, record: SubmissionRecord) -> None:
        """Write the record."""
        for store in self._written:
            _write(store, record)


def _read(store: TaskState) -> Iterator[SubmissionRecord]:
    try:
        record = store.read()
    except SegmindConfigError:
        raise
    except Exception as error:
        if store.setting and getattr(error, "errno", None) in _NO_FOLDER:
            why = getattr(error, "strerror", None)
            refusal = SegmindConfigError(
                f"{store.setting!r}: {store.name} cannot be read: {why}. Nothing is submitted until it can be."
            )
            # An earlier try may have submitted something, and a mount that is missing now may be back for the next try.
            refusal.retryable = True
            raise refusal from error
        error.add_note(
            f"{store.name[:1].upper()}{store.name[1:]} may have the request of an earlier try and cannot be read. "
            "Nothing is submitted until it can be; a retry reads it again."
        )
        raise
    if record is not None:
        yield record


def _write(store: TaskState, record: SubmissionRecord) -> None:
    try:
        store.write(record)
    except Exception as error:
        error.add_note(
            f"{store.name[:1].upper()}{store.name[1:]}, where the request of this task is recorded for a retry, cannot "
            "be written. Nothing is submitted until it can be; a retry finds a request that was already submitted."
        )
        raise


class Identity:
    """The identity of a task instance: DAG, run, task and map index, never the number of the try."""

    def __init__(self, context: Context) -> None:
        instance = context["ti"]
        self.dag_id: str = instance.dag_id
        self.run_id: str = instance.run_id
        index = getattr(instance, "map_index", -1)
        mapped = isinstance(index, int) and index >= 0
        self.task_id: str = instance.task_id
        self.index = f"[{index}]" if mapped else ""


def task_state_for(
    context: Context,
    state_path: str | None,
    part: str = "",
    record_path: str | None = None,
    record_setting: str = "output_path",
) -> TaskState:
    """
    Choose where this task instance's record is written, and where else one may be found.

    :param state_path: folder on object storage, which takes precedence over every other store; the option
        ``state_path`` of the configuration section ``[segmind]`` when None.
    :param part: which of its requests, for a task that submits more than one: letters, digits, ``-`` and ``_``.
    :param record_path: folder for results, None for a task without one; gets a copy where Airflow may empty its store.
    :param record_setting: the argument or setting that names that folder, for errors.
    """
    identity = Identity(context)
    configured = {"state_path": state_path, "[segmind] state_path": conf.get("segmind", "state_path", fallback="")}
    explicit = {str(path): setting for setting, path in reversed(configured.items()) if path}
    roots = dict(reversed(explicit.items()))
    if record_path:
        roots.setdefault(_record_folder(record_path), record_setting)
    paths: list[TaskState] = [PathTaskState(root, identity, part, setting) for root, setting in roots.items()]
    state = context.get("task_state_store")
    stores: list[TaskState] = [] if state is None else [AirflowTaskState(state, part)]
    variable = VariableTaskState(identity, part)
    warning = None
    if explicit:
        written = paths[:1]
    elif stores:
        written = [*stores, *paths]
        warning = None if paths else _cost_of_clearing()
    else:
        written = [variable, *paths]
    others = [each for each in (*stores, *paths, variable) if each not in written]
    return CombinedTaskState(written, others, warning)


def _record_folder(path: str) -> str:
    return f"{str(path).rstrip('/')}/{RECORD_FOLDER}"


def _cost_of_clearing() -> str | None:
    version = airflow_version()
    if conf.getboolean("state_store", "clear_on_success", fallback=False):
        why = "Airflow empties its task state store when this task succeeds ([state_store] clear_on_success is set)"
    elif version[:2] > LAST_KEEPING:
        why = f"Airflow {'.'.join(map(str, version))} may discard the task state of a task that is cleared"
    else:
        return None
    return (
        f"{why}, and this task has neither a state_path nor an output_path: clearing it afterwards submits and pays "
        "again, as does the button 'Clear All Task State Store'. Set state_path, [segmind] state_path or output_path "
        "to keep a record that survives this."
    )


def _folder_of(root: Any, identity: Identity) -> Any:
    return root / _name("dag_id", identity.dag_id) / _name("run_id", identity.run_id)


def _name(kind: str, text: str) -> str:
    """Return the name of a folder or file: readable, never ``..``, and short enough for every file system."""
    quoted = quote(text, safe="")
    if len(quoted) > LONGEST_NAME:
        quoted = f"{quoted[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return f"{kind}={quoted}"


def _decode(text: str) -> SubmissionRecord:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SegmindStateError(
            "The submission record of an earlier try is not JSON. Nothing is submitted until it can be read: repair or "
            "delete the record, then clear the task."
        ) from error
    return SubmissionRecord.from_json(value)
