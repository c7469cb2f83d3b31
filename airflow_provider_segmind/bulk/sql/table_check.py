"""
Whether a table can hold what will be written into it, found out before anything is paid.

Each check raises SegmindConfigError, which names the columns; nothing was sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from airflow_provider_segmind.bulk.sql.kinds import Kind
from airflow_provider_segmind.bulk.sql.statements import OWN_COLUMNS, Statements
from airflow_provider_segmind.bulk.sql.table_schema import Column
from airflow_provider_segmind.exceptions import SegmindConfigError, shorten

_NUMBERS = frozenset({Kind.INTEGER, Kind.NUMBER, Kind.DECIMAL})
_MOMENTS = frozenset({Kind.MOMENT, Kind.LOCAL})
_HOLDS: Mapping[Kind, frozenset[Kind]] = {
    Kind.TEXT: frozenset({Kind.TEXT}),
    Kind.INTEGER: frozenset({Kind.TEXT, *_NUMBERS}),
    # A column of integers would round it without a word.
    Kind.NUMBER: frozenset({Kind.TEXT, Kind.NUMBER, Kind.DECIMAL}),
    Kind.BOOLEAN: frozenset({Kind.TEXT, Kind.BOOLEAN}),
    Kind.DATE: frozenset({Kind.TEXT, Kind.DATE, *_MOMENTS}),
    Kind.MOMENT: frozenset({Kind.TEXT, *_MOMENTS}),
}
"""Which columns take the answers of a kind, and give them back."""
_ALWAYS_EMPTY = "_segmind_error"
"""The column in which a row with an answer has nothing."""


def check_names(statements: Statements, title: str) -> None:
    """Check that the database takes all names as they are, and tells them apart."""
    for part in statements.name.parts:
        if trouble := _name_trouble(statements, part):
            raise SegmindConfigError(
                f"The name {shorten(part)!r} of {title} {trouble}, so that another table could be meant. Nothing was "
                "sent. Give it another name."
            )
    met = {statements.dialect.fold(name): name for name in OWN_COLUMNS}
    for role, name in (*(("key", name) for name in statements.key), *(("answer", name) for name in statements.answers)):
        advice = f"Nothing was sent. Rename it in the {'query, with AS' if role == 'key' else 'output type'}."
        if trouble := _name_trouble(statements, name) or _reserved(statements, name):
            raise SegmindConfigError(f"The {role} column {name!r} of {title} {trouble}. {advice}")
        folded = statements.dialect.fold(name)
        if folded in met:
            raise SegmindConfigError(
                f"The columns {met[folded]!r} and {name!r} of {title} have one name to {statements.dialect.name}. "
                f"{advice}"
            )
        met[folded] = name


def _name_trouble(statements: Statements, name: str) -> str | None:
    """Say why a database would not take a name as it is, None when it does."""
    dialect = statements.dialect
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError:
        return "is no text that can be written as UTF-8"
    if not name or "\x00" in name:
        return "is empty or holds a NUL character"
    length = len(encoded) if dialect.longest_in_bytes else len(name)
    if dialect.longest is not None and length > dialect.longest:
        unit = "bytes" if dialect.longest_in_bytes else "characters"
        return f"has {length} {unit}, and {dialect.name} keeps {dialect.longest} of a name"
    return None


def _reserved(statements: Statements, name: str) -> str | None:
    return (
        f"has a name that {statements.dialect.name} keeps for itself" if name in statements.dialect.reserved else None
    )


def check_present(statements: Statements, columns: Collection[str], title: str) -> None:
    """Check that the table has all columns that are written."""
    fold = statements.dialect.fold
    there = set(map(fold, columns))
    missing = [name for name in statements.columns if fold(name) not in there]
    if not missing:
        return
    by_case = {name.lower(): name for name in columns}
    similar = [f"{by_case[name.lower()]!r}" for name in missing if name.lower() in by_case]
    hint = f" Upper and lower case count: it has {', '.join(similar)}." if similar else ""
    raise SegmindConfigError(
        f"{title} has no column {', '.join(map(repr, missing))}.{hint} Nothing was sent. Add what is missing: "
        f"{'; '.join(map(statements.add, missing))}"
    )


def check_columns(statements: Statements, columns: Mapping[str, Column], title: str) -> None:
    """
    Check what the columns of a table demand and hold.

    :param columns: by their names as the database compares them.
    """
    found = list(_troubles(statements, columns))
    if found:
        raise SegmindConfigError(f"{title} cannot hold the answers: {'; '.join(found)}. Nothing was sent.")


def _troubles(statements: Statements, columns: Mapping[str, Column]) -> Iterator[str]:
    kinds: dict[str, Kind | None] = {**statements.key, **statements.answers, **OWN_COLUMNS}
    ours = {statements.dialect.fold(name): kind for name, kind in kinds.items()}
    for folded, column in columns.items():
        if folded not in ours:
            if column.required:
                yield (
                    f"its column {column.name!r} is NOT NULL without a default, and nothing is written into it: give "
                    "it a default, or drop NOT NULL"
                )
        elif column.generated:
            yield f"its column {column.name!r} is generated by the database, which takes no value for it"
        elif folded == _ALWAYS_EMPTY and not column.nullable:
            yield f"its column {column.name!r} is NOT NULL, and a row with an answer has none: drop NOT NULL"
        elif folded not in map(statements.dialect.fold, statements.key):
            yield from _type_trouble(statements, column, ours[folded])


def _type_trouble(statements: Statements, column: Column, kind: Kind | None) -> Iterator[str]:
    holds = column.kind
    if kind is None or holds is None or holds in _HOLDS[kind]:
        return
    if kind is Kind.BOOLEAN and holds in _NUMBERS and statements.dialect.name != "PostgreSQL":
        return
    needed = statements.dialect.types[kind]
    yield f"its column {column.name!r} is of type {column.type}, and answers of type {kind} need {needed}"
