"""Where the rows of a table task come from, and where its answers go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from airflow_provider_segmind.bulk.engine import Engine
from airflow_provider_segmind.bulk.manifest import Manifest
from airflow_provider_segmind.bulk.output import land
from airflow_provider_segmind.bulk.rehearsal import check_apart, check_format, check_writable
from airflow_provider_segmind.bulk.storage import StorePath
from airflow_provider_segmind.operators.tables import (
    LEDGER_FOLDER,
    beside,
    check_output_path,
    locate_named,
    source_paths,
    table_rows,
    table_size,
)

if TYPE_CHECKING:
    from airflow_provider_segmind.bulk.plan import KeyedTarget, Question
    from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
    from airflow_provider_segmind.operators.enrich_rows import SegmindEnrichOperator

Each: TypeAlias = Callable[[Mapping[str, Any]], None]


class Ends(Protocol):
    """
    What a table task needs to know of its table. Made in the task's main thread, for one try.

    An object that opens something opens it no earlier than when it is asked for it.
    """

    @property
    def ledger(self) -> StorePath:
        """The folder of the ledger."""

    @property
    def address(self) -> str:
        """Where the answers are, for the link in the UI."""

    @property
    def manifest_path(self) -> StorePath:
        """Where the manifest is written; its name ends with ``.manifest.json``."""

    def total(self) -> int | None:
        """Return how many rows the source has, None when that is not known without reading it. For the display only."""

    def prepare(self, *, dry: bool) -> KeyedTarget | None:
        """
        Make sure that answers can be written, and return what the target says of rows, if it has a say. Blocks.

        :param dry: change nothing.
        :raises SegmindConfigError: they cannot. Nothing was sent.
        """

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """
        Return the rows of the source, one after the other; read in the engine's threads.

        :raises SegmindConfigError: there is no such table.
        """

    def count(self, rows_read: int) -> int:
        """Return how many rows the source has, when so many of :meth:`rows` were read."""

    def land(self, engine: Engine, each: Each | None) -> Manifest:
        """
        Write every row read with its outcome, the dead letters and the manifest. It can be done again.

        :param engine: it has run.
        :param each: is called with the columns of every row.
        """

    def close(self) -> None:
        """Close what is open, however the try ended."""


class FileEnds:
    """
    A file of rows, and a file of answers.

    :param task: the operator, its fields rendered.
    :param question: what is asked of each row.
    """

    def __init__(self, task: SegmindEnrichFileOperator, question: Question) -> None:
        check_output_path(task.output_path)
        self.output = path_of_part(locate_named("output_path", task.output_path), task)
        named = task.ledger_path
        self.ledger = locate_named("ledger_path", named) if named else self.output.parent / LEDGER_FOLDER
        self._dead_letters = beside(self.output, "dead_letters", ending=".jsonl")
        self._source = task.source
        self._rows = table_rows(task.source, question.columns)

    @property
    def address(self) -> str:
        """The file of answers."""
        return str(self.output)

    @property
    def manifest_path(self) -> StorePath:
        """Beside the file of answers."""
        return beside(self.output, "manifest", ending=".json")

    def total(self) -> int | None:
        """Tell from a list, or from what Parquet files say of themselves."""
        return table_size(self._source)

    def prepare(self, *, dry: bool) -> None:
        """Make sure that the files can be written at the end, and are none that the run reads."""
        check_format(self.output)
        check_apart((self.output, self._dead_letters), self.ledger, source_paths(self._source))
        check_writable("output_path", (self.output, self._dead_letters, self.manifest_path), dry=dry)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Return the rows of the source."""
        return self._rows

    def count(self, rows_read: int) -> int:
        """Read the source to its end."""
        return rows_read + sum(1 for _ in self._rows)

    def land(self, engine: Engine, each: Each | None) -> Manifest:
        """Write the file of answers, the dead letters and the manifest beside it."""
        manifest = land(engine, output=self.output, dead_letters=self._dead_letters, each=each)
        manifest.write(self.manifest_path)
        return manifest

    def close(self) -> None:
        """Do nothing: files close where they end."""


def path_of_part(path: StorePath, task: SegmindEnrichOperator) -> StorePath:
    """Return the path of what a shard, or a sample, writes of its own."""
    if task.shard_count > 1:
        path = beside(path, f"{task.shard_index}-of-{task.shard_count}")
    return path if task.sample is None else beside(path, "sample")
