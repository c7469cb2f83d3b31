"""The vocabulary of a conversation, checked before anything is paid, and written as each model family wants it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from airflow_provider_segmind.chat.attachments import FilePart, decode_data_uri, file_block
from airflow_provider_segmind.chat.model_families import ApiFormat, family_of
from airflow_provider_segmind.exceptions import SegmindConfigError

Role: TypeAlias = Literal["user", "assistant", "system"]
Part: TypeAlias = str | FilePart | Mapping[str, Any]
_ROLES: Mapping[str, Role] = {"user": "user", "assistant": "assistant", "model": "assistant", "system": "system"}
_GEMINI_KEYS = frozenset(
    {"text", "inlineData", "inline_data", "fileData", "file_data", "functionCall", "functionResponse"}
    | {"executableCode", "codeExecutionResult", "thought"}
)
_ANTHROPIC_TYPES = frozenset({"image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"})


@dataclass(frozen=True, slots=True)
class Turn:
    """
    One message, checked.

    :param parts: never empty; a mapping is a block in some family's own form.
    :param source: the message as it was given, None for one made from ``prompt``.
    :param field: what to call it in a message.
    """

    role: Role
    parts: tuple[Part, ...]
    field: str
    source: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """The texts of this message, None of its files."""
        return "\n".join(text for part in self.parts if (text := text_of(part)) is not None)


def text_of(part: Part) -> str | None:
    """Return a part's text when it is nothing but text."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str) and set(part) <= {"type", "text"}:
        return str(part["text"])
    return None


def read_turns(
    prompt: str | None, messages: Sequence[Mapping[str, Any]] | None, files: Sequence[FilePart] = ()
) -> tuple[Turn, ...]:
    """
    Check a conversation and read it into turns; ``prompt`` and ``files`` become its last.

    :param prompt: the question; after ``messages`` when both are given.
    :param messages: earlier turns, or the whole conversation.
    :param files: loaded files; they join the prompt, or the last message when that is the user's.
    :raises SegmindConfigError: names the field that cannot work.
    """
    turns = list(check_messages(messages)) if messages is not None else []
    for index, part in enumerate(files):
        if not isinstance(part, FilePart):
            raise SegmindConfigError(f"files[{index}] is a {type(part).__name__}, not a loaded FilePart.")
    if prompt is not None:
        turns.append(Turn(role="user", parts=(check_text(prompt, "prompt"), *files), field="prompt"))
    elif files and turns and turns[-1].role == "user":
        turns[-1] = Turn(role="user", parts=(*turns[-1].parts, *files), field=turns[-1].field)
    elif files:
        raise SegmindConfigError("files need a question: give prompt, or end messages with one of role 'user'.")
    if not turns:
        raise SegmindConfigError("prompt is missing: give prompt, or messages with at least one of role 'user'.")
    if all(turn.role == "system" for turn in turns):
        raise SegmindConfigError("messages hold only the role 'system': add one of role 'user', or give prompt.")
    return tuple(turns)


def check_messages(messages: object, field: str = "messages") -> Iterator[Turn]:
    """
    Check a list of messages and read each into a turn.

    :param messages: the list as the user gave it.
    :param field: what to call it in a message.
    """
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise SegmindConfigError(
            f"{field} is a {type(messages).__name__}: it must be a list of messages, or prompt be given instead."
        )
    if not messages:
        raise SegmindConfigError(f"{field} is empty: it needs at least one message.")
    for index, message in enumerate(messages):
        yield _check_message(message, f"{field}[{index}]")


