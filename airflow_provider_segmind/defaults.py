"""Values that arguments may have, and their defaults. Imports nothing heavy: every DAG parse imports it."""

from __future__ import annotations

from typing import Literal

OnStale = Literal["resubmit", "fail"]
OnUnknown = Literal["fail", "resubmit", "wait"]
OnFailed = Literal["fail", "resubmit"]
OnExpired = Literal["recover", "resubmit", "fail"]
OnExpiredFree = Literal["recover", "fail"]
OnLargeFile = Literal["fail", "upload"]
DEFAULT_CONNECTION = "segmind_default"
RESULT_LIFETIME = 3600.0
"""Seconds after submission for which Segmind keeps a result (vendor's model page)."""
SYNC_WAIT = 10.0
"""Seconds to poll in the worker before deferring; most language models finish within them."""
MAX_XCOM_BYTES = 48 * 1024
"""Largest result, as bytes of JSON, that is returned through XCom."""
MAX_RESUBMITS = 2
"""How many times a policy may submit again for one task instance."""
OnPartial = Literal["fail", "succeed", "skip_downstream"]
Rerun = Literal["unbilled", "dead_letters", "nothing"]
ANSWER_COLUMN = "answer"
"""The column of an answer that is not an object with named fields."""
LEDGER_FOLDER = "_segmind_ledger"
CONCURRENCY = 64
MAX_FAILED_ROWS = 0.1
BATCH_ROWS = 1000
OWN_PREFIX = "_segmind_"
MAX_REPAIRS = 1
