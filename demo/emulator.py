"""The emulator in its own process, which the tasks of a real Airflow need."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Self

from demo.processes import ManagedProcess

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

URL = re.compile(r"http://127\.0\.0\.1:\d+")


class EmulatorProcess:
    """
    ``python -m airflow_provider_segmind.emulator`` on a free port, stopped at the end of the ``with`` block.

    :param log_path: the file for its output.
    :param api_key: the key it accepts.
    :param options: further command-line options, such as ``["--latency", "2"]``.
    """

    def __init__(self, *, log_path: Path, api_key: str, options: Sequence[str] = ()) -> None:
        self.api_key = api_key
        self.url = ""
        module = [sys.executable, "-m", "airflow_provider_segmind.emulator"]
        self.process = ManagedProcess(
            name="emulator",
            command=[*module, "--port", "0", "--api-key", api_key, *options],
            environment=dict(os.environ),
            log_path=log_path,
        )

    @property
    def connection_json(self) -> str:
        """The connection to it in JSON, for ``AIRFLOW_CONN_…``."""
        extra = {"storage_url": self.url, "history_url": self.url, "models_url": self.url}
        return json.dumps({"conn_type": "segmind", "host": self.url, "password": self.api_key, "extra": extra})

    def __enter__(self) -> Self:
        self.process.start()
        try:
            self.url = self._announced(timeout=30)
        except BaseException:
            self.process.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()

    def _announced(self, *, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if found := URL.search(self.process.log_tail()):
                return found.group()
            if not self.process.running:
                break
            time.sleep(0.05)
        raise RuntimeError(f"The emulator did not start:\n{self.process.log_tail()}")
