from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.client.client import ClientConfig, SegmindClient
from airflow_provider_segmind.client.http_library import httpx
from airflow_provider_segmind.client.models import RecordPage, RequestRecord
from airflow_provider_segmind.client.request_history import (
    HISTORY_PAGES,
    LARGEST_SKEW,
    ClockOffset,
    HistoryPages,
    TimeMatch,
    contains,
    may_be,
    only_ours,
    row_times,
    search,
    submission_time,
    time_match,
)
from airflow_provider_segmind.client.submission import Fingerprint, SubmissionRecord
from airflow_provider_segmind.exceptions import SegmindSubmissionUnknownError

INPUTS = {"prompt": "one", "seed": 1}
AT = 1_800_000_000.0
DAY = 86_400.0
KEY = "SG_0123456789abcdef"
RECORD = SubmissionRecord(Fingerprint.of(model="m", inputs=INPUTS, connection="c"), intent_at=AT, previous_ids=("r-0",))


def row(at: Any = AT + 5, **fields: Any) -> RequestRecord:
    given = {"request_id": "r-1", "model_name": "m", "request_body": INPUTS, "created": at, **fields}
    return RequestRecord.model_validate(given)


def place(found: RequestRecord, offset: ClockOffset | None = None) -> TimeMatch:
    return time_match(found, AT, AT + 600, offset or ClockOffset())[0]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"request_body": json.dumps(INPUTS)},
        {"request_body": {**INPUTS, "steps": 30}},
        {"request_body": {**INPUTS, "seed": 1.0}},
        {"model_name": None},
        {"created": datetime.fromtimestamp(AT + 5, UTC).isoformat()},
        {"created": (AT + 5) * 1000},
        {"created": str(AT + 5)},
        {"created": f"{int(AT + 5)}000"},
        {"created": datetime.fromtimestamp(AT + 5, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")},
        {"created": datetime.fromtimestamp(AT + 5, UTC).strftime("%Y-%m-%d %H:%M:%S.%f UTC")},
        {"created": None, "updatedAt": AT + 5},
        {"updated": AT + 5000},
    ],
    ids=str,
)
def test_a_row_of_the_lost_post_fits(fields: dict[str, Any]) -> None:
    assert may_be(row(**fields), RECORD, INPUTS)
    assert place(row(**fields)) is TimeMatch.INSIDE


@pytest.mark.parametrize(
    "fields",
    [
        {"request_body": {"prompt": "two", "seed": 1}},
        {"request_body": {"prompt": "one"}},
        {"request_body": {"prompt": "one", "seed": True}},
        {"request_body": None},
        {"request_body": "{"},
        {"request_body": [INPUTS]},
        {"request_body": json.dumps({"prompt": "one \ud83d", "seed": 1})},
        {"request_body": json.dumps({"prompt\udc00": "one", "seed": 1})},
        {"request_id": "r-0"},
    ],
    ids=str,
)
def test_a_row_of_another_request_does_not_fit(fields: dict[str, Any]) -> None:
    assert not may_be(row(**fields), RECORD, INPUTS)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (AT - 119, TimeMatch.INSIDE),
        (AT - 300, TimeMatch.NEAR),
        (AT + 1000, TimeMatch.NEAR),
        (None, TimeMatch.NEAR),
        (AT - LARGEST_SKEW - 1, TimeMatch.OUTSIDE),
        (AT + 600 + LARGEST_SKEW + 1, TimeMatch.OUTSIDE),
    ],
)
def test_a_row_that_fits_only_if_clocks_differ_is_neither_taken_nor_ruled_out(
    at: float | None, expected: TimeMatch
) -> None:
    assert place(row(at)) is expected


@given(offset=st.floats(-1e6, 1e6), took=st.floats(0, 600), unsure=st.floats(0, 60), before=st.floats(10, 1e5))
def test_where_the_offset_is_known_a_row_is_placed_exactly(
    offset: float, took: float, unsure: float, before: float
) -> None:
    known = ClockOffset.of([(offset - unsure, offset + unsure)])
    assert place(row(AT + offset + took), known) is TimeMatch.INSIDE
    assert place(row(AT + offset - unsure - before), known) is TimeMatch.OUTSIDE


@given(offset=st.floats(-LARGEST_SKEW, LARGEST_SKEW), took=st.floats(0, 600))
def test_a_request_that_arrived_is_never_ruled_out_while_clocks_differ_by_an_hour_at_most(
    offset: float, took: float
) -> None:
    assert place(row(AT + offset + took)) is not TimeMatch.OUTSIDE
    assert place(row(AT + offset + took), ClockOffset.of([], hint=offset)) is TimeMatch.INSIDE


