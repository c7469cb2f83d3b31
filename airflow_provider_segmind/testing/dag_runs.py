"""Run a DAG with ``dag.test()`` against the emulator, and read from the database how it ended."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pytest

from airflow_provider_segmind.testing.database import copy_database, environment, settings_for

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import DAG
    from airflow_provider_segmind.emulator.recorder import BillEntry, RecordedRequest
    from airflow_provider_segmind.emulator.server import SegmindEmulator


@dataclass(frozen=True, slots=True, kw_only=True)
class DagRunResult:
    """
    How a run of a DAG ended.

    Where a task is mapped, there is a list in the order of its instances instead of one value.

    :param state: of the run: ``success`` or ``failed``.
    :param states: of each task.
    :param returned: what each task returned, None if nothing.
    :param xcoms: all XComs of each task, by key.
    :param posts: the paid POSTs that the emulator received during the run, refused ones included.
    :param bill: what the emulator charged during the run.
    """

    state: str
    states: Mapping[str, Any]
    returned: Mapping[str, Any]
    xcoms: Mapping[str, Any]
    posts: Sequence[RecordedRequest]
    bill: Sequence[BillEntry]

    @property
    def cost(self) -> float:
        """USD that the run was charged."""
        return sum(entry.cost for entry in self.bill)


class DagTest:
    """
    Run DAGs in this process, each against an empty metadata database of its own.

    Retries follow at once, and a deferred task resumes as soon as its request has ended. The DAG's Connections and
    Variables come from the environment: ``AIRFLOW_CONN_…``, ``AIRFLOW_VAR_…``; ``segmind_default`` is the emulator.

    :param emulator: what the DAG's requests go to.
    :param database: an empty metadata database; it is copied.
    :param folder: a temporary folder of this test.
    :param project: the folder to which relative paths of DAG files refer.
    """

    def __init__(self, emulator: SegmindEmulator, *, database: Path, folder: Path, project: Path) -> None:
        self.emulator = emulator
        self._template = database
        self._folder = folder
        self._project = project
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def __call__(
        self, dag: DAG | str | os.PathLike[str], dag_id: str | None = None, *, conf: dict[str, Any] | None = None
    ) -> DagRunResult:
        """
        Run a DAG once.

        :param dag: the DAG, or the path of its file: absolute, or relative to the folder of the tests' configuration
            or to Airflow's dags folder.
        :param dag_id: which DAG of the file, where it defines several.
        :param conf: the configuration of the run.
        """
        with ExitStack() as stack:
            stack.enter_context(self._airflow())
            known = self._load(dag, dag_id) if isinstance(dag, str | os.PathLike) else dag
            stack.enter_context(_retried_at_once(known))
            posts, charges = len(self.emulator.posts()), len(self.emulator.bill)
            from airflow_provider_segmind.compat import register_dag

            register_dag(known, bundle="dags-folder")
            run = known.test(run_conf=conf)
            states, returned, xcoms = _read(run)
            return DagRunResult(
                state=_text(run.state),
                states=states,
                returned=returned,
                xcoms=xcoms,
                posts=self.emulator.posts()[posts:],
                bill=self.emulator.bill[charges:],
            )

    @contextmanager
    def _airflow(self) -> Iterator[None]:
        """Give Airflow an empty database, and what else ``dag.test()`` needs, for one run."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        database = copy_database(self._template, folder)
        (folder / "dags").mkdir()
        values = {**settings_for(database), **_bundles(folder / "dags")}
        known = "airflow" in sys.modules
        if not known and "AIRFLOW_HOME" not in os.environ:
            # Airflow reads it once, and would otherwise write its files into the user's home.
            os.environ["AIRFLOW_HOME"] = str(self._template.parent / "segmind-airflow-home")
        try:
            with environment(values), warnings.catch_warnings():
                # Airflow warns about itself; whoever turns warnings into errors means those of the tested code.
                warnings.simplefilter("ignore")
                from airflow_provider_segmind import deferral
                from airflow_provider_segmind.compat import one_api_server, use_database

                use_database()
                hold, deferral.HOLD_SECONDS = deferral.HOLD_SECONDS, 0.0
                try:
                    with one_api_server():
                        yield
                finally:
                    deferral.HOLD_SECONDS = hold
                    # A worker's connections end with its process; here they would warn in a later test.
                    gc.collect()
        finally:
            if known:
                # For tests of the user that need Airflow's own database.
                use_database()

    def _load(self, path: str | os.PathLike[str], dag_id: str | None) -> DAG:
        from airflow_provider_segmind.compat import DagBag, conf

        dags_folder = Path(conf.get("core", "dags_folder"))
        places = [folder / path for folder in (self._project, dags_folder)]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            looked = " and ".join(str(place) for place in dict.fromkeys(places))
            pytest.fail(f"segmind_dag_test: there is no DAG file {os.fspath(path)!r}; looked for {looked}.", False)
        bag = DagBag(str(file), safe_mode=False)
        if bag.import_errors:
            (error, *_) = bag.import_errors.values()
            pytest.fail(f"segmind_dag_test: {file} cannot be imported:\n{error}", False)
        known = sorted(bag.dags)
        if dag_id is None and len(known) == 1:
            dag_id = known[0]
        if dag_id not in bag.dags:
            which = f"has no DAG {dag_id!r}" if dag_id else "does not define exactly one DAG: name its dag_id"
            pytest.fail(f"segmind_dag_test: {file} {which}; it defines {', '.join(known) or 'none'}.", False)
        found: DAG = bag.dags[dag_id]
        return found


def _bundles(folder: Path) -> dict[str, str]:
    """Return the setting of a DAG bundle that is empty, because ``dag.test()`` parses every file of all bundles."""
    bundle = {
        "name": "dags-folder",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(folder)},
    }
    return {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle])}


@contextmanager
def _retried_at_once(dag: DAG) -> Iterator[None]:
    before = {task.task_id: task.retry_delay for task in dag.tasks}
    for task in dag.tasks:
        task.retry_delay = timedelta(0)
    try:
        yield
    finally:
        for task in dag.tasks:
            task.retry_delay = before[task.task_id]


def _read(run: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return states, return values and XComs by task."""
    from airflow_provider_segmind.compat import XComModel, create_session

    instances = sorted(run.get_task_instances(), key=lambda one: one.map_index)
    found: dict[tuple[str, int], dict[str, Any]] = {}
    with create_session() as session:
        # Columns, because Airflow 2.11 decodes the value of an object when it is loaded.
        rows = session.query(XComModel.task_id, XComModel.map_index, XComModel.key, XComModel.value).filter(
            XComModel.dag_id == run.dag_id, XComModel.run_id == run.run_id
        )
        for row in rows:
            found.setdefault((row.task_id, row.map_index), {})[row.key] = XComModel.deserialize_value(row)
    states: dict[str, Any] = {}
    returned: dict[str, Any] = {}
    xcoms: dict[str, Any] = {}
    for one in instances:
        own = found.get((one.task_id, one.map_index), {})
        values = (_text(one.state), own.get("return_value"), own)
        for kind, value in zip((states, returned, xcoms), values, strict=True):
            if one.map_index < 0:
                kind[one.task_id] = value
            else:
                kind.setdefault(one.task_id, []).append(value)
    return states, returned, xcoms


def _text(state: Any) -> str:
    return str(getattr(state, "value", state))
