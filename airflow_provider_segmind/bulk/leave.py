"""Between the rate limit's leave for a POST and the POST: the claim becomes durable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from airflow_provider_segmind.bulk.commits import GroupCommit
from airflow_provider_segmind.bulk.events import Claimed
from airflow_provider_segmind.exceptions import SegmindError


class Claimant(Protocol):
    """What a claim needs to know of its run."""

    commits: GroupCommit
    held: int

    @property
    def halted(self) -> bool:
        """Whether nothing may be submitted any more."""


class NotSentError(Exception):
    """The rate limit let a POST go and it was not sent: the run had halted, or its claim could not be written."""

    def __init__(self, trouble: SegmindError | None = None) -> None:
        super().__init__()
        self.trouble = trouble


class Leave:
    """
    What happens between the rate limit's leave for a POST and the POST: its claim becomes durable.

    Not earlier, because rows that queue for the rate limit would all be of unknown fate when the worker dies.

    :ivar claimed: whether the ledger holds the claim.
    """

    def __init__(self, run: Claimant, claim: Claimed, clock: Callable[[], float]) -> None:
        self.claim = claim
        self._run = run
        self._clock = clock
        self._holds = True
        self.claimed = False

    def let_go(self) -> None:
        """Note that nobody waits for leave here any more."""
        self._run.held -= self._holds
        self._holds = False

    async def taken(self) -> None:
        """Claim the row, once; called before each attempt of its POST."""
        self.let_go()
        if not self.claimed:
            self.claim = replace(self.claim, at=self._clock())
            try:
                await self._run.commits.durable(self.claim)
            except SegmindError as error:
                raise NotSentError(error) from error
            self.claimed = True
        if self._run.halted:
            raise NotSentError
