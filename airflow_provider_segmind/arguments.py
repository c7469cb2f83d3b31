"""
The checks of operator arguments, made when a DAG is parsed and again when a task runs with rendered values.

Each check raises :class:`~airflow_provider_segmind.exceptions.SegmindConfigError`, which names the argument, and passes
values that are only known when the task runs. Every DAG parse imports this module, so it imports the core only where an
argument needs it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NewType, get_args, get_origin

from airflow_provider_segmind.compat import SET_DURING_EXECUTION
from airflow_provider_segmind.defaults import (
    ANSWER_COLUMN,
    DEAD_LETTERS,
    OWN_PREFIX,
    OnBudget,
    Rerun,
    ReuseAnswers,
    as_seconds,
)
from airflow_provider_segmind.exceptions import SegmindConfigError, shorten, type_name

if TYPE_CHECKING:
    from airflow_provider_segmind.chat.output_type import OutputType
    from airflow_provider_segmind.type_hints import AnyPath

LARGEST = 1e300
"""Upper limit of a number of seconds, bytes or repetitions; larger integers do not fit into a float."""
MOST_NOTES = 2000
"""Most characters in the notes of a table; its manifest, which contains them, must fit into XCom."""


def is_path(value: Any) -> bool:
    """Return whether a value is a path object; in some versions an ObjectStoragePath is not an ``os.PathLike``."""
    return isinstance(value, os.PathLike) or hasattr(type(value), "joinpath")


def path_text(value: Any) -> str:
    """Return a path as a string; for an ObjectStoragePath it includes the store and the connection."""
    return str(value) if hasattr(type(value), "joinpath") else os.fspath(value)


def path_or_none(value: Any) -> str | None:
    """Return an optional path as a string."""
    return path_text(value) if value else None


def check_path(name: str, value: Any, *, none: bool = False) -> None:
    """Check that a value is a path: a string, a ``pathlib.Path`` or an ObjectStoragePath."""
    if "\0" in str(value) and not is_resolvable(value):
        raise SegmindConfigError(f"{name!r} contains a NUL character, which is not allowed in a path.")
    if is_given_later(value) or is_path(value) or (none and value in (None, "")):
        return
    if not isinstance(value, str) or not value:
        raise SegmindConfigError(f"{name!r} is {value!r}; it must be a path: a string, a Path or an ObjectStoragePath.")


def is_resolvable(value: Any) -> bool:
    """
    Return whether a value is an object that Airflow resolves when the task runs.

    Like Airflow's renderer, this checks for a ``resolve`` method: XComArg, the argument of a mapped task group,
    ``dag.param()``, ``literal()``… A path has such a method with another meaning, and so has a Param, which is not a
    value.
    """
    kind = type(value)
    return hasattr(kind, "resolve") and not is_path(value) and not hasattr(kind, "dump")


def is_called_later(value: Any) -> bool:
    """
    Return whether a value is what Airflow calls when the task runs, with ``context`` and ``jinja_env``.

    Every Airflow since 2.11 calls whatever is callable in a template field: functions, methods, partials, objects with
    ``__call__``. Types are callable as well, but are values here (``output_type``).
    """
    is_type = isinstance(value, type | NewType) or get_origin(value) is not None
    return callable(value) and not is_type and not is_resolvable(value)


def is_given_later(value: Any) -> bool:
    """Return whether a value is only known when the task runs: a template, or what Airflow resolves or calls then."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    return value is SET_DURING_EXECUTION or is_resolvable(value) or is_called_later(value)


