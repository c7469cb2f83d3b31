"""Between the rate limit's leave for a POST and the POST: the claim becomes durable, and is the only one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from airflow_provider_segmind.api.gate import CallWithdrawnError
from airflow_provider_segmind.bulk.commits import GroupCommit
from airflow_provider_segmind.bulk.events import Claimed
from airflow_provider_segmind.bulk.ledger import Ledger
from airflow_provider_segmind.bulk.live import Membership
from airflow_provider_segmind.exceptions import SegmindError


class Claimant(Protocol):
    """What a claim needs to know of its run."""

    ledger: Ledger
    commits: GroupCommit
    member: Membership
    held: int

    @property
    def halted(self) -> bool:
        """Whether nothing may be submitted any more."""


class NotSentError(CallWithdrawnError):
    """
    The rate limit let a POST go and it was not sent.

    :param trouble: why nothing can be sent any more; None when the run had halted.
    :param contested: whether the reason is only that another run has claimed or asked the row.
    """

    def __init__(self, trouble: SegmindError | None = None, *, contested: bool = False) -> None:
        super().__init__()
        self.trouble = trouble
        self.contested = contested


class Leave:
    """
    What happens between the rate limit's leave for a POST and the POST: its claim becomes durable, and is the only one.

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
            await self._durable(self.claim)
            self.claimed = True
        self._check()

    async def last_look(self) -> None:
        """Look again if the last look is not of just now; called when the next step is that bytes leave."""
        if not self._run.member.is_fresh():
            await self._durable(None)
        self._check()

    async def _durable(self, claim: Claimed | None) -> None:
        try:
            await self._run.commits.durable(claim)
        except SegmindError as error:
            # Written or not, nothing was sent; what is written can be given back.
            self.claimed |= claim is not None and self._run.commits.error is None
            raise NotSentError(error) from error

    def _check(self) -> None:
        run = self._run
        if (trouble := run.commits.forbidden()) is not None:
            raise NotSentError(trouble)
        if run.halted:
            raise NotSentError
        if run.ledger.bars(self.claim):
            raise NotSentError(contested=True)
