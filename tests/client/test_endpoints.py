from __future__ import annotations

import json
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.client.endpoints import Call, Endpoints, Wire, base_url, encode_inputs, path_segment
from airflow_provider_segmind.client.http_library import httpx
from airflow_provider_segmind.exceptions import SegmindConfigError
from tests.support.clients import KEY, PLAIN_KEY

WIRE = Wire(Endpoints(), KEY)
SEED = {"messages": {"contents": [{"role": "user", "parts": [{"text": "canary"}]}]}, "timeout": 5, "stream": False}


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://api.segmind.com", "https://api.segmind.com"),
        ("https://api.segmind.com/", "https://api.segmind.com"),
        ("  https://api.segmind.com  ", "https://api.segmind.com"),
        ("api.segmind.com", "https://api.segmind.com"),
        ("https://api.segmind.com/v1", "https://api.segmind.com"),
        ("https://api.segmind.com/v2", "https://api.segmind.com"),
        ("https://api.segmind.com/v1/", "https://api.segmind.com"),
        ("https://api.segmind.com/v2//", "https://api.segmind.com"),
        ("https://proxy/video", "https://proxy/video"),
        ("https://proxy/v3", "https://proxy/v3"),
        ("https://proxy/v10", "https://proxy/v10"),
        ("https://proxy/segmind", "https://proxy/segmind"),
        ("https://proxy/segmind/v1", "https://proxy/segmind"),
        ("https://proxy/a/b/v2/", "https://proxy/a/b"),
        ("proxy.example:8443/segmind", "https://proxy.example:8443/segmind"),
        ("localhost:8080", "https://localhost:8080"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/v1", "http://[::1]:8080"),
        ("http://[::1]", "http://[::1]"),
        ("https://segmind_gateway.internal", "https://segmind_gateway.internal"),
    ],
)
def test_a_base_url_is_normalised(given: str, used: str) -> None:
    assert base_url(given, "host") == used
    assert httpx.URL(used).host


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "https://", "https:///v1", "//host", "ftp://host", "file:///etc/passwd", "http:/api.segmind.com",
        "https://host?x=1", "https://host?", "https://host#part", "https://host#", "https://user:pw@host",
        "https://user@host", "https://@host", "https://host:0", "https://host:99999", "https://host:port",
        "https://host:", "https://[::1", "https://ho st", "https://host/a b", "https://host\n.example",
        "https://good\\@evil.example", "https://höst.example", "https://host/%00\x00",
        "https://api..segmind.com", "https://.segmind.com", f"https://{'a' * 64}.test",
    ],
)  # fmt: skip
def test_an_invalid_base_url_is_refused_and_named(text: str) -> None:
    with pytest.raises(SegmindConfigError, match="Field 'services_url' of the Segmind connection") as caught:
        base_url(text, "services_url")

    assert "Nothing was sent" in str(caught.value)


def test_a_password_in_a_base_url_is_not_quoted() -> None:
    with pytest.raises(SegmindConfigError) as caught:
        base_url("https://me:pa@ss@host/v1", "host")

    assert "'https://***@host/v1'" in str(caught.value)
    assert "me:" not in str(caught.value)


@given(text=st.text(max_size=30) | st.from_regex(r"https?://[a-z0-9.:\[\]@/?#-]{0,20}", fullmatch=True))
def test_a_base_url_stays_in_front_of_the_path_or_is_refused(text: str) -> None:
    try:
        url = base_url(text, "host")
    except SegmindConfigError:
        return

    parts = urlsplit(f"{url}/v2/m")
    assert parts.path.endswith("/v2/m")
    assert not parts.query
    assert "@" not in parts.netloc
    assert base_url(url, "host").startswith(url.removesuffix("/v1").removesuffix("/v2"))


@pytest.mark.parametrize("value", ["sync.so-lipsync-2-pro", "Simple_Vector_Flux", "gpt-5.5", "a..b", "x" * 200])
def test_the_names_of_the_vendors_directory_are_valid_in_a_path(value: str) -> None:
    assert path_segment(value, "model") == value


@pytest.mark.parametrize(
    "value",
    ["", ".", "..", "a/b", "../v1/get-user-credits", "a b", "a?b", "a#b", "a%2fb", "ä", "a\n", "x" * 201, None, 7],
)
def test_a_name_that_is_invalid_in_a_path_is_refused(value: Any) -> None:
    with pytest.raises(SegmindConfigError, match="'model' is"):
        WIRE.submit(value, {})
    for build in (WIRE.status, WIRE.result, WIRE.request_record):
        with pytest.raises(SegmindConfigError, match="'request_id' is"):
            build(value)


def test_a_refused_name_is_shortened() -> None:
    with pytest.raises(SegmindConfigError) as caught:
        WIRE.submit("/" * 100_000, {})

    assert len(str(caught.value)) < 500


def test_a_submit_posts_the_inputs_unchanged() -> None:
    call = WIRE.submit("gemini-3.1-flash-lite", SEED)

    assert (call.method, call.url) == ("POST", "https://api.segmind.com/v2/gemini-3.1-flash-lite")
    assert json.loads(call.body or b"") == SEED
    assert call.headers["x-api-key"] == KEY
    assert call.headers["content-type"] == "application/json"
    assert call.headers["user-agent"].startswith("airflow-provider-segmind/")
    assert "authorization" not in call.headers
    assert call.context.paid