def contains_later(value: Any) -> bool:
    """Return whether a value, or anything in it, is only known when the task runs."""
    if isinstance(value, Mapping):
        return any(contains_later(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(contains_later(item) for item in value)
    return is_given_later(value)


def check_model(model: Any) -> None:
    """Check ``model``; None means the connection's default."""
    if model is None or is_given_later(model):
        return
    if not isinstance(model, str) or not model.strip():
        raise SegmindConfigError(f"'model' is {model!r}; it must be the name of a Segmind model.")


def check_inputs(inputs: Any) -> None:
    """Check that ``inputs`` is an object."""
    if not is_given_later(inputs) and not isinstance(inputs, Mapping):
        raise SegmindConfigError(
            f"'inputs' is {type_name(inputs)}; it must be an object (dict) as the model's page describes it."
        )


def check_number(name: str, value: Any, *, zero: bool = False) -> None:
    """Check a number of seconds, bytes or repetitions."""
    if is_given_later(value):
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST < value < LARGEST
    if not number or value < 0 or (value == 0 and not zero):
        raise SegmindConfigError(f"{name!r} is {value!r}; it must be a number {'of at least' if zero else 'above'} 0.")


SECONDS = frozenset({"timeout", "sync_wait", "poll_interval"})
"""Arguments in seconds, which may also be given as a ``timedelta``."""


def check_seconds(name: str, value: Any, *, zero: bool = False) -> None:
    """Check a number of seconds, or a ``timedelta``."""
    try:
        check_number(name, as_seconds(value), zero=zero)
    except SegmindConfigError as error:
        raise SegmindConfigError(
            f"{name!r} is {value!r}; it must be a number of seconds or a timedelta, "
            f"{'of at least' if zero else 'above'} 0."
        ) from error


def check_waiting(*, sync_wait: Any, poll_interval: Any, timeout: Any) -> None:
    """Check how long and how often to poll."""
    check_seconds("sync_wait", sync_wait, zero=True)
    if poll_interval is not None:
        check_seconds("poll_interval", poll_interval)
    check_seconds("timeout", timeout)


def check_flag(name: str, value: Any, *, none: bool = False) -> None:
    """Check a boolean."""
    if not is_given_later(value) and not isinstance(value, bool) and not (none and value is None):
        raise SegmindConfigError(f"{name!r} is {value!r}; it must be True or False.")


def check_budget(budget: Any, on_budget: Any) -> None:
    """
    Check the name of a budget and what happens when it has no room.

    :raises SegmindConfigError: the argument is invalid.
    """
    check_choice("on_budget", on_budget, OnBudget)
    if budget is not None and not is_given_later(budget) and (not isinstance(budget, str) or not budget.strip()):
        raise SegmindConfigError(
            f"'budget' is {budget!r}; it must be the name of a budget in [segmind] budgets, or None."
        )


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Check that a value is one of a few."""
    allowed = get_args(choices)
    if not is_given_later(value) and value not in allowed:
        raise SegmindConfigError(f"{name!r} is {value!r}; it must be one of {', '.join(map(repr, allowed))}.")


def read_rerun(value: Any) -> frozenset[Rerun]:
    """
    Return which rows without an answer are sent again: outcomes, and ``unbilled`` for failures that were not billed.

    :param value: a name or several, or a list of names that a template rendered as a string.
    """
    names = value
    if isinstance(value, str):
        listed = value.strip()
        inner = listed[1:-1] if listed[:1] == "[" and listed[-1:] == "]" else listed
        names = [name.strip(" '\"") for name in inner.split(",")] if inner else [] if listed else [value]
    known = isinstance(names, list | tuple | set | frozenset) and set(map(str, names)).issubset(get_args(Rerun))
    if not known or ("nothing" in names and len(names) > 1):
        raise SegmindConfigError(
            f"'rerun' is {value!r}; it must be 'unbilled', 'dead_letters', 'nothing', or a list of outcomes without an "
            f"answer: {', '.join(map(repr, DEAD_LETTERS))}."
        )
    chosen = set(names) - {"dead_letters", "nothing"}
    return frozenset(chosen.union(DEAD_LETTERS) if "dead_letters" in names else chosen)


def check_schema(name: str, schema: Any) -> None:
    """Check a JSON Schema; a path is read when the task runs."""
    if isinstance(schema, str) or is_path(schema) or contains_later(schema):
        return
    if not isinstance(schema, Mapping):
        raise SegmindConfigError(f"{name!r} is {type_name(schema)}; it must be a JSON Schema or the path of one.")
    from airflow_provider_segmind.chat.json_schema import check_json_schema

    check_json_schema(schema, repr(name))


def load_schema(name: str, schema: Mapping[str, Any] | str | AnyPath) -> Mapping[str, Any]:
    """Return a schema, read from its path (any ObjectStoragePath URI) if one is given."""
    if isinstance(schema, Mapping):
        return schema
    schema = path_text(schema)
    from airflow_provider_segmind.compat import ObjectStoragePath, with_root

    try:
        loaded = json.loads(ObjectStoragePath(with_root(schema)).read_text())
    except FileNotFoundError as error:
        raise SegmindConfigError(f"{name!r} is {schema!r}, but there is no such file. Nothing was sent.") from error
    except (ValueError, RecursionError) as error:
        raise SegmindConfigError(f"{name!r} is {schema!r}, which is not JSON. Nothing was sent.") from error
    check_schema(name, loaded)
    return dict(loaded)


def validate_inputs(inputs: Mapping[str, Any], schema: Mapping[str, Any], name: str = "'inputs_schema'") -> None:
    """
    Validate the body against a schema before anything is paid.

    :raises SegmindConfigError: it is invalid; the message names the place and the rule, never the value.
    """
    from referencing.exceptions import Unresolvable

    from airflow_provider_segmind.chat.json_schema import schema_validator

    try:
        problems = sorted(schema_validator(schema).iter_errors(inputs), key=lambda problem: problem.json_path)
    except Unresolvable as error:
        raise SegmindConfigError(
            f"{name} refers to {shorten(repr(error.ref))}, which it does not contain; put it under '$defs'. "
            "Nothing was sent."
        ) from error
    except re.error as error:
        raise SegmindConfigError(
            f"{name} has a 'pattern' that is not a regular expression ({error}). Nothing was sent."
        ) from error
    except RecursionError as error:
        raise SegmindConfigError(
            f"'inputs' cannot be validated: they, or {name}, are nested too deeply. Nothing was sent."
        ) from error
    if problems:
        shown = "; ".join(f"{problem.json_path} violates {_rule(problem)}" for problem in problems[:3])
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise SegmindConfigError(f"'inputs' do not match {name}: {shown}{more}. Nothing was sent or billed.")


def _rule(problem: Any) -> str:
    return f"{problem.validator!r}: {shorten(json.dumps(problem.validator_value, default=str))}"


def parse_json(name: str, text: str) -> Any:
    """Decode a string of JSON that a template rendered."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SegmindConfigError(
            f"{name!r} is a string that is not JSON: end its template with '| tojson', or set "
            "render_template_as_native_obj on the DAG. Nothing was sent."
        ) from error


def as_inputs(value: Any) -> Mapping[str, Any]:
    """Return rendered ``inputs``: an object, or a string of JSON that contains one."""
    inputs: Mapping[str, Any] = parse_json("inputs", value) if isinstance(value, str) else value
    check_inputs(inputs)
    return inputs


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """The messages of a chat request; see :class:`~airflow_provider_segmind.operators.chat.SegmindChatOperator`."""

    prompt: Any = None
    system: Any = None
    messages: Any = None
    files: Any = None


def check_request_id(request_id: Any) -> None:
    """Check that a request id is given."""
    if request_id in (None, ""):
        raise SegmindConfigError(f"'request_id' is {request_id!r}; it must be an id or the output of a submit task.")


def check_question(*, prompt: Any, system: Any, messages: Any, files: Any) -> None:
    """Check what is sent to a chat model; values that are known only at run time are skipped."""
    if prompt is None and messages is None:
        raise SegmindConfigError("'prompt' is missing: give prompt, or messages.")
    for name, text in (("prompt", prompt), ("system", system)):
        if text is not None and not is_given_later(text):
            check_nonempty(name, text)
    if isinstance(messages, Mapping):
        from airflow_provider_segmind.chat.messages import check_native_messages

        known = {"contents": [{}]} if contains_later(messages) else messages
        check_native_messages(known, prompt=prompt, system=system, files=files)
    elif messages is not None and not contains_later(messages):
        from airflow_provider_segmind.chat.messages import read_messages

        read_messages("?" if is_given_later(prompt) else prompt, messages)
    if files is not None and not is_given_later(files):
        check_files(files)


def check_request(*, model: Any, api_format: Any, options: Any, output_type: Any) -> None:
    """Check the form of a chat request and of its reply."""
    if not is_given_later(api_format) and (api_format is not None or (model is not None and not is_given_later(model))):
        from airflow_provider_segmind.chat.model_families import family_of

        family_of(model, api_format)
    if options is not None and not contains_later(options):
        from airflow_provider_segmind.chat.messages import check_options

        check_options(options)
    if output_type is not None and not is_given_later(output_type):
        read_output_type(output_type)
        if isinstance(options, Mapping) and "response_format" in options:
            raise SegmindConfigError("options.response_format and output_type exclude each other: give one of them.")


def check_multiple_outputs(multiple_outputs: Any, output_type: Any) -> None:
    """
    Check that an answer has the keys that ``multiple_outputs`` pushes.

    Airflow raises an error for anything but an object, and with it drops the answer, which is paid for by then.
    """
    if not multiple_outputs or is_given_later(output_type):
        return
    read = read_output_type(output_type)
    if read is None or read.wrapped:
        raise SegmindConfigError(
            "'multiple_outputs' needs an answer that is an object: give an output_type with fields. Nothing was sent."
        )


def check_repairs(max_repairs: Any) -> None:
    """Check how many follow-ups an answer may take."""
    check_number("max_repairs", max_repairs, zero=True)
    if not isinstance(max_repairs, int) and not is_given_later(max_repairs):
        raise SegmindConfigError(f"'max_repairs' is {max_repairs!r}; it must be a whole number.")


def read_output_type(output_type: Any) -> OutputType | None:
    """Return the type that the reply must have."""
    if output_type is None:
        return None
    from airflow_provider_segmind.chat.output_type import OutputType

    return OutputType.from_(output_type)


def without_bytes(files: Any) -> Any:
    """Wrap bytes, which Airflow would otherwise store in the rendered fields."""
    if not isinstance(files, list | tuple) or not any(isinstance(file, bytes) for file in files):
        return files
    from airflow_provider_segmind.chat.attachments import load_attachment

    return [
        load_attachment(file, read=_read_nothing, max_inline_bytes=None, field_name=f"files[{index}]")
        if isinstance(file, bytes)
        else file
        for index, file in enumerate(files)
    ]


def check_nonempty(name: str, value: Any) -> None:
    """Check a string that must not be empty."""
    if not isinstance(value, str) or not value.strip():
        from airflow_provider_segmind.chat.messages import check_string

        check_string(value, repr(name))


def check_files(files: Any) -> None:
    """Check the attachments of a chat request."""
    if not isinstance(files, list | tuple):
        raise SegmindConfigError(f"'files' is {type_name(files)}; it must be a list of paths, URLs or bytes.")
    for index, file in enumerate(files):
        if is_given_later(file):
            continue
        if isinstance(file, str | bytes) or is_path(file):
            if not file:
                raise SegmindConfigError(f"'files[{index}]' is empty.")
            continue
        from airflow_provider_segmind.chat.attachments import Attachment

        if not isinstance(file, Attachment):
            raise SegmindConfigError(f"'files[{index}]' is {type_name(file)}; it must be a path, a URL or bytes.")


def _read_nothing(path: str) -> bytes:
    raise AssertionError(path)


class TableRows:
    """A wrapper for rows that are Python objects; it keeps Airflow from rendering, printing and storing them."""

    def __init__(self, rows: Any) -> None:
        self.given = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.given)

    def __repr__(self) -> str:
        return "<rows of a table>"

    @classmethod
    def hide(cls, source: Any) -> Any:
        """Wrap a source that contains rows; paths and values that are only known later are returned unchanged."""
        if isinstance(source, cls) or _is_path(source) or is_given_later(source):
            return source
        if isinstance(source, list | tuple) and all(_is_path(item) or is_given_later(item) for item in source):
            return source
        return cls(source)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) or is_path(value)