def test_a_time_far_in_the_future_says_nothing_about_the_clock() -> None:
    assert ClockOffset.of([], at_least=7 * 86400.0) == ClockOffset()


def test_a_latency_or_a_cost_is_not_a_time() -> None:
    assert row_times(row(created=None, latency_at=AT, cost_of=AT)) == []


def test_the_age_of_an_adopted_request_is_never_underestimated() -> None:
    assert submission_time(row(AT + 5), RECORD) == AT
    assert submission_time(row(AT - 20), RECORD) == AT - 20


SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from("abcd"), VALUES, min_size=1, max_size=4)


def grown(value: Any, data: st.DataObject) -> Any:
    """Add fields at any depth, as a server does."""
    if isinstance(value, Mapping):
        extra = data.draw(st.dictionaries(st.sampled_from(["x", "y"]), SCALARS, max_size=2))
        return {**{name: grown(inner, data) for name, inner in value.items()}, **extra}
    if isinstance(value, list):
        return [grown(inner, data) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool) and data.draw(st.booleans()):
        return float(value)
    return value


def changed(theirs: Any, ours: Any, data: st.DataObject) -> Any:
    """Change one thing of ours that a server must not change."""
    if isinstance(ours, Mapping) and ours:
        name = data.draw(st.sampled_from(sorted(ours)))
        if data.draw(st.booleans()):
            return {key: inner for key, inner in theirs.items() if key != name}
        return {**theirs, name: changed(theirs[name], ours[name], data)}
    if isinstance(ours, Mapping):
        return None
    if isinstance(ours, list):
        return [*theirs, None]
    if isinstance(ours, bool) or ours is None:
        return 1 if ours else 0
    return f"{theirs}." if isinstance(ours, str) else theirs + 1


@given(ours=BODIES, data=st.data())
def test_a_body_is_contained_in_what_a_server_made_of_it(ours: dict[str, Any], data: st.DataObject) -> None:
    theirs = grown(ours, data)
    assert contains(theirs, ours)
    assert contains(json.loads(json.dumps(theirs)), ours)
    assert only_ours(theirs, ours) == ours


@given(ours=BODIES, data=st.data())
def test_a_body_is_not_contained_where_anything_of_it_is_missing_or_another(
    ours: dict[str, Any], data: st.DataObject
) -> None:
    assert not contains(changed(grown(ours, data), ours, data), ours)


