"""Submit a request and wait for its result, as a task does."""

from __future__ import annotations

from airflow_provider_segmind.client.async_client import AsyncSegmindClient
from airflow_provider_segmind.client.models import RequestState
from airflow_provider_segmind.client.poll_schedule import Pending

MODEL = "gemini-3.1-flash-lite"


async def submit_and_wait(client: AsyncSegmindClient, prompt: str) -> RequestState | None:
    submitted = await client.submit(MODEL, {"prompt": prompt})
    now = client.clock()
    pending = Pending(submitted.request_id, submitted_at=now, end_time=now + 3000, model=MODEL)
    return await client.wait(pending, fetch=True)
