"""Errors of database drivers, made into ours; and what to do about those that the database asks to try again."""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from airflow_provider_segmind.exceptions import SegmindBulkError, SegmindError, shorten

_Result = TypeVar("_Result")
_FINAL = frozenset({"ProgrammingError", "NotSupportedError", "DataError", "IntegrityError", "UnicodeError"})
"""The classes, of PEP 249 but for one, for what cannot work however often it is tried."""
_NO_ROW = frozenset({"OperationalError", "InterfaceError", "InternalError"})
"""The classes for what goes wrong with a connection or a server: a lock, a deadlock, a full disk."""
_ROW_STATES = frozenset({"21", "22", "23", "27", "38", "39", "44", "54", "P0"})
"""
The classes of SQLSTATE for which a row may be the reason: a cast, a constraint, a trigger that raises, a key too long
for an index. https://www.postgresql.org/docs/current/errcodes-appendix.html
"""
_SERVER_STATES = frozenset({"08", "25", "26", "28", "34", "3D", "40", "53", "55", "57", "58", "F0", "XX"})
"""The classes of SQLSTATE for a connection, a transaction or a server."""
_CONFLICT_STATES = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock not available: the transaction was rolled back and may be tried again."""
_CONFLICT_NUMBERS = frozenset({1205, 1213})
"""MySQL's lock wait timeout and deadlock."""
MOST_TRIES = 6
FIRST_PAUSE = 0.05
"""Seconds, at most, before a transaction is tried again after a conflict; doubled each time."""
_NAMED = re.compile(r"\b(NOT NULL|UNIQUE) constraint failed: ([\w.]+(?:, [\w.]+)*)")


@contextlib.contextmanager
def driver_errors(doing: str, *, meaning: str, values: bool = False, retryable: bool | None = None) -> Iterator[None]:
    """
    Make an error of a driver one that says what was tried, and what it means for the money.

    :param doing: what was tried.
    :param meaning: what it means.
    :param values: whether its text may show what stands in rows; then that of an error about the connection or the
        server is told, and of others the class.
    :param retryable: whether a retry may help; None where it may unless the statement or the data are wrong.
    :raises SegmindBulkError: the driver raised.
    """
    try:
        yield
    except SegmindError:
        raise
    except Exception as error:  # noqa: BLE001 (PEP 249 gives the drivers no common class)
        if retryable is None:
            retryable = not _FINAL & _classes(error) or _state(error)[:2] in _SERVER_STATES
        values = values and not _is_about_server(error)
        raise SegmindBulkError(
            f"{doing} failed: {described(error, values=values)}. {meaning}",
            retryable=retryable,
        ) from (None if values else error)


def described(error: Exception, *, values: bool) -> str:
    """
    Describe an error of a driver.

    :param values: whether its text may show what stands in rows; then names of columns and constraints are all that is
        told of it.
    """
    code = _state(error) or getattr(error, "sqlite_errorname", "")
    name = type(error).__name__ + (f" ({code})" if code else "")
    if not values:
        return f"{name}: {shorten(' '.join(str(error).split()))}"
    return ", ".join([name, *_names(error)])


def may_be_a_row(error: Exception) -> bool:
    """Tell whether a statement may have failed for what stands in one of its rows."""
    if state := _state(error):
        return state[:2] in _ROW_STATES or (state[:2] not in _SERVER_STATES and not _NO_ROW & _classes(error))
    return not _NO_ROW & _classes(error)


def is_conflict(error: BaseException) -> bool:
    """Tell whether a transaction met another one, so that the same may work when it is tried again."""
    if _state(error) in _CONFLICT_STATES or "TransactionException" in _classes(error):
        # The latter is DuckDB's, which has no SQLSTATE.
        return True
    number = error.args[0] if error.args else None
    return number in _CONFLICT_NUMBERS if isinstance(number, int) and not isinstance(number, bool) else False


def is_transient(error: BaseException) -> bool:
    """Tell whether the SQLSTATE says that the moment was bad: a connection, a lock, a server that shuts down."""
    return is_conflict(error) or _state(error)[:2] in _SERVER_STATES - {"25", "26", "28", "34", "3D"}


def again_after_conflicts(
    work: Callable[[], _Result],
    *,
    sleep: Callable[[float], None] = time.sleep,
    chance: Callable[[], float] = random.random,
) -> _Result:
    """
    Do some work, and again for as long as it only meets other transactions; blocks.

    :param work: leaves nothing behind when it raises.
    """
    for number in range(1, MOST_TRIES):
        try:
            return work()
        except Exception as error:
            if not is_conflict(error):
                raise
        sleep(FIRST_PAUSE * 2**number * chance())
    return work()


def _is_about_server(error: Exception) -> bool:
    """Tell whether an error is about the connection or the server, so that its text repeats nothing of a row."""
    if state := _state(error):
        return state[:2] in _SERVER_STATES
    if not _NO_ROW & _classes(error):
        return False
    if name := getattr(error, "sqlite_errorname", ""):
        return not name.startswith("SQLITE_CONSTRAINT")
    number = error.args[0] if error.args else None
    # Without a SQLSTATE those of psycopg are about the connection; MySQL's client has the numbers from 2000.
    return type(error).__module__.startswith("psycopg") or (isinstance(number, int) and 2000 <= number < 3000)


def _state(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def _names(error: Exception) -> list[str]:
    """Return what an error names of the table; no value stands in these."""
    diag = getattr(error, "diag", None)
    found = [
        f"{what} {name!r}"
        for what, attribute in (("column", "column_name"), ("constraint", "constraint_name"), ("type", "datatype_name"))
        if isinstance(name := getattr(diag, attribute, None), str)
    ]
    match = _NAMED.search(str(error))
    return [*found, f"{match[1]} of {match[2]}"] if match else found


def _classes(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
