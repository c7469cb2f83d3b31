from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_segmind.client.models import RecordPage, RequestRecord
from airflow_provider_segmind.client.submission import json_digest
from airflow_provider_segmind.enrichment.ledger.row_state import KnownRequest
from airflow_provider_segmind.enrichment.recovery import Findings, LostRequest, find_lost
from airflow_provider_segmind.exceptions import SegmindBadRequestError
from tests.support.examples import examples
from tests.support.ledger_events import claimed, mark

NOW = 1_700_000_000.0


class History:
    """Pages of records."""

    def __init__(self, *records: RequestRecord, per_page: int = 2) -> None:
        self.records, self.per_page, self.asked = records, per_page, []  # type: ignore[var-annotated]

    async def list_request_records(self, **filters: Any) -> RecordPage:
        self.asked.append(filters)
        start = (filters["page"] - 1) * self.per_page
        shown = self.records[start : start + self.per_page]
        return RecordPage(
            [row for row in shown if row.request_id], without_id=[row for row in shown if not row.request_id]
        )


def record(request_id: str, text: str, **fields: Any) -> RequestRecord:
    return RequestRecord(request_id=request_id, model_name="m", request_body={"prompt": text, "t": 0}, **fields)


def body(text: str) -> str:
    return json_digest({"t": 0, "prompt": text})


def own(request_id: str, text: str, at: float) -> KnownRequest:
    """Return a request that this try has sent."""
    return KnownRequest(request_id, body(text), at, at + 1, "w")


def lost(number: int, text: str, at: float = NOW - 100, until: float = NOW - 50) -> dict[bytes, LostRequest]:
    return {mark(number): LostRequest(replace(claimed(number, at=at), body=body(text)), until)}


async def found(
    history: History, lost: dict[bytes, LostRequest], *known_requests: KnownRequest, **options: Any
) -> Findings:
    values = {"known_requests": known_requests, "writer": "w", "now": NOW, "complete_after": 3600.0, **options}
    return await find_lost(history, "m", lost, **values)  # type: ignore[arg-type]


async def test_a_lost_request_is_known_by_its_body_whatever_the_order_of_its_names() -> None:
    history = History(record("x", "other"), record("y", "other"), record("z", "a"))
    findings = await found(history, lost(1, "a"))
    assert findings.found[mark(1)].request_id == "z"


async def test_no_further_page_is_read_once_all_are_found() -> None:
    history = History(record("x", "a"), *(record(f"o-{number}", "other") for number in range(9)))
    assert (await found(history, lost(1, "a"))).found
    assert len(history.asked) == 1


async def test_a_history_that_refuses_a_later_page_leaves_the_outcome_unknown() -> None:
    class Short(History):
        async def list_request_records(self, **filters: Any) -> RecordPage:
            if filters["page"] > 1:
                raise SegmindBadRequestError("no such page", status_code=404)
            return await super().list_request_records(**filters)

    assert (await found(Short(record("x", "other")), lost(1, "a"))).pending == {mark(1)}


async def test_a_body_that_stands_in_the_history_as_text_is_read() -> None:
    row = record("z", "a").model_copy(update={"request_body": json.dumps({"prompt": "a", "t": 0})})
    assert (await found(History(row), lost(1, "a"))).found


async def test_a_request_of_another_model_is_not_taken() -> None:
    row = record("z", "a").model_copy(update={"model_name": "m-large"})
    assert not (await found(History(row), lost(1, "a"))).found


@pytest.mark.parametrize(
    ("model", "at", "is_absent"), [("m", NOW - 9000, False), ("m", NOW - 20_000, True), ("m-large", NOW - 9000, True)]
)
async def test_an_equal_row_without_a_usable_id_leaves_the_outcome_unknown(
    model: str, at: float, is_absent: bool
) -> None:
    row = record("", "a", model_created=at).model_copy(update={"model_name": model})
    findings = await found(History(row), lost(1, "a", at=NOW - 9000, until=NOW - 8990))
    assert (findings.absent, findings.pending) == (({mark(1)}, set()) if is_absent else (set(), {mark(1)}))
    assert not findings.found


@pytest.mark.parametrize("request_id", ["", "r"])
async def test_a_history_without_bodies_proves_nothing_whether_its_rows_have_ids_or_not(request_id: str) -> None:
    row = record(request_id, "", model_created=NOW - 9000).model_copy(update={"request_body": None})
    assert not (await found(History(row), lost(1, "a", at=NOW - 9000, until=NOW - 8990))).absent


@pytest.mark.parametrize("request_id", ["", "r"])
@pytest.mark.parametrize(("created", "is_pending"), [(NOW - 99, True), (None, True), (NOW - 5000, False)])
async def test_a_request_of_that_time_without_a_body_may_be_the_lost_one(
    request_id: str, created: float | None, is_pending: bool
) -> None:
    row = record(request_id, "", model_created=created).model_copy(update={"request_body": None})
    assert (await found(History(row), lost(1, "a"))).pending == ({mark(1)} if is_pending else set())
    if request_id:
        assert not (await found(History(row), lost(1, "a"), owned=lambda ids: ids)).pending
        assert not (await found(History(row), lost(1, "a"), former=frozenset({"r"}))).pending


