from __future__ import annotations

from tests.support.tasks import chat, clock, emulator, run

__all__ = ["chat", "clock", "emulator", "run"]
