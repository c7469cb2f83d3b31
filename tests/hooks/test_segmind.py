"""From a Connection to a client, in every form a Connection has."""

from __future__ import annotations

import copy
import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_segmind.client.rate_limiter import account_name
from airflow_provider_segmind.compat import Connection
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.hooks import connection as account
from airflow_provider_segmind.hooks.connection import client_config
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
from tests.support.airflow_fakes import KEY
from tests.support.examples import examples

VARIABLE = "AIRFLOW_CONN_SEGMIND_DEFAULT"
NO_NUMBERS = ("abc", -1, 0, "-5", True, [1], {"a": 1}, "nan", 10**400)


def connection(**fields: Any) -> Connection:
    given = {"extra": None, **fields}
    made = Connection(conn_id="segmind_default", conn_type="segmind", password=KEY)
    for name, value in given.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("given", "gateway"),
    [
        ("segmind://:k@", "https://api.segmind.com"),
        ("segmind://:k@proxy.example", "https://proxy.example"),
        ("segmind://:k@127.0.0.1:8080/http", "http://127.0.0.1:8080"),
        ("segmind://:k@http%3A%2F%2F127.0.0.1%3A8080", "http://127.0.0.1:8080"),
        ("segmind://:k@https%3A%2F%2Fproxy.example%2Fai%2Fv2", "https://proxy.example/ai"),
        ("segmind://:k@proxy.example:8443/ai", "https://proxy.example:8443/ai"),
        ("segmind://:k@api.segmind.com/v1", "https://api.segmind.com"),
        ("segmind://:k@[::1]:8080/http", "http://[::1]:8080"),
        ("segmind://:k@[2001:db8::1]", "https://[2001:db8::1]"),
        ('{"conn_type": "segmind", "password": "k", "host": "http://[::1]:81/v1/"}', "http://[::1]:81"),
        ('{"conn_type": "segmind", "password": "k", "host": "h.example/p", "port": 99}', "https://h.example:99/p"),
        ('{"conn_type": "segmind", "password": "k"}', "https://api.segmind.com"),
    ],
)
def test_both_forms_of_a_connection_name_the_same_gateway(
    given: str, gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, given)
    assert SegmindHook().config.endpoints.gateway == gateway


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"requests_per_minute": "many"}, "requests_per_minute"),
        ({"request_timeout": True}, "request_timeout"),
        ({"request_timeout": "inf"}, "request_timeout"),
        ({"storage_url": "ftp://x"}, "storage_url"),
        ({"history_url": "http://"}, "history_url"),
        ({"models_url": "http://a b"}, "models_url"),
        ({"output_path": 5}, "output_path"),
        ({"output_path": ["s3://a", "s3://b"]}, "output_path"),
        ({"max_result_bytes": 15_999}, "max_result_bytes"),
        ({"max_result_bytes": "0.5"}, "max_result_bytes"),
    ],
)
def test_an_invalid_field_is_named(extra: dict[str, object], field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"conn_type": "segmind", "password": KEY, "extra": extra}))
    with pytest.raises(SegmindConfigError, match=field) as caught:
        _ = SegmindHook().config
    assert KEY not in str(caught.value)


WRONG = [
    ('"{\\"requests_per_minute\\": 30}"', "encoded twice"),
    ('["requests_per_minute"]', "a list"),
    ("30", "an int"),
    ('"text"', "a str"),
    ("true", "a bool"),
    ('{"requests_per_minute": 30', "not JSON"),
    ("requests_per_minute=30", "not JSON"),
    ("[" * 100_000, "not JSON"),
]


@pytest.mark.parametrize(("extra", "words"), WRONG)
def test_an_extra_that_is_not_an_object_is_named(extra: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmindHook, "get_connection", lambda *_: connection(extra=extra))
    for ask in (lambda: SegmindHook().config, lambda: SegmindHook().get_prices()):
        with pytest.raises(SegmindConfigError, match="extra of connection 'segmind_default'") as caught:
            ask()
        assert words in str(caught.value)
    assert SegmindHook().test_connection() == (False, f"SegmindConfigError: {caught.value}")


