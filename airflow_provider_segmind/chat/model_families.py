"""The API format of a chat model, one of three, recognized by the model's name or by the JSON that it sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any

from airflow_provider_segmind.exceptions import SegmindConfigError


class ApiFormat(StrEnum):
    """The format of a chat model's requests and replies."""

    GEMINI = "gemini"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


FAMILIES: Mapping[ApiFormat, tuple[str, ...]] = {
    ApiFormat.GEMINI: ("gemini-", "gemma-"),
    ApiFormat.ANTHROPIC: ("claude-",),
    ApiFormat.OPENAI: (
        *("gpt-", "chatgpt-", "o1", "o3", "o4"),
        # Their vendors serve these in OpenAI's format; that Segmind does too is inferred, hence api_format=.
        *("deepseek-", "kimi-", "glm-", "minimax-m", "nemotron-", "llama-", "llama4-", "mixtral-"),
        *("qwen-", "qwen2", "qwen3", "qwq-", "qvq-"),
    ),
}
"""
How the names of chat models begin, by format: extend this table when Segmind adds a family.

A family that is not listed works as well, with :data:`ASSUMED` and a warning. It has to be added only if its models
take another format, or to end the warning.
"""
ASSUMED = ApiFormat.OPENAI
"""The format of chat models of unknown families, because most vendors offer it."""
# Embedding, image and speech models have the same prefixes as their vendors' chat models but accept no chat.
_NOT_CHAT = re.compile(r"(^|-)(embedding|image|tts|transcript|audio)(-|$)")


@lru_cache(64)
def known_family(model: str) -> ApiFormat | None:
    """Return the API format that a model's name implies, None when it implies none."""
    name = model.strip().lower()
    if _NOT_CHAT.search(name):
        return None
    return next((family for family, prefixes in FAMILIES.items() if name.startswith(prefixes)), None)


_MAKES_FILES = re.compile(
    r"image|video|audio|speech|music|diffusion|sdxl|seedream|seedance|ideogram|recraft|upscale|esrgan|face-?swap|inpaint|"
    r"lipsync|controlnet|txt2img|img2img|i2v|t2v|"
    r"(^|[-_.])(tts|flux|sd[0-9.-]|veo|kling|wan[0-9-]|hailuo|sora|runway|ltx|luma|pika|banana|whisper|bark|background)",
    re.IGNORECASE,
)


def makes_files(model: str) -> bool:
    """Return whether a model's name shows that it makes images, video or audio."""
    return known_family(model) is None and _MAKES_FILES.search(model) is not None


def family_of(model: str, api_format: ApiFormat | str | None = None) -> ApiFormat:
    """
    Return the API format to use with a model: :data:`ASSUMED` if its family is unknown, see :func:`assumption`.

    :param api_format: ``gemini``, ``openai`` or ``anthropic``; overrides the name.
    :raises SegmindConfigError: ``api_format`` is not one of them, or is None and the name is that of a model that makes
        images, video, audio or embeddings.
    """
    if api_format is not None:
        try:
            return ApiFormat(api_format)
        except ValueError:
            choices = ", ".join(repr(str(one)) for one in ApiFormat)
            raise SegmindConfigError(
                f"api_format={api_format!r} is not a chat format: choose one of {choices}."
            ) from None
    if not isinstance(model, str) or not model.strip():
        raise SegmindConfigError(f"model={model!r} is empty: name the chat model to run.")
    family = known_family(model)
    if family is None and (makes_files(model) or _NOT_CHAT.search(model.strip().lower())):
        raise SegmindConfigError(
            f"model={model!r} is not a chat model, judging by its name: run it with SegmindRunOperator. "
            "If it accepts chat messages, set api_format to 'gemini', 'openai' or 'anthropic'."
        )
    return family or ASSUMED


def assumption(model: str, api_format: ApiFormat | str | None = None) -> str | None:
    """Return the warning for a model whose format is assumed, None if the format is known."""
    if api_format is not None or known_family(model) is not None:
        return None
    return (
        f"The name of model {model!r} matches no known family, so its request is written in the format "
        f"{str(ASSUMED)!r}. If the model needs another format, set api_format to 'gemini' or 'anthropic'; "
        f"{str(ASSUMED)!r} silences this warning."
    )


