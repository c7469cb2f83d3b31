"""A conversation: checked before anything is paid for, and written in the API format of each model family."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from airflow_provider_segmind.chat.attachments import Attachment, attachment_block, decode_data_uri
from airflow_provider_segmind.chat.model_families import ApiFormat, family_of
from airflow_provider_segmind.exceptions import SegmindConfigError, type_name

Role: TypeAlias = Literal["user", "assistant", "system"]
Part: TypeAlias = str | Attachment | Mapping[str, Any]
_ROLES: Mapping[str, Role] = {"user": "user", "assistant": "assistant", "model": "assistant", "system": "system"}
_GEMINI_KEYS = frozenset(
    {"text", "inlineData", "inline_data", "fileData", "file_data", "functionCall", "functionResponse"}
    | {"executableCode", "codeExecutionResult", "thought"}
)
_ANTHROPIC_TYPES = frozenset({"image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"})


@dataclass(frozen=True, slots=True)
class Message:
    """
    One checked message of a conversation.

    :param parts: never empty; a mapping is a content block in the native format of some family.
    :param field: its name in error messages.
    :param source: the message as the user gave it, None for one made from ``prompt``.
    """

    role: Role
    parts: tuple[Part, ...]
    field: str
    source: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """The text of this message, without its attachments."""
        return "\n".join(text for part in self.parts if (text := text_of(part)) is not None)


def text_of(part: Part) -> str | None:
    """Return the text of a part that is only text, else None."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str) and set(part) <= {"type", "text"}:
        return str(part["text"])
    return None


def read_messages(
    prompt: str | None, messages: Sequence[Mapping[str, Any]] | None, attachments: Sequence[Attachment] = ()
) -> tuple[Message, ...]:
    """
    Check a conversation and read its messages; ``prompt`` and ``attachments`` become the last one.

    :param prompt: the question; it follows ``messages`` when both are given.
    :param messages: the earlier messages, or the whole conversation.
    :param attachments: they join the prompt, or the last message if that is the user's.
    :raises SegmindConfigError: names the invalid field.
    """
    conversation = list(check_messages(messages)) if messages is not None else []
    for index, attachment in enumerate(attachments):
        if not isinstance(attachment, Attachment):
            raise SegmindConfigError(f"files[{index}] is {type_name(attachment)}, not a loaded Attachment.")
    if prompt is not None:
        conversation.append(Message(role="user", parts=(check_string(prompt, "prompt"), *attachments), field="prompt"))
    elif attachments and conversation and conversation[-1].role == "user":
        last = conversation[-1]
        conversation[-1] = Message(role="user", parts=(*last.parts, *attachments), field=last.field)
    elif attachments:
        raise SegmindConfigError("files need a question: give prompt, or end messages with one of role 'user'.")
    if not conversation:
        raise SegmindConfigError("prompt is missing: give prompt, or messages with at least one of role 'user'.")
    if all(message.role == "system" for message in conversation):
        raise SegmindConfigError("messages contains only the role 'system': add one of role 'user', or give prompt.")
    return tuple(conversation)


def check_messages(messages: object) -> Iterator[Message]:
    """Check and read a list of messages as the user gave it."""
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise SegmindConfigError(
            f"messages is {type_name(messages)}: give a list of messages, or prompt for a single question."
        )
    if not messages:
        raise SegmindConfigError("messages is empty: it needs at least one message.")
    for index, message in enumerate(messages):
        yield _check_message(message, f"messages[{index}]")


def _check_message(message: object, field: str) -> Message:
    if not isinstance(message, Mapping):
        raise SegmindConfigError(f"{field} is {type_name(message)}: it must be a mapping with role and content.")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        shown = "missing" if role is None else repr(role[:20]) if isinstance(role, str) else type_name(role)
        raise SegmindConfigError(f"{field}.role is {shown}: it must be 'user', 'assistant' or 'system'.")
    key = "parts" if "parts" in message and "content" not in message else "content"
    if key not in message:
        raise SegmindConfigError(f"{field}.content is missing.")
    content = message[key]
    listed = [content] if isinstance(content, str | Mapping | Attachment) else content
    if not isinstance(listed, Sequence) or isinstance(listed, bytes):
        raise SegmindConfigError(f"{field}.{key} is {type_name(content)}: it must be a string or a list of parts.")
    parts = tuple(_check_part(part, f"{field}.{key}[{index}]") for index, part in enumerate(listed))
    if all(isinstance(text := text_of(part), str) and not text.strip() for part in parts):
        raise SegmindConfigError(f"{field}.{key} is empty: a message needs text or an attachment.")
    if _ROLES[role] == "system" and any(text_of(part) is None for part in parts):
        raise SegmindConfigError(f"{field}.{key} contains more than text: the role 'system' takes only text.")
    return Message(role=_ROLES[role], parts=parts, field=field, source=message)


