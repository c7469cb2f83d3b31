"""One long-running process with its own session and log file, stopped without leaving children behind."""

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

    Below the range the kernel hands out to clients, so that no connection takes it before the server listens.
    """
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("100 ports between 20000 and 32000 are taken.")


class ManagedProcess:
    """
    Start a command in a session of its own and end everything that came out of it.

    :param name: what messages call it.
    :param command: program and arguments.
    :param environment: the whole environment.
    :param log_path: where its output goes; a restart appends.
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
        """The process id; the same number is its group and session."""
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
        """Whether it ended without being stopped or killed through this object."""
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
        """Every live process that came out of this one, orphans of its session included."""
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

        :param scope: ``process`` is the process alone, ``group`` its process group (Airflow's task runners have groups
            of their own and survive as orphans), ``tree`` everything that came out of it, as when a machine is lost.
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
        End the process and all that came out of it: SIGTERM first, SIGKILL for what is left.

        :param grace: seconds between the two.
        """
        stop_all([self], grace=grace)

    def kill_descendants(self) -> None:
        """End at once everything that came out of the process, and leave the process itself."""
        remaining = self.descendants()
        _send([process.pid for process in remaining], signal.SIGKILL)
        psutil.wait_procs(remaining, timeout=STOP_GRACE)

    def reap(self) -> None:
        """End at once what is left of the process and of all that came out of it."""
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
    """End several processes at the same time, in the grace of one."""
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
