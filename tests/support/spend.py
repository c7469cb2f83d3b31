"""Entries of the spend record."""

from __future__ import annotations

from typing import Any

from airflow_provider_segmind.spend.entries import SpendEntry

NOON = 1_795_694_400.0
"""2026-11-26 12:00 UTC."""
DAY = 86_400.0


def an_entry(request_id: str = "r1", **fields: Any) -> SpendEntry:
    """Return an entry of a task."""
    given: dict[str, Any] = {
        "at": NOON,
        "connection": "segmind_default",
        "dag_id": "a_dag",
        "task_id": "a_task",
        "run_id": "monday",
        "try_number": 1,
        "model": "gemini-3.1-flash-lite",
        "outcome": "success",
        "tokens": 120,
        "cost_micros": 48.25,
        **fields,
    }
    return SpendEntry(request_id=request_id, **given)
