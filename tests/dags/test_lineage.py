"""What OpenLineage's file transport receives from the examples, on a real task runner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.monitoring.cli import main
from airflow_provider_segmind.spend.store import configured_store
from tests.support.dag_runs import run_dags

pytestmark = pytest.mark.airflow

FILE, SHARDED, SQL = "example_segmind_enrich_file", "example_segmind_sharded", "example_segmind_catalogue"
TRIAGE = {"team": "delivery", "urgent": False, "summary": "A question."}


class Ended(NamedTuple):
    runs: dict[str, dict[str, Any]]
    folder: Path
    events: list[dict[str, Any]]
    bill: float


@pytest.fixture(scope="module")
def ended(airflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("lineage")
    log = folder / "events.jsonl"
    with SegmindEmulator() as emulator:
        emulator.script(match="ticket", json=TRIAGE)
        emulator.script(match="unanswerable", fail="no")
        runs = run_dags(
            *[(f"dags_examples/{name}.py", name) for name in (FILE, SHARDED, SQL)],
            ("tests/dags/lineage_data.py", "lineage_data"),
            connection=emulator.connection_json,
            SEGMIND_EXAMPLE_OUTPUT=folder.as_uri(),
            SEGMIND_EXAMPLE_DUCKDB=str(folder / "shop.duckdb"),
            SEGMIND_EXAMPLE_ROWS="20",
            AIRFLOW__SEGMIND__SPEND_PATH=(folder / "spend").as_uri(),
            AIRFLOW__OPENLINEAGE__TRANSPORT=json.dumps({"type": "file", "log_file_path": str(log), "append": True}),
        )
        bill = sum(entry.cost for entry in emulator.bill)
    return Ended(runs, folder, list(events_of(log.read_text())), bill)


def events_of(text: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a file; processes that write at the same moment may share a line."""
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        event, at = decoder.raw_decode(text, at)
        yield event


def the_event(ended: Ended, job: str, kind: str = "COMPLETE") -> dict[str, Any]:
    """The only event of its kind about a task."""
    (found,) = [event for event in ended.events if event["job"]["name"] == job and event["eventType"] == kind]
    return found


def names(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["namespace"], one["name"]) for one in datasets]


def columns(dataset: dict[str, Any]) -> dict[str, str | None]:
    return {one["name"]: one.get("type") for one in dataset["facets"]["schema"]["fields"]}


