"""The data is taken from after the reasoning, and the last of several values is taken."""

from __future__ import annotations

import json
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.chat.output_type import (
    OutputType,
    is_cut_short,
    json_candidates,
    without_reasoning,
)
from tests.support.counting import calls_made

NUMBER = OutputType.from_({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
DRAFT, ANSWER = '{"a": 1}', '{"a": 2}'
MARKS = [
    ("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>"), ("<THINK>", "</Think>"),
    ('<think type="deep">', "</think >"), ("<thought>", "</thought>"), ("<scratchpad>", "</scratchpad>"),
    ("<analysis>", "</analysis>"), ("<seed:think>", "</seed:think>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
]  # fmt: skip
SHAPES = [
    "{open}maybe {draft}?{close}\n{answer}",
    "{open}\n```json\n{draft}\n```\n{close}\n```json\n{answer}\n```",
    "{open}\n```json\n{draft}\n```\n{close}{answer}",
    "maybe {draft}?\n{close}\n{answer}",
    "{draft}{close}{answer}",
    "{open}{draft}{close}{open}{draft}{close}The answer: {answer}.",
    "{open}use {open} marks: {draft}{close}{answer}",
    "{open}a {{ and [ and \" left open{close}{answer}",
    "{answer}\n{open}was {draft} right?{close}",
    "Sure. {answer} {open}now more: {draft}",
    "{draft} is the form.{open}hm{close}{answer}",
]  # fmt: skip


@pytest.mark.parametrize("marks", MARKS, ids=lambda marks: marks[0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_data_is_found_outside_the_reasoning(marks, shape):
    text = shape.format(open=marks[0], close=marks[1], draft=DRAFT, answer=ANSWER)

    assert NUMBER.parse(text).data == {"a": 2}


@pytest.mark.parametrize(
    "text",
    [
        f"<think>maybe {DRAFT}?", f"<think>maybe {DRAFT}?</think>", f"{DRAFT}</think>\nI cannot say.",
        f"<think>\n```json\n{DRAFT}\n```", f"<think>{DRAFT}</think><think>{DRAFT}", f"Well. <reasoning>{DRAFT}",
    ],
)  # fmt: skip
def test_a_reply_that_is_only_reasoning_has_no_data(text):
    parsed = NUMBER.parse(text)

    assert not parsed.ok
    assert parsed.path == "$"


def test_unfinished_reasoning_is_reported_as_cut_short():
    parsed = NUMBER.parse(f"<think>maybe {DRAFT}?")

    assert parsed.error == "not JSON: it is reasoning that does not end"
    assert parsed.cut_short
    assert not is_cut_short(f"<think>{DRAFT}</think>I cannot say.")


@pytest.mark.parametrize("mark", ["<think>", "</think>", "<think>x</think>", "[THINK]"])
@pytest.mark.parametrize("around", ["{}", "Here: {} So.", "```json\n{}\n```", "<think>hm</think>{}", "[1] {}"])
def test_a_reasoning_mark_inside_json_is_data(mark, around):
    value = {"a": 2, "html": f"x {mark} y"}

    assert NUMBER.parse(around.replace("{}", json.dumps(value))).data == value


@pytest.mark.parametrize(
    "text",
    [
        f"First {DRAFT}, no: {ANSWER}.", f"```json\n{DRAFT}\n```\nCorrected:\n```json\n{ANSWER}\n```",
        f'{DRAFT} {ANSWER} as {{"b": 3}} would be wrong', f"{DRAFT} " * 50 + ANSWER,
        f"Not {DRAFT} but\n```\n{ANSWER}\n```\n(see {DRAFT})",
    ],
)  # fmt: skip
def test_of_several_values_the_last_that_matches_is_taken(text):
    assert NUMBER.parse(text).data == {"a": 2}


FENCED_DRAFT, FENCED_ANSWER = f"```json\n{DRAFT}\n```", f"```json\n{ANSWER}\n```"


@pytest.mark.parametrize(
    "text",
    [
        *(f"<{tag}>\n{FENCED_DRAFT}\n</{tag}>\n{ANSWER}" for tag in ("reasoning_content", "plan", "x:notes", "a-b")),
        *(f"<{tag}>\n{FENCED_DRAFT}\n</{tag}>\n{FENCED_ANSWER}" for tag in ("reasoning_content", "plan")),
        f"<plan>{FENCED_DRAFT}</plan><answer>{ANSWER}</answer>",
        f"<plan>\n{FENCED_DRAFT}\n</plan>\n<final_answer>\n{ANSWER}\n</final_answer>\nBye.",
        f"Draft:\n{FENCED_DRAFT}\nFinal answer: {ANSWER}",
        f"Draft:\n{FENCED_DRAFT}\nThe final answer is {ANSWER}, as computed.",
        f"Draft: ```{DRAFT}``` Final answer: {ANSWER}",
        f"**Thinking:**\n{FENCED_DRAFT}\n**Answer:** {ANSWER}",
        f"**Thinking:**\n{FENCED_DRAFT}\n**Answer:**\n\n{ANSWER}\n\nI hope it helps.",
        f"{FENCED_DRAFT}\nCorrected: {ANSWER} (not {DRAFT}).",
        f"Draft {{x:\n{FENCED_DRAFT}\nThe set {{y, z. Result: {ANSWER}",
        f"```\n{DRAFT}\n{DRAFT}\n```\n{ANSWER}",
        f"```python\nprint(1)\n```\nResult: {DRAFT}\nNo, {ANSWER} is right.",
    ],
)  # fmt: skip
def test_a_fenced_draft_before_the_answer_is_not_taken(text):
    assert NUMBER.parse(text).data == {"a": 2}


@pytest.mark.parametrize(
    "text",
    [
        f"{FENCED_ANSWER}\nNote that {DRAFT} would be wrong.",
        f"{FENCED_ANSWER}\nIn the form {DRAFT}, as you asked\nfor it.",
        f"{FENCED_ANSWER}\n<notes>I had {DRAFT}</notes>",
        f"{FENCED_ANSWER}\n<notes>\n{DRAFT}\n</notes>",
        f"{FENCED_ANSWER}\n(before: {DRAFT})\n",
        f"{ANSWER}\n<reasoning_content>\n{FENCED_DRAFT}\n</reasoning_content>",
        f"{FENCED_DRAFT}\n{FENCED_ANSWER}\nBye. {{x",
    ],
)  # fmt: skip
def test_a_value_that_is_only_mentioned_after_a_fenced_answer_is_not_taken(text):
    assert NUMBER.parse(text).data == {"a": 2}


@pytest.mark.parametrize("value", ["[]", "[1]", "[7, 8]"])
@pytest.mark.parametrize(
    "remark",
    [
        "These were derived from the references {}.",
        "If nothing had been found, the value would be {}",
        "I left out {}!",
        "The input was **{}**.",
        "Sources: {}",
        "The tags of the second page are empty: `{}`",
        "Example output: {}",
        "The original answer was: {}",
        "Note that the first result is {} only in the draft.",
        "<p>Sources: {}</p>",
    ],
)
def test_a_value_in_a_remark_after_a_fenced_answer_is_not_taken(remark, value):
    text = f"```json\n[1, 2, 3]\n```\n\n{remark.format(value)}"
    assert OutputType.from_(list[int]).parse(text).data == [1, 2, 3]


@pytest.mark.parametrize("fence", ["```json\n[9]\n```", "```json\n[9]\n```\n```\n[8]\n```"])
@pytest.mark.parametrize(
    "ending",
    [
        "The draft is wrong. The answer is {}.",
        "No, corrected: {}",
        "After the first check, the result is {}",
        "- {}",
        "> {}",
        "2. `{}`",
        "<final>{}</final>",
        "Final output:\n{}",
        "{}\nI hope this helps.",
    ],
)
def test_an_answer_outside_the_fence_of_a_draft_is_taken(fence, ending):
    text = f"Draft:\n{fence}\n{ending.format('[1, 2, 3]')}"
    assert OutputType.from_(list[int]).parse(text).data == [1, 2, 3]


@pytest.mark.parametrize("text", ['{"a": 1, "b": {"a": 2}', '[{"a": 2}, ', '{ "b": {"a": 2}, ', "Here: [[{x} "])
def test_a_part_of_data_that_is_cut_short_is_not_taken(text):
    assert not NUMBER.parse(text).ok


@pytest.mark.parametrize("repeated", ["{x", '{x "', "```\n{}\n```\n{} ", "answer ", "{}\n</a>", "{}" + " " * 50])
def test_finding_what_is_presented_takes_linear_work(repeated):
    short, long = (calls_made(partial(NUMBER.parse, repeated * count)) for count in (1_000, 4_000))

    assert long <= 5 * short


@pytest.mark.parametrize(
    "label", ["For your data: ", "**Now with your text:** ", "- In short: `", "So, put together:\n"]
)
def test_an_object_after_any_label_is_taken_instead_of_a_fenced_example(label):
    end = "`" if label.endswith("`") else ""
    assert NUMBER.parse(f"Of this form:\n{FENCED_DRAFT}\n{label}{ANSWER}{end}\nBye.").data == {"a": 2}


@pytest.mark.parametrize(
    "remark", ["Your input was: {}", "For example: {}", "The original: {}", "An invalid answer: {}"]
)
def test_an_object_that_a_remark_calls_something_else_is_not_taken(remark):
    assert NUMBER.parse(f"{FENCED_ANSWER}\n{remark.format(DRAFT)}").data == {"a": 2}


@pytest.mark.parametrize("remark", ["Metadata: {}", "Left out:\t{ }", "Other fields: `{\n}`"])
def test_an_empty_object_in_a_remark_is_not_taken(remark):
    assert OutputType.from_(dict).parse(f"{FENCED_ANSWER}\n{remark}").data == {"a": 2}


values = st.dictionaries(st.text(), st.integers() | st.text(), max_size=3)
prose = st.text(alphabet='abc {}[]"<>/`\n.,1')


@given(draft=values, answer=values, before=prose, marks=st.sampled_from(MARKS))
def test_no_draft_in_reasoning_is_taken_as_the_data(draft, answer, before, marks):
    text = f"{marks[0]}{before}{json.dumps(draft)}{marks[1]}\n{json.dumps(answer)}"

    assert [found.value for found in json_candidates(text)] == [answer]


@given(answer=values, before=prose)
def test_a_text_without_marks_is_unchanged(answer, before):
    text = before.replace("<", "") + json.dumps(answer)

    if "think" not in text.lower():
        assert without_reasoning(text) == (text, False)


@pytest.mark.parametrize(
    ("repeated", "end"),
    [
        ("<think>", ""),
        ("</think>", ""),
        ("<think></think>", ""),
        ("[", "<think>"),
        ("[1}", "<think>"),
        ("{}", "</think>"),
    ],
)
def test_finding_reasoning_takes_linear_work(repeated, end):
    short, long = (calls_made(partial(NUMBER.parse, repeated * count + end)) for count in (1_000, 4_000))

    assert long <= 5 * short
