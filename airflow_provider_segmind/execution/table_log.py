"""The log of a table: its plan and limits at the start, its outcome at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.report.page import PROMPT_CHARACTERS, reason_rows
from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.wording import counted

if TYPE_CHECKING:
    from airflow_provider_segmind.enrichment.question import Question
    from airflow_provider_segmind.execution.file_table import TableIO

MOST_REASONS = 5


def log_start(log: Any, table: TableIO, question: Question, *, limits: Iterable[str], rows: int | None) -> None:
    """
    Log what a table reads, sends and writes, and which limits apply.

    :param rows: of the source, None while unknown.
    """
    size = "" if rows is None else f" ({counted(rows, 'row')})"
    log.info("Source: %s%s; target: %s; ledger: %s", table.source, size, table.target, table.ledger)
    log.info(
        "Model: %s; prompt: %s; answer columns: %s",
        *(question.model, question.prompt_hash[:PROMPT_CHARACTERS], ", ".join(question.answer_columns)),
    )
    log.info("Limits: %s", "; ".join(limits))
    if (other := table.other_output()) is not None:
        log.warning(
            "%s and %s share the names of their dead letters, manifest and report: those of the former are replaced. "
            "Give each output a name or folder of its own",
            *(other, table.target),
        )


def log_end(log: Any, manifest: Manifest, manifest_path: object | None) -> None:
    """Log the outcome of a table as one block; as a warning when rows have no answer."""
    level = logging.INFO if manifest.complete and not manifest.unanswered_rows else logging.WARNING
    for line in _end(manifest, manifest_path):
        log.log(level, "%s", line)


def _end(manifest: Manifest, manifest_path: object | None) -> Iterator[str]:
    yield f"{manifest.headline} ({counted(manifest.distinct_rows, 'distinct row')})"
    if manifest.stopped is not None or not manifest.complete:
        yield f"Stopped early: {manifest.stopped or 'the source was not read to its end'}"
    reasons = reason_rows(manifest)
    for outcome, reason, count in reasons[:MOST_REASONS]:
        yield f"{count:,} {outcome}: {reason}"
    if rest := sum(count for _, _, count in reasons[MOST_REASONS:]):
        yield f"{rest:,} for other reasons"
    unpriced = f", and {counted(manifest.unpriced, 'distinct row')} of unknown cost" if manifest.unpriced else ""
    yield f"Billed in this run: {format_usd(manifest.cost)} for {counted(manifest.requests, 'request')}{unpriced}"
    yield f"Calls in this try: {manifest.calls:,}, including {counted(manifest.posts, 'paid submission')}"
    free = {
        "of other runs in the ledger": counted(manifest.cache_hits - manifest.reused, "distinct row"),
        "from the answer cache": counted(manifest.reused, "distinct row"),
        "equal to an earlier one": counted(manifest.duplicates_saved, "row"),
        "already in the target": counted(manifest.rows_unchanged, "row"),
    }
    found = [f"{count} {where}" for where, count in free.items() if not count.startswith("0 ")]
    if found:
        yield f"Answered at no cost: {', '.join(found)}"
    addresses: dict[str, Sequence[object]] = {
        "Answers": manifest.outputs,
        "Dead letters": manifest.dead_letters if manifest.unanswered_rows else [],
        "Manifest": [] if manifest_path is None else [manifest_path],
        "Report": [manifest.report] if manifest.report else [],
    }
    for what, where in addresses.items():
        for address in where:
            yield f"{what}: {address}"


def summarize(manifest: Manifest) -> str:
    """Return the outcome of a run in one line."""
    counts = ", ".join(
        f"{count:,} {outcome}" for outcome, count in manifest.outcomes.items() if count and outcome != Outcome.SUCCESS
    )
    return f"{manifest.headline}{f' ({counts})' if counts else ''}, {format_usd(manifest.cost)} billed in this run"
