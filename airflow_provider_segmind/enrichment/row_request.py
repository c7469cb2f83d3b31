"""
The path of one distinct row: permit, claim, submit, wait, read, and what each kind of error means for it.

Every paid POST is preceded by a durable claim that a listing has shown to be the only one; every answer ends as one
``finished`` event. If it is unknown whether a POST arrived, the row is set aside as lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, cast

from airflow_provider_segmind.chat.cost_estimate import CostBound
from airflow_provider_segmind.chat.reply_policy import Accept, FollowUp, RefusalReason, Refuse
from airflow_provider_segmind.client.models import RequestResult, SubmittedRequest
from airflow_provider_segmind.client.poll_schedule import Pending
from airflow_provider_segmind.client.rate_limiter import CallWithdrawnError
from airflow_provider_segmind.client.retry import may_send_again
from airflow_provider_segmind.client.submission import json_digest
from airflow_provider_segmind.defaults import RESULT_LIFETIME
from airflow_provider_segmind.enrichment.ledger.events import REUSED, Claimed, Finished, Submitted
from airflow_provider_segmind.enrichment.ledger.group_commit import GroupCommit
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.row_state import Attempt
from airflow_provider_segmind.enrichment.ledger.run_liveness import Membership
from airflow_provider_segmind.enrichment.outcomes import FinishedRequest, Outcome, RowReply, RowVerdict, outcome_of
from airflow_provider_segmind.enrichment.question import LostRow, Prepared, Question
from airflow_provider_segmind.enrichment.run_limits import FREE, Permission, RunUsage
from airflow_provider_segmind.enrichment.settings import Client, Settings, TableAnswerCache
from airflow_provider_segmind.enrichment.stats import LatestIds, Tally
from airflow_provider_segmind.exceptions import (
    SegmindAuthenticationError,
    SegmindCreditsError,
    SegmindError,
    SegmindModelNotFoundError,
    SegmindModelRetiredError,
    SegmindPermissionError,
    SegmindReplyError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    shorten,
)
from airflow_provider_segmind.masking import mask_known

log = logging.getLogger(__name__)


class NotSentError(CallWithdrawnError):
    """
    A POST got a permit from the rate limiter and was not sent.

    :param trouble: why nothing can be sent any more; None when the run had halted.
    :param contested: whether the reason is only that another run has claimed or sent the row, or a pause: it is
        tried again later.
    """

    def __init__(self, trouble: SegmindError | None = None, *, contested: bool = False) -> None:
        super().__init__()
        self.trouble = trouble
        self.contested = contested


class PostClaim:
    """
    What happens between the rate limiter's permit for a POST and the POST: its claim becomes durable, and is checked to
    be the only one.

    The claim is not written earlier: if the worker died, all rows in the queue for the rate limit would have an unknown
    outcome.

    :ivar claimed: whether the ledger contains the claim.
    """

    def __init__(self, run: RowRun, claim: Claimed, bound: CostBound, clock: Callable[[], float]) -> None:
        self.claim = claim
        self._most = bound.usd if bound.certain or bound.assumed_cap is not None else None
        self._run = run
        self._clock = clock
        self._waits = True
        self.claimed = False

    def stop_waiting(self) -> None:
        """Record that this row no longer waits for a permit."""
        self._run.waiting_for_permit -= self._waits
        self._waits = False

    async def on_permit(self) -> None:
        """Claim the row, once; called before each attempt of its POST."""
        while self._run.paused and self.claim.follow_ups and not self._run.stopping:
            # The reply that it follows is only in memory here, and expires at Segmind.
            await self._run.usage_changed()
        self.stop_waiting()
        if self._run.paused:
            raise NotSentError(contested=not self.claim.follow_ups)
        if not self.claimed:
            self.claim = replace(self.claim, at=self._clock(), most=self._most)
            await self._durable(self.claim)
            self.claimed = True
        self._check()

    async def before_send(self) -> None:
        """List again if the latest listing is not fresh; called right before the first bytes are sent."""
        if not self._run.member.is_fresh():
            await self._durable(None)
        self._check()

    async def _durable(self, claim: Claimed | None) -> None:
        try:
            await self._run.commits.commit(claim)
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
        if run.ledger.blocks(self.claim) or not run.may_still_send():
            raise NotSentError(contested=True)


RUN_ENDING_ERRORS = (
    SegmindAuthenticationError,
    SegmindCreditsError,
    SegmindPermissionError,
    SegmindModelNotFoundError,
    SegmindModelRetiredError,
)
"""Errors that the next row would get as well: the run stops at the first."""
OUTAGE_PATIENCE = 900.0
"""Seconds for which no request may get through before the run stops."""
STOPPED = "the run stopped before this row was sent"
STOPPED_BETWEEN = "no usable answer yet, and the run stopped before sending a follow-up; a retry sends it"


class RowRun(Protocol):
    """What a row needs to know about the run it is part of."""

    ledger: Ledger
    commits: GroupCommit
    member: Membership
    usage: RunUsage
    tally: Tally
    waiting: dict[str, Submitted]
    """Requests whose answer is waited for, by id."""
    waiting_for_permit: int
    """Rows that wait for a permit of the limits or the rate limiter. Nothing is claimed for them yet."""
    paused: bool
    """Whether no paid call may be sent at the moment."""

    @property
    def stopping(self) -> bool:
        """Whether no more rows may be begun."""

    @property
    def halted(self) -> bool:
        """Whether not even what was permitted before may be submitted any more."""

    def stop(self, reason: str, *, hurry: bool = False, error: SegmindError | None = None) -> None:
        """Submit nothing more."""

    def in_budget(self, mark: bytes, bound: CostBound) -> bool:
        """Return whether the budgets allow one more paid call; if not, more is requested."""

    def waits_for_unread(self) -> bool:
        """Return whether the budgets may have room only when rows with open requests of earlier tries are read."""

    def without_slot(self) -> SegmindError | None:
        """Return the error of a run in which such rows use every slot, so that waiting frees none."""

    def no_longer_short(self, mark: bytes) -> None:
        """Record that a row no longer waits for the budgets."""

    def may_still_send(self) -> bool:
        """Return whether a call that the budgets have allowed may be sent now."""

    def skip(self, prepared: Prepared, reason: str, *, lost: LostRow | None = None) -> None:
        """Skip a row without an outcome; ``lost`` if its request may have been sent."""

    def postpone(self, prepared: Prepared, reason: str) -> bool:
        """Set a row aside until the end of the table, unless too many are already; return whether it was."""

    def contend(self, prepared: Prepared, *, collided: bool) -> None:
        """Retry later a row that another run is processing; ``collided`` when both claimed it at the same moment."""

    async def usage_changed(self) -> None:
        """Wait until what is in flight has been billed, a pause begins or ends, or the run stops."""


class RowRequester:
    """
    Processes one row with each call; may be called for several rows at once.

    :param clock: epoch seconds.
    """

    def __init__(
        self, run: RowRun, question: Question, client: Client, settings: Settings, *,
        clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]], rng: random.Random,
    ) -> None:  # fmt: skip
        self._run = run
        self._question = question
        self._client = client
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._rng = rng
        self._last_success = clock()
        self._unkept = False
        self._accepted = LatestIds()

    async def request(self, prepared: Prepared) -> None:
        """Process a row until it has an outcome, or skip it."""
        if self._may_reuse(prepared) and await self._reuse(prepared):
            return
        state = self._run.ledger.row_state(prepared.fingerprint)
        row = state.open
        submitted: Submitted | None = None
        if state.success or (row is not None and row.submitted is None):
            # Another run was faster since the row was taken up.
            self._run.contend(prepared, collided=False)
            return
        if row is not None:
            submitted = row.submitted
            attempt = Attempt(state.claim or self._claim(prepared, attempt=row.attempt))
        elif (further := state.unsent_follow_up(self._run.ledger.run)) is not None:
            further = replace(further, charged=self._run.ledger.charged(prepared.fingerprint))
            attempt, submitted = Attempt(further).before_follow_up()
        else:
            attempt = Attempt(self._claim(prepared, attempt=state.attempt + 1), new_row=True)
            earlier = self._run.ledger.finished(prepared.fingerprint) if state.finished else None
            attempt = attempt.carrying(state.claim or earlier)
        if submitted is not None:
            # An answer that is fetched once more was billed before, and that of another run is billed to it.
            foreign = attempt.claim.run != self._run.ledger.run
            bound = FREE if attempt.counted or foreign else attempt.claim.bound
            self._run.usage.started(prepared.fingerprint, bound, new_row=False)
            self._run.tally.resumed += 1
        next_attempt: tuple[Attempt, Mapping[str, Any]] | None = (attempt, prepared.inputs)
        while next_attempt is not None:
            attempt, inputs = next_attempt
            submitted = submitted or await self._submit(prepared, attempt, inputs)
            if submitted is None:
                return
            next_attempt = await self._collect(prepared, attempt, inputs, submitted)
            submitted = None

    def _may_reuse(self, prepared: Prepared) -> bool:
        """Return whether a row may be answered from the answer cache: never while it has a request that is paid for."""
        if self._settings.answers is None or self._run.stopping:
            return False
        ledger = self._run.ledger
        state = ledger.row_state(prepared.fingerprint)
        return state.open is None and not state.success and state.unsent_follow_up(ledger.run) is None

    async def _reuse(self, prepared: Prepared) -> bool:
        """Finish a row with an answer that was paid for before, or skip it; return whether either was done."""
        answers, run = cast(TableAnswerCache, self._settings.answers), self._run
        try:
            known = await asyncio.to_thread(answers.find, prepared.fingerprint)
        except SegmindError as error:
            run.skip(prepared, f"this row was not sent: {_words(error)}")
            run.stop(_words(error), error=error)
            return True
        result = None if known is None else known.result
        if known is None or result is None:
            return False
        decision = self._read(RowReply(result, lambda: prepared.inputs, prepared.inputs)).decision
        if not isinstance(decision, Accept):
            return False
        event = Finished(
            fingerprint=prepared.fingerprint,
            attempt=run.ledger.row_state(prepared.fingerprint).attempt + 1,
            at=self._clock(),
            run=f"{run.ledger.run}{REUSED}",
            model=self._question.model,
            outcome=Outcome.SUCCESS,
            body=prepared.body,
            answer=dict(decision.result),
            request_ids=(known.request_id,),
            cost=0.0,
            billed=False,
        )
        run.commits.append(event)
        run.usage.finished(Outcome.SUCCESS)
        run.tally.reused(event)
        if self._settings.spend is not None:
            request = FinishedRequest(known.request_id, event.model, event.at, Outcome.SUCCESS, 0.0, 0, reused=True)
            self._settings.spend.ended(request)
        return True

    async def _keep(self, submitted: Submitted, result: RequestResult) -> None:
        """Keep the answer of a row for other tasks and tables; the row has it in any case."""
        answers, run = self._settings.answers, self._run
        event = None if answers is None or run.halted else run.ledger.finished(submitted.fingerprint)
        if answers is None or event is None or event.outcome is not Outcome.SUCCESS:
            return
        keep = partial(
            answers.keep_reply,
            submitted.fingerprint,
            result,
            model=event.model,
            at=submitted.at or event.at,
            requests=len(event.request_ids),
            cost=event.cost,
        )
        try:
            await asyncio.to_thread(keep)
        except Exception as error:  # noqa: BLE001 - stores raise errors of their own
            if not self._unkept:
                log.warning(
                    "Answers could not be stored in the answer cache (%s); the ledger has them. This is logged once",
                    type(error).__name__,
                )
            self._unkept = True

    def _claim(self, prepared: Prepared, *, attempt: int) -> Claimed:
        ledger = self._run.ledger
        return Claimed(
            fingerprint=prepared.fingerprint,
            attempt=attempt,
            at=self._clock(),
            run=ledger.run,
            writer=ledger.writer,
            model=self._question.model,
            body=prepared.body,
            charged=ledger.charged(prepared.fingerprint),
            id=ledger.claim_id(),
        )

    async def _submit(self, prepared: Prepared, attempt: Attempt, inputs: Mapping[str, Any]) -> Submitted | None:
        """Send the paid POST, or return None when the row was finished or skipped instead."""
        run = self._run
        run.waiting_for_permit += 1
        bound = self._question.most(inputs)
        claiming = PostClaim(run, attempt.claim, bound, self._clock)
        try:
            if not await self._permitted(prepared, attempt, bound):
                return None
            accepted = await self._post(inputs, claiming)
            self._accepted.add(accepted.request_id)
        except NotSentError as unsent:
            if unsent.contested:
                self._contend(prepared, attempt, claiming)
            elif unsent.trouble is not None:
                self._not_accepted(prepared, attempt, inputs, unsent.trouble, claiming)
            else:
                self._free(prepared, attempt, STOPPED, claiming)
            return None
        except SegmindError as error:
            self._not_accepted(prepared, attempt, inputs, error, claiming)
            return None
        finally:
            claiming.stop_waiting()
        self._last_success = self._clock()
        claim = claiming.claim
        submitted = Submitted(
            fingerprint=claim.fingerprint,
            attempt=claim.attempt,
            at=self._last_success,
            request_id=accepted.request_id,
            claim=claim.id,
        )
        run.commits.append(submitted)
        run.tally.submitted(submitted, claim)
        return submitted

    async def _permitted(self, prepared: Prepared, attempt: Attempt, bound: CostBound) -> bool:
        run = self._run
        while not run.stopping:
            if run.paused:
                await run.usage_changed()
                continue
            permission = run.usage.permission(bound, new_row=attempt.new_row)
            if permission is Permission.GO and not run.in_budget(prepared.fingerprint, bound):
                if run.waits_for_unread() and not attempt.claim.follow_ups and run.postpone(prepared, STOPPED):
                    run.no_longer_short(prepared.fingerprint)
                    return False
                if (trouble := run.without_slot()) is not None:
                    run.stop(str(trouble), error=trouble)
                    break
                await run.usage_changed()
                continue
            if permission is Permission.GO:
                run.usage.started(prepared.fingerprint, bound, new_row=attempt.new_row)
                return True
            if permission is Permission.LATER and not attempt.claim.follow_ups and run.postpone(prepared, STOPPED):
                return False
            if permission is not Permission.WAIT:
                run.stop(run.usage.explain(bound, new_row=attempt.new_row))
                break
            await run.usage_changed()
        run.no_longer_short(prepared.fingerprint)
        if not attempt.claim.follow_ups:
            run.skip(prepared, STOPPED)
        elif run.halted:
            # The same run continues here when it is retried; its limits may leave room for this follow-up.
            run.commits.append(attempt.claim)
            run.commits.append(attempt.freed(self._clock()))
            run.skip(prepared, STOPPED_BETWEEN)
        else:
            self._finish(
                attempt, Outcome.INVALID, reason="no usable answer, and the run stopped before sending a follow-up"
            )
        return False

    async def _post(self, inputs: Mapping[str, Any], claiming: PostClaim) -> SubmittedRequest:
        """Submit, and keep trying through an outage as long as nothing can have been created."""
        pause, began = 1.0, self._clock()
        while True:
            try:
                return await self._client.submit(
                    self._question.model, inputs, on_permit=claiming.on_permit, before_send=claiming.before_send
                )
            except SegmindError as error:
                # Time before this call does not count: the row may have waited for a budget while nothing was tried.
                patient = self._clock() - max(self._last_success, began) < OUTAGE_PATIENCE
                if not may_send_again(error) or error.billed is not False or not patient or self._run.halted:
                    raise
            await self._sleep(pause * (0.5 + self._rng.random()))
            pause = min(30.0, 2 * pause)

    def _not_accepted(
        self, prepared: Prepared, attempt: Attempt, inputs: Mapping[str, Any], error: SegmindError, claiming: PostClaim
    ) -> None:
        run = self._run
        if error is run.commits.error:
            # The ledger may or may not contain the claim, but nothing was sent.
            run.usage.not_sent(prepared.fingerprint, new_row=attempt.new_row)
            run.skip(prepared, "the ledger could not be written, or the entries of other runs could not be read")
        elif error is run.commits.forbidden():
            self._free(prepared, attempt, f"this row was not sent: {_words(error)}", claiming)
        elif error.billed is not False:
            run.usage.request_lost()
            run.skip(
                prepared,
                f"it is unknown whether its request was accepted: {_words(error)}",
                lost=LostRow(prepared, self._clock(), inputs),
            )
        elif isinstance(error, RUN_ENDING_ERRORS) or error.retryable:
            self._free(prepared, attempt, f"this row was not sent: {_words(error)}", claiming)
            run.stop(_words(error), error=error)
        else:
            run.usage.billed(prepared.fingerprint, 0.0)
            self._finish(attempt, Outcome.FAILED, reason=_words(error))

    def _contend(self, prepared: Prepared, attempt: Attempt, claiming: PostClaim) -> None:
        if claiming.claimed:
            self._run.commits.append(attempt.freed(self._clock()))
        self._run.usage.not_sent(prepared.fingerprint, new_row=attempt.new_row)
        self._run.contend(prepared, collided=True)

    def _free(self, prepared: Prepared, attempt: Attempt, reason: str, claiming: PostClaim) -> None:
        if claiming.claimed:
            # Without a claim this would only hide the attempt before it, with its answer and its cost.
            self._run.commits.append(attempt.freed(self._clock()))
        self._run.usage.not_sent(prepared.fingerprint, new_row=attempt.new_row)
        self._run.skip(prepared, reason)

    async def _collect(
        self, prepared: Prepared, attempt: Attempt, sent: Mapping[str, Any], submitted: Submitted
    ) -> tuple[Attempt, Mapping[str, Any]] | None:
        """Wait for the reply and finish the row, or return its follow-up."""
        run, request_id = self._run, submitted.request_id
        try:
            result = await self._wait(submitted)
        except SegmindRequestFailedError as error:
            run.usage.billed(prepared.fingerprint, error.cost)
            attempt = self._answered(attempt, request_id, sent, Outcome.FAILED, cost=error.cost)
            self._finish(attempt, Outcome.FAILED, reason=error.reason, submitted=submitted)
        except SegmindRequestExpiredError as error:
            await self._finish_expired(attempt, sent, submitted, error)
        except SegmindError as error:
            run.usage.request_lost()
            run.skip(prepared, f"request {request_id!r} was accepted, but its result is missing: {_words(error)}")
            if isinstance(error, RUN_ENDING_ERRORS):
                run.stop(_words(error), error=error)
        else:
            following = self._judge(prepared, attempt, sent, submitted, result)
            if following is None:
                await self._keep(submitted, result)
            return following
        return None

    async def _wait(self, submitted: Submitted) -> RequestResult:
        pending = Pending(
            request_id=submitted.request_id,
            submitted_at=submitted.at,
            end_time=submitted.at + RESULT_LIFETIME,
            model=self._question.model,
            # In a table, saving calls matters more than the seconds of one row.
            frugal=True,
        )
        self._run.waiting[submitted.request_id] = submitted
        try:
            state = await self._client.wait(pending, fetch=True)
        finally:
            self._run.waiting.pop(submitted.request_id, None)
        if not isinstance(state, RequestResult):
            raise TypeError("the client's wait(fetch=True) must return a RequestResult")
        return state

    async def _finish_expired(
        self, attempt: Attempt, sent: Mapping[str, Any], submitted: Submitted, error: SegmindRequestExpiredError
    ) -> None:
        """Finish a row whose result is gone, using the request history; sending it again would be paid for again."""
        cost, reason, billed = error.cost, _words(error), True
        with contextlib.suppress(SegmindError):
            record = await self._client.get_request_record(submitted.request_id)
            cost = record.cost if cost is None or record.failed else cost
            if record.failed:
                reason, billed = record.error or reason, False
        self._run.usage.billed(submitted.fingerprint, cost)
        attempt = self._answered(attempt, submitted.request_id, sent, Outcome.FAILED, cost=cost)
        self._finish(attempt, Outcome.FAILED, reason=reason, submitted=submitted, billed=billed)

    def _judge(
        self, prepared: Prepared, attempt: Attempt, sent: Mapping[str, Any], submitted: Submitted, result: RequestResult
    ) -> tuple[Attempt, Mapping[str, Any]] | None:
        self._last_success = self._clock()
        own = attempt.claim.run == self._run.ledger.run and not attempt.counted
        self._run.usage.billed(prepared.fingerprint, result.metrics.cost if own else 0.0)
        verdict = self._read(RowReply(result, lambda: prepared.inputs, sent, attempt.claim.follow_ups))
        decision = verdict.decision
        outcome = outcome_of(decision)
        cost = result.metrics.cost
        attempt = self._answered(attempt, submitted.request_id, sent, outcome, cost=cost, tokens=verdict.tokens)
        if isinstance(decision, FollowUp):
            return self._follow_up(attempt, decision), decision.inputs
        if isinstance(decision, Accept):
            self._finish(attempt, outcome, answer=dict(decision.result), submitted=submitted, billed=True)
        else:
            self._finish(attempt, outcome, reason=decision.detail, submitted=submitted, billed=True)
        return None

    def _answered(
        self, attempt: Attempt, request_id: str, sent: Mapping[str, Any], outcome: Outcome, *,
        cost: float | None, tokens: int | None = None,
    ) -> Attempt:  # fmt: skip
        claim, spend = attempt.claim, self._settings.spend
        request = FinishedRequest(request_id, claim.model, self._clock(), outcome, cost, tokens, claim.run)
        if spend is not None:
            spend.ended(request)
        return attempt.answered(request, most=self._most(claim, sent) if cost is None else 0.0)

    def _most(self, claim: Claimed, sent: Mapping[str, Any]) -> float:
        """Return what a request may have cost at most, 0 if that is unknown."""
        if claim.most is not None:
            return claim.most
        bound = self._question.most(sent)
        return bound.usd if bound.certain else 0.0

    def _read(self, reply: RowReply) -> RowVerdict:
        try:
            return self._question.read(reply)
        except SegmindReplyError as error:
            return RowVerdict(Refuse(cast(RefusalReason, error.reason), str(error)))

    def _follow_up(self, attempt: Attempt, decision: FollowUp) -> Attempt:
        ledger = self._run.ledger
        return attempt.follow_up(
            at=self._clock(),
            run=ledger.run,
            writer=ledger.writer,
            name=ledger.claim_id(),
            body=json_digest(decision.inputs),
            follow_ups=decision.follow_ups,
        )

    def _finish(
        self, attempt: Attempt, outcome: Outcome, *, reason: str = "", answer: object = None,
        submitted: Submitted | None = None, billed: bool = False,
    ) -> None:  # fmt: skip
        run = self._run
        event = attempt.finished(
            outcome,
            at=self._clock(),
            reason=shorten(mask_known(reason)),
            answer=answer,
            submitted=submitted,
            billed=billed,
        )
        run.commits.append(event)
        run.usage.finished(outcome)
        run.tally.finished(event if event.run == run.ledger.run else replace(event, cost=None, tokens=None))


def _words(error: SegmindError) -> str:
    return shorten(str(error))
