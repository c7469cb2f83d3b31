"""What the page shows of runs of enrichment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_segmind.defaults import DEAD_LETTERS
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.report.charts import COLOURS
from airflow_provider_segmind.monitoring.reader import UNFINISHED, TableRun

BAR_WIDTH = 160.0


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar, in pixels."""

    colour: str
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class TableLine:
    """
    A run as one line of the list.

    :param rows: rows read so far.
    :param share: of the rows that are finished, 0.0 to 1.0, None if unknown.
    :param words: outcomes and their counts.
    :param cost: USD billed so far.
    """

    run: TableRun
    running: bool
    rows: int | None
    answered: int | None
    share: float | None
    bar: Sequence[Segment]
    words: str
    cost: float | None
    calls: int | None
    model: str


def line_of(run: TableRun) -> TableLine:
    """Return how the list shows a run."""
    manifest, progress = run.manifest, run.progress or {}
    running = run.state in UNFINISHED
    if manifest is not None and not running:
        counts = {name: manifest.outcomes.get(name, 0) for name in Outcome}
        return TableLine(
            run=run,
            running=False,
            rows=manifest.rows_read,
            answered=counts[Outcome.SUCCESS],
            share=1.0,
            bar=_bar(counts, manifest.rows_read),
            words=_words(counts),
            cost=manifest.cost,
            calls=manifest.calls,
            model=manifest.model,
        )
    counts = {name: int(dict(progress.get("outcomes") or {}).get(name, 0)) for name in Outcome}
    done, total = progress.get("rows_done"), progress.get("rows_total")
    share = done / total if done is not None and total else progress.get("share")
    distinct = sum(counts.values())
    return TableLine(
        run=run,
        running=running,
        rows=progress.get("rows_read"),
        answered=None,
        share=share,
        bar=_bar(counts, distinct, share or 0.0),
        words=_words(counts),
        cost=progress.get("cost"),
        calls=None,
        model="",
    )


def _bar(counts: dict[Outcome, int], total: int, share: float = 1.0) -> list[Segment]:
    """Return the parts of a bar, as wide together as the share of the rows that are finished."""
    segments, left = [], 0.0
    for outcome, count in counts.items():
        if count and total:
            width = max(BAR_WIDTH * min(share, 1.0) * count / total, 1.0)
            segments.append(Segment(COLOURS[outcome], round(left, 1), round(width, 1)))
            left += width
    return segments


def _words(counts: dict[Outcome, int]) -> str:
    return ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items() if count)


def rerun_conf(manifest: Manifest) -> str:
    """Return the conf of a run that sends the rows without an answer again, empty if there are none."""
    outcomes = [name for name in DEAD_LETTERS if manifest.outcomes.get(name)]
    return json.dumps({"rerun": outcomes}) if outcomes else ""
