"""Runs and requests that the page shows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.support.manifests import HOSTILE, manifest_of

if TYPE_CHECKING:
    from tests.monitoring.page.conftest import Visitor
    from tests.support.metadata import Metadata

RUN = "manual__2026-11-26T12:00:00+00:00"
RUN_PATH = f"/tables/shop/{quote(RUN, safe='')}/describe/-1"
LETTER = {"row": 3, "key": {"sku": "A<b>3"}, "outcome": "failed", "reason": HOSTILE, "attempts": 1, "cost": 0.000267}
LETTER |= {"request_ids": ["r-3"], "fingerprint": "ab" * 16}
OWN = {"origin": "http://airflow.test"}
Visit = Callable[..., "Visitor"]


def add_request(stored: Metadata, dag_id: str, request_id: str, age: float = 60) -> None:
    waits = {"request_id": request_id, "submitted_at": time.time() - age, "model": "flux", "segmind_conn_id": "other"}
    number = stored.trigger("airflow_provider_segmind.triggers.request.SegmindRequestTrigger", waits)
    stored.task("generate", "SegmindRunOperator", "deferred", dag_id=dag_id, run_id=RUN, trigger_id=number)
    stored.session.commit()


def add_table(
    stored: Metadata, dag_id: str = "shop", operator: str = "SegmindEnrichFileOperator", **fields: Any
) -> None:
    stored.dag(dag_id)
    own = stored.task("describe", operator, dag_id=dag_id, run_id=RUN)
    manifest = manifest_of(500, failed=12, reason=HOSTILE, **fields)
    stored.xcom(own, "return_value", manifest.to_json())
    stored.session.commit()


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of dead letters in the folder for results."""
    path = tmp_path / "out" / "described.dead_letters.jsonl"
    path.parent.mkdir()
    others = [{**LETTER, "row": n, "outcome": "truncated", "reason": "too long"} for n in range(4, 200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [LETTER, *others]))
    monkeypatch.setenv("AIRFLOW__SEGMIND__OUTPUT_PATH", str(path.parent))
    return str(path)
