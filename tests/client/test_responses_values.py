from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_segmind.client import responses as readers
from airflow_provider_segmind.client.endpoints import Call, Endpoints, Wire
from airflow_provider_segmind.client.models import RequestResult, RequestState
from airflow_provider_segmind.client.responses import MalformedResponseError, Response, server_message
from airflow_provider_segmind.exceptions import SegmindError
from tests.client.test_models import JSON
from tests.support.clients import KEY, PLAIN_KEY

CALLS: dict[str, Callable[[Wire], Call[Any]]] = {
    "submit": lambda wire: wire.submit("m", {}),
    "run_sync": lambda wire: wire.run_sync("m", {}, None),
    "status": lambda wire: wire.status("r-1"),
    "result": lambda wire: wire.result("r-1"),
    "credits": lambda wire: wire.credits(),
    "models": lambda wire: wire.models(),
    "record": lambda wire: wire.request_record("r-1"),
    "records": lambda wire: wire.request_records(),
    "upload": lambda wire: wire.upload(["data:,a"]),
}


def of(body: Any, status: int = 200, **headers: str) -> Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, content, {name.replace("_", "-"): value for name, value in headers.items()})


def state(answer: Response, secret: str = KEY) -> RequestState:
    return readers.state("r-1", RequestState, secret, answer)


@pytest.mark.parametrize(
    "request_id", [None, 1.5, True, ["r"], {"id": "r"}, "", ".", "..", "a/b", "a b", "ä", "a?b", "x" * 201, "a\n"]
)
def test_a_submit_without_a_usable_request_id_is_malformed(request_id: Any) -> None:
    with pytest.raises(MalformedResponseError, match="names no usable request_id"):
        readers.submitted(of({"request_id": request_id, "status": "QUEUED"}))


@pytest.mark.parametrize(
    "request_id", ["0f" * 16, "7b0e6f54-2a53-4d7f-9a2f-2f4a3d1f7f10", "r_1.2-3", "a..b", "x" * 200]
)
def test_a_request_id_is_opaque(request_id: str) -> None:
    assert readers.submitted(of({"request_id": request_id})).request_id == request_id


def test_a_request_id_may_be_a_number() -> None:
    assert readers.submitted(of({"request_id": 71})).request_id == "71"
    assert [row.request_id for row in readers.record_list(KEY, of([{"request_id": 71}]))] == ["71"]
    assert readers.record("71", KEY, of({"request_id": 71, "model_name": "m"})).request_id == "71"


@pytest.mark.parametrize("status", [200, 422])
def test_failed_is_a_state_with_any_status_code(status: int) -> None:
    found = state(of({"status": "FAILED", "error": "Prompt is Mandatory"}, status))

    assert found.failed
    assert found.error == "Prompt is Mandatory"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", None),
        (b"Unprocessable entity", "Unprocessable entity"),
        ({"error": "bad seed"}, "bad seed"),
        ({"error": {"code": 3}}, '{"code": 3}'),
        (["no"], '["no"]'),
        ({"status": None, "error": "odd"}, "odd"),
    ],
)
def test_a_422_without_a_state_is_failed_with_the_servers_message(body: Any, words: str | None) -> None:
    found = state(of(body, 422))

    assert found.failed
    assert found.error == words


@pytest.mark.parametrize("page", [b"<html>Unprocessable</html>", b"  <!DOCTYPE html><p>x</p>"])
def test_an_html_page_says_nothing_about_the_request(page: bytes) -> None:
    with pytest.raises(MalformedResponseError) as caught:
        state(of(page, 422))
    assert caught.value.cut


def test_an_html_page_is_not_the_output_of_a_model() -> None:
    with pytest.raises(MalformedResponseError, match="web page"):
        readers.sync_result(Response(200, b"<html>maintenance</html>", {"content-type": "text/html; charset=utf-8"}))


def test_a_422_that_says_processing_is_in_progress() -> None:
    assert not state(of({"status": "PROCESSING"}, 422)).finished


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": None}, None),
        ({"error": {}}, None),
        ({"error": {"code": 3}}, '{"code": 3}'),
        ({"error_message": {"node": "n1"}}, '{"node": "n1"}'),
        ({"error": None, "message": "blocked"}, "blocked"),
    ],
)
def test_a_reason_for_failure_is_found_in_every_place(body: Any, words: str | None) -> None:
    assert state(of({"status": "FAILED", **body})).error == words


