"""The reply of a chat model of any family: text, finish reason, token usage, outcome."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from airflow_provider_segmind.chat.json_values import json_text, read_json, without_surrogates
from airflow_provider_segmind.chat.model_families import (
    ApiFormat,
    as_list,
    as_object,
    known_family,
    prompt_feedback,
    provider_family,
    string_or_empty,
    token_count,
)

ReplyOutcome: TypeAlias = Literal["success", "truncated", "blocked", "empty", "invalid"]


class FinishReason(StrEnum):
    """Why the model stopped, in the same words for all families."""

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
    Tokens of one reply, the same for all families; None, unlike 0, means that the provider did not report the count.

    :param input_tokens: all input, cached tokens included.
    :param output_tokens: all tokens billed as output, thinking included.
    :param cached_tokens: the part of the input that came from a cache.
    :param thinking_tokens: the part of the output spent on thinking.
    :param total_tokens: as the provider reports it, else the sum of input and output when both are known.
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
    The reply of a chat model.

    :param text: the reply without thoughts; empty when there is none.
    :param native_finish_reason: the provider's word for it.
    :param block_reason: why it was blocked, with the harm category if one is named.
    :param api_format: the format in which it was written, None for plain text.
    """

    text: str = ""
    finish_reason: FinishReason = FinishReason.UNKNOWN
    native_finish_reason: str | None = None
    usage: TokenUsage = field(default_factory=TokenUsage)
    block_reason: str | None = None
    api_format: ApiFormat | None = None


def finish_reason_of(word: str | None) -> FinishReason:
    """Translate a provider's word, ignoring case; None and unknown words become ``UNKNOWN``."""
    return _FINISH_BY_WORD.get((word or "").upper(), FinishReason.UNKNOWN)


def reply_outcome(reply: ChatReply) -> ReplyOutcome:
    """
    Return the outcome of a reply, decided by its finish reason and then by whether it has text.

    A ``truncated`` or ``blocked`` reply may have text; ``invalid`` means the model stopped without an answer (a tool
    call, a malformed response); an unknown finish reason counts as a normal stop.
    """
    if reply.finish_reason is FinishReason.BLOCKED:
        return "blocked"
    if reply.finish_reason is FinishReason.LENGTH:
        return "truncated"
    if reply.finish_reason in (FinishReason.TOOL_CALL, FinishReason.OTHER):
        return "invalid"
    return "success" if reply.text.strip() else "empty"


_OUTPUT_SIBLINGS = frozenset({"output", "error", "grounding", "reasoning", "partial"})


def read_reply(response: Any, *, model: str | None = None, api_format: ApiFormat | str | None = None) -> ChatReply:
    """
    Read the reply in a v2 result body, a v1 body, or a bare ``output``. Never raises.

    :param response: the decoded JSON, or the string, that Segmind returned.
    :param model: the model that ran; its family decides ambiguous bodies such as ``{"candidates": []}``.
    :param api_format: the family; overrides the name.
    """
    hint = _hint(model, api_format)
    body = as_object(response)
    if provider_family(body, hint) is None and _is_result_body(body):
        return _read_output(body.get("output"), hint)
    return _read_output(response, hint)


def _hint(model: str | None, api_format: ApiFormat | str | None) -> ApiFormat | None:
    if api_format is not None and api_format in tuple(ApiFormat):
        return ApiFormat(str(api_format))
    return known_family(model) if isinstance(model, str) else None


def _is_result_body(body: Mapping[str, Any]) -> bool:
    # A model's own JSON may also have a key "output" or "status". A result body has further keys of Segmind's next to
    # "output", or one of Segmind's statuses.
    if "output" in body:
        return not {"status", "metrics", "request_id"}.isdisjoint(body) or set(body) <= _OUTPUT_SIBLINGS
    return string_or_empty(body.get("status")).strip().upper() in ("COMPLETED", "FAILED", "QUEUED", "PROCESSING")


def _read_output(output: Any, hint: ApiFormat | None) -> ChatReply:
    if isinstance(output, bytes):
        output = output.decode("utf-8", "replace")
    if output is None:
        return ChatReply()
    if isinstance(output, str):
        decoded = _decoded(output)
        family = provider_family(decoded, hint)
        if family is None:
            return ChatReply(text=without_surrogates(output))
        return _READERS[family](decoded)
    native = as_object(output)
    family = provider_family(native, hint)
    if family is not None:
        return _READERS[family](native)
    return ChatReply(text=json_text(output))


def _decoded(text: str) -> Mapping[str, Any]:
    if not text.lstrip("\ufeff \t\r\n").startswith("{"):
        return {}
    try:
        return as_object(read_json(text.lstrip("\ufeff")))
    except ValueError:
        return {}


