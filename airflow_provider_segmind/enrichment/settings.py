"""The settings of an enrichment: the question for each row, the client, and how long to wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from airflow_provider_segmind.chat.cost_estimate import UNBOUNDED, CostBound
from airflow_provider_segmind.client.models import (
    RecordPage,
    RequestRecord,
    RequestResult,
    RequestState,
    SubmittedRequest,
)
from airflow_provider_segmind.client.poll_schedule import Pending
from airflow_provider_segmind.client.submission import text_digest
from airflow_provider_segmind.defaults import OnUnknown, Rerun
from airflow_provider_segmind.enrichment.outcomes import FinishedRequest, ReadRow
from airflow_provider_segmind.enrichment.rows import Row, canonical_json, fingerprint, frame
from airflow_provider_segmind.exceptions import SegmindError


class Client(Protocol):
    """What the engine needs of a client; :class:`~airflow_provider_segmind.client.client.AsyncSegmindClient` has it."""

    def count_calls(self, count: Callable[[bool], None], /) -> None:
        """Report each HTTP call to the gateway, and whether it is a paid one."""

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
        """Return in how many seconds the rate limit allows the next POST at the earliest."""

    def typical_seconds(self, model: str, /) -> float:
        """Return how many seconds a request of the model usually takes."""

    async def wait(self, pending: Pending, /, *, fetch: bool = ...) -> RequestState | None:
        """Wait for the request to end and return its result."""

    async def get_request_record(self, request_id: str, /) -> RequestRecord:
        """Look up one request of any age."""

    async def list_request_records(self, **filters: Any) -> RecordPage:
        """List a page of the request history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """
    What is asked of each row.

    :param model: the model to run.
    :param build: makes the body from a row; raises SegmindConfigError when it cannot.
    :param read: decides what an answer is worth.
    :param key: the columns that identify a row; they are part of the output.
    :param answer_columns: the columns of an accepted answer.
    :param placeholders: what the templates of the body may name of a row, as
        :func:`~airflow_provider_segmind.enrichment.rows.placeholders` returns it.
    :param schema: the JSON Schema of the answer, part of the fingerprint.
    :param options: what else decides how an answer is read, part of the fingerprint.
    :param template: what the bodies are made from, before any row is filled in.
    :param abreast: how many rows are built at a time; more than one where building waits for files.
    :param most: what a request with a body may cost, which ``max_cost`` reserves while it is in flight.
    :param text: returns the canonical JSON of the body without building it, None where that cannot be done; raises what
        ``build`` raises.
    :param form: returns a body with the fields that a follow-up has, from the body of the first request and
        :attr:`~airflow_provider_segmind.enrichment.ledger.events.Claimed.follow_ups`; None where it is not known.
    """

    model: str
    build: Callable[[Row], Mapping[str, Any]]
    read: ReadRow
    key: tuple[str, ...]
    answer_columns: tuple[str, ...]
    placeholders: frozenset[str] = frozenset()
    schema: Any = None
    options: Any = None
    template: Any = None
    abreast: int = 1
    most: Callable[[Mapping[str, Any]], CostBound] = lambda _: UNBOUNDED
    text: Callable[[Row], str | None] = lambda _: None
    form: Callable[[Mapping[str, Any], tuple[int, ...]], Mapping[str, Any] | None] = lambda _, __: None
    prompt_hash: str = field(init=False)
    """SHA-256 of :attr:`prompt`, in hex."""
    _frame: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_frame", frame(model=self.model, schema=self.schema, options=self.options))
        object.__setattr__(self, "prompt_hash", text_digest(canonical_json(self.prompt)).hex())

    @property
    def prompt(self) -> dict[str, Any]:
        """The part of the question that depends neither on the row nor on the model."""
        return {"template": self.template, "schema": self.schema, "options": self.options}

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the source that may be needed; no other need be read."""
        return self.placeholders.union(self.key)

    def prepare(self, row: Row) -> Prepared:
        """
        Build what is sent for a row, or only its text, if that is known without building it.

        :raises SegmindConfigError: it cannot be built; nothing was sent.
        """
        text, made = self.text(row), partial(self.build, row)
        if text is None:
            inputs = made()
            text = canonical_json(inputs)
            return Prepared(fingerprint(self._frame, text), inputs, text_digest(text).hex(), len(text))
        return Prepared(fingerprint(self._frame, text), made, partial(text_digest, text), len(text))


@dataclass(frozen=True, slots=True)
class Prepared:
    """
    A question ready to be asked.

    :param made: the inputs, or what builds them: most rows of a table that is asked again have their answers.
    :param digest: SHA-256 of the inputs in hex, or what computes it.
    :param size: about how many bytes the inputs have.
    """

    fingerprint: bytes
    made: Mapping[str, Any] | Callable[[], Mapping[str, Any]]
    digest: str | Callable[[], bytes]
    size: int = 0

    @property
    def body(self) -> str:
        """SHA-256 of the inputs in hex."""
        return self.digest if isinstance(self.digest, str) else self.digest().hex()

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The JSON body."""
        return self.made() if callable(self.made) else self.made


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
    :param waiting: USD that each request may cost which waits for its part of the budget.
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
    """What was refused last, None if nothing was since the last grant."""

    def claim_earlier(self) -> float:
        """Take what earlier tries have reserved, before the ledger is read; return when it is certain that no
        process of theirs sends anything more, in seconds from now."""

    def take_over(self, run: RunFigures, /) -> None:
        """Continue with what earlier tries had reserved, after the ledger was read."""

    def admits(self, run: RunFigures, cost: float, /) -> bool:
        """Return whether one more paid request of up to ``cost`` USD may be sent."""

    def is_usable(self) -> bool:
        """Return whether what was admitted may still be sent."""

    def without_place(self, run: RunFigures, /) -> SegmindError | None:
        """Return an error if open requests of earlier tries use every slot."""

    def plan(self, run: RunFigures, /) -> Any:
        """Return what is to be exchanged with the store of the budgets, None for nothing."""

    def carry_out(self, order: Any, /) -> Any:
        """Exchange it."""

    def apply(self, outcome: Any, /) -> None:
        """Take in what became of it."""

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
    :param rerun: which rows that already have an outcome are asked again: those with one of these outcomes, which may
        be billed again; ``unbilled`` for those that failed without being billed.
    :param writer_timeout: seconds without a heartbeat after which another run over the same ledger counts as dead.
    :param keep_prompt: whether the ledger keeps the prompt, so that the prompt of a row can be looked up later.
    :param deferrable: whether the run may defer when there is nothing to do but wait.
    :param notes: what the manifest says about the run.
    :param spend: where finished requests are recorded, None for nowhere.
    :param answers: asked before a row is sent, and given its answer; None for the ledger alone.
    :param budget: which budgets hold, None for none.
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