def test_a_message_in_a_completed_result_is_not_an_error() -> None:
    found = readers.state("r-1", RequestResult, KEY, of({"status": "COMPLETED", "message": "hello", "output": "x"}))

    assert found.error is None
    assert found.to_json() == {"request_id": "r-1", "status": "COMPLETED", "message": "hello", "output": "x"}


@pytest.mark.parametrize("body", [{}, {"status": None}, {"status": 3}, {"status": ["COMPLETED"]}])
def test_a_state_without_a_status_is_malformed(body: Any) -> None:
    with pytest.raises(MalformedResponseError, match="lacks a usable status"):
        state(of(body))


def test_a_state_has_the_id_of_the_call() -> None:
    assert state(of({"status": "QUEUED"})).request_id == "r-1"
    assert state(of({"status": "QUEUED", "request_id": "R1"})).request_id == "r-1"


@pytest.mark.parametrize("secret", [KEY, PLAIN_KEY])
@pytest.mark.parametrize("key", ["error", "status", "error_message"])
def test_a_key_that_the_server_echoes_is_masked_in_a_state(secret: str, key: str) -> None:
    for value in (f"bad key {secret}", {"why": secret}):
        body = {"status": "FAILED", key: value}
        try:
            found = state(of(body), secret)
        except MalformedResponseError:
            continue
        assert secret not in repr(found)


def test_half_an_emoji_in_a_reply_can_be_read() -> None:
    found = readers.state("r-1", RequestResult, KEY, of(b'{"status": "COMPLETED", "output": "cut \\ud83d"}'))

    assert found.output == "cut ?"


@pytest.mark.parametrize(
    ("content", "content_type", "output"),
    [
        ("é".encode("latin-1"), "application/json", "\ufffd"),
        ("é".encode("latin-1"), "application/json; charset=ISO-8859-1", "é"),
        ("“é”".encode("cp1252"), 'application/json; charset="windows-1252"', "“é”"),
        ("é".encode("latin-1"), "application/json; charset=utf-7", "\ufffd"),
        ("é".encode(), "application/json; charset=iso-8859-1", "é"),
        (b"two\nlines\tand \x01", "application/json", "two\nlines\tand \x01"),
    ],
    ids=["no charset", "latin-1", "windows-1252", "another charset", "UTF-8 all the same", "control characters"],
)
def test_a_paid_result_is_not_lost_to_bytes_that_are_not_of_its_encoding(
    content: bytes, content_type: str, output: str
) -> None:
    body = b'{"request_id": "r-1", "status": "COMPLETED", "output": "' + content + b'", "n": ' + b"1" * 400 + b"}"
    found = readers.state("r-1", RequestResult, KEY, of(body, content_type=content_type))
    assert found.completed
    assert found.output == output
    assert found.raw_json is not None
    assert RequestResult.decoded(found.encoded()).output == output


@pytest.mark.parametrize("status", ["completed", " Completed\n", "failed "])
def test_a_status_is_read_whatever_its_case_and_the_spaces_around_it(status: str) -> None:
    assert state(of({"status": status})).finished


def test_a_whole_emoji_is_kept() -> None:
    found = readers.state("r-1", RequestResult, KEY, of({"status": "COMPLETED", "output": "\U0001f600"}))

    assert found.output == "\U0001f600"


def test_nan_in_a_response_becomes_null() -> None:
    found = readers.state("r-1", RequestResult, KEY, of(b'{"status": "COMPLETED", "output": [NaN, -Infinity]}'))

    assert found.output == [None, None]


def test_a_blocking_call_is_read_by_its_media_type() -> None:
    image = readers.sync_result(
        of(b"\x89PNG", content_type="image/png", x_cost="0.05", x_remaining_credits="[9.9]", x_request_id="r-7")
    )
    text = readers.sync_result(of({"candidates": []}, content_type="application/json; charset=utf-8"))
    problem = readers.sync_result(of({"a": 1}, content_type="application/vnd.x+json"))

    assert (image.content, image.json_body, image.cost, image.remaining_credits) == (b"\x89PNG", None, 0.05, None)
    assert image.request_id == "r-7"
    assert (text.content, text.json_body, text.cost) == (None, {"candidates": []}, None)
    assert problem.json_body == {"a": 1}
    assert readers.sync_result(of(b"raw")).content_type == "application/octet-stream"


