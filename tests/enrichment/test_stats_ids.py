from __future__ import annotations

import pytest

from airflow_provider_segmind.enrichment.stats import LatestIds
from airflow_provider_segmind.exceptions import SegmindResponseError


def test_an_id_that_comes_again_is_refused_as_long_as_it_is_remembered() -> None:
    ids = LatestIds(most=2)
    ids.add("a")
    ids.add("b")
    for again in ("a", "b"):
        with pytest.raises(
            SegmindResponseError, match=f"'{again}', which is that of another row. It is unknown"
        ) as raised:
            ids.add(again)
        assert raised.value.billed is None
    ids.add("c")
    ids.add("a")
