"""Errors of database drivers, made into ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from airflow_provider_segmind.exceptions import SegmindBulkError, SegmindError, shorten

_FINAL = frozenset({"ProgrammingError", "NotSupportedError"})
"""The classes of PEP 249 for statements that cannot work; others may come from the connection."""
_NO_ROW = frozenset({"OperationalError", "InterfaceError", "InternalError"})
"""The classes for what goes wrong with a connection or a server: a lock, a deadlock, a full disk."""


@contextlib.contextmanager
def driver_errors(doing: str, *, meaning: str, values: bool = False, retryable: bool | None = None) -> Iterator[None]:
    """
    Make an error of a driver one that says what was tried, and what it means for the money.

    :param doing: what was tried.
    :param meaning: what it means.
    :param values: whether its text may show what stands in rows, so that only its class may be told.
    :param retryable: whether a retry may help; None where it may unless the statement itself is wrong.
    :raises SegmindBulkError: the driver raised.
    """
    try:
        yield
    except SegmindError:
        raise
    except Exception as error:  # noqa: BLE001 (PEP 249 gives the drivers no common class)
        if retryable is None:
            retryable = not _FINAL & _classes(error)
        raise SegmindBulkError(
            f"{doing} failed: {described(error, values=values)}. {meaning}",
            retryable=retryable,
        ) from (None if values else error)


def described(error: Exception, *, values: bool) -> str:
    """
    Describe an error of a driver.

    :param values: whether its text may show what stands in rows.
    """
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    name = type(error).__name__ + (f" ({code})" if code else "")
    return name if values else f"{name}: {shorten(' '.join(str(error).split()))}"


def may_be_a_row(error: Exception) -> bool:
    """Tell whether a statement may have failed for what stands in one of its rows."""
    return not _NO_ROW & _classes(error)


def _classes(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
