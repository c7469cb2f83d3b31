"""
The names that outlive a process, and the promise of docs/explanation/policies.md that they stay.

A deferred task is resumed by another version of this package, a ledger and a submission record are read months later,
a DAG pulls an XCom by its key, and a query names a column. Whoever renames or removes one of these names breaks that,
and in the worst case a task no longer finds the request that it has paid for.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_segmind.answer_cache import question_fingerprint
from airflow_provider_segmind.client.submission import (
    Fingerprint,
    GivenUp,
    RequestRef,
    ResultManifest,
    SubmissionRecord,
)
from airflow_provider_segmind.defaults import DEFAULT_CONNECTION, LEDGER_FOLDER, OWN_PREFIX
from airflow_provider_segmind.enrichment.ledger import events, ledger
from airflow_provider_segmind.enrichment.manifest import VERSION, Manifest
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.output import FINGERPRINT_COLUMN, ROW_COLUMN, STATUS_COLUMNS
from airflow_provider_segmind.spend.entries import FIELDS
from tests.guards.test_architecture import MODULES, PACKAGE, ROOT

XCOM_KEYS = {
    *("return_value", "request_id", "cost", "usage", "finish_reason", "reused"),
    *("estimate", "segmind_table"),
}
RESULT_MANIFEST = {"request_id", "model", "status", "metrics", "uri", "uris", "bytes"}
SUBMITTED = {"request_id", "model", "submitted_at", "submitted_by"}
TABLE_MANIFEST = {
    *("run_id", "model", "prompt_hash", "source", "shard_index", "shard_count", "rows_in_source", "rows_read"),
    *("complete", "stopped", "stopped_by", "outcomes", "rows_unchanged", "distinct_rows", "duplicates_saved"),
    *("cache_hits", "reused", "requests", "calls", "posts", "resumed", "cost", "follow_up_cost", "unpriced", "tokens"),
    *("latency", "latency_counts", "seconds", "ended", "earlier", "notes", "reasons", "timeline", "columns", "outputs"),
    *("dead_letters", "ledger", "report", "version"),
}
OUTCOMES = {"success", "failed", "blocked", "truncated", "invalid", "unknown", "skipped"}
COLUMNS = {
    *("_segmind_status", "_segmind_error", "_segmind_request_id", "_segmind_model", "_segmind_cost", "_segmind_tokens"),
    *("_segmind_row", "_segmind_fingerprint"),
}
TRIGGERS = {
    "airflow_provider_segmind.triggers.request.SegmindRequestTrigger": {
        *("request_id", "segmind_conn_id", "submitted_at", "end_time", "poll_interval", "model", "fetch"),
        *("output_path", "max_xcom_bytes", "overflow_path", "poll_from", "not_before"),
    },
    "airflow_provider_segmind.triggers.request.SegmindRequestsTrigger": {
        *("requests", "enough", "until", "segmind_conn_id", "model", "resume_state", "not_before"),
    },
    "airflow_provider_segmind.triggers.spending.SegmindPauseTrigger": {"until", "resume_state", "not_before"},
    "airflow_provider_segmind.triggers.spending.SegmindBudgetTrigger": {"until", "not_before"},
    "airflow_provider_segmind.triggers.spending.SegmindInFlightTrigger": {
        *("segmind_conn_id", "until", "resume_state", "not_before"),
    },
}
EVENTS = {
    "RequestEvent": {
        *("request_id", "status", "value", "manifest", "error_class", "message", "reason", "submitted_at"),
    },
    "SegmindRequestsTrigger": {"ended", "error", "resume_state"},
    "SegmindPauseTrigger": {"resume_state"},
    "SegmindBudgetTrigger": set(),
    "SegmindInFlightTrigger": {"resume_state"},
}
LEDGER_EVENTS = {
    "claimed": {
        *("fingerprint", "attempt", "at", "run", "writer", "model", "body", "follow_ups", "request_ids", "cost"),
        *("tokens", "bills", "most", "id", "follows", "charged"),
    },
    "submitted": {"fingerprint", "attempt", "at", "request_id", "claim"},
    "freed": {"fingerprint", "attempt", "at", "claim", "charged"},
    "finished": {
        *("fingerprint", "attempt", "at", "run", "model", "outcome", "body", "reason", "answer", "request_ids"),
        *("cost", "tokens", "bills", "seconds", "billed", "charged"),
    },
}
SUBMISSION_RECORD = {
    *("fingerprint", "intent_at", "request_id", "submitted_at", "outcome", "resubmits", "manifest", "previous_ids"),
    *("spent_before", "reservation", "given_up"),
}
SPEND_ENTRY = {
    *("at", "connection", "dag_id", "task_id", "run_id", "map_index", "try_number", "model", "request_id", "outcome"),
    *("tokens", "cost_micros", "reused"),
}


def check(what: str, frozen: object, found: object, who: str) -> None:
    """Fail with the reason why these names stay."""
    if isinstance(frozen, set) and isinstance(found, set):
        gone, new = sorted(frozen - found), sorted(found - frozen)
        assert not gone, f"{what}: {gone} is gone, but {who}. Keep the name; docs/explanation/policies.md promises it."
        assert not new, f"{what}: {new} is new. Is the name right? It stays once it is released: list it in this test."
    assert frozen == found, f"{what} was {frozen!r} and is {found!r}, but {who}."


def source_of(*modules: str) -> Iterator[ast.AST]:
    for module in modules:
        yield from ast.walk(ast.parse(MODULES[f"{PACKAGE}.{module}"].read_text()))


def name_of(function: ast.expr) -> str:
    return ast.unparse(function).rpartition(".")[2]


def pushed_keys() -> set[str]:
    """Return the key of every push to XCom in the package: a string, a constant, or the names that a loop goes over."""
    found: set[str] = set()
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for loop in (node for node in ast.walk(tree) if isinstance(node, ast.For)):
            if ast.unparse(loop.target).startswith("(key, ") and isinstance(loop.iter, ast.Tuple):
                found.update(str(ast.literal_eval(pair.elts[0])) for pair in loop.iter.elts)  # type: ignore[attr-defined]
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            pushes = call.func.func if isinstance(call.func, ast.Call) else call.func
            if not isinstance(pushes, ast.Attribute) or "xcom_push" not in pushes.attr:
                continue
            for key in (each.value for each in call.keywords if each.arg == "key"):
                if isinstance(key, ast.Constant):
                    found.add(str(key.value))
                elif ast.unparse(key) != "key":
                    assert ast.unparse(key) in constants, f"{module} pushes a key that this test cannot read"
                    found.add(constants[ast.unparse(key)])
    return found


def test_xcom_keys_stay() -> None:
    # The return value of a task is pushed by Airflow, and by tables themselves when they fail.
    check("An XCom key", XCOM_KEYS, pushed_keys(), "DAGs pull it, by this name")


def test_fields_of_manifests_stay() -> None:
    stored = ResultManifest(request_id="r", uris=("u",)).to_json()
    table = Manifest(run_id="r", model="m").to_json()

    check("A field of the manifest of a result", RESULT_MANIFEST, set(stored), "it is in XComs and read by DAGs")
    check(
        "A field of a submitted request",
        SUBMITTED,
        set(RequestRef("r", submitted_by={}).to_json()),
        "other tasks read it from XCom",
    )
    check("A field of the manifest of a table", TABLE_MANIFEST, set(table), "files and XComs have it")
    check("The version of a table's manifest", 1, VERSION, "manifests of another version are not read")
    check("An outcome of a row", OUTCOMES, set(map(str, Outcome)), "outputs and ledgers have it")


def test_columns_of_outputs_stay() -> None:
    check("A column", COLUMNS, {*STATUS_COLUMNS, ROW_COLUMN, FINGERPRINT_COLUMN}, "queries name it")
    check("The prefix of columns", "_segmind_", OWN_PREFIX, "queries name it")
    check("The ledger's folder", "_segmind_ledger", LEDGER_FOLDER, "a run would not find the answers it has paid for")


def test_triggers_and_their_arguments_stay() -> None:
    found = {}
    for module in ("triggers.request", "triggers.spending"):
        for node in source_of(module):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                (arguments,) = (
                    one.value
                    for one in node.body
                    if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "arguments"
                )
                found[f"{PACKAGE}.{module}.{node.name}"] = set(eval(ast.unparse(arguments)))
    rebuilt = "tasks deferred before an upgrade are resumed by it"

    check("The class path of a trigger", set(TRIGGERS), set(found), rebuilt)
    for path, arguments in TRIGGERS.items():
        check(f"An argument of {path}", arguments, found[path], rebuilt)


def test_fields_of_events_stay() -> None:
    found: dict[str, set[str]] = {}
    for module in ("triggers.events", "triggers.request", "triggers.spending"):
        for outer in (node for node in source_of(module) if isinstance(node, ast.ClassDef)):
            for node in ast.walk(outer):
                if isinstance(node, ast.Call) and name_of(node.func) == "Payload":
                    found.setdefault(outer.name, set()).update(str(each.arg) for each in node.keywords)
                if outer.name == "RequestEvent" and isinstance(node, ast.Dict):
                    found[outer.name].update(ast.literal_eval(key) for key in node.keys if key is not None)
                if outer.name == "RequestEvent" and isinstance(node, ast.IfExp):
                    branches = (node.body, node.orelse)
                    names = [one.value for one in branches if isinstance(one, ast.Constant)]
                    found[outer.name].update(name for name in names if isinstance(name, str))

    check("An event", set(EVENTS), set(found), "a triggerer of another version sends it")
    for name, fields in EVENTS.items():
        check(f"A field of {name}'s event", fields, found[name], "a triggerer of another version sends it")


def test_what_the_ledger_has_of_a_row_stays() -> None:
    kept = "ledgers are read years later, and an answer that is not found is paid for again"
    found = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in events._KINDS.items()}

    check("A kind of event", set(LEDGER_EVENTS), set(found), kept)
    for name, fields in LEDGER_EVENTS.items():
        check(f"A field of the event {name!r}", fields, found[name], kept)
    check("The folder of segments in progress", "live", ledger.LIVE, "overlapping runs list it before they pay")


def test_what_a_record_of_a_request_has_stays() -> None:
    lost = "a retry would not find the request that an earlier try has paid for"
    record = SubmissionRecord(
        Fingerprint("m", "i", "c"), intent_at=1.0, reservation="r", given_up=(GivenUp(1.0),)
    ).to_json()

    check("A field of the submission record", SUBMISSION_RECORD, set(record), lost)
    check("A field of a POST that was given up", {"intent_at", "reservation"}, set(record["given_up"][0]), lost)
    check("A field of a fingerprint", {"model", "inputs", "connection"}, set(record["fingerprint"]), lost)
    check("A field of the spend record", SPEND_ENTRY, set(FIELDS), "files and tables of spend have it")


def test_the_same_question_has_the_same_fingerprint_in_every_version() -> None:
    inputs: dict[str, Any] = {"prompt": "Grüße", "seed": 7, "options": {"b": [1.5, None], "a": True}}
    fingerprint = Fingerprint.of(model="m", inputs=inputs, connection="c")
    paid = "an answer that is not found under it is paid for a second time"

    check(
        "The fingerprint of a request",
        "d34eda2570508a727733c9c98f71164c642506badf0a67e45accd407eae89c8a",
        fingerprint.inputs,
        paid,
    )
    check(
        "The fingerprint of an answer",
        "9bb45b34958c29f2afeb1912f1d60acd06e48e62747a318114449ca581733e92",
        question_fingerprint("m", inputs).hex(),
        paid,
    )


def test_the_records_of_an_agents_requests_are_found_by_the_same_names() -> None:
    # Its module cannot be imported without pydantic-ai; tests/matrix/test_common_ai.py runs it.
    source = MODULES[f"{PACKAGE}.agent_model"].read_text()
    found = [
        line.strip()
        for line in source.splitlines()
        if line.strip().startswith(("digest =", "part =", "LONGEST_DIGEST ="))
    ]

    check(
        "The name of an agent's record",
        [
            "LONGEST_DIGEST = 24",
            'digest = json_digest({"model": self.model, "inputs": inputs})[:LONGEST_DIGEST]',
            'part = f"agent-{digest}-{self._sent[digest]}"',
        ],
        found,
        "a retry would not find the request that an earlier try has paid for",
    )


def test_the_page_that_promises_the_names_has_all_of_them() -> None:
    page = (ROOT / "docs" / "explanation" / "policies.md").read_text()
    listed = {*XCOM_KEYS, *RESULT_MANIFEST, *SUBMITTED, *OUTCOMES, *TABLE_MANIFEST, *COLUMNS, *TRIGGERS, *LEDGER_EVENTS}
    listed |= set().union(*EVENTS.values())

    assert sorted(name for name in listed if f"`{name}`" not in page) == []


@pytest.mark.airflow
def test_the_keys_of_a_tasks_state_stay() -> None:
    from airflow_provider_segmind.pausing import PAUSE_VARIABLE
    from airflow_provider_segmind.task_state import RECORD_FOLDER, STATE_KEY, Identity, PathTaskState, VariableTaskState
    from tests.support.airflow_fakes import TaskInstance

    identity = Identity({"ti": TaskInstance(dag_id="d/ä", run_id="manual__1", task_id="t", map_index=3)})  # type: ignore[typeddict-item]
    lost = "a retry would not find the request that an earlier try has paid for"

    check("The key in Airflow's task state store", "segmind_request", STATE_KEY, lost)
    check("The folder of records", "_segmind_state", RECORD_FOLDER, lost)
    check(
        "The file of a record",
        "/s/dag_id=d%2F%C3%A4/run_id=manual__1/task_id=t[3].p.json",
        PathTaskState("memory://s", identity, "p")._file.path,
        lost,
    )
    check(
        "The Variable of a record",
        "segmind_request_f9218826fdf0203ba59a2d60e0d533993f7728bc",
        VariableTaskState(identity, "p")._key,
        lost,
    )
    check("The Variable that pauses spending", "segmind_paused", PAUSE_VARIABLE, "operators of a deployment set it")
    check("The default Connection", "segmind_default", DEFAULT_CONNECTION, "deployments have created it")