def check_key(key: Any) -> None:
    """Check the columns that identify a row."""
    if not contains_later(key):
        names = [key] if isinstance(key, str) else key
        if not isinstance(names, list | tuple) or not names or not all(isinstance(one, str) and one for one in names):
            raise SegmindConfigError(f"'key' is {key!r}; it must name at least one column.")


def check_source(source: Any) -> None:
    """Check where the rows of a file come from."""
    if source is None or isinstance(source, bytes | Mapping) or not (is_given_later(source) or _is_rows(source)):
        raise SegmindConfigError(f"'source' is {type_name(source)}; it must be a path or a list of rows.")


def _is_rows(source: Any) -> bool:
    return _is_path(source) or hasattr(source, "__iter__")


def check_output_path(output_path: Any, source: Any = None) -> None:
    """Check where the answers of a file are written; the file's name determines its format."""
    if is_given_later(output_path):
        return
    from airflow_provider_segmind.enrichment.files.readers import known_kind

    check_path("output_path", output_path)
    known_kind(path_text(output_path).rpartition("/")[2])
    if _is_path(source) and path_text(source) == path_text(output_path):
        raise SegmindConfigError("'output_path' is the source itself: its rows would be lost.")


def check_row_question(
    *, prompt: Any, system: Any, inputs: Any, options: Any, api_format: Any, model: Any, files: Any = None
) -> None:
    """Check what is sent for each row; values that are known only at run time are skipped."""
    if inputs is not None:
        others = {"prompt": prompt, "system": system, "files": files, "options": options, "api_format": api_format}
        for name, value in others.items():
            if value is not None:
                raise SegmindConfigError(f"{name!r} cannot be combined with 'inputs', which is the whole body.")
        check_inputs(inputs)
    else:
        check_question(prompt=prompt, system=system, messages=None, files=files)
        check_row_files(files)
        check_request(model=model, api_format=api_format, options=options, output_type=None)
    if not any(contains_later(value) for value in (prompt, system, inputs, files)):
        check_placeholders(prompt, system, inputs, files)


