"""
What the databases call things: types, quotation marks, placeholders, and how a row is written over an older one.

PostgreSQL, SQLite and DuckDB have ``ON CONFLICT``; Snowflake and BigQuery have ``MERGE``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_segmind.bulk.sql.kinds import MOST_DECIMALS, Kind, as_text
from airflow_provider_segmind.bulk.sql.names import TableName, quoted
from airflow_provider_segmind.exceptions import SegmindConfigError

MOST_PARAMETERS = 6000
"""Values in one statement; SQLite takes 32,766 and PostgreSQL 65,535, and more of them gain nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """
    How to speak to one database.

    :param name: what messages call it.
    :param types: the type of each kind of column.
    :param marker: what stands for a value in a statement: ``?``, ``%s``, or ``%(name)s`` for named ones.
    :param merge: whether it has MERGE, and not ON CONFLICT.
    :param mark: its quotation mark for identifiers.
    :param begin: begins a transaction, where its driver does not do so by itself.
    :param key_clause: declares the key.
    :param texts: whether its driver takes dates, decimals and UUIDs as texts only.
    :param unbounded: whether its type for decimals holds one of any size.
    :param longest: how long a name may be; a longer one is cut off, or refused.
    :param longest_in_bytes: whether that counts bytes of UTF-8 and not characters.
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
        """Return a part of a statement in which placeholders stand for values: percent signs are doubled for some."""
        return text.replace("%", "%%") if self.marker.startswith("%") else text

    def placeholder(self, number: int) -> str:
        """Return what stands for the value of a number, from 0."""
        return f"%(p{number})s" if self.marker == "%(name)s" else self.marker

    def bind(self, values: Sequence[Any]) -> Sequence[Any] | Mapping[str, Any]:
        """Return values in the form the driver takes them."""
        if self.texts:
            values = [as_text(value) for value in values]
        if self.marker == "%(name)s":
            return {f"p{number}": value for number, value in enumerate(values)}
        return values


def _ascii_lower(name: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


_POSTGRES = Dialect(
    name="PostgreSQL",
    types={
        Kind.TEXT: "TEXT",
        Kind.INTEGER: "BIGINT",
        Kind.NUMBER: "DOUBLE PRECISION",
        Kind.BOOLEAN: "BOOLEAN",
        Kind.DATE: "DATE",
        Kind.MOMENT: "TIMESTAMP WITH TIME ZONE",
        Kind.LOCAL: "TIMESTAMP",
        Kind.DECIMAL: "NUMERIC",
        Kind.UUID: "UUID",
        Kind.BYTES: "BYTEA",
    },
    unbounded=True,
    longest=63,
    longest_in_bytes=True,
    reserved=frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}),
)
_SQLITE = Dialect(
    name="SQLite",
    # Its own types are these four; what they have no form for is written as text, so that nothing is rounded.
    types={
        **dict.fromkeys(Kind, "TEXT"),
        Kind.INTEGER: "INTEGER",
        Kind.NUMBER: "REAL",
        Kind.BOOLEAN: "BOOLEAN",
        Kind.BYTES: "BLOB",
    },
    marker="?",
    texts=True,
    fold=_ascii_lower,
)
_DUCKDB = Dialect(
    name="DuckDB",
    types={
        Kind.TEXT: "VARCHAR",
        Kind.INTEGER: "BIGINT",
        Kind.NUMBER: "DOUBLE",
        Kind.BOOLEAN: "BOOLEAN",
        Kind.DATE: "DATE",
        Kind.MOMENT: "TIMESTAMP WITH TIME ZONE",
        Kind.LOCAL: "TIMESTAMP",
        Kind.DECIMAL: f"DECIMAL(38, {MOST_DECIMALS})",
        Kind.UUID: "UUID",
        Kind.BYTES: "BLOB",
    },
    marker="?",
    begin="BEGIN TRANSACTION",
    fold=_ascii_lower,
)
_SNOWFLAKE = Dialect(
    name="Snowflake",
    types={
        Kind.TEXT: "VARCHAR",
        Kind.INTEGER: "NUMBER(38, 0)",
        Kind.NUMBER: "DOUBLE",
        Kind.BOOLEAN: "BOOLEAN",
        Kind.DATE: "DATE",
        Kind.MOMENT: "TIMESTAMP_TZ",
        Kind.LOCAL: "TIMESTAMP_NTZ",
        Kind.DECIMAL: f"NUMBER(38, {MOST_DECIMALS})",
        Kind.UUID: "VARCHAR",
        Kind.BYTES: "BINARY",
    },
    merge=True,
    begin="BEGIN",
    longest=255,
)
_BIGQUERY = Dialect(
    name="BigQuery",
    types={
        Kind.TEXT: "STRING",
        Kind.INTEGER: "INT64",
        Kind.NUMBER: "FLOAT64",
        Kind.BOOLEAN: "BOOL",
        Kind.DATE: "DATE",
        Kind.MOMENT: "TIMESTAMP",
        Kind.LOCAL: "DATETIME",
        Kind.DECIMAL: "BIGNUMERIC",
        Kind.UUID: "STRING",
        Kind.BYTES: "BYTES",
    },
    # Airflow's cursor for BigQuery takes named values only, and quotes no dates.
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
    Return how to speak to the database of a connection.

    :raises SegmindConfigError: nobody has written that down here.
    """
    try:
        return DIALECTS[conn_type]
    except KeyError:
        names = ", ".join(dict.fromkeys(dialect.name for dialect in DIALECTS.values()))
        raise SegmindConfigError(
            f"Answers cannot be written to a connection of type {conn_type!r}: how it writes a row over an older one "
            f"is not known here. Known are {names}; any database may be the source. Nothing was sent."
        ) from None


def quotation_mark(conn_type: str) -> str:
    """Return the quotation mark for identifiers of a database, also of one whose dialect is not known."""
    known = DIALECTS.get(conn_type)
    return known.mark if known else "`" if conn_type == "mysql" else '"'
