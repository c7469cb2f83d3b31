"""Prompts of the emulated models and their replies: text, or the smallest value that a JSON Schema allows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_segmind.emulator.scripts import Script

_FORMATS = {
    "date": "2026-01-02",
    "date-time": "2026-01-02T03:04:05Z",
    "time": "03:04:05Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "hostname": "example.com",
}
_PATTERN_GUESSES = (
    *("a", "A", "0", "1", "aa", "AA", "00", "abc", "ABC", "123", "1234", "12345"),
    *("A1", "a-b", "AB-123", "2026-01-02"),
)


def instance(schema: Any, *, text: str = "text") -> Any:
    """Return a value for ``schema``: first enum value, first branch of anyOf, smallest numbers, all properties.

    :param schema: a JSON Schema; ``$ref`` is resolved within it.
    :param text: the content of free strings, so that a reply can be matched to its prompt.
    """
    return _Maker(schema if isinstance(schema, dict) else {}, text).make(schema, 0)


class _Maker:
    def __init__(self, root: dict[str, Any], text: str) -> None:
        self.root = root
        self.text = text

    def make(self, schema: Any, depth: int) -> Any:
        """Build a value for one sub-schema."""
        if not isinstance(schema, dict):
            return self.text
        if "$ref" in schema:
            return self.make(
                {**self._resolve(str(schema["$ref"])), **{k: v for k, v in schema.items() if k != "$ref"}}, depth + 1
            )
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        for word in ("anyOf", "oneOf"):
            if schema.get(word):
                return self.make(self._branch(schema, word, depth), depth + 1)
        if schema.get("allOf"):
            return self.make(self._merged(schema), depth + 1)
        return self._by_type(schema, depth)

    def _by_type(self, schema: dict[str, Any], depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((name for name in kind if name != "null"), "null")
        if kind is None:
            kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        if kind == "boolean":
            return True
        return None if kind == "null" else self._string(schema)

    def _resolve(self, ref: str) -> dict[str, Any]:
        found: Any = self.root
        for step in ref.lstrip("#").strip("/").split("/") if ref != "#" else []:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name, {}) if isinstance(found, dict) else {}
        return found if isinstance(found, dict) else {}

    def _branch(self, schema: dict[str, Any], word: str, depth: int) -> dict[str, Any]:
        branches = [branch for branch in schema[word] if isinstance(branch, dict)]
        # a recursive type ends in its null branch; otherwise the first branch is taken
        chosen = (
            next((branch for branch in branches if branch.get("type") == "null"), branches[0])
            if depth > 6
            else branches[0]
        )
        return {**{key: value for key, value in schema.items() if key != word}, **chosen}

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            whole = self._resolve(str(part["$ref"])) if "$ref" in part else part
            properties = {**merged.get("properties", {}), **whole.get("properties", {})}
            required = [*merged.get("required", []), *whole.get("required", [])]
            merged = {**merged, **whole, "properties": properties, "required": required}
            if not properties:
                del merged["properties"]
        return merged

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required") or []
        # below some depth only required properties: optional recursion would never end
        names = [name for name in properties if depth <= 6 or name in required]
        built = {name: self.make(properties[name], depth + 1) for name in names}
        return built | {name: self.text for name in required if name not in built}

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first = schema.get("prefixItems") or []
        built = [self.make(item, depth + 1) for item in first]
        least = int(schema.get("minItems", 0))
        wanted = max(least, 0 if depth > 6 or schema.get("maxItems") == 0 else 1)
        while len(built) < wanted:
            value = self.make(schema.get("items", {}), depth + 1)
            if schema.get("uniqueItems") and value in built:
                value = _another(value, len(built), schema.get("items", {}))
            built.append(value)
        return built

    def _string(self, schema: dict[str, Any]) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
        pattern = schema.get("pattern")
        if pattern:
            guesses = (self.text, *_PATTERN_GUESSES)
            fitting = (
                guess for guess in guesses if re.search(pattern, guess) and least <= len(guess) <= (most or len(guess))
            )
            return next(fitting, self.text)
        text = self.text.ljust(least, ".")
        return text if most is None else text[: int(most)]


def _number(schema: dict[str, Any], *, whole: bool) -> int | float:
    low: float = schema.get("minimum", 0)
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + (1 if whole else 0.5)
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if high is not None and low >= high and "minimum" not in schema:
        low = high - (1 if "exclusiveMaximum" in schema else 0)
    step = schema.get("multipleOf")
    if step:
        low = -(-low // step) * step
    return int(-(-low // 1)) if whole else low


def _another(value: Any, number: int, schema: Any) -> Any:
    if isinstance(schema, dict) and len(schema.get("enum") or []) > number:
        return schema["enum"][number]
    if isinstance(value, str):
        return f"{value}{number}"
    return value + number if isinstance(value, (int, float)) else value


MISSING_PROMPT = "Prompt is Mandatory and must be string"


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt in a body.

    :param text: the last user message; the reply is derived from it.
    :param everything: all text in the body, for matching scripts and counting tokens.
    :param attachments: the number of inline or linked files.
    :param problem: why a model would refuse the body; None if it would not.
    """

    text: str
    everything: str
    attachments: int = 0
    problem: str | None = None