def _read_gemini(body: Mapping[str, Any]) -> ChatReply:
    candidates = as_list(body.get("candidates"))
    candidate = as_object(candidates[0]) if candidates else {}
    content = candidate.get("content")
    raw_parts = content if isinstance(content, list) else as_object(content).get("parts")
    parts = [as_object(part) for part in (raw_parts if isinstance(raw_parts, list) else [raw_parts])]
    text = "".join(string_or_empty(part.get("text")) for part in parts if part.get("thought") is not True)
    calls_a_tool = any(part.get("functionCall") or part.get("function_call") for part in parts)
    word = string_or_empty(candidate.get("finishReason") or candidate.get("finish_reason")) or None
    reason = finish_reason_of(word)
    blocked, feedback = prompt_feedback(body)
    if blocked and not candidates:
        word, reason = blocked, FinishReason.BLOCKED
    elif calls_a_tool and reason is FinishReason.STOP:
        reason = FinishReason.TOOL_CALL
    ratings = as_list(feedback.get("safetyRatings")) + as_list(candidate.get("safetyRatings"))
    # Both spellings are in use, as in the fields above.
    counts = as_object(body.get("usageMetadata") or body.get("usage_metadata")).items()
    usage = {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): value for name, value in counts}
    thinking = token_count(usage.get("thoughtsTokenCount"))
    return ChatReply(
        text=without_surrogates(text),
        finish_reason=reason,
        native_finish_reason=word,
        usage=_usage(
            input_tokens=_sum(
                token_count(usage.get("promptTokenCount")), token_count(usage.get("toolUsePromptTokenCount"))
            ),
            output_tokens=_sum(token_count(usage.get("candidatesTokenCount")), thinking),
            cached_tokens=token_count(usage.get("cachedContentTokenCount")),
            thinking_tokens=thinking,
            total_tokens=token_count(usage.get("totalTokenCount")),
        ),
        block_reason=_block_reason(word, ratings) if reason is FinishReason.BLOCKED else None,
        api_format=ApiFormat.GEMINI,
    )


def _read_openai(body: Mapping[str, Any]) -> ChatReply:
    choices = as_list(body.get("choices"))
    choice = as_object(choices[0]) if choices else {}
    message = as_object(choice.get("message"))
    word = string_or_empty(choice.get("finish_reason")) or None
    reason = finish_reason_of(word)
    content = message.get("content")
    text = _joined_blocks(content) if isinstance(content, list) else string_or_empty(content)
    refusal = string_or_empty(message.get("refusal"))
    if refusal and not text:
        word, reason = "refusal", FinishReason.BLOCKED
    usage = as_object(body.get("usage"))
    return ChatReply(
        text=without_surrogates(text or refusal),
        finish_reason=reason,
        native_finish_reason=word,
        usage=_usage(
            input_tokens=token_count(usage.get("prompt_tokens")),
            output_tokens=token_count(usage.get("completion_tokens")),
            cached_tokens=token_count(as_object(usage.get("prompt_tokens_details")).get("cached_tokens")),
            thinking_tokens=token_count(as_object(usage.get("completion_tokens_details")).get("reasoning_tokens")),
            total_tokens=token_count(usage.get("total_tokens")),
        ),
        block_reason=word if reason is FinishReason.BLOCKED else None,
        api_format=ApiFormat.OPENAI,
    )


def _read_anthropic(body: Mapping[str, Any]) -> ChatReply:
    blocks = [as_object(block) for block in as_list(body.get("content"))]
    word = string_or_empty(body.get("stop_reason")) or None
    reason = finish_reason_of(word)
    usage = as_object(body.get("usage"))
    cached = token_count(usage.get("cache_read_input_tokens"))
    return ChatReply(
        text=without_surrogates(_joined_blocks(blocks)),
        finish_reason=reason,
        native_finish_reason=word,
        usage=_usage(
            input_tokens=_sum(
                token_count(usage.get("input_tokens")), cached, token_count(usage.get("cache_creation_input_tokens"))
            ),
            output_tokens=token_count(usage.get("output_tokens")),
            cached_tokens=cached,
            thinking_tokens=None,
            total_tokens=None,
        ),
        block_reason=word if reason is FinishReason.BLOCKED else None,
        api_format=ApiFormat.ANTHROPIC,
    )


_READERS = {ApiFormat.GEMINI: _read_gemini, ApiFormat.OPENAI: _read_openai, ApiFormat.ANTHROPIC: _read_anthropic}


def _joined_blocks(blocks: list[Any]) -> str:
    kept = (as_object(block) for block in blocks)
    return "".join(string_or_empty(block.get("text")) for block in kept if block.get("type") in ("text", "output_text"))


def _block_reason(word: str | None, ratings: list[Any]) -> str:
    blocked = [rating for rating in map(as_object, ratings) if rating.get("blocked") is True]
    categories = [category for rating in blocked if (category := string_or_empty(rating.get("category")))]
    return f"{word}: {', '.join(categories)}" if categories else str(word)


def _sum(*counts: int | None) -> int | None:
    known = [one for one in counts if one is not None]
    return sum(known) if known else None


def _usage(**counts: int | None) -> TokenUsage:
    both = (counts["input_tokens"], counts["output_tokens"])
    if counts["total_tokens"] is None and None not in both:
        counts["total_tokens"] = _sum(*both)
    return TokenUsage(**counts)
