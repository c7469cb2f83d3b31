"""An enrichment pays once for each distinct row, and writes its output however the task ends."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.compat import AirflowFailException, AirflowSkipException
from airflow_provider_segmind.enrichment import engine
from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.enrichment.ledger.prompts import prompt_hash_of, prompt_of
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError, SegmindRateLimitError
from airflow_provider_segmind.execution import enrichment
from tests.support.airflow_fakes import Run
from tests.support.table_tasks import BLANK, Colour, Table, read, things


def test_every_row_has_its_answer_in_order_and_equal_rows_are_paid_once(table: Table) -> None:
    manifest = table.ask(source=table.write(things("sky", "rose", "sky")))

    assert [(row["id"], row["answer"]) for row in table.rows] == [
        (0, "echo: The colour of sky?"),
        (1, "echo: The colour of rose?"),
        (2, "echo: The colour of sky?"),
    ]
    assert table.posts == len(table.emulator.bill) == 2
    assert manifest["outcomes"]["success"] == manifest["rows_read"] == 3
    assert manifest["duplicates_saved"] == 1
    assert manifest["cost"] == pytest.approx(sum(row["_segmind_cost"] for row in table.rows))
    assert json.loads(table.output.with_name("colours.manifest.json").read_text()) == manifest


@pytest.mark.parametrize("name", ["colours.csv", "colours.parquet", "colours.jsonl"])
def test_a_key_column_that_is_named_twice_is_written_once(table: Table, name: str) -> None:
    output = table.output.with_name(name)

    manifest = table.ask(source=table.write(things("sky")), key=["id", "id"], output_path=str(output))

    assert list(next(iter(open_source(output)))) == manifest["columns"]
    assert manifest["columns"][:2] == ["id", "answer"]


def test_the_manifest_counts_every_call_to_the_gateway_and_its_time(table: Table) -> None:
    table.emulator.fault("submit", status=429, headers={"Retry-After": "0"}, times=2)
    table.emulator.script(match="rose", fail="too red")

    manifest = table.ask(source=table.write(things("sky", "rose", "leaf")), max_failed_rows=None)

    counts = table.emulator.counts()
    made = sum(sum(counts[route].values()) for route in ("submit", "status", "result") if route in counts)
    assert manifest["calls"] == made
    assert manifest["posts"] == table.posts == 5
    assert sum(manifest["timeline"]["posts"]) == 5
    assert sum(manifest["timeline"]["cost"]) == pytest.approx(manifest["cost"])
    assert manifest["reasons"] == {"failed": {"too red": 1}}
    assert manifest["columns"][:2] == ["id", "answer"]


def test_an_answer_that_is_not_an_object_is_invalid_and_the_others_are_written(table: Table) -> None:
    table.emulator.script(text='{"colour": "blue"}')
    table.emulator.script(match="rose", text="[1, 2]")

    manifest = table.ask(
        source=table.write(things("sky", "rose")),
        output_type={"properties": {"colour": {"type": "string"}}},
        max_repairs=0,
        max_failed_rows=None,
    )

    assert (manifest["outcomes"]["success"], manifest["outcomes"]["invalid"]) == (1, 1)
    assert [row["colour"] for row in table.rows] == ["blue", None]
    assert "not an object" in table.dead_letters[0]["reason"]


def test_an_output_type_becomes_columns(table: Table) -> None:
    table.emulator.script(json={"colour": "blue", "warm": False})

    table.ask(source=table.write(things("sky")), output_type=Colour)

    assert {name: table.rows[0][name] for name in ("id", "colour", "warm")} == {
        "id": 0,
        "colour": "blue",
        "warm": False,
    }
    assert table.emulator.posts()[0].json["response_format"]["json_schema"]["name"] == "Colour"


def test_a_list_is_one_column(table: Table) -> None:
    table.emulator.script(json={"value": ["blue", "grey"]})

    table.ask(source=table.write(things("sky")), output_type=list[str])

    assert table.rows[0]["answer"] == ["blue", "grey"]


def test_a_second_run_asks_only_about_what_changed(table: Table) -> None:
    table.ask(source=table.write(things("sky", "rose")))
    table.run = Run(run_id="manual__2")

    manifest = table.ask(source=table.write(things("leaf", "sky", "rose")))

    assert table.posts == 3
    assert manifest["cache_hits"] == 2
    assert [row["answer"][-6:] for row in table.rows] == [" leaf?", "f sky?", " rose?"]


def test_the_prompt_hash_depends_on_the_prompt_and_not_on_the_rows_or_the_model(table: Table) -> None:
    first = table.ask(source=table.write(things("sky")))["prompt_hash"]
    other_rows = table.ask(source=table.write(things("rose")), model="gemini-2.5-flash")["prompt_hash"]
    other_prompt = table.ask(source=table.write(things("sky")), prompt="The taste of {thing}?")["prompt_hash"]

    assert len(first) == 64
    assert other_rows == first
    assert other_prompt != first


def test_csv_goes_in_and_out(table: Table) -> None:
    (table.folder / "things.csv").write_text("id,thing\n007,sky\n")
    output = table.folder / "out.csv"

    table.ask(source=(table.folder / "things.csv").as_uri(), output_path=output.as_uri(), key=["id"])

    assert output.read_text().splitlines()[1].startswith("007,echo: The colour of sky?,success,")


def test_rows_of_a_list_are_neither_rendered_nor_shown(table: Table) -> None:
    task = table.task(source=things("{{ ds }}"))

    task.render_template_fields({"ds": "2026-11-23"})
    task.execute(table.run.context())

    assert "{{ ds }}" not in str(task.source)
    assert table.rows[0]["answer"] == "echo: The colour of {{ ds }}?"


def test_jinja_renders_the_prompt_once_and_columns_are_filled_afterwards(table: Table) -> None:
    task = table.task(source=table.write(things("{{ ds }}")), prompt="On {{ ds }}: {thing}?")

    task.render_template_fields({"ds": "2026-11-23"})
    task.execute(table.run.context())

    assert table.rows[0]["answer"] == "echo: On 2026-11-23: {{ ds }}?"


def test_native_inputs_get_the_typed_values_of_columns(table: Table) -> None:
    table.ask(source=table.write([{"id": 1, "seed": 7, "thing": "sky"}]), inputs={"prompt": BLANK, "seed": "{seed}"})

    assert table.emulator.posts()[0].json == {"prompt": "The colour of sky?", "seed": 7}


def test_a_missing_column_is_named_before_anything_is_sent(table: Table) -> None:
    with pytest.raises(AirflowFailException, match=r"no column 'thing'.*Nothing was sent"):
        table.ask(source=table.write([{"id": 1, "ding": "sky"}]))

    assert table.posts == 0


def test_a_missing_source_is_named(table: Table) -> None:
    with pytest.raises(AirflowFailException, match=r"no table at .*nowhere\.jsonl"):
        table.ask(source=str(table.folder / "nowhere.jsonl"))


class TestUnusableAnswers:
    def test_data_of_the_wrong_type_is_requested_once_more(self, table: Table) -> None:
        table.emulator.script(json={"colour": "blue", "warm": True})
        table.emulator.script(json={"colour": 5}, times=1)

        manifest = table.ask(source=table.write(things("sky")), output_type=Colour)

        assert table.rows[0]["colour"] == "blue"
        assert manifest["requests"] == 2
        assert manifest["cost"] == pytest.approx(sum(entry.cost for entry in table.emulator.bill))
        assert "not valid JSON" in str(table.emulator.posts()[1].json)

    def test_a_truncated_answer_gets_a_larger_output_cap(self, table: Table) -> None:
        table.emulator.script(text="blu", finish_reason="length", times=1)

        table.ask(source=table.write(things("sky")), options={"max_tokens": 100})

        assert [post.json["max_tokens"] for post in table.emulator.posts()] == [100, 400]
        assert table.rows[0]["_segmind_status"] == "success"

    def test_without_repairs_they_are_paid_once_and_become_dead_letters(self, table: Table) -> None:
        table.emulator.script(text="blu", finish_reason="length", match="sky")
        table.emulator.script(finish_reason="safety", match="rose")
        table.emulator.script(fail="content policy", match="leaf")

        manifest = table.ask(
            source=table.write(things("sky", "rose", "leaf", "sea")), max_repairs=0, max_failed_rows=None
        )

        assert [row["_segmind_status"] for row in table.rows] == ["truncated", "blocked", "failed", "success"]
        assert [letter["key"] for letter in table.dead_letters] == [{"id": 0}, {"id": 1}, {"id": 2}]
        assert (table.posts, manifest["requests"]) == (4, 4)

    def test_too_many_of_them_fail_the_task_after_the_output_is_written(self, table: Table) -> None:
        table.emulator.script(finish_reason="safety", match="rose")

        with pytest.raises(AirflowFailException, match=r"1 of 2 rows failed, max_failed_rows=0\.1"):
            table.ask(source=table.write(things("sky", "rose")))

        assert [row["_segmind_status"] for row in table.rows] == ["success", "blocked"]

    def test_a_retry_asks_only_about_rows_that_were_not_billed(self, table: Table) -> None:
        table.emulator.script(fail="overloaded", match="rose", times=1)
        source = table.write(things("sky", "rose"))
        with pytest.raises(SegmindEnrichmentError):
            table.ask(source=source)

        manifest = table.ask(source=source)

        assert manifest["outcomes"]["success"] == 2
        assert (table.posts, len(table.emulator.bill)) == (3, 2)


class TestLimits:
    def test_an_incomplete_table_fails_the_task_and_keeps_the_answers(self, table: Table) -> None:
        with pytest.raises(AirflowFailException, match=r"max_rows=1 is reached"):
            table.ask(source=table.write(things("sky", "rose")), max_rows=1)

        assert sorted(row["_segmind_status"] for row in table.rows) == ["skipped", "success"]

    def test_a_retry_has_no_fresh_budget(self, table: Table) -> None:
        source = table.write(things("sky", "rose", "leaf"))
        for _ in range(2):
            with pytest.raises(AirflowFailException):
                table.ask(source=source, max_rows=1)

        assert table.posts == 1

    def test_an_incomplete_table_may_succeed(self, table: Table) -> None:
        manifest = table.ask(source=table.write(things("sky", "rose")), max_rows=1, on_partial="succeed")

        assert manifest["outcomes"]["skipped"] == 1

    def test_an_incomplete_table_may_skip_downstream_and_pushes_the_manifest(self, table: Table) -> None:
        with pytest.raises(AirflowSkipException):
            table.ask(source=table.write(things("sky", "rose")), max_rows=1, on_partial="skip_downstream")

        assert table.run.ti.pushed["return_value"]["outcomes"]["skipped"] == 1

    def test_a_wrong_api_key_stops_the_run_at_the_first_call(
        self, table: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connection = {**table.emulator.connection, "password": "SG_wrong"}
        monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(connection))

        with pytest.raises(AirflowFailException, match="401"):
            table.ask(source=table.write(things("sky", "rose")))

    def test_an_account_without_credits_stops_the_run_and_keeps_the_answers(self, table: Table) -> None:
        table.ask(source=table.write(things("sky")))
        table.emulator.fault("submit", status=402, body={"error": "Insufficient credits"}, times=None)

        with pytest.raises(AirflowFailException, match="402"):
            table.ask(source=table.write(things("sky", *map(str, range(200)))), concurrency=1)

        assert table.rows[0]["_segmind_status"] == "success"
        assert table.posts == 2


class TestStops:
    @pytest.fixture
    def slow(self, table: Table, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(engine, "GRACE", 0.2)
        table.emulator.script(latency=600.0, match="rose")
        return table.write(things("sky", "rose"))

    def when_asked(self, table: Table, act: Callable[[], None]) -> threading.Thread:
        def watch() -> None:
            done = threading.Event()
            while len(table.emulator.jobs) < 2 or len(table.emulator.bill) < 1:
                done.wait(0.01)
            # Give the answer time to arrive.
            done.wait(1.5)
            act()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        return thread

    def test_a_kill_stores_what_finished_and_the_retry_fetches_the_others(self, table: Table, slow: str) -> None:
        task = table.task(source=slow)
        self.when_asked(table, task.on_kill)

        with pytest.raises(SegmindEnrichmentError, match="the task was killed") as caught:
            task.execute(table.run.context())

        assert caught.value.retryable
        assert [row["_segmind_status"] for row in table.rows] == ["success", "unknown"]
        table.emulator.advance(600.0)
        manifest = table.ask(source=slow)
        assert manifest["outcomes"]["success"] == 2
        assert table.posts == 2

    def test_an_exception_from_airflow_in_the_main_thread_stores_it_too(self, table: Table, slow: str) -> None:
        import signal

        class TimeIsUp(BaseException):
            pass

        def on_alarm(*_: object) -> None:
            raise TimeIsUp

        before = signal.signal(signal.SIGUSR1, on_alarm)
        main = threading.main_thread().ident or 0
        self.when_asked(table, lambda: signal.pthread_kill(main, signal.SIGUSR1))
        try:
            with pytest.raises(TimeIsUp):
                table.ask(source=slow)
        finally:
            signal.signal(signal.SIGUSR1, before)

        assert [row["_segmind_status"] for row in table.rows] == ["success", "unknown"]


def test_shards_share_the_rows_and_pay_equal_ones_once(table: Table) -> None:
    source = table.write(things(*(f"thing {number % 20}" for number in range(30))))

    read_rows = 0
    for index in range(2):
        table.run = Run(map_index=index)
        read_rows += table.ask(source=source, shard_index=index, shard_count=2)["rows_read"]

    assert read_rows == 30
    assert table.posts == 20
    parts = [read(table.output.with_name(f"colours.{index}-of-2.jsonl")) for index in range(2)]
    assert sorted(row["id"] for part in parts for row in part) == list(range(30))


def test_a_sample_asks_a_few_rows_and_extrapolates(table: Table) -> None:
    table.ask(source=table.write(things(*map(str, range(20)))), sample=4)

    estimate = table.run.ti.pushed["estimate"]
    billed = sum(entry.cost for entry in table.emulator.bill)
    assert table.posts == 4
    assert estimate["cost"] == pytest.approx(5 * billed)
    assert billed <= estimate["low"] <= estimate["cost"] <= estimate["high"]
    assert not table.output.exists()
    assert len(read(table.output.with_name("colours.sample.jsonl"))) == 4


def test_rows_of_a_sample_that_a_limit_left_unsent_are_not_free_in_the_estimate(table: Table) -> None:
    source = table.write([*things("a", "b", "c", "d"), {"id": 4}, *things("e", "f", "g")])

    manifest = table.ask(source=source, sample=5, max_rows=2, on_partial="succeed")

    estimate, billed = table.run.ti.pushed["estimate"], sum(entry.cost for entry in table.emulator.bill)
    assert (table.posts, manifest["outcomes"]["skipped"]) == (2, 3)
    assert (estimate["rows"], estimate["sample"]) == (8, 2)
    assert estimate["cost"] == pytest.approx(4 * billed)


def test_rows_of_a_sample_without_a_reported_cost_are_not_free_in_the_estimate(
    table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    table.emulator.settings(metrics="old")
    table.ask(source=table.write(things("a", "b", "c")), sample=2)

    assert "estimate" not in table.run.ti.pushed
    assert "the cost of none of the sample's rows is known" in caplog.text


def test_a_name_in_capitals_has_its_format_in_samples_and_shards(table: Table) -> None:
    source = table.write(things("sky", "rose"))

    sample = table.ask(source=source, sample=1, output_path=str(table.folder / "O.CSV.GZ"))
    shard = table.ask(source=source, shard_count=2, output_path=str(table.folder / "O.CSV.GZ"))

    assert sample["outputs"] == [str(table.folder / "O.sample.CSV.GZ")]
    assert shard["outputs"] == [str(table.folder / "O.0-of-2.CSV.GZ")]


@pytest.mark.parametrize("index", [0, 1])
def test_a_sample_of_a_shard_counts_all_rows_of_the_source(table: Table, index: int) -> None:
    table.ask(source=table.write(things(*map(str, range(50)))), sample=10, shard_index=index, shard_count=2)

    estimate = table.run.ti.pushed["estimate"]
    assert (estimate["rows"], estimate["sample"]) == (50, table.posts)
    assert 0 < table.posts < 10


def test_an_error_that_stopped_the_run_keeps_its_kind(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    error = SegmindRateLimitError("still too many")

    def stopped(self: Any) -> None:
        self._engine.stop("too many", error=error)

    monkeypatch.setattr(enrichment.EnrichmentRun, "_stop_engine", stopped)

    with pytest.raises(SegmindRateLimitError):
        table.ask(source=table.write(things("sky")))


def test_notes_are_in_the_manifest_as_strings_and_in_the_report(table: Table) -> None:
    notes = {"approved_by": "Ada <ada@example.com>", "ticket": 4711}

    manifest = table.ask(source=things("sky"), notes=notes)

    assert manifest["notes"] == {"approved_by": "Ada <ada@example.com>", "ticket": "4711"}
    assert json.loads((table.output.parent / "colours.manifest.json").read_text())["notes"] == manifest["notes"]
    assert "<dt>approved_by</dt><dd>Ada &lt;ada@example.com&gt;</dd>" in Path(manifest["report"]).read_text()


def test_the_ledger_keeps_the_prompt_unless_prompts_are_masked(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = table.output.parent / "_segmind_ledger"
    options = {"temperature": 0.5}
    manifest = table.ask(source=things("sky"), system="Be brief.", options=options)

    kept = prompt_of(ledger, manifest["prompt_hash"])
    assert kept is not None
    assert {name: kept["template"][name] for name in ("prompt", "system", "options")} == {
        "prompt": BLANK,
        "system": "Be brief.",
        "options": options,
    }
    assert prompt_hash_of(ledger, run=manifest["run_id"], at=manifest["ended"]) == manifest["prompt_hash"]

    other = table.ask(source=things("sky"), prompt="Is {thing} warm?", mask_prompts=True)
    assert prompt_of(ledger, other["prompt_hash"]) is None
    monkeypatch.setenv("AIRFLOW__SEGMIND__MASK_PROMPTS", "True")
    another = table.ask(source=things("sky"), prompt="Is {thing} old?")
    assert prompt_of(ledger, another["prompt_hash"]) is None


def test_the_log_contains_no_row(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    table.ask(source=table.write(things("canary-thing")))

    assert "The only row answered" in caplog.text
    assert "canary" not in caplog.text


def test_the_heartbeat_timeout_of_a_run_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_provider_segmind.execution.enrichment import writer_timeout

    assert writer_timeout() == 60.0
    monkeypatch.setenv("AIRFLOW__SEGMIND__WRITER_TIMEOUT", "12.5")
    assert writer_timeout() == 12.5
    for bad in ("0", "-3", "inf", "nan"):
        monkeypatch.setenv("AIRFLOW__SEGMIND__WRITER_TIMEOUT", bad)
        with pytest.raises(SegmindConfigError, match="writer_timeout"):
            writer_timeout()
