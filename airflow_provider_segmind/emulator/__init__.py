"""An offline Segmind for tests: the same HTTP API without network, key or cost. It shares no code with the client.

Names are imported at their first use: the entry point of the fixture makes pytest load this package in every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_segmind.emulator.control import (
        BillEntry,
        CallEntry,
        EmulatorControl,
        JobEntry,
        RecordedRequest,
    )
    from airflow_provider_segmind.emulator.server import SegmindEmulator

__all__ = ["BillEntry", "CallEntry", "EmulatorControl", "JobEntry", "RecordedRequest", "SegmindEmulator"]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "SegmindEmulator":
        from airflow_provider_segmind.emulator import server

        return server.SegmindEmulator
    from airflow_provider_segmind.emulator import control

    return getattr(control, name)
