"""What the engine is given from outside: a client, a budget, a spend record, an answer cache, and settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from airflow_provider_segmind.client.async_client import AsyncSegmindClient
from airflow_provider_segmind.client.models import RequestResult
from airflow_provider_segmind.defaults import OnUnknown, Rerun
from airflow_provider_segmind.enrichment.outcomes import FinishedRequest
from airflow_provider_segmind.exceptions import SegmindError

Client: TypeAlias = AsyncSegmindClient
"""What sends the requests of a table; a test may give another."""


class SpendLog(Protocol):
    """Where the requests of a run are recorded when they have ended."""

    def ended(self, request: FinishedRequest, /) -> None:
        """Record a request; called in the event loop, so it must not block."""

    def ended_before(self, requests: Iterable[FinishedRequest], /, *, since: float) -> None:
        """
        Record requests of earlier tries that are not recorded yet; blocks, in a thread, before anything is sent.

        :param since: epoch seconds when the first of their rows finished, infinity before that.
        """


class KnownAnswer(Protocol):
    """An answer that was paid for before."""

    @property
    def request_id(self) -> str:
        """The request that was answered."""

    @property
    def result(self) -> RequestResult | None:
        """The reply, None if it cannot be read as one."""


class TableAnswerCache(Protocol):
    """The answer cache as a table uses it; both methods block, in a thread."""

    def find(self, question: bytes, /) -> KnownAnswer | None:
        """
        Return the answer to a question, by its fingerprint.

        :raises SegmindError: the answer cache cannot be read.
        """

    def keep_reply(
        self, question: bytes, result: RequestResult, /, *, model: str, at: float, requests: int, cost: float | None
    ) -> None:
        """
        Keep an accepted reply.

        :param at: epoch seconds when its request was submitted.
        :param requests: how many requests it took.
        :param cost: USD billed for all of them.
        :raises Exception: any error of the store.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """
    What a run has used at one moment.

    :param spent: USD billed in the run, over all its tries.
    :param held: USD that its open requests may still be billed.
    :param in_flight: how many of its requests are open.
    :param unread: how many of them are of earlier tries, and their rows have not been read yet.
    :param waiting: USD that each of the requests that wait for the budget may cost.
    """

    spent: float
    held: float
    in_flight: int
    unread: int = 0
    waiting: tuple[float, ...] = ()


class TableBudget(Protocol):
    """
    The budgets that apply to a run in addition to its own limits.

    ``admits``, ``is_usable``, ``plan`` and ``apply`` are called in the engine's loop and decide; the others block and
    run in a thread. One order is carried out at a time.
    """

    error: SegmindError | None
    """Why the run must stop, None while it may go on."""
    refused: Any
    """The latest refusal, None if there was none since the last grant."""

    def claim_earlier(self) -> float:
        """Take what earlier tries have reserved, before the ledger is read; return when it is certain that no
        process of theirs sends anything more, in seconds from now."""

    def take_over(self, run: RunFigures, /) -> None:
        """Continue with what earlier tries had reserved, after the ledger was read."""

    def admits(self, run: RunFigures, cost: float, /) -> bool:
        """Return whether one more paid request of up to ``cost`` USD may be sent."""

    def is_usable(self) -> bool:
        """Return whether what was admitted may still be sent."""

    def windows_changed(self) -> bool:
        """Return whether a new day or month has begun, so that nothing more is reserved until all is fetched."""

    def without_slot(self, run: RunFigures, /) -> SegmindError | None:
        """Return an error if open requests of earlier tries use every slot."""

    def plan(self, run: RunFigures, /) -> Any:
        """Return the order of the next exchange with the store of the budgets, None if none is needed."""

    def execute_order(self, order: Any, /) -> Any:
        """Carry out an order of :meth:`plan` and return its outcome."""

    def apply(self, outcome: Any, /) -> None:
        """Take over the outcome of :meth:`execute_order`."""

    def close(self, run: RunFigures, /) -> None:
        """Return what no open request needs, when nothing more is sent."""


class KeyedTarget(Protocol):
    """An output that is written by key and outlives a run: it is consulted before a row is sent."""

    def trouble(self, key: Mapping[str, Any], number: int, /) -> str | None:
        """
        Return why a row with this key cannot be in the output, None when it can; called once for each row, in order.

        :param number: the row's position in the source, from 0.
        """

    def has_answer(self, key: Mapping[str, Any], fingerprint: bytes, /) -> bool:
        """Return whether the output has the answer to exactly this question under this key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """
    One of several workers over the same table.

    Rows are dealt out by fingerprint, so that equal rows meet in one shard and are paid for once. Every shard reads the
    whole table and leaves out what is not its own.
    """

    index: int = 0
    count: int = 1

    def owns(self, mark: bytes) -> bool:
        """Return whether the row belongs to this shard."""
        return self.count == 1 or int.from_bytes(mark[-8:], "big") % self.count == self.index


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    The settings of the engine. Times in seconds.

    :param concurrency: requests in flight.
    :param on_unknown: what to do about a row whose request may have been sent, when the history cannot tell. ``fail``
        never pays twice: the row's outcome is ``unknown`` and the next try checks it. ``resubmit`` sends it again,
        unless the history could not be read or shows an equal request that may be the lost one.
    :param rerun: which rows that already have an outcome are sent again: those with one of these outcomes, which may
        be billed again; ``unbilled`` for those that failed without being billed.
    :param writer_timeout: seconds without a heartbeat after which another run over the same ledger counts as dead.
    :param keep_prompt: whether the ledger keeps the prompt, so that the prompt of a row can be looked up later.
    :param deferrable: whether the run may defer when there is nothing to do but wait.
    :param notes: what the manifest says about the run.
    :param spend: where finished requests are recorded, None for nowhere.
    :param answers: searched before a row is sent, and given its answer; None for the ledger alone.
    :param budget: the budgets that apply, None for none.
    """

    concurrency: int = 64
    on_unknown: OnUnknown = "fail"
    rerun: frozenset[Rerun] = frozenset({"unbilled"})
    writer_timeout: float = 60.0
    keep_prompt: bool = True
    deferrable: bool = False
    spend: SpendLog | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    answers: TableAnswerCache | None = None
    budget: TableBudget | None = None
