"""The charts of a report."""

from __future__ import annotations

import re

import pytest

from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.report.charts import COLOURS
from airflow_provider_segmind.enrichment.report.page import render
from tests.support.report_page import RUNS, Page


@pytest.mark.parametrize("name", [name for name in RUNS if name != "no rows"])
def test_every_chart_is_named_and_described(name: str) -> None:
    charts = Page(render(RUNS[name])).charts

    assert len(charts) >= 4
    for chart in charts:
        words = {part.tag.rpartition("}")[2]: part.text for part in chart[:2]}
        assert chart.get("role") == "img"
        assert words["title"]
        assert words["desc"]
        assert chart.get("aria-labelledby") == f"{chart[0].get('id')} {chart[1].get('id')}"


def test_text_and_lines_of_a_chart_take_the_colours_of_the_page() -> None:
    text = render(RUNS["all failed"])

    assert "currentColor" in text
    assert not re.search(r"fill: #000000|fill: #ffffff", text)
    assert COLOURS[Outcome.FAILED] in text
