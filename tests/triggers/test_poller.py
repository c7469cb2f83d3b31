"""One poller for all: few connections, one timer, no blocked loop, no trigger forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from blockbuster import BlockBuster

from airflow_provider_segmind.client.client import ClientConfig
from airflow_provider_segmind.client.config import DownloadLimits
from airflow_provider_segmind.client.endpoints import Call, Endpoints
from airflow_provider_segmind.client.poll_schedule import Pending, shared_history
from airflow_provider_segmind.client.responses import Response
from airflow_provider_segmind.client.transports import (
    POLL_KEEPALIVE,
    AiohttpTransport,
    HttpxTransport,
    Transport,
    prepare,
)
from airflow_provider_segmind.exceptions import (
    SegmindConnectionError,
    SegmindRequestFailedError,
    SegmindRequestTimeoutError,
)
from airflow_provider_segmind.telemetry import metrics
from airflow_provider_segmind.triggers import poller as room
from airflow_provider_segmind.triggers.poller import POLLER_CONNECTIONS, Poller, open_transport, poller_of

CONFIG = ClientConfig(api_key="SG_0123456789abcdef")


@pytest.fixture
def strict() -> Iterator[None]:
    """Forbid blocking calls that our package makes on a running loop."""
    guard = BlockBuster("airflow_provider_segmind")
    guard.activate()
    yield
    guard.deactivate()


class Fake:
    """Answers polls from memory and counts what matters."""

    def __init__(self, body: Callable[[str, int], bytes], *, latency: float = 0.001) -> None:
        self.body, self.latency = body, latency
        self.polled: dict[str, int] = {}
        self.order: list[str] = []
        self.open = self.at_once = self.most_at_once = self.opened = 0

    async def opener(self, config: ClientConfig, clock: Callable[[], float]) -> Transport:
        self.open += 1
        self.opened += 1
        return self

    async def send(self, call: Call[Any]) -> Any:
        request_id = call.url.split("/requests/")[1].split("/")[0]
        self.polled[request_id] = self.polled.get(request_id, 0) + 1
        self.order.append(request_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.at_once -= 1
        return call.read(Response(200, self.body(request_id, self.polled[request_id])))

    async def close(self) -> None:
        self.open -= 1


def after(polls: int) -> Callable[[str, int], bytes]:
    return lambda _, count: b'{"status": "COMPLETED"}' if count >= polls else b'{"status": "PROCESSING"}'


def pending(number: int = 0, **options: Any) -> Pending:
    now = time.time()
    details = {"submitted_at": now, "end_time": now + 60, "poll_interval": 0.02, **options}
    return Pending(f"r-{number}", **details)


def quiet(_: str) -> None:
    """Hear nothing."""


async def test_all_are_waited_for_over_few_connections_that_close_with_the_last(strict: None) -> None:
    fake = Fake(after(3))
    poller = Poller(CONFIG, opener=fake.opener)
    states = await asyncio.gather(*(poller.wait(pending(i), fetch=False, report=quiet) for i in range(300)))
    assert [state.request_id for state in states] == [f"r-{i}" for i in range(300)]
    assert set(fake.polled.values()) == {3}
    assert fake.most_at_once <= POLLER_CONNECTIONS
    assert (fake.open, fake.opened, poller.waiting) == (0, 1, 0)
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_a_poller_that_was_closed_works_again() -> None:
    fake = Fake(after(1))
    poller = Poller(CONFIG, opener=fake.opener)
    for number in range(3):
        state = await poller.wait(pending(number), fetch=False, report=quiet)
        assert state.completed
    assert (fake.open, fake.opened) == (0, 3)


async def test_a_failed_request_and_a_passed_deadline_reach_their_own_trigger_only() -> None:
    def body(request_id: str, _: int) -> bytes:
        return b'{"status": "FAILED", "error": "no"}' if request_id == "r-1" else b'{"status": "PROCESSING"}'

    poller = Poller(CONFIG, opener=Fake(body).opener)
    outcomes = await asyncio.gather(
        poller.wait(pending(1), fetch=False, report=quiet),
        poller.wait(pending(2, end_time=time.time() + 0.1), fetch=False, report=quiet),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [SegmindRequestFailedError, SegmindRequestTimeoutError]


async def test_a_cancelled_trigger_is_forgotten_and_the_others_continue() -> None:
    fake = Fake(after(8))
    poller = Poller(CONFIG, opener=fake.opener)
    first, second = (asyncio.create_task(poller.wait(pending(i), fetch=False, report=quiet)) for i in range(2))
    await asyncio.sleep(0.05)
    first.cancel()
    state = await second
    assert state.completed
    assert fake.polled["r-0"] < 8
    assert fake.open == 0


async def test_the_last_trigger_cancelled_while_it_polls_leaves_nothing_behind() -> None:
    fake = Fake(after(99), latency=5.0)
    poller = Poller(CONFIG, opener=fake.opener)
    task = asyncio.create_task(poller.wait(pending(), fetch=False, report=quiet))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = await Poller(CONFIG, opener=Fake(after(1)).opener).wait(pending(), fetch=False, report=quiet)
    assert again.completed
    assert fake.open == 0


async def test_a_trigger_that_comes_while_the_last_finishes_is_served() -> None:
    fake = Fake(after(1))
    poller = Poller(CONFIG, opener=fake.opener)

    async def chain(number: int) -> None:
        for step in range(20):
            await poller.wait(pending(100 * number + step), fetch=False, report=quiet)

    await asyncio.wait_for(asyncio.gather(*(chain(number) for number in range(12))), timeout=10)
    assert fake.open == 0


async def test_an_unexpected_response_fails_its_trigger_and_not_the_poller() -> None:
    def body(request_id: str, _: int) -> bytes:
        if request_id == "r-1":
            raise ZeroDivisionError
        return b'{"status": "COMPLETED"}'

    poller = Poller(CONFIG, opener=Fake(body).opener)
    outcomes = await asyncio.gather(
        *(poller.wait(pending(i), fetch=False, report=quiet) for i in range(3)), return_exceptions=True
    )
    assert isinstance(outcomes[1], ZeroDivisionError)
    assert getattr(outcomes[0], "completed", False)
    assert getattr(outcomes[2], "completed", False)


async def test_a_request_about_to_expire_is_polled_before_the_others() -> None:
    fake = Fake(after(1))
    poller = Poller(CONFIG, opener=fake.opener)
    old = pending(99, submitted_at=time.time() - 3500)
    waits = [poller.wait(pending(i), fetch=False, report=quiet) for i in range(40)]
    await asyncio.gather(*waits, poller.wait(old, fetch=False, report=quiet))
    assert fake.order.index("r-99") <= POLLER_CONNECTIONS


async def test_polls_of_a_known_model_come_when_it_is_done() -> None:
    for _ in range(20):
        shared_history.observe("a-model", 0.4)
    fake = Fake(after(1))
    began = time.monotonic()
    await Poller(CONFIG, opener=fake.opener).wait(
        pending(model="a-model", poll_interval=None), fetch=False, report=quiet
    )
    assert 0.15 <= time.monotonic() - began <= 2
    assert fake.polled == {"r-0": 1}


async def test_other_tasks_have_their_turn_while_a_thousand_start() -> None:
    fake = Fake(after(2))
    poller = Poller(CONFIG, opener=fake.opener)
    polled: list[int] = []

    async def beat() -> None:
        while True:
            polled.append(len(fake.order))
            await asyncio.sleep(0)

    ticking = asyncio.create_task(beat())
    await asyncio.gather(*(poller.wait(pending(i, poll_interval=0.5), fetch=False, report=quiet) for i in range(1000)))
    ticking.cancel()
    # Counted in polls, not in time: what a turn of the loop does must not grow with how many wait.
    assert max(after - before for before, after in pairwise(polled)) <= 2 * POLLER_CONNECTIONS
    assert len(fake.order) == 2000


async def test_triggers_of_a_connection_share_one_lookup_and_one_poller(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(after(2))
    made: list[Poller] = []

    def make(config: ClientConfig, **options: Any) -> Poller:
        made.append(Poller(config, opener=fake.opener, **options))
        return made[-1]

    monkeypatch.setattr(room, "Poller", make)
    asked: list[int] = []

    async def find() -> ClientConfig:
        asked.append(1)
        await asyncio.sleep(0.01)
        return CONFIG

    async def wait(number: int) -> None:
        poller = await poller_of(("", "c"), find)
        await poller.wait(pending(number), fetch=False, report=quiet)

    await asyncio.gather(*(wait(i) for i in range(50)))
    assert (len(asked), len(made)) == (1, 1)
    await wait(51)
    assert (len(asked), len(made)) == (1, 2)


async def test_a_lookup_that_failed_is_tried_again_by_the_next() -> None:
    asked: list[int] = []

    async def find() -> ClientConfig:
        asked.append(1)
        raise SegmindConnectionError("no")

    for _ in range(2):
        with pytest.raises(SegmindConnectionError):
            await poller_of(("", "c"), find)
    assert len(asked) == 2


class ServerError(Exception):
    """What Airflow raises when its API answers 500; an example of what a secrets backend may raise."""


class Lookups:
    """Connections by team, which can be out of reach for some look-ups."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.asked = 0

    async def find(self) -> ClientConfig:
        self.asked += 1
        if self.asked <= self.failures:
            raise ServerError("500")
        return CONFIG


