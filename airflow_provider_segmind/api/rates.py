"""What an account may do in a minute, and who goes first when that is less than what is wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from airflow_provider_segmind.exceptions import SegmindConfigError


class Priority(IntEnum):
    """Who goes first. The value is how many seconds later than it came a call takes its place in the queue."""

    EXPIRING = -3600
    """A look at a result that is about to be gone."""
    SUBMIT = 0
    LOOK = 20
    """Submits pass it for so long and no longer, so that it cannot starve."""


@dataclass(frozen=True, slots=True)
class RateSettings:
    """
    What an account may do.

    :param requests_per_minute: the account's limit; None starts without one and learns it from 429s.
    :param rate_share: this process's part of the limit, above 0 up to 1, where several share it without Redis.
    :param count_polls: whether GETs count; None until a GET is answered 429.
    :param redis_url: share the window through Redis instead; the limit must be given then.
    :param window: seconds a minute has.
    """

    requests_per_minute: float | None = None
    rate_share: float = 1.0
    count_polls: bool | None = None
    redis_url: str | None = field(default=None, repr=False)
    window: float = 60.0

    def __post_init__(self) -> None:
        rate = self.requests_per_minute
        if rate is not None and not 0 < rate < float("inf"):
            raise SegmindConfigError(f"'requests_per_minute' is {rate!r}; it must be above 0. Nothing was sent.")
        if not 0 < self.rate_share <= 1:
            raise SegmindConfigError(f"'rate_share' is {self.rate_share!r}; it must be in (0, 1]. Nothing was sent.")

    @property
    def ceiling(self) -> float | None:
        """Return the calls per window that this process may make at most, None for "unknown"."""
        rate = self.requests_per_minute
        return rate if rate is None or self.redis_url else rate * self.rate_share
