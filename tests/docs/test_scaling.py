"""Every computed figure of the page on scaling follows from its formulas and from the figures given as measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_segmind.chat.cost_estimate import PRICES
from airflow_provider_segmind.enrichment import engine
from airflow_provider_segmind.enrichment.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "scaling.md"
TEXT = PAGE.read_text()
FORMULAS = dict(re.findall(r"^(\w+)\s+= (.+)$", re.search(r"```text\n(.*?)```", TEXT, re.DOTALL)[1], re.MULTILINE))  # type: ignore[index]
NUMBER = re.compile(r"^\$?([\d,]+(?:\.\d+)?)")
FUNCTIONS = {"ceil": math.ceil, "min": min}


def number(cell: str) -> float:
    found = NUMBER.match(cell)
    assert found, cell
    return float(found[1].replace(",", ""))


def tables() -> Iterator[list[dict[str, str]]]:
    for block in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip()[1:-1].split("|")] for line in block.splitlines())
        yield [dict(zip(head, row, strict=True)) for row in rows]


def given() -> dict[str, float]:
    first = next(tables())
    return {row["symbol"].strip("`"): number(row["value"]) for row in first}


def name_of(head: str) -> str | None:
    found = re.search(r"`(\w+)`", head)
    return found and found[1]


def computed() -> Iterator[tuple[dict[str, float], str, str]]:
    """Yield for each computed cell the figures of its row, the name of its formula, and what the page says."""
    for table in list(tables())[1:]:
        for row in table:
            named = {name: cell for head, cell in row.items() if (name := name_of(head))}
            values = {name: number(cell) for name, cell in named.items() if name not in FORMULAS}
            for name, cell in named.items():
                if name in FORMULAS:
                    yield values, name, cell


def value_of(name: str, values: dict[str, float]) -> float:
    """Evaluate a formula, and those that it names."""
    names = {**FUNCTIONS, **given(), **values}
    for used in re.findall(r"[a-z_]\w+", FORMULAS[name]):
        if used in FORMULAS and used not in names:
            names[used] = value_of(used, values)
    return float(eval(FORMULAS[name], {"__builtins__": {}}, names))


def half_of_the_last_digit(cell: str) -> float:
    digits = NUMBER.match(cell)[1]  # type: ignore[index]
    decimals = len(digits.partition(".")[2])
    return 0.5 * 10.0**-decimals


@pytest.mark.parametrize(("values", "name", "cell"), list(computed()))
def test_a_figure_follows_from_its_formula(values: dict[str, float], name: str, cell: str) -> None:
    assert number(cell) == pytest.approx(value_of(name, values), abs=half_of_the_last_digit(cell) + 1e-9)


def test_every_formula_is_used() -> None:
    shown = {name for _, name, _ in computed()}
    inside = {used for formula in FORMULAS.values() for used in re.findall(r"[a-z_]\w+", formula)}
    assert FORMULAS.keys() - shown - inside == set()
    assert len(list(computed())) > 20


def test_what_the_page_takes_from_the_code_is_what_the_code_says() -> None:
    known = given()
    assert known["d"] == engine.COMMIT_DELAY
    assert known["w"] == Settings().concurrency
    assert known["p"] == pytest.approx(PRICES["gemini-3.1-flash-lite"].average_request, rel=0.01)


def test_a_wrong_figure_is_found() -> None:
    values, name, _ = next(computed())
    assert number("1,234.5") != pytest.approx(value_of(name, values), abs=half_of_the_last_digit("1,234.5"))