def check_row_files(files: Any) -> None:
    """Check the attachments of each row."""
    for index, file in enumerate(files if isinstance(files, list | tuple) else ()):
        if not isinstance(file, str) and not is_path(file) and not is_given_later(file):
            raise SegmindConfigError(
                f"'files[{index}]' is {type_name(file)}; it must be a path or URL, with {{column}} placeholders."
            )


def check_placeholders(prompt: Any, system: Any, inputs: Any, files: Any = None) -> None:
    """Check that a request depends on its row."""
    from airflow_provider_segmind.enrichment.rows import placeholders

    paths = [path_text(file) if is_path(file) else file for file in files or ()]
    if not placeholders([prompt, system, inputs, paths]):
        name = "inputs" if inputs is not None else "prompt"
        raise SegmindConfigError(
            f"{name!r} has no {{column}} placeholder: the same request would be sent for every row. Braces in an "
            "f-string are replaced when the DAG is parsed. Nothing was sent."
        )


def check_answers(*, output_type: Any, key: Any, max_repairs: Any) -> None:
    """Check the answers of an enrichment, and that no two columns of its output have the same name."""
    check_repairs(max_repairs)
    keys = () if contains_later(key) else (key,) if isinstance(key, str) else tuple(key)
    answers = () if is_given_later(output_type) else answer_columns(read_output_type(output_type))
    for argument, names in (("key", keys), ("output_type", answers)):
        if ours := [name for name in names if name.startswith(OWN_PREFIX)]:
            raise SegmindConfigError(
                f"{argument!r} names {ours[0]!r}, but names that begin with {OWN_PREFIX!r} are reserved for columns of "
                "the output: rename it."
            )
    if not is_given_later(output_type) and (both := sorted({*keys}.intersection(answers))):
        raise SegmindConfigError(f"{both} are both key columns and answer columns: rename the answer columns.")


