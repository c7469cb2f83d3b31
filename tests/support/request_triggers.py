"""Triggers of one request, and the one event that each sends."""

from __future__ import annotations

import json
import time
from typing import Any

from airflow_provider_segmind.triggers.request import SegmindRequestTrigger
from tests.support.airflow_fakes import INPUTS, KEY, Clock, hook_by

MODEL = "gemini-3.1-flash-lite"


def make(clock: Clock, model: str = MODEL, **fields: Any) -> SegmindRequestTrigger:
    request = hook_by(clock).submit(model, INPUTS)
    given = {"submitted_at": time.time(), "end_time": time.time() + 60, "poll_interval": 0.05, "model": model}
    return SegmindRequestTrigger(request_id=request.request_id, **{**given, **fields})


async def fire(trigger: SegmindRequestTrigger) -> dict[str, Any]:
    events = [event async for event in trigger.run()]
    assert len(events) == 1
    payload: dict[str, Any] = json.loads(json.dumps(events[0].payload))
    assert KEY not in str(payload)
    return payload
