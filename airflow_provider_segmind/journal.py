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

    def __init__(self, store: Any) -> None:
        self._store = store

    def read(self) -> Note | None:
        """Read the note."""
        value = self._store.get(STATE_KEY)
        return None if value is None else Note.from_json(value)

    def write(self, note: Note) -> None:
        """Write the note."""
        self._store.set(STATE_KEY, note.to_json())


class PathJournal(Journal):
    """One small JSON file for each task instance on object storage, readable with ``ls`` and ``cat``."""

    name = "object storage"

    def __init__(self, state_path: str, identity: Identity) -> None:
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        self._folder = ObjectStoragePath(state_path) / quote(identity.dag_id, safe="") / quote(identity.run_id, safe="")
        self._file = self._folder / f"{identity.task}.json"
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

    def __init__(self, identity: Identity) -> None:
        text = "\x1f".join((identity.dag_id, identity.run_id, identity.task))
        self._key = f"segmind_request_{hashlib.sha256(text.encode()).hexdigest()[:40]}"
        self._about = f"{identity.dag_id} {identity.run_id} {identity.task}"
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
        return None if text is None else _decode(text)

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
        self.task = quote(instance.task_id, safe="") + (f"[{index}]" if mapped else "")


def journal_for(context: Context, state_path: str | None) -> Journal:
    """
    Choose where this task instance's note is kept.

    :param state_path: folder on object storage, for Airflow versions without a task state store; falls back to the
        option ``state_path`` of the configuration section ``[segmind]``.
    """
    store = context.get("task_state_store")
    if store is not None:
        return TaskStateJournal(store)
    path = state_path or conf.get("segmind", "state_path", fallback="")
    return PathJournal(path, Identity(context)) if path else VariableJournal(Identity(context))


def _decode(text: str) -> Note:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SegmindStateError(
            "What an earlier try noted about its request is no JSON. Nothing is submitted until it can be read: "
            "repair or delete the note, then clear the task."
        ) from error
    return Note.from_json(value)
