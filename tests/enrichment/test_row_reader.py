from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
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


class EmptyTable:
    """A target without answers that takes every key."""

    def trouble(self, _: Mapping[str, Any], __: int) -> None:
        """Return that there is none."""

    def has_answer(self, _: Mapping[str, Any], __: bytes) -> bool:
        return False


def test_equal_rows_are_found_with_their_keys_while_the_table_is_read() -> None:
    tuned(block_rows=2)
    texts = [str(number % 7) for number in range(40)]
    with closing(RowReader(table(*texts), question(), Shard(), EmptyTable())) as rows:
        for seen in (2, 4, 6, 8, 10):
            mark, *_ = [prepared.fingerprint for prepared in rows.next_block()]
            (found,) = rows.equal_rows(mark, after=seen - 3, most=1)
            assert (found.number, found.key, found.fingerprint) == (seen - 2, {"id": seen - 2}, mark)
            assert found.first is (seen <= 8)
        fingerprints = list(read(rows))
        third = rows.equal_rows(fingerprints[0], after=3, most=3)
        assert [(row.number, row.key["id"], row.first) for row in third] == [
            (10, 10, False),
            (17, 17, False),
            (24, 24, False),
        ]
        assert [row.first for row in rows.source_rows()] == [number < 7 for number in range(40)]


def test_each_shard_returns_its_own_rows_in_order() -> None:
    tuned(block_rows=4)
    rows = [{"id": 0}, *table(*(str(number % 30) for number in range(60)))[1:]]
    found: dict[int, bool] = {}
    for index in range(3):
        with closing(RowReader(rows, question(), Shard(index=index, count=3))) as shard:
            list(read(shard))
            numbers = [(source.number, source.first) for source in shard.source_rows()]
            assert numbers == sorted(numbers)
            assert numbers == [(source.number, source.first) for source in shard.source_rows()]
            found.update(numbers)
    assert found == {number: number <= 30 for number in range(60)}


def test_rows_whose_order_does_not_fit_on_the_disk_are_not_asked_about() -> None:
    texts = ["0", "0", *map(str, range(1000))]
    unasked: list[dict[str, Any]] = [{"id": "a"}, {"id": "b"}]
    with disk_of(1 << 15), closing(reader([*table(*texts[:4]), *unasked, *table(*texts[4:])], block_rows=10)) as rows:
        prepared = list(read(rows))
        sources: list[SourceRow] = list(rows.source_rows())
    assert "temporary folder" in str(rows.broken)
    assert not rows.exhausted
    assert rows.next_block() == []
    assert 2 < len(prepared) + 2 == len(sources) == rows.rows_seen < 1000
    assert [source.fingerprint for source in sources if source.fingerprint] == prepared
    assert [source.first for source in sources[:7]] == [True, False, False, True, True, True, True]
