"""The emulated clock: injected, scaled, and advanced by tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class EmulatorClock:
    """Epoch seconds of the emulated service.

    :param source: wall clock; a test may pass its own.
    :param scale: emulated seconds per second of ``source``: with 60, a minute of rate limiting takes one second.
    """

    def __init__(self, source: Callable[[], float], *, scale: float = 1.0) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"clock scale must be positive, not {scale!r}")
        self.source = source
        self.scale = scale
        self._anchor = source()
        self._base = self._anchor

    def now(self) -> float:
        """Return the emulated time."""
        return self._base + (self.source() - self._anchor) * self.scale

    def advance(self, seconds: float) -> float:
        """Move the emulated time forward at once, by seconds that are not negative, and return it."""
        if seconds < 0:
            raise ValueError(f"time only moves forward, not by {seconds!r}")
        self._base += seconds
        return self.now()

    def rescale(self, scale: float) -> None:
        """Change the scale without a jump in time."""
        if not 0 < scale < math.inf:
            raise ValueError(f"clock scale must be positive, not {scale!r}")
        self._base, self._anchor = self.now(), self.source()
        self.scale = scale

    def wall_seconds(self, seconds: float) -> float:
        """Convert emulated seconds to wall-clock seconds."""
        return max(0.0, seconds) / self.scale

    def in_client_time(self, moment: float) -> float:
        """Convert an emulated time to the wall-clock time at which it is reached."""
        return self.source() + (moment - self.now()) / self.scale


def stamp(moment: float, *, form: str = "iso_z") -> str:
    """Write epoch seconds in a format: ``iso_z``, ``iso``, ``space`` or ``epoch``.

    The format of the gateway's reset header is not documented, so a client must read all of them.
    """
    if form == "epoch":
        return str(math.ceil(moment))
    # rounded up: a client that waits until then must not be too early
    when = datetime.fromtimestamp(moment, tz=UTC).replace(tzinfo=None) + timedelta(microseconds=1)
    text = when.isoformat(sep=" " if form == "space" else "T", timespec="microseconds")
    return text + "Z" if form == "iso_z" else text


def day(moment: float) -> str:
    """Return the UTC date of epoch seconds as YYYY-MM-DD."""
    return datetime.fromtimestamp(moment, tz=UTC).date().isoformat()
