"""A trigger that only sleeps: what a triggerer costs by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent


class IdleTrigger(BaseTrigger):
    """Fires at an epoch second."""

    def __init__(self, due: float) -> None:
        super().__init__()
        self.due = due

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "benchmarks.full.idle_trigger.IdleTrigger", {"due": self.due}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(max(0.0, self.due - time.time()))
        yield TriggerEvent({"status": "success"})
