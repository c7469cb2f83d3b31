"""
What is in flight, what was spent and what failed: everything that the command and the page show.

It reads the metadata database with the core models, so it runs where that database is reachable: in the API server and
on the machines of Airflow's components, never in a task. What a task has finished is in its XComs, and what it waits
for is in its submission record and in its trigger. Only tasks of this provider's operators are read.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import or_, select, tuple_

from airflow_provider_segmind.client.submission import SubmissionRecord, latest
from airflow_provider_segmind.defaults import RESULT_LIFETIME
from airflow_provider_segmind.enrichment.dead_letters import DeadLetter, read_letters
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.progress_file import read_progress
from airflow_provider_segmind.exceptions import (
    SegmindEnrichmentError,
    SegmindError,
    SegmindRequestExpiredError,
    SegmindStateError,
)
from airflow_provider_segmind.execution.enrichment import PROGRESS_KEY, TABLE_KEY
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.monitoring.spending import (
    Dimension,
    Spending,
    SpendView,
    grouped,
    spent_by_table,
    spent_by_task,
)
from airflow_provider_segmind.pausing import PAUSE_VARIABLE, reason_in
from airflow_provider_segmind.rendering import subclass_mark
from airflow_provider_segmind.spend.store import configured_store
from airflow_provider_segmind.stores import locate
from airflow_provider_segmind.task_state import STATE_KEY, Identity, records_under

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_provider_segmind.compat import Connection


log = logging.getLogger(__name__)
TABLE_OPERATORS = ("SegmindEnrichFileOperator", "SegmindEnrichSqlOperator")
MERGE_OPERATOR = "SegmindMergeOperator"
REQUEST_OPERATORS = (
    *("SegmindSubmitOperator", "SegmindResultOperator", "SegmindRunOperator", "SegmindChatOperator"),
    *("_SegmindDecoratedOperator", "SegmindRequestSensor"),
)
NO_RECORD = (
    "No spend record is configured ([segmind] spend_path or spend_conn_id), so these are the figures in XComs and "
    "manifests that still exist: a retry, a clear and a clean-up of the database remove them."
)
UNFINISHED = ("running", "deferred", "up_for_retry", "up_for_reschedule", "queued", "scheduled", "restarting")
MOST_RUNS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRef:
    """One task instance; ``try_number`` is its latest try."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    try_number: int = 0

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What identifies the task instance, whatever its try."""
        return self.dag_id, self.run_id, self.task_id, self.map_index

    @property
    def name(self) -> str:
        """The task with its map index."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInFlight:
    """
    A request that a task waits for.

    :param task: None for a request that no task of this deployment is known to wait for.
    :param state: as Segmind names it, None while it was not asked.
    :param connection: id of the Connection.
    :param submitted_at: epoch seconds, None if unknown.
    :param more: further requests of the same running table, which its progress does not list; on the last one listed.
    :param expires_at: epoch seconds after which Segmind no longer has the result.
    """

    request_id: str
    task: TaskRef | None
    state: str | None = None
    model: str | None = None
    connection: str | None = None
    submitted_at: float | None = None
    more: int = 0

    @property
    def expires_at(self) -> float | None:
        """When Segmind drops the result, epoch seconds."""
        return None if self.submitted_at is None else self.submitted_at + RESULT_LIFETIME


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRun:
    """
    One enrichment: one task instance of an operator for tables.

    :param state: of the task instance, as Airflow names it.
    :param manifest: what it has written, even if it then failed; None before that, and if it pushed no XCom.
    :param ledger: where its ledger is, None where that is unknown.
    :param progress: see :class:`~airflow_provider_segmind.enrichment.stats.Progress`; None if unknown.
    :param updated_at: epoch seconds of the progress, else of the task's end or start.
    """

    task: TaskRef
    state: str | None
    manifest: Manifest | None = None
    ledger: str | None = None
    progress: Mapping[str, Any] | None = None
    updated_at: float | None = None


