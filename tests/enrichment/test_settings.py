"""Every row belongs to exactly one shard."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.enrichment.settings import Shard
from tests.support.ledger_events import mark


@given(fingerprint=st.binary(min_size=32, max_size=32), count=st.integers(1, 20))
def test_a_row_belongs_to_one_shard_whatever_its_fingerprint(fingerprint: bytes, count: int) -> None:
    owners = [index for index in range(count) if Shard(index=index, count=count).owns(fingerprint)]

    assert len(owners) == 1


def test_rows_are_dealt_out_evenly() -> None:
    shards = [Shard(index=index, count=4) for index in range(4)]

    owned = Counter(shard.index for number in range(4000) for shard in shards if shard.owns(mark(number)))

    assert sum(owned.values()) == 4000
    assert all(900 < count < 1100 for count in owned.values())
