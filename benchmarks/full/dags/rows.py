"""A table in two ways: one mapped task for each row, and one task for all rows."""

from __future__ import annotations

import json
import os
import time
import urllib.request

from airflow.sdk import dag, task

from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

FOLDER, URL = os.environ["SEGMIND_BENCH_FOLDER"], os.environ["SEGMIND_BENCH_URL"]
MAPPED = int(os.environ["SEGMIND_BENCH_MAPPED"])
PROMPT = "Describe {name} in one sentence. What the maker says of it: {words}"


@dag(schedule=None, catchup=False)
def one_task_per_row() -> None:
    @task
    def ask(number: int) -> str:
        # The least that a task can do: no library to import, and the row is at hand.
        def call(path: str, body: bytes | None = None) -> dict[str, str]:
            request = urllib.request.Request(URL + path, body, {"content-type": "application/json"})
            with urllib.request.urlopen(request) as answer:
                found: dict[str, str] = json.load(answer)
                return found

        prompt = PROMPT.format(name=f"item-{number:07d}", words="It is light.")
        submitted = call("/v2/gemini-3.1-flash-lite", json.dumps({"prompt": prompt}).encode())
        path = f"/v2/requests/{submitted['request_id']}"
        while call(f"{path}/status")["status"] != "COMPLETED":
            time.sleep(1.0)
        answer = json.loads(call(path)["output"])
        text: str = answer["candidates"][0]["content"]["parts"][0]["text"]
        return text

    ask.expand(number=list(range(MAPPED)))


@dag(schedule=None, catchup=False)
def one_task_per_table() -> None:
    SegmindEnrichFileOperator(
        task_id="ask",
        model="gemini-3.1-flash-lite",
        source=f"{FOLDER}/source.jsonl",
        key="id",
        prompt=PROMPT,
        output_path=f"{FOLDER}/output.jsonl",
    )


one_task_per_row()
one_task_per_table()
