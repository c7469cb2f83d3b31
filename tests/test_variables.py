"""A Variable that cannot be read is not a missing one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_segmind import compat, variables
from airflow_provider_segmind.exceptions import SegmindStateError
from airflow_provider_segmind.variables import read_variable

CONSEQUENCE = "Nothing was sent."


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Airflow returns for a Variable, and whether it is certain that one without a value is missing."""
    given: dict[str, Any] = {"value": None, "missing": True}
    monkeypatch.setattr(compat, "Variable", SimpleNamespace(get=lambda key, default: given["value"]), raising=False)
    monkeypatch.setattr(variables, "variable_is_missing", lambda key: given["missing"])
    return given


@pytest.mark.parametrize(("value", "text"), [("on", "on"), ("", ""), (7, "7"), (False, "False")])
def test_a_value_is_returned_as_a_string_also_an_empty_one(answers: dict[str, Any], value: Any, text: str) -> None:
    answers.update(value=value, missing=False)

    assert read_variable("a_key", CONSEQUENCE) == text


def test_a_missing_variable_has_no_value(answers: dict[str, Any]) -> None:
    assert read_variable("a_key", CONSEQUENCE) is None


def test_a_variable_that_may_only_be_out_of_reach_is_an_error_with_its_consequence(answers: dict[str, Any]) -> None:
    answers["missing"] = False

    with pytest.raises(SegmindStateError, match=r"Variable 'a_key' cannot be read\. Nothing was sent\."):
        read_variable("a_key", CONSEQUENCE)


def test_an_error_of_airflow_is_not_taken_for_a_missing_variable(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(key: str, default: Any) -> Any:
        raise ConnectionError("no database")

    monkeypatch.setattr(compat, "Variable", SimpleNamespace(get=fail), raising=False)

    with pytest.raises(ConnectionError):
        read_variable("a_key", CONSEQUENCE)


def test_a_variable_of_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_A_KEY", "on")

    assert read_variable("a_key", CONSEQUENCE) == "on"
