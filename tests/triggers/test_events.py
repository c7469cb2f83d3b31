from __future__ import annotations

import json

from airflow.triggers.base import TriggerEvent

from airflow_provider_segmind.triggers.events import RequestEvent


def test_what_airflow_logs_of_an_event_holds_no_answer() -> None:
    event = RequestEvent("r-1", "success", value={"output": "a secret answer"}, has_value=True)

    fired = TriggerEvent(event.to_json())

    for shown in (repr(fired), str(fired), f"{fired.payload}"):
        assert "a secret answer" not in shown
        assert "r-1" in shown


def test_an_event_crosses_to_the_task_with_its_answer() -> None:
    event = RequestEvent("r-1", "success", value={"output": "a secret answer"}, has_value=True)

    arrived = RequestEvent.read(json.loads(json.dumps(TriggerEvent(event.to_json()).payload)))

    assert arrived == event
