"""Read what a caller asked: the last user text, the system text, the pictures, out of any family's body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MISSING_PROMPT = "Prompt is Mandatory and must be string"


@dataclass(frozen=True, slots=True)
class Question:
    """What the emulator understood of a body.

    :param text: the last user text; the answer is derived from it.
    :param everything: all text in the body, for scripts that match on any of it and for counting tokens.
    :param attachments: inline or linked files.
    :param problem: why a model would refuse the body; None when it would not.
    """

    text: str
    everything: str
    attachments: int = 0
    problem: str | None = None


def read_question(inputs: dict[str, Any], kind: str, *, strict_gemini: bool = False) -> Question:
    """Read a model's inputs.

    :param inputs: the JSON body of the submit.
    :param kind: the slug's kind from the catalogue.
    :param strict_gemini: refuse a ``messages`` list on Gemini slugs (whether the service does is not known).
    """
    messages = inputs.get("messages")
    if isinstance(messages, dict):
        turns = messages.get("contents") or []
        system = messages.get("system_instruction") or messages.get("systemInstruction")
    else:
        turns, system = messages or inputs.get("contents") or [], inputs.get("instruction") or inputs.get("system")
    read = [_turn(turn) for turn in (turns if isinstance(turns, list) else []) if isinstance(turn, dict)]
    users = [text for role, text, _ in read if role in ("user", "")]
    prompt = next((inputs[name] for name in ("prompt", "text", "input") if isinstance(inputs.get(name), str)), "")
    text = users[-1] if users else prompt
    everything = "\n".join(part for part in (_parts_text(system)[0], *(turn[1] for turn in read), prompt) if part)
    attachments = sum(count for _, _, count in read)
    return Question(text, everything, attachments, _problem(inputs, kind, text or bool(attachments), strict_gemini))


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


def _turn(turn: dict[str, Any]) -> tuple[str, str, int]:
    text, attachments = _parts_text(turn.get("parts", turn.get("content")))
    return str(turn.get("role") or ""), text, attachments


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