@pytest.mark.parametrize("body", [{}, {"credits": None}, {"balance": 7}, {"credits": "much"}])
def test_a_response_without_a_balance_is_not_a_balance_of_zero(body: Any) -> None:
    with pytest.raises(MalformedResponseError, match="free-credits"):
        readers.credits(of(body))


def test_one_part_of_the_balance_is_enough() -> None:
    assert readers.credits(of({"free-credits": 1})).total == 1
    assert readers.credits(of({"credits": "2.5"})).total == 2.5


@pytest.mark.parametrize(
    "body",
    [
        {"Inference Segmind Model Information List With Details": [{"slug": "a"}, {"slug": "b"}]},
        [{"slug": "a"}, {"slug": "b"}, "no row"],
        {"data": {"models": [{"slug": "a"}, {"slug": "b"}]}},
        {"warnings": [], "data": [{"slug": "a"}, {"slug": "b"}]},
        {"tags": ["x"], "data": {"rows": [{"slug": "a"}, {"slug": "b"}]}},
    ],
)
def test_a_list_is_found_in_any_envelope(body: Any) -> None:
    assert [row.slug for row in readers.model_list(of(body))] == ["a", "b"]


@pytest.mark.parametrize("body", [{}, {"data": {}}, {"data": 7}, "text", 7, None])
def test_a_response_without_a_list_is_malformed_and_not_empty(body: Any) -> None:
    for read in (readers.model_list, partial(readers.record_list, KEY)):
        with pytest.raises(MalformedResponseError, match="contains no list"):
            read(of(body))


def test_a_history_page_without_rows_is_empty() -> None:
    assert readers.record_list(KEY, of({"data": [], "total": 0})) == []


def test_a_history_page_counts_its_rows_without_a_usable_id() -> None:
    page = readers.record_list(KEY, of({"data": [{"request_id": "r-1"}, {"request_id": None}, {}, "text"]}))
    assert [row.request_id for row in page] == ["r-1"]
    assert [row.request_id for row in page.without_id] == ["", ""]
    assert page.rows == 4


@pytest.mark.parametrize("request_id", [True, 1.5, ["r"], {"id": "r"}, "..", "a/b", "a b", "ä", "x" * 201, KEY])
def test_a_history_row_with_an_id_that_no_call_can_name_is_not_absent(request_id: Any) -> None:
    page = readers.record_list(KEY, of({"data": [{"request_id": "r-1"}, {"request_id": request_id}]}))
    assert [row.request_id for row in page] == ["r-1"]
    assert [row.request_id for row in page.without_id] == [""]


ROW = {"request_id": "r-1", "model_status": "COMPLETED", "credits_deduction": "0.25"}
BARE = {"model_name": "m", "model_status": "COMPLETED", "credits_deduction": 0.25}


@pytest.mark.parametrize(
    "body",
    [
        ROW,
        {"data": ROW},
        {"user": {"name": "me"}, "data": ROW},
        {"data": [{"request_id": "other"}, ROW]},
        [ROW, ROW],
        {"data": [ROW, {**ROW, "generation_url": "second"}]},
        BARE,
        {"message": "ok", "user": {"id": 7}, "data": BARE},
        {"data": [BARE]},
    ],
)
def test_one_history_row_is_found_in_any_envelope(body: Any) -> None:
    record = readers.record("r-1", KEY, of(body))

    assert (record.request_id, record.model_status, record.credits_deduction) == ("r-1", "COMPLETED", 0.25)


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{**ROW, "generation_url": "https://a/1"}, {"request_id": "r-2", "generation_url": "https://a/9"}]
         + [{**ROW, "generation_url": url} for url in ("https://a/2", "https://a/1", None, 7)]},
        {**ROW, "generation_url": ["https://a/1", None, "https://a/2"]},
    ],
)  # fmt: skip
def test_the_record_of_a_request_with_several_outputs_has_all_of_their_addresses(body: Any) -> None:
    record = readers.record("r-1", KEY, of(body))

    assert (record.generation_url, record.generation_urls) == ("https://a/1", ("https://a/1", "https://a/2"))


@pytest.mark.parametrize("body", [{}, [], {"data": None}, {"data": {"request_id": "other", "model_name": "m"}}, "x"])
def test_the_row_of_another_request_is_not_a_record(body: Any) -> None:
    with pytest.raises(MalformedResponseError, match="contains no record of request 'r-1'"):
        readers.record("r-1", KEY, of(body))


@pytest.mark.parametrize("key", ["file_urls", "urls"])
def test_uploads_are_read_under_both_names(key: str) -> None:
    assert readers.urls(2, of({key: ["https://a", "https://b"], "message": "ok"})) == ["https://a", "https://b"]


