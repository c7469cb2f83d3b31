from __future__ import annotations

from tests.support.table_tasks import table
from tests.support.tasks import chat, clock, emulator, run

__all__ = ["chat", "clock", "emulator", "run", "table"]
