"""What a table task says while it runs: a line in the log, and where Airflow has it a state that can be asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_segmind.bulk.progress import Progress
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.operators.enrich_rows import SegmindEnrichOperator

STATE_KEY = "segmind_progress"
"""Under which the progress stands in the task state store (Airflow 3.3), beside the notes of other tasks."""
LOOK_INTERVAL = 1.0
STATE_INTERVAL = 3.0
LOG_INTERVAL = 30.0


class Telling:
    """
    Tells how far a run has come, from the task's main thread, which has nothing else to do meanwhile.

    Only there may a task speak to Airflow; the engine's loop just leaves its latest figures here.

    :param clock: seconds that never go back.
    """

    def __init__(
        self, task: SegmindEnrichOperator, context: Context, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._task = task
        self._clock = clock
        # Missing before Airflow 3.3.
        self._store: Any = context.get("task_state_store")
        self._try_number = context["ti"].try_number
        self._latest: Progress | None = None
        self._told: Progress | None = None
        self._state_due = self._log_due = clock()

    def note(self, progress: Progress) -> None:
        """Leave the latest figures; from any thread."""
        self._latest = progress

    def until_done(self, running: Future[None]) -> None:
        """Wait for the engine's end, and tell meanwhile what is due."""
        self._log_due = self._clock() + LOG_INTERVAL
        while wait([running], timeout=LOOK_INTERVAL).not_done:
            self._tell()
        self._state_due = 0.0
        self._tell()

    def _tell(self) -> None:
        progress, now = self._latest, self._clock()
        if progress is None or progress is self._told:
            return
        if now >= self._log_due:
            self._log_due = now + LOG_INTERVAL
            self._task.log.info("%s", progress)
        if now >= self._state_due:
            self._state_due = now + STATE_INTERVAL
            self._told = progress
            self._set_state(progress)

    def _set_state(self, progress: Progress) -> None:
        if self._store is None:
            return
        state = {**progress.to_json(), "try_number": self._try_number, "at": round(time.time(), 1)}
        try:
            self._store.set(STATE_KEY, state)
        except Exception as error:  # noqa: BLE001 - a display that does not work must not disturb what is paid for
            self._store = None
            self._task.log.info("The progress can be seen in this log only: %s", type(error).__name__)
