"""
Where the rows of a table task come from and go to, and its arguments, checked at DAG parse.

Every DAG parse imports this module, so the core is imported where an argument needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_segmind.arguments import (
    check_inputs,
    check_number,
    check_path,
    holds_later,
    is_given_later,
    is_path,
    path_text,
)
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindError, shorten
from airflow_provider_segmind.operators import questions

if TYPE_CHECKING:
    from airflow_provider_segmind.api.structured import OutputType
    from airflow_provider_segmind.bulk.storage import StorePath

OnPartial = Literal["fail", "succeed", "skip_downstream"]
OnUnknownRow = Literal["leave", "resubmit"]
Rerun = Literal["unbilled", "dead_letters", "nothing"]

ANSWER_COLUMN = "answer"
"""Where an answer stands that is no object with named fields."""
LEDGER_FOLDER = "_segmind_ledger"


class TableRows:
    """Rows given as such. Airflow renders, prints and stores what a templated field holds, but not what is in here."""

    def __init__(self, rows: Any) -> None:
        self.given = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.given)

    def __repr__(self) -> str:
        return "<rows of a table>"

    @classmethod
    def hide(cls, source: Any) -> Any:
        """Wrap a source that holds rows; a path, paths, and what is only known later stay as they are."""
        if isinstance(source, cls) or _is_path(source) or is_given_later(source):
            return source
        if isinstance(source, list | tuple) and all(_is_path(item) or is_given_later(item) for item in source):
            return source
        return cls(source)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) or is_path(value)


def check_key(key: Any) -> None:
    """
    Check at parse time which columns name a row.

    :raises SegmindConfigError: none do.
    """
    if not holds_later(key):
        names = [key] if isinstance(key, str) else key
        if not isinstance(names, list | tuple) or not names or not all(isinstance(one, str) and one for one in names):
            raise SegmindConfigError(f"'key' is {key!r}; it must name at least one column.")


def check_places(*, source: Any, output_path: Any) -> None:
    """
    Check at parse time where the rows of a file come from and where answers go.

    :raises SegmindConfigError: it cannot work; names the field.
    """
    if source is None or isinstance(source, bytes | Mapping):
        raise SegmindConfigError(f"'source' is a {type(source).__name__}: it must be a path, or a list of rows.")
    check_output_path(output_path)
    if _is_path(source) and _is_path(output_path) and path_text(source) == path_text(output_path):
        raise SegmindConfigError("'output_path' is the source itself: its rows would be lost.")


def check_output_path(output_path: Any) -> None:
    """
    Check at parse time where answers go.

    :raises SegmindConfigError: it is no path, or its name does not say the format.
    """
    if is_given_later(output_path):
        return
    from airflow_provider_segmind.bulk.formats import known_kind

    check_path("output_path", output_path)
    known_kind(path_text(output_path).rpartition("/")[2])


def check_question(
    *, prompt: Any, system: Any, inputs: Any, options: Any, api_format: Any, model: Any, files: Any = None
) -> None:
    """
    Check at parse time what is asked, as far as it is known.

    :raises SegmindConfigError: it cannot work; names the field.
    """
    if inputs is not None:
        others = {"prompt": prompt, "system": system, "files": files, "options": options, "api_format": api_format}
        for name, value in others.items():
            if value is not None:
                raise SegmindConfigError(
                    f"{name!r} cannot join 'inputs', which are the whole body: write it into them."
                )
        check_inputs(inputs)
    else:
        questions.check_question(prompt=prompt, system=system, messages=None, files=files)
        check_files(files)
        questions.check_request(model=model, api_format=api_format, options=options, output_type=None)
    if not any(holds_later(value) for value in (prompt, system, inputs, files)):
        check_placeholders(prompt, system, inputs, files)


def check_files(files: Any) -> None:
    """
    Check at parse time where the files of each row are.

    :raises SegmindConfigError: one is no text, so that it could not be about the row.
    """
    for index, file in enumerate(files if isinstance(files, list | tuple) else ()):
        if not isinstance(file, str) and not is_given_later(file):
            raise SegmindConfigError(
                f"'files[{index}]' is a {type(file).__name__}; it must be a path or an address, with {{column}} "
                "placeholders."
            )


def check_placeholders(prompt: Any, system: Any, inputs: Any, files: Any = None) -> None:
    """
    Check that the question is one about the row.

    :raises SegmindConfigError: it names no column, so that every row would get the same answer.
    """
    from airflow_provider_segmind.bulk.rows import placeholders

    if not placeholders([prompt, system, inputs, files]):
        name = "inputs" if inputs is not None else "prompt"
        raise SegmindConfigError(
            f"{name!r} has no {{column}} placeholder: every row would be asked the same. Braces in an f-string are "
            "filled when the DAG is parsed. Nothing was sent."
        )


def check_answers(*, output_type: Any, key: Any, max_repairs: Any) -> None:
    """
    Check at parse time what comes back.

    :raises SegmindConfigError: it cannot work; names the field.
    """
    questions.check_limits(max_repairs=max_repairs, max_inline_bytes=None)
    if is_given_later(output_type) or holds_later(key):
        return
    both = {key} if isinstance(key, str) else set(key) if isinstance(key, list | tuple) else set()
    both &= set(answer_columns(questions.read_output_type(output_type)))
    if both:
        raise SegmindConfigError(f"{sorted(both)} are key columns and answer columns at once: rename one of them.")


def check_limits(*, max_cost: Any, max_rows: Any, max_failed_rows: Any, sample: Any) -> None:
    """
    Check what a run may use up.

    :raises SegmindConfigError: one is no number, or none that makes sense.
    """
    for name, value in (("max_cost", max_cost), ("max_failed_rows", max_failed_rows)):
        if value is not None:
            check_number(name, value, zero=True)
    for name, value in (("max_rows", max_rows), ("sample", sample)):
        if value is not None:
            check_count(name, value)
    if isinstance(max_failed_rows, float) and max_failed_rows > 1:
        raise SegmindConfigError(f"'max_failed_rows' is {max_failed_rows!r}, a share above 1: give an int for a count.")


def check_count(name: str, value: Any) -> None:
    """
    Check a whole number of at least 1.

    :raises SegmindConfigError: it is none.
    """
    if not is_given_later(value) and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise SegmindConfigError(f"{name!r} is {value!r}; it must be a whole number of at least 1.")


def check_shard(index: Any, count: Any) -> None:
    """
    Check which share of the rows is asked about.

    :raises SegmindConfigError: there is no such shard.
    """
    check_count("shard_count", count)
    if is_given_later(index) or is_given_later(count):
        return
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
        raise SegmindConfigError(f"'shard_index' is {index!r}; it must be from 0 to shard_count - 1 ({count - 1}).")


def answer_columns(output_type: OutputType | None) -> tuple[str, ...]:
    """Return the columns of an answer: the fields of an object, else one."""
    return fields_of(output_type) or (ANSWER_COLUMN,)


def fields_of(output_type: OutputType | None) -> tuple[str, ...]:
    """Return the fields that a type names; none for a text, a list, or an object of free names."""
    return tuple(properties_of(output_type))


def properties_of(output_type: OutputType | None) -> Mapping[str, Any]:
    """Return the fields that a type names, each with its JSON Schema."""
    return {} if output_type is None else output_type.fields


def locate(path: Any) -> StorePath:
    """Return a path in the store that its URI names; what a remote store needs of Airflow is fetched here."""
    from airflow_provider_segmind.bulk.storage import store_path
    from airflow_provider_segmind.compat import ObjectStoragePath

    text = path_text(path)
    found = store_path(ObjectStoragePath(text) if "://" in text else text)
    # The engine's threads must not be the first to ask Airflow for the store's connection.
    getattr(found, "fs", None)
    return found


def locate_named(name: str, path: Any) -> StorePath:
    """
    Return the path that an argument names.

    :raises SegmindConfigError: it is in no store that is known here. Nothing was sent.
    """
    try:
        return locate(path)
    except (ValueError, ImportError) as error:
        raise SegmindConfigError(
            f"{name!r} is {path_text(path)!r}, in no store that Airflow knows here: {shorten(str(error))}. Nothing was "
            "sent."
        ) from error


def beside(path: StorePath, mark: str, *, ending: str | None = None) -> StorePath:
    """Return the path of a file beside a table, named after it."""
    match = re.fullmatch(r"(.*?)((?:\.[A-Za-z]+)(?:\.gz)?)", path.name)
    stem, own = (match[1], match[2]) if match else (path.name, "")
    return path.parent / f"{stem}.{mark}{own if ending is None else ending}"


def table_rows(source: Any, columns: frozenset[str] | None = None) -> Iterator[Mapping[str, Any]]:
    """
    Return the rows of a source.

    :param columns: those that are asked about; a format that can leave out the others does not decode them.
    :raises SegmindConfigError: it is no table.
    """
    from airflow_provider_segmind.bulk.sources import open_source

    if _is_path(source):
        return open_source(locate_named("source", source), columns)
    if source is None or isinstance(source, bytes | Mapping) or not hasattr(source, "__iter__"):
        raise SegmindConfigError(f"'source' is a {type(source).__name__}: it must be a path, or a list of rows.")
    return open_source((locate_named("source", item) if _is_path(item) else item for item in source), columns)


def source_paths(source: Any) -> list[StorePath]:
    """Return the paths that a source names; a sequence that Airflow fetches item by item is not searched."""
    items = source.given if isinstance(source, TableRows) else source
    if _is_path(items):
        return [locate_named("source", items)]
    return [locate_named("source", item) for item in items if _is_path(item)] if isinstance(items, list | tuple) else []


def table_size(source: Any) -> int | None:
    """Return how many rows a source has, None when only reading it to its end, which may fail, would tell."""
    from airflow_provider_segmind.bulk.sources import rows_in

    items = source.given if isinstance(source, TableRows) else source
    try:
        if _is_path(items):
            return rows_in(locate_named("source", items))
        if isinstance(items, list | tuple):
            return rows_in([locate_named("source", item) if _is_path(item) else item for item in items])
    except (SegmindError, OSError):
        # Whoever reads the rows meets the same, and says so.
        return None
    return None
