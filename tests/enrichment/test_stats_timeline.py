from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.enrichment.stats import MOST_BUCKETS, SERIES, Timeline

NIGHT = 1_700_000_000.0
moments = st.lists(
    st.tuples(st.floats(NIGHT - 5, NIGHT + 100_000), st.sampled_from(SERIES), st.integers(1, 5)), max_size=60
)


def totals(timeline: Timeline) -> dict[str, float]:
    return {name: sum(timeline.to_json().get(name, [])) for name in SERIES}


def test_a_short_run_is_told_by_eighths_of_a_second() -> None:
    timeline = Timeline()
    timeline.add(NIGHT, "posts")
    timeline.add(NIGHT + 0.3, "posts")
    timeline.add(NIGHT + 0.3, "cost", 0.25)

    told = timeline.to_json()

    assert (told["began"], told["width"]) == (NIGHT, 0.125)
    assert told["posts"] == [1, 0, 1]
    assert told["cost"] == [0, 0, 0.25]


def test_a_long_run_takes_no_more_room_and_loses_nothing() -> None:
    timeline = Timeline()
    for second in range(0, 36_000, 7):
        timeline.add(NIGHT + second, "polls")

    told = timeline.to_json()

    assert MOST_BUCKETS / 2 <= len(told["polls"]) <= MOST_BUCKETS
    assert sum(told["polls"]) == len(range(0, 36_000, 7))
    assert len(json.dumps(told)) < 3000


def test_an_empty_one_says_nothing() -> None:
    assert Timeline().to_json() == Timeline.sum_of([{}, {}]).to_json() == {}


@given(moments, moments)
def test_adding_shards_is_the_same_as_one_timeline_of_both(
    one: list[tuple[float, str, int]], other: list[tuple[float, str, int]]
) -> None:
    shards = [Timeline(), Timeline()]
    whole = Timeline()
    for shard, events in zip(shards, (one, other), strict=True):
        for moment, series, amount in events:
            shard.add(moment, series, amount)
            whole.add(moment, series, amount)

    added = Timeline.sum_of(shard.to_json() for shard in shards)

    assert added.to_json() == whole.to_json()
    assert totals(added) == totals(whole)
