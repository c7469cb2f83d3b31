"""
What a chat task asks: its arguments checked at DAG parse, and its request body built on the worker.

Every DAG parse imports this module, so the core is imported where an argument needs it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.arguments import check_number, holds_later, is_given_later, is_path, path_text
from airflow_provider_segmind.exceptions import SegmindConfigError, shorten

if TYPE_CHECKING:
    from airflow_provider_segmind.api.files import FilePart
    from airflow_provider_segmind.api.structured import OutputType
    from airflow_provider_segmind.operators.chat import SegmindChatOperator

UPLOAD_SCHEME = "segmind-upload://"
"""Stands for the address of a file that is uploaded when the request is submitted; the rest is its SHA-256."""
_TEXT_FILE = re.compile(r"[^\s{}]+\.(md|txt|json)")


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask; see :class:`~airflow_provider_segmind.operators.chat.SegmindChatOperator`."""

    prompt: Any = None
    system: Any = None
    messages: Any = None
    files: Any = None


def check_question(*, prompt: Any, system: Any, messages: Any, files: Any) -> None:
    """
    Check at parse time what is asked, as far as it is known.

    :raises SegmindConfigError: it cannot work; names the field.
    """
    if prompt is None and messages is None:
        raise SegmindConfigError("'prompt' is missing: give prompt, or messages.")
    for name, text in (("prompt", prompt), ("system", system)):
        if text is not None and not is_given_later(text):
            _check_text(name, text)
    if isinstance(messages, Mapping):
        for name, value in (("prompt", prompt), ("system", system), ("files", files)):
            if value is not None:
                raise SegmindConfigError(f"{name!r} cannot join 'messages' in Gemini's own form: write it into them.")
        if not holds_later(messages) and not messages.get("contents"):
            raise SegmindConfigError("'messages.contents' must be a list of at least one entry with role and parts.")
    elif messages is not None and not holds_later(messages):
        from airflow_provider_segmind.api.turns import check_messages

        roles = [turn.role for turn in check_messages(messages)]
        if prompt is None and set(roles) == {"system"}:
            raise SegmindConfigError("'messages' hold only the role 'system': add one of role 'user', or give prompt.")
    if files is not None and not is_given_later(files):
        _check_files(files)


def check_request(*, model: Any, api_format: Any, options: Any, output_type: Any) -> None:
    """
    Check at parse time how it is asked, and for what.

    :raises SegmindConfigError: it cannot work; names the field.
    """
    if not is_given_later(api_format) and (api_format is not None or (model is not None and not is_given_later(model))):
        from airflow_provider_segmind.api.families import family_of

        family_of(model, api_format)
    if options is not None and not holds_later(options):
        from airflow_provider_segmind.api.chat import check_options

        check_options(options)
    if output_type is not None and not is_given_later(output_type):
        read_output_type(output_type)
        if isinstance(options, Mapping) and "response_format" in options:
            raise SegmindConfigError("options.response_format is what output_type stands for: give one of them.")


def check_limits(*, max_repairs: Any, max_inline_bytes: Any) -> None:
    """
    Check the limits.

    :raises SegmindConfigError: one is no number, or negative.
    """
    check_number("max_repairs", max_repairs, zero=True)
    if not isinstance(max_repairs, int) and not is_given_later(max_repairs):
        raise SegmindConfigError(f"'max_repairs' is {max_repairs!r}; it must be a whole number.")
    if max_inline_bytes is not None:
        check_number("max_inline_bytes", max_inline_bytes)


def read_output_type(output_type: Any) -> OutputType | None:
    """
    Read what the answer must be.

    :raises SegmindConfigError: it is neither a type nor a JSON Schema.
    """
    if output_type is None:
        return None
    from airflow_provider_segmind.api.structured import OutputType

    return OutputType.from_(output_type)


def without_bytes(files: Any) -> Any:
    """Wrap bytes, which Airflow would otherwise print into the rendered fields it stores."""
    if not isinstance(files, list | tuple) or not any(isinstance(file, bytes) for file in files):
        return files
    from airflow_provider_segmind.api.files import load_file

    return [
        load_file(file, read=_read_nothing, max_inline_bytes=None, field_name=f"files[{index}]")
        if isinstance(file, bytes)
        else file
        for index, file in enumerate(files)
    ]


def named_files(**texts: Any) -> dict[str, str]:
    """Return which texts are as a whole the path of a file to read them from."""
    return {name: text for name, text in texts.items() if isinstance(text, str) and _TEXT_FILE.fullmatch(text)}


def read_text_file(jinja_env: Any, field: str, path: str) -> str:
    """
    Read a prompt's file from where Airflow looks for templates: the DAG's folder and its ``template_searchpath``.

    :raises SegmindConfigError: there is none.
    """
    from jinja2 import TemplateNotFound

    try:
        if jinja_env.loader is None:
            raise TemplateNotFound(path)
        text: str = jinja_env.loader.get_source(jinja_env, path)[0]
    except TemplateNotFound as error:
        raise SegmindConfigError(
            f"{field!r} is {path!r}, which names a file, and there is none beside the DAG or in its "
            "template_searchpath. To send these very words, add a space or a full stop to them."
        ) from error
    _check_text(field, text)
    return text