def read_prompt(inputs: dict[str, Any], kind: str, *, strict_gemini: bool = False) -> Prompt:
    """Read the prompt in the inputs of a model.

    :param strict_gemini: refuse a ``messages`` list for Gemini models (whether the service does is unknown).
    """
    messages = inputs.get("messages")
    if isinstance(messages, dict):
        listed = messages.get("contents") or []
        system = messages.get("system_instruction") or messages.get("systemInstruction")
    else:
        listed, system = messages or inputs.get("contents") or [], inputs.get("instruction") or inputs.get("system")
    read = [_message(message) for message in (listed if isinstance(listed, list) else []) if isinstance(message, dict)]
    users = [text for role, text, _ in read if role in ("user", "")]
    prompt = next((inputs[name] for name in ("prompt", "text", "input") if isinstance(inputs.get(name), str)), "")
    text = users[-1] if users else prompt
    everything = "\n".join(part for part in (_parts_text(system)[0], *(text for _, text, _ in read), prompt) if part)
    attachments = sum(count for _, _, count in read)
    return Prompt(text, everything, attachments, _problem(inputs, kind, text or bool(attachments), strict_gemini))


def whole_text(inputs: dict[str, Any]) -> str:
    """Return a body as JSON without the data and addresses of its files."""
    return json.dumps(_without_files(inputs), ensure_ascii=False)


def _without_files(node: Any) -> Any:
    if isinstance(node, dict):
        files = ("inlineData", "inline_data", "fileData", "file_data", "image_url", "source")
        return {key: _without_files(value) for key, value in node.items() if key not in files}
    return [_without_files(item) for item in node] if isinstance(node, list) else node


def _problem(inputs: dict[str, Any], kind: str, said_something: object, strict_gemini: bool) -> str | None:
    if kind == "mock":
        return None
    if strict_gemini and kind == "gemini" and isinstance(inputs.get("messages"), list):
        return "messages must be an object with contents"
    if "duration" in inputs and inputs["duration"] == 0:
        return "duration must be greater than 0"
    if kind in ("gemini", "openai", "anthropic", "embedding"):
        if not said_something:
            return MISSING_PROMPT
        return _response_format_problem(inputs, kind)
    if "prompt" in inputs and not (isinstance(inputs["prompt"], str) and inputs["prompt"].strip()):
        return MISSING_PROMPT
    return None if inputs else MISSING_PROMPT


def _response_format_problem(inputs: dict[str, Any], kind: str) -> str | None:
    wanted = inputs.get("response_format")
    if not isinstance(wanted, dict) or wanted.get("type") != "json_object":
        return None
    if kind == "anthropic":
        return "response_format: only json_schema is supported for this model"
    if kind == "openai" and "json" not in str(inputs.get("messages") or inputs.get("prompt")).lower():
        return "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
    return None


def _message(message: dict[str, Any]) -> tuple[str, str, int]:
    text, attachments = _parts_text(message.get("parts", message.get("content")))
    return str(message.get("role") or ""), text, attachments