def check_run_limits(*, max_cost: Any, max_rows: Any, max_failed_rows: Any, sample: Any) -> None:
    """Check the limits of an enrichment."""
    for name, value in (("max_cost", max_cost), ("max_failed_rows", max_failed_rows)):
        if value is not None:
            check_number(name, value, zero=True)
    for name, value in (("max_rows", max_rows), ("sample", sample)):
        if value is not None:
            check_count(name, value)
    if isinstance(max_failed_rows, float) and max_failed_rows > 1:
        raise SegmindConfigError(f"'max_failed_rows' is {max_failed_rows!r}, a share above 1; give an int for a count.")


def check_notes(notes: Any) -> None:
    """Check the notes, which are copied into the manifest; it must stay small enough for XCom."""
    if notes is None or contains_later(notes):
        return
    if not isinstance(notes, Mapping) or not all(isinstance(name, str) for name in notes):
        raise SegmindConfigError(f"'notes' is {type_name(notes)}; it must map names to strings.")
    length = sum(len(name) + len(str(note)) for name, note in notes.items())
    if length > MOST_NOTES:
        raise SegmindConfigError(f"'notes' has {length:,} characters; at most {MOST_NOTES:,} are allowed.")


def check_count(name: str, value: Any) -> None:
    """Check an integer of at least 1."""
    if not is_given_later(value) and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise SegmindConfigError(f"{name!r} is {value!r}; it must be a whole number of at least 1.")


