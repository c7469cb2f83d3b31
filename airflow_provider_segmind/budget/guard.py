"""
The budgets of one task instance: reserve before each paid call, record what was sent, settle by the bill.

Before a call, any error stops it: a budget that cannot be read blocks the call like one that is used up. After a call
nothing here raises, because the answer has been paid for; a request that could not be settled stays charged at its
upper bound until the next task settles it from Segmind's history.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from airflow_provider_segmind.budget.limits import BudgetRule, Window, windows
from airflow_provider_segmind.budget.orphaned_reservations import ORPHANED_AFTER, History, settle_orphans
from airflow_provider_segmind.budget.store import BudgetStore, Refused, Reservation, Usage
from airflow_provider_segmind.chat.cost_estimate import Price, cost_bound, price_of
from airflow_provider_segmind.chat.reply_policy import output_cap_of
from airflow_provider_segmind.enrichment.storage import StorePath
from airflow_provider_segmind.exceptions import (
    SegmindBudgetError,
    SegmindConfigError,
    SegmindInFlightError,
    SegmindStateError,
    shorten,
)
from airflow_provider_segmind.money import exact_micros, usd

SOONEST, LATEST = 5.0, ORPHANED_AFTER
"""Seconds between attempts to reserve while only the reservations of other requests are in the way."""
NEVER_AFTER = 86_400.0
"""Seconds after which a reservation whose bill is still unknown is no longer waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """
    The budgets of a task's requests.

    :param store: where they are kept; None where nothing is budgeted.
    :param rules: all of them apply to each request.
    :param max_in_flight: paid requests of the Connection in flight, over all tasks; None for any number.
    :param prices: a user's own, by model.
    """

    store: BudgetStore | None = None
    rules: tuple[BudgetRule, ...] = ()
    max_in_flight: int | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)

    @property
    def hold(self) -> bool:
        """Whether anything limits a request."""
        return bool(self.rules) or self.max_in_flight is not None


@dataclass(frozen=True, slots=True)
class RequestBound:
    """
    The most that a request may cost.

    :param micros: micro-dollars, rounded up.
    :param assumed_cap: output tokens that are assumed if the request itself has no output cap.
    """

    micros: int
    assumed_cap: int | None = None


def request_bound(model: str, inputs: Mapping[str, Any], prices: Mapping[str, Price]) -> RequestBound:
    """
    Return the most that a request may cost.

    :raises SegmindConfigError: it has no known bound; nothing was sent.
    """
    price = price_of(model, prices)
    if price is None:
        raise _no_bound(
            model,
            "its price is not known. Add it to the field 'prices' of the connection's extra, in USD per million tokens "
            '({"input": 0.1, "output": 0.4}) or for each request ({"request": 0.05})',
        )
    if output_cap_of(inputs) is None and not price.max_output_tokens and price.request is None:
        raise _no_bound(
            model,
            "it has no output cap and the model's output limit is not known. Set 'max_tokens' in the options or the "
            "inputs, or 'max_output_tokens' next to the price",
        )
    bound = cost_bound(model, inputs, prices=prices)
    if not bound.certain:
        raise _no_bound(
            model,
            f"what {shorten(bound.doubt, 100)!r} costs is known only from the bill. Remove it, or set a price "
            "per request for this model in the field 'prices' of the connection's extra, like {\"request\": 0.05}",
        )
    return RequestBound(math.ceil(exact_micros(bound.usd)), bound.assumed_cap)


def _no_bound(model: str, reason: str) -> SegmindConfigError:
    return SegmindConfigError(
        f"A request to model {model!r} has no known upper bound, which a budget needs: {reason}. Nothing was sent."
    )


