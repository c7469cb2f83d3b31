"""An account: its settings, and the calls about it that cost nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segmind.client import polling
from airflow_provider_segmind.client.endpoints import Endpoints, Wire
from airflow_provider_segmind.client.models import RequestResult, RequestState
from airflow_provider_segmind.client.poll_schedule import shared_history
from airflow_provider_segmind.client.rate_limiter import CountCall, Gate, Priority, RateSettings, governor_for
from airflow_provider_segmind.client.response_body import MAX_RESPONSE_BYTES
from airflow_provider_segmind.client.retry import Patience
from airflow_provider_segmind.masking import remember

MAX_DOWNLOAD_BYTES = 1 << 30
"""Bytes of a file of a result; a video of some minutes has tens of megabytes."""
DOWNLOAD_SECONDS = 900.0
"""Seconds for a file of a result, repetitions included."""


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """
    Bounds of each file of a result.

    :param max_bytes: as it is written.
    :param seconds: from the first attempt on.
    """

    max_bytes: int = MAX_DOWNLOAD_BYTES
    seconds: float = DOWNLOAD_SECONDS


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """
    What a client needs to know of an account.

    :param request_timeout: seconds for one call, its body included.
    :param requests_per_minute: the account's limit, None when unknown.
    :param rate_share: this process's part of the limit, where several processes use the account.
    :param count_polls: whether GETs count towards the limit, None to find out.
    :param redis_url: where processes share the limit's window; may hold a password.
    :param typical_seconds: what models usually take, until their own completions are known.
    :param model: the model to use where none is named.
    :param patience: how long the client itself goes on over trouble.
    :param max_response_bytes: bytes up to which a response is read, as sent and unpacked.
    :param downloads: bounds of each file of a result.
    """

    api_key: str = field(repr=False)
    endpoints: Endpoints = field(default_factory=Endpoints)
    request_timeout: float = 60.0
    requests_per_minute: float | None = None
    rate_share: float = 1.0
    count_polls: bool | None = None
    redis_url: str | None = field(default=None, repr=False)
    typical_seconds: tuple[tuple[str, float], ...] = ()
    model: str | None = None
    resubmit_on_server_error: bool = False
    patience: Patience = field(default_factory=Patience)
    max_response_bytes: int = MAX_RESPONSE_BYTES
    downloads: DownloadLimits = field(default_factory=DownloadLimits)

    def __post_init__(self) -> None:
        remember(self.api_key)

    @property
    def wire(self) -> Wire:
        """Return the builder of this account's calls."""
        return Wire(self.endpoints, self.api_key, self.resubmit_on_server_error)

    @property
    def rate(self) -> RateSettings:
        """Return what this process may send in a minute."""
        return RateSettings(
            requests_per_minute=self.requests_per_minute,
            rate_share=self.rate_share,
            count_polls=self.count_polls,
            redis_url=self.redis_url,
        )


Quiet = Callable[[str], None]


def say_nothing(_: str) -> None:
    """Stand in for a caller that wants no reports."""


class AccountCalls:
    """What both clients are made of: the account, a clock, and randomness."""

    def __init__(self, config: ClientConfig, *, clock: Callable[[], float], rng: random.Random | None) -> None:
        self.config = config
        self.wire = config.wire
        self.clock = clock
        self.rng = rng or random.Random()
        gateway = config.endpoints.gateway
        self.governor = governor_for(gateway, config.api_key, config.rate)
        self.gate = Gate(self.governor, gateway, clock)
        self.pace = polling.Pace(shared_history, self.governor.interval, lambda: self.governor.silence(self.clock()))
        shared_history.prime(dict(config.typical_seconds))

    def count_calls(self, count: CountCall) -> None:
        """Tell somebody of each call to the gateway, each repetition included, and whether it is a paid one."""
        self.gate.count = count

    def waiting(
        self, pending: polling.Pending, *, fetch: bool, until: float | None, report: Quiet
    ) -> Generator[polling.Step, Any, RequestState | None]:
        """Return the steps of waiting for a request."""
        clock, jitter = self.clock, self.rng.random
        return polling.wait(
            self.wire, pending, fetch=fetch, clock=clock, jitter=jitter, until=until, report=report, pace=self.pace
        )

    def seconds_until_submit(self) -> float:
        """Return in how many seconds the governor lets the next submit through at the earliest."""
        return self.governor.seconds_until_room(self.clock())

    def typical_seconds(self, model: str) -> float:
        """Return how many seconds a request of the model usually takes."""
        return shared_history.typical(model)

    def priority(self, pending: polling.Pending | None) -> Priority | None:
        """Return who goes first when calls queue: a request whose result is about to be gone."""
        return Priority.EXPIRING if pending is not None and polling.urgent(pending, self.clock()) else None


def succeeded(result: RequestResult) -> RequestResult:
    """Return a result, or raise that its request has FAILED."""
    if result.failed:
        raise polling.failed_error(result)
    return result
