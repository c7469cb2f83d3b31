"""Names that nothing reads are warned of, once in a process; what cannot be sent is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.hooks import connection
from airflow_provider_segmind.hooks.segmind import SegmindHook


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", "segmind://:SG_key@/")
    connection._warn_of_unknown_options.cache_clear()
    yield
    connection._warn_of_unknown_options.cache_clear()


def test_an_unknown_option_is_warned_of_once_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN", "my_postgres")
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "my_postgres")

    for _ in range(2):
        _ = SegmindHook().config

    warnings = [record.getMessage() for record in caplog.records if "[segmind]" in record.getMessage()]
    assert warnings == ["[segmind] has an unknown option, 'spend_conn'; did you mean 'spend_conn_id'?"]


def test_an_option_whose_value_comes_from_a_command_is_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGET_REDIS_URL_CMD", "echo redis://127.0.0.1:6379/0")
    monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGETS_SECRET", "segmind-budgets")

    _ = SegmindHook().config

    assert "unknown option" not in caplog.text


def test_a_key_that_cannot_be_sent_is_refused_with_the_name_of_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_TEAM", '{"conn_type": "segmind", "password": "SG_secret key"}')

    with pytest.raises(SegmindConfigError, match="connection 'segmind_team' contains a space") as raised:
        _ = SegmindHook("segmind_team").config
    assert "SG_secret" not in str(raised.value)


@pytest.mark.parametrize("seconds", [0, -1, 86_401, 1e300, "1e10", "nan"])
def test_a_timeout_that_no_socket_takes_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, seconds: float | str
) -> None:
    values = {"conn_type": "segmind", "password": "SG_key", "extra": {"request_timeout": seconds}}
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(values))

    with pytest.raises(SegmindConfigError, match=r"'request_timeout' .* above 0 and at most 86,400. Nothing was sent"):
        _ = SegmindHook().config
