"""A table in files: where the rows of a task come from, and where its answers go."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from airflow_provider_segmind.arguments import TableRows, _is_path, check_output_path, path_text
from airflow_provider_segmind.defaults import LEDGER_FOLDER
from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.files.readers import cannot_be_read
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.output import land
from airflow_provider_segmind.enrichment.rehearsal import check_apart, check_format, check_writable
from airflow_provider_segmind.enrichment.storage import StorePath
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindError, shorten

if TYPE_CHECKING:
    from airflow_provider_segmind.enrichment.settings import KeyedTarget, Question
    from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator, SegmindEnrichOperator


def locate(path: Any) -> StorePath:
    """Return a path in the store that its URI names; what a remote store needs of Airflow is fetched here."""
    from airflow_provider_segmind.compat import ObjectStoragePath
    from airflow_provider_segmind.enrichment.storage import store_path

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
    from airflow_provider_segmind.enrichment.files.readers import open_source

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
    from airflow_provider_segmind.enrichment.files.readers import rows_in

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

    def check_refused(self) -> None:
        """
        Do nothing unless the target refused rows in :meth:`land`.

        :raises SegmindEnrichmentError: it did; the other rows are written, and so are dead letters and manifest.
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
        """
        Read the source to its end.

        :raises SegmindError: it breaks before.
        """
        try:
            for _ in self._rows:
                rows_read += 1
        except SegmindError:
            raise
        except Exception as error:
            # Whatever yields the rows may raise anything; those of the sample are paid for and written.
            raise cannot_be_read(error, f"The source, after {rows_read} rows,") from error
        return rows_read

    def land(self, engine: Engine, each: Each | None) -> Manifest:
        """Write the file of answers, the dead letters and the manifest beside it."""
        manifest = land(engine, output=self.output, dead_letters=self._dead_letters, each=each)
        manifest.write(self.manifest_path)
        return manifest

    def check_refused(self) -> None:
        """Do nothing: a file takes every row."""

    def close(self) -> None:
        """Do nothing: files close where they end."""


def path_of_part(path: StorePath, task: SegmindEnrichOperator) -> StorePath:
    """Return the path of what a shard, or a sample, writes of its own."""
    if task.shard_count > 1:
        path = beside(path, f"{task.shard_index}-of-{task.shard_count}")
    return path if task.sample is None else beside(path, "sample")