def _check_part(part: object, field: str) -> Part:
    if isinstance(part, str | Attachment):
        return part
    if isinstance(part, Mapping) and native_family(part) is not None:
        check_json(part, field)
        return part
    raise SegmindConfigError(
        f"{field} is {type_name(part)}: it must be a string, an attachment or a known content block."
    )


def native_family(block: Mapping[str, Any]) -> ApiFormat | None:
    """Return the API format of a content block, None if unknown; ``{"type": "text"}``, which two share, is OpenAI's."""
    kind = block.get("type")
    if kind is None:
        return ApiFormat.GEMINI if _GEMINI_KEYS & set(block) else None
    if not isinstance(kind, str) or not kind:
        return None
    return ApiFormat.ANTHROPIC if kind in _ANTHROPIC_TYPES else ApiFormat.OPENAI


def attachment_of_block(block: Mapping[str, Any], field: str) -> Attachment | None:
    """Read an image, document or inline block of any family back into an attachment; None for any other block."""
    inline = block.get("inlineData") or block.get("inline_data")
    linked = block.get("fileData") or block.get("file_data")
    image = block.get("image_url")
    source = block.get("source")
    if isinstance(image, Mapping):
        return _attachment_at(str(image.get("url", "")), None, field)
    if isinstance(linked, Mapping):
        return _attachment_at(str(linked.get("fileUri", "")), linked.get("mimeType"), field)
    if isinstance(inline, Mapping):
        return decode_data_uri(f"data:{inline.get('mimeType')};base64,{inline.get('data', '')}", field)
    if isinstance(source, Mapping) and source.get("type") == "url":
        default = "application/pdf" if block.get("type") == "document" else None
        return _attachment_at(str(source.get("url", "")), default, field)
    if isinstance(source, Mapping) and source.get("type") == "base64":
        return decode_data_uri(f"data:{source.get('media_type')};base64,{source.get('data', '')}", field)
    return None


def _attachment_at(url: str, media_type: object, field: str) -> Attachment:
    if url.startswith("data:"):
        return decode_data_uri(url, field)
    return Attachment.from_url(url, media_type=media_type if isinstance(media_type, str) else None, name=field)


def check_string(value: object, field: str) -> str:
    """Return a string unchanged if it is not blank; anything else is an error that names ``field``."""
    if not isinstance(value, str):
        raise SegmindConfigError(f"{field} is {type_name(value)}: it must be a string.")
    if not value.strip():
        raise SegmindConfigError(f"{field} is empty.")
    return value