_GEMINI_METADATA = frozenset(
    {"usageMetadata", "usage_metadata", "modelVersion", "responseId", "promptFeedback", "prompt_feedback"}
)
_ANTHROPIC_BLOCKS = frozenset(
    {"text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "web_search_tool_result"}
)


def provider_family(body: Mapping[str, Any], hint: ApiFormat | None = None) -> ApiFormat | None:
    """Return the API format in which an object is a reply, None when it is not one."""
    if _is_gemini(body, hint):
        return ApiFormat.GEMINI
    if _is_openai(body, hint):
        return ApiFormat.OPENAI
    return ApiFormat.ANTHROPIC if _is_anthropic(body, hint) else None


def prompt_feedback(body: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return why a prompt was blocked in Gemini's format, empty if it was not, and the object that says so."""
    feedback = as_object(body.get("promptFeedback") or body.get("prompt_feedback"))
    return string_or_empty(feedback.get("blockReason") or feedback.get("block_reason")), feedback


def _is_gemini(body: Mapping[str, Any], hint: ApiFormat | None) -> bool:
    candidates = body.get("candidates")
    if candidates is None:
        return bool(prompt_feedback(body)[0]) or _has_only_usage(body, hint)
    if not isinstance(candidates, list):
        return False
    if not candidates:
        return not _GEMINI_METADATA.isdisjoint(body) or _fits_by_name(body, hint, ApiFormat.GEMINI)
    first = as_object(candidates[0])
    has_reason = isinstance(first.get("finishReason") or first.get("finish_reason"), str)
    content = first.get("content")
    has_content = isinstance(content, Mapping) and ("parts" in content or "role" in content)
    has_metadata = isinstance(candidates[0], Mapping) and not _GEMINI_METADATA.isdisjoint(body)
    return has_reason or has_content or has_metadata


def _has_only_usage(body: Mapping[str, Any], hint: ApiFormat | None) -> bool:
    """Return whether a Gemini model has counted tokens and written nothing: empty lists are left out of its JSON."""
    usage = as_object(body.get("usageMetadata") or body.get("usage_metadata"))
    return hint is ApiFormat.GEMINI and any(token_count(value) is not None for value in usage.values())


def _is_openai(body: Mapping[str, Any], hint: ApiFormat | None) -> bool:
    choices = body.get("choices")
    if not isinstance(choices, list):
        return False
    if not choices:
        has_metadata = isinstance(body.get("usage"), Mapping) or string_or_empty(body.get("object")).startswith(
            "chat.completion"
        )
        return has_metadata or _fits_by_name(body, hint, ApiFormat.OPENAI)
    first = as_object(choices[0])
    message = first.get("message")
    has_content = isinstance(message, Mapping) and ("content" in message or "role" in message)
    return has_content or (isinstance(first.get("finish_reason"), str) and not isinstance(message, str))


def _is_anthropic(body: Mapping[str, Any], hint: ApiFormat | None) -> bool:
    content = body.get("content")
    if not isinstance(content, list):
        return False
    is_message = body.get("type") == "message" and body.get("role") == "assistant"
    certain = is_message or isinstance(body.get("stop_reason"), str)
    if not content:
        return certain or _fits_by_name(body, hint, ApiFormat.ANTHROPIC)
    typed = all(string_or_empty(as_object(block).get("type")) for block in content)
    known = all(as_object(block).get("type") in _ANTHROPIC_BLOCKS for block in content)
    return typed and (certain or (known and set(body) <= {"content", "usage", "role", "id", "model"}))


def _fits_by_name(body: Mapping[str, Any], hint: ApiFormat | None, family: ApiFormat) -> bool:
    return len(body) == 1 and hint in (None, family)


def as_object(value: Any) -> Mapping[str, Any]:
    """Return a JSON object unchanged, an empty one for any other value."""
    # A dict first: asking an abstract class takes five times as long.
    return value if isinstance(value, (dict, Mapping)) else {}


def as_list(value: Any) -> list[Any]:
    """Return a JSON list unchanged, an empty one for any other value."""
    return value if isinstance(value, list) else []


def string_or_empty(value: Any) -> str:
    """Return a JSON string unchanged, an empty one for any other value."""
    return value if isinstance(value, str) else ""


def token_count(value: Any) -> int | None:
    """Return a number of tokens, None for any value that is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Databases store 64 bits.
    return int(value) if 0 <= value < 2**63 and value == int(value) else None
