"""
Files beside the question about a row: templates say where they are, and they are loaded when the row is read.

What stands in a row decides which file is read, so a row may not reach what its DAG's author did not mean: it cannot
leave the folder that a template begins with, a template that begins with a placeholder reaches no file of the worker
itself, and which Connection opens a store is never for a row to say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from airflow_provider_segmind.api.families import ApiFormat
from airflow_provider_segmind.api.files import MAX_INLINE_BYTES, FilePart, file_block, load_file
from airflow_provider_segmind.bulk.rows import Row
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindRowError, shorten
from airflow_provider_segmind.operators.tables import locate

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_OF_THE_WORKER = ("", "file", "local")
_UNREADABLE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


class RowFiles:
    """
    The files of each row.

    :param templates: paths, object storage URIs or http(s) addresses, with ``{column}`` placeholders.
    :param family: the form in which the model takes files.
    :param limit: bytes of the largest file that may travel inside a request.
    """

    def __init__(self, templates: Sequence[str], family: ApiFormat, *, limit: int = MAX_INLINE_BYTES) -> None:
        self._templates = tuple(templates)
        self._family = family
        self._limit = limit
        self._fixed: dict[str, FilePart] = {}

    def load(self, row: Row) -> list[FilePart]:
        """
        Load the files of a row; http(s) addresses are left to the model's provider. Blocks.

        :raises SegmindRowError: one is missing, too large, or of a type the model does not take. Nothing was sent.
        :raises SegmindConfigError: a column is missing; names it.
        :raises OSError: a store cannot be reached, which is not the same as a missing file.
        """
        return [self._load(row, f"files[{index}]", template) for index, template in enumerate(self._templates)]

    def _load(self, row: Row, name: str, template: str) -> FilePart:
        if template not in self._fixed:
            part = self._loaded(row, name, template)
            if _PLACEHOLDER.search(template):
                return part
            self._fixed[template] = part
        return self._fixed[template]

    def _loaded(self, row: Row, name: str, template: str) -> FilePart:
        whole = _PLACEHOLDER.fullmatch(template)
        value = row.values.get(whole[1]) if whole else None
        source = bytes(value) if isinstance(value, bytes | bytearray | memoryview) else row.fill(template)
        try:
            part = load_file(
                source,
                read=lambda address: self._read(address, name, template),
                max_inline_bytes=self._limit,
                field_name=name,
            )
            # A byte stands for the file, which need not be encoded to see whether its type is taken.
            file_block(part if part.data is None else replace(part, data=b"."), self._family)
        except SegmindConfigError as error:
            raise SegmindRowError(f"{error} Nothing was sent for this row.") from error
        return part

    def _read(self, address: str, name: str, template: str) -> bytes:
        _check_reach(address, name, template)
        try:
            path = locate(address)
        except ValueError as error:
            raise SegmindRowError(
                f"{name} is in no store that Airflow knows here: {shorten(str(error), 80)}."
            ) from error
        shown = f"{name} ({shorten(path.name, 80)!r})"
        try:
            with path.open("rb") as file:
                # One byte more than may be sent tells that it is too large, however large it is.
                data: bytes = file.read(self._limit + 1)
        except _UNREADABLE as error:
            why = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read: {type(error).__name__}"
            raise SegmindRowError(f"{shown} {why}.") from error
        if len(data) > self._limit:
            raise SegmindRowError(
                f"{shown} has more than the {self._limit} bytes that may travel inside a request: give its http(s) "
                "address, or make it smaller."
            )
        return data


def _check_reach(address: str, name: str, template: str) -> None:
    """
    Check that a row names no file but those its template is for.

    :raises SegmindRowError: it does.
    """
    if not _PLACEHOLDER.search(template):
        return
    if ".." in re.split(r"[/\\]", address):
        raise SegmindRowError(f"{name} leaves its folder by '..'.")
    scheme = address.partition("://")[0].lower() if "://" in address else ""
    if "@" in address.partition("://")[2].partition("/")[0] and "@" not in _PLACEHOLDER.split(template)[0]:
        raise SegmindRowError(f"{name} names a Connection, which a row may not: write it into the template.")
    if _PLACEHOLDER.match(template) and scheme in _OF_THE_WORKER:
        raise SegmindRowError(
            f"{name} names a file of the worker itself, which a row may not: write its folder into the template, as in "
            "files=['/data/photos/{name}']."
        )
