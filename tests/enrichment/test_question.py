"""A row is asked what its fingerprint stands for, whether its body is built or only known as text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.question import Question
from airflow_provider_segmind.enrichment.rows import Row, canonical_json
from airflow_provider_segmind.exceptions import SegmindConfigError

ROW = Row(0, {"id": 7, "text": "sky", "other": "never sent"})


def body_of(row: Row) -> Mapping[str, Any]:
    return {"prompt": f"Say {row.values['text']}", "temperature": 0}


def question(**fields: Any) -> Question:
    given: dict[str, Any] = {
        "model": "m", "build": body_of, "read": lambda *_: None, "key": ("id",), "answer_columns": ("said",)
    }  # fmt: skip
    return Question(**{**given, **fields})


def test_a_body_known_as_text_has_the_fingerprint_of_the_built_one_and_is_built_when_it_is_sent() -> None:
    built: list[Row] = []

    def build(row: Row) -> Mapping[str, Any]:
        built.append(row)
        return body_of(row)

    known = question(build=build, text=lambda row: canonical_json(body_of(row))).prepare(ROW)
    whole = question().prepare(ROW)

    assert (known.fingerprint, known.body, known.size) == (whole.fingerprint, whole.body, whole.size)
    assert whole.body == hashlib.sha256(canonical_json(body_of(ROW)).encode()).hexdigest()
    assert built == []
    assert known.inputs == whole.inputs == body_of(ROW)
    assert built == [ROW]


@pytest.mark.parametrize("changed", [{"model": "n"}, {"schema": {"type": "object"}}, {"options": {"repairs": 1}}])
def test_the_same_body_of_another_question_is_another_row(changed: dict[str, Any]) -> None:
    first, other = question().prepare(ROW), question(**changed).prepare(ROW)

    assert first.fingerprint != other.fingerprint
    assert first.body == other.body


def test_the_prompt_of_a_run_is_that_of_another_model_and_not_that_of_another_template() -> None:
    asked = question(template={"prompt": "Say {text}"})

    assert asked.prompt_hash == question(template={"prompt": "Say {text}"}, model="n").prompt_hash
    for changed in ({"template": {"prompt": "Sing {text}"}}, {"schema": {}}, {"options": {"repairs": 1}}):
        assert question(**{"template": asked.template, **changed}).prompt_hash != asked.prompt_hash


def test_the_columns_that_are_read_are_the_key_and_what_templates_name() -> None:
    assert question(placeholders=frozenset({"text", "id"}), key=("id", "day")).columns == {"text", "id", "day"}


@pytest.mark.parametrize("where", ["build", "text"])
def test_a_row_that_cannot_be_asked_is_an_error_when_it_is_prepared(where: str) -> None:
    def fail(row: Row) -> Any:
        raise SegmindConfigError("The row has no column 'text'.")

    with pytest.raises(SegmindConfigError, match="no column 'text'"):
        question(**{where: fail}).prepare(ROW)