async def test_a_failing_lookup_ends_no_wait_and_is_shared_by_all() -> None:
    lookups = Lookups(failures=2)
    pollers = await asyncio.gather(*(poller_of(("", "c"), lookups.find, pauses=(0.01, 0.01)) for _ in range(50)))

    assert (lookups.asked, len(set(map(id, pollers)))) == (3, 1)


async def test_a_connection_that_stays_out_of_reach_is_reported_after_the_last_pause() -> None:
    lookups = Lookups(failures=10)
    with pytest.raises(ServerError):
        await poller_of(("", "c"), lookups.find, pauses=(0.01, 0.01))
    assert lookups.asked == 3


async def test_the_last_values_are_used_while_a_connection_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CONFIG_LIFETIME", -1.0)
    lookups = Lookups()
    first = await poller_of(("", "c"), lookups.find)
    lookups.failures = 10

    assert await poller_of(("", "c"), lookups.find) is first
    assert lookups.asked == 2


async def test_raised_limits_apply_while_other_triggers_still_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CONFIG_LIFETIME", -1.0)
    found = CONFIG

    async def find() -> ClientConfig:
        return found

    first = await poller_of(("", "c"), find)
    found = replace(CONFIG, max_response_bytes=1 << 20, downloads=DownloadLimits(max_bytes=1 << 40))

    second = await poller_of(("", "c"), find)
    assert (second.config.downloads.max_bytes, second.config.max_response_bytes) == (1 << 40, 1 << 20)
    assert await poller_of(("", "another name"), find) is second
    found = CONFIG
    assert await poller_of(("", "c"), find) is first


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, list[str]]]:
    """Serve COMPLETED to everybody and count connections; /slow never answers, /cut hangs up."""
    connections: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append("one")
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b"/slow" in head:
                    await asyncio.sleep(30)
                if b"/cut" in head:
                    break
                body = b'{"status": "COMPLETED"}'
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", connections
    listener.close()