def origins(dataset: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    fields = dataset["facets"]["columnLineage"]["fields"]
    return {name: [(one["name"], one["field"]) for one in each["inputFields"]] for name, each in fields.items()}


def test_a_file_task_names_its_files_from_the_start(ended: Ended) -> None:
    started, done = (the_event(ended, f"{FILE}.triage", kind) for kind in ("START", "COMPLETE"))
    (run,) = (path.parent for path in (ended.folder / "tickets").glob("*/triage.jsonl"))
    source, output = (str(run / name) for name in ("tickets.jsonl", "triage.jsonl"))

    assert names(started["inputs"]) == names(done["inputs"]) == [("file", source)]
    assert names(started["outputs"]) == names(done["outputs"]) == [("file", output)]


def test_the_columns_of_an_answer_come_from_the_placeholders_of_the_prompt(ended: Ended) -> None:
    done = the_event(ended, f"{FILE}.triage")
    (source,), (output,) = done["inputs"], done["outputs"]

    assert columns(source) == {"ticket_id": None, "text": None}
    assert {"team": "text", "urgent": "boolean"}.items() <= columns(output).items()
    assert origins(output) == {
        "ticket_id": [(source["name"], "ticket_id")],
        **{name: [(source["name"], "text")] for name in ("team", "urgent", "summary")},
    }


def test_the_output_has_its_rows_and_bytes(ended: Ended) -> None:
    (output,) = the_event(ended, f"{FILE}.triage")["outputs"]

    found = output["outputFacets"]["outputStatistics"]
    assert (found["rowCount"], found["size"]) == (4, Path(output["name"]).stat().st_size)


def test_a_query_names_its_tables_and_the_columns_behind_its_own(ended: Ended) -> None:
    done = the_event(ended, f"{SQL}.describe")
    (output,) = done["outputs"]
    namespace = f"duckdb://{ended.folder / 'shop.duckdb'}"

    assert names(done["inputs"]) == [(namespace, "main.segmind_products")]
    assert names(done["outputs"]) == [(namespace, "main.segmind_product_texts")]
    assert columns(done["inputs"][0]) == {"sku": "bigint", "name": "varchar", "material": "varchar"}
    assert columns(output)["sku"] == "bigint"
    assert origins(output)["room"] == [("main.segmind_products", "material"), ("main.segmind_products", "name")]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 20
    assert done["job"]["facets"]["sql"]["query"].startswith("SELECT sku, name, material FROM segmind_products")


def test_a_merge_reads_the_files_of_the_shards_and_writes_one(ended: Ended) -> None:
    done = the_event(ended, f"{SHARDED}.merge")

    assert [Path(one["name"]).name for one in done["inputs"]] == [f"triage.{index}-of-4.parquet" for index in range(4)]
    assert [Path(one["name"]).name for one in done["outputs"]] == ["triage_of_all_shards.parquet"]


def test_a_failed_task_names_what_it_wrote(ended: Ended) -> None:
    failed = the_event(ended, "lineage_data.ask", "FAIL")

    assert [Path(one["name"]).name for one in failed["outputs"]] == ["answers.jsonl"]
    assert failed["run"]["facets"]["segmind_table"]["outcomes"]["failed"] == 1


def test_the_facets_of_all_tasks_add_up_to_the_bill(ended: Ended) -> None:
    facets = [event["run"]["facets"].get("segmind_table") for event in ended.events if "merge" not in str(event["job"])]
    found = [facet for facet in facets if facet is not None]

    assert sum(facet["costUsd"] for facet in found) == pytest.approx(ended.bill)
    assert all(facet["costMicros"] == round(facet["costUsd"] * 1e6) for facet in found)
    assert {facet["_producer"].partition("@")[0] for facet in found} == {"pkg:pypi/airflow-provider-segmind"}
    assert {facet["promptHash"] for facet in found} >= {
        ended.runs[FILE]["values"]["triage"]["prompt_hash"],
        ended.runs[SQL]["values"]["describe"]["prompt_hash"],
    }


def test_record_command_manifests_and_facets_show_the_same_money(
    ended: Ended, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_PATH", (ended.folder / "spend").as_uri())
    with pytest.raises(SystemExit, match="0"):
        main(["spend", "--by", "dag,task", "--output", "json"])
    # Airflow's mode for unit tests says on the standard output that it is on.
    printed = capsys.readouterr().out
    command = json.loads(printed[printed.index("{\n") :])
    store = configured_store()
    assert store is not None
    recorded: dict[tuple[str, str], float] = {}
    for one in store.read():
        key = (one.dag_id, one.task_id)
        recorded[key] = recorded.get(key, 0.0) + (one.cost_micros or 0.0)
    facets: dict[str, float] = {}
    for event in ended.events:
        if (facet := event["run"]["facets"].get("segmind_table")) and not event["job"]["name"].endswith(".merge"):
            facets[event["job"]["name"]] = facets.get(event["job"]["name"], 0.0) + facet["costMicros"]

    assert sum(recorded.values()) == pytest.approx(ended.bill * 1e6, abs=1e-6)
    assert command["total"]["cost_micros"] == pytest.approx(ended.bill * 1e6)
    assert {(one["dag"], one["task"]): one["cost_micros"] for one in command["groups"]} == pytest.approx(recorded)
    # Each shard has a facet of its own, rounded by itself.
    assert facets == {".".join(key): pytest.approx(cost, abs=2) for key, cost in recorded.items()}
    for dag_id, task_id in ((FILE, "triage"), (SQL, "describe")):
        cost = ended.runs[dag_id]["values"][task_id]["cost"]
        assert cost * 1e6 == pytest.approx(recorded[dag_id, task_id], abs=1e-3)


def test_no_event_names_a_file_beside_the_tables(ended: Ended) -> None:
    found = {one["name"] for event in ended.events for one in (*event["inputs"], *event["outputs"])}

    assert found
    assert not [name for name in found if "ledger" in name or "manifest" in name or "dead_letters" in name]