@pytest.mark.parametrize(("extra", "words"), WRONG)
async def test_an_extra_that_is_not_an_object_is_named_in_a_triggerer(
    extra: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def given(*_: object) -> Connection:
        return connection(extra=extra)

    monkeypatch.setattr(SegmindHook, "aget_connection", given, raising=False)
    with pytest.raises(SegmindConfigError, match="extra of connection 'segmind_default'") as caught:
        await SegmindHook().get_async_config()
    assert words in str(caught.value)


@pytest.mark.parametrize("extra", [None, "", "  ", "null", "{}"])
def test_an_empty_extra_sets_nothing(extra: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmindHook, "get_connection", lambda *_: connection(extra=extra))
    assert SegmindHook().config.request_timeout == 60.0
    assert SegmindHook().get_prices() is None


@pytest.mark.parametrize(
    "extra",
    [
        *({name: value} for name in ("requests_per_minute", "request_timeout") for value in NO_NUMBERS),
        *({name: value} for name in ("model", "redis_url", "storage_url") for value in (5, ["a"], {"a": 1}, True)),
        *({"prices": value} for value in (5, [1], "{", {"m": 1}, {"m": {"input": "a", "output": 1}})),
        {"prices": {"m": {"input": 10**400, "output": 1}}},
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_its_connection(
    extra: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SegmindHook, "get_connection", lambda *_: connection(extra=json.dumps(extra)))
    good, said = SegmindHook().test_connection()

    assert not good
    assert "connection 'segmind_default'" in said
    assert next(iter(extra)) in said


def test_an_unknown_field_causes_one_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    account._warn_of_unknown_field.cache_clear()
    extra = {"request_per_minute": 30, "extra__segmind__model": "m"}
    monkeypatch.setattr(SegmindHook, "get_connection", lambda *_: connection(extra=json.dumps(extra)))
    for _ in range(2):
        assert SegmindHook().config.requests_per_minute is None

    assert [record.getMessage() for record in caplog.records if "unknown extra field" in record.getMessage()] == [
        (
            "Connection 'segmind_default' has an unknown extra field, 'request_per_minute'; did you mean "
            "'requests_per_minute'?"
        )
    ]


@pytest.mark.parametrize(
    "host",
    [
        "HTTPS://API.Segmind.com",
        "https://api.segmind.com:443/",
        "Api.Segmind.Com/V1",
        "HTTPS://api.SEGMIND.com:443/v2/",
    ],
)
def test_one_host_has_one_rate_limiter_in_every_spelling(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmindHook, "get_connection", lambda *_: connection(host=host))
    plain = SegmindHook().config.endpoints.gateway

    assert plain == "https://api.segmind.com"
    monkeypatch.setattr(SegmindHook, "get_connection", lambda *_: connection(host=None))
    other = SegmindHook().config
    assert account_name(plain, KEY) == account_name(other.endpoints.gateway, KEY)


def test_the_path_of_a_proxy_keeps_its_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmindHook, "get_connection", lambda *_: connection(host="HTTP://Proxy:80/AI", schema="HTTPS"))
    assert SegmindHook().config.endpoints.gateway == "http://proxy/AI"


@pytest.mark.parametrize("name", ["requests_per_minute", "storage_url"])
def test_a_key_in_the_wrong_field_is_not_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = json.dumps({name: f"ftp://{KEY}"})
    monkeypatch.setattr(SegmindHook, "get_connection", lambda *_: connection(extra=extra))
    good, said = SegmindHook().test_connection()

    assert (good, name in said, KEY in said) == (False, True, False)


@pytest.mark.parametrize("place", ["connection", "environment"])
def test_airflow_masks_a_key_wherever_it_comes_from(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("airflow_provider_segmind.hooks.segmind.mask_secret", told.append)
    monkeypatch.setenv("SEGMIND_API_KEY", KEY)
    given = connection(password=KEY if place == "connection" else None)
    monkeypatch.setattr(SegmindHook, "get_connection", lambda *_: given)

    assert SegmindHook().config.api_key == KEY
    assert KEY in told
    assert len(told) > 1


async def test_airflow_masks_a_key_of_the_environment_in_a_triggerer(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk import log

    told: list[str] = []

    async def tell(secret: str, name: str | None = None) -> None:
        told.append(secret)

    async def find(*_: object) -> Connection:
        return connection(password=None)

    monkeypatch.setattr(log, "amask_secret", tell)
    monkeypatch.setenv("SEGMIND_API_KEY", KEY)
    monkeypatch.setattr(SegmindHook, "aget_connection", find, raising=False)

    assert (await SegmindHook().get_async_config()).api_key == KEY
    assert KEY in told


def test_a_worker_with_a_paid_request_retries_its_connection_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def find(*_: object) -> Connection:
        asked.append(1)
        if len(asked) < 3:
            raise RuntimeError("500")
        return connection()

    monkeypatch.setattr(SegmindHook, "get_connection", find)
    hook = SegmindHook()
    hook.find_connection(pauses=(0, 0))
    assert (len(asked), hook.config.api_key) == (3, KEY)

    asked.clear()
    with pytest.raises(RuntimeError):
        SegmindHook().find_connection(pauses=(0,))


def test_the_environment_provides_the_key_of_a_connection_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, '{"conn_type": "segmind"}')
    with pytest.raises(SegmindConfigError, match="SEGMIND_API_KEY"):
        _ = SegmindHook().config
    monkeypatch.setenv("SEGMIND_API_KEY", f" {KEY}\n")
    assert SegmindHook().config.api_key == KEY


def test_the_connection_test_names_the_error_and_runs_no_model(
    emulator: SegmindEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, said = SegmindHook().test_connection()
    assert (good, "$100.00" in said) == (True, True)
    emulator.set_balance(None)
    assert "no balance record" in SegmindHook().test_connection()[1]
    emulator.settings(api_keys=["SG_other"])
    good, said = SegmindHook().test_connection()
    assert (good, "check the API key" in said, KEY in said) == (False, True, False)
    assert emulator.posts() == []
    emulator.stop()
    good, said = SegmindHook().test_connection()
    assert (good, "never left" in said, KEY in said) == (False, True, False)


def test_a_connection_sets_the_rate_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {
        "requests_per_minute": "50",
        "redis_url": "redis://127.0.0.1:6379/0",
    }
    connection = {"conn_type": "segmind", "password": "SG_1", "extra": extra}
    monkeypatch.setenv(VARIABLE, json.dumps(connection))

    rate = SegmindHook().config.rate

    assert (rate.requests_per_minute, rate.rate_share) == (50.0, 1.0)
    assert rate.redis_url == "redis://127.0.0.1:6379/0"


@pytest.mark.parametrize(
    ("extra", "file", "seconds", "response"),
    [
        ({}, 1 << 30, 900, 64 << 20),
        ({"max_result_bytes": 4 << 30}, 4 << 30, 3600, 256 << 20),
        ({"max_result_bytes": "32000"}, 32_000, 900, 64 << 20),
        ({"max_result_bytes": 1_000_000}, 1_000_000, 900, 64 << 20),
        ({"max_result_bytes": (1 << 30) - 1}, (1 << 30) - 1, 900, 64 << 20),
    ],
)
def test_a_larger_limit_of_files_raises_the_others(
    monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], file: int, seconds: float, response: int
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"conn_type": "segmind", "password": "SG_1", "extra": extra}))

    config = SegmindHook().config

    assert (config.downloads.max_bytes, config.downloads.seconds) == (file, seconds)
    assert config.max_response_bytes == response


@settings(max_examples=examples(60))
@given(st.integers(16_000, 1 << 40))
def test_no_limit_of_files_lowers_that_of_responses(limit: int) -> None:
    assert client_config(connection(), {"max_result_bytes": limit}).max_response_bytes >= 64 << 20


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({}, 1.0),
        ({"shard_index": 1, "shard_count": 4}, 0.25),
        ({"shard_index": 1, "shard_count": 4, "max_active_tis_per_dag": 2}, 0.5),
        ({"shard_index": 1, "shard_count": 4, "max_active_tis_per_dagrun": 1}, 1.0),
        ({"shard_index": 1, "shard_count": 4, "max_active_tis_per_dag": 9}, 0.25),
    ],
)
def test_the_shards_of_a_table_that_may_run_at_once_divide_the_rate_limit(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], share: float
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"conn_type": "segmind", "password": "SG_1"}))
    task = SegmindEnrichFileOperator(
        task_id="t", source="a.jsonl", key="id", prompt="{it}", output_path="b.jsonl", **fields
    )

    assert task.hook.config.rate.rate_share == share