@given(ours=BODIES, theirs=BODIES)
def test_containment_is_mutual_only_between_equals(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert (contains(ours, theirs) and contains(theirs, ours)) is (json_equal(ours, theirs))


def json_equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(json_equal(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(json_equal, one, other))
    return (type(one) is bool) is (type(other) is bool) and bool(one == other)


def found_in(
    rows: Sequence[dict[str, Any]], *, now: float = AT + 30, date: float | None = None, page_size: int = 100
) -> RequestRecord | None:
    headers = {} if date is None else {"date": datetime.fromtimestamp(date, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")}

    def serve(request: httpx.Request) -> httpx.Response:
        start = (int(request.url.params["page"]) - 1) * page_size
        return httpx.Response(200, json={"data": rows[start : start + page_size]}, headers=headers)

    config = ClientConfig(api_key=KEY)
    with SegmindClient(config, transport=httpx.MockTransport(serve), clock=lambda: now, sleep=lambda _: None) as client:
        return client.drive(search(client.wire, RECORD, INPUTS, now=now, waits=(0.0,)))


@pytest.mark.parametrize("zone", [-12, -5, 5.5, 14])
@pytest.mark.parametrize("hour", range(0, 24, 3))
def test_the_lost_request_is_found_whatever_time_zone_the_days_of_the_history_are_of(zone: float, hour: int) -> None:
    sent_at = AT + hour * 3600.0
    day = datetime.fromtimestamp(sent_at, timezone(timedelta(hours=zone))).date().isoformat()

    def serve(request: httpx.Request) -> httpx.Response:
        asked = request.url.params
        is_shown = asked["from_date"] <= day <= asked["to_date"] and asked["page"] == "1"
        return httpx.Response(200, json={"data": [history_row(sent_at)] if is_shown else []})

    record = replace(RECORD, intent_at=sent_at)
    with SegmindClient(ClientConfig(api_key=KEY), transport=httpx.MockTransport(serve)) as client:
        assert client.drive(search(client.wire, record, INPUTS, now=sent_at, waits=(0.0,))) is not None


def history_row(at: float, **fields: Any) -> dict[str, Any]:
    return {"request_id": "r-1", "model_name": "m", "request_body": INPUTS, "model_created": at, **fields}


@pytest.mark.parametrize("ahead", [300, 900, 3000])
def test_a_worker_whose_clock_is_behind_learns_it_from_the_row_itself(ahead: float) -> None:
    found = found_in([history_row(AT + ahead + 1)], now=AT + 2)
    assert found is not None


@pytest.mark.parametrize("behind", [300, 900, 3000])
def test_a_worker_whose_clock_is_ahead_does_not_take_the_request_for_another(behind: float) -> None:
    with pytest.raises(SegmindSubmissionUnknownError, match="check the clock"):
        found_in([history_row(AT - behind + 1)])
    assert found_in([history_row(AT - behind + 1)], date=AT + 30 - behind) is not None


@pytest.mark.parametrize("hours", [1.5, 5.5, 14])
def test_an_equal_request_is_not_ruled_out_where_something_shows_that_a_clock_is_hours_off(hours: float) -> None:
    off = 3600 * hours
    # Nothing can have been created in the future.
    with pytest.raises(SegmindSubmissionUnknownError, match="check the clock"):
        found_in([history_row(AT + off + 1)])
    behind = [another(number, at=AT - off + 20) for number in range(100)]
    with pytest.raises(SegmindSubmissionUnknownError, match="check the clock"):
        found_in([*behind, history_row(AT - off + 1)], date=AT + 30 - off)


@pytest.mark.parametrize(
    "body",
    [None, "{", [INPUTS], '{"prompt": "on', json.dumps(json.dumps(INPUTS)), {}, {"inputs": INPUTS}, {"body": "{}"}],
    ids=str,
)
def test_a_request_of_that_time_whose_inputs_cannot_be_read_may_be_the_lost_one(body: Any) -> None:
    unreadable = history_row(AT + 1, request_body=body)
    with pytest.raises(SegmindSubmissionUnknownError, match="request 'r-1' of this model and time, without inputs"):
        found_in([unreadable])
    with pytest.raises(SegmindSubmissionUnknownError, match="a request of this model and time, without inputs"):
        found_in([{**unreadable, "request_id": None, "model_created": None}])
    assert found_in([unreadable, history_row(AT + 2, request_id="r-2")]) is not None
    assert found_in([history_row(AT - 300, request_body=body)]) is None
    assert found_in([history_row(AT + 1, request_body=body, request_id="r-0")]) is None
    assert found_in([history_row(AT + 1, request_body=body, model_name="m-large")]) is None


@pytest.mark.parametrize("name", ["Gemini 3.1 Flash_Lite", "GEMINI-3.1-FLASH-LITE"])
def test_a_model_is_recognized_however_the_history_writes_its_name(name: str) -> None:
    rows = [row(model_name=name), row(model_name="gemini-31-flash-lite"), row(model_name="gemini-3.1-flash")]
    assert HistoryPages(model="gemini-3.1-flash-lite").take(RecordPage(rows)) == rows[:1]


@pytest.mark.parametrize("request_id", [None, "", f"r-{KEY}", "a/b"])
def test_an_equal_row_without_a_usable_id_leaves_the_outcome_unknown(request_id: str | None) -> None:
    equal = history_row(AT + 1, request_id=request_id)
    with pytest.raises(SegmindSubmissionUnknownError, match="a request without a readable id, with the same inputs"):
        found_in([equal])
    with pytest.raises(SegmindSubmissionUnknownError, match="without a readable id"):
        found_in([{name: value for name, value in equal.items() if name != "request_id"}])
    assert found_in([equal, history_row(AT + 2)]) is not None
    assert found_in([{**equal, "model_name": "m-large"}, {**equal, "model_created": AT - 2 * LARGEST_SKEW}]) is None


def test_a_history_without_the_request_does_not_show_it() -> None:
    assert found_in([history_row(AT + 1, request_body={"prompt": "two"})]) is None
    assert found_in([history_row(AT - 2 * LARGEST_SKEW)]) is None


def test_the_history_is_read_to_the_time_of_the_lost_post_however_busy_the_account_is() -> None:
    others = [history_row(AT + 20, request_id=f"o-{number}", request_body={}) for number in range(950)]
    assert found_in([*others, history_row(AT + 1)]) is not None


@pytest.mark.parametrize("page_size", [1, 2, 100])
@pytest.mark.parametrize("gap", [0, 60, 2000])
def test_a_history_whose_oldest_entries_come_first_is_read_to_its_end(page_size: int, gap: float) -> None:
    older = [another(number, at=AT - 20 * 3600 + gap * number) for number in range(5)]
    assert found_in([*older, history_row(AT + 1)], page_size=page_size) is not None
    assert found_in(older, page_size=page_size) is None


def test_a_history_whose_newest_entries_come_first_is_read_to_the_time_of_the_lost_post() -> None:
    class Older(Endless):
        def __getitem__(self, part: Any) -> Any:
            assert part.start < 300, "read on"
            return [another(number, at=AT - 60 * number) for number in range(part.start, part.stop)]

    assert found_in(Older()) is None


def another(number: int, *, at: float = AT + 20, **fields: Any) -> dict[str, Any]:
    return history_row(at, **{"request_id": f"o-{number}", "request_body": {"prompt": "two"}, **fields})


@pytest.mark.parametrize("first", [{"request_id": None}, {"request_id": ""}, {"request_id": f"r-{KEY}"}], ids=str)
def test_a_row_without_a_usable_id_does_not_end_the_history(first: dict[str, Any]) -> None:
    rows = [another(0, **first), *map(another, range(99)), history_row(AT + 1)]
    assert found_in(rows) is not None


@pytest.mark.parametrize("page_size", [1, 20, 50, 99])
def test_a_page_smaller_than_asked_for_does_not_end_the_history(page_size: int) -> None:
    assert found_in([*map(another, range(120)), history_row(AT + 1)], page_size=page_size) is not None


def test_a_page_of_rows_without_an_id_does_not_end_the_history() -> None:
    rows = [another(number, request_id=None) for number in range(100)]
    assert found_in([*rows, history_row(AT + 1)]) is not None


def test_a_request_of_a_model_with_a_longer_name_is_not_the_lost_one() -> None:
    assert found_in([history_row(AT + 1, model_name="m-large")]) is None
    assert found_in([history_row(AT + 1, model_name=None)]) is not None


class Endless(Sequence[dict[str, Any]]):
    """The rows of an account with more requests than are read."""

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, part: Any) -> Any:
        return [another(number) for number in range(part.start, part.stop)]


def test_a_history_too_long_to_read_does_not_prove_that_the_request_is_missing() -> None:
    with pytest.raises(SegmindSubmissionUnknownError, match=f"only the newest {HISTORY_PAGES} rows of it"):
        found_in(Endless(), page_size=1)


def test_a_history_that_repeats_a_page_does_not_prove_that_the_request_is_missing() -> None:
    with pytest.raises(SegmindSubmissionUnknownError, match="only the newest 4 rows of it"):
        found_in([another(1), another(2)] * 300, page_size=2)


@pytest.mark.parametrize("status", [404, 405, 410])
def test_a_history_that_refuses_a_later_page_does_not_prove_that_the_request_is_missing(status: int) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        is_first = request.url.params["page"] == "1"
        return httpx.Response(200, json=[another(1)]) if is_first else httpx.Response(status, json={"error": "no"})

    with (
        SegmindClient(ClientConfig(api_key=KEY), transport=httpx.MockTransport(serve)) as client,
        pytest.raises(SegmindSubmissionUnknownError, match="not read to its end, only the newest 1 row of it"),
    ):
        client.drive(search(client.wire, RECORD, INPUTS, now=AT, waits=(0.0,)))


def read(pages: HistoryPages, *sizes: int) -> list[dict[str, Any]]:
    """Return the filters of the pages that are read, of a history whose pages have these sizes."""
    rows = iter(range(1000))
    given, asked = iter(sizes), []
    for filters in pages:
        asked.append(filters)
        pages.take(RecordPage(row(request_id=f"r-{next(rows)}") for _ in range(next(given))))
    return asked


def test_a_long_time_is_read_in_queries_that_the_history_takes_the_newest_first() -> None:
    pages = HistoryPages(AT - 70 * DAY, AT, model="m")
    asked = read(pages, 2, 1, 0, 0, 5, 0)
    assert pages.complete
    assert [(str(one["from_date"]), str(one["to_date"]), one["page"]) for one in asked] == [
        ("2026-12-17", "2027-01-16", 1),
        ("2026-12-17", "2027-01-16", 2),
        ("2026-12-17", "2027-01-16", 3),
        ("2026-11-16", "2026-12-16", 1),
        ("2026-11-05", "2026-11-15", 1),
        ("2026-11-05", "2026-11-15", 2),
    ]
    assert {one["model"] for one in asked} == {"m"}


def test_the_limit_counts_the_pages_of_all_queries() -> None:
    pages = HistoryPages(AT - 70 * DAY, AT, most=4)
    assert len(read(pages, 2, 1, 0, 1)) == 4
    assert not pages.complete
    assert pages.read == 4
    pages = HistoryPages(AT - 70 * DAY, AT, most=None)
    read(pages, *[1] * 400, 0, 0, 0)
    assert pages.complete


def test_without_times_segmind_chooses_the_days() -> None:
    assert read(HistoryPages(status="FAILED"), 0) == [{"status": "FAILED", "page": 1}]
