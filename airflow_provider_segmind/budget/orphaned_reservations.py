"""
Orphaned reservations, settled from Segmind's request history.

The worker of a reservation may be dead, and its task may never be run again. The next task that reserves looks such
reservations up:

- A request whose id is known is settled by its entry of the history, whoever else may still be waiting for it.
- One that was never sent is returned.
- One that may have been sent, but whose id is not known, is searched for by the digest of its body, once the history
  is certain to show it, among the requests without a known reservation. If several are equal, each is used once, the
  most expensive first. If the history shows none, or is too long to be read to its end, nothing is decided: the
  reservation stays charged at its upper bound.
- A slice of a table is settled by its ledger; what its open requests may cost stays reserved. Without its ledger it
  stays charged.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, Protocol

from airflow_provider_segmind.budget.store import BudgetStore, Reservation
from airflow_provider_segmind.client.models import RecordPage, RequestRecord
from airflow_provider_segmind.client.request_history import (
    HISTORY_COMPLETE_AFTER,
    LARGEST_SKEW,
    POST_DURATION,
    ClockOffset,
    HistoryPages,
    TimeMatch,
    body_of,
    is_sent_body,
    time_match,
)
from airflow_provider_segmind.enrichment.ledger.ledger import bill_of_run
from airflow_provider_segmind.enrichment.run_limits import LONGEST_FLIGHT
from airflow_provider_segmind.enrichment.storage import StorePath
from airflow_provider_segmind.exceptions import SegmindError
from airflow_provider_segmind.money import exact_micros, usd

ORPHANED_AFTER = 900.0
"""Seconds without a renewal by its owner after which a reservation is looked up, and between further look-ups."""
ROUNDING = 1e-3
"""Micro-dollars by which sums of floats may differ."""
PART_OF_AGE = 1 / 8
"""A reservation that the history does not decide is looked up again after this fraction of its age."""
IDS_KEPT = 35 * 86_400.0
"""Seconds for which ids of requests are kept; no older reservation is looked up, as all of its windows have ended."""
TIDY_CHANCE = 0.01
"""Probability that a task that reserves also removes older ids."""
MOST_ORPHANS = 20
"""Reservations that one task looks up before its own request."""


class History(Protocol):
    """What reads the request history: :class:`~airflow_provider_segmind.client.client.SegmindClient`."""

    def get_request_record(self, request_id: str) -> RequestRecord:
        """Return one of the account's requests; free."""

    def list_request_records(self, **filters: Any) -> RecordPage:
        """Return a page of the request history; free."""


def settle_orphans(
    store: BudgetStore, connection: str, *,
    history: History, ledgers: Callable[[str], StorePath], now: float, log: Any,
    chance: Callable[[], float] = random.random,
) -> int:  # fmt: skip
    """
    Settle reservations of a Connection that have not been renewed; return how many. Free.

    :param ledgers: returns the folder of a ledger from its URI.
    :raises SegmindStateError: the store did not answer.
    """
    settled = 0
    if chance() < TIDY_CHANCE:
        store.forget(now - IDS_KEPT)
    found = store.open_reservations(connection=connection, renewed_before=now - ORPHANED_AFTER)
    orphans = [one for one in found if one.kind == "slice" or _is_due(one, now)]
    for orphan in orphans[:MOST_ORPHANS]:
        # One task looks it up, however many start in the same second.
        if not store.claim(orphan, now):
            continue
        if orphan.slots and _has_ended(orphan, now):
            store.release_slots(orphan.id)
        if orphan.reserved_at < now - IDS_KEPT:
            # All of its windows ended long ago.
            settled += store.settle(orphan.id, orphan.left)
            continue
        if orphan.kind == "slice":
            settled += settle_slice(store, orphan, ledgers, now)
            continue
        try:
            billed = _bill(orphan, store, history, now)
        except SegmindError as error:
            log.info(
                "Cannot settle a reservation of %s, because the request history cannot be read: %s", orphan.owner, error
            )
            return settled
        if billed is not None and store.settle(orphan.id, billed):
            settled += 1
            log.info(
                "Settled an orphaned reservation of %s: %s was billed, %s had been reserved",
                *(orphan.owner, usd(billed), usd(orphan.amount)),
            )
    return settled


