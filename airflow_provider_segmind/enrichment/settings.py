"""The settings of an enrichment: the question for each row, the client, and how long to wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from airflow_provider_segmind.chat.cost_estimate import UNBOUNDED, CostBound
from airflow_provider_segmind.client.models import RequestRecord, RequestState, SubmittedRequest
from airflow_provider_segmind.client.polling import Pending
from airflow_provider_segmind.client.submission import text_digest
from airflow_provider_segmind.defaults import OnUnknown, Rerun
from airflow_provider_segmind.enrichment.outcomes import ReadRow
from airflow_provider_segmind.enrichment.rows import Row, canonical_json, fingerprint, frame


class Client(Protocol):
    """What the engine needs of a client; :class:`~airflow_provider_segmind.client.client.AsyncSegmindClient` has it."""

    def count_calls(self, count: Callable[[bool], None], /) -> None:
        """Tell somebody of each HTTP call to the gateway, and whether it is a paid one."""

    async def submit(
        self,
        model: str,
        inputs: Mapping[str, Any],
        /,
        *,
        on_permit: Callable[[], Awaitable[object]],
        before_send: Callable[[], Awaitable[object]],
    ) -> SubmittedRequest:
        """
        Send the paid POST.

        ``on_permit`` is awaited when the rate limiter has let the call through; ``before_send`` when the call has its
        connection and the next step is to send. What they raise is raised, and nothing was sent.
        """

    def seconds_until_submit(self) -> float:
        """Return in how many seconds the rate limit gives leave for the next POST at the earliest."""

    def typical_seconds(self, model: str, /) -> float:
        """Return how many seconds a request of the model usually takes."""

    async def wait(self, pending: Pending, /, *, fetch: bool = ...) -> RequestState | None:
        """Wait for the request to end and return its result."""

    async def get_request_record(self, request_id: str, /) -> RequestRecord:
        """Look up one request of any age."""

    async def list_request_records(self, **filters: Any) -> list[RequestRecord]:
        """List a page of the request history."""


def _unpriced(_: Mapping[str, Any]) -> CostBound:
    return UNBOUNDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """
    What is asked of each row.

    :param model: the model to run.
    :param build: makes the body from a row; raises SegmindConfigError when it cannot.
    :param read: decides what an answer is worth.
    :param key: the columns that identify a row; they stand in the output.
    :param answer_columns: the columns of an accepted answer.
    :param placeholders: what the templates of the body may name of a row, as
        :func:`~airflow_provider_segmind.enrichment.rows.placeholders` returns it.
    :param schema: the JSON Schema of the answer, part of the fingerprint.
    :param options: what else decides how an answer is read, part of the fingerprint.
    :param abreast: how many rows are built at a time; more than one where building waits for files.
    :param most: what a request with a body may cost, which ``max_cost`` reserves while it is in flight.
    """

    model: str
    build: Callable[[Row], Mapping[str, Any]]
    read: ReadRow
    key: tuple[str, ...]
    answer_columns: tuple[str, ...]
    placeholders: frozenset[str] = frozenset()
    schema: Any = None
    options: Any = None
    abreast: int = 1
    most: Callable[[Mapping[str, Any]], CostBound] = _unpriced
    _frame: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_frame", frame(model=self.model, schema=self.schema, options=self.options))

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the source that may be needed; no other need be read."""
        return self.placeholders.union(self.key)

    def prepare(self, row: Row) -> Prepared:
        """
        Build what is sent for a row.

        :raises SegmindConfigError: it cannot be built; nothing was sent.
        """
        inputs = self.build(row)
        text = canonical_json(inputs)
        return Prepared(fingerprint(self._frame, text), inputs, text_digest(text).hex(), len(text))


@dataclass(frozen=True, slots=True)
class Prepared:
    """
    A question ready to be asked.

    :param body: SHA-256 of the inputs in hex.
    :param size: about how many bytes the inputs have.
    """

    fingerprint: bytes
    inputs: Mapping[str, Any]
    body: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class LostRow:
    """
    A row whose request may have been sent.

    :param until: epoch seconds after which it was certainly not sent any more.
    :param sent: the body, None where another process sent it.
    """

    prepared: Prepared
    until: float
    sent: Mapping[str, Any] | None = None


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
        """Tell whether the row belongs to this shard."""
        return self.count == 1 or int.from_bytes(mark[-8:], "big") % self.count == self.index


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    How the engine goes about it. Times in seconds.

    :param concurrency: requests in flight.
    :param request_timeout: how long to wait for a request after it was submitted.
    :param poll_interval: seconds between polls, None to choose.
    :param on_unknown: what to do about a row whose request may have been sent, when the history cannot tell. ``fail``
        never pays twice: the row's outcome is ``unknown`` and the next try checks it. ``resubmit`` sends it again,
        unless the history could not be read or shows an equal request that may be the lost one.
    :param rerun: which rows that already have an outcome are asked again: ``unbilled`` those that failed without being
        billed; ``dead_letters`` all without an answer, which may be billed again; ``nothing`` none.
    :param writer_timeout: seconds without a heartbeat after which another run over the same ledger counts as dead.
    :param deferrable: whether the run may defer when there is nothing to do but wait.
    """

    concurrency: int = 64
    request_timeout: float = 3600.0
    poll_interval: float | None = None
    on_unknown: OnUnknown = "fail"
    rerun: Rerun = "unbilled"
    writer_timeout: float = 60.0
    deferrable: bool = False
