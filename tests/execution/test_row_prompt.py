"""The text of a row's request, from which its fingerprint is made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.chat.cost_estimate import Price
from airflow_provider_segmind.enrichment.rows import Row, canonical_json
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.execution.row_prompt import RowPrompt, RowPromptSettings, row_question

SETTINGS = RowPromptSettings(
    key=("id",),
    model="gemini-3.1-flash-lite",
    prompt="Describe {name}.",
    system=None,
    files=(),
    inputs=None,
    options=None,
    api_format=None,
    output_type=None,
    max_repairs=0,
    max_cost=None,
)
SYSTEMS = [None, "Be brief.", 'Quote "it".', "As {name} would, with {{braces}}."]
OPTIONS = [None, {"temperature": 0.5, "max_tokens": 100}, {"stop": ["prompt", "\\"], "zeta": {"name": "{name}"}}]
CELLS = st.text() | st.sampled_from(["", " ", "\ud800", '"', "\\n", "\x00", "{name}"]) | st.integers() | st.none()


def prompt_of(**settings: Any) -> RowPrompt:
    return RowPrompt(replace(SETTINGS, **settings), prices=None, log=logging.getLogger(__name__))


def said(function: Callable[[], Any]) -> Any:
    """Return what a function returns or which error it raises."""
    try:
        return function()
    except SegmindConfigError as error:
        return type(error), str(error)


@given(
    cell=CELLS,
    prompt=st.sampled_from(["{name}", "Describe {name}.", "{name}{{name}} {id}", 'Say "{name}"\n'])
    | st.text(min_size=1).map("{name}".__add__),
    settings=st.fixed_dictionaries(
        {
            "model": st.sampled_from(["gemini-3.1-flash-lite", "gpt-5-mini", "claude-4.5-haiku"]),
            "system": st.sampled_from(SYSTEMS),
            "options": st.sampled_from(OPTIONS),
        }
    ),
)
def test_the_text_of_a_request_is_that_of_the_request_which_is_built(
    cell: Any, prompt: str, settings: dict[str, Any]
) -> None:
    asking, row = prompt_of(prompt=prompt, **settings), Row(0, {"id": 1, "name": cell})
    built = said(lambda: canonical_json(asking.build(row)))
    assert said(lambda: asking.text(row)) == (None if "{" in (settings["system"] or "") else built)


def test_a_question_builds_the_request_of_a_row_only_for_who_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowPrompt, "text", lambda self, row: None)
    before = row_question(SETTINGS, prices=None, log=None).prepare(Row(0, {"id": 1, "name": "sky"}))
    monkeypatch.undo()
    prepared = row_question(SETTINGS, prices=None, log=None).prepare(Row(0, {"id": 1, "name": "sky"}))

    assert callable(prepared.made)
    assert (prepared.fingerprint, prepared.body, prepared.size) == (before.fingerprint, before.body, before.size)
    assert prepared.inputs == before.inputs


@pytest.mark.parametrize("changed", [{"budgeted": True}, {"inputs": {"prompt": "{name}"}, "prompt": None}])
def test_the_text_is_not_known_where_more_depends_on_the_row(changed: dict[str, Any]) -> None:
    assert prompt_of(**changed).text(Row(0, {"id": 1, "name": "sky"})) is None


@pytest.mark.parametrize(
    ("model", "body", "reason"),
    [
        ("gemini-3.1-flash-lite", {"max_tokens": 9, "web_search": True}, "the cost of 'web_search' is not known"),
        ("gemini-3.1-flash-lite", {"max_tokens": 9, "num_outputs": 2}, "the cost of 'num_outputs' is not known"),
        ("nobody-sells-this-1", {"max_tokens": 9}, "the price of a request to the model is not known"),
    ],
)
def test_the_log_says_once_why_max_cost_is_kept_only_approximately(
    caplog: pytest.LogCaptureFixture, model: str, body: dict[str, Any], reason: str
) -> None:
    caplog.set_level(logging.INFO)
    prompt = prompt_of(model=model, max_cost=1.0)
    for _ in range(3):
        assert not prompt.most({"prompt": "a", **body}).certain
    assert caplog.text.count(reason) == 1


@pytest.mark.parametrize(
    ("limit", "said_of_model"),
    [
        (5_000, "model 'm' may write up to its output limit. 5000 tokens"),
        (None, "output limit of model 'm' is not known. 65536 tokens"),
    ],
)
def test_the_log_says_once_what_is_reserved_without_an_output_cap(
    caplog: pytest.LogCaptureFixture, limit: int | None, said_of_model: str
) -> None:
    prices = {"m": Price(input=1.0, output=10.0, max_output_tokens=limit)}
    prompt = RowPrompt(replace(SETTINGS, model="m", max_cost=50.0), prices=prices, log=logging.getLogger(__name__))
    for _ in range(2):
        prompt.most({"messages": [{"role": "user", "content": "Hello"}]})
    assert caplog.text.count(said_of_model) == 1
    assert "the maximum output" not in caplog.text


@pytest.mark.parametrize(("max_cost", "certain"), [(0.05, False), (0.5, False), (1.0, True), (50.0, True)])
def test_without_an_output_cap_a_small_max_cost_is_estimated_instead_of_sending_nothing(
    caplog: pytest.LogCaptureFixture, max_cost: float, certain: bool
) -> None:
    prompt = prompt_of(model="gemini-3.1-flash-lite", max_cost=max_cost)
    found = [prompt.most({"prompt": "a"}) for _ in range(3)]
    assert {one.certain for one in found} == {certain}
    if not certain:
        assert found[0].usd < 0.0001 < 0.09 < (found[0].ceiling or 0)
    assert caplog.text.count("enforced approximately") == (not certain)
    assert caplog.text.count("no output cap") == 1
