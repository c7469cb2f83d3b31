"""Which of three request and reply forms a chat model of Segmind uses, by its name or by the JSON that it sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from airflow_provider_segmind.exceptions import SegmindConfigError


class ApiFormat(StrEnum):
    """The request and reply form a chat model speaks."""

    GEMINI = "gemini"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


# Embedding, image and speech models share their makers' prefixes and take no chat at all.
_NOT_CHAT = re.compile(r"(^|-)(embedding|image|tts|transcript|audio)(-|$)")
_PREFIXES: tuple[tuple[str, ApiFormat], ...] = (
    ("gemini-", ApiFormat.GEMINI),
    ("gemma-", ApiFormat.GEMINI),
    ("claude-", ApiFormat.ANTHROPIC),
    ("gpt-", ApiFormat.OPENAI),
    ("chatgpt-", ApiFormat.OPENAI),
    ("o1", ApiFormat.OPENAI),
    ("o3", ApiFormat.OPENAI),
    ("o4", ApiFormat.OPENAI),
    # Served under OpenAI's conventions by their own makers; that Segmind keeps the form is inferred, hence api_format=.
    ("deepseek-", ApiFormat.OPENAI),
    ("kimi-", ApiFormat.OPENAI),
    ("glm-", ApiFormat.OPENAI),
    ("minimax-m", ApiFormat.OPENAI),
    ("nemotron-", ApiFormat.OPENAI),
    ("llama-", ApiFormat.OPENAI),
    ("llama4-", ApiFormat.OPENAI),
    ("mixtral-", ApiFormat.OPENAI),
    ("qwen-", ApiFormat.OPENAI),
    ("qwen2", ApiFormat.OPENAI),
    ("qwen3", ApiFormat.OPENAI),
    ("qwq-", ApiFormat.OPENAI),
    ("qvq-", ApiFormat.OPENAI),
)


def known_family(model: str) -> ApiFormat | None:
    """
    Say which form a model's name stands for, None when the name tells nothing.

    :param model: the model to run (Segmind calls it the slug).
    """
    name = model.strip().lower()
    if _NOT_CHAT.search(name):
        return None
    return next((family for prefix, family in _PREFIXES if name.startswith(prefix)), None)


_MAKES_FILES = re.compile(
    r"image|video|audio|speech|music|diffusion|sdxl|seedream|seedance|ideogram|recraft|upscale|esrgan|face-?swap|inpaint|"
    r"lipsync|controlnet|txt2img|img2img|i2v|t2v|"
    r"(^|[-_.])(tts|flux|sd[0-9.-]|veo|kling|wan[0-9-]|hailuo|sora|runway|ltx|luma|pika|banana|whisper|bark|background)",
    re.IGNORECASE,
)


def makes_files(model: str) -> bool:
    """
    Tell whether a model is known by its name to make images, video or audio.

    :param model: the model to run.
    """
    return known_family(model) is None and _MAKES_FILES.search(model) is not None


def family_of(model: str, api_format: ApiFormat | str | None = None) -> ApiFormat:
    """
    Say which form to speak with a model.

    :param model: the model to run (Segmind calls it the slug).
    :param api_format: ``gemini``, ``openai`` or ``anthropic``; wins over the name.
    :raises SegmindConfigError: the name tells nothing and ``api_format`` is not given, or is no format.
    """
    if api_format is not None:
        try:
            return ApiFormat(api_format)
        except ValueError:
            choices = ", ".join(repr(str(one)) for one in ApiFormat)
            raise SegmindConfigError(f"api_format={api_format!r} is no chat format: choose one of {choices}.") from None
    if not isinstance(model, str) or not model.strip():
        raise SegmindConfigError(f"model={model!r} is empty: name the chat model to run.")
    family = known_family(model)
    if family is None:
        raise SegmindConfigError(
            f"model={model!r} is not a chat model known by name, so the form of its messages is unknown. "
            "If it takes chat messages, say api_format='gemini', 'openai' or 'anthropic'."
        )
    return family


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