class CoreHook(SegmindHook):
    """The hook for processes that reach the metadata database, where the task SDK may not find its Connections."""

    @classmethod
    def get_connection(cls, conn_id: str) -> Connection:
        """Read a Connection with the core's model."""
        from airflow_provider_segmind.compat import CoreConnection

        found: Any = CoreConnection.get_connection_from_secrets(conn_id)
        return found  # type: ignore[no-any-return]


class Reader:
    """
    Reads one metadata database.

    ``dag_ids`` restricts a figure to the DAGs that a user may read; None is for all of them.

    :param session: of the metadata database.
    :param may_read: which folders of tables it may read from; any by default.
    """

    def __init__(self, session: Session, may_read: Callable[[str], bool] = lambda _: True) -> None:
        self._session = session
        self._may_read = may_read

    def connections(self) -> list[str]:
        """Return the ids of the Connections of type ``segmind`` that the metadata database has."""
        from airflow_provider_segmind.compat import CoreConnection

        query = select(CoreConnection.conn_id).where(CoreConnection.conn_type == CoreHook.conn_type)
        return sorted(self._session.scalars(query))

    def paused(self) -> str | None:
        """Return why spending is paused, None while it is not; read with the core's model."""
        from airflow_provider_segmind.compat import CoreVariable

        return reason_in(CoreVariable.get(PAUSE_VARIABLE, None))

    def in_flight(self, dag_ids: Collection[str] | None = None, model: str | None = None) -> list[RequestInFlight]:
        """
        Return the requests that unfinished tasks wait for, oldest first.

        Those of a table are known from its trigger while its task is deferred, and from the progress in its ledger, at
        most a hundred of them, while it runs.
        """
        from airflow_provider_segmind.compat import TaskInstance, Trigger

        found: dict[str, RequestInFlight] = {}
        tasks = self._tasks((*REQUEST_OPERATORS, *TABLE_OPERATORS), dag_ids, UNFINISHED, TaskInstance.trigger_id)
        triggers = {ref: number for ref, _, number in tasks if number is not None}
        for ref, record in self._records([ref for ref, _, _ in tasks], state_path=_state_path()):
            if record.request_id is not None and record.outcome is None:
                found[record.request_id] = RequestInFlight(
                    request_id=record.request_id,
                    task=ref,
                    model=record.fingerprint.model,
                    connection=record.fingerprint.connection.partition(" at ")[0],
                    submitted_at=record.age_from,
                )
        by_id = {number: ref for ref, number in triggers.items()}
        for one in self._session.scalars(select(Trigger).where(Trigger.id.in_(by_id))) if by_id else ():
            for request in _of_trigger(_arguments(one), by_id[one.id]):
                found[request.request_id] = request
        for request in self._of_running_tables(dag_ids):
            found.setdefault(request.request_id, request)
        wanted = [one for one in found.values() if model in (None, one.model)]
        return sorted(wanted, key=lambda one: (one.submitted_at or 0.0, one.request_id))

    def _of_running_tables(self, dag_ids: Collection[str] | None) -> Iterator[RequestInFlight]:
        """Yield the requests in the progress that running tables keep in their ledgers."""
        running = [ref for ref, _ in self._tasks(TABLE_OPERATORS, dag_ids, ("running",))]
        for ref, xcoms in self._with_xcoms(running, (TABLE_KEY,)):
            _, ledger = _of_table(xcoms)
            kept = _kept_progress(ref, ledger) if ledger is not None and self._may_read(ledger) else None
            if kept is not None and kept.get("try_number") == ref.try_number:
                yield from _of_progress(kept, ref)

    def table_runs(self, dag_ids: Collection[str] | None = None, limit: int = MOST_RUNS) -> list[TableRun]:
        """Return the latest runs of enrichment tasks, newest first, with their manifests and progress."""
        return self._table_runs(dag_ids, limit=limit)

    def table_run(self, task: TaskRef) -> TableRun | None:
        """Return the latest try of one run, None if there is none or its operator is not one for tables."""
        return next(iter(self._table_runs(None, only=task)), None)

    def _table_runs(
        self, dag_ids: Collection[str] | None, *, limit: int | None = None, only: TaskRef | None = None
    ) -> list[TableRun]:
        from airflow_provider_segmind.compat import TaskInstance

        columns = (TaskInstance.start_date, TaskInstance.end_date)
        operators = (*TABLE_OPERATORS, MERGE_OPERATOR)
        tasks = self._tasks(operators, dag_ids, None, *columns, limit=limit, only=only)
        values = self._xcoms([ref for ref, *_ in tasks], ("return_value", TABLE_KEY))
        progress = self._stored_state([ref for ref, *_ in tasks], PROGRESS_KEY)
        runs = []
        for ref, state, start, end in tasks:
            at = end or start
            manifest, ledger = _of_table(values.get(ref.key, {}))
            stored = next(iter(progress.get(ref.key, ())), None)
            if stored is None and ledger is not None and state in UNFINISHED and self._may_read(ledger):
                stored = _kept_progress(ref, ledger)
            current = stored if isinstance(stored, dict) and stored.get("try_number") == ref.try_number else None
            runs.append(
                TableRun(
                    task=ref,
                    state=state,
                    manifest=manifest,
                    ledger=ledger,
                    progress=current,
                    updated_at=(current or {}).get("at") or (at.timestamp() if at else None),
                )
            )
        return runs

    @staticmethod
    def dead_letters(
        manifest: Manifest,
        outcome: str | None = None,
        reason: str | None = None,
        limit: int | None = None,
    ) -> Iterator[DeadLetter]:
        """
        Yield the rows without an answer, in the order of the source.

        :param reason: part of the reason, in any case.
        :raises SegmindError: a file of dead letters cannot be read here.
        """
        count = 0
        for path in manifest.dead_letters:
            for letter in read_letters(locate(path)):
                if outcome not in (None, letter.outcome):
                    continue
                if reason is not None and reason.lower() not in letter.reason.lower():
                    continue
                if limit is not None and count >= limit:
                    return
                count += 1
                yield letter

    def spend(
        self,
        since: float | None = None,
        until: float | None = None,
        by: Sequence[Dimension] = ("dag",),
        dag_ids: Collection[str] | None = None,
    ) -> SpendView:
        """
        Add up what was spent: from the spend record, or without one from XComs and manifests.

        :param since: epoch seconds, included.
        :param until: epoch seconds, excluded.
        :raises SegmindConfigError: the spend record is configured wrongly.
        """
        store = configured_store()
        if store is not None:
            entries = (Spending.of(entry) for entry in store.read(since=since, until=until))
            return grouped(entries, by, source="spend record", note=f"From {store.name}.", dag_ids=dag_ids)
        found = (one for one in self._spent(dag_ids) if (since or 0.0) <= one.entry.at < (until or math.inf))
        return grouped(found, by, source="XComs and manifests", note=NO_RECORD)

    def known_requests(self, since: float) -> dict[str, TaskRef | None]:
        """
        Return the requests that are known to be of tasks of this deployment, with the task where that is known.

        Requests of a table's rows are known through the spend record, and while the table's task is deferred.

        :param since: epoch seconds; older ones are not looked for.
        """
        from airflow_provider_segmind.compat import TaskInstance

        found: dict[str, TaskRef | None] = {one.request_id: one.task for one in self.in_flight()}
        store = configured_store()
        for entry in store.read(since=since) if store is not None else ():
            if entry.dag_id:
                names = ("dag_id", "run_id", "task_id", "map_index", "try_number")
                found[entry.request_id] = TaskRef(**{name: getattr(entry, name) for name in names})
        tasks = self._tasks(REQUEST_OPERATORS, None, None, TaskInstance.start_date)
        recent = [ref for ref, _, start in tasks if start is None or start.timestamp() >= since]
        for ref, xcoms in self._with_xcoms(recent, ("request_id",)):
            found[str(xcoms["request_id"])] = ref
        for ref, record in self._records(recent):
            found |= dict.fromkeys(record.all_ids, ref)
        return found

    def balance(self, conn_id: str) -> float | None:
        """Return the balance of a Connection's account in USD, None for one without a balance record. Free."""
        hook = CoreHook(conn_id)
        try:
            return hook.get_balance()
        finally:
            hook.close()

    def _spent(self, dag_ids: Collection[str] | None) -> Iterator[Spending]:
        """Yield what XComs and manifests show; one request can be in the XComs of several tasks."""
        from airflow_provider_segmind.compat import TaskInstance

        seen: set[str] = set()
        operators = (*REQUEST_OPERATORS, *TABLE_OPERATORS)
        tasks = self._tasks(operators, dag_ids, None, TaskInstance.start_date, TaskInstance.end_date)
        times = {ref.key: (end or start) for ref, _, start, end in tasks}
        keys = ("return_value", "request_id", "cost", "usage", "reused", TABLE_KEY)
        refs = [ref for ref, *_ in tasks]
        models = {ref.key: record.fingerprint.model for ref, record in self._records(refs)}
        for ref, xcoms in self._with_xcoms(refs, keys):
            at = times[ref.key]
            about = {**asdict(ref), "at": at.timestamp() if at else 0.0, "connection": ""}
            manifest, _ = _of_table(xcoms)
            found = [spent_by_table(about, manifest)] if manifest else spent_by_task(about, xcoms, models.get(ref.key))
            for one in found:
                if one.entry.request_id not in seen:
                    seen.add(one.entry.request_id)
                    yield one

    def _with_xcoms(self, refs: Sequence[TaskRef], keys: Collection[str]) -> Iterator[tuple[TaskRef, dict[str, Any]]]:
        """Yield the task instances that have one of some XComs, with them."""
        for some in _batches(refs):
            found = self._xcoms(some, keys)
            yield from ((ref, found[ref.key]) for ref in some if ref.key in found)

    def _tasks(
        self,
        operators: Collection[str],
        dag_ids: Collection[str] | None,
        states: Collection[str] | None,
        *columns: Any,
        limit: int | None = None,
        only: TaskRef | None = None,
    ) -> list[Any]:
        """Return task instances, the latest first, each as its reference, its state and further columns."""
        from airflow_provider_segmind.compat import TaskInstance

        names = ("dag_id", "run_id", "task_id", "map_index", "try_number")
        query = select(*(getattr(TaskInstance, name) for name in names), TaskInstance.state, *columns)
        # A subclass of ours has its own name, and behind it that of our class.
        named = (TaskInstance.custom_operator_name.endswith(subclass_mark(one), autoescape=True) for one in operators)
        query = query.where(or_(TaskInstance.operator.in_(operators), *named))
        if dag_ids is not None:
            query = query.where(TaskInstance.dag_id.in_(dag_ids))
        if states is not None:
            query = query.where(TaskInstance.state.in_(states))
        if only is not None:
            query = query.where(*(getattr(TaskInstance, name) == getattr(only, name) for name in names[:4]))
        query = query.order_by(TaskInstance.start_date.desc().nulls_last(), TaskInstance.map_index).limit(limit)
        rows = self._session.execute(query).all()
        return [(TaskRef(**dict(zip(names, row[:5], strict=True))), *row[5:]) for row in rows]

    def _xcoms(self, refs: Sequence[TaskRef], keys: Collection[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
        """Return the XComs of task instances, by :attr:`TaskRef.key` and XCom key."""
        from airflow_provider_segmind.compat import XComModel

        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        identity = (XComModel.dag_id, XComModel.run_id, XComModel.task_id, XComModel.map_index)
        for some in _batches(refs):
            # Columns, because Airflow 2.11 decodes the value of an object when it is loaded.
            query = select(*identity, XComModel.key, XComModel.value).where(
                tuple_(*identity).in_([ref.key for ref in some]), XComModel.key.in_(keys)
            )
            for row in self._session.execute(query):
                try:
                    value = XComModel.deserialize_value(row)
                except Exception as error:  # noqa: BLE001 - one value that cannot be read must not hide all others
                    log.debug("An XCom of %s cannot be read: %s", row.task_id, type(error).__name__)
                else:
                    found.setdefault(tuple(row[:4]), {})[row.key] = value
        return found

    def _records(self, refs: Sequence[TaskRef], *, state_path: str = "") -> Iterator[tuple[TaskRef, SubmissionRecord]]:
        """
        Yield the latest submission record of each task instance that has one.

        :param state_path: a folder on object storage to look into as well, with one listing for each task instance.
        """
        state = self._stored_state(refs, STATE_KEY)
        variables = self._variables({f"Segmind request of {_about(ref)}": ref for ref in refs})
        for ref in refs:
            values = [*state.get(ref.key, ()), *variables.get(ref.key, ())]
            records = [*_decoded(values), *(_stored_records(state_path, ref) if state_path else ())]
            if (record := latest(records)) is not None:
                yield ref, record

    def _stored_state(self, refs: Sequence[TaskRef], prefix: str) -> dict[tuple[Any, ...], list[Any]]:
        """Return values of the task state store, empty before Airflow 3.3, by :attr:`TaskRef.key`."""
        try:
            from airflow_provider_segmind.compat import TaskStateStoreModel as Store
        except ImportError:
            return {}
        found: dict[tuple[Any, ...], list[Any]] = {}
        identity = (Store.dag_id, Store.run_id, Store.task_id, Store.map_index)
        for some in _batches(refs):
            query = select(*identity, Store.value).where(
                tuple_(*identity).in_([ref.key for ref in some]), Store.key.startswith(prefix)
            )
            for *key, text in self._session.execute(query):
                # A custom backend stores a reference here, which is not JSON.
                found.setdefault(tuple(key), []).extend(_json_values(text))
        return found

    def _variables(self, descriptions: Mapping[str, TaskRef]) -> dict[tuple[Any, ...], list[Any]]:
        """Return the records in Airflow Variables, which describe their task, by :attr:`TaskRef.key`."""
        from airflow_provider_segmind.compat import CoreVariable

        found: dict[tuple[Any, ...], list[Any]] = {}
        for some in _batches(list(descriptions)):
            query = select(CoreVariable).where(CoreVariable.description.in_(some))
            for variable in self._session.scalars(query):
                key = descriptions[str(variable.description)].key
                found.setdefault(key, []).extend(_json_values(variable.val))
        return found


def with_states(requests: Iterable[RequestInFlight]) -> list[RequestInFlight]:
    """
    Ask Segmind for the state of each request, one free call each.

    The state of one that Segmind no longer knows is ``expired``; it stays None if Segmind could not be reached.
    """
    hooks: dict[str, CoreHook] = {}
    found = []
    try:
        for one in requests:
            conn_id = one.connection or CoreHook.default_conn_name
            hook = hooks.setdefault(conn_id, CoreHook(conn_id))
            try:
                found.append(replace(one, state=hook.get_status(one.request_id).status))
            except SegmindRequestExpiredError:
                found.append(replace(one, state="expired"))
            except SegmindError:
                found.append(one)
    finally:
        for hook in hooks.values():
            hook.close()
    return found


def _arguments(trigger: Any) -> Mapping[str, Any]:
    """Return the arguments of a trigger, none if they cannot be decrypted: one trigger must not hide the others."""
    try:
        values: Mapping[str, Any] = trigger.kwargs
    except Exception as error:  # noqa: BLE001 - another Fernet key, or a class that is gone
        log.warning("The arguments of trigger %s cannot be read: %s", trigger.id, type(error).__name__)
        return {}
    return values


def _of_trigger(values: Mapping[str, Any], ref: TaskRef) -> Iterator[RequestInFlight]:
    """Yield the requests that one of our triggers waits for."""
    about: dict[str, Any] = {"task": ref, "model": values.get("model"), "connection": values.get("segmind_conn_id")}
    if isinstance(values.get("request_id"), str):
        yield RequestInFlight(request_id=values["request_id"], submitted_at=values.get("submitted_at"), **about)
    for request_id, submitted_at in values.get("requests") or ():
        yield RequestInFlight(request_id=request_id, submitted_at=submitted_at, **about)


def _of_progress(values: Mapping[str, Any], ref: TaskRef) -> Iterator[RequestInFlight]:
    """Yield the requests that the progress of a running table lists, oldest first."""
    listed = values.get("requests") or ()
    more = max(0, int(values.get("in_flight") or 0) - len(listed))
    for number, (request_id, submitted_at) in enumerate(listed, 1):
        yield RequestInFlight(
            request_id=request_id,
            task=ref,
            model=values.get("model"),
            connection=values.get("connection"),
            submitted_at=submitted_at,
            more=more if number == len(listed) else 0,
        )


def _about(ref: TaskRef) -> str:
    """Return how the description of a Variable names a task instance."""
    index = "" if ref.map_index < 0 else f"[{ref.map_index}]"
    return f"{ref.dag_id} {ref.run_id} {quote(ref.task_id, safe='')}{index}"


def _json_values(text: Any) -> Iterator[Any]:
    try:
        yield json.loads(text)
    except (TypeError, ValueError):
        return


def _decoded(values: Iterable[Any]) -> Iterator[SubmissionRecord]:
    for value in values:
        try:
            yield SubmissionRecord.from_json(value)
        except SegmindStateError:
            log.debug("A submission record cannot be read")


def _of_table(xcoms: Mapping[str, Any]) -> tuple[Manifest | None, str | None]:
    """Return the manifest and the address of the ledger in the XComs of a table's task."""
    about = xcoms.get(TABLE_KEY)
    known = about if isinstance(about, Mapping) else {}
    manifest = _manifest(known.get("manifest")) or _manifest(xcoms.get("return_value"))
    ledger = known.get("ledger") or (manifest and manifest.ledger)
    return manifest, ledger if isinstance(ledger, str) else None


def _kept_progress(ref: TaskRef, ledger: str) -> dict[str, Any] | None:
    """Return the progress in the ledger of a table that is not finished; None where its store is out of reach."""
    try:
        return read_progress(locate(ledger), f"{ref.dag_id}/{ref.run_id}/{ref.task_id}/{ref.map_index}")
    except Exception as error:  # noqa: BLE001 - stores raise errors of their own, and this is a display
        log.debug("The progress of %s cannot be read: %s", ref.name, type(error).__name__)
        return None


def _manifest(value: Any) -> Manifest | None:
    try:
        return Manifest.from_json(value) if isinstance(value, Mapping) and "outcomes" in value else None
    except SegmindEnrichmentError:
        return None


def _state_path() -> str:
    from airflow_provider_segmind.compat import conf

    return str(conf.get("segmind", "state_path", fallback=""))


def _stored_records(state_path: str, ref: TaskRef) -> list[SubmissionRecord]:
    identity: Any = {"ti": ref}
    try:
        return list(records_under(state_path, Identity(identity)))
    except Exception as error:  # noqa: BLE001 - stores raise errors of their own, and this is a display
        log.debug("The records of %s cannot be read: %s", ref.name, type(error).__name__)
        return []


def _batches(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield parts, because databases limit the parameters of a statement."""
    for start in range(0, len(values), 200):
        yield values[start : start + 200]
