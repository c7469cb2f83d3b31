"""The differences between databases: types, quotation marks, names, placeholders, and the errors of their drivers."""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self, TypeVar

from airflow_provider_segmind.enrichment.sql.column_types import MOST_DECIMALS, Kind, as_text
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError, SegmindError, shorten

_PLAIN_PART = re.compile(r"[\w$\-]+")
_PART = re.compile(rf'"((?:[^"\x00]|"")+)"|({_PLAIN_PART.pattern})')


@dataclass(frozen=True, slots=True)
class TableName:
    """
    The name of a table.

    :param parts: database, schema and table, as many as were given, without quotes.
    """

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, field: str) -> Self:
        """
        Read ``schema.table``; a part with other characters than letters, digits, ``_``, ``$`` and ``-`` must be
        in double quotes.

        The case is kept, because the name is quoted in every statement.

        :raises SegmindConfigError: it is not a name.
        """
        parts: list[str] = []
        place = 0
        while match := _PART.match(text, place):
            parts.append(match[1].replace('""', '"') if match[1] is not None else match[2])
            place = match.end()
            if place == len(text):
                return cls(tuple(parts))
            if text[place] != ".":
                break
            place += 1
        raise SegmindConfigError(
            f"{field!r} is {text!r}, which is not the name of a table: write table or schema.table, and a part with "
            'characters other than letters, digits, "_", "$" and "-" in double quotes.'
        )

    @classmethod
    def of_source(cls, sql: str) -> Self | None:
        """Return the table to read whole when a source is only a name, None when it is a statement."""
        try:
            return cls.parse(sql.strip(), "sql")
        except SegmindConfigError:
            return None

    def __str__(self) -> str:
        """Return the name as :meth:`parse` reads it."""
        return ".".join(part if _PLAIN_PART.fullmatch(part) else quoted(part, '"') for part in self.parts)

    def beside(self, ending: str) -> Self:
        """Return the name of a table in the same schema with another ending."""
        return type(self)((*self.parts[:-1], self.parts[-1] + ending))


def quoted(name: str, mark: str) -> str:
    """
    Quote one identifier.

    :raises SegmindConfigError: no database accepts it.
    """
    if not name or "\x00" in name:
        raise SegmindConfigError(f"{name!r} cannot be the name of a column.")
    if mark == "`":
        return f"`{name.replace(chr(92), chr(92) * 2).replace('`', chr(92) + '`')}`"
    return mark + name.replace(mark, mark * 2) + mark


MOST_PARAMETERS = 6000
"""Values in one statement; SQLite allows 32,766 and PostgreSQL 65,535, but more gain nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """
    The SQL of a database.

    :param name: its name in messages.
    :param marker: the placeholder of a value in a statement: ``?``, ``%s``, or ``%(name)s`` for named ones.
    :param merge: whether it has MERGE instead of ON CONFLICT.
    :param mark: its quotation mark for identifiers.
    :param begin: begins a transaction, if its driver does not do so.
    :param key_clause: declares the key.
    :param texts: whether its driver accepts dates, decimals and UUIDs only as strings.
    :param misread_numbers: whether an older driver misreads integers beyond 64 bits and decimals in powers of ten.
    :param unbounded: whether its decimal type has no limit.
    :param longest: the longest name; a longer one is cut off or refused.
    :param longest_in_bytes: whether ``longest`` counts bytes of UTF-8 instead of characters.
    :param fold: returns a name of a column as the database compares it, quoted or not.
    :param reserved: names that no column may have.
    """

    name: str
    types: Mapping[Kind, str]
    marker: str = "%s"
    merge: bool = False
    mark: str = '"'
    begin: str | None = None
    key_clause: str = "PRIMARY KEY ({})"
    texts: bool = False
    misread_numbers: bool = False
    unbounded: bool = False
    longest: int | None = None
    longest_in_bytes: bool = False
    fold: Callable[[str], str] = str
    reserved: frozenset[str] = frozenset()

    def quote(self, name: str) -> str:
        """Quote one identifier."""
        return quoted(name, self.mark)

    def table(self, name: TableName) -> str:
        """Quote the name of a table."""
        return ".".join(map(self.quote, name.parts))

    def with_values(self, text: str) -> str:
        """Return a part of a statement that has placeholders: some drivers need doubled percent signs."""
        return text.replace("%", "%%") if self.marker.startswith("%") else text

    def placeholder(self, number: int) -> str:
        """Return the placeholder of a value by its number, from 0."""
        return f"%(p{number})s" if self.marker == "%(name)s" else self.marker

    def bind(self, values: Sequence[Any]) -> Sequence[Any] | Mapping[str, Any]:
        """Return values in the form that the driver accepts."""
        if self.texts:
            values = [as_text(value) for value in values]
        elif self.misread_numbers:
            values = [_spelled_out(value) for value in values]
        if self.marker == "%(name)s":
            return {f"p{number}": value for number, value in enumerate(values)}
        return values


def _spelled_out(value: Any) -> Any:
    """Return a number in the form that every version of DuckDB's driver binds exactly; 1.2 reads 1E+1 as 1."""
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        return Decimal(int(value)) if isinstance(exponent, int) and exponent > 0 else value
    wide = isinstance(value, int) and not -(2**63) <= value < 2**63
    return Decimal(value) if wide and abs(value) < 10**38 else value


