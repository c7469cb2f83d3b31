from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.files.readers import open_source, rows_in
from airflow_provider_segmind.enrichment.settings import Shard
from airflow_provider_segmind.enrichment.stats import WINDOW, Meter, Progress
from airflow_provider_segmind.exceptions import SegmindConfigError
from tests.support.engine_tuning import tuned
from tests.support.enrichment import Clock, FakeSegmind, question, table


class Run:
    """An engine whose every report is kept; the table is asked for its progress after each answer."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]], **options: Any) -> None:
        clock = Clock()
        self.told: list[Progress] = []
        segmind = FakeSegmind(clock, failing=lambda body: "overloaded" if "bad" in body["prompt"] else None)
        self.engine = Engine(
            question=question(),
            rows=iter(rows),
            ledger_folder=folder / "ledger",
            client=segmind,
            run_id="r",
            settings=tuned(concurrency=2, commit_delay=0.001, block_rows=8),
            clock=clock,
            sleep=clock.sleep,
            progress=self.told.append,
            **options,
        )
        segmind.tick = self.engine._report_progress

    async def end(self) -> list[Progress]:
        await self.engine.run()
        self.engine.close()
        return self.told


async def test_a_run_of_known_size_tells_its_share_and_what_is_left(tmp_path: Path) -> None:
    told = await Run(tmp_path, table(*map(str, range(19)), "bad"), rows_total=20).end()

    done = [one.rows_done for one in told]
    assert done == sorted(done)
    half = next(one for one in told if one.rows_done >= 10)
    assert (half.rows_total, half.share) == (20, half.rows_done / 20)
    assert half.eta == pytest.approx((20 - half.rows_done) / half.rate)
    last = told[-1]
    assert (last.rows_done, last.share, last.eta) == (20, 1.0, 0)
    assert (last.outcomes, last.reasons) == ({"success": 19, "failed": 1}, {"failed": {"overloaded": 1}})
    assert last.cost == pytest.approx(0.19)


async def test_a_size_that_nobody_knows_is_learned_at_the_end_of_the_source(tmp_path: Path) -> None:
    told = await Run(tmp_path, table(*map(str, range(20)))).end()

    assert (told[0].rows_total, told[0].share, told[0].eta) == (None, None, None)
    assert (told[-1].rows_total, told[-1].share) == (20, 1.0)


async def test_a_shard_tells_its_share_of_the_whole_source_and_its_own_rows(tmp_path: Path) -> None:
    told = await Run(tmp_path, table(*map(str, range(40))), rows_total=40, shard=Shard(index=1, count=3)).end()

    assert told[0].rows_total is None
    assert all(one.share is not None for one in told)
    assert told[-1].rows_done == told[-1].rows_total == told[-1].rows_read < 40
    assert told[-1].share == 1.0


def test_a_rate_forgets_how_fast_it_once_was() -> None:
    meter = Meter()
    for second in range(1, 3):
        meter.show(second, passed=1000 * second, done=1000 * second)
    assert meter.rate == 1000
    for second in range(3, 3 + WINDOW):
        meter.show(second, passed=2000 + 2 * (second - 2), done=2000 + (second - 2))

    assert meter.rate == pytest.approx(1)
    assert meter.left(2000 + 2 * WINDOW + 10) == pytest.approx(5)
    assert Meter().left(5) is None


def test_a_line_for_the_log_says_rows_rate_cost_time_left_and_reasons() -> None:
    progress = Progress(
        rows_read=900, rows_done=800, rows_total=2000, share=0.4, rate=12.34, eta=97.3, cost=0.28, in_flight=64, lost=1,
        outcomes={"success": 790, "failed": 10}, reasons={"failed": {"overloaded": 8, "too long": 2}},
    )  # fmt: skip

    assert str(progress) == (
        "800 of 2000 rows done (40%), 12.3 rows per second, $0.28, about 1 min 37 s left, 64 in flight, "
        "1 with an unknown outcome, distinct rows in this try: 10 failed, 790 success; "
        "8 failed: overloaded; 2 failed: too long"
    )
    assert (
        str(Progress())
        == "0 rows done, 0.0 rows per second, $0.00, 0 in flight, distinct rows in this try: no outcome yet"
    )


def test_the_size_of_a_table_is_known_where_it_need_not_be_read(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for number in (3, 4):
        parquet.write_table(arrow.table({"id": list(range(number))}), tmp_path / f"{number}.parquet")
    (tmp_path / "t.jsonl").write_text('{"id": 1}\n')

    assert rows_in(tmp_path / "*.parquet") == 7
    assert rows_in([tmp_path / "3.parquet", {"id": 1}]) == 4
    assert rows_in([{"id": 1}, {"id": 2}]) == 2
    assert rows_in(str(tmp_path / "t.jsonl")) is None
    assert rows_in(tmp_path) is None
    assert rows_in(iter([{"id": 1}])) is None
    with pytest.raises(SegmindConfigError, match="no table"):
        rows_in(tmp_path / "none.parquet")
    assert len(list(open_source(tmp_path / "*.parquet"))) == 7
