"""The three places a record is kept in, and what "cannot be read" means in each."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_segmind import task_state
from airflow_provider_segmind.client.submission import (
    Fingerprint,
    GivenUp,
    ResultManifest,
    SubmissionRecord,
    SubmitNew,
    latest,
)
from airflow_provider_segmind.compat import Variable
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindStateError
from airflow_provider_segmind.task_state import (
    AirflowTaskState,
    Identity,
    PathTaskState,
    TaskState,
    VariableTaskState,
    task_state_for,
)
from tests.support.airflow_fakes import StateStore, TaskInstance
from tests.support.examples import examples

RECORD = SubmissionRecord(
    Fingerprint("a-model", "f" * 64, "c at https://x"), intent_at=1.5, request_id="r-1", previous_ids=("r-0",)
)


def identity(**fields: Any) -> Identity:
    return Identity({"ti": TaskInstance(**fields)})  # type: ignore[typeddict-item]


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Airflow's Variables, in memory."""
    kept: dict[str, str] = {}
    monkeypatch.setattr(Variable, "get", lambda key, default=None: kept.get(key, default))
    monkeypatch.setattr(Variable, "delete", lambda key: kept.pop(key))
    monkeypatch.setattr(Variable, "set", lambda key, value, description=None: kept.__setitem__(key, value))
    return kept


@pytest.fixture(params=["state store", "file", "memory", "variable"])
def state(request: pytest.FixtureRequest, tmp_path: Path, variables: dict[str, str]) -> TaskState:
    if request.param == "state store":
        return AirflowTaskState(StateStore())
    if request.param == "variable":
        return VariableTaskState(identity())
    root = tmp_path.as_uri() if request.param == "file" else f"memory://{tmp_path.name}"
    return PathTaskState(root, identity())


def test_a_record_comes_back_as_it_was_written(state: TaskState) -> None:
    assert state.read() is None
    state.write(RECORD)
    assert state.read() == RECORD
    state.write(RECORD.ended("failed"))
    assert state.read() == RECORD.ended("failed")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"fingerprint": 1}', "7"])
def test_half_a_record_stops_the_task_and_is_not_a_first_try(
    text: str, tmp_path: Path, variables: dict[str, str]
) -> None:
    file = PathTaskState(tmp_path.as_uri(), identity())
    file.write(RECORD)
    next(tmp_path.rglob("*.json")).write_text(text)
    variable = VariableTaskState(identity())
    variable.write(RECORD)
    variables.update(dict.fromkeys(variables, text))
    for state in (file, variable):
        with pytest.raises(SegmindStateError, match="Nothing is submitted"):
            state.read()


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "completed"},
        {"request_id": ""},
        {"intent_at": "x"},
        {"of_tomorrow": 1},
        {"previous_ids": [1]},
        {"given_up": [1]},
        {"given_up": [{"intent_at": "x"}]},
        {"given_up": [{"intent_at": 1.0, "reservation": 1}]},
        {"given_up": [{"reservation": "r"}]},
        {"filled_in": [1]},
        {"filled_in": {"a": 1}},
        {"manifest": {}},
    ],
)
def test_a_record_with_unknown_fields_is_not_interpreted(change: dict[str, Any]) -> None:
    with pytest.raises(SegmindStateError):
        SubmissionRecord.from_json({**RECORD.to_json(), **change})