def check_shard(index: Any, count: Any) -> None:
    """Check which shard of the rows is processed."""
    check_count("shard_count", count)
    if is_given_later(index) or is_given_later(count):
        return
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
        raise SegmindConfigError(f"'shard_index' is {index!r}; it must be from 0 to shard_count - 1 ({count - 1}).")


def answer_columns(output_type: OutputType | None) -> tuple[str, ...]:
    """Return the columns of an answer: the fields of an object, else a single column."""
    return tuple(properties_of(output_type)) or (ANSWER_COLUMN,)


def properties_of(output_type: OutputType | None) -> Mapping[str, Any]:
    """Return the fields of a type with their JSON Schemas; none for a string, a list, or an object of any fields."""
    return {} if output_type is None else output_type.fields


def check_sql_target(sql: Any, target_table: Any) -> None:
    """Check the source and the target of a database table; values that are known only at run time are skipped."""
    for name, value in (("sql", sql), ("target_table", target_table)):
        if not is_given_later(value) and (not isinstance(value, str) or not value.strip()):
            raise SegmindConfigError(f"{name!r} is {value!r}; it must be a string.")
    from airflow_provider_segmind.enrichment.sql.dialects import TableName

    if not is_given_later(target_table):
        TableName.parse(target_table, "target_table")


def check_reuse(reuse_answers: Any, answers_path: Any) -> None:
    """Check when answers that were paid for before are used, and where they are kept."""
    check_path("answers_path", answers_path, none=True)
    given = is_given_later(reuse_answers) or reuse_answers in get_args(ReuseAnswers)
    if not given and not (isinstance(reuse_answers, timedelta) and reuse_answers >= timedelta(0)):
        raise SegmindConfigError(
            f"'reuse_answers' is {reuse_answers!r}; it must be 'never', 'always', or a timedelta of at least 0: the "
            "age up to which an answer is used."
        )
