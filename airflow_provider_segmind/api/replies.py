"""
Read what a chat model answered, whichever family it is of and however it is wrapped.

Three wrappings are met. A v2 result carries ``output``: by the official SDK (1.3.0, ``chat.py``) a string that holds
the provider's own JSON, by Segmind's documentation the generated text. A v1 body is the provider's JSON itself. So a
text counts as provider JSON only when it has the *shape* of one (a list under ``candidates``, ``choices`` or
``content`` whose entries look the part); any other JSON is what the model wrote. A text is decoded once: JSON inside a
reply stays text.

========  ===================================  ==============================  =====================================
family    text                                 finish reason                   usage
========  ===================================  ==============================  =====================================
gemini    candidates[0].content.parts[].text   candidates[0].finishReason,     usageMetadata
          without ``thought`` parts            or promptFeedback.blockReason
openai    choices[0].message.content           choices[0].finish_reason        usage.prompt_tokens, completion_tokens
anthropic content[].text of type ``text``      stop_reason                     usage.input_tokens, output_tokens
========  ===================================  ==============================  =====================================

Nothing here raises: an odd shape gives a reply without text, an unknown word ``FinishReason.UNKNOWN``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_segmind.api.families import ApiFormat, known_family
from airflow_provider_segmind.api.json_values import json_text, read_json
from airflow_provider_segmind.api.outcomes import ChatReply, FinishReason, TokenUsage, finish_reason_of
from airflow_provider_segmind.api.shapes import as_list, as_object, as_text, count, provider_family

_BESIDE_OUTPUT = frozenset({"output", "error", "grounding", "reasoning", "partial"})


def read_reply(answer: Any, *, model: str | None = None, api_format: ApiFormat | str | None = None) -> ChatReply:
    """
    Read a reply out of a v2 result body, a v1 body, or a bare ``output``. Never raises.

    :param answer: what Segmind gave.
    :param model: the model that ran; its family settles bodies such as ``{"candidates": []}``, which fit by name only.
    :param api_format: the family, when it is known better.
    """
    hint = _hint(model, api_format)
    body = as_object(answer)
    if provider_family(body, hint) is None and _is_result_body(body):
        reply = _read_output(body.get("output"), hint)
        return replace(reply, grounding=reply.grounding if body.get("grounding") is None else body["grounding"])
    return _read_output(answer, hint)


def _hint(model: str | None, api_format: ApiFormat | str | None) -> ApiFormat | None:
    if api_format in tuple(ApiFormat):
        return ApiFormat(str(api_format))
    return known_family(model) if isinstance(model, str) else None


def _is_result_body(body: Mapping[str, Any]) -> bool:
    # A model's own JSON may well have a key "output" or "status"; a result body has both, or Segmind's words in them.
    if "output" in body:
        return not {"status", "metrics", "request_id"}.isdisjoint(body) or set(body) <= _BESIDE_OUTPUT
    return body.get("status") in ("COMPLETED", "FAILED", "QUEUED", "PROCESSING")


def _read_output(output: Any, hint: ApiFormat | None) -> ChatReply:
    if isinstance(output, bytes):
        output = output.decode("utf-8", "replace")
    if output is None:
        return ChatReply()
    if isinstance(output, str):
        decoded = _decoded(output)
        family = provider_family(decoded, hint)
        if family is None:
            return ChatReply(text=_whole_characters(output), raw_kind="text")
        return replace(_READERS[family](decoded), raw_kind="encoded")
    native = as_object(output)
    family = provider_family(native, hint)
    if family is not None:
        return replace(_READERS[family](native), raw_kind="object")
    return ChatReply(text=json_text(output), raw_kind="json")


def _decoded(text: str) -> Mapping[str, Any]:
    if not text.lstrip("\ufeff \t\r\n").startswith("{"):
        return {}
    try:
        return as_object(read_json(text.lstrip("\ufeff")))
    except ValueError:
        return {}


def _whole_characters(text: str) -> str:
    # Half an emoji (a lone surrogate, legal in JSON) cannot be stored as UTF-8; losing it beats losing a paid reply.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _read_gemini(body: Mapping[str, Any]) -> ChatReply:
    candidates = as_list(body.get("candidates"))
    candidate = as_object(candidates[0]) if candidates else {}
    content = candidate.get("content")
    raw_parts = content if isinstance(content, list) else as_object(content).get("parts")
    parts = [as_object(part) for part in (raw_parts if isinstance(raw_parts, list) else [raw_parts])]
    text = "".join(as_text(part.get("text")) for part in parts if part.get("thought") is not True)
    calls = tuple(as_object(part["functionCall"]) for part in parts if part.get("functionCall"))
    word = as_text(candidate.get("finishReason") or candidate.get("finish_reason")) or None
    reason = finish_reason_of(word)
    feedback = as_object(body.get("promptFeedback") or body.get("prompt_feedback"))
    blocked = as_text(feedback.get("blockReason") or feedback.get("block_reason"))
    if blocked and not candidates:
        word, reason = blocked, FinishReason.BLOCKED
    elif calls and reason is FinishReason.STOP:
        reason = FinishReason.TOOL_CALL
    ratings = as_list(feedback.get("safetyRatings")) + as_list(candidate.get("safetyRatings"))
    usage = as_object(body.get("usageMetadata") or body.get("usage_metadata"))
    thinking = count(usage.get("thoughtsTokenCount"))
    return ChatReply(
        text=_whole_characters(text),
        finish_reason=reason,
        native_finish_reason=word,
        usage=_usage(
            input_tokens=_sum(count(usage.get("promptTokenCount")), count(usage.get("toolUsePromptTokenCount"))),
            output_tokens=_sum(count(usage.get("candidatesTokenCount")), thinking),
            cached_tokens=count(usage.get("cachedContentTokenCount")),
            thinking_tokens=thinking,
            total_tokens=count(usage.get("totalTokenCount")),
        ),
        grounding=candidate.get("groundingMetadata") or body.get("grounding"),
        block_reason=_block_reason(word, ratings) if reason is FinishReason.BLOCKED else None,
        tool_calls=calls,
        api_format=ApiFormat.GEMINI,
    )


def _read_openai(body: Mapping[str, Any]) -> ChatReply:
    choices = as_list(body.get("choices"))
    choice = as_object(choices[0]) if choices else {}
    message = as_object(choice.get("message"))
    word = as_text(choice.get("finish_reason")) or None
    reason = finish_reason_of(word)
    content = message.get("content")
    text = _joined_blocks(content) if isinstance(content, list) else as_text(content)
    refusal = as_text(message.get("refusal"))
    if refusal and not text:
        word, reason = "refusal", FinishReason.BLOCKED
    usage = as_object(body.get("usage"))
    return ChatReply(
        text=_whole_characters(text or refusal),
        finish_reason=reason,
        native_finish_reason=word,
        usage=_usage(
            input_tokens=count(usage.get("prompt_tokens")),
            output_tokens=count(usage.get("completion_tokens")),
            cached_tokens=count(as_object(usage.get("prompt_tokens_details")).get("cached_tokens")),
            thinking_tokens=count(as_object(usage.get("completion_tokens_details")).get("reasoning_tokens")),
            total_tokens=count(usage.get("total_tokens")),
        ),
        grounding=body.get("grounding"),
        block_reason=word if reason is FinishReason.BLOCKED else None,
        tool_calls=tuple(as_object(call) for call in as_list(message.get("tool_calls"))),
        api_format=ApiFormat.OPENAI,
    )


def _read_anthropic(body: Mapping[str, Any]) -> ChatReply:
    blocks = [as_object(block) for block in as_list(body.get("content"))]
    word = as_text(body.get("stop_reason")) or None
    reason = finish_reason_of(word)
    usage = as_object(body.get("usage"))
    cached = count(usage.get("cache_read_input_tokens"))
    return ChatReply(
        text=_whole_characters(_joined_blocks(blocks)),
        finish_reason=reason,
        native_finish_reason=word,
        usage=_usage(
            input_tokens=_sum(
                count(usage.get("input_tokens")), cached, count(usage.get("cache_creation_input_tokens"))
            ),
            output_tokens=count(usage.get("output_tokens")),
            cached_tokens=cached,
            thinking_tokens=None,
            total_tokens=None,
        ),
        grounding=body.get("grounding"),
        block_reason=word if reason is FinishReason.BLOCKED else None,
        tool_calls=tuple(block for block in blocks if block.get("type") == "tool_use"),
        api_format=ApiFormat.ANTHROPIC,
    )


_READERS = {
    ApiFormat.GEMINI: _read_gemini,
    ApiFormat.OPENAI: _read_openai,
    ApiFormat.ANTHROPIC: _read_anthropic,
}


def _joined_blocks(blocks: list[Any]) -> str:
    kept = (as_object(block) for block in blocks)
    return "".join(as_text(block.get("text")) for block in kept if block.get("type") in ("text", "output_text"))


def _block_reason(word: str | None, ratings: list[Any]) -> str:
    blocked = [rating for rating in map(as_object, ratings) if rating.get("blocked") is True]
    categories = [category for rating in blocked if (category := as_text(rating.get("category")))]
    return f"{word}: {', '.join(categories)}" if categories else str(word)


def _sum(*counts: int | None) -> int | None:
    known = [one for one in counts if one is not None]
    return sum(known) if known else None


def _usage(**counts: int | None) -> TokenUsage:
    both = (counts["input_tokens"], counts["output_tokens"])
    if counts["total_tokens"] is None and None not in both:
        counts["total_tokens"] = _sum(*both)
    return TokenUsage(**counts)