@pytest.mark.parametrize("body", [{}, {"file_urls": ["a"]}, {"file_urls": ["a", 7]}, {"urls": "ab"}, {"file_urls": []}])
def test_fewer_urls_than_files_are_malformed(body: Any) -> None:
    with pytest.raises(MalformedResponseError, match="names no 2 file_urls"):
        readers.urls(2, of(body))


def outcome(call: Call[Any], answer: Response) -> Any:
    """Return the value an answer is read as, or the SegmindError it is; anything else is raised."""
    try:
        return call.read(answer)
    except SegmindError as error:
        return error


def read_all(secret: str, content: bytes, status: int, headers: dict[str, str]) -> None:
    """Read one answer with every reader: a value or a SegmindError, and the key in neither."""
    wire = Wire(Endpoints(), secret)
    for name, build in CALLS.items():
        call = build(wire)
        found = outcome(call, Response(status, content, headers, 1e9))
        if isinstance(found, SegmindError):
            assert secret not in repr(vars(found)) + "".join(traceback.format_exception(found))
            assert found.billed in (None, False) or status in (404, 410)
            # What may have been paid is never sent again.
            assert not (found.retryable and found.billed is None)
        else:
            # Ids and URLs are what the other calls ask for; they are shown as they came.
            assert name in ("submit", "records", "upload") or secret not in repr(found)


STATUSES = st.sampled_from([200, 201, 204, 301, 307, 400, 401, 402, 403, 404, 405, 406, 410, 413, 418, 422, 429])
SERVER_STATUSES = st.integers(min_value=500, max_value=599)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "content-type": st.sampled_from(["application/json", "text/html", "image/png", ";;", ""]),
        "x-rate-limit-reset-at-utc": st.text(max_size=30),
        "retry-after": st.text(max_size=30) | st.integers().map(str),
        "x-cost": st.text(max_size=5),
        "location": st.just(f"https://elsewhere/{PLAIN_KEY}"),
    },
)


@given(content=st.binary(max_size=200), status=STATUSES | SERVER_STATUSES, headers=HEADERS)
@example(content=b"[" * 100_000, status=200, headers={"content-type": "application/json"})
@example(content=b"[" * 100_000, status=500, headers={})
@example(content=b"\xff\xfe\x00", status=422, headers={})
@example(content=b'"\\ud83d"', status=422, headers={})
@example(content=b"1" * 5000, status=200, headers={})
@example(content=b"", status=429, headers={"retry-after": "Mon, 01 Jan 2020 00:00:00 +99999999999999999999"})
def test_no_bytes_raise_anything_but_a_segmind_error(content: bytes, status: int, headers: dict[str, str]) -> None:
    read_all(PLAIN_KEY, content, status, headers)


@given(body=JSON, status=STATUSES | SERVER_STATUSES, headers=HEADERS)
def test_no_json_raises_anything_but_a_segmind_error(body: Any, status: int, headers: dict[str, str]) -> None:
    read_all(PLAIN_KEY, json.dumps(body).encode(), status, headers)


WIRE_KEYS = st.sampled_from(
    ["request_id", "status", "error", "message", "detail", "metrics", "output", "credits", "data", "file_urls"]
)
ECHOES = st.sampled_from([KEY, PLAIN_KEY, f"x{PLAIN_KEY}y", f"<b>{PLAIN_KEY}</b>", "y" * 195 + PLAIN_KEY, "r-1"])
ECHOING = st.recursive(
    ECHOES | st.integers() | st.none() | st.just("COMPLETED") | st.just("FAILED"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WIRE_KEYS, inner, max_size=5),
    max_leaves=10,
)


@given(body=ECHOING, status=STATUSES | SERVER_STATUSES, secret=st.sampled_from([KEY, PLAIN_KEY]))
def test_a_key_echoed_anywhere_is_in_no_message_and_no_repr(body: Any, status: int, secret: str) -> None:
    read_all(secret, json.dumps(body).encode(), status, {"content-type": "application/json", "location": secret})


@pytest.mark.parametrize("before", range(19_980, 20_004))
def test_no_half_of_a_key_is_left_by_a_cut(before: int) -> None:
    words = server_message(Response(502, b" " * before + PLAIN_KEY.encode() + b" tail"), PLAIN_KEY)

    assert PLAIN_KEY[:1] not in words
