"""Generated manifests of any size."""

from __future__ import annotations

from airflow_provider_segmind.enrichment.manifest import Manifest, set_latency
from airflow_provider_segmind.enrichment.outcomes import Outcome, Reasons
from airflow_provider_segmind.enrichment.stats import Latencies, Timeline

BEGAN = 1_795_630_000.0
HOSTILE = "<script>alert(document.cookie)</script> & <img src=http://example.com/x.png>"
STEPS = 200


def manifest_of(rows: int, *, failed: int = 0, reason: str = "overloaded", **fields: object) -> Manifest:
    """Return the manifest of a run of ``rows`` distinct rows, the first ``failed`` of which failed."""
    made = Manifest(run_id="a_dag/monday/a_task/-1", model="gemini-3.1-flash-lite", rows_in_source=rows, rows_read=rows)
    latencies, reasons, timeline = Latencies(), Reasons(), Timeline()
    for number in range(failed):
        reasons.add(Outcome.FAILED, reason)
        timeline.add(BEGAN + number / 40, "unanswered")
    made.outcomes[Outcome.FAILED], made.outcomes[Outcome.SUCCESS] = failed, rows - failed
    made.calls, made.posts, made.requests, made.distinct_rows = 2 * rows, rows, rows, rows
    made.tokens, made.cost, made.seconds = 400 * rows, 0.00035 * (rows - failed), rows / 40
    for step in range(min(rows, STEPS)):
        some = rows // STEPS + (step < rows % STEPS)
        at = BEGAN + step * rows / 40 / STEPS
        timeline.add(at, "posts", some)
        timeline.add(at + 1, "polls", some)
        latencies.counts[step // 4] += some
    timeline.add(BEGAN + rows / 40, "answered", rows - failed)
    timeline.add(BEGAN + rows / 40, "cost", made.cost)
    set_latency(made, latencies)
    made.reasons = reasons.to_json()
    made.timeline = timeline.to_json() if rows else {}
    made.outputs = ["/data/out/described.jsonl"]
    made.dead_letters = ["s3://bucket/out/described.dead_letters.jsonl"]
    for name, value in fields.items():
        setattr(made, name, value)
    return made.check()
