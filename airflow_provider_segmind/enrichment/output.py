"""
Write the output of a run from its ledger: every row read, in input order, with its outcome; merge the output of shards.

No request is sent here, and writing can be repeated. Equal rows share one answer; only the first of them carries its
cost and tokens, so that sums over a column are right.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from airflow_provider_segmind.enrichment.dead_letters import ROW, DeadLetter, open_letters
from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.enrichment.files.writers import (
    Kinds,
    Write,
    needs_kinds,
    open_sink,
    write_jsonl,
    written_names,
)
from airflow_provider_segmind.enrichment.ledger.events import REUSED, Bill, Claimed, Finished, is_unpriced
from airflow_provider_segmind.enrichment.manifest import Manifest, set_latency
from airflow_provider_segmind.enrichment.outcomes import Outcome, Reasons
from airflow_provider_segmind.enrichment.row_reader import SourceRow
from airflow_provider_segmind.enrichment.row_request import STOPPED
from airflow_provider_segmind.enrichment.stats import Latencies
from airflow_provider_segmind.enrichment.storage import StorePath
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from airflow_provider_segmind.wording import counted

STATUS_COLUMNS = (
    "_segmind_status",
    "_segmind_error",
    "_segmind_request_id",
    "_segmind_model",
    "_segmind_cost",
    "_segmind_tokens",
)
ROW_COLUMN = "_segmind_row"
"""The row's number in the source, from 0; only in the output of a shard, so that shards can be put in order."""
FINGERPRINT_COLUMN = "_segmind_fingerprint"
"""The row's fingerprint in hex, for outputs that are searched for the answers they have."""
LOOKED_UP = 1024
"""Rows whose outcomes are looked up at once."""
Misfit: TypeAlias = Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True, slots=True)
class OutputRow:
    """
    One row with its outcome.

    :param event: its outcome in the ledger, None when it has none there.
    :param request_ids: the requests submitted for it.
    :param cost: USD billed for them, None if unknown.
    :param tokens: tokens they used.
    :param follow_up_cost: the part of the cost for follow-ups.
    """

    source: SourceRow
    outcome: Outcome
    reason: str
    event: Finished | None
    request_ids: tuple[str, ...] = ()
    cost: float | None = None
    tokens: int | None = None
    follow_up_cost: float = 0.0


class KeyedOutput(Protocol):
    """
    An output that is not a file, and that may refuse single rows.

    Both methods return the rows written or refused so far, in order, each with the reason for its refusal ("" if it was
    written).
    """

    def put(self, values: Mapping[str, Any], row: OutputRow, /) -> Iterable[tuple[OutputRow, str]]:
        """Add a row with its columns."""

    def flush(self) -> Iterable[tuple[OutputRow, str]]:
        """Write the rows added so far."""


