from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.row_reader import RowReader, SourceRow
from airflow_provider_segmind.enrichment.settings import Shard
from tests.enrichment.ledger.test_local_index import disk_of
from tests.support.engine_tuning import tuned
from tests.support.enrichment import question, table


def reader(rows: list[dict[str, Any]], **settings: int) -> RowReader:
    tuned(**settings)
    return RowReader(rows, question(), Shard())  # type: ignore[arg-type]


def read(reader: RowReader) -> Iterator[bytes]:
    while not reader.exhausted and reader.broken is None:
        yield from (prepared.fingerprint for prepared in reader.next_block())


def test_rows_come_back_in_order_and_equal_ones_know_their_first() -> None:
    with closing(reader(table("a", "b", "a", "a", "b", "c"), block_rows=2)) as rows:
        prepared = list(read(rows))
        sources = list(rows.source_rows())
    assert [source.number for source in sources] == list(range(6))
    assert [source.fingerprint for source in sources] == prepared
    assert [source.first for source in sources] == [True, True, False, False, False, True]


def test_a_row_without_a_question_is_always_the_first_of_its_kind() -> None:
    broken: list[dict[str, Any]] = [{"id": 0, "text": "a"}, {"id": 1}, {"id": 2}]
    with closing(reader(broken)) as rows:
        assert len(list(read(rows))) == 1
        unasked = list(rows.source_rows())[1:]
    assert [(source.number, source.fingerprint, source.first) for source in unasked] == [
        (1, None, True),
        (2, None, True),
    ]
    assert all("no column 'text'" in source.trouble for source in unasked)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        ("k\ud83d", "k\ud83d"),
        (2**70, 2**70),
        (1.5, 1.5),
        (Decimal("1.50"), Decimal("1.50")),
        (date.min, date.min),
        (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
        (time(1, 2), time(1, 2)),
        (memoryview(b"k"), b"k"),
        ({"a": [Decimal(1)]}, {"a": [1]}),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    ],
)
def test_a_key_keeps_its_type(value: Any, kept: Any) -> None:
    with closing(reader([{"id": value, "text": "a"}])) as rows:
        list(read(rows))
        assert next(rows.source_rows()).key == {"id": kept}


def test_rows_whose_order_does_not_fit_on_the_disk_are_not_asked_about() -> None:
    texts = ["0", "0", *map(str, range(1000))]
    with disk_of(1 << 15), closing(reader(table(*texts), block_rows=10)) as rows:
        prepared = list(read(rows))
        sources: list[SourceRow] = list(rows.source_rows())
    assert "temporary folder" in str(rows.broken)
    assert not rows.exhausted
    assert 0 < len(prepared) == len(sources) == rows.rows_seen < 1000
    assert [source.fingerprint for source in sources] == prepared
    assert [source.first for source in sources[:4]] == [True, False, False, True]
