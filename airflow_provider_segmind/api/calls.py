"""What the sync and the async client are made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import Any

from airflow_provider_segmind.api import polling
from airflow_provider_segmind.api.config import ClientConfig
from airflow_provider_segmind.api.gate import CountCall, Gate, governor_for
from airflow_provider_segmind.api.models import (
    RequestResult,
    RequestState,
)
from airflow_provider_segmind.api.rates import Priority
from airflow_provider_segmind.api.schedule import shared_history

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
