"""Send an image to gemini-3.1-flash-lite in three tasks: submit, wait without a worker slot, fetch the result."""

from __future__ import annotations

from airflow import DAG

from airflow_provider_segmind.operators.request import SegmindResultOperator, SegmindSubmitOperator
from airflow_provider_segmind.sensors.request import SegmindRequestSensor

# An image of one pixel; a real one is inlined the same way, as base64 without a "data:" prefix.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="

with DAG("example_segmind_request", schedule=None, tags=["segmind", "example"]):
    submit = SegmindSubmitOperator(
        task_id="submit",
        model="gemini-3.1-flash-lite",
        inputs={
            "messages": {
                "system_instruction": {"parts": {"text": "You are a helpful assistant."}},
                "contents": [
                    {
                        "role": "user",
                        "parts": [
                            {"text": "What's in this image?"},
                            {"inlineData": {"mimeType": "image/png", "data": PIXEL}},
                        ],
                    }
                ],
            }
        },
    )
    wait = SegmindRequestSensor(task_id="wait", request_id=submit.output, deferrable=True, timeout=600)
    result = SegmindResultOperator(task_id="result", request_id=submit.output)

    submit >> wait >> result
