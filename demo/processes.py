"""A long-running process with its own session and log file, stopped together with all its descendants."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Literal

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

Scope = Literal["process", "group", "tree"]

STOP_GRACE = 30.0


def free_port() -> int:
    """
    Find a port of 127.0.0.1 that nothing listens on.

    It is below the range that the kernel assigns to clients, so no connection takes it before the server listens.
    """
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("100 random ports between 20000 and 32000 are all in use.")


class ManagedProcess:
    """
    A command that runs in its own session and is stopped together with all its descendants.

    :param name: its name in messages.
    :param command: program and arguments.
    :param environment: the complete environment.
    :param log_path: the file for its output; a restart appends.
    """

    def __init__(self, *, name: str, command: Sequence[str], environment: Mapping[str, str], log_path: Path) -> None:
        self.name = name
        self.command = list(command)
        self.environment = dict(environment)
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._seen: set[psutil.Process] = set()
        self._stopped = False
        self.started_at = 0.0

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group and session."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started.")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, or ``None`` while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """Whether the process itself (not its orphans) is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def crashed(self) -> bool:
        """Whether it ended without being stopped or killed by this object."""
        return self.exit_code is not None and not self._stopped

    def start(self) -> None:
        """Start the command."""
        if self.running:
            raise RuntimeError(f"{self.name} is running already.")
        self.started_at = time.time()
        self._stopped = False
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def descendants(self) -> set[psutil.Process]:
        """All running descendants, including orphans of its session."""
        found = {process for process in self._seen if process.is_running()}
        if self._process is not None:
            found |= _session(self._process.pid)
        for process in tuple(found):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.update(process.children(recursive=True))
        self._seen |= found
        return {process for process in found if process.pid != self.pid}

    def kill(self, signal_number: int = signal.SIGKILL, *, scope: Scope = "group") -> None:
        """
        Send a signal.

        :param scope: ``process`` is only the process, ``group`` its process group (Airflow's task runners have their
            own groups and survive as orphans), ``tree`` the process and all descendants, as when a machine is lost.
        """
        descendants = self.descendants()
        if signal_number in (signal.SIGKILL, signal.SIGTERM):
            self._stopped = True
        if scope == "process":
            _send([self.pid], signal_number)
        elif scope == "group":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal_number)
        else:
            _send([self.pid, *(process.pid for process in descendants)], signal_number)
        if signal_number == signal.SIGKILL and self._process is not None:
            self._process.wait(timeout=STOP_GRACE)

    def stop(self, *, grace: float = STOP_GRACE) -> None:
        """
        Stop the process and its descendants: SIGTERM to the process, then SIGKILL to all that still run.

        :param grace: seconds between the two.
        """
        stop_all([self], grace=grace)

    def kill_descendants(self) -> None:
        """Kill all descendants, but not the process itself."""
        remaining = self.descendants()
        _send([process.pid for process in remaining], signal.SIGKILL)
        psutil.wait_procs(remaining, timeout=STOP_GRACE)

    def reap(self) -> None:
        """Kill the process and its descendants if they still run."""
        if self._process is None:
            return
        if self.running:
            self._process.kill()
        self._process.wait(timeout=STOP_GRACE)
        self.kill_descendants()

    def log_tail(self, *, lines: int = 25) -> str:
        """The last lines of its log."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


def stop_all(processes: Iterable[ManagedProcess], *, grace: float = STOP_GRACE) -> None:
    """Stop several processes at the same time, within one grace period."""
    everything = list(processes)
    try:
        for process in everything:
            if process.running:
                process.kill(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and any(process.running for process in everything):
            time.sleep(0.1)
    finally:
        for process in everything:
            process.reap()


def _session(session_id: int) -> set[psutil.Process]:
    found = set()
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(pid) == session_id:
                found.add(psutil.Process(pid))
    return found


def _send(pids: Iterable[int], signal_number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)
