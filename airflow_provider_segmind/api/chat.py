"""
Build the body of a chat request for the three families from one small vocabulary.

``prompt``, ``system``, ``messages`` and ``files`` say the same thing to every model; only ``model`` decides the form:

=============  =====================================  ==============================  ===============================
given          gemini                                 openai                          anthropic
=============  =====================================  ==============================  ===============================
prompt         ``messages.contents[]`` with parts     ``messages[]``, role user       ``messages[]``, role user
system         ``messages.system_instruction.parts``  ``messages[0]``, role system    ``instruction``
assistant      role ``model``                         role ``assistant``              role ``assistant``
options        beside ``messages``, untouched         the same                        the same
=============  =====================================  ==============================  ===============================

Sources: Gemini's form is the sample of Segmind's page for gemini-3.1-flash-lite, the one form seen to work (that page's
parameter table shows another); OpenAI's and Anthropic's are those of the model pages of o1-preview and claude-*.
Options travel as the SDK 1.3.0 sends them; where Gemini's ``generationConfig`` and ``safetySettings`` belong is not
documented.

A body that already has the family's own form passes through: an object under ``messages`` for Gemini, messages with
``parts``, and blocks of the family inside ``content``. Texts are never formatted: braces arrive byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from airflow_provider_segmind.api.families import ApiFormat, family_of
from airflow_provider_segmind.api.files import FilePart, file_block
from airflow_provider_segmind.api.turns import (
    Part,
    Turn,
    check_json,
    check_text,
    file_of_block,
    native_family,
    read_turns,
    text_of,
)
from airflow_provider_segmind.exceptions import SegmindConfigError

Messages: TypeAlias = Sequence[Mapping[str, Any]] | Mapping[str, Any]


def build_chat_inputs(
    *,
    model: str,
    prompt: str | None = None,
    system: str | None = None,
    messages: Messages | None = None,
    files: Sequence[FilePart] = (),
    options: Mapping[str, Any] | None = None,
    api_format: ApiFormat | str | None = None,
    response_format: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Build the JSON body of a chat request.

    :param model: the model to run (Segmind calls it the slug); its name decides the form.
    :param prompt: the question; the last turn when ``messages`` are given too.
    :param system: what the model is told before the conversation.
    :param messages: turns of role and content, or for Gemini its own object with ``contents``.
    :param files: loaded files, sent beside the prompt, after its text.
    :param options: what else the model takes (``temperature``, ``max_tokens``, ``web_search``…), sent as it is.
    :param api_format: the form to use when the name does not tell, or tells wrongly.
    :param response_format: as :meth:`OutputType.response_format` makes it.
    :raises SegmindConfigError: something cannot work; names the field. Nothing was sent.
    """
    family = family_of(model, api_format)
    extra = check_options(options)
    if isinstance(messages, Mapping):
        body = _native_body(family, messages, prompt=prompt, system=system, files=files)
    else:
        turns = read_turns(prompt, messages, files)
        if system is not None:
            turns = (Turn(role="system", parts=(check_text(system, "system"),), field="system"), *turns)
        body = _WRITERS[family](turns)
    for key in extra.keys() & (body.keys() | ({"response_format"} if response_format is not None else set())):
        raise SegmindConfigError(f"options.{key} is already given by another parameter: give it once.")
    body.update(extra)
    if response_format is not None:
        body["response_format"] = dict(response_format)
    if "response_format" in body:
        check_response_format(body["response_format"], family=family, body=body)
    return body


