"""Values that arguments may have, and their defaults. Imports nothing heavy: every DAG parse imports it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

OnStale = Literal["resubmit", "fail"]
OnUnknown = Literal["fail", "resubmit", "wait"]
OnFailed = Literal["fail", "resubmit"]
OnExpired = Literal["recover", "resubmit", "fail"]
OnExpiredFree = Literal["recover", "fail"]
OnLargeFile = Literal["fail", "upload"]
ReuseAnswers = Literal["never", "always"]
"""What ``reuse_answers`` may be besides a ``timedelta``."""
DEFAULT_CONNECTION = "segmind_default"
RESULT_LIFETIME = 3600.0
"""Seconds after submission for which Segmind keeps a result (vendor's model page)."""
SYNC_WAIT = 10.0
"""Seconds to poll in the worker before deferring; most language models finish within them."""
MAX_XCOM_BYTES = 48 * 1024
"""Largest result, as bytes of JSON, that is returned through XCom."""
OnBudget = Literal["fail", "skip_downstream", "defer"]
OnPartial = Literal["fail", "succeed", "skip_downstream"]
Rerun = Literal[
    "unbilled", "dead_letters", "nothing", "failed", "blocked", "truncated", "invalid", "unknown", "skipped"
]
"""What ``rerun`` may name: all outcomes but success, or one word for several."""
DEAD_LETTERS: tuple[Rerun, ...] = ("failed", "blocked", "truncated", "invalid")
"""The final outcomes of rows without an answer."""
ANSWER_COLUMN = "answer"
"""The column of an answer that is not an object with named fields."""
LEDGER_FOLDER = "_segmind_ledger"
CONCURRENCY = 64
MAX_FAILED_ROWS = 0.1
BATCH_ROWS = 1000
OWN_PREFIX = "_segmind_"
MAX_REPAIRS = 1
PAGE_AIRFLOW = (3, 1)
"""The first Airflow that can show the page: ``external_views`` are new in it."""
PAGE_PREFIX = "/segmind"
"""Where the API server serves the page."""


def as_seconds(value: Any) -> Any:
    """Return a ``timedelta`` as seconds, and any other value unchanged."""
    return value.total_seconds() if isinstance(value, timedelta) else value
