"""Every way a reply can go, through the operator: what the task returns or fails with, and how often it paid."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from airflow_provider_segmind.compat import AirflowFailException
from airflow_provider_segmind.exceptions import SegmindReplyError
from tests.support.chat_tasks import FAMILIES, NUMBER, Chat

MEGABYTE = "x" * 1_000_000
LOOKALIKE = json.dumps({"candidates": ["first"], "choices": ["a", "b"], "x": 1})
EMOJI = "🙂 ñ 漢字 \u2028 {{ 7*7 }} {% sale"


@dataclass(frozen=True)
class Case:
    """
    One kind of reply.

    :param reason: of the error; None when there is an answer.
    :param words: what the error's message must hold, by family or for all.
    :param plain: what it leads to where only the text is known: (posts, answer, reason).
    """

    name: str
    script: dict[str, Any]
    answer: Any = None
    reason: str | None = None
    posts: int = 1
    words: Any = ""
    plain: tuple[int, Any, str | None] | None = None
    given: dict[str, Any] = field(default_factory=dict)


DATA = {"output_type": NUMBER}
CASES = [
    Case("stop", {"text": "fine"}, "fine"),
    Case(
        "length",
        {"text": "cut o", "finish_reason": "length"},
        reason="truncated",
        posts=2,
        words={"gemini": "(MAX_TOKENS)", "openai": "(length)", "anthropic": "(max_tokens)"},
        plain=(1, "cut o", None),
    ),
    Case(
        "safety",
        {"finish_reason": "safety"},
        reason="blocked",
        words={"gemini": "DANGEROUS_CONTENT", "openai": "content_filter", "anthropic": "refusal"},
        plain=(1, None, "empty"),
    ),
    Case(
        "blocked prompt",
        {"block": "PROHIBITED_CONTENT"},
        reason="blocked",
        words={"gemini": "PROHIBITED_CONTENT", "openai": "refusal", "anthropic": "refusal"},
        plain=(1, None, "empty"),
    ),
    Case("empty candidates", {"empty": True}, reason="empty", words="no text", plain=(1, "echo: question", None)),
    Case("thought parts", {"text": "fine", "thoughts": ["hm", "so"]}, "fine"),
    Case("list content", {"text": "fine", "list_content": True}, "fine"),
    Case(
        "tool call",
        {"tool_call": {"name": "look_up", "args": {"id": 7}}},
        reason="invalid",
        words="stopped without an answer",
        plain=(1, None, "empty"),
    ),
    Case("not JSON", {"text": "no data"}, reason="invalid", posts=2, words="not the data asked for", given=DATA),
    Case("fenced JSON", {"text": 'Here:\n```json\n{"x": 1}\n```'}, {"x": 1}, given=DATA),
    Case("JSON that looks like a provider body", {"text": LOOKALIKE}, LOOKALIKE),
    Case("1 MB", {"text": MEGABYTE}, MEGABYTE, given={"max_xcom_bytes": 2_000_000}),
    Case("emoji", {"text": EMOJI}, EMOJI),
]


@pytest.mark.parametrize("mode", ["double", "dict", "plain"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_reply_has_its_outcome_its_posts_and_its_error(case: Case, family: str, mode: str, chat: Chat) -> None:
    chat.emulator.script(output_mode=mode, **case.script)
    posts, answer, reason = case.posts, case.answer, case.reason
    if mode == "plain" and case.plain is not None:
        posts, answer, reason = case.plain
    given = {"model": FAMILIES[family], **case.given}

    if reason is None:
        assert chat.ask(**given) == answer
    else:
        with pytest.raises(AirflowFailException) as caught:
            chat.ask(**given)
        error = caught.value.__context__
        assert isinstance(error, SegmindReplyError)
        assert error.reason == reason
        if case.plain is None or mode != "plain":
            assert (case.words[family] if isinstance(case.words, dict) else case.words) in str(error)
        times = "The request was billed" if posts == 1 else f"{posts} requests were billed"
        assert times in str(error)
        assert len(str(error)) < 1000

    assert chat.posts == posts
    assert len(chat.emulator.bill) == posts
    assert chat.xcoms["cost"] == pytest.approx(sum(entry.cost for entry in chat.emulator.bill))
    if mode != "plain":
        assert chat.xcoms["usage"]["input_tokens"] > 0


def test_the_error_quotes_no_more_than_200_characters_of_the_reply(chat: Chat) -> None:
    chat.emulator.script(text="a secret " * 500)

    with pytest.raises(AirflowFailException) as caught:
        chat.ask(output_type=NUMBER, max_repairs=0)

    assert str(caught.value).count("a secret") < 60
    assert "…" in str(caught.value)


def test_a_chat_model_of_an_unknown_family_is_prompted_in_openais_format_with_a_warning(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    chat.emulator.settings(models={"grok-9": "openai"})

    assert chat.ask(model="grok-9") == "echo: question"

    assert chat.body()["messages"] == [{"role": "user", "content": "question"}]
    assert "The name of model 'grok-9' matches no known family" in capsys.readouterr().out
    assert chat.posts == len(chat.emulator.bill) == 1