def check_json(value: object, field: str) -> None:
    """Refuse what JSON cannot represent, naming the place, as in ``options.stop[1]``."""
    if value is None or isinstance(value, str | bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SegmindConfigError(f"{field} is {value!r}, which JSON cannot represent.")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise SegmindConfigError(f"{field} has a key of type {type(key).__name__}: keys must be strings.")
            check_json(item, f"{field}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_json(item, f"{field}[{index}]")
    else:
        raise SegmindConfigError(f"{field} is {type_name(value)}, which JSON cannot represent.")


Messages: TypeAlias = Sequence[Mapping[str, Any]] | Mapping[str, Any]


def build_chat_inputs(
    *,
    model: str,
    prompt: str | None = None,
    system: str | None = None,
    messages: Messages | None = None,
    attachments: Sequence[Attachment] = (),
    options: Mapping[str, Any] | None = None,
    api_format: ApiFormat | str | None = None,
    response_format: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Build the JSON body of a chat request.

    :param model: the model to run (Segmind calls it the slug); its name decides the API format.
    :param prompt: the question; the last message when ``messages`` are given too.
    :param system: instructions for the model, before the conversation.
    :param messages: messages with role and content, or Gemini's native object with ``contents``.
    :param attachments: sent with the prompt, after its text.
    :param options: other parameters of the model (``temperature``, ``max_tokens``, ``web_search``…), sent unchanged.
    :param api_format: the format to use when the name of the model does not imply it, or implies the wrong one.
    :param response_format: as :meth:`OutputType.response_format` makes it.
    :raises SegmindConfigError: names the invalid field. Nothing was sent.
    """
    family = family_of(model, api_format)
    extra = check_options(options)
    if isinstance(messages, Mapping):
        body = _native_body(family, messages, prompt=prompt, system=system, attachments=attachments)
    else:
        conversation = read_messages(prompt, messages, attachments)
        if system is not None:
            instructions = Message(role="system", parts=(check_string(system, "system"),), field="system")
            conversation = (instructions, *conversation)
        body = _WRITERS[family](conversation)
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
    Check that options can be sent along with the messages.

    :raises SegmindConfigError: names the invalid option.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise SegmindConfigError(f"options is {type_name(options)}: it must be a mapping of names to values.")
    check_json(options, "options")
    for key in ("messages", "prompt"):
        if key in options:
            raise SegmindConfigError(f"options.{key} does not belong in options: use the parameter {key}.")
    return dict(options)


def check_response_format(response_format: object, *, family: ApiFormat, body: Mapping[str, Any]) -> None:
    """
    Refuse what the gateway is known to refuse (changelog of the SDK 1.3.0).

    Claude accepts only ``json_schema``; OpenAI's ``json_object`` needs the word "json" somewhere in the conversation.
    """
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind not in ("json_schema", "json_object", "text"):
        raise SegmindConfigError("response_format.type must be 'json_schema', 'json_object' or 'text'.")
    if family is ApiFormat.ANTHROPIC and kind != "json_schema":
        raise SegmindConfigError(f"response_format.type={kind!r}: the anthropic format takes only 'json_schema'.")
    if kind == "json_object" and family is ApiFormat.OPENAI and "json" not in json.dumps(body["messages"]).lower():
        raise SegmindConfigError(
            "response_format.type='json_object' needs the word 'json' in prompt, system or messages; without it the "
            "gateway refuses the request."
        )


def _native_body(
    family: ApiFormat,
    messages: Mapping[str, Any],
    *,
    prompt: str | None,
    system: str | None,
    attachments: Sequence[Attachment],
) -> dict[str, Any]:
    if family is not ApiFormat.GEMINI:
        raise SegmindConfigError(
            f"messages is an object in Gemini's format, but this model uses the {family} format: give a list of "
            "messages with role and content, or set api_format='gemini'."
        )
    check_native_messages(messages, prompt=prompt, system=system, files=attachments or None)
    return {"messages": dict(messages)}


def check_native_messages(messages: Mapping[str, Any], *, prompt: object, system: object, files: object) -> None:
    """
    Check messages in Gemini's native format.

    :raises SegmindConfigError: names the field that cannot work.
    """
    for name, value in (("prompt", prompt), ("system", system), ("files", files)):
        if value is not None:
            raise SegmindConfigError(
                f"{name} cannot be combined with messages in Gemini's native format: put it into messages."
            )
    contents = messages.get("contents")
    if not isinstance(contents, list) or not contents:
        raise SegmindConfigError("messages.contents must be a list of at least one entry with role and parts.")
    check_json(messages, "messages")


def _write_gemini(conversation: Sequence[Message]) -> dict[str, Any]:
    messages: dict[str, Any] = {}
    if system := _system_text(conversation):
        messages["system_instruction"] = {"parts": {"text": system}}
    messages["contents"] = [_gemini_content(message) for message in conversation if message.role != "system"]
    return {"messages": messages}


def _gemini_content(message: Message) -> dict[str, Any]:
    role = "model" if message.role == "assistant" else "user"
    source = message.source or {}
    if "parts" in source and all(isinstance(part, Mapping) for part in message.parts):
        return {**source, "role": role}
    for key in source.keys() - {"role", "content", "parts"}:
        raise SegmindConfigError(f"{message.field}.{key} does not exist in Gemini's format: remove it.")
    return {"role": role, "parts": _blocks(message, ApiFormat.GEMINI)}


def _write_openai(conversation: Sequence[Message]) -> dict[str, Any]:
    return {"messages": [_listed_message(message, ApiFormat.OPENAI) for message in conversation]}


def _write_anthropic(conversation: Sequence[Message]) -> dict[str, Any]:
    system = _system_text(conversation)
    messages = [_listed_message(message, ApiFormat.ANTHROPIC) for message in conversation if message.role != "system"]
    return {"instruction": system, "messages": messages} if system else {"messages": messages}


_WRITERS = {ApiFormat.GEMINI: _write_gemini, ApiFormat.OPENAI: _write_openai, ApiFormat.ANTHROPIC: _write_anthropic}


def _system_text(conversation: Sequence[Message]) -> str:
    return "\n\n".join(message.text for message in conversation if message.role == "system")


def _listed_message(message: Message, family: ApiFormat) -> dict[str, Any]:
    extra = {key: value for key, value in (message.source or {}).items() if key not in ("role", "content", "parts")}
    if len(message.parts) == 1 and isinstance(message.parts[0], str):
        return {"role": message.role, "content": message.parts[0], **extra}
    return {"role": message.role, "content": _blocks(message, family), **extra}


def _blocks(message: Message, family: ApiFormat) -> list[dict[str, Any]]:
    return [_block(part, family, message.field) for part in message.parts]


def _block(part: Part, family: ApiFormat, field: str) -> dict[str, Any]:
    text = text_of(part)
    if text is not None:
        return {"text": text} if family is ApiFormat.GEMINI else {"type": "text", "text": text}
    if isinstance(part, Attachment):
        return attachment_block(part, family)
    if isinstance(part, Mapping):
        if native_family(part) is family or (part.get("type") == "text" and family is ApiFormat.ANTHROPIC):
            return dict(part)
        attachment = attachment_of_block(part, field)
        if attachment is not None:
            return attachment_block(attachment, family)
    raise SegmindConfigError(f"{field} contains a block that the {family} format does not support: rewrite it.")