KINDS = {
    "httpx": lambda: HttpxTransport(connections=POLLER_CONNECTIONS, seconds=0.4),
    "aiohttp": lambda: AiohttpTransport(connections=POLLER_CONNECTIONS, seconds=0.4),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_either_library_polls_over_few_connections(
    kind: str, server: tuple[str, list[str]], strict: None
) -> None:
    url, connections = server

    async def opener(config: ClientConfig, clock: Callable[[], float]) -> Transport:
        await prepare()
        return KINDS[kind]()

    config = ClientConfig(api_key="SG_k", endpoints=Endpoints(gateway=url))
    poller = Poller(config, opener=opener)
    states = await asyncio.gather(*(poller.wait(pending(i), fetch=False, report=quiet) for i in range(100)))
    assert all(state.completed for state in states)
    assert len(connections) <= POLLER_CONNECTIONS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("request_id", ["slow", "cut"])
async def test_either_library_calls_a_lost_poll_retryable_and_free(
    kind: str, request_id: str, server: tuple[str, list[str]]
) -> None:
    config = ClientConfig(api_key="SG_k", endpoints=Endpoints(gateway=server[0]), request_timeout=0.2)
    transport = KINDS[kind]()
    with pytest.raises(SegmindConnectionError, match="costs nothing") as caught:
        await transport.send(config.wire.status(request_id))
    assert caught.value.retryable
    assert caught.value.billed is False
    assert "SG_k" not in str(caught.value)
    await transport.close()


async def test_a_triggerer_polls_with_aiohttp_where_it_is_installed_and_keeps_its_connections() -> None:
    transport = await open_transport(CONFIG, time.time)
    assert isinstance(transport, AiohttpTransport)
    assert transport._keepalive == POLL_KEEPALIVE
    await transport.close()


async def test_polls_and_how_late_they_are_become_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, told = Fake(after(3)), SimpleNamespace(counted=[], gauges={})
    stats = SimpleNamespace(
        incr=lambda name, count, tags: told.counted.append((name, count)),
        gauge=lambda name, value, tags: told.gauges.setdefault(name, []).append(value),
    )
    monkeypatch.setattr(metrics, "INTERVAL", 0.01)
    poller = Poller(CONFIG, opener=fake.opener)
    monkeypatch.setattr(poller._metrics, "_open", lambda: stats)

    waiting = [asyncio.create_task(poller.wait(pending(i), fetch=False, report=quiet)) for i in range(4)]
    await asyncio.sleep(0.01)
    time.sleep(0.2)
    await asyncio.gather(*waiting)
    await asyncio.to_thread(lambda: None)
    poller._metrics.send()

    assert sum(count for name, count in told.counted if name == "segmind.polls") == 12
    assert max(told.gauges["segmind.poller.lag_ms"]) >= 100
    assert max(told.gauges["segmind.poller.waiting"]) == 4
    assert told.gauges["segmind.poller.waiting"][-1] == 0
