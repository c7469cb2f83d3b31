"""A table over HTTP, with a gateway in front of Segmind that answers for itself for a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.client.async_client import AsyncSegmindClient
from airflow_provider_segmind.client.config import ClientConfig
from airflow_provider_segmind.client.endpoints import Endpoints
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.output import write_output
from tests.support.engine_tuning import tuned
from tests.support.enrichment import question, table

MODEL = "gemini-3.1-flash-lite"
ROWS = 120


async def run(emulator: SegmindEmulator, folder: Path) -> dict[str, int]:
    ends = Endpoints(*[emulator.url] * 4)
    async with await AsyncSegmindClient.create(ClientConfig(api_key=emulator.api_key, endpoints=ends)) as client:
        engine = Engine(
            question=question(model=MODEL),
            rows=table(*(f"row {number}" for number in range(ROWS))),
            ledger_folder=folder,
            client=client,
            run_id="r",
            settings=tuned(commit_delay=0.002),
        )
        try:
            await engine.run()
            return dict(write_output(engine).outcomes)
        finally:
            engine.close()


@pytest.mark.parametrize(
    "fault",
    [
        {"redirect": "https://elsewhere.example{path}"},
        {"status": 404, "html": True},
        {"status": 405, "html": True},
        {"status": 403, "html": True},
        {"status": 404, "body": "default backend - 404", "content_type": "text/plain"},
    ],
    ids=str,
)
@pytest.mark.parametrize("route", ["submit", "status|result"])
async def test_an_answer_about_the_gateway_costs_no_row(tmp_path: Path, route: str, fault: dict[str, Any]) -> None:
    with SegmindEmulator() as emulator:
        emulator.fault(route, seconds=0.3, **fault)
        outcomes = await run(emulator, tmp_path / "ledger")

        assert outcomes[Outcome.SUCCESS] == ROWS
        assert len(emulator.bill) == ROWS


async def test_a_gateway_whose_5xx_leave_posts_in_doubt_meets_few_of_them(tmp_path: Path) -> None:
    with SegmindEmulator() as emulator:
        emulator.fault("submit", status=502, html=True, seconds=0.5)
        outcomes = await run(emulator, tmp_path / "ledger")

        assert len(emulator.bill) == outcomes[Outcome.SUCCESS]
        # Those that were under way when it began, and a few that found out; without the pause it would be all.
        assert outcomes[Outcome.UNKNOWN] <= 72