async def test_a_request_is_taken_for_one_row_only() -> None:
    findings = await found(History(record("z", "a")), {**lost(1, "a"), **lost(2, "a")})
    assert len(findings.found) == 1


async def test_a_known_request_is_never_taken_for_a_lost_one() -> None:
    known = KnownRequest("z", body("a"), NOW - 200)
    assert not (await found(History(record("z", "a")), lost(1, "a"), known)).found
    assert not (await found(History(record("z", "a")), lost(1, "a"), former=frozenset({"z"}))).found


async def test_a_request_from_before_the_claim_is_not_taken() -> None:
    assert not (await found(History(record("z", "a", model_created=NOW - 5000)), lost(1, "a"))).found
    assert (await found(History(record("z", "a", model_created=NOW - 99)), lost(1, "a"))).found


async def test_a_known_request_sent_after_the_lost_one_proves_that_it_never_arrived() -> None:
    history = History(record("w", "b"))
    findings = await found(history, lost(1, "a"), own("w", "b", NOW - 50))
    assert findings.absent == {mark(1)}


async def test_a_known_request_sent_while_the_lost_one_was_on_its_way_proves_nothing() -> None:
    history = History(record("w", "b"))
    findings = await found(history, lost(1, "a"), own("w", "b", NOW - 51))
    assert findings.absent == set()


async def test_a_known_request_whose_body_looks_different_proves_nothing() -> None:
    history = History(record("w", "b with defaults added"))
    findings = await found(history, lost(1, "a", at=NOW - 9000), own("w", "b", NOW - 10))
    assert findings.absent == set()


async def test_a_known_request_that_is_not_there_yet_proves_nothing() -> None:
    assert (await found(History(), lost(1, "a"), own("w", "b", NOW - 10))).absent == set()


async def test_an_old_claim_is_absent_once_the_history_has_settled() -> None:
    findings = await found(
        History(record("w", "b")), lost(1, "a", at=NOW - 3601), KnownRequest("w", body("b"), NOW - 5000)
    )
    assert findings.absent == {mark(1)}
    assert (await found(History(), lost(1, "a", at=NOW - 3601))).absent == {mark(1)}
    assert (await found(History(), lost(1, "a", at=NOW - 3599))).absent == set()


async def test_a_history_too_long_to_read_proves_nothing() -> None:
    history = History(*[record(str(number), "b") for number in range(700)])
    findings = await found(history, lost(1, "a", at=NOW - 9000), own("3", "b", NOW))
    assert findings.absent == set()


async def test_the_history_is_asked_about_the_days_since_the_claim() -> None:
    history = History()
    await found(history, lost(1, "a", at=NOW - 2 * 86400))
    assert [(str(page["from_date"]), str(page["to_date"])) for page in history.asked] == [("2023-11-11", "2023-11-15")]


class DatedHistory(History):
    """Shows only rows of the days that are asked about."""

    async def list_request_records(self, **filters: Any) -> RecordPage:
        assert (filters["to_date"] - filters["from_date"]).days <= 31
        page = await super().list_request_records(**filters)
        days = (str(filters["from_date"]), str(filters["to_date"]))
        return RecordPage(row for row in page if days[0] <= (row.model_extra or {})["model_created"] <= days[1])


async def test_a_request_lost_months_ago_is_found_and_not_taken_for_absent() -> None:
    sent_at = NOW - 70 * 86_400.0
    history = DatedHistory(record("z", "a", model_created=datetime.fromtimestamp(sent_at + 2, UTC).isoformat()))
    findings = await found(history, lost(1, "a", at=sent_at, until=sent_at + 60))
    assert not findings.absent
    assert findings.found[mark(1)].request_id == "z"


async def test_a_known_request_of_another_workers_clock_proves_nothing() -> None:
    elsewhere = KnownRequest("w", body("b"), NOW + 500, NOW + 501, "ahead")
    findings = await found(History(record("w", "b")), lost(1, "a"), elsewhere)
    assert findings.absent == set()


async def test_a_lost_body_is_known_by_what_it_holds_when_the_server_has_added_defaults() -> None:
    row = record("z", "a").model_copy(update={"request_body": {"prompt": "a", "t": 0.0, "top_p": 1, "seed": None}})
    inputs = {"prompt": "a", "t": 0}
    known = {mark: replace(one, inputs=inputs) for mark, one in lost(1, "a").items()}
    assert (await found(History(row), known)).found[mark(1)].request_id == "z"
    other = {mark: replace(one, inputs={"prompt": "b", "t": 0}) for mark, one in lost(1, "b").items()}
    assert not (await found(History(row), other)).found


