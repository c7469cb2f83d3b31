"""
Tell a provider's JSON from a model's own, and look into JSON of any shape without raising.

The names ``candidates``, ``choices`` and ``content`` are common in data people ask models for, so a name alone proves
nothing; its entries must look like a provider's. An empty list shows no entries: it counts when other keys of that
provider stand beside it, or when nothing else does and the model is not known to be of another family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_segmind.api.families import ApiFormat

_GEMINI_BESIDE = frozenset(
    {"usageMetadata", "usage_metadata", "modelVersion", "responseId", "promptFeedback", "prompt_feedback"}
)
_ANTHROPIC_BLOCKS = frozenset(
    {"text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "web_search_tool_result"}
)


def provider_family(body: Mapping[str, Any], hint: ApiFormat | None = None) -> ApiFormat | None:
    """
    Say whose reply this object is, None when it is nobody's.

    :param body: any JSON object.
    :param hint: the family the model is known to be of.
    """
    if _is_gemini(body, hint):
        return ApiFormat.GEMINI
    if _is_openai(body, hint):
        return ApiFormat.OPENAI
    return ApiFormat.ANTHROPIC if _is_anthropic(body, hint) else None


def _is_gemini(body: Mapping[str, Any], hint: ApiFormat | None) -> bool:
    candidates = body.get("candidates")
    feedback = as_object(body.get("promptFeedback") or body.get("prompt_feedback"))
    if candidates is None:
        return bool(as_text(feedback.get("blockReason") or feedback.get("block_reason")))
    if not isinstance(candidates, list):
        return False
    if not candidates:
        return not _GEMINI_BESIDE.isdisjoint(body) or _fits_by_name(body, hint, ApiFormat.GEMINI)
    first = as_object(candidates[0])
    said = isinstance(first.get("finishReason") or first.get("finish_reason"), str)
    content = first.get("content")
    spoken = isinstance(content, Mapping) and ("parts" in content or "role" in content)
    beside = isinstance(candidates[0], Mapping) and not _GEMINI_BESIDE.isdisjoint(body)
    return said or spoken or beside


def _is_openai(body: Mapping[str, Any], hint: ApiFormat | None) -> bool:
    choices = body.get("choices")
    if not isinstance(choices, list):
        return False
    if not choices:
        beside = isinstance(body.get("usage"), Mapping) or as_text(body.get("object")).startswith("chat.completion")
        return beside or _fits_by_name(body, hint, ApiFormat.OPENAI)
    first = as_object(choices[0])
    message = first.get("message")
    spoken = isinstance(message, Mapping) and ("content" in message or "role" in message)
    return spoken or (isinstance(first.get("finish_reason"), str) and not isinstance(message, str))


def _is_anthropic(body: Mapping[str, Any], hint: ApiFormat | None) -> bool:
    content = body.get("content")
    if not isinstance(content, list):
        return False
    signed = body.get("type") == "message" and body.get("role") == "assistant"
    said = signed or isinstance(body.get("stop_reason"), str)
    if not content:
        return said or _fits_by_name(body, hint, ApiFormat.ANTHROPIC)
    typed = all(as_text(as_object(block).get("type")) for block in content)
    known = all(as_object(block).get("type") in _ANTHROPIC_BLOCKS for block in content)
    return typed and (said or (known and set(body) <= {"content", "usage", "role", "id", "model"}))


def _fits_by_name(body: Mapping[str, Any], hint: ApiFormat | None, family: ApiFormat) -> bool:
    return len(body) == 1 and hint in (None, family)


def as_object(value: Any) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one in place of anything else."""
    return value if isinstance(value, Mapping) else {}


def as_list(value: Any) -> list[Any]:
    """Return a JSON list, or an empty one in place of anything else."""
    return value if isinstance(value, list) else []


def as_text(value: Any) -> str:
    """Return a JSON string, or an empty one in place of anything else."""
    return value if isinstance(value, str) else ""


def count(value: Any) -> int | None:
    """Return a count of tokens, or None in place of anything that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < float("inf") and value == int(value) else None
