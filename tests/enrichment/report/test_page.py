from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.report.charts import COLOURS
from airflow_provider_segmind.enrichment.report.page import render, write_report
from tests.support.manifests import HOSTILE, manifest_of

LARGEST = 150_000
RUNS = {
    "no rows": manifest_of(0),
    "one row": manifest_of(1),
    "many rows": manifest_of(200_000, failed=700),
    "all failed": manifest_of(40, failed=40),
    "a second try": manifest_of(300, resumed=12, stopped="max_cost=$5.00 is used up"),
    "a hostile reason": manifest_of(30, failed=3, reason=HOSTILE, model="<b>m</b>", outputs=["/x/<i>.csv"]),
}


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        self.charts = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href", "action", "style"):
                self.addresses.append(str(value))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", RUNS)
def test_a_page_stands_by_itself_whatever_the_run_was(name: str) -> None:
    text = render(RUNS[name])
    page = Page(text)

    assert len(text) < LARGEST
    assert not {"script", "img", "iframe", "object", "embed", "form"} & set(page.tags)
    assert not [one for one in page.addresses if "http" in one or one.startswith("//")]
    assert len(page.ids) == len(set(page.ids))
    assert not set(re.findall(r'(?:url\(|href=")#([\w-]+)', text)) - set(page.ids)


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


def test_the_page_says_what_the_manifest_holds() -> None:
    page = Page(render(RUNS["many rows"]))

    for said in ("200,000", "199,300", "69.75", "400,000", "1 h 23 min", "overloaded", "700", "p90"):
        assert said in page.text
    assert "/data/out/described.jsonl" in page.text
    assert "unchanged" not in page.text
    assert "12 rows unchanged in the target" in render(manifest_of(20, rows_unchanged=12))


def test_the_page_names_task_run_table_prompt_and_some_keys() -> None:
    manifest = manifest_of(
        500, failed=10, source="s3://bucket/in/*.jsonl", prompt_hash="6816ecf28ee081068ae8", follow_up_cost=0.03
    )
    keys = {("failed", "overloaded"): ["sku-17", HOSTILE]}
    page = Page(render(manifest, task_url="https://airflow.example.com/dags/a_dag", keys=keys))

    assert "490 of 500 rows answered, 10 without an answer" in page.text
    assert "a_task in DAG a_dag" in page.text
    assert "s3://bucket/in/*.jsonl → /data/out/described.jsonl" in " ".join(page.text.split())
    assert "gemini-3.1-flash-lite, prompt 6816ecf28ee0" in page.text
    assert "sku-17, <script>" in page.text
    assert "$0.1415 first answers, $0.03 follow-ups" in page.text
    assert "https://airflow.example.com/dags/a_dag" in page.addresses
    assert "The last runs" not in page.text


def test_what_others_wrote_is_text_and_nothing_else() -> None:
    page = Page(render(RUNS["a hostile reason"]))

    assert "<script>alert(document.cookie)</script>" in page.text
    assert "<b>m</b>" in page.text


def test_text_and_lines_of_a_chart_take_the_colours_of_the_page() -> None:
    text = render(RUNS["all failed"])

    assert "currentColor" in text
    assert not re.search(r"fill: #000000|fill: #ffffff", text)
    assert COLOURS[Outcome.FAILED] in text


def test_a_file_beside_the_report_is_a_link_that_moves_with_it() -> None:
    page = Page(render(manifest_of(5, report="/data/out/described.report.html")))

    assert "described.jsonl" in page.addresses
    assert not [one for one in page.addresses if "dead_letters" in one]


def test_the_same_run_makes_the_same_page(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(RUNS["a second try"], tmp_path / "out" / name)

    assert (tmp_path / "out" / "a.html").read_bytes() == (tmp_path / "out" / "b.html").read_bytes()
    assert "12 answers to requests of an earlier try" in (tmp_path / "out" / "a.html").read_text()
    assert "Stopped: max_cost=$5.00 is used up" in (tmp_path / "out" / "a.html").read_text()