def build(task: SegmindChatOperator, question: Question) -> dict[str, Any]:
    """
    Build the body of the first request.

    A file that is to be uploaded stands in it as an address of :data:`UPLOAD_SCHEME`, so that the body is the same in
    every try; :func:`upload_files` puts the real addresses in.

    :raises SegmindConfigError: something cannot work; names the field. Nothing was sent.
    """
    from airflow_provider_segmind.api.chat import build_chat_inputs
    from airflow_provider_segmind.api.families import family_of

    model = task.hook.model_or_default(task.model)
    family = family_of(model, task.api_format)
    files = _decoded("files", question.files) or []
    _check_files(files)
    return build_chat_inputs(
        model=model,
        prompt=question.prompt,
        system=question.system,
        messages=_decoded("messages", question.messages),
        files=[_load(task, file, f"files[{index}]") for index, file in enumerate(files)],
        options=_decoded("options", task.options),
        api_format=task.api_format,
        response_format=task.answer_type.response_format(family) if task.answer_type else None,
    )


def upload_files(task: SegmindChatOperator, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Upload what is too large to travel inside a request, and return the body with the addresses. Free."""
    addresses = {placeholder: task.hook.upload(part.data_uri())[0] for placeholder, part in task.uploads.items()}
    replaced: Mapping[str, Any] = _replaced(inputs, addresses) if addresses else inputs
    return replaced


def _check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise SegmindConfigError(f"{name!r} is a {type(text).__name__}: it must be a text.")
    if not text.strip():
        raise SegmindConfigError(f"{name!r} is empty.")


def _check_files(files: Any) -> None:
    if not isinstance(files, list | tuple):
        raise SegmindConfigError(
            f"'files' is a {type(files).__name__}: it must be a list of paths, addresses or bytes."
        )
    for index, file in enumerate(files):
        if is_given_later(file) or isinstance(file, str | bytes) or is_path(file):
            if not is_given_later(file) and not file:
                raise SegmindConfigError(f"'files[{index}]' is empty.")
            continue
        from airflow_provider_segmind.api.files import FilePart

        if not isinstance(file, FilePart):
            raise SegmindConfigError(
                f"'files[{index}]' is a {type(file).__name__}: it must be a path, an address or bytes."
            )


def _decoded(name: str, value: Any) -> Any:
    """Return what a template made of a structure: itself, or what its JSON text holds."""
    if value is None or isinstance(value, Mapping | list | tuple):
        return value
    if not isinstance(value, str):
        # What a mapped task upstream returned arrives as a lazy sequence of Airflow's own.
        return list(value) if hasattr(value, "__getitem__") and not isinstance(value, bytes) else value
    import json

    try:
        return json.loads(value)
    except ValueError as error:
        raise SegmindConfigError(
            f"{name!r} is a text that is no JSON: end the template with '| tojson'. Nothing was sent."
        ) from error


def _read_nothing(path: str) -> bytes:
    raise AssertionError(path)


def _load(task: SegmindChatOperator, file: Any, name: str) -> FilePart:
    import hashlib

    from airflow_provider_segmind.api.files import MAX_INLINE_BYTES, load_file

    limit = MAX_INLINE_BYTES if task.max_inline_bytes is None else task.max_inline_bytes

    def read(address: str) -> bytes:
        return _read(task, address, name, limit if task.large_files == "fail" else None)

    def upload(part: FilePart) -> str:
        placeholder = UPLOAD_SCHEME + hashlib.sha256(part.data or b"").hexdigest()
        task.uploads[placeholder] = part
        return placeholder

    return load_file(
        path_text(file) if is_path(file) else file,
        read=read,
        max_inline_bytes=limit,
        upload=upload if task.large_files == "upload" else None,
        field_name=name,
    )


def _read(task: SegmindChatOperator, address: str, name: str, limit: int | None) -> bytes:
    from airflow_provider_segmind.compat import ObjectStoragePath

    dag = task.get_dag()
    beside = Path(dag.fileloc).parent / address if dag is not None and dag.fileloc and "://" not in address else None
    path = ObjectStoragePath(str(beside) if beside is not None and beside.exists() else address)
    try:
        size = path.stat().st_size
        if limit is not None and size > limit:
            raise SegmindConfigError(
                f"{name} ({shorten(path.name, 80)}) has {size} bytes, over the {limit} that may travel inside a "
                "request. Pass an http(s) address, or set large_files='upload'. Nothing was sent."
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SegmindConfigError(
            f"{name} names {shorten(path.name, 80)!r}, where there is no file. Nothing was sent."
        ) from error


def _replaced(node: Any, addresses: Mapping[str, str]) -> Any:
    if isinstance(node, str):
        return addresses.get(node, node)
    if isinstance(node, Mapping):
        return {key: _replaced(value, addresses) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_replaced(value, addresses) for value in node]
    return node