class Output:
    """
    The rows of an engine that has run.

    :param engine: must have ended and not be closed.
    :param misfit: returns why the output cannot store an answer, which then counts as ``invalid``.
    """

    def __init__(self, engine: Engine, misfit: Misfit | None = None) -> None:
        self._engine = engine
        self._misfit = misfit
        question, shard = engine.question, engine.shard
        numbered = (ROW_COLUMN,) if shard.count > 1 else ()
        self.columns = (*numbered, *question.key, *question.answer_columns, *STATUS_COLUMNS)

    def rows(self) -> Iterator[OutputRow]:
        """Yield every row that was read, in input order."""
        sources = self._engine.reader.source_rows()
        while block := list(itertools.islice(sources, LOOKED_UP)):
            self._engine.ledger.look_up([source.fingerprint for source in block if source.fingerprint is not None])
            for source in block:
                if source.fingerprint is None:
                    yield OutputRow(source, Outcome.SKIPPED, source.trouble, None)
                else:
                    yield self._row(source, source.fingerprint)

    def values(self, row: OutputRow) -> dict[str, Any]:
        """Return the columns of a row by name."""
        event = row.event
        values: dict[str, Any] = {ROW_COLUMN: row.source.number} if ROW_COLUMN in self.columns else {}
        values.update({name: row.source.key.get(name) for name in self._engine.question.key})
        answer = event.answer if event is not None and row.outcome is Outcome.SUCCESS else {}
        values.update({name: answer.get(name) for name in self._engine.question.answer_columns})
        values["_segmind_status"] = str(row.outcome)
        values["_segmind_error"] = row.reason or None
        values["_segmind_request_id"] = row.request_ids[-1] if row.request_ids else None
        values["_segmind_model"] = self._engine.question.model
        values["_segmind_cost"] = _only_once(row.cost, row)
        values["_segmind_tokens"] = _only_once(row.tokens, row)
        return values

    def finished_rows(self, fingerprint: bytes, *, after: int, most: int) -> list[OutputRow]:
        """
        Return rows read so far that share an outcome, while the engine runs; from any thread.

        :param after: the number of the last row that is not wanted again, -1 to begin.
        :param most: rows to return.
        :returns: none if the outcome is not in the ledger.
        """
        event = self._engine.ledger.finished(fingerprint)
        if event is None:
            return []
        sources = self._engine.reader.equal_rows(fingerprint, after=after, most=most)
        return [self._finished(source, event) for source in sources]

    def _finished(self, source: SourceRow, event: Finished) -> OutputRow:
        outcome, reason = event.outcome, event.reason
        if self._misfit is not None and outcome is Outcome.SUCCESS and (misfit := self._misfit(event.answer or {})):
            outcome, reason = Outcome.INVALID, misfit
        spent = (event.request_ids, event.cost, event.tokens, _cost_after_first(event.bills))
        return OutputRow(source, outcome, reason, event, *spent)

    def _row(self, source: SourceRow, mark: bytes) -> OutputRow:
        engine = self._engine
        event = None if engine.ledger.is_open(mark) else engine.ledger.finished(mark)
        if event is not None:
            return self._finished(source, event)
        state, why = engine.ledger.row_state(mark), engine.skip_reason(mark)
        if state.open is None:
            why = why or (engine.stopped.reason if engine.stopped else STOPPED)
            spent = _spent(state.unsent_follow_up(engine.ledger.run), engine)
            return OutputRow(source, Outcome.SKIPPED, why, None, *spent)
        ids, cost, tokens, follow_up_cost = _spent(state.claim, engine)
        if state.open.submitted is not None:
            ids = (*ids, state.open.submitted.request_id)
            why = why or "the request was accepted and the run ended before its answer; a retry fetches it"
        why = why or "it is unknown whether its request was accepted"
        return OutputRow(source, Outcome.UNKNOWN, why, None, ids, cost, tokens, follow_up_cost)


def _spent(claim: Claimed | None, engine: Engine) -> tuple[tuple[str, ...], float | None, int | None, float]:
    """Return the requests that a run submitted for an unfinished row, and their cost."""
    if claim is None or not claim.request_ids:
        return (), None, None, 0.0
    if claim.run != engine.ledger.run:
        return claim.request_ids, None, None, 0.0
    return claim.request_ids, claim.cost, claim.tokens or None, _cost_after_first(claim.bills)


def _cost_after_first(bills: tuple[Bill, ...]) -> float:
    return sum(bill.cost or 0.0 for bill in bills[1:])


def _only_once(amount: float | None, row: OutputRow) -> float | None:
    return amount if row.source.first or amount is None else 0