def _check_message(message: object, field: str) -> Turn:
    if not isinstance(message, Mapping):
        raise SegmindConfigError(f"{field} is a {type(message).__name__}: it must be a mapping of role and content.")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        shown = "missing" if role is None else repr(role[:20]) if isinstance(role, str) else f"a {type(role).__name__}"
        raise SegmindConfigError(f"{field}.role is {shown}: it must be 'user', 'assistant' or 'system'.")
    key = "parts" if "parts" in message and "content" not in message else "content"
    if key not in message:
        raise SegmindConfigError(f"{field}.content is missing.")
    content = message[key]
    listed = [content] if isinstance(content, str | Mapping | FilePart) else content
    if not isinstance(listed, Sequence) or isinstance(listed, bytes):
        raise SegmindConfigError(f"{field}.{key} is a {type(content).__name__}: it must be a text or a list of parts.")
    parts = tuple(_check_part(part, f"{field}.{key}[{index}]") for index, part in enumerate(listed))
    if all(isinstance(text := text_of(part), str) and not text.strip() for part in parts):
        raise SegmindConfigError(f"{field}.{key} is empty: a message needs a text or a file.")
    if _ROLES[role] == "system" and any(text_of(part) is None for part in parts):
        raise SegmindConfigError(f"{field}.{key} holds more than text, which the role 'system' cannot carry.")
    return Turn(role=_ROLES[role], parts=parts, field=field, source=message)


def _check_part(part: object, field: str) -> Part:
    if isinstance(part, str | FilePart):
        return part
    if isinstance(part, Mapping) and native_family(part) is not None:
        check_json(part, field)
        return part
    raise SegmindConfigError(f"{field} is a {type(part).__name__}: neither a text, a loaded file nor a known block.")


def native_family(block: Mapping[str, Any]) -> ApiFormat | None:
    """
    Say whose form a content block has; a ``{"type": "text"}`` block, which two families share, counts as OpenAI's.

    :param block: one part of a message.
    """
    kind = block.get("type")
    if kind is None:
        return ApiFormat.GEMINI if _GEMINI_KEYS & set(block) else None
    if not isinstance(kind, str) or not kind:
        return None
    return ApiFormat.ANTHROPIC if kind in _ANTHROPIC_TYPES else ApiFormat.OPENAI


def file_of_block(block: Mapping[str, Any], field: str) -> FilePart | None:
    """
    Read an image, document or inline block of any family back into a file, None when it is something else.

    :param block: one part of a message, in a family's own form.
    :param field: what to call it in a message.
    """
    inline = block.get("inlineData") or block.get("inline_data")
    linked = block.get("fileData") or block.get("file_data")
    image = block.get("image_url")
    source = block.get("source")
    if isinstance(image, Mapping):
        return _file_at(str(image.get("url", "")), None, field)
    if isinstance(linked, Mapping):
        return _file_at(str(linked.get("fileUri", "")), linked.get("mimeType"), field)
    if isinstance(inline, Mapping):
        return decode_data_uri(f"data:{inline.get('mimeType')};base64,{inline.get('data', '')}", field)
    if isinstance(source, Mapping) and source.get("type") == "url":
        default = "application/pdf" if block.get("type") == "document" else None
        return _file_at(str(source.get("url", "")), default, field)
    if isinstance(source, Mapping) and source.get("type") == "base64":
        return decode_data_uri(f"data:{source.get('media_type')};base64,{source.get('data', '')}", field)
    return None


def _file_at(url: str, media_type: object, field: str) -> FilePart:
    if url.startswith("data:"):
        return decode_data_uri(url, field)
    return FilePart.from_url(url, media_type=media_type if isinstance(media_type, str) else None, name=field)


def check_text(value: object, field: str) -> str:
    """Return a text that is not empty, byte for byte; anything else is an error that names ``field``."""
    if not isinstance(value, str):
        raise SegmindConfigError(f"{field} is a {type(value).__name__}: it must be a text.")
    if not value.strip():
        raise SegmindConfigError(f"{field} is empty.")
    return value


def check_json(value: object, field: str) -> None:
    """
    Refuse what JSON cannot carry, naming the place, as in ``options.stop[1]``.

    :param value: an option's value.
    :param field: what to call it in a message.
    """
    if value is None or isinstance(value, str | bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SegmindConfigError(f"{field} is {value!r}, which JSON cannot carry.")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise SegmindConfigError(f"{field} has a key of type {type(key).__name__}: keys must be texts.")
            check_json(item, f"{field}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_json(item, f"{field}[{index}]")
    else:
        raise SegmindConfigError(f"{field} is a {type(value).__name__}, which JSON cannot carry.")


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
