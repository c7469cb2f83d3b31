"""A table in files: the reader of its rows, and the writer of its answers."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_segmind.arguments import TableRows, _is_path, check_output_path, check_source, path_text
from airflow_provider_segmind.defaults import LEDGER_FOLDER
from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.files.readers import (
    cannot_be_read,
    check_names,
    kind_of,
    open_source,
    rows_in,
)
from airflow_provider_segmind.enrichment.files.writers import check_apart, check_format, check_writable
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.output import merge_dead_letters, merge_outputs, write_output
from airflow_provider_segmind.enrichment.report.history import (
    MANIFEST_ENDING,
    earlier_runs,
    example_keys,
    mapped_sibling,
    other_output,
)
from airflow_provider_segmind.enrichment.report.page import write_report
from airflow_provider_segmind.enrichment.storage import StorePath
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindError, shorten
from airflow_provider_segmind.stores import locate
from airflow_provider_segmind.wording import counted

if TYPE_CHECKING:
    from airflow_provider_segmind.enrichment.question import Question
    from airflow_provider_segmind.enrichment.settings import KeyedTarget, Shard


def locate_named(name: str, path: Any) -> StorePath:
    """
    Return the path given as an argument.

    :raises SegmindConfigError: Airflow has no store for it here. Nothing was sent.
    """
    try:
        return locate(path_text(path))
    except (ValueError, ImportError) as error:
        raise SegmindConfigError(
            f"{name!r} is {path_text(path)!r}, in a storage system that this Airflow does not support: "
            f"{shorten(str(error))}. Nothing was sent."
        ) from error


def beside(path: StorePath, mark: str, *, ending: str | None = None) -> StorePath:
    """Return the path of a file next to a table, named after it."""
    match = re.fullmatch(r"(.*?)((?:\.[a-z]+)(?:\.gz)?)", path.name, re.IGNORECASE)
    stem, suffix = (match[1], match[2]) if match else (path.name, "")
    return path.parent / f"{stem}.{mark}{suffix if ending is None else ending}"


def table_rows(source: Any, columns: frozenset[str] | None = None) -> Iterator[Mapping[str, Any]]:
    """
    Return the rows of a source.

    :param columns: the columns needed; a format that can skip the others does not decode them.
    :raises SegmindConfigError: it is not a table.
    """
    if _is_path(source):
        return open_source(locate_named("source", source), columns)
    check_source(source)
    return open_source((locate_named("source", item) if _is_path(item) else item for item in source), columns)


def source_paths(source: Any) -> list[StorePath]:
    """Return the paths in a source; a sequence that Airflow fetches item by item is not searched."""
    items = source.given if isinstance(source, TableRows) else source
    if _is_path(items):
        return [locate_named("source", items)]
    return [locate_named("source", item) for item in items if _is_path(item)] if isinstance(items, list | tuple) else []


def table_size(source: Any) -> int | None:
    """Return how many rows a source has, None when it would have to be read to its end, which may fail."""
    items = source.given if isinstance(source, TableRows) else source
    try:
        if _is_path(items):
            return rows_in(locate_named("source", items))
        if isinstance(items, list | tuple):
            return rows_in([locate_named("source", item) if _is_path(item) else item for item in items])
    except (SegmindError, OSError):
        # Reading the rows meets the same error, and reports it.
        return None
    return None


REPORT_ENDING = ".report.html"
SHOWN_PATHS = 3
"""Paths of a source that the log and the report name."""
ForEachRow: TypeAlias = Callable[[Mapping[str, Any]], None]


class TableIO(ABC):
    """
    Reader of an enrichment's rows and writer of its answers; made in the task's main thread, for one try.

    A subclass opens nothing before it is used. :meth:`store` writes what need not be written while rows are sent.
    """

    ledger: StorePath
    """The folder of the ledger."""

    @property
    @abstractmethod
    def source(self) -> str:
        """What is read, for messages."""

    @property
    @abstractmethod
    def target(self) -> str:
        """What is written, for messages."""

    @property
    def address(self) -> str:
        """The address of the answers, for a browser."""
        return self.target

    @property
    @abstractmethod
    def manifest_path(self) -> StorePath:
        """Where the manifest is."""

    def other_output(self) -> str | None:
        """Return the other output whose dead letters, manifest and report this one replaces."""
        return None

    def mapped_sibling(self, run_id: str) -> int | None:
        """Return the map index of another instance of the same mapped task whose output this one would replace."""
        return None

    def check_own(self, run_id: str, money: str, *, retryable: bool = False) -> None:
        """
        Check that the output is not that of another instance of the same mapped task.

        :param run_id: of this instance's enrichment.
        :param money: what was sent, and where its answers are, as a sentence.
        :param retryable: whether a retry has requests to fetch.
        :raises SegmindConfigError: it is.
        """
        if (sibling := self.mapped_sibling(run_id)) is not None:
            error = SegmindConfigError(
                f"'output_path' ({self.target}) was written by the instance of this mapped task with map index "
                f"{sibling}, whose rows would be lost. Give each instance an output of its own, for example with "
                f"{{{{ ti.map_index }}}} in the name. {money}"
            )
            error.retryable = retryable
            raise error

    @abstractmethod
    def total(self) -> int | None:
        """Return the number of rows, None when it is unknown before they are read."""

    @abstractmethod
    def prepare(self, *, dry: bool) -> KeyedTarget | None:
        """
        Check that the answers can be written, before anything is paid.

        :param dry: change nothing.
        :returns: the output, if it is addressed by key.
        :raises SegmindConfigError: they cannot be written. Nothing was sent.
        :raises SegmindEnrichmentError: they cannot be written now; a retry may help. Nothing was sent.
        """

    @abstractmethod
    def rows(self) -> Iterator[Mapping[str, Any]]:
        """
        Return the rows in order; they are read in the engine's threads.

        :raises SegmindConfigError: there is no such table.
        """

    @abstractmethod
    def count(self, rows_read: int) -> int:
        """Return how many rows the source has, after this many of :meth:`rows` were read."""

    def load(self, engine: Engine) -> SegmindError | None:
        """
        Write rows that have their outcome, while the engine runs; called every second in the task's main thread.

        :returns: why no more rows should be sent, None while they should.
        """
        return None

    def flush(self, engine: Engine) -> None:  # noqa: B027 (a file appears whole, at the end)
        """
        Write the rows that have their outcome before the run defers.

        :raises SegmindEnrichmentError: they could not be written; they are in the ledger.
        """

    @abstractmethod
    def store(self, engine: Engine, each: ForEachRow | None) -> Manifest:
        """
        Write every row read with its outcome, the dead letters and the manifest. Can be repeated.

        :param engine: it has run.
        :param each: called with the columns of every row.
        """

    def check_refused(self) -> None:  # noqa: B027 (a file takes every row)
        """
        Raise if the target refused rows in :meth:`store`.

        :raises SegmindEnrichmentError: it did; the other rows are written, and so are dead letters and manifest.
        """

    def close(self) -> None:  # noqa: B027 (a file is closed where it is opened)
        """Close all files, even after an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTableSettings:
    """The arguments of :class:`~airflow_provider_segmind.operators.enrich.SegmindEnrichFileOperator`, rendered."""

    source: Any
    output_path: Any
    ledger_path: Any
    shard: Shard
    sample: int | None