def write_output(
    engine: Engine,
    *,
    output: StorePath | None = None,
    dead_letters: StorePath | None = None,
    each: Callable[[Mapping[str, Any]], None] | None = None,
    keyed: KeyedOutput | None = None,
    misfit: Misfit | None = None,
) -> Manifest:
    """
    Write the output and the dead letters of an engine that has run, and count rows. Blocks; call it off the event loop.

    :param output: a file whose name determines the format.
    :param dead_letters: a JSONL file for the rows without an answer.
    :param each: called with the columns of every row.
    :param keyed: an output that is not a file; receives every row as well.
    :param misfit: returns why that output cannot store an answer, which then counts as ``invalid``.
    :raises SegmindEnrichmentError: the counts do not add up.
    """
    rows = Output(engine, misfit)
    kinds = None
    if output is not None and needs_kinds(output):
        kinds = Kinds(rows.columns)
        for row in rows.rows():
            kinds.observe(rows.values(row))
    count = _Count(engine)
    with _sink(output, rows.columns, kinds) as write, open_letters(dead_letters) as write_letter:
        for row in _written(rows, write, each, keyed):
            count.add(row)
            if row.outcome is not Outcome.SUCCESS:
                write_letter(_dead_letter(row))
    manifest = count.manifest()
    manifest.columns = list(rows.columns)
    manifest.outputs = [str(output)] if output is not None else []
    manifest.dead_letters = [str(dead_letters)] if dead_letters is not None else []
    return manifest.check()


def _written(
    rows: Output, write: Write, each: Callable[[Mapping[str, Any]], None] | None, keyed: KeyedOutput | None
) -> Iterator[OutputRow]:
    """Write every row and yield it with its final outcome."""
    for row in rows.rows():
        values = rows.values(row)
        write(values)
        if each is not None:
            each(values)
        if keyed is None:
            yield row
        else:
            yield from itertools.starmap(_with_refusal, keyed.put(values, row))
    if keyed is not None:
        yield from itertools.starmap(_with_refusal, keyed.flush())


def _with_refusal(row: OutputRow, refusal: str) -> OutputRow:
    """Return a row with the reason why a keyed output refused it; its answer, if any, stays in the ledger."""
    if not refusal:
        return row
    if row.outcome is Outcome.SUCCESS:
        reason = f"the answer is in the ledger, but the table refused the row: {refusal}"
        return replace(row, outcome=Outcome.INVALID, reason=reason)
    return replace(row, reason=f"{row.reason}; the table refused the row: {refusal}")


def _sink(path: StorePath | None, columns: tuple[str, ...], kinds: Kinds | None) -> AbstractContextManager[Write]:
    return nullcontext(_discard) if path is None else open_sink(path, columns, kinds)


def _discard(_: Mapping[str, Any]) -> None:
    """Do nothing: no such output was requested."""


def _dead_letter(row: OutputRow) -> DeadLetter:
    return DeadLetter(
        row=row.source.number,
        key=row.source.key,
        outcome=str(row.outcome),
        reason=row.reason,
        attempts=len(row.request_ids),
        request_ids=list(row.request_ids),
        cost=row.cost if row.source.first else None,
        fingerprint=row.source.fingerprint.hex() if row.source.fingerprint else None,
    )


