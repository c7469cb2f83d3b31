"""
Wait for the end of a pause, for a budget's next day or month, or for a free slot, without a worker slot.

Workers import this module to defer.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

from asgiref.sync import sync_to_async

from airflow_provider_segmind.compat import TriggerEvent
from airflow_provider_segmind.defaults import DEFAULT_CONNECTION
from airflow_provider_segmind.deferral import earliest_event
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.masking import masked
from airflow_provider_segmind.pausing import CHECK_INTERVAL, pause_reason
from airflow_provider_segmind.triggers.events import Payload
from airflow_provider_segmind.triggers.trigger import SegmindTrigger, owner_of

ONE_HOUR = 3600.0
SLOT_INTERVAL = 5.0
"""Seconds, on average, between two look-ups of a Connection's free slots."""
SLOT_KEPT = 20.0
"""Seconds for which a slot is kept for the task that was resumed for it, which must start before it can reserve."""
SETTLE_INTERVAL = 300.0
"""Seconds after which one task is resumed without a slot: a task that reserves frees the slots of dead tasks."""
RESET_SPREAD = 60.0
"""Seconds after the reset of a budget within which the tasks that wait for it resume."""


def defer_while_paused(
    defer: Callable[..., NoReturn], *, until: float, method_name: str, resume_state: dict[str, Any] | None = None
) -> NoReturn:
    """
    Defer a task until spending is allowed again.

    :param until: epoch second at which it is resumed in any case, infinity for never.
    :param method_name: the method that resumes it.
    :param resume_state: given back in the event.
    """
    trigger = SegmindPauseTrigger(
        until=None if math.isinf(until) else until, resume_state=resume_state, not_before=earliest_event(time.time())
    )
    defer(trigger=trigger, method_name=method_name)


def defer_until_reset(defer: Callable[..., NoReturn], *, resets_at: float, method_name: str) -> NoReturn:
    """
    Defer a task until the next day or month of a budget begins.

    :param resets_at: epoch second at which it begins.
    :param method_name: the method that resumes the task.
    """
    # Spread over a minute, so that thousands of tasks do not resume in the same second.
    until = resets_at + random.random() * RESET_SPREAD
    trigger = SegmindBudgetTrigger(until=until, not_before=earliest_event(time.time()))
    defer(trigger=trigger, method_name=method_name)


def defer_for_slot(
    defer: Callable[..., NoReturn],
    *,
    segmind_conn_id: str,
    until: float,
    method_name: str,
    resume_state: dict[str, Any] | None = None,
) -> NoReturn:
    """
    Defer a task until fewer paid requests of its Connection are in flight than ``max_paid_in_flight``.

    :param until: epoch second at which it is resumed in any case, infinity for never.
    :param method_name: the method that resumes it.
    :param resume_state: given back in the event.
    """
    trigger = SegmindInFlightTrigger(
        segmind_conn_id=segmind_conn_id,
        until=None if math.isinf(until) else until,
        resume_state=resume_state,
        not_before=earliest_event(time.time()),
    )
    defer(trigger=trigger, method_name=method_name)