def test_only_submit_and_run_sync_are_paid() -> None:
    wire = WIRE
    paid: list[Call[Any]] = [wire.submit("m", {}), wire.run_sync("m", {}, 5.0)]
    free: list[Call[Any]] = [
        wire.status("r"), wire.result("r"), wire.credits(), wire.models(), wire.request_record("r"),
        wire.request_records(), wire.upload(["data:,a"]),
    ]  # fmt: skip

    assert all(call.context.paid for call in paid)
    assert not any(call.context.paid for call in free)
    assert [call.method for call in paid] == ["POST", "POST"]
    assert {call.method for call in free[:-1]} == {"GET"}


def test_every_url_is_built_from_the_base_urls_of_the_connection() -> None:
    wire = Wire(Endpoints("http://g/p", "http://s", "http://h", "http://m"), KEY)

    assert [
        wire.submit("m", {}).url, wire.run_sync("m", {}, None).url, wire.status("r").url, wire.result("r").url,
        wire.credits().url, wire.upload([]).url, wire.request_record("r").url, wire.models().url,
    ] == [
        "http://g/p/v2/m", "http://g/p/v1/m", "http://g/p/v2/requests/r/status", "http://g/p/v2/requests/r",
        "http://g/p/v1/get-user-credits", "http://s/upload-asset", "http://h/inference-request/request-history/r",
        "http://m/inference-model-information/list",
    ]  # fmt: skip


def test_history_filters_become_a_query() -> None:
    url = WIRE.request_records(model="a&b", from_date=date(2026, 11, 1), status="COMPLETED", page=2, per_page=7).url

    assert parse_qs(urlsplit(url).query) == {
        "page": ["2"], "per_page": ["7"], "from_date": ["2026-11-01"], "model_name": ["a&b"], "status": ["COMPLETED"],
        "sort_by": ["model_created"], "sort_order": ["desc"],
    }  # fmt: skip


@pytest.mark.parametrize("inputs", [None, "prompt", ["a"], 7])
def test_inputs_that_are_not_an_object_are_refused(inputs: Any) -> None:
    with pytest.raises(SegmindConfigError, match=r"'inputs' must be an object \(dict\), not"):
        WIRE.submit("m", inputs)


def nested(depth: int) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for _ in range(depth):
        inputs = {"a": inputs}
    return inputs


@pytest.mark.parametrize(
    "inputs",
    [
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": {1, 2}},
        {"a": b"x"},
        {("a",): 1},
        {"a": "canary\ud83d"},
        nested(200_000),
    ],
    ids=["nan", "inf", "set", "bytes", "key", "surrogate", "deep"],
)
def test_inputs_that_json_cannot_represent_are_refused_before_anything_is_sent(inputs: Any) -> None:
    with pytest.raises(SegmindConfigError, match="Nothing was sent") as caught:
        encode_inputs(inputs)

    assert "canary" not in str(caught.value)


def test_inputs_may_be_any_mapping_and_are_not_escaped() -> None:
    assert encode_inputs(MappingProxyType({"prompt": "größer"})) == '{"prompt": "größer"}'.encode()


@pytest.mark.parametrize("key", ["SG_abc\n", " SG_abc", "SG abc", "SG_schlüssel", "\x00"])
def test_a_key_that_is_invalid_in_a_header_is_refused_without_being_quoted(key: str) -> None:
    with pytest.raises(SegmindConfigError, match="API key") as caught:
        Wire(Endpoints(), key)

    assert key.strip() not in str(caught.value) or not key.strip("\x00 ")


@pytest.mark.parametrize("key", [KEY, PLAIN_KEY])
def test_no_repr_of_a_call_contains_the_key_or_the_prompt(key: str) -> None:
    wire = Wire(Endpoints(), key)
    for call in (wire.submit("m", SEED), wire.status("r"), wire.result("r"), wire.request_record("r"), wire.credits()):
        shown = repr(call) + repr(wire)
        assert key not in shown
        assert "canary" not in shown


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (date(2026, 11, 27), "2026-11-27"),
        (datetime(2026, 11, 27, 23, 59, tzinfo=UTC), "2026-11-27"),
        ("2026-11-27", "2026-11-27"),
    ],
)
def test_the_history_takes_a_day_in_every_form(given: Any, sent: str) -> None:
    query = parse_qs(urlsplit(WIRE.request_records(from_date=given, to_date=given).url).query)

    assert (query["from_date"], query["to_date"]) == ([sent], [sent])


@pytest.mark.parametrize("given", ["yesterday", "", "27.11.2026", 5, ["2026-11-27"]])
def test_what_is_not_a_day_is_refused(given: Any) -> None:
    with pytest.raises(SegmindConfigError, match=r"'from_date' is .*Nothing was sent"):
        WIRE.request_records(from_date=given)


@pytest.mark.parametrize("timeout", [0, -1.0, True, "5", float("nan"), float("inf"), 86_401, 10**400])
def test_a_timeout_that_no_call_may_take_is_refused(timeout: Any) -> None:
    with pytest.raises(SegmindConfigError, match=r"'timeout' is .*Nothing was sent"):
        WIRE.run_sync("m", {}, timeout)
