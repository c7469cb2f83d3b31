"""What the blocking and the async client share: an account, its rate limiter, and how its requests are waited for."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import Any

from airflow_provider_segmind.client import polling
from airflow_provider_segmind.client.config import ClientConfig
from airflow_provider_segmind.client.models import RequestResult, RequestState
from airflow_provider_segmind.client.poll_schedule import Pending, shared_history, urgent
from airflow_provider_segmind.client.rate_limiter import CountCall, Priority, Throttle, rate_limiter_for
from airflow_provider_segmind.client.request_errors import failed_error

Report = Callable[[str], None]


def no_report(_: str) -> None:
    """A no-op for callers that want no reports."""


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
        self, pending: Pending, *, fetch: bool, until: float | None, report: Report
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

    def priority(self, pending: Pending | None) -> Priority | None:
        """Return the priority of a request's polls when calls queue: first when its result is about to expire."""
        return Priority.EXPIRING if pending is not None and urgent(pending, self.clock()) else None


def succeeded(result: RequestResult) -> RequestResult:
    """Return a result, or raise the error of a request that FAILED."""
    if result.failed:
        raise failed_error(result)
    return result
