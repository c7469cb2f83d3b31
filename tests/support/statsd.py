"""A StatsD server that keeps what it receives."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from types import TracebackType
from typing import Self


class StatsdListener:
    """
    Listens on a UDP port of loopback while it is entered.

    :ivar counters: sums by name.
    :ivar gauges: all values by name.
    :ivar timings: all values by name, in milliseconds.
    """

    def __init__(self) -> None:
        self.counters: defaultdict[str, float] = defaultdict(float)
        self.gauges: dict[str, list[float]] = {}
        self.timings: dict[str, list[float]] = {}
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._listen)

    @property
    def settings(self) -> dict[str, str]:
        """The environment of an Airflow that sends its metrics here, with their tags."""
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self._socket.getsockname()[1]),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An empty message ends the thread after everything that was sent before it.
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while received := self._socket.recv(65_536):
            for line in received.decode().split("\n"):
                self.lines.append(line)
                tagged, _, measured = line.partition(":")
                name, (value, kind) = tagged.partition(",")[0], measured.split("|")[:2]
                if kind == "c":
                    self.counters[name] += float(value)
                elif kind == "g":
                    self.gauges.setdefault(name, []).append(float(value))
                elif kind == "ms":
                    self.timings.setdefault(name, []).append(float(value))
