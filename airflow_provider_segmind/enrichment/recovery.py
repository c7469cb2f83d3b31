"""Find lost requests in Segmind's request history, and note in the ledger what is certain about them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from airflow_provider_segmind.client.models import RequestRecord
from airflow_provider_segmind.client.request_history import (
    HISTORY_COMPLETE_AFTER,
    LARGEST_SKEW,
    POST_DURATION,
    ClockOffset,
    HistoryPages,
    TimeMatch,
    body_of,
    can_be_compared,
    is_sent_body,
    leaves_open,
    only_ours,
    row_times,
    time_match,
)
from airflow_provider_segmind.client.submission import json_digest
from airflow_provider_segmind.enrichment.ledger.events import Claimed, Freed, Submitted
from airflow_provider_segmind.enrichment.ledger.group_commit import GroupCommit
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.row_state import KnownRequest
from airflow_provider_segmind.enrichment.ledger.run_liveness import Membership
from airflow_provider_segmind.enrichment.question import LostRow, Question
from airflow_provider_segmind.enrichment.rows import canonical_json
from airflow_provider_segmind.enrichment.run_limits import RunUsage
from airflow_provider_segmind.enrichment.settings import Client, Settings, Shard
from airflow_provider_segmind.enrichment.stats import Tally
from airflow_provider_segmind.exceptions import SegmindError
from airflow_provider_segmind.wording import counted


@dataclass(frozen=True, slots=True)
class LostRequest:
    """
    A request whose outcome is unknown.

    :param claim: what was noted before it was sent; it was sent no earlier.
    :param until: epoch seconds of this try's clock after which it was certainly not sent any more.
    :param inputs: what was sent, None where only the digest in the claim is known: the row is not in the source any
        more, or was not read yet, or another try sent a follow-up.
    :param form: for such a follow-up, a body with the same fields.
    """

    claim: Claimed
    until: float
    inputs: Mapping[str, Any] | None = None
    form: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Progress:
    """
    How far the history has come.

    :param compares: whether it shows bodies so that they can be recognized.
    :param caught_up: epoch seconds of our clock; requests accepted before are in it.
    """

    compares: bool = False
    caught_up: float = float("-inf")

    def learn(self, at: float, *, own: bool) -> None:
        self.compares = True
        if own:
            # By the clock of another worker it is not known what came before or after.
            self.caught_up = max(self.caught_up, at)


@dataclass(slots=True)
class Findings:
    """
    What the history shows about lost requests.

    :param found: the request of each lost row, by fingerprint.
    :param absent: rows whose request was certainly never created.
    :param pending: rows whose request the history may yet show: it could not be read, or not all of it, or it shows an
        equal request that is the lost one if the clocks differ. Those are not sent again.
    """

    found: dict[bytes, RequestRecord] = field(default_factory=dict)
    absent: set[bytes] = field(default_factory=set)
    pending: set[bytes] = field(default_factory=set)


async def find_lost(
    client: Client,
    model: str,
    lost: Mapping[bytes, LostRequest],
    *,
    known_requests: Iterable[KnownRequest],
    writer: str,
    former: frozenset[str] = frozenset(),
    owned: Callable[[set[str]], set[str]] = lambda _: set(),
    now: float,
    complete_after: float,
) -> Findings:
    """
    Look for lost requests.

    :param lost: each of them, by fingerprint.
    :param known_requests: those whose row is known, which are never taken for lost ones; they show how far the history
        has come and how the clocks differ.
    :param writer: the name of this try, by whose clock ``now`` and :attr:`LostRequest.until` are.
    :param former: more requests that are not to be taken for lost ones.
    :param owned: returns which of the given requests belong to other rows.
    :param now: epoch seconds.
    :param complete_after: seconds after which the history is believed to be complete.
    :raises SegmindError: the history cannot be read; every outcome stays unknown.
    """
    reading = _Reading(lost, known_requests, writer=writer, former=former, now=now)
    since = min(one.claim.at for one in lost.values()) - LARGEST_SKEW
    pages = HistoryPages(since, now, model=model)
    async for record in _records(client, pages):
        if not record.request_id:
            reading.take_without_id(record)
        elif reading.take(record) and reading.placed_all(owned):
            return reading.findings(owned, complete_after)
    return reading.findings(owned, complete_after if pages.complete else None)


class _Reading:
    """What the records read so far say about lost requests."""

    def __init__(
        self, lost: Mapping[bytes, LostRequest], known_requests: Iterable[KnownRequest], *,
        writer: str, former: frozenset[str], now: float,
    ) -> None:  # fmt: skip
        self._lost = dict(sorted(lost.items(), key=lambda item: item[1].claim.at))
        self._known = {known.request_id: known for known in known_requests}
        self._taken = {request_id for one in lost.values() for request_id in one.claim.request_ids} | former
        self._writer = writer
        self._now = now
        self._candidates: dict[bytes, list[RequestRecord]] = {}
        self._without_id: dict[bytes, list[RequestRecord]] = {}
        self._unreadable: list[RequestRecord] = []
        self._met: set[str] = set()
        self._free: set[str] = set()
        self._matchers = _Matchers(self._lost)
        self._offsets: dict[str, list[tuple[float, float]]] = {}
        self._newest = float("-inf")
        self._hint: float | None = None
        self._seen = False
        # A body of which only the digest is known is recognized only if the server has added nothing.
        self._as_sent, self._with_additions = _Progress(), _Progress()

    def take(self, record: RequestRecord) -> bool:
        """Learn from one record; return whether it may be a lost request."""
        self._seen = True
        self._newest = max([self._newest, *row_times(record)])
        self._hint = self._hint if record.clock_offset is None else record.clock_offset
        known = self._known.get(record.request_id)
        if known is not None:
            self._learn(record, known)
            return False
        # A request with several outputs has several rows.
        if record.request_id in self._taken or record.request_id in self._met:
            return False
        marks = self._matchers.matches(record)
        if not can_be_compared(record, self._matchers.names):
            self._unreadable.append(record)
            self._met.add(record.request_id)
        if marks:
            self._met.add(record.request_id)
        for mark in marks:
            self._candidates.setdefault(mark, []).append(record)
        return bool(marks)

    def take_without_id(self, record: RequestRecord) -> None:
        """Learn from a record without a usable id, which is not known to be of another request."""
        marks = self._matchers.matches(record)
        # As long as no body of the history is recognized, the lost ones may also be in it in a form that is not
        # recognized.
        self._seen = self._seen or not marks
        if not can_be_compared(record, self._matchers.names):
            self._unreadable.append(record)
        for mark in marks:
            self._without_id.setdefault(mark, []).append(record)

    def placed_all(self, owned: Callable[[set[str]], set[str]]) -> bool:
        """Return whether each lost request has a matching record of its own."""
        if len(self._candidates) < len(self._lost) or len(self._assigned()) < len(self._lost):
            return False
        self._drop_owned(owned)
        return len(self._assigned()) == len(self._lost)

    def _drop_owned(self, owned: Callable[[set[str]], set[str]]) -> None:
        asked = self._met - self._taken - self._free
        others = owned(asked) if asked else set()
        self._taken |= others
        self._free |= asked - others
        for mark, records in list(self._candidates.items()):
            self._candidates[mark] = [record for record in records if record.request_id not in self._taken]
            if not self._candidates[mark]:
                del self._candidates[mark]

    def findings(self, owned: Callable[[set[str]], set[str]], complete_after: float | None) -> Findings:
        """
        Return what all records read say together.

        :param complete_after: as in :func:`find_lost`, None when not all of the history was read.
        """
        self._drop_owned(owned)
        findings = Findings(found=self._assigned())
        for mark, record in findings.found.items():
            claim = self._lost[mark].claim
            # It was sent after its claim, so the history has come that far.
            self._learn_progress(record, claim.body, claim.at, claim.writer)
        for mark, one in self._lost.items():
            if mark in findings.found:
                continue
            if complete_after is None or self._may_be_there(mark, findings):
                findings.pending.add(mark)
                continue
            known = one.inputs is not None or one.form is not None
            progress = self._with_additions if known else self._as_sent
            settled = (progress.compares or not self._seen) and self._now - one.claim.at >= complete_after
            if settled or one.until <= progress.caught_up:
                findings.absent.add(mark)
        return findings

    def _learn_progress(self, record: RequestRecord, body: str, at: float, writer: str) -> None:
        self._with_additions.learn(at, own=writer == self._writer)
        if json_digest(body_of(record)) == body:
            self._as_sent.learn(at, own=writer == self._writer)

    def _learn(self, record: RequestRecord, known: KnownRequest) -> None:
        moments = row_times(record)
        if moments and known.not_after is not None and known.not_after >= known.not_before:
            created = min(moments)
            bounds = (created - known.not_after, created - known.not_before)
            self._offsets.setdefault(known.writer, []).append(bounds)
        if self._matchers.compares(record, known):
            self._learn_progress(record, known.body, known.not_before, known.writer)

    def _assigned(self) -> dict[bytes, RequestRecord]:
        """Assign to each lost request the record nearest to it in time, and no record to two of them."""
        found: dict[bytes, RequestRecord] = {}
        given: set[str] = set()
        for mark, one in self._lost.items():
            fitting = [
                (gap, number, record)
                for number, record in enumerate(self._candidates.get(mark, ()))
                for place, gap in [self._time_match(record, one)]
                if place is TimeMatch.INSIDE and record.request_id not in given
            ]
            if fitting:
                found[mark] = min(fitting, key=lambda each: each[:2])[2]
                given.add(found[mark].request_id)
        return found

    def _may_be_there(self, mark: bytes, findings: Findings) -> bool:
        given = {record.request_id for record in findings.found.values()}
        return any(
            record.request_id not in given and self._time_match(record, self._lost[mark])[0] is not TimeMatch.OUTSIDE
            for record in (*self._candidates.get(mark, ()), *self._without_id.get(mark, ()))
        ) or any(
            record.request_id not in self._taken and self._time_match(record, self._lost[mark])[0] is TimeMatch.INSIDE
            for record in self._unreadable
        )

    def _time_match(self, record: RequestRecord, one: LostRequest) -> tuple[TimeMatch, float]:
        if not row_times(record):
            # The queried days are all that is known of its time.
            return TimeMatch.INSIDE, 0.0
        own = self._offsets.get(one.claim.writer)
        known = own if own is not None else [bounds for each in self._offsets.values() for bounds in each]
        offset = ClockOffset.of(known, at_least=self._newest - self._now, hint=self._hint)
        return time_match(record, one.claim.at, max(one.until, one.claim.at + POST_DURATION), offset)


class _Matchers:
    """
    Compares bodies in the history with those that were sent, by digest and, where they are known, by content.

    Known bodies are found by one of their strings, and there are few forms, so a long history is not compared with each
    lost request.
    """

    def __init__(self, lost: Mapping[bytes, LostRequest]) -> None:
        self._lost = lost
        self._by_digest: dict[str, list[bytes]] = {}
        self._by_text: dict[tuple[Any, ...], dict[str, list[bytes]]] = {}
        self._textless: list[bytes] = []
        self._by_form: dict[str, tuple[Mapping[str, Any], dict[str, list[bytes]]]] = {}
        for mark, one in lost.items():
            self._by_digest.setdefault(one.claim.body, []).append(mark)
            if one.inputs is not None:
                self._index(mark, one.inputs)
            elif one.form is not None:
                form = _without_texts(one.form)
                _, marks = self._by_form.setdefault(canonical_json(form), (form, {}))
                marks.setdefault(one.claim.body, []).append(mark)
        self._templates = [one.inputs for one in lost.values() if one.inputs is not None][:4]
        self._templates += [form for form, _ in self._by_form.values()]
        self.names = {name for template in self._templates for name in template}

    def matches(self, record: RequestRecord) -> list[bytes]:
        theirs = body_of(record)
        if theirs is None:
            return []
        marks = dict.fromkeys(self._by_digest.get(json_digest(theirs), ()))
        for path, texts in self._by_text.items():
            marks.update(dict.fromkeys(texts.get(_at(theirs, path), ())))
        for form, bodies in self._by_form.values():
            marks.update(dict.fromkeys(bodies.get(json_digest(only_ours(theirs, form)), ())))
        marks.update(dict.fromkeys(self._textless))
        return [mark for mark in marks if self._is(mark, theirs)]

    def compares(self, record: RequestRecord, known: KnownRequest) -> bool:
        """Return whether the history contains the body of a known request in a form that can be recognized."""
        theirs = body_of(record)
        if theirs is None:
            return False
        if json_digest(theirs) == known.body:
            return True
        # Rows of a table have bodies of one form; without what the server has added, a body must be the one that was
        # sent.
        return any(json_digest(only_ours(theirs, template)) == known.body for template in self._templates)

    def _is(self, mark: bytes, theirs: Mapping[str, Any]) -> bool:
        one = self._lost[mark]
        return is_sent_body(theirs, digest_sent=one.claim.body, sent=one.inputs, form=one.form)

    def _index(self, mark: bytes, inputs: Mapping[str, Any]) -> None:
        path, text = max(_texts(inputs, ()), key=lambda item: len(item[1]), default=((), ""))
        if text:
            self._by_text.setdefault(path, {}).setdefault(text, []).append(mark)
        else:
            self._textless.append(mark)


def _without_texts(value: Any) -> Any:
    """Return a JSON value with empty strings: the form that the bodies of many rows share."""
    if isinstance(value, Mapping):
        return {name: _without_texts(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_texts(inner) for inner in value]
    return "" if isinstance(value, str) else value


def _texts(value: Any, path: tuple[Any, ...]) -> Iterable[tuple[tuple[Any, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, (*path, name))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _texts(inner, (*path, number))


def _at(value: Any, path: tuple[Any, ...]) -> str:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return ""
    return value if isinstance(value, str) else ""


async def _records(client: Client, pages: HistoryPages) -> AsyncIterator[RequestRecord]:
    for filters in pages:
        try:
            page = await client.list_request_records(**filters)
        except SegmindError as error:
            # A history with a first page exists, whatever a later one is answered.
            if pages.read and not leaves_open(error):
                return
            raise
        for record in (*pages.take(page), *pages.without_id):
            yield record


log = logging.getLogger(__name__)


class RecoveryRun(Protocol):
    """What the recovery needs to know about the run it is part of."""

    ledger: Ledger
    commits: GroupCommit
    member: Membership
    usage: RunUsage
    shard: Shard
    tally: Tally
    question: Question
    settings: Settings
    client: Client
    clock: Callable[[], float]


async def recover_earlier(run: RecoveryRun, *, until: float) -> None:
    """
    Find the outcome of the lost requests of earlier tries, before anything is sent.

    :param until: epoch seconds by which those had ended.
    """
    lost = {
        mark: LostRequest(claim, until=until)
        for mark, row in run.ledger.open_rows()
        if row.submitted is None
        and (claim := row.claim_for(run.ledger.run)) is not None
        and claim.model == run.question.model
        and run.shard.owns(mark)
        # An active run itself knows which of its claims were sent.
        and not any(run.member.is_active(writer) for writer in row.writers())
    }
    await recover(run, lost)


async def resolve_lost(run: RecoveryRun, lost: Mapping[bytes, LostRow]) -> list[bytes]:
    """
    Look up requests that were lost in this try once more, and return those whose rows can continue.

    :param lost: by fingerprint.
    """
    claims, elsewhere = {}, []
    for mark, one in lost.items():
        row = run.ledger.row_state(mark).open
        claim = row.claim_for(run.ledger.run) if row is not None else None
        if row is None or row.submitted is not None or any(map(run.member.is_active, row.writers())):
            # Another run has found its outcome, or sends it anew.
            elsewhere.append(mark)
        elif claim is not None:
            claims[mark] = _lost(run.question, claim, one)
    for mark in elsewhere:
        run.usage.lost_found()
        run.usage.release(mark)
    looked_up = {mark: _unresolved(run, mark) for mark in claims}
    findings = await recover(run, claims)
    resubmit = run.settings.on_unknown == "resubmit"
    unknown = {mark for mark in claims if mark not in findings.found and mark not in findings.absent}
    decided = [mark for mark in claims if mark not in unknown or (resubmit and mark not in findings.pending)]
    for mark in decided:
        if mark in findings.found:
            run.usage.lost_found()
            continue
        if mark in findings.absent:
            free_claims(run, mark, looked_up[mark])
            run.usage.never_arrived(mark)
        else:
            charged = run.usage.resubmitted(mark)
            free_claims(run, mark, looked_up[mark], given_up={claims[mark].claim.id: charged})
            _uncount(run, claims[mark].claim)
    return decided + elsewhere


async def recover(run: RecoveryRun, lost: Mapping[bytes, LostRequest]) -> Findings:
    """
    Look for lost requests in the history and note what is certain.

    Errors of the history do not stop the run: the outcomes stay unknown.

    :param lost: each of them, by fingerprint.
    """
    if not lost:
        return Findings()
    looked_up = {mark: _unresolved(run, mark) for mark in lost}
    try:
        await asyncio.to_thread(run.ledger.index_requests)
        findings = await find_lost(
            run.client,
            run.question.model,
            lost,
            known_requests=[*run.ledger.known_requests(), *run.tally.known_requests],
            writer=run.ledger.writer,
            former=_former(run.ledger, lost),
            owned=run.ledger.owned_requests,
            now=run.clock(),
            complete_after=HISTORY_COMPLETE_AFTER,
        )
    except SegmindError as error:
        log.warning(
            "The outcome of %s is still unknown: the request history cannot be read: %s",
            *(counted(len(lost), "request"), error),
        )
        return Findings(pending=set(lost) if leaves_open(error) else set())
    for mark, record in findings.found.items():
        claim = lost[mark].claim
        # The claim is the earliest moment it can have been sent, so its expiry is not overestimated.
        submitted = Submitted(
            fingerprint=mark, attempt=claim.attempt, at=claim.at, request_id=record.request_id, claim=claim.id
        )
        run.commits.append(submitted)
        # Of several claims only one can have been sent, and this was it.
        free_claims(run, mark, looked_up[mark])
    for mark in findings.absent:
        free_claims(run, mark, looked_up[mark])
        run.usage.release(mark)
        _uncount(run, lost[mark].claim)
    log.info(
        "Of %s with an unknown outcome, %d found in the request history; %d never created",
        *(counted(len(lost), "request"), len(findings.found), len(findings.absent)),
    )
    return findings


def free_claims(
    run: RecoveryRun, mark: bytes, claims: frozenset[str], *, given_up: Mapping[str, float] | None = None
) -> None:
    """
    Record that claims with an unknown outcome were not sent, or are given up.

    :param claims: those that were open when the history was read; it says nothing about later ones.
    :param given_up: by claim, the USD that a call which is given up may still be billed.
    """
    row = run.ledger.row_state(mark).open
    for claim in row.unresolved if row is not None else ():
        if claim.id not in claims:
            continue
        charged = (given_up or {}).get(claim.id, 0.0)
        freed = Freed(fingerprint=mark, attempt=claim.attempt, at=run.clock(), claim=claim.id, charged=charged)
        run.commits.append(freed)


def _uncount(run: RecoveryRun, claim: Claimed) -> None:
    # The claim of another run was never counted here, and a row of which an answer was paid for stays counted.
    if claim.run == run.ledger.run and not claim.request_ids:
        run.usage.uncount_row()


def _unresolved(run: RecoveryRun, mark: bytes) -> frozenset[str]:
    row = run.ledger.row_state(mark).open
    return frozenset(claim.id for claim in row.unresolved) if row is not None else frozenset()


def _lost(question: Question, claim: Claimed, one: LostRow) -> LostRequest:
    # The claim may be of a request of another process: what is known to have been sent fits its digest.
    first = one.prepared.inputs
    inputs = next((body for body in (one.sent, first) if body is not None and json_digest(body) == claim.body), None)
    if inputs is not None or not claim.follow_ups:
        return LostRequest(claim, until=one.until, inputs=inputs)
    form = question.form(first, claim.follow_ups)
    if form is not None and json_digest(form) == claim.body:
        return LostRequest(claim, until=one.until, inputs=form)
    return LostRequest(claim, until=one.until, form=form)


def _former(ledger: Ledger, lost: Iterable[bytes]) -> frozenset[str]:
    stored = (ledger.finished(mark) for mark in lost)
    return frozenset(request_id for event in stored if event for request_id in event.request_ids)
