"""Requests per minute for each key: a true sliding window."""

from __future__ import annotations

import math
from collections import deque

from airflow_provider_segmind.emulator.clock import EmulatorClock, stamp
from airflow_provider_segmind.emulator.settings import Settings

WINDOW = 60.0
RESET_HEADER = "x-rate-limit-reset-at-utc"


class RateLimiter:
    """Counts accepted calls; refused ones do not count."""

    def __init__(self, settings: Settings, clock: EmulatorClock) -> None:
        self._settings = settings
        self._clock = clock
        self._accepted: dict[str, deque[float]] = {}

    def refuse_until(self, key: str, now: float, *, paid: bool) -> float | None:
        """Take a place in the window, or return the moment at which the next one is free.

        :param key: API key; each has its own window.
        :param now: emulated time.
        :param paid: GETs pass uncounted unless the settings say otherwise.
        """
        limit = self._settings.rpm
        if limit is None or not (paid or self._settings.rpm_counts_gets):
            return None
        accepted = self._accepted.setdefault(key, deque())
        while accepted and accepted[0] <= now - WINDOW:
            accepted.popleft()
        if len(accepted) >= limit:
            # with a limit of zero no place ever becomes free
            return (accepted[len(accepted) - limit] if limit > 0 else now) + WINDOW
        accepted.append(now)
        return None

    def forget(self) -> None:
        """Empty all windows."""
        self._accepted.clear()

    def next_reset(self, key: str, now: float) -> float:
        """Return when the window of a key frees its oldest place."""
        accepted = self._accepted.get(key)
        return accepted[0] + WINDOW if accepted else now + WINDOW


def reset_headers(moment: float, form: str, clock: EmulatorClock, *, whose: str) -> dict[str, str]:
    """Write the reset moment in one of the forms a client may meet.

    :param moment: emulated time.
    :param form: a ``reset_format`` of the settings; ``absent`` writes nothing, ``retry_after`` what a proxy would.
    :param whose: ``client`` writes wall-clock time, ``emulator`` the emulated one.
    """
    if form == "absent":
        return {}
    told = clock.in_client_time(moment) if whose == "client" else moment
    if form == "retry_after":
        base = clock.source() if whose == "client" else clock.now()
        return {"retry-after": str(max(0, math.ceil(told - base)))}
    return {RESET_HEADER: stamp(told, form=form)}
