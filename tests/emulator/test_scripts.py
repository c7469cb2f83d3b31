"""Which script answers a request, and how often."""

from __future__ import annotations

import pytest

from tests.support.emulator_calls import text_of

GEMINI, OPENAI = "gemini-3.1-flash-lite", "gpt-5"


def test_the_newest_matching_script_is_used_as_often_as_allowed(native, emulator):
    emulator.script(text="always")
    emulator.script(match="red", text="stop")
    emulator.script(regex=r"gr[ae]y", model="gemini-*", text="maybe")
    emulator.script(text="once", times=1)

    assert [text_of(native(GEMINI, prompt=prompt)) for prompt in ("x", "x", "red", "grey")] == [
        "once",
        "always",
        "stop",
        "maybe",
    ]
    assert text_of(native(OPENAI, prompt="grey")) == "always"
    assert [script["used"] for script in emulator.scripts] == [1, 1, 1, 2]


def test_in_process_a_script_can_match_and_reply_with_functions(native, emulator):
    emulator.script(
        predicate=lambda model, inputs: inputs.get("temperature") == 0, answer=lambda model, inputs: model.upper()
    )

    assert text_of(native(OPENAI, prompt="x", temperature=0)) == "GPT-5"
    assert text_of(native(OPENAI, prompt="x")) == "echo: x"


def test_replies_can_be_json_a_native_body_or_extra_result_keys(http, native, emulator, submit):
    emulator.script(json=None, times=1)
    assert text_of(native(OPENAI, prompt="x")) == "null"
    emulator.script(body={"choices": []}, times=1)
    assert native(OPENAI, prompt="x") == {"choices": []}
    emulator.script(result={"output": [1], "extra": True}, output_mode="dict")
    body = http.get(f"/v2/requests/{submit(OPENAI, prompt='x')}").json()
    assert (body["output"], body["extra"]) == ([1], True)


@pytest.mark.parametrize("fields", [{"txt": "x"}, {"output_mode": "dobule"}, {"latency": "slow"}, {"regex": "("}])
def test_a_misspelt_script_is_refused_with_its_name(emulator, fields):
    with pytest.raises(ValueError, match=r"txt|dobule|slow|regex"):
        emulator.script(**fields)


def test_latencies_follow_a_list_or_a_seeded_lognormal(http, emulator, submit):
    """E19"""
    emulator.settings(latency=[1, 5])
    for _ in range(3):
        submit()
    emulator.advance(10)
    assert [job.ended - job.submitted for job in emulator.jobs] == pytest.approx([1, 5, 1])

    emulator.settings(latency={"lognormal": {"median": 4, "sigma": 0.5, "seed": 7}})
    for _ in range(300):
        submit()
    emulator.advance(1000)
    drawn = sorted(job.ended - job.submitted for job in emulator.jobs[3:])
    assert drawn[150] == pytest.approx(4, rel=0.2)
    assert drawn[-1] > 8 > drawn[150] > 2 > drawn[0]