class FileTableIO(TableIO):
    """
    A source file, and an output file of answers.

    :param question: what is sent for each row.
    """

    def __init__(self, settings: FileTableSettings, question: Question) -> None:
        check_output_path(settings.output_path)
        output = locate_named("output_path", settings.output_path)
        self.output = path_of_part(output, settings.shard, settings.sample)
        ledger = settings.ledger_path
        self.ledger = locate_named("ledger_path", ledger) if ledger else self.output.parent / LEDGER_FOLDER
        self._dead_letters = beside(self.output, "dead_letters", ending=".jsonl")
        self._source = settings.source
        self._rows = table_rows(settings.source, question.columns)

    @property
    def source(self) -> str:
        """The paths, or a note that the rows were given."""
        paths = [str(path) for path in source_paths(self._source)]
        more = f" and {len(paths) - SHOWN_PATHS:,} more" if len(paths) > SHOWN_PATHS else ""
        return f"{', '.join(paths[:SHOWN_PATHS])}{more}" if paths else "rows given to the task"

    @property
    def target(self) -> str:
        """The output file."""
        return str(self.output)

    @property
    def manifest_path(self) -> StorePath:
        """Beside the output file."""
        return beside(self.output, "manifest", ending=".json")

    def other_output(self) -> str | None:
        """Return an output in the same folder whose name differs only by its ending, if it was written last."""
        return other_output(self.manifest_path, self.output)

    def mapped_sibling(self, run_id: str) -> int | None:
        """Read it from the manifest that is there."""
        return mapped_sibling(self.manifest_path, run_id)

    def total(self) -> int | None:
        """Return the length of a list, or the row count in the metadata of Parquet files."""
        return table_size(self._source)

    def prepare(self, *, dry: bool) -> None:
        """Check that the files can be written at the end, and that the run does not read them."""
        check_format(self.output)
        sources = source_paths(self._source)
        check_names(sources)
        check_apart((self.output, self._dead_letters), self.ledger, sources)
        check_writable("output_path", (self.output, self._dead_letters, self.manifest_path), dry=dry)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Return the rows of the source."""
        return self._rows

    def count(self, rows_read: int) -> int:
        """
        Read the source to its end.

        :raises SegmindError: the source breaks off.
        """
        try:
            for _ in self._rows:
                rows_read += 1
        except SegmindError:
            raise
        except Exception as error:
            # An iterator of rows may raise anything; the rows of the sample are paid for and written.
            raise cannot_be_read(error, f"The source, after {counted(rows_read, 'row')},") from error
        return rows_read

    def store(self, engine: Engine, each: ForEachRow | None) -> Manifest:
        """Write the output file, and next to it the dead letters and the manifest."""
        # Instances of a mapped task run at the same time, so another one may have ended since this one began.
        self.check_own(
            engine.ledger.run,
            f"Its answers are in the ledger ({self.ledger}): with another file name it writes them, and pays nothing "
            "again.",
            retryable=any(engine.ledger.open_rows()),
        )
        manifest = write_output(engine, output=self.output, dead_letters=self._dead_letters, each=each)
        manifest.source, manifest.earlier = self.source, earlier_runs(self.manifest_path, run_id=manifest.run_id)
        manifest.write(self.manifest_path)
        return manifest


def path_of_part(path: StorePath, shard: Shard, sample: int | None) -> StorePath:
    """Return the path for the output of one shard, or of a sample."""
    if shard.count > 1:
        path = beside(path, f"{shard.index}-of-{shard.count}")
    return path if sample is None else beside(path, "sample")


def read_manifests(given: Any) -> list[Manifest]:
    """
    Read what the shards returned.

    :raises SegmindConfigError: it is not a list of manifests.
    """
    items = [given] if isinstance(given, Mapping) else given
    if not isinstance(items, list | tuple) or not all(isinstance(item, Mapping) for item in items):
        raise SegmindConfigError(
            "'manifests' contains something other than manifests: give it the output of the mapped task. Was it "
            "a dry run, or was its XCom not pushed?"
        )
    if any("shard_count" not in item for item in items):
        raise SegmindConfigError("'manifests' contains estimates of a 'dry_run' instead of manifests.")
    return [Manifest.from_json(item) for item in items]


def merge_files(manifest: Manifest, output_path: Any) -> StorePath:
    """
    Merge the files of all shards into one table and one file of dead letters, and write the manifest next to them.

    :param manifest: of all shards; it is given the new files.
    :returns: the path of the manifest.
    :raises SegmindConfigError: the shards wrote into a database, or one of them wrote this very file.
    :raises SegmindEnrichmentError: a row is missing or duplicated; nothing was written.
    """
    output = locate_named("output_path", output_path)
    dead_letters = beside(output, "dead_letters", ending=".jsonl")
    database_tables = [part for part in manifest.outputs if kind_of(part) is None]
    if database_tables:
        raise SegmindConfigError(
            f"The shards wrote into {', '.join(database_tables)}, not into files: the rows are in one table already. "
            "Leave out 'output_path'."
        )
    parts = [locate_named("manifests", part) for part in manifest.outputs]
    if any(str(part) == str(output) for part in parts):
        raise SegmindConfigError(f"'output_path' {str(output)!r} is the output of a shard: its rows would be lost.")
    manifest.columns = merge_outputs(manifest, parts, output)
    merge_dead_letters([locate_named("manifests", part) for part in manifest.dead_letters], dead_letters)
    manifest.outputs, manifest.dead_letters = [str(output)], [str(dead_letters)]
    manifest_path = beside(output, "manifest", ending=".json")
    manifest.earlier = earlier_runs(manifest_path, run_id=manifest.run_id)
    manifest.write(manifest_path)
    return manifest_path


def add_report(manifest: Manifest, path: StorePath, *, task_url: str | None, log: Any) -> None:
    """
    Write the report of a run next to its manifest, and the manifest again with the report's path in it.

    A report that cannot be drawn or written only logs a warning: the answers are paid for, and their outcomes are in
    the manifest.

    :param path: of the manifest, which has been written.
    :param task_url: the task instance in Airflow's UI, None where that address is not known.
    """
    report_path = path.parent / (path.name.removesuffix(MANIFEST_ENDING) + REPORT_ENDING)
    manifest.report = str(report_path)
    try:
        letters = map(locate, manifest.dead_letters if manifest.unanswered_rows else ())
        write_report(manifest, report_path, task_url=task_url, keys=example_keys(letters))
        manifest.write(path)
    except Exception as error:  # noqa: BLE001 - an error here does not change the outcome of the run
        manifest.report = None
        log.warning("The report could not be written to %s: %s: %s", report_path, type(error).__name__, error)