def _parts_text(parts: Any) -> tuple[str, int]:
    """Join the text of a string, a part, a list of parts, or an object that has parts."""
    if isinstance(parts, str):
        return parts, 0
    if isinstance(parts, dict):
        if "parts" in parts:
            return _parts_text(parts["parts"])
        parts = [parts]
    if not isinstance(parts, list):
        return "", 0
    texts = [part if isinstance(part, str) else part.get("text") for part in parts if isinstance(part, (str, dict))]
    attachments = sum(1 for part in parts if isinstance(part, dict) and "text" not in part)
    return "\n".join(text for text in texts if isinstance(text, str)), attachments


#: neutral word → (Gemini, OpenAI, Anthropic); any other word is used unchanged
FINISH_WORDS = {
    "stop": ("STOP", "stop", "end_turn"),
    "length": ("MAX_TOKENS", "length", "max_tokens"),
    "safety": ("SAFETY", "content_filter", "refusal"),
    "tool": ("STOP", "tool_calls", "tool_use"),
}
_FAMILIES = ("gemini", "openai", "anthropic")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one reply; ``output`` does not include thoughts, ``input`` includes cached tokens."""

    input: int
    output: int
    thoughts: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply before it is put into a v1 or v2 result."""

    native: dict[str, Any]
    text: str | None
    usage: Usage


def count_tokens(text: str) -> int:
    """Return a plausible, deterministic token count: one token per four bytes."""
    return (len(text.encode()) + 3) // 4


def build_reply(
    kind: str, model: str, inputs: dict[str, Any], prompt: Prompt, script: Script, *, request_id: str, now: float
) -> Reply:
    """Build a model's native reply.

    :param kind: ``gemini``, ``openai``, ``anthropic``; any other kind replies in OpenAI's format.
    :param script: what a test wants; the default is ``echo: <last user message>``.
    :param request_id: becomes part of the native body's own id.
    :param now: emulated time, for ``created``.
    """
    family = kind if kind in _FAMILIES else "openai"
    text = None if script.block else reply_text(inputs, prompt, script, model)
    thoughts = [script.thoughts] if isinstance(script.thoughts, str) else list(script.thoughts or ())
    neutral = script.finish_reason or ("tool" if script.tool_call else "stop")
    cap = _output_cap(inputs)
    if cap is not None and script.body is None and neutral == "stop" and script.finish_reason is None:
        text, thoughts, neutral = _limited(text, thoughts, cap)
    counted = Usage(
        input=max(1, count_tokens(prompt.everything) + 258 * prompt.attachments),
        output=count_tokens(text or ""),
        thoughts=sum(count_tokens(thought) for thought in thoughts),
    )
    usage = replace(counted, **(script.usage or {}))
    if script.body is not None:
        return Reply(script.body, text, usage)
    finish = FINISH_WORDS.get(neutral, (neutral,) * 3)[_FAMILIES.index(family)]
    build = {"gemini": _gemini, "openai": _openai, "anthropic": _anthropic}[family]
    frames: dict[str, dict[str, Any]] = {
        "gemini": {"modelVersion": model, "responseId": request_id},
        "openai": {"id": f"chatcmpl-{request_id}", "object": "chat.completion", "created": int(now), "model": model},
        "anthropic": {"id": f"msg_{request_id}", "type": "message", "role": "assistant", "model": model},
    }
    return Reply({**frames[family], **build(text, finish, thoughts, script, usage)}, text, usage)


_CAP_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")


def _output_cap(inputs: dict[str, Any]) -> int | None:
    """Return the smallest output cap in a body, in any API's format; None if it has none."""
    messages = inputs.get("messages")
    outer = [inputs, messages] if isinstance(messages, dict) else [inputs]
    configs = [one[name] for one in outer for name in ("generationConfig", "generation_config") if name in one]
    objects = [inputs, *(config for config in configs if isinstance(config, dict))]
    caps = [one[name] for one in objects for name in _CAP_FIELDS if name in one]
    return min((cap for cap in caps if type(cap) is int and cap > 0), default=None)


def _limited(text: str | None, thoughts: list[str], cap: int) -> tuple[str | None, list[str], str]:
    """Cut thoughts, then text, to a number of tokens; the last item is the neutral finish reason."""
    kept: list[str] = []
    left = cap
    for part in [*thoughts, text or ""]:
        kept.append(part.encode()[: 4 * left].decode(errors="ignore"))
        left -= count_tokens(kept[-1])
    cut = kept != [*thoughts, text or ""]
    return kept[-1] or None if text else text, kept[:-1], "length" if cut else "stop"


