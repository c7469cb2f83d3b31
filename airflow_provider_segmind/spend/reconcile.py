"""Complete the spend record from Segmind's request history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from airflow_provider_segmind.client.models import RecordPage, RequestRecord
from airflow_provider_segmind.client.request_history import HistoryPages, row_times
from airflow_provider_segmind.defaults import RESULT_LIFETIME
from airflow_provider_segmind.exceptions import SegmindError, SegmindResponseError
from airflow_provider_segmind.money import exact_micros
from airflow_provider_segmind.spend.entries import SpendEntry
from airflow_provider_segmind.spend.store import SpendStore
from airflow_provider_segmind.wording import counted

ONE_DAY_BEFORE = 86_400.0
"""Seconds before the requested time from which recorded requests are also read, because clocks differ."""
MOST_IN_WRITE = 1000


class HistoryClient(Protocol):
    """What lists the history: :class:`~airflow_provider_segmind.client.client.SegmindClient`, or the hook."""

    def list_request_records(self, **filters: Any) -> RecordPage:
        """Return a page of the request history; free."""


@dataclass(slots=True, kw_only=True)
class Reconciliation:
    """
    What was added to the spend record.

    :param added: requests that no task had recorded.
    :param priced: requests whose cost was not known before.
    :param cost_micros: micro-dollars of both.
    """

    added: int = 0
    priced: int = 0
    cost_micros: float = 0.0


def reconcile(store: SpendStore, client: HistoryClient, since: float, *, connection: str, now: float) -> Reconciliation:
    """
    Add to the record the requests that Segmind has billed and no task has recorded, and costs that were not known.
    Free; blocks.

    The history is that of the account, so requests of others who use the account are added as well. Requests of the
    last hour are left to their tasks, which may not have read the result yet. The history shows a request up to two
    hours late: what it does not have yet is added by the next call. Files of the record are compacted.

    :param since: epoch seconds from which requests are completed.
    :param connection: id of the Connection of ``client``.
    :raises SegmindError: the history cannot be read; what was added before stays.
    """
    done = Reconciliation()
    recorded = store.read(since=since - ONE_DAY_BEFORE)
    batch: list[SpendEntry] = []
    found = missing_entries(
        recorded, history(client, since, now), since=since, until=now - RESULT_LIFETIME, connection=connection
    )
    try:
        for entry, is_new in found:
            batch.append(entry)
            done.added += is_new
            done.priced += not is_new
            done.cost_micros += entry.cost_micros or 0.0
            if len(batch) >= MOST_IN_WRITE:
                store.write(batch)
                batch = []
    except SegmindError:
        # The entries read so far are right, and the next call may not get further.
        if batch:
            store.write(batch)
        raise
    if batch:
        store.write(batch)
    store.tidy(since=since, now=now)
    return done


def missing_entries(
    recorded: Iterable[SpendEntry], records: Iterable[RequestRecord], *, since: float, until: float, connection: str
) -> Iterator[tuple[SpendEntry, bool]]:
    """
    Yield the entries that the history adds, and whether each is of a request that was not recorded.

    :param since: epoch seconds, included.
    :param until: epoch seconds, excluded.
    """
    known: set[int] = set()
    unpriced: dict[str, SpendEntry] = {}
    for entry in recorded:
        known.add(hash(entry.request_id))
        if entry.cost_micros is None:
            unpriced[entry.request_id] = entry
    for record in records:
        # A request with several outputs has several rows, each with the whole cost.
        earlier = unpriced.pop(record.request_id, None)
        mark = hash(record.request_id)
        if not record.finished:
            continue
        cost = exact_micros(record.cost)
        if earlier is not None and cost is not None:
            yield replace(earlier, cost_micros=cost), False
        at = max(row_times(record), default=until)
        if mark in known or not since <= at <= until:
            continue
        known.add(mark)
        yield (
            SpendEntry(
                at=at,
                connection=connection,
                model=record.model_name or "",
                request_id=record.request_id,
                # Whether a reply could be used is not in the history.
                outcome="failed" if record.failed else "unknown",
                cost_micros=cost,
            ),
            True,
        )


def history(client: HistoryClient, since: float, now: float) -> Iterator[RequestRecord]:
    """Yield all rows of the request history of some days, the newest first."""
    pages = HistoryPages(since, now, most=None)
    for filters in pages:
        yield from pages.take(client.list_request_records(**filters))
    if not pages.complete:
        raise SegmindResponseError(
            f"Segmind's request history returned the same page twice after {counted(pages.read, 'row')}, so older "
            "requests may be missing from the spend record. Nothing was billed; try again with a later --since.",
            billed=False,
        )
