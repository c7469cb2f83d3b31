"""What every trigger does."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest

from airflow_provider_segmind.client.client import ClientConfig
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.triggers.request import SegmindRequestTrigger
from airflow_provider_segmind.triggers.trigger import owner_of
from tests.support.airflow_fakes import Clock
from tests.support.request_triggers import fire, make


async def test_teams_with_one_connection_id_never_share_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wanted(self: SegmindHook) -> ClientConfig:
        return ClientConfig(api_key=f"SG_{asked[-1]}")

    monkeypatch.setattr(SegmindHook, "get_async_config", wanted)
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    asked: list[str] = []
    keys = {}
    for team, dag_id in (("a", "one"), ("b", "two"), (None, "three"), (None, "four"), ("a", "five"), (None, "three")):
        asked.append(f"{team}_{dag_id}")
        trigger = SegmindRequestTrigger(request_id="r", submitted_at=0.0, end_time=time.time() + 60)
        trigger.task_instance = SimpleNamespace(
            task_id="t", dag_id=dag_id, task=None, dag_run=SimpleNamespace(team_name=team)
        )
        keys[team, dag_id] = (await trigger._poller(time.time())).config.api_key

    assert keys == {
        ("a", "one"): "SG_a_one",
        ("b", "two"): "SG_b_two",
        (None, "three"): "SG_None_three",
        (None, "four"): "SG_None_four",
        ("a", "five"): "SG_a_one",
    }


@pytest.mark.parametrize("multi_team", [True, False])
def test_a_trigger_whose_team_is_unknown_shares_within_its_dag(
    multi_team: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", str(multi_team))
    owners = [
        owner_of(SimpleNamespace(task_instance=task, trigger_id=number))
        for number, task in enumerate([SimpleNamespace(dag_id="a"), SimpleNamespace(dag_id="b"), None, None])
    ]

    assert len(set(owners)) == (4 if multi_team else 1)
    assert owner_of(SimpleNamespace(team_name="x", task_instance=None)) == "team x"


async def test_an_event_is_held_back_until_it_is_harmless(emulator: SegmindEmulator, clock: Clock) -> None:
    started = time.time()
    await fire(make(clock, not_before=started + 0.4))
    assert time.time() - started >= 0.4


def test_a_trigger_is_rebuilt_from_what_it_serialises_and_from_newer_arguments(
    emulator: SegmindEmulator, clock: Clock
) -> None:
    path, kwargs = make(clock, fetch=True, output_path="memory://x").serialize()
    assert path == "airflow_provider_segmind.triggers.request.SegmindRequestTrigger"
    again = SegmindRequestTrigger(**json.loads(json.dumps(kwargs)), of_tomorrow=1)
    assert again.serialize() == (path, kwargs)
