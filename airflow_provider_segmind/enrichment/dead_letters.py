"""
The content of a dead letter: one JSON line for each row without an answer.

Runs write them beside their output; the report, the page and the command read them. The names of the fields do not
change, because files of older runs are read as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.enrichment.files.writers import open_sink
from airflow_provider_segmind.enrichment.storage import StorePath
from airflow_provider_segmind.exceptions import SegmindConfigError

ROW = "row"
"""The field with the row's number, by which the files of shards are put in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """
    A row without an answer.

    :param row: its number in the source, from 0.
    :param key: its key columns.
    :param outcome: any but ``success``.
    :param reason: why there is no answer, with the reason that Segmind gave, if any.
    :param attempts: how many requests were submitted for it.
    :param request_ids: those requests.
    :param cost: USD billed for it, None for a row that shares the request of an earlier one.
    :param fingerprint: in hex, None for a row that could not be sent.
    """

    row: int
    key: Mapping[str, Any]
    outcome: str
    reason: str
    attempts: int = 0
    request_ids: Sequence[str] = ()
    cost: float | None = None
    fingerprint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the line that is written."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> DeadLetter:
        """
        Read a line; fields that a later version may have added are ignored.

        :raises SegmindConfigError: it is not a dead letter.
        """
        fields: dict[str, Any] = {name: line[name] for name in cls.__slots__ if name in line}
        try:
            return cls(**fields)
        except TypeError as error:
            missing = ", ".join(name for name in ("row", "key", "outcome", "reason") if name not in line)
            raise SegmindConfigError(f"This is not a dead-letter file: a line has no {missing}.") from error


WriteLetter: TypeAlias = Callable[[DeadLetter], None]


def open_letters(path: StorePath | None) -> AbstractContextManager[WriteLetter]:
    """Open a JSONL file, which appears when the block ends and never when it fails; without a path write nothing."""
    return nullcontext(lambda _: None) if path is None else _open(path)


@contextmanager
def _open(path: StorePath) -> Iterator[WriteLetter]:
    with open_sink(path, ()) as write:
        yield lambda letter: write(letter.to_json())


def read_letters(path: StorePath) -> Iterator[DeadLetter]:
    """
    Yield the dead letters of a file, in the order of the source.

    :raises SegmindConfigError: it is missing, or is not a file of dead letters.
    """
    for line in open_source(path):
        yield DeadLetter.from_json(line)
