"""
The one way out: every call to the gateway asks its account's governor first and tells it what came of it.

The registry holds one governor for each host and key in the process, named by a digest, so that tasks, triggers and
the bulk engine share a window and a silence without knowing of each other.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from airflow_provider_segmind.api.governor import Governor
from airflow_provider_segmind.api.protocol import Call
from airflow_provider_segmind.api.rates import Priority, RateSettings
from airflow_provider_segmind.exceptions import SegmindError

T = TypeVar("T")
CountCall: TypeAlias = Callable[[bool], None]
"""Is told of each call that is sent, and whether it is a paid one."""


class CallWithdrawnError(Exception):
    """Raised by whoever was to send a call and did not: nothing left, and its turn goes to the next."""


_governors: dict[str, Governor] = {}
_registry_lock = threading.Lock()


def account_name(gateway: str, api_key: str) -> str:
    """Return a name for host and key that tells neither."""
    return hashlib.sha256(f"{gateway}\0{api_key}".encode()).hexdigest()[:32]


def governor_for(gateway: str, api_key: str, settings: RateSettings) -> Governor:
    """Return the governor of an account in this process; newer settings replace older ones."""
    name = account_name(gateway, api_key)
    with _registry_lock:
        governor = _governors.get(name)
        if governor is None:
            governor = _governors[name] = Governor(settings, name=name)
        elif governor.settings != settings:
            governor.configure(settings)
        return governor


def forget_accounts() -> None:
    """Forget every governor; clients that exist keep theirs."""
    with _registry_lock:
        _governors.clear()


def _ignore(_: bool) -> None:
    """Stand in for somebody who counts."""


class Gate:
    """
    Sends what the governor lets through.

    :param gateway: base URL of the calls that count; others pass unasked.
    :param clock: epoch seconds.
    :ivar count: is told of each call that was sent, each repetition included.
    """

    def __init__(self, governor: Governor, gateway: str, clock: Callable[[], float]) -> None:
        self.governor = governor
        self._prefix = f"{gateway}/"
        self._clock = clock
        self.count: CountCall = _ignore

    def send(
        self,
        call: Call[T],
        exchange: Callable[[Call[T]], T],
        sleep: Callable[[float], None],
        priority: Priority | None = None,
    ) -> T:
        """Carry out ``call`` with ``exchange`` when its turn comes."""
        if not call.url.startswith(self._prefix):
            return exchange(call)
        permit = self.governor.acquire(call, clock=self._clock, sleep=sleep, priority=priority)
        self.count(call.asked.paid)
        trouble: SegmindError | None = None
        try:
            return exchange(call)
        except SegmindError as error:
            trouble = error
            raise
        finally:
            tell = self.governor.answered(permit, self._clock(), trouble)
            if tell is not None:
                tell()

    async def send_async(
        self,
        call: Call[T],
        exchange: Callable[[Call[T]], Awaitable[T]],
        sleep: Callable[[float], Awaitable[Any]],
        priority: Priority | None = None,
    ) -> T:
        """Carry out ``call`` with ``exchange`` when its turn comes, without blocking the loop."""
        if not call.url.startswith(self._prefix):
            return await exchange(call)
        permit = await self.governor.acquire_async(call, clock=self._clock, sleep=sleep, priority=priority)
        trouble: SegmindError | None = None
        sent = True
        try:
            return await exchange(call)
        except SegmindError as error:
            trouble = error
            raise
        except CallWithdrawnError:
            sent = False
            self.governor.withdrawn(permit)
            raise
        finally:
            if sent:
                self.count(call.asked.paid)
                tell = self.governor.answered(permit, self._clock(), trouble)
                if tell is not None:
                    await asyncio.to_thread(tell)