class _Count:
    """Counts rows into a manifest."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._latencies = Latencies()
        self._reasons = Reasons()
        self._manifest = Manifest(
            run_id=engine.ledger.run,
            model=engine.question.model,
            prompt_hash=engine.question.prompt_hash,
            ledger=str(engine.ledger.folder),
            shard_index=engine.shard.index,
            shard_count=engine.shard.count,
            rows_in_source=engine.reader.rows_seen,
            rows_read=engine.reader.rows_read,
            rows_unchanged=engine.reader.rows_unchanged,
            complete=engine.reader.exhausted,
            stopped=engine.stopped.reason if engine.stopped else None,
            stopped_by="budget" if engine.stopped and engine.stopped.refusal else None,
            calls=engine.tally.posts + engine.tally.polls,
            posts=engine.tally.posts,
            resumed=engine.tally.resumed,
            seconds=round(engine.seconds, 3),
            ended=round(engine.clock(), 3),
            timeline=engine.tally.timeline.to_json(),
            notes=dict(engine.settings.notes),
        )
        self._manifest.outcomes[Outcome.SUCCESS] += engine.reader.rows_unchanged

    def add(self, row: OutputRow) -> None:
        """Count a row."""
        manifest, event = self._manifest, row.event
        manifest.outcomes[row.outcome] += 1
        manifest.distinct_rows += row.source.first
        if row.outcome is not Outcome.SUCCESS:
            self._reasons.add(row.outcome, row.reason)
        if event is None:
            self._spend(row)
        elif not row.source.first:
            manifest.duplicates_saved += event.outcome is Outcome.SUCCESS
        elif event.run != manifest.run_id:
            manifest.cache_hits += 1
            manifest.reused += event.run == f"{manifest.run_id}{REUSED}"
        else:
            self._spend(row)
            manifest.unpriced += is_unpriced(event)
            if event.seconds is not None:
                self._latencies.add(event.seconds)

    def _spend(self, row: OutputRow) -> None:
        if row.source.first:
            self._manifest.requests += len(row.request_ids)
            self._manifest.cost += row.cost or 0.0
            self._manifest.follow_up_cost += row.follow_up_cost
            self._manifest.tokens += row.tokens or 0

    def manifest(self) -> Manifest:
        """Return the counts."""
        self._manifest.cost = round(self._manifest.cost, 9)
        self._manifest.follow_up_cost = round(self._manifest.follow_up_cost, 9)
        self._manifest.reasons = self._reasons.to_json()
        set_latency(self._manifest, self._latencies)
        return self._manifest


_ADVICE = (
    "Another process has written to them since. Run the shards again, which costs nothing for rows with an answer. "
    "Nothing was written."
)


def merge_outputs(manifest: Manifest, parts: Sequence[StorePath], target: StorePath) -> list[str]:
    """
    Write the rows of all shards as one table, in the order of the source and without the column of row numbers.

    Each shard wrote its rows in that order and numbered them, so one row per shard in memory is enough. The only shard
    of a table has all rows, without numbers.

    :param manifest: of all shards, as :func:`~airflow_provider_segmind.enrichment.manifest.merge` returns it.
    :param parts: the files of the shards.
    :returns: the columns of the table.
    :raises SegmindEnrichmentError: a row is missing, is duplicated, or has no number; nothing is written.
    :raises SegmindConfigError: a file is missing, or is not a table.
    """
    columns = [name for name in manifest.columns if name != ROW_COLUMN]
    called = written_names(manifest.columns)

    def values(row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: row[name] if name in row else row.get(called[name]) for name in columns}

    def numbered() -> Iterator[tuple[int, Mapping[str, Any]]]:
        if columns and ROW_COLUMN not in manifest.columns:
            return enumerate(open_source(parts[0]))
        return _numbered(_in_order(parts, ROW_COLUMN), ROW_COLUMN)

    kinds = None
    if needs_kinds(target):
        kinds = Kinds(columns)
        for _, row in numbered():
            kinds.observe(values(row))
    count = 0
    with open_sink(target, columns, kinds) as write:
        for number, row in numbered():
            if manifest.complete and number != count:
                raise SegmindEnrichmentError(f"Row {count} is missing from the outputs of all shards. {_ADVICE}")
            write(values(row))
            count += 1
        if count != manifest.rows_read:
            raise SegmindEnrichmentError(
                f"The outputs of the shards contain {counted(count, 'row')}, but their manifests count "
                f"{manifest.rows_read}. {_ADVICE}"
            )
    return columns


def merge_dead_letters(parts: Sequence[StorePath], target: StorePath) -> None:
    """Write the rows without an answer of all shards as one file, in the order of the source."""
    write_jsonl(target, _in_order(parts, ROW))


def _in_order(parts: Sequence[StorePath], column: str) -> Iterator[Mapping[str, Any]]:
    readers = [_numbered(open_source(part), column) for part in parts]
    return (row for _, row in heapq.merge(*readers, key=lambda pair: pair[0]))


def _numbered(rows: Iterator[Mapping[str, Any]], column: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield each row with its number, which must increase: then no row is duplicated."""
    last = -1
    for row in rows:
        try:
            number = int(row[column])
        except (KeyError, TypeError, ValueError) as error:
            raise SegmindEnrichmentError(
                f"A row of a shard's output has no number in the column {column!r}: no shard has written it. "
                "Nothing was written."
            ) from error
        if number <= last:
            raise SegmindEnrichmentError(
                f"Row {number} appears twice in the outputs of the shards, or is out of order. {_ADVICE}"
            )
        last = number
        yield number, row
