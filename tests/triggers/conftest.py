from __future__ import annotations

from tests.by_hand import chat, clock, emulator, run

__all__ = ["chat", "clock", "emulator", "run"]
