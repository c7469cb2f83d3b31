"""The page of arguments and the signatures agree, and each argument has one place."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.compat import BaseOperator, BaseSensorOperator
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

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "arguments.md"
GROUPS = ["What to ask", "Where", "Limits", "When it goes wrong", "Rarely needed"]
OPERATORS: dict[str, type[Any]] = {
    "submit": SegmindSubmitOperator,
    "sensor": SegmindRequestSensor,
    "result": SegmindResultOperator,
    "run": SegmindRunOperator,
    "chat": SegmindChatOperator,
    "file": SegmindEnrichFileOperator,
    "sql": SegmindEnrichSqlOperator,
    "merge": SegmindMergeOperator,
}


def listed() -> dict[str, list[tuple[str, str]]]:
    """Return group and name of each argument on the page, in its order, by operator."""
    found = defaultdict(list)
    group = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("### "):
            group = line.removeprefix("### ")
        elif line.startswith("| `"):
            names, operators = line.split("|")[1:3]
            for operator in operators.split(","):
                found[operator.strip()] += [(group, name) for name in re.findall(r"`(\w+)`", names)]
    return found


def arguments_of(kind: Any) -> list[str]:
    parameters = inspect.signature(kind).parameters.values()
    return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_argument_is_in_one_group_of_the_page(operator: str) -> None:
    page = listed()[operator]

    assert sorted(name for _, name in page) == sorted(arguments_of(OPERATORS[operator]))
    assert [group for group, _ in page] == sorted((group for group, _ in page), key=GROUPS.index)


@pytest.mark.parametrize("operator", OPERATORS)
def test_signature_and_docstring_have_the_order_of_the_groups(operator: str) -> None:
    groups = {name: GROUPS.index(group) for group, name in listed()[operator]}
    parameters = inspect.signature(OPERATORS[operator]).parameters
    optional = [name for name in arguments_of(OPERATORS[operator]) if parameters[name].default is not inspect._empty]
    documented = re.findall(r":param (\w+):", OPERATORS[operator].__doc__ or "")

    for names in (optional, documented):
        assert [groups[name] for name in names] == sorted(groups[name] for name in names)


def test_shared_arguments_have_one_default() -> None:
    defaults = defaultdict(set)
    for operator in ("submit", "run", "chat"), ("file", "sql"):
        for kind in map(OPERATORS.get, operator):
            for name in arguments_of(kind):
                if (default := inspect.signature(kind).parameters[name].default) is not inspect._empty:
                    defaults[name, operator].add(default)

    assert {name: found for name, found in defaults.items() if len(found) > 1} == {}


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_signature_has_all_arguments_of_the_bases(operator: str) -> None:
    kind = OPERATORS[operator]
    known = set(arguments_of(kind)) | set(getattr(kind, "decided_arguments", {}))

    for base in kind.__mro__:
        if base in (BaseOperator, BaseSensorOperator):
            break
        assert set(arguments_of(base)) <= known, base
