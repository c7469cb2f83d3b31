"""An account's settings, and what the blocking and the async client share."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segmind.client import polling
from airflow_provider_segmind.client.endpoints import Endpoints, Wire
from airflow_provider_segmind.client.models import RequestResult, RequestState
from airflow_provider_segmind.client.poll_schedule import shared_history
from airflow_provider_segmind.client.rate_limiter import CountCall, Priority, RateSettings, Throttle, rate_limiter_for
from airflow_provider_segmind.client.response_body import MAX_RESPONSE_BYTES
from airflow_provider_segmind.masking import remember

MAX_DOWNLOAD_BYTES = 1 << 30
"""Largest downloaded file in bytes; a video of a few minutes has tens of megabytes."""
DOWNLOAD_SECONDS = 900.0
"""Seconds for one downloaded file, retries included."""


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """
    Limits for each downloaded file of a result.

    :param max_bytes: size of the file.
    :param seconds: counted from the first attempt.
    """

    max_bytes: int = MAX_DOWNLOAD_BYTES
    seconds: float = DOWNLOAD_SECONDS


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """
    The account and limits of a client.

    :param request_timeout: seconds for one call, body included.
    :param requests_per_minute: the account's limit, None when unknown.
    :param rate_share: this process's share of the limit, where several processes use the account.
    :param redis_url: Redis through which processes share the rate limit; may contain a password.
    :param model: the model of tasks that name none.
    :param max_response_bytes: largest response, compressed and decompressed.
    :param downloads: limits for each downloaded file of a result.
    """

    api_key: str = field(repr=False)
    endpoints: Endpoints = field(default_factory=Endpoints)
    request_timeout: float = 60.0
    requests_per_minute: float | None = None
    rate_share: float = 1.0
    redis_url: str | None = field(default=None, repr=False)
    model: str | None = None
    max_response_bytes: int = MAX_RESPONSE_BYTES
    downloads: DownloadLimits = field(default_factory=DownloadLimits)

    def __post_init__(self) -> None:
        remember(self.api_key)

    @property
    def wire(self) -> Wire:
        """Return what builds this account's calls."""
        return Wire(self.endpoints, self.api_key)

    @property
    def rate(self) -> RateSettings:
        """Return the rate limit settings."""
        return RateSettings(
            requests_per_minute=self.requests_per_minute,
            rate_share=self.rate_share,
            redis_url=self.redis_url,
        )


Report = Callable[[str], None]


def no_report(_: str) -> None:
    """No-op for callers that want no reports."""


def always() -> None:
    """Allow every paid call."""


class AccountCalls:
    """The base of both clients: the account, a clock and a random number generator."""

    def __init__(self, config: ClientConfig, *, clock: Callable[[], float], rng: random.Random | None) -> None:
        self.config = config
        self.wire = config.wire
        self.clock = clock
        self.rng = rng or random.Random()
        gateway = config.endpoints.gateway
        self.limiter = rate_limiter_for(gateway, config.api_key, config.rate)
        self.throttle = Throttle(self.limiter, gateway, clock)
        self.pace = polling.Pace(shared_history, self.limiter.interval, lambda: self.limiter.cooldown(self.clock()))

    def count_calls(self, count: CountCall) -> None:
        """Call ``count`` for each call to the gateway, retries included, with whether it is a paid one."""
        self.throttle.count = count

    def waiting(
        self, pending: polling.Pending, *, fetch: bool, until: float | None, report: Report
    ) -> Generator[polling.Step, Any, RequestState | None]:
        """Return the steps that wait for a request."""
        clock, jitter = self.clock, self.rng.random
        return polling.wait(
            self.wire, pending, fetch=fetch, clock=clock, jitter=jitter, until=until, report=report, pace=self.pace
        )

    def seconds_until_submit(self) -> float:
        """Return the seconds until the rate limiter permits the next submit at the earliest."""
        return self.limiter.seconds_until_free(self.clock())

    def typical_seconds(self, model: str) -> float:
        """Return how many seconds a request of the model usually takes."""
        return shared_history.typical(model)

    def priority(self, pending: polling.Pending | None) -> Priority | None:
        """Return the priority of a request's polls when calls queue: first when its result is about to expire."""
        return Priority.EXPIRING if pending is not None and polling.urgent(pending, self.clock()) else None


def succeeded(result: RequestResult) -> RequestResult:
    """Return a result, or raise the error of a request that FAILED."""
    if result.failed:
        raise polling.failed_error(result)
    return result
