from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_provider_segmind.client.submission import text_digest
from airflow_provider_segmind.enrichment.rows import (
    Row,
    Undecoded,
    canonical_json,
    fingerprint,
    frame,
    is_name,
    json_value,
    placeholders,
    plain_text,
)
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindRowError


def row(**values: object) -> Row:
    return Row(0, values)


def test_a_placeholder_is_filled_from_its_column() -> None:
    assert row(title="Ein Tisch", price=3).fill("{title} costs {price}.") == "Ein Tisch costs 3."


def test_a_missing_column_is_named() -> None:
    with pytest.raises(SegmindConfigError, match=r"no column 'colour'.*Its columns are: title"):
        row(title="x").fill("{title} {colour}")


def test_braces_that_are_not_a_placeholder_stay_byte_for_byte() -> None:
    text = 'Answer {"tags": ["a"], "deep": {"b": {}}} {} {0} { title } {a!r} {a:>3} {{ title }} {3} {1,2} {}'
    assert row(title="x").fill(text) == text


class Sliced(str):
    """A string whose parts are of its own type, as those of ``markupsafe.Markup`` are."""

    def __getitem__(self, key: Any) -> Sliced:
        return Sliced(super().__getitem__(key))


def test_a_template_of_a_type_derived_from_strings_is_filled_as_a_string() -> None:
    filled = Row(0, {"a": Sliced("x")}).fill(Sliced("about {a}, not {{a}}"))
    assert (filled, type(filled)) == ("about x, not {a}", str)


def test_doubled_braces_write_a_literal_placeholder() -> None:
    assert row(title="x").fill("{{title}} is {title}") == "{title} is x"


def test_a_column_whose_name_is_not_an_identifier_can_be_named() -> None:
    assert Row(0, {"Product Name": "Stuhl"}).fill("{Product Name}, {{Other Name}}") == "Stuhl, {Other Name}"
    with pytest.raises(SegmindConfigError, match="no column 'Other Name'"):
        Row(0, {"Product Name": "Stuhl"}).fill("{Product Name}, {Other Name}")


@pytest.mark.parametrize(
    "name",
    [
        *("first-name", "First Name", "a.b", "2nd", "größe", "名前", "a--b", "x_1.y-2 z"),
        *("pre\u0301nom", "नाम", "ชื่อ", "नाम पता", "\u0645\u06cc\u200c\u0634", "n\u0308.x"),
    ],
)
def test_words_in_braces_must_name_a_column(name: str) -> None:
    assert placeholders(f"Greet {{{name}}}.") == {name}
    assert Row(0, {name: "Ann"}).fill(f"Greet {{{name}}}.") == "Greet Ann."
    assert Row(0, {}).fill(f"Greet {{{{{name}}}}}.") == f"Greet {{{name}}}."
    with pytest.raises(SegmindRowError, match="has no column"):
        Row(0, {"x": 2}).fill(f"Greet {{{name}}}.")


@pytest.mark.parametrize(
    "name",
    ["3", "2024", "a:b", "a, b", " padded ", "what?", "e-mail (work)", "100 %", "a!r", "\u0301", "1\ufe0f\u20e3"],
)
def test_other_braces_are_a_placeholder_only_where_a_column_has_that_name(name: str) -> None:
    assert Row(0, {name: "x"}).fill(f"{{{name}}}") == "x"
    assert Row(0, {}).fill(f"{{{name}}}") == f"{{{name}}}"
    with pytest.raises(SegmindRowError, match="has no column"):
        Row(0, {}, known={name}).fill(f"{{{name}}}")