def test_a_hook_shared_by_many_threads_has_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"conn_type": "segmind", "password": KEY}))
    hook, looked_up, together = SegmindHook(), list[str](), threading.Barrier(16)
    find = SegmindHook.get_connection

    def slowly(conn_id: str) -> Connection:
        looked_up.append(conn_id)
        time.sleep(0.05)
        return find(conn_id)

    monkeypatch.setattr(hook, "get_connection", slowly)

    def use(_: int) -> Any:
        together.wait()
        return hook.get_conn()

    with ThreadPoolExecutor(16) as threads:
        clients = set(map(id, threads.map(use, range(16))))
    assert len(clients) == 1
    assert looked_up == ["segmind_default"]
    first = hook.get_conn()
    hook.close()
    assert hook.get_conn() is not first
    hook.close()


def test_a_hook_can_be_copied_with_its_task() -> None:
    assert copy.deepcopy(SegmindHook("other")).segmind_conn_id == "other"


def test_a_hook_that_was_used_can_be_copied_and_pickled_without_its_key(emulator: SegmindEmulator) -> None:
    hook = SegmindHook()
    hook.submit("gemini-3.1-flash-lite", {"prompt": "hi"})

    pickled = pickle.dumps(hook)
    for copied in (copy.deepcopy(hook), pickle.loads(pickled)):
        assert copied.get_balance() == hook.get_balance()
        assert copied.get_conn() is not hook.get_conn()
        copied.close()
    hook.close()

    assert KEY.encode() not in pickled


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"daily_budget": "x"}, "daily limit is 'x'"),
        ({"monthly_budget": -1}, "monthly limit is -1"),
        ({"budget_timezone": "Mars"}, "timezone is 'Mars'"),
        ({"max_paid_in_flight": 0}, "'max_paid_in_flight' of connection"),
    ],
)
def test_the_connection_test_names_a_limit_that_no_task_could_read(
    extra: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SegmindHook, "get_connection", lambda *_: connection(extra=json.dumps(extra)))
    good, said = SegmindHook().test_connection()

    assert (good, words in said, "segmind_default" in said) == (False, True, True)


