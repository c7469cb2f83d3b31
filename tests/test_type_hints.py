"""What type checkers know of arguments is what Airflow takes; `make matrix` runs it on all versions."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any, get_overloads

import pytest

from airflow_provider_segmind import type_hints
from airflow_provider_segmind.compat import BaseOperator, BaseSensorOperator, XComArg, airflow_version, task
from airflow_provider_segmind.decorators import chat
from airflow_provider_segmind.decorators.chat import SegmindTaskDecorator, segmind_task
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.enrich import (
    SegmindEnrichFileOperator,
    SegmindEnrichSqlOperator,
    SegmindMergeOperator,
)
from airflow_provider_segmind.operators.request import (
    SegmindResultOperator,
    SegmindRunOperator,
    SegmindSubmitOperator,
)
from airflow_provider_segmind.sensors.request import SegmindRequestSensor

OPERATORS: list[type[Any]] = [
    *(SegmindSubmitOperator, SegmindResultOperator, SegmindRunOperator, SegmindRequestSensor),
    *(SegmindChatOperator, SegmindEnrichFileOperator, SegmindEnrichSqlOperator, SegmindMergeOperator),
]
SINCE = {"retry_policy": (3, 3), "render_template_as_native_obj": (3, 2)}
UNTIL = {"task_concurrency": (3,)}
"""The first Airflow without an argument."""


def names(function: Any) -> set[str]:
    """Return the named arguments of a constructor."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)} - {"self"}


def typed(kind: Any) -> set[str]:
    """Return the arguments that a TypedDict names, those of its bases included."""
    return set(kind.__annotations__)


def test_the_arguments_of_operators_are_those_of_the_installed_airflow() -> None:
    expected = {name for name, first in SINCE.items() if airflow_version() < first}
    expected |= {name for name, end in UNTIL.items() if airflow_version() >= end}

    assert typed(type_hints.OperatorArguments) - names(BaseOperator.__init__) == expected
    assert names(BaseOperator.__init__) <= typed(type_hints.OperatorArguments)


def test_the_arguments_of_sensors_are_those_of_the_installed_airflow() -> None:
    added = typed(type_hints.SensorArguments) - typed(type_hints.OperatorArguments)

    assert added == names(BaseSensorOperator.__init__) - names(BaseOperator.__init__) - {"timeout"}


def test_the_output_of_a_task_is_a_value_that_is_given_later() -> None:
    assert list(inspect.signature(XComArg.iter_references).parameters) == ["self"]


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_signature_names_all_arguments(kind: type[Any]) -> None:
    (rest,) = [one for one in inspect.signature(kind).parameters.values() if one.kind is one.VAR_KEYWORD]

    assert rest.annotation in ("Unpack[OperatorArguments]", "Unpack[SensorArguments]")
    for base in kind.__mro__:
        if base.__module__.startswith("airflow_provider_segmind"):
            missing = names(vars(base).get("__init__", lambda: None)) - names(kind)
            assert missing <= set(getattr(kind, "decided_arguments", {})), base


@pytest.mark.parametrize("kind", OPERATORS)
def test_every_argument_that_may_be_given_later_has_a_type_that_says_so(kind: type[Any]) -> None:
    later = {"dry_run" if name == "estimate_only" else name for name in (*kind.template_fields, *kind.late_fields)}
    types = {one.name: one.annotation for one in inspect.signature(kind).parameters.values()}

    assert {name for name in later & set(types) if types[name] != "Any" and "GivenLater" not in types[name]} == set()


def test_the_decorator_shows_the_arguments_of_the_operator() -> None:
    shown = inspect.signature(segmind_task).parameters
    # The class has only the last overload.
    call = SimpleNamespace(__module__=chat.__name__, __qualname__=f"{SegmindTaskDecorator.__name__}.__call__")
    (_, overloaded) = get_overloads(call)  # type: ignore[arg-type]
    written = inspect.signature(overloaded).parameters
    operator = dict(inspect.signature(SegmindChatOperator).parameters)

    assert set(shown) == {"python_callable", "multiple_outputs", *operator} - {"prompt", "messages"}
    assert list(written)[1:] == [name for name in shown if name != "python_callable"]
    for name, parameter in written.items():
        if name in operator and name not in ("deferrable", "kwargs", "self"):
            assert (parameter.annotation, parameter.default) == (operator[name].annotation, operator[name].default)


def test_the_typed_task_is_that_of_airflow() -> None:
    assert chat.task is task
    assert chat.task.segmind is segmind_task
