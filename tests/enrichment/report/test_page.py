from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_provider_segmind.enrichment.report.page import render, write_report
from tests.support.manifests import HOSTILE, manifest_of
from tests.support.report_page import RUNS, Page

LARGEST = 150_000


@pytest.mark.parametrize("name", RUNS)
def test_a_page_stands_by_itself_whatever_the_run_was(name: str) -> None:
    text = render(RUNS[name])
    page = Page(text)

    assert len(text) < LARGEST
    assert not {"script", "img", "iframe", "object", "embed", "form"} & set(page.tags)
    assert not [one for one in page.addresses if "http" in one or one.startswith("//")]
    assert len(page.ids) == len(set(page.ids))
    assert not set(re.findall(r'(?:url\(|href=")#([\w-]+)', text)) - set(page.ids)


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
