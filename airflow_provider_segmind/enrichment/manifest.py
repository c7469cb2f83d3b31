"""
The manifest: counts of a run that must add up to the rows read, what it cost, and where its outputs are.

It is small enough for XCom, and is written next to the output as ``manifest.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from airflow_provider_segmind.enrichment.outcomes import Outcome, Reasons
from airflow_provider_segmind.enrichment.run_limits import FAILURES
from airflow_provider_segmind.enrichment.stats import Latencies, Timeline
from airflow_provider_segmind.enrichment.storage import StorePath, make_folder, write_whole
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from airflow_provider_segmind.wording import counted

VERSION = 1


@dataclass(slots=True, kw_only=True)
class Manifest:
    """
    The outcome of an enrichment.

    :param prompt_hash: SHA-256 of what was sent for every row except its values: prompt, system text, options, schema.
    :param source: what was read: paths, a table, or a query at a Connection.
    :param rows_in_source: rows of the source that were read; a shard reads all of it.
    :param rows_read: those that belong to this shard.
    :param complete: whether the source was read to its end.
    :param stopped: why the run stopped early, None when it did not.
    :param stopped_by: ``budget`` where a budget had no room for one more request, None for any other reason.
    :param outcomes: rows by outcome; they add up to ``rows_read``.
    :param rows_unchanged: those whose answer was already in the target, so that they were not sent or written; they
        count as ``success``, and in no other figure.
    :param distinct_rows: different requests among the rows.
    :param duplicates_saved: rows that got the answer of an equal row before them.
    :param cache_hits: different requests that another run or task had completed.
    :param reused: those of them that this run took from the answer cache, which no run over the ledger had paid.
    :param requests: requests of this run, all tries.
    :param calls: HTTP calls sent to the gateway about rows in this try: ``posts``, polls and fetches, retries included.
    :param posts: paid calls among them, refused ones included.
    :param resumed: requests of an earlier try whose answer was fetched in this one.
    :param cost: USD billed in this run, all tries, as reported by Segmind.
    :param follow_up_cost: the part of it for requests that followed a reply which could not be used.
    :param unpriced: rows with a billed request whose cost Segmind did not report.
    :param tokens: tokens used in this run, all tries.
    :param latency: seconds from submission to answer, by quantile.
    :param latency_counts: the counts behind the quantiles, so that those of shards can be added.
    :param seconds: how long this try took.
    :param ended: when this try ended, epoch seconds.
    :param earlier: earlier runs of the same table, the latest first; see
        :func:`~airflow_provider_segmind.enrichment.report.history.earlier_runs`.
    :param notes: what the task was given to say about the run, such as who approved it.
    :param reasons: rows without an answer by outcome and reason, the most frequent ones; they add up as well.
    :param timeline: calls, distinct rows and USD of this try over time; see :class:`Timeline`.
    :param columns: the columns of the output.
    :param outputs: where the answers are.
    :param dead_letters: where the rows without an answer are listed.
    :param ledger: where the ledger is.
    :param report: where the report is, None when there is none.
    """

    run_id: str
    model: str
    prompt_hash: str = ""
    source: str = ""
    shard_index: int = 0
    shard_count: int = 1
    rows_in_source: int = 0
    rows_read: int = 0
    complete: bool = True
    stopped: str | None = None
    stopped_by: str | None = None
    outcomes: dict[str, int] = field(default_factory=lambda: {str(outcome): 0 for outcome in Outcome})
    rows_unchanged: int = 0
    distinct_rows: int = 0
    duplicates_saved: int = 0
    cache_hits: int = 0
    reused: int = 0
    requests: int = 0
    calls: int = 0
    posts: int = 0
    resumed: int = 0
    cost: float = 0.0
    follow_up_cost: float = 0.0
    unpriced: int = 0
    tokens: int = 0
    latency: dict[str, float] = field(default_factory=dict)
    latency_counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    ended: float = 0.0
    earlier: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    timeline: dict[str, Any] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    dead_letters: list[str] = field(default_factory=list)
    ledger: str | None = None
    report: str | None = None
    version: int = VERSION

    @property
    def run(self) -> str:
        """The id of the run without the part after the last slash, in which the shards of one run may differ."""
        head, slash, _ = self.run_id.rpartition("/")
        return head if slash and self.shard_count > 1 else self.run_id

    @property
    def task(self) -> tuple[str, str, str, int]:
        """DAG, run, task and map index, if the run's id has them; -1 for a task that is not mapped."""
        dag_id, *rest = self.run_id.split("/")
        map_index = int(rest.pop()) if rest and re.fullmatch(r"-?\d+", rest[-1]) else -1
        task_id = rest.pop() if rest else ""
        return dag_id, "/".join(rest), task_id, map_index

    @property
    def unanswered_rows(self) -> int:
        """Rows without an answer."""
        return self.rows_read - self.outcomes[Outcome.SUCCESS]

    @property
    def headline(self) -> str:
        """How many rows were answered, as a sentence without its full stop."""
        rows, answered = self.rows_read, self.outcomes[Outcome.SUCCESS]
        if not rows:
            return "There are no rows to answer"
        if not self.unanswered_rows:
            return f"{'The only row' if rows == 1 else f'All {rows:,} rows'} answered"
        return (
            f"{answered:,} of {rows:,} {'row' if rows == 1 else 'rows'} answered, {rows - answered:,} without an answer"
        )

    @property
    def failed_rows(self) -> int:
        """Rows with an outcome and without a usable answer."""
        return sum(self.outcomes[outcome] for outcome in FAILURES)

    @property
    def rows_left(self) -> int:
        """Rows that a retry would continue with."""
        return self.outcomes[Outcome.UNKNOWN] + self.outcomes[Outcome.SKIPPED]

    def check(self) -> Self:
        """
        Return the manifest if its counts add up.

        :raises SegmindEnrichmentError: they do not, which is an error of this package.
        """
        total = sum(self.outcomes.values())
        explained = sum(sum(counts.values()) for counts in self.reasons.values())
        if total != self.rows_read or explained != total - self.outcomes[Outcome.SUCCESS]:
            raise SegmindEnrichmentError(
                f"The outcomes of run {self.run_id!r} add up to {total}, {explained} of them with a reason, but it "
                f"read {counted(self.rows_read, 'row')}. The answers are safe in the ledger; the output "
                "must not be trusted."
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON, for XCom or a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """
        Read a manifest.

        :raises SegmindEnrichmentError: it is not a manifest of this version.
        """
        version = value.get("version") if isinstance(value, Mapping) else None
        if version != VERSION:
            raise SegmindEnrichmentError(
                f"A manifest of version {version!r} cannot be read; only version {VERSION} can be."
            )
        try:
            manifest = TypeAdapter(cls).validate_python(dict(value))
        except ValidationError as error:
            fields = sorted({str(each["loc"][0]) for each in error.errors() if each["loc"]})
            raise SegmindEnrichmentError(
                f"A manifest cannot be read: {', '.join(fields)} have unexpected values."
            ) from error
        if missing := set(Outcome) - manifest.outcomes.keys():
            raise SegmindEnrichmentError(f"A manifest cannot be read: it does not count {sorted(missing)}.")
        return manifest

    def write(self, path: StorePath) -> None:
        """Write it as a file: all of it, or nothing."""
        make_folder(path.parent)
        with write_whole(path) as file:
            file.write(json.dumps(self.to_json(), indent=2).encode() + b"\n")


_SUMS = (
    "rows_read", "rows_unchanged", "distinct_rows", "duplicates_saved", "cache_hits", "reused", "requests", "calls",
    "posts", "resumed", "cost", "follow_up_cost", "unpriced", "tokens",
)  # fmt: skip


def merge(manifests: Sequence[Manifest]) -> Manifest:
    """
    Add up the manifests of all shards of one run.

    :raises SegmindEnrichmentError: a shard is missing or duplicated, the runs differ, or rows are missing.
    """
    if not manifests:
        raise SegmindEnrichmentError("There is no manifest to merge.")
    shards = sorted(manifests, key=lambda manifest: manifest.shard_index)
    first = shards[0]
    found = [manifest.shard_index for manifest in shards]
    if found != list(range(first.shard_count)):
        raise SegmindEnrichmentError(
            f"Shards {found} were given, but 0 to {first.shard_count - 1} are needed, each once."
        )
    # The prompt decides to which shard a row belongs.
    for name in ("run", "model", "prompt_hash", "shard_count", "columns"):
        if any(getattr(manifest, name) != getattr(first, name) for manifest in shards):
            raise SegmindEnrichmentError(f"The shards differ in {name}: they do not belong to one run.")
    merged = Manifest(run_id=first.run, model=first.model, prompt_hash=first.prompt_hash, source=first.source)
    merged.rows_in_source = first.rows_in_source
    for name in _SUMS:
        # Sums of USD would show the rounding errors of floats.
        setattr(merged, name, round(sum(getattr(manifest, name) for manifest in shards), 9))
    for outcome in merged.outcomes:
        merged.outcomes[outcome] = sum(manifest.outcomes[outcome] for manifest in shards)
    merged.complete = all(manifest.complete for manifest in shards)
    merged.stopped_by = next((manifest.stopped_by for manifest in shards if manifest.stopped_by), None)
    merged.stopped = next((manifest.stopped for manifest in shards if manifest.stopped), None)
    merged.seconds = max(manifest.seconds for manifest in shards)
    merged.ended = max(manifest.ended for manifest in shards)
    merged.reasons = Reasons.sum_of(manifest.reasons for manifest in shards).to_json()
    merged.timeline = Timeline.sum_of(manifest.timeline for manifest in shards).to_json()
    merged.columns, merged.ledger = first.columns, first.ledger
    merged.notes = {name: note for manifest in shards for name, note in manifest.notes.items()}
    # Shards may write into one table.
    merged.outputs = list(dict.fromkeys(path for manifest in shards for path in manifest.outputs))
    merged.dead_letters = [path for manifest in shards for path in manifest.dead_letters]
    set_latency(merged, Latencies.sum_of(manifest.latency_counts for manifest in shards))
    _check_rows(merged, shards)
    return merged.check()


def set_latency(manifest: Manifest, latencies: Latencies) -> None:
    """Set the latency quantiles."""
    manifest.latency = latencies.quantiles()
    manifest.latency_counts = {str(bucket): count for bucket, count in sorted(latencies.counts.items())}


def _check_rows(merged: Manifest, manifests: Sequence[Manifest]) -> None:
    sizes = {manifest.rows_in_source for manifest in manifests}
    if merged.complete and (len(sizes) != 1 or merged.rows_read != merged.rows_in_source):
        raise SegmindEnrichmentError(
            f"The shards read {counted(merged.rows_read, 'row')} in total, from sources of {sorted(sizes)} rows: the "
            "source changed while they ran. Run the shards again; rows with an answer cost nothing."
        )
