"""Pure: when a run has nothing to do but wait for minutes, so that its worker can be given back meanwhile."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from airflow_provider_segmind.api.policies import RESULT_LIFETIME
from airflow_provider_segmind.bulk.events import Submitted

LATEST_AGE = 0.75 * RESULT_LIFETIME
"""Age in seconds at which a request must be fetched, however many others are not done: its result lives an hour."""
OVERDUE = 0.25
"""Part of its age that a request which takes longer than usual is expected to take yet."""


@dataclass(frozen=True, slots=True)
class Rest:
    """
    What a run waits for.

    :param requests: id, and epoch seconds of the submission, of each request under way.
    :param enough: how many of them must have ended for the run to go on.
    :param until: epoch seconds at which it goes on in any case.
    """

    requests: tuple[tuple[str, float], ...]
    enough: int
    until: float


def rest_of(
    waiting: Collection[Submitted],
    *,
    more: bool,
    held: bool,
    typical: float,
    until_submit: float,
    now: float,
    at_least: float,
) -> Rest | None:
    """
    Return what to wait for, None where something can be done sooner than ``at_least`` seconds from now.

    :param waiting: the requests under way.
    :param more: whether rows are left to be asked; then half of the requests suffice, so that places come free.
    :param held: whether rows wait for leave of the rate limit or the budget.
    :param typical: seconds a request usually takes.
    :param until_submit: seconds until the rate limit gives leave.
    :param now: epoch seconds.
    """
    enough = math.ceil(len(waiting) / 2) if more else len(waiting)
    soonest, until = math.inf, math.inf
    if waiting:
        oldest = min(one.at for one in waiting)
        ages = [now - one.at for one in waiting]
        left = sorted(typical - age if age < typical else OVERDUE * age for age in ages)
        soonest, until = left[enough - 1], oldest + LATEST_AGE
    if held:
        soonest, until = min(soonest, until_submit), min(until, now + until_submit)
    if soonest < at_least or until - now < at_least or math.isinf(until):
        return None
    return Rest(tuple(sorted((one.request_id, one.at) for one in waiting)), enough, until)
