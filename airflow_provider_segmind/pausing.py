"""
The switch that stops all spending of a deployment: the Airflow Variable ``segmind_paused``.

Every paid call asks it first; polls and fetches continue, so that nothing already paid for is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from airflow_provider_segmind.compat import CoreVariable
from airflow_provider_segmind.exceptions import SegmindPausedError, shorten
from airflow_provider_segmind.variables import read_variable

PAUSE_VARIABLE = "segmind_paused"
"""Spending is paused while this Variable has a value that is not one of :data:`NOT_PAUSED`; the value is the reason."""
NOT_PAUSED = ("", "0", "false", "no", "off", "none", "null")
CHECK_INTERVAL = 10.0
"""Seconds between two reads of the switch by one waiting task or one table."""
LONGEST_SILENCE = 20.0
"""Seconds since the switch of a table was last read after which it counts as unreadable, however long a read takes."""


def pause_reason() -> str | None:
    """Return why spending is paused, None while it is not; a switch that cannot be read stops spending as well."""
    try:
        text = read_variable(PAUSE_VARIABLE, "Nothing is sent until it can be.")
    except Exception as error:  # noqa: BLE001 - backends of Variables raise anything, and unreadable is not absent
        return f"the Airflow Variable {PAUSE_VARIABLE!r} cannot be read ({type(error).__name__})"
    return reason_in(text)


def reason_in(value: str | None) -> str | None:
    """Return the reason in the value of the Variable, None if the value does not pause."""
    return None if value is None or value.strip().lower() in NOT_PAUSED else shorten(value)


def check_not_paused() -> None:
    """
    Return while spending is allowed.

    :raises SegmindPausedError: it is paused, or whether it is cannot be read; nothing was sent.
    """
    if (reason := pause_reason()) is not None:
        raise paused_error(reason)


def paused_error(reason: str) -> SegmindPausedError:
    """Return the error that says why nothing was sent and what to do."""
    return SegmindPausedError(
        f"Spending is paused: {reason}. Nothing was sent. It is allowed again when the Airflow Variable "
        f"{PAUSE_VARIABLE!r} is deleted ('python -m airflow_provider_segmind resume' does that)."
    )


def pause(reason: str = "") -> str:
    """Pause all spending, from a process that reaches the metadata database; return the reason as it is stored."""
    text = reason.strip() or f"paused at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    if text.lower() in NOT_PAUSED:
        text = f"paused: {text}"
    CoreVariable.set(PAUSE_VARIABLE, text, description="While this Variable exists, no Segmind task spends anything.")
    return text


def resume() -> None:
    """Allow spending again, from a process that reaches the metadata database."""
    CoreVariable.delete(PAUSE_VARIABLE)


class PauseWatch:
    """
    The switch for a table: it is read at most every :data:`CHECK_INTERVAL` seconds.

    One thread reads it, another one sends: a read that hangs pauses the table after :data:`LONGEST_SILENCE` seconds.

    :param read: as :func:`pause_reason`.
    :ivar reason: what was read last.
    """

    def __init__(
        self,
        read: Callable[[], str | None] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reason: str | None = None
        self._read = read or pause_reason
        self._clock = clock
        self._due = self._read_at = clock()

    def changed(self) -> bool:
        """Read the switch when it is due; return whether the reason has changed."""
        now = self._clock()
        if now < self._due:
            return False
        self._due = now + CHECK_INTERVAL
        before, self.reason = self.reason, self._read()
        # What was read was true when the read began.
        self._read_at = now
        return self.reason != before

    def current(self) -> str | None:
        """Return why nothing may be sent now, None if it may; reads nothing, from any thread."""
        silence = self._clock() - self._read_at
        if self.reason is None and silence > LONGEST_SILENCE:
            return f"the Airflow Variable {PAUSE_VARIABLE!r} could not be read for {silence:.0f} seconds"
        return self.reason
