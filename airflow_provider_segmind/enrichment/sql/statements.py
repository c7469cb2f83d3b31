"""
The statements for a table of answers.

A row replaces an older one of the same key only if that loses nothing: an answer replaces whatever differs
from it; a failure replaces everything but a good answer to the same question; a row without an outcome replaces only
another one without an outcome.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.output import FINGERPRINT_COLUMN, STATUS_COLUMNS
from airflow_provider_segmind.enrichment.run_limits import FAILURES
from airflow_provider_segmind.enrichment.sql.column_types import Kind
from airflow_provider_segmind.enrichment.sql.dialects import MOST_PARAMETERS, Dialect, TableName

OWN_COLUMNS: Mapping[str, Kind] = {
    FINGERPRINT_COLUMN: Kind.TEXT,
    **dict.fromkeys(STATUS_COLUMNS, Kind.TEXT),
    "_segmind_cost": Kind.NUMBER,
    "_segmind_tokens": Kind.INTEGER,
}
"""The columns of the target other than the key and the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    """
    The statements for one table.

    :param key: the key columns, with their kinds where known.
    :param answers: the answer columns.
    :param required: those of them that have a value in every answer.
    """

    dialect: Dialect
    name: TableName
    key: Mapping[str, Kind | None]
    answers: Mapping[str, Kind]
    required: Collection[str] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in order."""
        return (*self.key, *self.answers, *OWN_COLUMNS)

    @property
    def rows_per_statement(self) -> int:
        """Return how many rows a statement may have."""
        return max(1, MOST_PARAMETERS // len(self.columns))

    def create(self) -> str:
        """Create the table."""
        kinds = {**self.key, **self.answers, **OWN_COLUMNS}
        lines = [self._declared(name, kind or Kind.TEXT) for name, kind in kinds.items()]
        lines.append(self.dialect.key_clause.format(self._list(self.key)))
        return f"CREATE TABLE IF NOT EXISTS {self._table} (\n  " + ",\n  ".join(lines) + "\n)"

    def add(self, column: str) -> str:
        """Add a missing column to a table."""
        kind = {**self.key, **self.answers, **OWN_COLUMNS}[column] or Kind.TEXT
        return f"ALTER TABLE {self._table} ADD COLUMN {self._declared(column, kind)}"

    def select_columns(self) -> str:
        """Return the columns of the table, and no rows."""
        return f"SELECT * FROM {self._table} WHERE 1 = 0"

    def select_answered(self) -> str:
        """Read the key and the fingerprint of every row that has its complete answer."""
        columns = self._list([*self.key, FINGERPRINT_COLUMN])
        conditions = [f"{self.dialect.quote('_segmind_status')} = '{Outcome.SUCCESS}'"]
        conditions += [f"{self.dialect.quote(name)} IS NOT NULL" for name in self.answers if name in self.required]
        return f"SELECT {columns} FROM {self._table} WHERE {' AND '.join(conditions)}"

    def rehearse(self) -> str:
        """Do what :meth:`write` does, but for no rows; this fails for the same reasons."""
        return self._upsert(f"SELECT {self._list(self.columns)} FROM {self._table} WHERE 1 = 0")

    def write(self, rows: int) -> str:
        """
        Write some rows, one for each key.

        Its values are those of :attr:`columns`, row by row.
        """
        dialect, width = self.dialect, len(self.columns)
        tuples = [[dialect.placeholder(row * width + number) for number in range(width)] for row in range(rows)]
        if not dialect.merge:
            source = "VALUES " + ", ".join(f"({', '.join(values)})" for values in tuples)
        else:
            kinds = {**self.key, **self.answers, **OWN_COLUMNS}
            # Without a type, NULL would be treated as a number.
            typed = [
                ", ".join(
                    f"CAST({value} AS {dialect.types[kinds[name] or Kind.TEXT]}) AS {self._escaped(name)}"
                    for value, name in zip(values, self.columns, strict=True)
                )
                for values in tuples
            ]
            source = " UNION ALL ".join(f"SELECT {values}" for values in typed)
        return self._upsert(source, values=True)

    def parameters(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Any] | Mapping[str, Any]:
        """Return the values for :meth:`write`."""
        return self.dialect.bind([row.get(name) for row in rows for name in self.columns])

    @property
    def _table(self) -> str:
        return self.dialect.table(self.name)

    def _list(self, names: Sequence[str] | Mapping[str, Any]) -> str:
        return ", ".join(map(self.dialect.quote, names))

    def _declared(self, name: str, kind: Kind) -> str:
        return f"{self.dialect.quote(name)} {self.dialect.types[kind]}"

    def _escaped(self, name: str) -> str:
        return self.dialect.with_values(self.dialect.quote(name))

    def _upsert(self, source: str, *, values: bool = False) -> str:
        quote = self.dialect.quote
        rest = [name for name in self.columns if name not in self.key]
        sets = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in rest)
        if self.dialect.merge:
            same = " AND ".join(f"held.{quote(name)} = excluded.{quote(name)}" for name in self.key)
            before = f"MERGE INTO {self._table} AS held USING ("
            after = (
                f") AS excluded ON {same} WHEN MATCHED AND {self._replaces()} THEN UPDATE SET {sets} "
                f"WHEN NOT MATCHED THEN INSERT ({self._list(self.columns)}) "
                f"VALUES ({', '.join(f'excluded.{quote(name)}' for name in self.columns)})"
            )
        else:
            before = f"INSERT INTO {self._table} AS held ({self._list(self.columns)}) "
            after = f" ON CONFLICT ({self._list(self.key)}) DO UPDATE SET {sets} WHERE {self._replaces()}"
        if values:
            before, after = self.dialect.with_values(before), self.dialect.with_values(after)
        return before + source + after

    def _replaces(self) -> str:
        quote = self.dialect.quote
        status, mark, request, cost = map(
            quote, ("_segmind_status", FINGERPRINT_COLUMN, "_segmind_request_id", "_segmind_cost")
        )
        differs = " OR ".join(
            f"COALESCE(held.{name}, '') <> COALESCE(excluded.{name}, '')" for name in (status, mark, request)
        )
        differs += f" OR COALESCE(held.{cost}, -1) <> COALESCE(excluded.{cost}, -1)"
        # Only missing values: not every type can be compared, and somebody may have corrected an answer.
        for name in map(quote, self.answers):
            differs += f" OR held.{name} IS NULL AND excluded.{name} IS NOT NULL"
        failed = ", ".join(f"'{outcome}'" for outcome in sorted(FAILURES))
        other_question = f"COALESCE(held.{mark}, '') <> COALESCE(excluded.{mark}, '')"
        good = f"COALESCE(held.{status}, '') = '{Outcome.SUCCESS}'"
        return (
            f"(({differs}) AND (excluded.{status} = '{Outcome.SUCCESS}' "
            f"OR (excluded.{status} IN ({failed}) AND (NOT {good} OR {other_question})) "
            f"OR COALESCE(held.{status}, '') IN ('', '{Outcome.UNKNOWN}', '{Outcome.SKIPPED}')))"
        )
