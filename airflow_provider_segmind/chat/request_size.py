"""
Which parts of a request are billed: its text, its images, and fields whose cost is known only from the bill.

A field that this module does not know has an unknown cost: it may request several answers, a better tier or a file.
So only fields that are known to add nothing but their own text are counted as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from airflow_provider_segmind.chat.attachments import guess_media_type

PartKind: TypeAlias = Literal["text", "syntax", "message", "image", "attachment", "doubt"]
_TEXT_TYPES = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})
"""Types of content blocks that are billed by their text."""
_TEXTS = frozenset(
    {
        *("messages", "contents", "content", "parts", "text", "prompt"),
        *("system", "instruction", "instructions", "system_prompt", "system_instruction", "systemInstruction"),
    }
)
_PLAIN = frozenset(
    {
        *("role", "type", "name", "id", "tool_call_id", "tool_calls", "functionCall", "function_call", "refusal"),
        *("thought", "thoughtSignature", "thought_signature", "signature", "thinking", "reasoning_content"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens"),
        *("temperature", "top_p", "topP", "top_k", "topK", "min_p", "seed", "stop", "stop_sequences", "stopSequences"),
        *("presence_penalty", "presencePenalty", "frequency_penalty", "frequencyPenalty", "repetition_penalty"),
        *("random_seed", "typical_p", "length_penalty", "repeat_penalty", "no_repeat_ngram_size", "do_sample"),
        *("min_tokens", "max_new_tokens", "tool_choice", "parallel_tool_calls", "responseLogprobs", "enable_thinking"),
        *("anthropic_version", "prompt_cache_key", "safety_identifier"),
        *("logit_bias", "logprobs", "top_logprobs", "stream", "stream_options", "user", "metadata", "verbosity"),
        *("response_format", "responseSchema", "response_schema", "responseJsonSchema", "response_json_schema"),
        *("responseMimeType", "response_mime_type", "safetySettings", "safety_settings", "labels"),
        *("reasoning", "reasoning_effort", "thinkingConfig", "thinking_config", "thinking_budget", "thinking_level"),
    }
)
"""Fields that are billed by their own size at most."""
_OPTIONS = frozenset({"generationConfig", "generation_config"})
_MEDIA_DATA = frozenset({"data", "url", "fileUri", "file_uri"})
_COUNTS = frozenset(
    {
        *("n", "best_of", "candidateCount", "candidate_count"),
        *("num_outputs", "num_images", "num_samples", "samples", "batch_size"),
    }
)
"""Fields that multiply the cost of a request; 1 is harmless."""


@dataclass(frozen=True, slots=True)
class BilledPart:
    """
    A part of a request.

    :param kind: ``text``; the ``syntax`` around it (names, numbers, options, schemas); a ``message``, to which a
        provider adds something; an ``image``; an ``attachment`` whose tokens cannot be counted; or a ``doubt``, a field
        that may add to the cost.
    :param size: bytes of UTF-8.
    :param field: where it is, as in ``messages[0].content[1]``.
    """

    kind: PartKind
    size: int = 0
    field: str = ""


def billed_parts(inputs: Mapping[str, Any]) -> Iterator[BilledPart]:
    """Yield the parts of a body in any API format."""
    yield from _fields(inputs, "")
    if not inputs.get("messages") and not inputs.get("prompt"):
        yield BilledPart("doubt", field="a body without messages or a prompt")


def _fields(node: Mapping[str, Any], path: str) -> Iterator[BilledPart]:
    """Yield the parts of an object; quotes, colon and comma around each name are six bytes."""
    for key, value in node.items():
        field = f"{path}.{key}" if path else str(key)
        yield BilledPart("syntax", len(str(key).encode("utf-8", "replace")) + 6)
        if key in _TEXTS and (key != "prompt" or isinstance(value, str)):
            yield from _content(value, field)
        elif key in _OPTIONS and isinstance(value, Mapping):
            yield from _fields(value, field)
        elif key in _PLAIN or not value or (key in _COUNTS and value == 1 and value is not True):
            yield BilledPart("syntax", _size(value))
        else:
            yield BilledPart("doubt", field=field)
            yield from _unknown(value, field)


def _unknown(node: Any, path: str) -> Iterator[BilledPart]:
    """Yield the parts of an unknown field; every address in it is taken for that of a file."""
    if isinstance(node, str) and node.lower().startswith(("data:", "http://", "https://")):
        yield BilledPart("attachment", field=path)
    elif isinstance(node, str):
        yield from _content(node, path)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield BilledPart("syntax", _size(str(key)) + 4)
            yield from _unknown(value, f"{path}.{key}")
    elif isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from _unknown(item, f"{path}[{index}]")
    else:
        yield BilledPart("syntax", _size(node))


def _content(node: Any, path: str) -> Iterator[BilledPart]:
    if isinstance(node, str):
        yield BilledPart("text", len(node.encode("utf-8", "replace")))
        yield BilledPart("syntax", 2)
    elif isinstance(node, Mapping):
        yield from _block(node, path)
    elif isinstance(node, list | tuple):
        yield BilledPart("syntax", 2 * max(1, len(node)))
        for index, item in enumerate(node):
            yield from _content(item, f"{path}[{index}]")
    else:
        yield BilledPart("syntax", _size(node))


def _block(node: Mapping[str, Any], path: str) -> Iterator[BilledPart]:
    """Yield the parts of a message or of a content block."""
    if "role" in node:
        yield BilledPart("message")
    kind = node.get("type")
    media = _media(node)
    if media is not None:
        key, found = media
        yield BilledPart(found, field=path)
        if isinstance(node[key], Mapping):
            beside = {name: value for name, value in node[key].items() if name not in _MEDIA_DATA}
            yield BilledPart("syntax", _size(beside))
        if key == "image_url" and kind != "image_url":
            yield BilledPart("doubt", field=f"{path}.{key}")
        yield from _fields({name: value for name, value in node.items() if name != key}, path)
    elif kind is None or (isinstance(kind, str) and kind in _TEXT_TYPES):
        yield from _fields(node, path)
    else:
        yield BilledPart("attachment", field=path)


def _media(node: Mapping[str, Any]) -> tuple[str, Literal["image", "attachment"]] | None:
    """Return the field of a block that contains a file, and whether it is certainly an image."""
    for key in ("inlineData", "inline_data", "fileData", "file_data"):
        if key in node:
            return key, _kind(_media_type(node[key]))
    if "image_url" in node:
        image = node["image_url"]
        return "image_url", _kind(_type_at(image.get("url") if isinstance(image, Mapping) else image))
    source = node.get("source")
    if "source" not in node:
        return None
    if not isinstance(source, Mapping) or node.get("type") != "image":
        return "source", "attachment"
    return "source", _kind(_type_at(source.get("url")) if source.get("type") == "url" else _media_type(source))


def _media_type(holder: object) -> str | None:
    if not isinstance(holder, Mapping):
        return None
    found = holder.get("mimeType") or holder.get("mime_type") or holder.get("media_type")
    return found if isinstance(found, str) else None


def _type_at(address: object) -> str | None:
    """Return the media type that an address shows."""
    if not isinstance(address, str):
        return None
    if address[:5].lower() == "data:":
        return address[5:100].partition(",")[0].partition(";")[0]
    try:
        return guess_media_type(urlsplit(address).path, None)
    except ValueError:
        return None


def _kind(media_type: str | None) -> Literal["image", "attachment"]:
    return "image" if media_type is not None and media_type.lower().startswith("image/") else "attachment"


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace"))