def _ascii_lower(name: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


def _types(names: str) -> dict[Kind, str]:
    # In the order of Kind: text, integer, number, boolean, date, moment, local, decimal, uuid, bytes.
    return dict(zip(Kind, names.split("; "), strict=True))


_POSTGRES = Dialect(
    name="PostgreSQL",
    types=_types(
        "TEXT; BIGINT; DOUBLE PRECISION; BOOLEAN; DATE; TIMESTAMP WITH TIME ZONE; TIMESTAMP; NUMERIC; UUID; BYTEA"
    ),
    unbounded=True,
    longest=63,
    longest_in_bytes=True,
    reserved=frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}),
)
_SQLITE = Dialect(
    name="SQLite",
    # SQLite has these four types; other values are written as text, so that nothing is rounded.
    types=_types("TEXT; INTEGER; REAL; BOOLEAN; TEXT; TEXT; TEXT; TEXT; TEXT; BLOB"),
    marker="?",
    texts=True,
    fold=_ascii_lower,
)
_DUCKDB = Dialect(
    name="DuckDB",
    types=_types(
        "VARCHAR; BIGINT; DOUBLE; BOOLEAN; DATE; "
        f"TIMESTAMP WITH TIME ZONE; TIMESTAMP; DECIMAL(38, {MOST_DECIMALS}); UUID; BLOB"
    ),
    marker="?",
    begin="BEGIN TRANSACTION",
    misread_numbers=True,
    fold=_ascii_lower,
)
_SNOWFLAKE = Dialect(
    name="Snowflake",
    types=_types(
        "VARCHAR; NUMBER(38, 0); DOUBLE; BOOLEAN; DATE; "
        f"TIMESTAMP_TZ; TIMESTAMP_NTZ; NUMBER(38, {MOST_DECIMALS}); VARCHAR; BINARY"
    ),
    merge=True,
    begin="BEGIN",
    longest=255,
)
_BIGQUERY = Dialect(
    name="BigQuery",
    types=_types("STRING; INT64; FLOAT64; BOOL; DATE; TIMESTAMP; DATETIME; BIGNUMERIC; STRING; BYTES"),
    # Airflow's cursor for BigQuery accepts only named values, and does not quote dates.
    marker="%(name)s",
    merge=True,
    mark="`",
    key_clause="PRIMARY KEY ({}) NOT ENFORCED",
    texts=True,
    longest=300,
    fold=str.lower,
)
DIALECTS: Mapping[str, Dialect] = {
    "postgres": _POSTGRES,
    "sqlite": _SQLITE,
    "duckdb": _DUCKDB,
    "snowflake": _SNOWFLAKE,
    "gcpbigquery": _BIGQUERY,
    "google_cloud_platform": _BIGQUERY,
}
"""By Airflow's connection type."""


def dialect_of(conn_type: str) -> Dialect:
    """
    Return the dialect of a connection's database.

    :raises SegmindConfigError: it is not supported.
    """
    try:
        return DIALECTS[conn_type]
    except KeyError:
        names = ", ".join(dict.fromkeys(dialect.name for dialect in DIALECTS.values()))
        raise SegmindConfigError(
            f"Answers cannot be written to a connection of type {conn_type!r}: its upsert "
            f"is not supported. Supported are {names}; any database may be the source. Nothing was sent."
        ) from None


def quotation_mark(conn_type: str) -> str:
    """Return the quotation mark for identifiers of a database, even of one without a dialect."""
    known = DIALECTS.get(conn_type)
    return known.mark if known else "`" if conn_type == "mysql" else '"'


