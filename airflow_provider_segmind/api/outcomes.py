"""
What a chat model answered, in one vocabulary: text, why it stopped, tokens, and what to make of it.

An HTTP success proves nothing about an answer: a model that was blocked or ran out of tokens is COMPLETED all the same,
and billed. So the finish reason decides, and only then whether there is text:

===========================  ============  ==========================================================
finish reason                text          outcome
===========================  ============  ==========================================================
``stop``, ``unknown``        some          ``success``
``stop``, ``unknown``        none          ``empty``
``length``                   any           ``truncated``
``blocked``                  any           ``blocked``
``tool_call``, ``other``     any           ``invalid``: a stop that is no answer
===========================  ============  ==========================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from airflow_provider_segmind.api.families import ApiFormat

Outcome: TypeAlias = Literal["success", "truncated", "blocked", "empty", "invalid"]
RawKind: TypeAlias = Literal["encoded", "object", "text", "json", "missing"]


class FinishReason(StrEnum):
    """Why the model stopped, in one vocabulary."""

    STOP = "stop"
    LENGTH = "length"
    BLOCKED = "blocked"
    TOOL_CALL = "tool_call"
    OTHER = "other"
    UNKNOWN = "unknown"


# Google: FinishReason and BlockedReason of google-genai 3.4.0; OpenAI and Anthropic: their API references.
_FINISH = {
    FinishReason.STOP: "STOP END_TURN STOP_SEQUENCE EOS",
    FinishReason.LENGTH: "MAX_TOKENS LENGTH MODEL_CONTEXT_WINDOW_EXCEEDED",
    FinishReason.BLOCKED: "SAFETY RECITATION BLOCKLIST PROHIBITED_CONTENT SPII IMAGE_SAFETY IMAGE_PROHIBITED_CONTENT "
    "IMAGE_RECITATION MODEL_ARMOR JAILBREAK CONTENT_FILTER REFUSAL",
    FinishReason.TOOL_CALL: "TOOL_CALLS TOOL_USE FUNCTION_CALL",
    FinishReason.OTHER: "OTHER LANGUAGE MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL TOO_MANY_TOOL_CALLS "
    "MISSING_THOUGHT_SIGNATURE MALFORMED_RESPONSE IMAGE_OTHER NO_IMAGE ESCALATION PUP_LIMITED_DISABLED CONTINUATION "
    "PAUSE_TURN INSUFFICIENT_SYSTEM_RESOURCE",
}
_FINISH_BY_WORD = {word: reason for reason, words in _FINISH.items() for word in words.split()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """
    Tokens of one reply, in one shape; None where the provider does not say, which is not zero.

    :param input_tokens: all that was read, cached ones included.
    :param output_tokens: all that was written and is billed as output, thinking included.
    :param cached_tokens: the part of the input that came from a cache.
    :param thinking_tokens: the part of the output that was thought.
    :param total_tokens: as the provider counts, else the sum of both when both are known.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    thinking_tokens: int | None = None
    total_tokens: int | None = None

    def as_dict(self) -> dict[str, int | None]:
        """Return the counts as plain data, for XCom."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """
    What a chat model answered.

    :param text: the answer, thoughts left out; empty when there is none.
    :param finish_reason: why it stopped.
    :param native_finish_reason: the provider's word for it.
    :param block_reason: why it was blocked, with the harm category where one is named.
    :param grounding: what a web search contributed; its shape is not documented.
    :param tool_calls: the calls the model asked for, in the provider's form.
    :param raw_kind: how it was wrapped: provider JSON in a string (``encoded``) or as an object, plain ``text``,
        other data written out as ``json``, or ``missing``.
    :param api_format: the family whose shape was found, None for a plain text.
    """

    text: str = ""
    finish_reason: FinishReason = FinishReason.UNKNOWN
    native_finish_reason: str | None = None
    usage: TokenUsage = field(default_factory=TokenUsage)
    grounding: Any = None
    block_reason: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    raw_kind: RawKind = "missing"
    api_format: ApiFormat | None = None


def finish_reason_of(word: str | None) -> FinishReason:
    """Translate a provider's word, in any case; None and unknown words are ``UNKNOWN``."""
    return _FINISH_BY_WORD.get((word or "").upper(), FinishReason.UNKNOWN)


def outcome(reply: ChatReply) -> Outcome:
    """
    Say what became of a reply: by finish reason first, then by whether there is text.

    ``truncated`` and ``blocked`` hold whatever text there is; ``invalid`` is a stop that is no answer (a tool call, a
    malformed response); an unknown reason counts as a plain stop.

    :param reply: the reply as read.
    """
    if reply.finish_reason is FinishReason.BLOCKED:
        return "blocked"
    if reply.finish_reason is FinishReason.LENGTH:
        return "truncated"
    if reply.finish_reason in (FinishReason.TOOL_CALL, FinishReason.OTHER):
        return "invalid"
    return "success" if reply.text.strip() else "empty"
