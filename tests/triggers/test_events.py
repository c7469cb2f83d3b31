from __future__ import annotations

import json

import pytest
from airflow.triggers.base import TriggerEvent

from airflow_provider_segmind.client.submission import ResultManifest
from airflow_provider_segmind.result_storage import StoredResult
from airflow_provider_segmind.triggers.events import RequestEvent


def test_what_airflow_logs_of_an_event_holds_no_answer() -> None:
    event = RequestEvent("r-1", "success", result=StoredResult({"output": "a secret answer"}))

    fired = TriggerEvent(event.to_json())

    for shown in (repr(fired), str(fired), f"{fired.payload}"):
        assert "a secret answer" not in shown
        assert "r-1" in shown


@pytest.mark.parametrize(
    "result",
    [
        None,
        StoredResult({"output": "a secret answer"}),
        StoredResult({"output": "a body", "uri": "with names", "uris": ["of a manifest"]}),
        StoredResult(manifest=ResultManifest(request_id="r-1", uris=("s3://b/1", "s3://b/2"), size=3)),
    ],
)
def test_an_event_crosses_to_the_task_with_its_result(result: StoredResult | None) -> None:
    event = RequestEvent("r-1", "success", result=result)

    arrived = RequestEvent.read(json.loads(json.dumps(TriggerEvent(event.to_json()).payload)))

    assert arrived == event
