"""Answers of language models in each provider's own shape.

Sources: the vendor's page for gemini-3.1-flash-lite (Gemini sample), the official SDK's reader (all three shapes), the
field names and finish words of the providers' own references.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from airflow_provider_segmind.emulator.instances import instance
from airflow_provider_segmind.emulator.prompts import Question
from airflow_provider_segmind.emulator.scripts import Script

#: neutral word → (Gemini, OpenAI, Anthropic); any other word is passed on as it is
FINISH_WORDS = {
    "stop": ("STOP", "stop", "end_turn"),
    "length": ("MAX_TOKENS", "length", "max_tokens"),
    "safety": ("SAFETY", "content_filter", "refusal"),
    "tool": ("STOP", "tool_calls", "tool_use"),
}
_FAMILIES = ("gemini", "openai", "anthropic")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; ``output`` leaves thoughts out, ``input`` includes cached ones."""

    input: int
    output: int
    thoughts: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer before it is put into a v1 or v2 envelope."""

    native: dict[str, Any]
    text: str | None
    usage: Usage


def count_tokens(text: str) -> int:
    """Return a plausible, deterministic token count: a token for each four bytes."""
    return (len(text.encode()) + 3) // 4


def build_reply(
    kind: str, model: str, inputs: dict[str, Any], question: Question, script: Script, *, request_id: str, now: float
) -> Reply:
    """Build a model's native answer.

    :param kind: ``gemini``, ``openai``, ``anthropic``; anything else answers in the OpenAI shape.
    :param model: the slug.
    :param inputs: the body as submitted.
    :param question: what was understood of it.
    :param script: what a test wants; its default answers ``echo: <last user text>``.
    :param request_id: goes into the native body's own id.
    :param now: emulated time, for ``created``.
    """
    family = kind if kind in _FAMILIES else "openai"
    text = None if script.block else answer_text(inputs, question, script, model)
    thoughts = [script.thoughts] if isinstance(script.thoughts, str) else list(script.thoughts or ())
    counted = Usage(
        input=max(1, count_tokens(question.everything) + 258 * question.attachments),
        output=count_tokens(text or ""),
        thoughts=sum(count_tokens(thought) for thought in thoughts),
    )
    usage = Usage(**{**{name: getattr(counted, name) for name in counted.__slots__}, **(script.usage or {})})
    if script.body is not None:
        return Reply(script.body, text, usage)
    neutral = script.finish_reason or ("tool" if script.tool_call else "stop")
    finish = FINISH_WORDS.get(neutral, (neutral,) * 3)[_FAMILIES.index(family)]
    build = {"gemini": _gemini, "openai": _openai, "anthropic": _anthropic}[family]
    native = build(text, finish, thoughts, script, usage)
    if family == "gemini":
        native["modelVersion"], native["responseId"] = model, request_id
    elif family == "openai":
        native = {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion",
            "created": int(now),
            "model": model,
            **native,
        }
    else:
        native = {"id": f"msg_{request_id}", "type": "message", "role": "assistant", "model": model, **native}
    return Reply(native, text, usage)


def answer_text(inputs: dict[str, Any], question: Question, script: Script, model: str) -> str | None:
    """Return the text of the answer: scripted, made for the wanted schema, or an echo."""
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
    echo = f"echo: {question.text}"
    wanted = inputs.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        described = wanted.get("json_schema") or {}
        return json.dumps(instance(described.get("schema", {}), text=echo), ensure_ascii=False)
    if isinstance(wanted, dict) and wanted.get("type") == "json_object":
        return json.dumps({"echo": question.text}, ensure_ascii=False)
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