_Result = TypeVar("_Result")
_FINAL = frozenset({"ProgrammingError", "NotSupportedError", "DataError", "IntegrityError", "UnicodeError"})
"""The exception classes, all but one of PEP 249, of errors that a retry cannot resolve."""
_NO_ROW = frozenset({"OperationalError", "InterfaceError", "InternalError"})
"""The exception classes of errors of a connection or server: a lock, a deadlock, a full disk."""
_ROW_STATES = frozenset({"21", "22", "23", "27", "38", "39", "44", "54", "P0"})
"""
The SQLSTATE classes that a row may cause: a cast, a constraint, a trigger that raises, a key too long
for an index. https://www.postgresql.org/docs/current/errcodes-appendix.html
"""
_SERVER_STATES = frozenset({"08", "25", "26", "28", "34", "3D", "40", "53", "55", "57", "58", "F0", "XX"})
"""The SQLSTATE classes of a connection, a transaction or a server."""
_CONFLICT_STATES = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock not available: the transaction was rolled back and may be retried."""
_CONFLICT_NUMBERS = frozenset({1205, 1213})
"""MySQL's lock wait timeout and deadlock."""
MOST_TRIES = 6
FIRST_PAUSE = 0.05
"""Upper bound of the first pause, in seconds, before a transaction is retried after a conflict; doubled each time."""
_MISSING_TABLE = re.compile(r"no such table|does not exist|doesn't exist|invalid object name", re.IGNORECASE)
"""What databases say of a table that is not there."""
_NAMED = re.compile(r"\b(NOT NULL|UNIQUE) constraint failed: ([\w.]+(?:, [\w.]+)*)")


@contextlib.contextmanager
def driver_errors(doing: str, *, meaning: str, values: bool = False, retryable: bool | None = None) -> Iterator[None]:
    """
    Turn an error of a driver into one that says what was tried and what it means for money.

    :param meaning: what it means for money.
    :param values: whether its text may contain values of rows; then only an error about the connection or the server
        is quoted, and of others the class.
    :param retryable: whether a retry may help; None if that depends on the error.
    :raises SegmindEnrichmentError: the driver raised.
    """
    try:
        yield
    except SegmindError:
        raise
    except Exception as error:  # noqa: BLE001 (PEP 249 gives the drivers no common class)
        if retryable is None:
            retryable = not _FINAL & _classes(error) or _state(error)[:2] in _SERVER_STATES
        values = values and not _is_about_server(error)
        raise SegmindEnrichmentError(
            f"{doing} failed: {described(error, values=values)}. {meaning}", retryable=retryable
        ) from (None if values else error)


def described(error: Exception, *, values: bool) -> str:
    """
    Describe an error of a driver.

    :param values: whether its text may contain values of rows; then only names of columns and constraints are
        quoted.
    """
    code = _state(error) or getattr(error, "sqlite_errorname", "")
    name = type(error).__name__ + (f" ({code})" if code else "")
    if not values:
        return f"{name}: {shorten(' '.join(str(error).split()).rstrip('.'))}"
    return ", ".join([name, *_names(error)])


def may_be_a_row(error: Exception) -> bool:
    """Return whether a statement may have failed because of the values of a row."""
    if state := _state(error):
        return state[:2] in _ROW_STATES or (state[:2] not in _SERVER_STATES and not _NO_ROW & _classes(error))
    return not _NO_ROW & _classes(error)


def is_conflict(error: BaseException) -> bool:
    """Return whether a transaction conflicted with another one, so that a retry may succeed."""
    if _state(error) in _CONFLICT_STATES or "TransactionException" in _classes(error):
        # The last one is DuckDB's, which has no SQLSTATE.
        return True
    number = error.args[0] if error.args else None
    return number in _CONFLICT_NUMBERS if isinstance(number, int) and not isinstance(number, bool) else False


def is_missing_table(error: BaseException) -> bool:
    """Return whether a statement failed because its table is not there."""
    return _MISSING_TABLE.search(str(error)) is not None


def is_about_connection(error: BaseException) -> bool:
    """Return whether an error has a class of errors of a connection or server: a lock, a deadlock, a full disk."""
    return bool(_NO_ROW & _classes(error))


def is_transient(error: BaseException) -> bool:
    """Return whether the SQLSTATE means a transient error: a connection, a lock, a server that shuts down."""
    return is_conflict(error) or _state(error)[:2] in _SERVER_STATES - {"25", "26", "28", "34", "3D"}


def again_after_conflicts(
    work: Callable[[], _Result],
    *,
    sleep: Callable[[float], None] = time.sleep,
    chance: Callable[[], float] = random.random,
) -> _Result:
    """
    Do some work, and retry it while it only conflicts with other transactions; blocks.

    :param work: has no effect when it raises.
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
    """Return whether an error is about the connection or the server, so that its text contains no values."""
    if state := _state(error):
        return state[:2] in _SERVER_STATES
    if not _NO_ROW & _classes(error):
        return False
    if name := getattr(error, "sqlite_errorname", ""):
        return not name.startswith("SQLITE_CONSTRAINT")
    number = error.args[0] if error.args else None
    # Errors of psycopg without a SQLSTATE are about the connection; those of MySQL's client have numbers from 2000.
    return type(error).__module__.startswith("psycopg") or (isinstance(number, int) and 2000 <= number < 3000)


def _state(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def _names(error: Exception) -> list[str]:
    """Return the table objects that an error names; they contain no values."""
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
