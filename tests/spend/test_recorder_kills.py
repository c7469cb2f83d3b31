"""The spend record equals the bill, whatever is killed; tests/crash does this with many more runs."""

from __future__ import annotations

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.spend.store import SpendStore
from tests.support.airflow_fakes import Clock
from tests.support.spend_runs import SpendRuns


def test_the_record_equals_the_bill_although_tasks_are_killed(
    emulator: SegmindEmulator, clock: Clock, record: SpendStore
) -> None:
    runs = SpendRuns(emulator, clock, record, seed=1)
    for number in range(14):
        runs.run(number)
    runs.reconcile()
    runs.check()
    assert runs.killed