@given(
    st.dictionaries(st.text(st.characters(blacklist_characters='{}"'), min_size=1), st.text(), min_size=1), st.text()
)
def test_every_column_name_without_braces_and_quotes_can_be_named(values: dict[str, str], between: str) -> None:
    between = between.replace("{", "").replace("}", "")
    template = between.join(f"{{{name}}}" for name in values)
    assert placeholders(template) == set(values)
    assert Row(0, values).fill(template) == between.join(values.values())


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_in_a_prompt_is_unchanged(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    inside = "".join(re.findall(r"\{([^{}]*)\}", text))
    assume("{" not in inside and not any(is_name(part) for part in re.findall(r"\{([^{}]+)\}", text)))
    assert row(title="x").fill(text) == text


def test_a_value_that_could_not_be_decoded_fails_its_row_only() -> None:
    broken = Row(7, {"id": 1, "text": Undecoded("string that cannot be read (UnicodeDecodeError)")})
    assert broken.fill("{id}") == "1"
    for use in (lambda: broken.fill("{text}"), lambda: broken.fill_inputs("{text}"), lambda: broken.key(("text",))):
        with pytest.raises(SegmindRowError, match=r"'text' of row 7,.*UnicodeDecodeError"):
            use()


def test_the_contents_of_a_row_are_never_read_as_placeholders() -> None:
    assert row(title="{secret} {{secret}}", secret="s").fill("{title}") == "{secret} {{secret}}"


def test_a_whole_placeholder_in_inputs_keeps_the_type_of_its_column() -> None:
    given = row(seed=7, url="u", gone=None)
    filled = given.fill_inputs({"seed": "{seed}", "urls": ["{url}", "a {seed}"], "x": "{gone}"})
    assert filled == {"seed": 7, "urls": ["u", "a 7"], "x": None}


def test_the_needed_columns_can_be_known_before_the_first_row() -> None:
    assert placeholders({"a": "{title} {{no}}", "b": ["{price}", '{"x": 1}']}) == {"title", "price"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (True, "true"),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (Decimal("1.10"), "1.10"),
        (Decimal("1E+3"), "1000"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "2026-01-02T03:04:00+00:00"),
        (b"\x00\x01", "AAE="),
        ({"b": 1, "a": [None]}, '{"a":[null],"b":1}'),
    ],
)
def test_values_are_written_as_plain_text(value: object, text: str) -> None:
    assert plain_text(value) == text


def test_decimals_are_sent_as_numbers_where_json_holds_them_exactly() -> None:
    assert json_value([Decimal(5), Decimal("0.5"), Decimal("0.12345678901234567890123")]) == [
        5,
        0.5,
        "0.12345678901234567890123",
    ]


def marked(inputs: dict[str, Any], **shared: Any) -> bytes:
    return fingerprint(frame(**{"model": "m", **shared}), canonical_json(inputs))


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)))
def test_the_fingerprint_does_not_depend_on_the_order_of_names(inputs: dict[str, object]) -> None:
    turned = dict(reversed(inputs.items()))
    assert marked(inputs) == marked(turned)
    assert json.loads(canonical_json(inputs)) == inputs


def test_the_fingerprint_is_that_of_the_whole_question() -> None:
    inputs, schema = {"prompt": "Grüße", "n": Decimal("0.5")}, {"type": "object"}
    whole = {"version": 1, "model": "m", "inputs": inputs, "schema": schema, "options": None}
    assert marked(inputs, schema=schema) == text_digest(canonical_json(whole))
    # Ledgers written by any version are read by this one.
    assert marked({"a": 1}).hex().startswith("7baf8cb61bdd4baf")


def test_the_fingerprint_changes_with_everything_the_answer_depends_on() -> None:
    variants = [
        marked({"a": 1}),
        marked({"a": 1}, model="n"),
        marked({"a": 2}),
        marked({"a": 1}, schema={"type": "object"}),
        marked({"a": 1}, options={"repair": 1}),
    ]
    assert len(set(variants)) == len(variants)


@given(st.text())
def test_a_string_without_braces_is_unchanged(text: str) -> None:
    cleaned = text.replace("{", "").replace("}", "")
    assert row().fill(cleaned) == cleaned


WRITTEN = """
from airflow_provider_segmind.enrichment.rows import Row, canonical_json, plain_text

tags = {f"tag {number}" for number in range(9)}
row = Row(0, {"tags": tags, "nested": [frozenset(tags)], "thing": object()})
print(row.fill("{tags} {nested}"), plain_text(tags), canonical_json([tags, object()]), row.fill_inputs(["{tags}"]))
"""


def test_a_row_is_the_same_question_in_every_process() -> None:
    written = {
        subprocess.run(
            [sys.executable, "-c", WRITTEN],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in range(3)
    }

    assert len(written) == 1


def test_sets_are_sorted_lists() -> None:
    assert plain_text({"b", "a", 1}) == '["a","b",1]'
    assert json_value({"tags": frozenset({2, 1}), "none": set()}) == {"tags": [1, 2], "none": []}


@pytest.mark.parametrize("fill", [lambda row: row.fill("{thing}"), lambda row: row.key(("thing",))])
@pytest.mark.parametrize("thing", [object(), iter("")])
def test_an_object_that_has_no_text_of_its_own_skips_its_row(fill: Callable[[Row], object], thing: object) -> None:
    with pytest.raises(SegmindRowError, match=r"contains an object of type \w+, which has no text\. Nothing was sent"):
        fill(row(thing=thing))