@pytest.mark.parametrize("timeout", [0, -1, True, "5", float("nan"), float("inf"), 10**400, timedelta(0), [5]])
def test_a_blocking_call_with_an_invalid_timeout_is_not_sent(timeout: Any, emulator: SegmindEmulator) -> None:
    with pytest.raises(SegmindConfigError, match=r"'timeout' is .*Nothing was sent"):
        SegmindHook().run_sync("a-model", {"prompt": "hi"}, timeout=timeout)

    assert emulator.posts() == []


@pytest.mark.parametrize("inputs", [None, "hi", [1], {"a": float("nan")}, {"a": {1, 2}}])
def test_what_cannot_be_sent_has_no_estimate(inputs: Any, emulator: SegmindEmulator) -> None:
    with pytest.raises(SegmindConfigError, match=r"'inputs' .*Nothing was sent"):
        SegmindHook().estimate("a-model", inputs)


@pytest.mark.parametrize("files", [(), ("/nowhere.png",), ("/",), (5,), (None,), ("https://a.test/b.png",), ("\0",)])
def test_what_is_not_a_readable_file_is_not_uploaded(files: Any, emulator: SegmindEmulator) -> None:
    with pytest.raises(SegmindConfigError, match=r"file to upload.*Nothing was sent"):
        SegmindHook().upload(*files)
