"""
Find requests whose fate is unknown in Segmind's request history, by model, time and body.

A request that is found is fetched like any other. One that is not found was certainly never created only if the history
is shown to be up to date and to compare: it holds a request we know, with the body we sent, that was submitted when the
lost one cannot have been on its way any more; or so much time has passed that the history must have settled. History
rows appear late (the usage page speaks of up to two hours), so anything else leaves the fate open.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from airflow_provider_segmind.api.history import CLOCK_SKEW, row_moments
from airflow_provider_segmind.api.models import RequestRecord
from airflow_provider_segmind.bulk.events import Claimed
from airflow_provider_segmind.bulk.plan import Client
from airflow_provider_segmind.bulk.rows import digest
from airflow_provider_segmind.bulk.standing import Witness

LONGEST_SPAN = 30.0
"""Days the history is asked about at most; it takes 31."""
MOST_PAGES = 300


@dataclass(frozen=True, slots=True)
class Lost:
    """
    A request of unknown fate.

    :param claim: what was noted before it was sent; it was sent no earlier.
    :param until: epoch seconds after which it was certainly not sent any more.
    """

    claim: Claimed
    until: float


@dataclass(slots=True)
class Findings:
    """
    What the history knows about lost requests.

    :param found: the request of each lost row, by fingerprint.
    :param absent: rows whose request was certainly never created.
    """

    found: dict[bytes, RequestRecord] = field(default_factory=dict)
    absent: set[bytes] = field(default_factory=set)


async def find_lost(
    client: Client,
    model: str,
    lost: Mapping[bytes, Lost],
    *,
    witnesses: Iterable[Witness],
    former: frozenset[str] = frozenset(),
    now: float,
    settles_after: float,
) -> Findings:
    """
    Look for lost requests.

    :param lost: each of them, by fingerprint.
    :param witnesses: known requests, which are never taken for lost ones.
    :param former: more requests that are not to be taken for lost ones.
    :param now: epoch seconds.
    :param settles_after: seconds after which the history is believed to be complete.
    :raises SegmindError: the history cannot be asked; every fate stays open.
    """
    known = {witness.request_id: witness for witness in witnesses}
    taken = {request_id for one in lost.values() for request_id in one.claim.request_ids} | former
    wanted: dict[str, list[bytes]] = {}
    for mark, one in sorted(lost.items(), key=lambda item: item[1].claim.at):
        wanted.setdefault(one.claim.body, []).append(mark)
    findings = Findings()
    complete, seen, caught_up = True, False, float("-inf")
    since = min(one.claim.at for one in lost.values())
    async for record in _records(client, model, since=since, now=now):
        if record is None:
            complete = False
            break
        seen = True
        body = _body_digest(record)
        witness = known.get(record.request_id)
        if witness is not None:
            if witness.body == body:
                caught_up = max(caught_up, witness.not_before)
            continue
        owner = next((mark for mark in wanted.get(body, ()) if _may_be(record, lost[mark].claim)), None)
        if owner is not None and record.request_id not in taken:
            wanted[body].remove(owner)
            findings.found[owner] = record
            taken.add(record.request_id)
            # It was sent after its claim, so the history has come that far.
            caught_up = max(caught_up, lost[owner].claim.at)
            if len(findings.found) == len(lost):
                break
    if complete:
        comparable = caught_up > float("-inf") or not seen
        for mark, one in lost.items():
            settled = comparable and now - one.claim.at >= settles_after
            if mark not in findings.found and (settled or one.until <= caught_up):
                findings.absent.add(mark)
    return findings


async def _records(client: Client, model: str, *, since: float, now: float) -> AsyncIterator[RequestRecord | None]:
    """Yield the records since a day, and None where there are too many to read them all."""
    today = datetime.fromtimestamp(now, UTC).date()
    first = max(datetime.fromtimestamp(since - 3600, UTC).date(), today - timedelta(days=LONGEST_SPAN))
    for page in range(1, MOST_PAGES + 1):
        records = await client.list_request_records(
            model=model, from_date=first, to_date=today + timedelta(days=1), page=page
        )
        for record in records:
            # The filter compares parts of names.
            if record.model_name in (None, model):
                yield record
        if not records:
            return
    yield None


def _may_be(record: RequestRecord, claim: Claimed) -> bool:
    moments = row_moments(record)
    return not moments or max(moments) >= claim.at - CLOCK_SKEW


def _body_digest(record: RequestRecord) -> str:
    body = record.request_body
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            return ""
    return digest(body).hex()
