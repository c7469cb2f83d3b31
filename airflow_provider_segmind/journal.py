"""
Where the note of a task instance's request is kept, so that it survives a retry.

XCom cannot do this: Airflow deletes a task instance's XComs when the next try starts. The note goes to Airflow's task
state store where the version has one (3.3), else to object storage under ``state_path``, else to an Airflow Variable.

Missing means a first try. What cannot be read raises, so that the task stops and can be retried: unknown is not absent.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import conf

from airflow_provider_segmind.api.submission import Note
from airflow_provider_segmind.exceptions import SegmindStateError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

STATE_KEY = "segmind_request"
LONGEST_NAME = 150
"""Characters of an id that a file name holds; file systems take 255 bytes, the other name while writing included."""


class Journal(ABC):
    """Keeps the note of one task instance."""

    name: str

    @abstractmethod
    def read(self) -> Note | None:
        """
        Return the note, None when no try has written one.

        :raises Exception: whatever the store raises when it cannot be read; the task can be retried.
        """

    @abstractmethod
    def write(self, note: Note) -> None:
        """Store the note durably before returning."""


class TaskStateJournal(Journal):
    """The task state store of Airflow 3.3 and later: shared by all tries of one task instance."""

    name = "Airflow's task state store"

    def __init__(self, store: Any, part: str = "") -> None:
        self._store = store
        self._key = f"{STATE_KEY}_{part}" if part else STATE_KEY

    def read(self) -> Note | None:
        """Read the note."""
        value = self._store.get(self._key)
        return None if value is None else Note.from_json(value)

    def write(self, note: Note) -> None:
        """Write the note."""
        self._store.set(self._key, note.to_json())


class PathJournal(Journal):
    """One small JSON file for each task instance on object storage, readable with ``ls`` and ``cat``."""

    name = "object storage"

    def __init__(self, state_path: str, identity: Identity, part: str = "") -> None:
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        root = ObjectStoragePath(state_path)
        self._folder = root / _name("dag_id", identity.dag_id) / _name("run_id", identity.run_id)
        name = f"{_name('task_id', identity.task_id)}{identity.index}"
        self._file = self._folder / (f"{name}.{part}.json" if part else f"{name}.json")
        self.name = f"object storage ({self._file})"

    def read(self) -> Note | None:
        """Read the note."""
        try:
            text = self._file.read_text()
        except FileNotFoundError:
            return None
        return _decode(text)

    def write(self, note: Note) -> None:
        """Write the note; on a file system through a second name, so that no reader ever sees half of it."""
        text = json.dumps(note.to_json())
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._file.protocol not in ("file", "local", ""):
            self._file.write_text(text)
            return
        whole = self._folder / f".{self._file.name}.{os.getpid()}"
        whole.write_text(text)
        Path(whole.path).replace(self._file.path)


class VariableJournal(Journal):
    """An Airflow Variable for each task instance: always there, but nobody cleans it up."""

    name = "an Airflow Variable"

    def __init__(self, identity: Identity, part: str = "") -> None:
        task = quote(identity.task_id, safe="") + identity.index
        text = "\x1f".join((identity.dag_id, identity.run_id, task, *([part] if part else [])))
        self._key = f"segmind_request_{hashlib.sha256(text.encode()).hexdigest()[:40]}"
        self._about = f"{identity.dag_id} {identity.run_id} {task}"
        self.name = f"the Airflow Variable {self._key!r}"

    def read(self) -> Note | None:
        """Read the note."""
        from airflow.providers.common.compat.sdk import Variable

        get: Any = Variable.get
        try:
            text = get(self._key, default=None)
        except TypeError:
            # Airflow 2.11 knows the parameter under another name.
            text = get(self._key, default_var=None)
        if text is None:
            self._raise_unless_missing()
            return None
        return _decode(text)

    def _raise_unless_missing(self) -> None:
        """
        Ask Airflow's API itself whether the Variable is missing.

        Airflow 3.1 and 3.2 report a Variable as missing when the API server could not be asked ("allow fallback" to
        other secrets backends, ``secrets/execution_api.py``), and a first try would pay a second time.
        """
        try:
            from airflow.sdk.execution_time.comms import ErrorResponse, GetVariable
            from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS
        except ImportError:
            # Airflow 2.11 and processes of Airflow itself read the database, which raises.
            return
        from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType

        try:
            answer: Any = SUPERVISOR_COMMS.send(GetVariable(key=self._key))
        except AirflowRuntimeError as error:
            answer = error.error
        if isinstance(answer, ErrorResponse) and answer.error == ErrorType.VARIABLE_NOT_FOUND:
            return
        raise SegmindStateError(
            f"{self.name[:1].upper()}{self.name[1:]}, where an earlier try would have noted its request, cannot be "
            "read. Nothing is submitted until it can be; a retry looks again."
        )

    def write(self, note: Note) -> None:
        """Write the note."""
        from airflow.providers.common.compat.sdk import Variable

        Variable.set(self._key, json.dumps(note.to_json()), description=f"Segmind request of {self._about}")


class Identity:
    """
    Which task instance this is: DAG, run, task and map index, never the number of the try.

    :param context: the context Airflow gives to ``execute``.
    """

    def __init__(self, context: Context) -> None:
        instance = context["ti"]
        self.dag_id: str = instance.dag_id
        self.run_id: str = instance.run_id
        index = getattr(instance, "map_index", -1)
        mapped = isinstance(index, int) and index >= 0
        self.task_id: str = instance.task_id
        self.index = f"[{index}]" if mapped else ""


def journal_for(context: Context, state_path: str | None, part: str = "") -> Journal:
    """
    Choose where this task instance's note is kept.

    :param state_path: folder on object storage, for Airflow versions without a task state store; falls back to the
        option ``state_path`` of the configuration section ``[segmind]``.
    :param part: which of its requests, for a task that submits more than one: letters, digits, ``-`` and ``_``.
    """
    store = context.get("task_state_store")
    if store is not None:
        return TaskStateJournal(store, part)
    path = state_path or conf.get("segmind", "state_path", fallback="")
    return PathJournal(path, Identity(context), part) if path else VariableJournal(Identity(context), part)


def _name(kind: str, text: str) -> str:
    """Return one folder's or file's name: readable, never ``..``, and short enough for every file system."""
    quoted = quote(text, safe="")
    if len(quoted) > LONGEST_NAME:
        quoted = f"{quoted[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return f"{kind}={quoted}"


def _decode(text: str) -> Note:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SegmindStateError(
            "What an earlier try noted about its request is no JSON. Nothing is submitted until it can be read: "
            "repair or delete the note, then clear the task."
        ) from error
    return Note.from_json(value)
