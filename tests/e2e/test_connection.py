"""The connection in Airflow's UI: the form, and both kinds of connection test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from airflow_provider_segmind.get_provider_info import CONNECTION_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_segmind.emulator.control import EmulatorControl
    from demo.stack import AirflowStack

# Airflow stores the key of an enqueued test, so it must not be the canary.
OTHER_KEY = "SG_" + "feedface" * 2


@pytest.fixture
def body(emulator: EmulatorControl) -> Iterator[dict[str, Any]]:
    """A connection as the form sends it, with a key that the emulator accepts during the test."""
    keys = emulator.settings()["api_keys"]
    emulator.settings(api_keys=[*keys, OTHER_KEY])
    emulator.set_balance(12.5, key=OTHER_KEY)
    yield {"connection_id": "segmind_form", "conn_type": "segmind", "host": emulator.url, "password": OTHER_KEY}
    emulator.settings(api_keys=keys)


def test_the_test_button_shows_the_balance(
    airflow_stack: AirflowStack, emulator: EmulatorControl, body: dict[str, Any]
) -> None:
    posts = len(emulator.posts())

    answer = airflow_stack.rest.call("POST", "/connections/test", json=body)

    assert answer["status"] is True
    assert "Balance: $12.50" in answer["message"]
    assert len(emulator.posts()) == posts


def test_the_test_button_distinguishes_a_wrong_key_from_an_unreachable_host(
    airflow_stack: AirflowStack, body: dict[str, Any]
) -> None:
    rest = airflow_stack.rest

    bad_key = rest.call("POST", "/connections/test", json={**body, "password": "SG_wrong"})
    no_host = rest.call("POST", "/connections/test", json={**body, "host": "http://127.0.0.1:9"})

    assert (bad_key["status"], no_host["status"]) == (False, False)
    assert "Unauthorized" in bad_key["message"]
    assert "SG_wrong" not in bad_key["message"]
    assert "127.0.0.1:9" in no_host["message"]
    assert OTHER_KEY not in no_host["message"]


def test_a_connection_test_on_a_worker_shows_the_balance(airflow_stack: AirflowStack, body: dict[str, Any]) -> None:
    rest = airflow_stack.rest
    token = rest.call("POST", "/connections/enqueue-test", json=body)["token"]
    login = httpx.get(f"{airflow_stack.base_url}/auth/token", trust_env=False).json()["access_token"]
    headers = {"Authorization": f"Bearer {login}", "Airflow-Connection-Test-Token": token}

    def check() -> dict[str, Any] | None:
        url = f"{airflow_stack.base_url}/api/v2/connections/enqueue-test"
        answer: dict[str, Any] = httpx.get(url, headers=headers, trust_env=False).raise_for_status().json()
        return answer if answer["state"] in ("success", "failed") else None

    answer = rest.wait_for("the connection test", check, timeout=60)

    assert answer["state"] == "success", answer
    assert "Balance: $12.50" in answer["result_message"]


def test_the_form_shows_every_field(airflow_stack: AirflowStack) -> None:
    login = httpx.get(f"{airflow_stack.base_url}/auth/token", trust_env=False).json()["access_token"]
    answer = httpx.get(
        f"{airflow_stack.base_url}/ui/connections/hook_meta",
        headers={"Authorization": f"Bearer {login}"},
        trust_env=False,
        timeout=30,
    )
    (form,) = [each for each in answer.raise_for_status().json() if each["connection_type"] == "segmind"]

    assert form["hook_name"] == "Segmind"
    assert set(form["extra_fields"]) == set(CONNECTION_FIELDS)
    standard = form["standard_fields"]
    assert {name for name, field in standard.items() if field and field["hidden"]} == {"url_schema", "login", "port"}
    assert standard["password"]["title"] == "API Key"
    assert standard["host"]["placeholder"] == "https://api.segmind.com"