class SegmindPauseTrigger(SegmindTrigger):
    """
    Wait in the triggerer until spending is allowed again.

    :param until: epoch seconds at which the event comes in any case, None for never.
    :param resume_state: given back in the event.
    :param not_before: epoch seconds before which the event is not sent, see
        :func:`~airflow_provider_segmind.deferral.earliest_event`.
    """

    arguments = ("until", "resume_state", "not_before")

    def __init__(
        self,
        *,
        until: float | None = None,
        resume_state: dict[str, Any] | None = None,
        not_before: float = 0.0,
        **_: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.until = until
        self.resume_state = resume_state
        self.not_before = not_before

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event: ``resume_state``."""
        while await paused_in_triggerer() and (self.until is None or time.time() < self.until):
            left = math.inf if self.until is None else self.until - time.time()
            # Spread over the interval, so that thousands of tasks do not resume in the same second.
            await asyncio.sleep(max(0.0, min(left, CHECK_INTERVAL * (0.5 + random.random()))))
        yield await self._event(Payload(resume_state=self.resume_state))


class SegmindBudgetTrigger(SegmindTrigger):
    """
    Wait in the triggerer until a budget's next day or month begins.

    :param until: epoch seconds.
    :param not_before: epoch seconds before which the event is not sent, see
        :func:`~airflow_provider_segmind.deferral.earliest_event`.
    """

    arguments = ("until", "not_before")

    def __init__(self, *, until: float, not_before: float = 0.0, **_: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.until = until
        self.not_before = not_before

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event without content."""
        while (left := self.until - time.time()) > 0:
            # In parts, so that a change of the clock is noticed.
            await asyncio.sleep(min(left, ONE_HOUR))
        yield await self._event(Payload())


class SegmindInFlightTrigger(SegmindTrigger):
    """
    Wait in the triggerer until a Connection has room below its ``max_paid_in_flight``.

    :param segmind_conn_id: the Connection.
    :param until: epoch seconds at which the event comes in any case, None for never.
    :param resume_state: given back in the event.
    :param not_before: epoch seconds before which the event is not sent, see
        :func:`~airflow_provider_segmind.deferral.earliest_event`.
    """

    arguments = ("segmind_conn_id", "until", "resume_state", "not_before")

    def __init__(
        self,
        *,
        segmind_conn_id: str = DEFAULT_CONNECTION,
        until: float | None = None,
        resume_state: dict[str, Any] | None = None,
        not_before: float = 0.0,
        **_: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.segmind_conn_id = segmind_conn_id
        self.until = until
        self.resume_state = resume_state
        self.not_before = not_before

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event: ``resume_state``."""
        slots = _slots.setdefault((owner_of(self), self.segmind_conn_id), _Slots(time.monotonic()))
        # A slot that is taken too early would be occupied without being used.
        await asyncio.sleep(max(0.0, self.not_before - time.time()))
        while self.until is None or time.time() < self.until:
            await self._look_up(slots)
            if slots.take(time.monotonic()):
                break
            left = math.inf if self.until is None else self.until - time.time()
            await asyncio.sleep(max(0.0, min(left, SLOT_INTERVAL * (0.5 + random.random()))))
        yield await self._event(Payload(resume_state=self.resume_state))

    async def _look_up(self, slots: _Slots) -> None:
        """Find out how many slots are free; one look-up serves all tasks of the process for some seconds."""
        if time.monotonic() - slots.looked_at < SLOT_INTERVAL:
            return
        # While it is read, the others use the previous value.
        slots.looked_at = time.monotonic()
        try:
            slots.free = await sync_to_async(_free_slots, thread_sensitive=False)(self.segmind_conn_id)
            slots.failing = False
        except SegmindConfigError:
            # The task that is resumed says what is wrong.
            slots.free = math.inf
        except Exception as error:  # The task never sees what a trigger raises; the store may answer the next time.
            slots.free = 0
            if not slots.failing:
                self.log.warning("The budget store could not be reached", exc_info=masked(error))
            slots.failing = True


class _Slots:
    """
    The free slots of a Connection, shared by all triggers of this process.

    :param now: monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self.free: float = 0
        self.looked_at = -math.inf
        self.failing = False
        self._resumed: list[float] = []
        self._last = now

    def take(self, now: float) -> bool:
        """Return whether one more task is to be resumed."""
        self._resumed = [at for at in self._resumed if now - at < SLOT_KEPT]
        if self.free <= len(self._resumed) and now - self._last < SETTLE_INTERVAL:
            return False
        self._resumed.append(now)
        self._last = now
        return True


_slots: dict[tuple[str, str], _Slots] = {}


def _free_slots(segmind_conn_id: str) -> float:
    """
    Return how many more paid requests of a Connection may be in flight. Blocks.

    :raises SegmindConfigError: the limit cannot be read, or has no store.
    """
    settings = SegmindHook(segmind_conn_id).budget_settings()
    if settings.store is None or settings.max_in_flight is None:
        return math.inf
    try:
        return settings.max_in_flight - settings.store.in_flight(segmind_conn_id)
    finally:
        settings.store.close()


_pause_read: tuple[float, bool] = (-math.inf, True)


async def paused_in_triggerer() -> bool:
    """Return whether spending is paused; one look-up serves all tasks of the process for some seconds."""
    global _pause_read
    read_at, paused = _pause_read
    if time.monotonic() - read_at >= CHECK_INTERVAL:
        # Until it is read, the others use the previous value.
        _pause_read = (time.monotonic(), paused)
        paused = await sync_to_async(pause_reason)() is not None
        _pause_read = (time.monotonic(), paused)
    return paused