def conclude(store: BudgetStore, found: Reservation, cost: float, held: float, in_flight: int, now: float) -> None:
    """
    Report the cost of a slice to the store, and release what none of its open requests needs.

    :param cost: micro-dollars that the ledger says its run has cost.
    :param held: micro-dollars that its open requests may cost.
    :param in_flight: the number of open requests; at 0 the slice is settled.
    :param now: epoch seconds at which it was last used.
    """
    owed = max(0.0, cost - found.base - found.spent)
    if not in_flight and held <= ROUNDING:
        store.settle(found.id, owed)
        return
    spare = max(0, math.floor(found.left - owed - held))
    store.spend(found.id, owed, returned=spare, release_slots=max(0, found.slots - in_flight), now=now)


def settle_slice(store: BudgetStore, found: Reservation, ledgers: Callable[[str], StorePath], now: float) -> bool:
    """
    Settle, from its ledger, the slice of a table that no longer runs; return whether the ledger was readable. Blocks.

    :param ledgers: returns the folder of a ledger from its URI.
    :param now: epoch seconds.
    :raises SegmindStateError: the store did not answer.
    """
    try:
        bill = bill_of_run(ledgers(found.ledger), found.owner)
    except Exception:  # noqa: BLE001 - stores and Connections raise anything; it stays open for a later task
        bill = None
    if bill is None:
        return False
    conclude(store, found, exact_micros(bill.cost), exact_micros(bill.held), bill.open, now)
    return True


def _is_due(orphan: Reservation, now: float) -> bool:
    return now - orphan.renewed_at >= PART_OF_AGE * (orphan.renewed_at - orphan.reserved_at)


def _has_ended(orphan: Reservation, now: float) -> bool:
    """Return whether nothing of a reservation is in flight any more."""
    since = orphan.renewed_at if orphan.kind == "slice" else orphan.reserved_at
    return since + LONGEST_FLIGHT < now


def _bill(orphan: Reservation, store: BudgetStore, history: History, now: float) -> float | None:
    """Return what was billed for a request in micro-dollars, None while that is not known."""
    if not orphan.sending:
        return 0.0
    if orphan.request_id:
        try:
            return _billed(history.get_request_record(orphan.request_id))
        except SegmindError as error:
            if error.retryable:
                raise
            # The history has no entry of it yet.
            return None
    if orphan.reserved_at + HISTORY_COMPLETE_AFTER > now:
        return None
    rows = _equal_rows(orphan, history)
    known = store.known(rows)
    bills = {one: _billed(row) for one, row in rows.items() if one not in known}
    decided = {one: bill for one, bill in bills.items() if bill is not None}
    if not decided or len(decided) < len(bills):
        return None
    dearest = max(decided, key=decided.__getitem__)
    # Its task may have found it at the same moment.
    return decided[dearest] if store.accepted(orphan.id, dearest) else None


def _billed(row: RequestRecord) -> float | None:
    return exact_micros(row.cost) if row.finished else None


def _equal_rows(orphan: Reservation, history: History) -> dict[str, RequestRecord]:
    """Return the entries of the history that may be of a reservation, none if it is too long to be read to its end."""
    earliest, latest = orphan.reserved_at, orphan.reserved_at + LONGEST_FLIGHT + POST_DURATION
    pages = HistoryPages(earliest - LARGEST_SKEW, latest + LARGEST_SKEW, model=orphan.model)
    found: dict[str, RequestRecord] = {}
    for filters in pages:
        for row in (*pages.take(history.list_request_records(**filters)), *pages.without_id):
            match, _ = time_match(row, earliest, latest, ClockOffset())
            if match is not TimeMatch.OUTSIDE and is_sent_body(body_of(row), digest_sent=orphan.digest, sent=None):
                found[row.request_id] = row
    # A row without a usable id may be of the reservation, and cannot be distinguished from that of another one.
    return found if pages.complete and "" not in found else {}
