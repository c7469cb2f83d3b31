"""Folders of a ledger: written, read again, and what was read of a row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from airflow_provider_segmind.enrichment.ledger.events import Event
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.row_state import RowState


def opened(folder: Path, *, run: str = "r", writer: str = "w") -> Ledger:
    ledger = Ledger(folder, run=run, writer=writer, clock=lambda: 5.0)
    ledger.replay()
    return ledger


def written(folder: Path, *groups: Sequence[Event], writer: str = "w") -> Ledger:
    ledger = opened(folder, writer=writer)
    for group in groups:
        for event in group:
            ledger.append(event)
        ledger.commit()
    return ledger


def seen(state: RowState) -> object:
    row = state.open
    return (row and (row.attempt, state.claim, row.submitted), state.success, state.attempt)
