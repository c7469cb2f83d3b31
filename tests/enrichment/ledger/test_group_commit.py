"""How many events are durable is known at every moment."""

from __future__ import annotations

import asyncio
import threading
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


async def test_a_claim_is_written_while_the_one_before_it_is_listed_for() -> None:
    done: list[str] = []
    written_twice = threading.Event()

    def write(batch: Batch) -> None:
        done.append("write")
        if done.count("write") == 2:
            written_twice.set()

    def refresh() -> None:
        assert written_twice.wait(timeout=10)
        done.append("list")

    member: Any = SimpleNamespace(inbox=[], own_segments=0, refresh=refresh)
    ledger: Any = SimpleNamespace(append=lambda event: None, take=lambda: Batch([], ()), write=write, folder="a folder")
    with ThreadPoolExecutor(2) as threads:
        commits = GroupCommit(
            ledger, member, delay=0.0, urgent=1, fold_at=9, failed=lambda error: None, threads=threads
        )
        first = asyncio.create_task(commits.commit(finished(1)))
        while not done:
            await asyncio.sleep(0)
        await asyncio.gather(first, commits.commit(finished(2)))
        await commits.close()

    # Each claim has a listing of its own, because the first one may have begun before the second was written.
    assert done[:2] == ["write", "write"]
    assert done.count("list") == 2
