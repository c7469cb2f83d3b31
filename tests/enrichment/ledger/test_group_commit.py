"""How many events are durable is known at every moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.ledger.group_commit import GroupCommit
from airflow_provider_segmind.enrichment.ledger.ledger import Batch
from tests.support.ledger_events import finished


@pytest.mark.parametrize("works", [True, False])
async def test_events_count_as_durable_once_they_are_written(works: bool) -> None:
    seen: list[int] = []

    def write(batch: Batch) -> None:
        seen.append(commits.durable)
        if not works:
            raise OSError("the disk is full")

    member: Any = SimpleNamespace(inbox=[], own_segments=0)
    ledger: Any = SimpleNamespace(append=lambda event: None, take=lambda: Batch([], ()), write=write, folder="a folder")
    with ThreadPoolExecutor(1) as threads:
        commits = GroupCommit(
            ledger, member, delay=0.0, urgent=1, fold_at=9, failed=lambda error: None, threads=threads
        )
        commits.append(finished(1))
        commits.append(finished(2))
        await commits.close()

    assert (seen[0], commits.appended, commits.durable) == (0, 2, 2 if works else 0)
