"""What a user may choose, and what is chosen when they do not. Imports nothing: every DAG parse pays for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


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
"""Seconds to look inline before a worker slot is given back; most language models answer within them."""
MAX_XCOM_BYTES = 48 * 1024
"""Bytes of JSON up to which a result is the XCom value."""
MAX_RESUBMITS = 2
"""How often a policy may submit again for one task instance."""
OnPartial = Literal["fail", "succeed", "skip_downstream"]
Rerun = Literal["unbilled", "dead_letters", "nothing"]
ANSWER_COLUMN = "answer"
"""Where an answer stands that is no object with named fields."""
LEDGER_FOLDER = "_segmind_ledger"
CONCURRENCY = 64
MAX_FAILED_ROWS = 0.1
BATCH_ROWS = 1000
OWN_PREFIX = "_segmind_"
MAX_REPAIRS = 1
