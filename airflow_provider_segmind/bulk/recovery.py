"""What to note in the ledger once the history has told what became of lost requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from airflow_provider_segmind.bulk.budget import Budget
from airflow_provider_segmind.bulk.commits import GroupCommit
from airflow_provider_segmind.bulk.events import Claimed, Freed, Submitted
from airflow_provider_segmind.bulk.history import Findings, Lost, find_lost
from airflow_provider_segmind.bulk.ledger import Ledger
from airflow_provider_segmind.bulk.live import Membership
from airflow_provider_segmind.bulk.plan import Client, OnUnknown, Prepared, Question, Settings, Shard
from airflow_provider_segmind.bulk.tally import Tally
from airflow_provider_segmind.exceptions import SegmindError

log = logging.getLogger(__name__)


class Run(Protocol):
    """What the recovery needs to know of the run it is part of."""

    ledger: Ledger
    commits: GroupCommit
    member: Membership
    budget: Budget
    shard: Shard
    tally: Tally
    question: Question
    settings: Settings
    client: Client
    clock: Callable[[], float]


async def recover_earlier(run: Run, *, until: float) -> None:
    """
    Find out, before anything is asked, what became of the lost requests of earlier tries.

    :param until: epoch seconds by which those had ended.
    """
    lost = {
        mark: Lost(claim, until=until)
        for mark, row in run.ledger.open_rows()
        if row.submitted is None
        and (claim := row.claim_for(run.ledger.run)) is not None
        and claim.model == run.question.model
        and run.shard.owns(mark)
        # What a run at work has claimed is no business of the history.
        and not any(run.member.is_present(writer) for writer in row.holders())
    }
    await recover(run, lost)


async def decide_lost(run: Run, lost: Mapping[bytes, tuple[Prepared, float]]) -> list[bytes]:
    """
    Look once more for requests that were lost in this try, and return those whose rows can go on.

    :param lost: by fingerprint, the row, and epoch seconds after which its request was certainly not sent.
    """
    claims, elsewhere = {}, []
    for mark, (prepared, until) in lost.items():
        row = run.ledger.standing(mark).open
        claim = row.claim_for(run.ledger.run) if row is not None else None
        if row is None or row.submitted is not None or any(map(run.member.is_present, row.holders())):
            # Another run has found out what became of it, or asks about it anew.
            elsewhere.append(mark)
        elif claim is not None:
            claims[mark] = _lost(claim, prepared, until)
    for mark in elsewhere:
        run.budget.found()
        run.budget.release(mark)
    looked_up = {mark: _unresolved(run, mark) for mark in claims}
    findings = await recover(run, claims)
    resubmit = run.settings.on_unknown is OnUnknown.RESUBMIT
    decided = [mark for mark in claims if resubmit or mark in findings.found or mark in findings.absent]
    for mark in decided:
        if mark in findings.found:
            run.budget.found()
            continue
        free(run, mark, looked_up[mark])
        if mark in findings.absent:
            run.budget.absent(mark)
        else:
            run.budget.resubmitted(mark)
    return decided + elsewhere


async def recover(run: Run, lost: Mapping[bytes, Lost]) -> Findings:
    """
    Look for lost requests in the history and note what is certain.

    Trouble with the history is no trouble of the run: the fates stay open.

    :param lost: each of them, by fingerprint.
    """
    if not lost:
        return Findings()
    looked_up = {mark: _unresolved(run, mark) for mark in lost}
    try:
        findings = await find_lost(
            run.client,
            run.question.model,
            lost,
            witnesses=[*run.ledger.witnesses(), *run.tally.witnesses],
            writer=run.ledger.writer,
            former=_former(run.ledger, lost),
            owned=run.ledger.known_requests,
            now=run.clock(),
            settles_after=run.settings.history_settles_after,
        )
    except SegmindError as error:
        log.warning("The fate of %d requests stays unknown: the request history cannot be read: %s", len(lost), error)
        return Findings()
    for mark, record in findings.found.items():
        claim = lost[mark].claim
        # The claim is the earliest moment it can have been sent, so its expiry is not overestimated.
        submitted = Submitted(
            fingerprint=mark, attempt=claim.attempt, at=claim.at, request_id=record.request_id, claim=claim.id
        )
        run.commits.note(submitted)
        # Of several claims only one can have been sent, and this was it.
        free(run, mark, looked_up[mark])
    for mark in findings.absent:
        free(run, mark, looked_up[mark])
        run.budget.release(mark)
    log.info(
        "Of %d requests of unknown fate, the request history shows %d; %d were never created.",
        len(lost),
        len(findings.found),
        len(findings.absent),
    )
    return findings


def free(run: Run, mark: bytes, claims: frozenset[str]) -> None:
    """
    Note of claims that nobody knows the fate of that they were not sent.

    :param claims: those that stood when the history was asked; it says nothing about one that came since.
    """
    row = run.ledger.standing(mark).open
    for claim in row.unresolved if row is not None else ():
        if claim.key not in claims:
            continue
        freed = Freed(fingerprint=mark, attempt=claim.attempt, at=run.clock(), writer=claim.writer, claim=claim.id)
        run.commits.note(freed)


def _unresolved(run: Run, mark: bytes) -> frozenset[str]:
    row = run.ledger.standing(mark).open
    return frozenset(claim.key for claim in row.unresolved) if row is not None else frozenset()


def _lost(claim: Claimed, prepared: Prepared, until: float) -> Lost:
    # A row that was read again tells what was sent, unless that was a further question about it.
    return Lost(claim, until=until, inputs=prepared.inputs if prepared.body == claim.body else None)


def _former(ledger: Ledger, lost: Iterable[bytes]) -> frozenset[str]:
    stored = (ledger.finished(mark) for mark in lost)
    return frozenset(request_id for event in stored if event for request_id in event.request_ids)
