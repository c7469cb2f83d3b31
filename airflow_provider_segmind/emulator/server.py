"""Serve an emulator on a loopback port: in a thread for tests, in the foreground for the command line."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import uvicorn

from airflow_provider_segmind.emulator.app import ControlCommands, EmulatorApp
from airflow_provider_segmind.emulator.control import Controls
from airflow_provider_segmind.emulator.settings import Settings
from airflow_provider_segmind.emulator.state import EmulatorState

_START_TIMEOUT = 10.0


class SegmindEmulator(Controls):
    """An offline Segmind in a thread of this process; use it as a context manager.

    :param host: loopback address to listen on.
    :param port: 0 takes a free one.
    :param clock: wall clock, epoch seconds.
    :param scale: emulated seconds in one wall-clock second.
    :param settings: fields of :class:`~airflow_provider_segmind.emulator.settings.Settings`.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
        scale: float = 1.0,
        **settings: Any,
    ) -> None:
        known = Settings()
        known.change(settings)
        self._state = EmulatorState(known, clock, scale=scale)
        self._commands = ControlCommands(self._state)
        self._app = EmulatorApp(self._state)
        self._host, self._port = host, port
        self._thread: threading.Thread | None = None
        self._server: _Server | None = None

    def _send(self, command: str, fields: dict[str, Any]) -> Any:
        return self._commands.handle(command, fields)

    @property
    def url(self) -> str:
        """Address of all services: gateway (without its prefix: see :attr:`gateway_url`), storage, history, files."""
        return self._state.base_url

    def start(self) -> Self:
        """Start to listen; return when the server is ready."""
        if self._thread is not None:
            raise RuntimeError("this emulator is already running")
        listener = self._listen()
        self._server = _Server(self._app)
        self._thread = threading.Thread(
            target=self._server.run_on, args=(listener,), name="segmind-emulator", daemon=True
        )
        self._thread.start()
        if not self._server.ready.wait(_START_TIMEOUT):
            raise RuntimeError("the emulator did not start")
        return self

    def stop(self) -> None:
        """Drop all connections and stop listening; bill, jobs and requests stay readable."""
        if self._thread is None or self._server is None:
            return
        self._server.ask_to_stop()
        self._thread.join(_START_TIMEOUT)
        self._thread = None

    def _listen(self) -> socket.socket:
        listener = bind(self._host, self._port)
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._state.base_url = f"http://{host}:{listener.getsockname()[1]}"
        return listener

    def serve_forever(self, announce: Callable[[], None]) -> None:
        """Serve in this thread until SIGINT or SIGTERM."""
        listener = self._listen()
        self._server = _Server(self._app)
        self._server.run_on(listener, announce=announce)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address; in the caller's thread, so that an occupied port raises there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's algorithm only on sockets created as TCP; accepted ones inherit the protocol
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError):
        listener.close()
        raise
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """uvicorn without its ticks of 0.1 s: starts and stops at once, and never waits for a client."""

    def __init__(self, app: EmulatorApp) -> None:
        self._emulator = app
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools" if importlib.util.find_spec("httptools") else "h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                # a client may pool connections for any time; closing an idle one would look like a fault
                timeout_keep_alive=3600,
            )
        )
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = asyncio.Event()
        self._announce: Callable[[], None] | None = None

    def run_on(self, listener: socket.socket, *, announce: Callable[[], None] | None = None) -> None:
        """Serve on a listening socket until asked to stop; signals are handled only in the main thread."""
        self._announce = announce
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            self._loop = runner.get_loop()
            try:
                runner.run(self.serve(sockets=[listener]))
            finally:
                listener.close()

    def ask_to_stop(self) -> None:
        """Stop the server; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._asked.set)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop on a signal; unlike uvicorn's own handler, do not raise it again."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._asked.set)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until asked to stop, without log messages in a process that tests something else."""
        with self.capture_signals():
            self.config.load()
            self.lifespan = self.config.lifespan_class(self.config)
            await self.startup(sockets=sockets)
            await self.main_loop()
            await self.shutdown(sockets=sockets)

    async def main_loop(self) -> None:
        """Wait until asked to stop."""
        self.ready.set()
        if self._announce is not None:
            self._announce()
        await self._asked.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port and every connection at once."""
        self._emulator.stop()
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if self.server_state.tasks:
            await asyncio.wait(list(self.server_state.tasks), timeout=1.0)
        await asyncio.sleep(0)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