def check_options(options: object) -> dict[str, Any]:
    """
    Check that options can travel beside the messages.

    :param options: a mapping of texts to what JSON can carry, or None.
    :raises SegmindConfigError: names the option that cannot work.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise SegmindConfigError(f"options is a {type(options).__name__}: it must be a mapping of names to values.")
    check_json(options, "options")
    for key in ("messages", "prompt"):
        if key in options:
            raise SegmindConfigError(f"options.{key} belongs outside options: give the parameter {key}.")
    return dict(options)


def check_response_format(response_format: object, *, family: ApiFormat, body: Mapping[str, Any]) -> None:
    """
    Refuse what the gateway is known to refuse (changelog of the SDK 1.3.0).

    Claude accepts ``json_schema`` only; ``json_object`` wants the word "json" somewhere in an OpenAI conversation.

    :param response_format: what would be sent.
    :param family: the form of the body.
    :param body: the rest of it.
    """
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind not in ("json_schema", "json_object", "text"):
        raise SegmindConfigError("response_format.type must be 'json_schema', 'json_object' or 'text'.")
    if family is ApiFormat.ANTHROPIC and kind != "json_schema":
        raise SegmindConfigError(f"response_format.type={kind!r}: the anthropic form takes only 'json_schema'.")
    if kind == "json_object" and family is ApiFormat.OPENAI and "json" not in json.dumps(body["messages"]).lower():
        raise SegmindConfigError(
            "response_format.type='json_object' needs the word 'json' in prompt, system or messages, or it is refused."
        )


def _native_body(
    family: ApiFormat,
    messages: Mapping[str, Any],
    *,
    prompt: str | None,
    system: str | None,
    files: Sequence[FilePart],
) -> dict[str, Any]:
    if family is not ApiFormat.GEMINI:
        raise SegmindConfigError(
            f"messages is an object, the form of Gemini, but this model speaks the {family} form: give a list of role "
            "and content, or api_format='gemini'."
        )
    given = {"prompt": prompt is not None, "system": system is not None, "files": bool(files)}
    for name in (name for name, present in given.items() if present):
        raise SegmindConfigError(f"{name} cannot join messages in Gemini's own form: write it into messages.")
    contents = messages.get("contents")
    if not isinstance(contents, list) or not contents:
        raise SegmindConfigError("messages.contents must be a list of at least one entry with role and parts.")
    check_json(messages, "messages")
    return {"messages": dict(messages)}


def _write_gemini(turns: Sequence[Turn]) -> dict[str, Any]:
    messages: dict[str, Any] = {}
    if told := _system_text(turns):
        messages["system_instruction"] = {"parts": {"text": told}}
    messages["contents"] = [_gemini_content(turn) for turn in turns if turn.role != "system"]
    return {"messages": messages}


def _gemini_content(turn: Turn) -> dict[str, Any]:
    role = "model" if turn.role == "assistant" else "user"
    source = turn.source or {}
    if "parts" in source and all(isinstance(part, Mapping) for part in turn.parts):
        return {**source, "role": role}
    for key in source.keys() - {"role", "content", "parts"}:
        raise SegmindConfigError(f"{turn.field}.{key} has no place in the form of Gemini: remove it.")
    return {"role": role, "parts": _blocks(turn, ApiFormat.GEMINI)}


def _write_openai(turns: Sequence[Turn]) -> dict[str, Any]:
    return {"messages": [_listed_message(turn, ApiFormat.OPENAI) for turn in turns]}


def _write_anthropic(turns: Sequence[Turn]) -> dict[str, Any]:
    told = _system_text(turns)
    messages = [_listed_message(turn, ApiFormat.ANTHROPIC) for turn in turns if turn.role != "system"]
    return {"instruction": told, "messages": messages} if told else {"messages": messages}


_WRITERS = {
    ApiFormat.GEMINI: _write_gemini,
    ApiFormat.OPENAI: _write_openai,
    ApiFormat.ANTHROPIC: _write_anthropic,
}


def _system_text(turns: Sequence[Turn]) -> str:
    return "\n\n".join(turn.text for turn in turns if turn.role == "system")


def _listed_message(turn: Turn, family: ApiFormat) -> dict[str, Any]:
    extra = {key: value for key, value in (turn.source or {}).items() if key not in ("role", "content", "parts")}
    if len(turn.parts) == 1 and isinstance(turn.parts[0], str):
        return {"role": turn.role, "content": turn.parts[0], **extra}
    return {"role": turn.role, "content": _blocks(turn, family), **extra}


def _blocks(turn: Turn, family: ApiFormat) -> list[dict[str, Any]]:
    return [_block(part, family, turn.field) for part in turn.parts]


def _block(part: Part, family: ApiFormat, field: str) -> dict[str, Any]:
    text = text_of(part)
    if text is not None:
        return {"text": text} if family is ApiFormat.GEMINI else {"type": "text", "text": text}
    if isinstance(part, FilePart):
        return file_block(part, family)
    if isinstance(part, Mapping):
        if native_family(part) is family or (part.get("type") == "text" and family is ApiFormat.ANTHROPIC):
            return dict(part)
        file = file_of_block(part, field)
        if file is not None:
            return file_block(file, family)
    raise SegmindConfigError(f"{field} holds a block that models of the {family} form cannot be sent: rewrite it.")