def test_a_record_in_a_file_is_on_disk_with_its_folders_before_the_task_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    genuine = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        genuine(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    PathTaskState(tmp_path.as_uri(), identity()).write(RECORD)
    (file,) = tmp_path.rglob("*.json")
    folders = {str(folder) for folder in (file.parent, *file.parent.parents) if folder.is_relative_to(tmp_path)}
    assert folders <= set(synced)
    assert any(file.name in path for path in synced)


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    blocker = tmp_path / "not_a_folder"
    blocker.write_text("")
    with pytest.raises(OSError):
        PathTaskState(blocker.as_uri(), identity()).read()


def test_an_airflow_that_hides_a_failed_read_is_detected(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    comms = pytest.importorskip("airflow.sdk.execution_time.comms")
    kinds = pytest.importorskip("airflow.sdk.exceptions").ErrorType
    from airflow.sdk.execution_time import task_runner

    said = SimpleNamespace(kind=kinds.API_SERVER_ERROR)
    supervisor = SimpleNamespace(send=lambda message: comms.ErrorResponse(error=said.kind))
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
    with pytest.raises(SegmindStateError, match="cannot be read"):
        VariableTaskState(identity()).read()
    said.kind = kinds.VARIABLE_NOT_FOUND
    assert VariableTaskState(identity()).read() is None


def test_every_task_instance_has_a_record_of_its_own_and_every_try_the_same(tmp_path: Path) -> None:
    others: list[dict[str, Any]] = [
        {},
        {"map_index": 0},
        {"map_index": 1},
        {"run_id": ".."},
        {"dag_id": "b"},
        {"task_id": "a.b/c"},
    ]
    others += [{"run_id": "x" * 250}, {"run_id": "x" * 249 + "y"}]
    for number, fields in enumerate(others):
        PathTaskState(tmp_path.as_uri(), identity(**fields)).write(
            SubmissionRecord(RECORD.fingerprint, intent_at=number)
        )
    for number, fields in enumerate(others):
        record = PathTaskState(tmp_path.as_uri(), identity(**fields, try_number=7)).read()
        assert record is not None
        assert record.intent_at == number
    assert len(list(tmp_path.rglob("*.json"))) == len(others)


def context(**kept: Any) -> Any:
    return {"ti": TaskInstance(), **kept}


@pytest.mark.parametrize(
    ("state_path", "record_path", "state_store", "names"),
    [
        (None, None, True, "Airflow's task state store"),
        ("{root}/state", None, True, "object storage ({root}/state/dag_id=a_dag/run_id=manual__1/task_id=a_task.json)"),
        ("{root}/state", "{root}/out", True, "object storage ({root}/state/dag_id=a_dag"),
        (None, "{root}/out", True, "Airflow's task state store and object storage ({root}/out/_segmind_state/dag_id="),
        (None, "{root}/out", False, "the Airflow Variable 'segmind_request_"),
        (None, None, False, "the Airflow Variable 'segmind_request_"),
    ],
)
def test_a_path_that_was_set_takes_precedence_over_the_task_state_store(
    state_path: str | None,
    record_path: str | None,
    state_store: bool,
    names: str,
    tmp_path: Path,
    variables: dict[str, str],
) -> None:
    root = tmp_path.as_uri()
    paths = [None if path is None else path.format(root=root) for path in (state_path, record_path)]
    chosen = task_state_for(context(task_state_store=StateStore() if state_store else None), paths[0], "", paths[1])
    assert chosen.name.startswith(names.format(root=root))
    chosen.write(RECORD)
    assert chosen.read() == RECORD
    assert len(list(tmp_path.rglob("*.json"))) == (state_path is not None or record_path is not None)
    assert bool(variables) == (state_path is None and not state_store)


def test_the_configured_state_path_takes_precedence_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__STATE_PATH", tmp_path.as_uri())
    store = StateStore()
    task_state_for(context(task_state_store=store), None).write(RECORD)
    assert store.values == {}
    assert len(list(tmp_path.rglob("*.json"))) == 1


@pytest.mark.parametrize("kept_in", ["state store", "state_path", "configured state_path", "output_path", "variable"])
@pytest.mark.parametrize("now_state_path", [False, True])
def test_a_record_is_found_wherever_an_earlier_try_wrote_it(
    kept_in: str, now_state_path: bool, tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = {name: f"{tmp_path.as_uri()}/{name}" for name in ("state_path", "conf", "out")}
    store = StateStore()
    kept_records: dict[str, TaskState] = {
        "state store": AirflowTaskState(store),
        "state_path": PathTaskState(roots["state_path"], identity()),
        "configured state_path": PathTaskState(roots["conf"], identity()),
        "output_path": PathTaskState(f"{roots['out']}/_segmind_state", identity()),
        "variable": VariableTaskState(identity()),
    }
    kept_records[kept_in].write(RECORD)
    monkeypatch.setenv("AIRFLOW__SEGMIND__STATE_PATH", roots["conf"])
    if kept_in == "state_path" and not now_state_path:
        return
    state_path = roots["state_path"] if now_state_path else None
    chosen = task_state_for(context(task_state_store=store), state_path, "", roots["out"])
    assert chosen.read() == RECORD


@pytest.mark.parametrize("broken", ["state store", "path", "variable"])
def test_a_store_that_may_have_a_record_and_cannot_be_read_stops_the_task(
    broken: str, tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionError("out of reach")

    store = StateStore()
    chosen = task_state_for(context(task_state_store=store), None, "", tmp_path.as_uri())
    chosen.write(RECORD)
    if broken == "state store":
        store.on_read = fail
    elif broken == "variable":
        monkeypatch.setattr(Variable, "get", fail)
    else:
        monkeypatch.setattr(PathTaskState, "read", fail)
    with pytest.raises(ConnectionError) as caught:
        chosen.read()
    assert "Nothing is submitted until it can be" in str(caught.value.__notes__)


def test_what_airflow_empties_is_found_under_the_output_path(tmp_path: Path, variables: dict[str, str]) -> None:
    store = StateStore()
    task_state_for(context(task_state_store=store), None, "", tmp_path.as_uri()).write(RECORD)
    store.values.clear()
    assert task_state_for(context(task_state_store=store), None, "", tmp_path.as_uri()).read() == RECORD


def test_a_record_in_the_task_state_store_never_expires() -> None:
    never = pytest.importorskip("airflow.sdk").NEVER_EXPIRE
    given: list[Any] = []

    class Store(StateStore):
        def set(self, key: str, value: Any, *, retention: Any = None, **_: Any) -> None:
            given.append(retention)

    AirflowTaskState(Store()).write(RECORD)
    assert given == [never]
    assert given[0] is never


@pytest.mark.parametrize(
    ("clear_on_success", "version", "paths", "warns"),
    [
        ("False", "3.3.2", {}, False),
        ("True", "3.3.2", {}, True),
        ("False", "3.4.0", {}, True),
        ("True", "3.3.2", {"state_path": "memory://s"}, False),
        ("True", "3.4.0", {"record_path": "memory://o"}, False),
    ],
)
def test_a_store_that_is_emptied_is_warned_of_where_nothing_else_keeps_the_record(
    clear_on_success: str, version: str, paths: dict[str, str], warns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__STATE_STORE__CLEAR_ON_SUCCESS", clear_on_success)
    monkeypatch.setattr("airflow.__version__", version)
    kept = {"state_path": None, **paths}
    warning = task_state_for(context(task_state_store=StateStore()), **kept).warning  # type: ignore[arg-type]
    assert (warning is not None) == warns
    assert not warns or "pays again" in str(warning)
    assert not warns or "Clear All Task State Store" in str(warning)


DAY = 86_400.0


def test_variables_of_old_runs_are_deleted_unless_their_outcome_is_unknown(variables: dict[str, str]) -> None:
    def write(run: str, now: float, record: SubmissionRecord) -> None:
        VariableTaskState(identity(run_id=run), clock=lambda: now).write(record)

    def is_kept(run: str) -> bool:
        return VariableTaskState(identity(run_id=run)).read() is not None

    write("finished", 0, replace(RECORD, intent_at=0.0, submitted_at=0.0))
    write("refused", 0, replace(RECORD, intent_at=0.0, request_id=None, outcome="refused"))
    write("unknown", 0, replace(RECORD, intent_at=0.0, request_id=None))
    write("still going", 0, replace(RECORD, intent_at=20 * DAY, submitted_at=20 * DAY))
    write("young", 20 * DAY, replace(RECORD, intent_at=20 * DAY))
    write("now", 31 * DAY, replace(RECORD, intent_at=31 * DAY))
    kept = {run: is_kept(run) for run in ("finished", "refused", "unknown", "still going", "young", "now")}
    assert kept == {
        **dict.fromkeys(("finished", "refused"), False),
        **dict.fromkeys(("unknown", "still going", "young", "now"), True),
    }


def test_a_thousand_nights_leave_a_month_of_variables(variables: dict[str, str]) -> None:
    for night in range(1000):
        state = VariableTaskState(identity(run_id=f"night {night}"), clock=lambda night=night: night * DAY)  # type: ignore[misc]
        state.write(replace(RECORD, intent_at=night * DAY))
        state.write(replace(RECORD, intent_at=night * DAY, submitted_at=night * DAY))
    # 31 records, their index, and the list that has the index.
    assert len(variables) == 33


def write_record(day: float, **fields: Any) -> VariableTaskState:
    state = VariableTaskState(identity(**fields), clock=lambda: day * DAY)
    state.write(replace(RECORD, intent_at=day * DAY, submitted_at=day * DAY))
    return state


@pytest.mark.parametrize("gone", ["map_index", "task_id", "dag_id"])
def test_variables_of_tasks_that_no_longer_run_are_deleted_by_those_that_do(
    gone: str, variables: dict[str, str]
) -> None:
    for number in range(400):
        name = number if gone == "map_index" else f"of yesterday {number}"
        write_record(0, run_id="first", **{gone: name})
    assert len(variables) > 800
    for day in range(31, 231):
        for index in range(3):
            write_record(day, run_id=f"night {day}", task_id="of today", map_index=index)
    # 31 records of each of three map indexes, three indexes, and at most as many lists.
    assert len(variables) <= 3 * 31 + 3 + 3
    assert not any("first" in text for text in variables.values())


def test_a_task_cleans_up_a_bounded_number_of_others(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_state, "INDEX_LISTS", 1)
    for number in range(500):
        write_record(0, map_index=number)
    before, calls = len(variables), []
    get = Variable.get
    monkeypatch.setattr(Variable, "get", lambda *given: (calls.append(given), get(*given))[1])
    write_record(40, run_id="next", map_index=0)
    # A record and its index each; the index of the task itself is one of those looked at, and stays.
    assert before - len(variables) == 2 * (task_state.MOST_CLEANED - 1)
    assert len(calls) < 100


@pytest.mark.parametrize("outcome", [None, "unreadable"])
def test_records_that_must_stay_do_not_keep_others_from_being_deleted(
    outcome: str | None, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_state, "INDEX_LISTS", 1)
    unknown = replace(RECORD, intent_at=0.0, request_id=None, submitted_at=None)
    needed = []
    for number in range(60):
        state = VariableTaskState(identity(map_index=number), clock=lambda: 0.0)
        state.write(unknown)
        if outcome:
            variables[state._key] = "{"
        needed.append(state._key)
    for number in range(60):
        write_record(1, task_id="another", map_index=number)
    for day in range(40, 60):
        write_record(day, run_id=f"night {day}", task_id="of today")
    assert set(needed) <= variables.keys()
    assert not any('"r-1"' in text and "86400.0" in text for text in variables.values())


@pytest.mark.parametrize("cleaned_by", ["its own task", "another task"])
def test_many_old_records_of_one_task_are_deleted_some_at_a_time(
    cleaned_by: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_state, "INDEX_LISTS", 1)
    for run in range(450):
        write_record(0, run_id=f"run {run}", task_id="frequent")
    counts = []
    for run in range(6):
        before = len(variables)
        write_record(40, run_id=f"late {run}", task_id="frequent" if cleaned_by == "its own task" else "rare")
        counts.append(before - len(variables))
    # Each adds a record; its own task may be found in the list as well.
    assert max(counts) <= 2 * task_state.MOST_DELETED
    assert not any('intent_at": 0.0' in text for text in variables.values())


@pytest.mark.parametrize("cleaned_by", ["its own task", "another task"])
def test_many_records_that_must_stay_are_not_read_by_every_task(
    cleaned_by: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_state, "INDEX_LISTS", 1)
    for run in range(450):
        state = VariableTaskState(identity(run_id=f"run {run}", task_id="frequent"), clock=lambda: 0.0)
        state.write(replace(RECORD, intent_at=0.0, request_id=None))
    reads: list[str] = []
    monkeypatch.setattr(Variable, "get", lambda key, default=None: reads.append(key) or variables.get(key, default))
    counts = []
    for run in range(12):
        before = len(reads)
        write_record(40 + run / 4, run_id=f"late {run}", task_id="frequent" if cleaned_by == "its own task" else "rare")
        counts.append(sum(key.startswith("segmind_request_") for key in reads[before:]))
    assert max(counts) <= 2 * task_state.MOST_DELETED
    assert counts[-4:] == [0, 0, 0, 0]
    assert sum('"request_id": null' in text for text in variables.values()) == 450


@pytest.mark.parametrize("lists", [1, 64])
@pytest.mark.parametrize("others", [0, 1, 3])
def test_a_record_that_is_written_anew_after_a_clear_is_deleted_when_it_is_old_again(
    others: int, lists: int, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_state, "INDEX_LISTS", lists)
    for number in range(others):
        write_record(0, run_id=f"other {number}")
    write_record(0, run_id="cleared")
    cleared = write_record(40, run_id="cleared")
    assert cleared.read() is not None
    write_record(69, run_id="in between")
    assert cleared.read() is not None
    write_record(80, run_id="late")
    assert cleared.read() is None
    assert sum(key.startswith("segmind_request_") for key in variables) == 2


def test_indexes_that_somebody_has_deleted_are_dropped_from_their_list(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(task_state, "INDEX_LISTS", 1)
    for number in range(30):
        write_record(0, map_index=number)
    for key in [key for key in variables if key.startswith("segmind_requests_")]:
        del variables[key]
    for day in (40, 41):
        write_record(day, run_id=f"night {day}", task_id="of today")
    assert len(json.loads(variables["segmind_lists_00"])) == 1
    assert "Could not clean up" not in caplog.text


RUNS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.integers(0, 3),
        st.sampled_from(["finished", "refused", "unknown"]),
        st.sampled_from([0.0, 0.5, 10.0, 31.0, 45.0]),
    ),
    max_size=40,
)


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=RUNS)
def test_no_record_that_a_retry_may_need_is_deleted(
    runs: list[tuple[str, int, str, float]], variables: dict[str, str]
) -> None:
    variables.clear()
    kinds = {
        "finished": lambda at: replace(RECORD, intent_at=at, submitted_at=at),
        "refused": lambda at: replace(RECORD, intent_at=at, request_id=None, outcome="refused"),
        "unknown": lambda at: replace(RECORD, intent_at=at, request_id=None),
    }
    now, written = 0.0, []
    for number, (task, index, kind, wait) in enumerate(runs):
        now += wait * DAY
        state = VariableTaskState(
            identity(run_id=f"run {number}", task_id=task, map_index=index),
            clock=lambda now=now: now,  # type: ignore[misc]
        )
        state.write(kinds[kind](now))
        written.append((state, kind, now))
        for earlier, its_kind, at in written:
            if its_kind == "unknown" or at >= now - 30 * DAY:
                assert earlier.read() is not None


@pytest.mark.parametrize("index", ["{", "[]", '{"a": "b"}', '{"a": null}'])
def test_an_index_that_cannot_be_read_loses_no_record_and_is_replaced(index: str, variables: dict[str, str]) -> None:
    VariableTaskState(identity()).write(RECORD)
    variables[next(key for key in variables if key.startswith("segmind_requests_"))] = index
    VariableTaskState(identity(run_id="next")).write(RECORD)
    assert VariableTaskState(identity(run_id="next")).read() == RECORD
    assert len(json.loads(variables[next(key for key in variables if key.startswith("segmind_requests_"))])) == 1


def test_a_record_that_cannot_be_read_is_kept_and_others_are_still_deleted(
    variables: dict[str, str],
) -> None:
    old = replace(RECORD, intent_at=0.0, submitted_at=0.0)
    for run in ("broken", "old"):
        VariableTaskState(identity(run_id=run), clock=lambda: 0.0).write(old)
    broken = VariableTaskState(identity(run_id="broken"))
    variables[broken._key] = "{"
    VariableTaskState(identity(run_id="now"), clock=lambda: 31 * DAY).write(replace(RECORD, intent_at=31 * DAY))
    assert VariableTaskState(identity(run_id="old")).read() is None
    with pytest.raises(SegmindStateError):
        broken.read()


def test_an_output_path_of_one_worker_does_not_hide_the_record_from_the_next(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    task_state_for(context(), None, "", (tmp_path / "one").as_uri()).write(RECORD)
    assert task_state_for(context(), None, "", (tmp_path / "another").as_uri()).read() == RECORD


def after(kept: SubmissionRecord | None, step: str, moment: float, request_id: str) -> SubmissionRecord | None:
    """Return the record after one more step of a submission; a step that cannot come now changes nothing."""
    if kept is None or kept.outcome is not None or (step == "resubmit" and kept.request_id):
        before = SubmitNew() if kept is None else SubmitNew.after(kept)
        known = {"previous_ids": before.previous_ids, "given_up": before.given_up}
        return SubmissionRecord(RECORD.fingerprint, intent_at=moment, **known)  # type: ignore[arg-type]
    if step == "accepted" and kept.request_id is None:
        return kept.accepted(request_id, moment)
    if step == "refused" and kept.request_id is None:
        return kept.ended("refused")
    if step == "failed" and kept.request_id:
        return kept.ended("failed")
    return (
        replace(kept, manifest=ResultManifest(request_id="r", uris=("x",)))
        if step == "stored" and kept.request_id
        else kept
    )


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["intent", "accepted", "refused", "failed", "stored", "resubmit"]),
        st.integers(-600, 600),
        st.booleans(),
    ),
    max_size=12,
)


@given(steps=STEPS)
def test_a_copy_that_missed_writes_never_hides_that_something_may_be_billed(
    steps: list[tuple[str, int, bool]],
) -> None:
    """The clocks of the workers differ by up to ten minutes; the copy holds whatever it was given last."""
    kept: SubmissionRecord | None = None
    copy: SubmissionRecord | None = None
    for number, (step, offset, copied) in enumerate(steps):
        # A new POST has a moment of its own, as an epoch with microseconds is.
        kept = after(kept, step, 1000.0 + offset + number / 1000, f"r-{number}")
        copy = kept if copied else copy
    records = [record for record in (kept, copy) if record is not None]
    found = latest(records)
    assert found == latest(records[::-1])
    assert (found is None) == (kept is None)
    if found is None or kept is None:
        return
    if kept.outcome is None:
        assert found == kept if kept.request_id else found.outcome is None
    if found.outcome is not None:
        assert kept.outcome is not None


def test_a_copy_that_missed_a_second_post_does_not_bring_back_the_one_that_was_given_up() -> None:
    first = SubmissionRecord(RECORD.fingerprint, intent_at=2000.0)
    # The clock of the worker that submitted again is behind.
    again = SubmissionRecord(RECORD.fingerprint, intent_at=1000.0, given_up=(GivenUp(2000.0, "r"),))

    for record in (again, again.accepted("r-1", 1000.0), again.ended("refused")):
        assert latest([first, record]) == latest([record, first]) == record
    # Its worker was still alive, and got an answer.
    assert latest([first.accepted("r-0", 2000.0), again]) == first.accepted("r-0", 2000.0)


def test_a_store_that_cannot_be_written_is_named_with_what_that_means(tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("")
    kept = task_state_for({"ti": TaskInstance()}, str(tmp_path / "a_file"))  # type: ignore[typeddict-item]

    with pytest.raises(OSError, match=r"exists|directory") as caught:
        kept.write(RECORD)

    assert "a_file" in caught.value.__notes__[0]
    assert "Nothing is submitted until it can be" in caught.value.__notes__[0]


def test_a_folder_in_a_store_that_airflow_does_not_know_is_an_error_of_the_configuration() -> None:
    with pytest.raises(SegmindConfigError, match=r"'nosuch://a/b' .* Nothing was sent"):
        task_state_for({"ti": TaskInstance()}, "nosuch://a/b")  # type: ignore[typeddict-item]
