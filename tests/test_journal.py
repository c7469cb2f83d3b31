"""The three places a note is kept in, and what "cannot be read" means in each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Variable

from airflow_provider_segmind.api.submission import Fingerprint, Note
from airflow_provider_segmind.exceptions import SegmindStateError
from airflow_provider_segmind.journal import (
    Identity,
    Journal,
    PathJournal,
    TaskStateJournal,
    VariableJournal,
    journal_for,
)
from tests.stand_ins import StateStore, TaskInstance

NOTE = Note(Fingerprint("a-model", "f" * 64, "c at https://x"), intent_at=1.5, request_id="r-1", former=("r-0",))


def identity(**fields: Any) -> Identity:
    return Identity({"ti": TaskInstance(**fields)})  # type: ignore[typeddict-item]


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Airflow's Variables, in memory."""
    kept: dict[str, str] = {}
    monkeypatch.setattr(Variable, "get", lambda key, default=None: kept.get(key, default))
    monkeypatch.setattr(Variable, "set", lambda key, value, description=None: kept.__setitem__(key, value))
    return kept


@pytest.fixture(params=["state store", "file", "memory", "variable"])
def journal(request: pytest.FixtureRequest, tmp_path: Path, variables: dict[str, str]) -> Journal:
    if request.param == "state store":
        return TaskStateJournal(StateStore())
    if request.param == "variable":
        return VariableJournal(identity())
    root = tmp_path.as_uri() if request.param == "file" else f"memory://{tmp_path.name}"
    return PathJournal(root, identity())


def test_a_note_comes_back_as_it_was_written(journal: Journal) -> None:
    assert journal.read() is None
    journal.write(NOTE)
    assert journal.read() == NOTE
    journal.write(NOTE.ended("failed"))
    assert journal.read() == NOTE.ended("failed")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"fingerprint": 1}', "7"])
def test_half_a_note_stops_the_task_and_is_no_first_try(text: str, tmp_path: Path, variables: dict[str, str]) -> None:
    file = PathJournal(tmp_path.as_uri(), identity())
    file.write(NOTE)
    next(tmp_path.rglob("*.json")).write_text(text)
    variable = VariableJournal(identity())
    variable.write(NOTE)
    variables.update(dict.fromkeys(variables, text))
    for journal in (file, variable):
        with pytest.raises(SegmindStateError, match="Nothing is submitted"):
            journal.read()


@pytest.mark.parametrize(
    "change", [{"outcome": "completed"}, {"request_id": ""}, {"intent_at": "x"}, {"of_tomorrow": 1}, {"former": [1]}]
)
def test_a_note_that_says_more_than_we_know_is_not_guessed_at(change: dict[str, Any]) -> None:
    with pytest.raises(SegmindStateError):
        Note.from_json({**NOTE.to_json(), **change})


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    blocker = tmp_path / "not_a_folder"
    blocker.write_text("")
    with pytest.raises(OSError):
        PathJournal(blocker.as_uri(), identity()).read()


def test_an_airflow_that_hides_that_it_could_not_ask_is_found_out(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    comms = pytest.importorskip("airflow.sdk.execution_time.comms")
    kinds = pytest.importorskip("airflow.sdk.exceptions").ErrorType
    from airflow.sdk.execution_time import task_runner

    said = SimpleNamespace(kind=kinds.API_SERVER_ERROR)
    supervisor = SimpleNamespace(send=lambda message: comms.ErrorResponse(error=said.kind))
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
    with pytest.raises(SegmindStateError, match="cannot be read"):
        VariableJournal(identity()).read()
    said.kind = kinds.VARIABLE_NOT_FOUND
    assert VariableJournal(identity()).read() is None


def test_every_task_instance_has_a_note_of_its_own_and_every_try_the_same(tmp_path: Path) -> None:
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
        PathJournal(tmp_path.as_uri(), identity(**fields)).write(Note(NOTE.fingerprint, intent_at=number))
    for number, fields in enumerate(others):
        note = PathJournal(tmp_path.as_uri(), identity(**fields, try_number=7)).read()
        assert note is not None
        assert note.intent_at == number
    assert len(list(tmp_path.rglob("*.json"))) == len(others)


def test_the_store_is_chosen_by_what_there_is(tmp_path: Path) -> None:
    ti = TaskInstance()
    assert isinstance(journal_for({"ti": ti, "task_state_store": StateStore()}, "memory://x"), TaskStateJournal)  # type: ignore[typeddict-item, typeddict-unknown-key]
    assert isinstance(journal_for({"ti": ti}, tmp_path.as_uri()), PathJournal)  # type: ignore[typeddict-item]
    assert isinstance(journal_for({"ti": ti}, None), VariableJournal)  # type: ignore[typeddict-item]