class BudgetGuard:
    """
    The budgets of one task instance.

    :param settings: looks them up when they are first needed, which reads the Connection and the configuration.
    :param owner: the task instance, ``dag_id/run_id/task_id/map_index``.
    :param connection: id of the Connection.
    :param history: the client that reads Segmind's request history.
    :param ledgers: returns the folder of a table's ledger from its URI.
    :param for_others: whether it settles requests that other tasks have sent, under budgets that it may not have.
    """

    def __init__(
        self,
        settings: Callable[[], BudgetSettings],
        *,
        owner: str,
        connection: str,
        history: Callable[[], History],
        ledgers: Callable[[str], StorePath],
        log: Any,
        for_others: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._for_others = for_others
        self._read_settings = settings
        self._owner = owner
        self._connection = connection
        self._history = history
        self._ledgers = ledgers
        self._log = log
        self._clock = clock
        self._marked: set[str] = set()
        self._doubtful: set[str] = set()
        self._by_request: dict[str, Reservation] = {}
        self._ids: dict[str, str] = {}
        self._noted: set[str] = set()
        self._assumed: set[str] = set()

    @cached_property
    def _settings(self) -> BudgetSettings:
        return self._read_settings()

    # Before the call.

    def reserve(
        self, model: str, inputs: Mapping[str, Any], digest: str, *, owner: str | None = None
    ) -> Reservation | None:
        """
        Reserve what a request may cost; durable on return. None where nothing limits it.

        A reservation that an earlier try made for the same request in the same windows, and did not use, is taken over.

        :param inputs: the body to be sent.
        :param digest: of the inputs, by which a later try recognizes what this one reserved, and an orphan is found in
            the history.
        :param owner: instead of that of the guard, for calls of which several may be made at the same time.
        :raises SegmindBudgetError: a budget has no room, now or until its next window.
        :raises SegmindInFlightError: ``max_paid_in_flight`` is reached.
        :raises SegmindConfigError: the request has no known bound, or a budget is not set up.
        :raises SegmindStateError: the store did not answer.
        """
        settings = self._settings
        if not settings.hold:
            return None
        store = _store(settings)
        amount = self._bound(model, inputs) if settings.rules else 0
        now = self._clock()
        open_windows = windows(settings.rules, now)
        wanted = Reservation(
            id=uuid.uuid4().hex,
            owner=owner or self._owner,
            kind="request",
            amount=amount,
            windows=tuple(window.key for window in open_windows),
            slots=int(settings.max_in_flight is not None),
            connection=self._connection,
            model=model,
            digest=digest,
            reserved_at=now,
            renewed_at=now,
        )
        return self._taken_over(store, wanted) or self._reserve(store, wanted, open_windows)

    def _bound(self, model: str, inputs: Mapping[str, Any]) -> int:
        bound = request_bound(model, inputs, self._settings.prices)
        if bound.assumed_cap is not None and model not in self._assumed:
            # Once for each model: a request that waits for its part of a budget asks every few seconds.
            self._assumed.add(model)
            self._log.warning(
                "The request has no output cap, so the maximum output of model %r (%d tokens, %s in all) is "
                "reserved. An output cap ('max_tokens') leaves more of the budget for other requests",
                *(model, bound.assumed_cap, usd(bound.micros)),
            )
        return bound.micros

    def _taken_over(self, store: BudgetStore, wanted: Reservation) -> Reservation | None:
        found = None
        for earlier in store.open_reservations(owner=wanted.owner):
            if earlier.sending or earlier.kind != "request":
                # What may have been sent stays charged until it is settled.
                continue
            # A reservation in yesterday's windows, or in a budget that the task had then, would not count in those that
            # apply now.
            if found is None and _what_for(earlier) == _what_for(wanted):
                self._log.info("Using the reservation of an earlier try (%s)", usd(earlier.amount))
                found = earlier
            else:
                store.settle(earlier.id, 0.0)
        return found

    def _reserve(self, store: BudgetStore, wanted: Reservation, open_windows: tuple[Window, ...]) -> Reservation:
        for window in open_windows:
            if wanted.amount > window.limit:
                # Whatever else is used up, waiting for it would not help.
                raise self._refusal(wanted, Refused(window, window.limit, wanted.amount))
        settle_orphans(
            store,
            self._connection,
            history=self._history(),
            ledgers=self._ledgers,
            now=wanted.reserved_at,
            log=self._log,
        )
        outcome = store.reserve(wanted, open_windows, max_in_flight=self._settings.max_in_flight)
        if isinstance(outcome, Refused):
            full = outcome.window
            again = None if full is None else seconds_until_room(store, full, wanted.amount, wanted.reserved_at)
            raise self._refusal(wanted, outcome, again)
        if open_windows:
            self._log.info("Reserved %s, the maximum cost of the request", usd(wanted.amount))
        return wanted

    def _refusal(self, wanted: Reservation, refused: Refused, ask_again_in: float | None = None) -> Exception:
        window = refused.window
        if window is None:
            return SegmindInFlightError(
                f"As many paid requests of connection {self._connection!r} are in flight as max_paid_in_flight allows "
                f"({self._settings.max_in_flight}). Nothing was sent; a retry checks again."
            )
        what = f"A request to model {wanted.model!r} may cost up to {usd(wanted.amount)}"
        if refused.needed > window.limit:
            return SegmindBudgetError(
                f"{what}, which is more than {window.title} allows ({usd(window.limit)}). Nothing was sent. Raise the "
                "limit, or give the request a smaller output cap.",
                resets_at=None,
            )
        if ask_again_in is not None:
            return SegmindBudgetError(
                f"{what}, and {window.title} has {usd(refused.left)} of {usd(window.limit)} left: the rest is spent or "
                "reserved for other requests that are not billed yet. Nothing was sent; a retry checks again.",
                resets_at=window.resets_at,
                ask_again_in=ask_again_in,
            )
        resets = datetime.fromtimestamp(window.resets_at, UTC).isoformat(timespec="seconds")
        return SegmindBudgetError(
            f"{what}, and {window.title} has {usd(refused.left)} of {usd(window.limit)} left. Nothing was sent. The "
            f"budget resets at {resets}; until then, raise the limit, or let the task wait with on_budget='defer'.",
            resets_at=window.resets_at,
        )

    def sending(self, reservation: Reservation | None) -> None:
        """
        Record, right before the call, that the request may be sent from now on.

        :raises SegmindStateError: another try has taken the reservation over, or the store did not answer.
        """
        if reservation is None or reservation.id in self._marked:
            return
        self._doubtful.add(reservation.id)
        if not _store(self._settings).sending(reservation.id, self._clock()):
            error = SegmindStateError(
                "The reservation for this request is gone: another try of the task has taken it over, or it was "
                f"released because nothing was sent for {ORPHANED_AFTER / 60:.0f} minutes. Nothing was sent; a retry "
                "reserves again."
            )
            # Another attempt of this try would replace what another try may have recorded.
            error.retries_exhausted = True
            raise error
        self._doubtful.remove(reservation.id)
        self._marked.add(reservation.id)

    def never_sent(self, reservation_id: str | None) -> bool:
        """
        Return whether an earlier try was killed after it recorded its intent and before it sent; if so, release its
        reservation.

        Right before the call, a try records in the store that it is sending, and only the first try to record this may
        send. This method makes that record, so a try that is still alive can no longer send.

        :param reservation_id: what was reserved for it, as the submission record says.
        :returns: False if that is unknown.
        """
        if reservation_id is None:
            return False
        first: list[bool] = []
        self._after_call(lambda store: first.append(store.sending(reservation_id, self._clock())))
        if not any(first):
            return False
        self._after_call(lambda store: store.settle(reservation_id, 0.0))
        return True

    def unsent(self, reservation: Reservation | None) -> None:
        """Return what was reserved for a request that was not sent, or was refused at no cost."""
        # A reservation that another try has taken over may belong to the request of that try.
        if reservation is not None and reservation.id not in self._doubtful:
            self._after_call(lambda store: store.settle(reservation.id, 0.0))

    # After the call.

    def accepted(self, reservation: Reservation | None, request_id: str) -> None:
        """Record the id that Segmind gave to the request."""
        if reservation is not None:
            self._by_request[request_id] = reservation
            self._after_call(lambda store: self._note(store, reservation.id, request_id))

    def found(self, request_id: str, reservation_id: str | None) -> None:
        """
        Record the id of a request of an earlier try, which may have been killed before it recorded it.

        :param reservation_id: what was reserved for it, as the submission record says.
        """
        if reservation_id is not None:
            self._ids[request_id] = reservation_id
            self._after_call(lambda store: self._note(store, reservation_id, request_id))

    def settled(self, request_id: str, cost: float | None) -> None:
        """
        Settle a request that has ended, whichever task sent it.

        :param cost: USD as billed; if it is None, the bound stays charged until the history shows the bill.
        """
        self._after_call(lambda store: self._settle(store, request_id, cost))

    def _settle(self, store: BudgetStore, request_id: str, cost: float | None) -> None:
        found = self._by_request.get(request_id) or store.find(request_id)
        reservation_id = self._ids.get(request_id) if found is None else found.id
        if reservation_id is None:
            return
        if request_id not in self._noted and (found is None or found.request_id != request_id):
            # Otherwise an equal request that was lost would be taken for this one.
            self._note(store, reservation_id, request_id)
        if cost is None:
            store.release_slots(reservation_id)
            return
        billed = exact_micros(cost)
        if store.settle(reservation_id, billed) and found is not None and found.windows and billed > found.amount:
            self._log.warning(
                "Request %s was billed %s, more than the %s that was reserved; the budgets count the full bill. The "
                "price of model %r is probably out of date: correct it in 'prices' of the connection's extra",
                *(request_id, usd(billed), usd(found.amount), found.model),
            )

    def _note(self, store: BudgetStore, reservation_id: str, request_id: str) -> None:
        if not store.accepted(reservation_id, request_id):
            # The bill is counted where an equal request of an earlier try, which never arrived, was taken for this one.
            store.settle(reservation_id, 0.0)
        self._noted.add(request_id)

    def _after_call(self, work: Callable[[BudgetStore], object]) -> None:
        try:
            settings = self._settings
            if settings.store is not None and (settings.hold or self._for_others):
                work(settings.store)
        except Exception as error:  # noqa: BLE001 - hooks and stores raise anything; the answer is paid for
            self._log.warning(
                "The budgets could not be settled: %s: %s. The reservation stays charged until a later task settles "
                "it from Segmind's history",
                *(type(error).__name__, error),
            )


def seconds_until_room(store: BudgetStore, window: Window, needed: float, now: float) -> float | None:
    """
    Return after how many seconds a window may have room, None if what is spent, or stays reserved, leaves none.

    The longer nothing was reserved, the less likely it is that something is returned soon.

    :param needed: micro-dollars.
    :param now: epoch seconds.
    """
    left = window.limit - store.usage([window.key]).get(window.key, Usage()).spent
    if left < needed:
        return None
    # Of requests only: a table keeps its slice for as long as it runs.
    reserved = store.reserved_in(window.key, now - NEVER_AFTER)
    if left - reserved.old < needed:
        return None
    latest = now if reserved.latest is None else reserved.latest
    return min(LATEST, max(SOONEST, (now - latest) / 2))


def _what_for(one: Reservation) -> tuple[Any, ...]:
    return one.connection, one.digest, one.amount, one.slots, one.windows


def _store(settings: BudgetSettings) -> BudgetStore:
    if settings.store is None:
        raise AssertionError("budgets that hold have a store")
    return settings.store
