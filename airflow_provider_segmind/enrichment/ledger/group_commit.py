"""Group commit: many events become durable with one write, because a write to an object store takes tens of ms."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from airflow_provider_segmind.enrichment.ledger.events import Event
from airflow_provider_segmind.enrichment.ledger.ledger import Batch, Ledger
from airflow_provider_segmind.enrichment.ledger.run_liveness import Membership
from airflow_provider_segmind.exceptions import SegmindEnrichmentError, SegmindError

WRITE_TRIES = 4


class GroupCommit:
    """
    Writes appended events to the ledger, a short time after the first one or when enough callers wait.

    :param delay: seconds for which an event may wait for others.
    :param urgent: number of waiting callers that ends the wait.
    :param fold_at: number of own segments that are folded into one.
    :param failed: called once when the ledger cannot be written; no paid call may be sent after that.
    """

    def __init__(
        self, ledger: Ledger, member: Membership, *, delay: float, urgent: int, fold_at: int,
        failed: Callable[[SegmindEnrichmentError], None], threads: Executor,
    ) -> None:  # fmt: skip
        self.error: SegmindEnrichmentError | None = None
        self.appended = 0
        """Events appended so far."""
        self.durable = 0
        """How many of them are durable; they become so in order."""
        self._ledger = ledger
        self._member = member
        self.refusal: SegmindEnrichmentError | None = None
        self._delay = delay
        self._urgent = urgent
        self._fold_at = self._next_fold = fold_at
        self._failed = failed
        self._in_thread = partial(asyncio.get_running_loop().run_in_executor, threads)
        self._closing = False
        self._dirty = asyncio.Event()
        self._hurry = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._written: list[asyncio.Future[None]] = []
        self._listing: asyncio.Task[None] | None = None
        self._folding: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._run(), name="segmind-ledger-commits")

    def append(self, event: Event) -> None:
        """Append an event that may become durable a little later."""
        self._ledger.append(event)
        self.appended += 1
        self._dirty.set()

    async def commit(self, event: Event | None) -> None:
        """
        Append an event, and return when it is durable and the ledger's view has what others had written by then.

        :param event: None only to read what others have written.
        :raises SegmindEnrichmentError: it could not be written, or others cannot be read; a retry may help.
        """
        if self.error is not None:
            raise self.error
        if event is not None:
            self.append(event)
        self._dirty.set()
        written = asyncio.get_running_loop().create_future()
        self._waiting.append(written)
        if len(self._waiting) >= self._urgent:
            self._hurry.set()
        await written

    def forbidden(self) -> SegmindEnrichmentError | None:
        """
        Return why nothing more may be sent, None if it may; the first such reason stops the run.

        Events are still written: others take the answers from them.
        """
        self._refuse(self._member.trouble())
        return self.refusal

    def take_in(self) -> None:
        """
        Merge what was read of other writers into the ledger's view; call it from the loop's thread.

        :raises SegmindEnrichmentError: this version cannot read it.
        """
        while self._member.inbox:
            self._ledger.absorb(*self._member.inbox.popleft())

    async def close(self) -> None:
        """Write the remaining events and end."""
        self._closing = True
        self._hurry.set()
        self._dirty.set()
        await self._task
        # The last write may have started a fold.
        if self._folding is not None:
            await self._folding

    async def _run(self) -> None:
        while not self._closing:
            await self._dirty.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._delay)
            await self._write()
        await self._write()
        if self._listing is not None:
            await self._listing

    async def _write(self) -> None:
        self._dirty.clear()
        self._hurry.clear()
        waiting, self._waiting = self._waiting, []
        batch, appended = self._ledger.take(), self.appended
        try:
            if self.error is None:
                await self._in_thread(self._write_patiently, batch)
                self.durable = appended
        except Exception as error:  # noqa: BLE001
            self._fail(error)
        self._written += waiting
        # The next group of claims is written while the ledger is listed for the previous one.
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._list(), name="segmind-ledger-listing")

    async def _list(self) -> None:
        """List the ledger for the durable claims until none is left, and let their callers continue."""
        listed = False
        while self._written or not listed:
            waiting, self._written, listed = self._written, [], True
            try:
                if self.error is None:
                    if waiting:
                        self._refuse(await self._in_thread(self._refresh))
                    self._take_in()
                    self._fold()
            except Exception as error:  # noqa: BLE001
                self._fail(error)
            self._end(waiting)

    def _end(self, waiting: list[asyncio.Future[None]]) -> None:
        trouble = self.error or self.refusal
        for written in waiting:
            if written.done():
                continue  # its caller was cancelled
            if trouble is None:
                written.set_result(None)
            else:
                written.set_exception(trouble)

    def _fail(self, error: Exception) -> None:
        # Libraries of stores raise their own errors, and the rows of this group would wait endlessly.
        self.error = error if isinstance(error, SegmindEnrichmentError) else self._unwritable(error)
        self._failed(self.error)

    def _refresh(self) -> SegmindEnrichmentError | None:
        """List the ledger; return why the entries of others cannot be read, None if they can."""
        try:
            self._member.refresh()
        except SegmindEnrichmentError as error:
            return error
        except Exception as error:  # noqa: BLE001
            # Libraries of stores raise errors of their own; what was written before is durable all the same.
            trouble = self._member.out_of_reach(error)
            trouble.__cause__ = error
            return trouble
        return None

    def _take_in(self) -> None:
        try:
            self.take_in()
        except SegmindEnrichmentError as error:
            self._refuse(error)

    def _refuse(self, trouble: SegmindEnrichmentError | None) -> None:
        if trouble is not None and self.refusal is None:
            self.refusal = trouble
            self._failed(trouble)

    def _write_patiently(self, batch: Batch) -> None:
        for tries_left in reversed(range(WRITE_TRIES)):
            try:
                self._ledger.write(batch)
            except OSError as error:
                if not tries_left:
                    raise self._unwritable(error) from error
            else:
                return

    def _unwritable(self, cause: Exception) -> SegmindEnrichmentError:
        error = SegmindEnrichmentError(
            f"The ledger under {str(self._ledger.folder)!r} cannot be written: {cause}. Nothing more is sent; "
            "a retry within an hour fetches the requests that were accepted.",
            retryable=True,
        )
        error.__cause__ = cause
        return error

    def _fold(self) -> None:
        if self._folding is not None and not self._folding.done():
            return
        numbers = self._member.movable(self._ledger.is_live) if self._member.own_segments >= self._next_fold else []
        if len(numbers) >= self._fold_at:
            self._folding = asyncio.create_task(self._fold_segments(numbers), name="segmind-ledger-fold")

    async def _fold_segments(self, numbers: list[int]) -> None:
        try:
            await self._in_thread(self._member.fold, numbers)
        except (SegmindError, OSError):
            # Folding only saves later readers time; the small segments still exist with the same content.
            return
        finally:
            # Segments that others have not read, or whose rows are not finished, are folded later.
            self._next_fold = self._member.own_segments + self._fold_at