async def test_defaults_of_the_server_do_not_hide_how_far_the_history_has_come() -> None:
    row = record("w", "b").model_copy(update={"request_body": {"prompt": "b", "t": 0, "top_p": 1}})
    known = {mark: replace(one, inputs={"prompt": "a", "t": 0}) for mark, one in lost(1, "a").items()}
    assert (await found(History(row), known, own("w", "b", NOW - 10))).absent == {mark(1)}
    assert (await found(History(row), lost(1, "a"), own("w", "b", NOW - 10))).absent == set()


def added(text: str, request_id: str) -> RequestRecord:
    """Return a record of a server that adds defaults to every body."""
    fields = {"request_body": {"prompt": text, "t": 0, "top_p": 1}}
    return record(request_id, text).model_copy(update=fields)


async def test_a_follow_up_of_a_killed_try_is_known_by_its_form_when_the_server_has_added_defaults() -> None:
    known = {mark: replace(one, form={"prompt": "", "t": 0}) for mark, one in lost(1, "a").items()}
    assert (await found(History(added("a", "z")), known)).found[mark(1)].request_id == "z"
    assert not (await found(History(added("b", "z")), known)).found
    # What was sent since shows that it never arrived.
    assert (await found(History(added("b", "w")), known, own("w", "b", NOW - 10))).absent == {mark(1)}


@pytest.mark.parametrize("own_at", [NOW - 10, NOW - 60])
async def test_what_is_known_by_its_digest_only_is_never_absent_while_the_server_adds_defaults(own_at: float) -> None:
    age = NOW - 9000
    by_body = {mark: replace(one, inputs={"prompt": "b", "t": 0}) for mark, one in lost(2, "b", at=age).items()}
    by_form = {mark: replace(one, form={"prompt": "x", "t": 0}) for mark, one in lost(3, "c", at=age).items()}
    history = History(added("a", "z"), added("w", "w"))
    findings = await found(history, {**lost(1, "a", at=age), **by_body, **by_form}, own("w", "w", own_at))
    assert findings.absent == {mark(2), mark(3)}
    assert not findings.found
    unchanged = History(record("w", "w"))
    assert mark(1) in (await found(unchanged, {**lost(1, "a", at=age), **by_body}, own("w", "w", own_at))).absent


async def test_of_two_equal_requests_the_nearer_is_taken_and_none_that_another_row_has() -> None:
    far, near = record("far", "a", model_created=NOW - 20), record("near", "a", model_created=NOW - 99)
    assert (await found(History(far, near, per_page=9), lost(1, "a"))).found[mark(1)].request_id in ("far", "near")
    two = {**lost(1, "a"), **lost(2, "a", at=NOW - 25)}
    findings = await found(History(far, near), two)
    assert {one: row.request_id for one, row in findings.found.items()} == {mark(1): "near", mark(2): "far"}
    findings = await found(History(far, near), lost(1, "a"), owned=lambda ids: ids & {"far"})
    assert findings.found[mark(1)].request_id == "near"
    findings = await found(History(far, near), lost(1, "a"), owned=lambda ids: ids)
    assert not findings.found


@settings(max_examples=examples(80))
@given(skew=st.floats(-1e5, 1e5), took=st.floats(0, 30), others=st.integers(1, 5))
async def test_requests_of_known_time_tell_the_offset_however_large_it_is(
    skew: float, took: float, others: int
) -> None:
    rows = [record(f"w{number}", f"o{number}", model_created=NOW - 90 + number + skew) for number in range(others)]
    seen = [
        KnownRequest(f"w{number}", body(f"o{number}"), NOW - 91 + number, NOW - 89 + number, "w")
        for number in range(others)
    ]
    arrived = record("z", "a", model_created=NOW - 100 + took + skew)
    assert (await found(History(*rows, arrived, per_page=99), lost(1, "a"), *seen)).found
    earlier = record("y", "a", model_created=NOW - 110 + skew)
    findings = await found(History(*rows, earlier, per_page=99), lost(1, "a", until=NOW - 95), *seen)
    assert not findings.found
    assert bool(findings.absent) is any(known.not_before >= NOW - 95 for known in seen)


@settings(max_examples=examples(80))
@given(skew=st.floats(-3500, 3500), age=st.floats(20, 1e5))
async def test_without_a_known_offset_an_equal_request_is_never_believed_to_be_another(skew: float, age: float) -> None:
    at = NOW - age
    arrived = record("z", "a", model_created=at + 2 + skew)
    later = KnownRequest("w", body("b"), NOW, writer="w")
    history = History(record("w", "b"), arrived)
    findings = await found(history, lost(1, "a", at=at, until=at + 10), later, complete_after=60.0)
    assert not findings.absent
    # The margin has an end: what lies further away is another request.
    arrived = record("z", "a", model_created=at - 4000)
    findings = await found(History(record("w", "b"), arrived), lost(1, "a", at=at, until=at + 10), later)
    assert findings.absent


async def test_a_date_header_tells_the_offset_when_nothing_else_does() -> None:
    arrived = record("z", "a", model_created=NOW - 1000, clock_offset=-900.0)
    assert (await found(History(arrived), lost(1, "a"))).found
    assert not (await found(History(record("z", "a", model_created=NOW - 1000)), lost(1, "a"))).found