def reply_text(inputs: dict[str, Any], prompt: Prompt, script: Script, model: str) -> str | None:
    """Return the text of the reply: scripted, made for the requested schema, or an echo."""
    if callable(script.answer):
        return str(script.answer(model, inputs))
    if script.has_json:
        return json.dumps(script.json, ensure_ascii=False)
    if script.text is not None:
        return script.text
    if script.tool_call:
        return None
    if script.finish_reason in ("safety", "SAFETY"):
        return None
    echo = f"echo: {prompt.text}"
    wanted = inputs.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        described = wanted.get("json_schema") or {}
        return json.dumps(instance(described.get("schema", {}), text=echo), ensure_ascii=False)
    if isinstance(wanted, dict) and wanted.get("type") == "json_object":
        return json.dumps({"echo": prompt.text}, ensure_ascii=False)
    return echo


def _gemini(text: str | None, finish: str, thoughts: list[str], script: Script, usage: Usage) -> dict[str, Any]:
    counts: dict[str, Any] = {"promptTokenCount": usage.input, "candidatesTokenCount": usage.output}
    counts |= {"thoughtsTokenCount": usage.thoughts} if usage.thoughts else {}
    counts |= {"cachedContentTokenCount": usage.cached} if usage.cached else {}
    counts["totalTokenCount"] = usage.input + usage.output + usage.thoughts
    if script.block:
        return {"promptFeedback": {"blockReason": script.block, "safetyRatings": []}, "usageMetadata": counts}
    parts: list[dict[str, Any]] = [{"text": thought, "thought": True} for thought in thoughts]
    if text and script.list_content:
        parts += [{"text": piece} for piece in _halves(text)]
    elif text:
        parts.append({"text": text})
    if script.tool_call:
        parts.append({"functionCall": {"name": script.tool_call["name"], "args": script.tool_call.get("args", {})}})
    candidate: dict[str, Any] = {
        "content": {"parts": parts, "role": "model"},
        "finishReason": finish,
        "index": 0,
        "safetyRatings": [],
    }
    if text is None and not parts:
        del candidate["content"]
    if finish == "SAFETY":
        candidate["safetyRatings"] = [
            {"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}
        ]
    return {"candidates": [] if script.empty else [candidate], "usageMetadata": counts}


def _openai(text: str | None, finish: str, thoughts: list[str], script: Script, usage: Usage) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if script.block:
        message, finish = {"role": "assistant", "content": None, "refusal": script.block}, "content_filter"
    elif text is not None and script.list_content:
        message["content"] = [{"type": "text", "text": piece} for piece in _halves(text)]
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if script.tool_call:
        function = {"name": script.tool_call["name"], "arguments": json.dumps(script.tool_call.get("args", {}))}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
    produced = usage.output + usage.thoughts
    counts: dict[str, Any] = {
        "prompt_tokens": usage.input,
        "completion_tokens": produced,
        "total_tokens": usage.input + produced,
    }
    counts |= {"completion_tokens_details": {"reasoning_tokens": usage.thoughts}} if usage.thoughts else {}
    counts |= {"prompt_tokens_details": {"cached_tokens": usage.cached}} if usage.cached else {}
    return {
        "choices": [] if script.empty else [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": counts,
    }


def _anthropic(text: str | None, finish: str, thoughts: list[str], script: Script, usage: Usage) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "thinking", "thinking": thought, "signature": ""} for thought in thoughts]
    if text:
        content += [{"type": "text", "text": piece} for piece in (_halves(text) if script.list_content else [text])]
    if script.tool_call:
        call = {
            "type": "tool_use",
            "id": "toolu_1",
            "name": script.tool_call["name"],
            "input": script.tool_call.get("args", {}),
        }
        content.append(call)
    counts: dict[str, Any] = {
        "input_tokens": usage.input - usage.cached,
        "output_tokens": usage.output + usage.thoughts,
    }
    counts |= {"cache_read_input_tokens": usage.cached} if usage.cached else {}
    stop = "refusal" if script.block else finish
    return {
        "content": [] if script.empty or script.block else content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": counts,
    }


def _halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [text[:middle], text[middle:]] if middle else [text]
