"""
The schema of a table in a database: the types of its columns, their constraints, and how they compare.

Read from the catalogues of PostgreSQL, SQLite and DuckDB; for others it is unknown until a row is written.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_segmind.enrichment.sql.column_types import Kind
from airflow_provider_segmind.enrichment.sql.dialects import Dialect, TableName


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """
    One column of a table.

    :param type: its type as the database writes it, in lower case.
    :param required: whether each row must have a value: it is NOT NULL without a default.
    :param nullable: whether it accepts NULL.
    :param generated: whether the database computes it and accepts no value.
    :param collations: the collations, other than the default, of the column or a unique index on it.
    :param loose: whether values of other types may be stored in it, as SQLite does.
    :param exact: whether different strings are always different values of its type, as in an enumeration.
    """

    name: str
    type: str
    required: bool = False
    nullable: bool = True
    generated: bool = False
    collations: tuple[str, ...] = ()
    loose: bool = False
    exact: bool = False

    @property
    def base_type(self) -> str:
        """The type without its parentheses."""
        return " ".join(re.sub(r"\([^)]*\)", " ", self.type).split())

    @property
    def bounds(self) -> tuple[int, ...]:
        """The numbers in the type's parentheses: length, or precision and scale."""
        found = re.search(r"\(([\d\s,]+)\)", self.type)
        return tuple(int(number) for number in found[1].split(",")) if found else ()

    @property
    def kind(self) -> Kind | None:
        """Its kind; None if there is none, or it accepts any value."""
        return None if self.loose else _KINDS.get(self.base_type)


_NAMES: Mapping[Kind, str] = {
    Kind.TEXT: "text,character varying,varchar,character,char,bpchar,citext,string",
    Kind.INTEGER: "smallint,integer,int,bigint,tinyint,hugeint,utinyint,usmallint,uinteger,ubigint,uhugeint,oid",
    Kind.NUMBER: "real,float,double precision,double",
    Kind.DECIMAL: "numeric,decimal",
    Kind.BOOLEAN: "boolean",
    Kind.DATE: "date",
    Kind.LOCAL: "timestamp,timestamp without time zone,timestamp_s,timestamp_ms,timestamp_ns",
    Kind.MOMENT: "timestamp with time zone",
    Kind.UUID: "uuid",
    Kind.BYTES: "bytea,blob",
}
_KINDS: Mapping[str, Kind] = {name: kind for kind, names in _NAMES.items() for name in names.split(",")}


def read_columns(connection: Any, dialect: Dialect, name: TableName) -> dict[str, Column] | None:
    """
    Return the columns of a table by name, None if its database is not supported here.

    A database release without the needed catalogue counts as not supported.
    """
    read = _READERS.get(dialect.name)
    if read is None:
        return None
    with contextlib.closing(connection.cursor()) as cursor:
        try:
            return {column.name: column for column in read(cursor, dialect, name)} or None
        except Exception:  # noqa: BLE001 (PEP 249 gives the drivers no common class); the rehearsal still follows
            return None


def _ask(cursor: Any, statement: str) -> list[dict[str, Any]]:
    cursor.execute(statement)
    # A release of SQLite without a PRAGMA returns nothing.
    names = [str(column[0]) for column in cursor.description or ()]
    # Cursors of PostgreSQL may be configured to return rows as dicts.
    return [dict(row) if isinstance(row, Mapping) else dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# A trigger before the insert may fill in missing values: then only writing a row shows whether a value is required.
_DEMANDS = """(a.attnotnull OR t.typnotnull) AND NOT a.atthasdef AND a.attidentity = '' AND t.typdefault IS NULL
  AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = a.attrelid AND g.tgtype & 7 = 7 AND g.tgenabled <> 'D')"""
_POSTGRES_COLUMNS = """
SELECT a.attname AS name, a.attnum AS number, c.relkind = 'v' AS is_view, t.typtype = 'e' AS is_enum,
  format_type(CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE a.atttypid END,
              CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE a.atttypmod END) AS type,
  {demands} AS required, NOT (a.attnotnull OR t.typnotnull) AS nullable,
  a.attgenerated <> '' OR a.attidentity = 'a' AS generated,
  (SELECT string_agg(collname, ',') FROM pg_collation l WHERE NOT l.collisdeterministic AND (l.oid = a.attcollation
    OR l.oid IN (SELECT k.chosen FROM pg_index i,
      unnest(i.indkey::int2[], i.indcollation::oid[]) AS k(number, chosen)
      WHERE i.indrelid = a.attrelid AND i.indisunique AND k.number = a.attnum))) AS collations
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_class c ON c.oid = a.attrelid
WHERE a.attrelid = to_regclass({table}) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_POSTGRES_BASE_COLUMNS = """
SELECT DISTINCT b.relname AS base, a.attname AS name, EXISTS (
    SELECT FROM pg_depend s WHERE s.classid = d.classid AND s.objid = d.objid AND s.refclassid = d.refclassid
    AND s.refobjid = b.oid AND s.refobjsubid = a.attnum) AS shown
FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
  AND d.refclassid = 'pg_class'::regclass
JOIN pg_class b ON b.oid = d.refobjid AND b.relkind IN ('r', 'p')
JOIN pg_attribute a ON a.attrelid = b.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_type t ON t.oid = a.atttypid
WHERE r.ev_class = to_regclass({table}) AND {demands}
"""


_POSTGRES_DEFERRABLE = """
SELECT c.relname AS name, (SELECT json_agg(a.attname) FROM pg_attribute a WHERE a.attrelid = i.indrelid
  AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))::text AS columns
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass({table}) AND i.indisunique AND NOT i.indimmediate
"""


def deferrable_key(connection: Any, dialect: Dialect, name: TableName, key: Collection[str]) -> str | None:
    """
    Return the name of a deferrable constraint on exactly the key, None without one.

    PostgreSQL accepts it as the constraint that ON CONFLICT needs, and refuses it only once there is a row.
    """
    if dialect.name != "PostgreSQL":
        return None
    with contextlib.closing(connection.cursor()) as cursor:
        found = _ask(cursor, _POSTGRES_DEFERRABLE.format(table=_literal(dialect.table(name))))
    return next((row["name"] for row in found if set(json.loads(row["columns"])) == set(key)), None)


def _of_postgres(cursor: Any, dialect: Dialect, name: TableName) -> Iterator[Column]:
    table = _literal(dialect.table(name))
    found = _ask(cursor, _POSTGRES_COLUMNS.format(table=table, demands=_DEMANDS))
    demanded: set[str] = set()
    if any(row["is_view"] for row in found):
        # A row written to a view goes to the table behind it.
        behind = _ask(cursor, _POSTGRES_BASE_COLUMNS.format(table=table, demands=_DEMANDS))
        demanded = {row["name"] for row in behind if row["shown"]}
        hidden = (f"{row['base']}.{row['name']}" for row in behind if not row["shown"])
        yield from (Column(name=each, type="", required=True, nullable=False) for each in hidden)
    for row in found:
        yield Column(
            name=row["name"],
            type=row["type"].lower(),
            required=bool(row["required"]) or row["name"] in demanded,
            nullable=bool(row["nullable"]),
            generated=bool(row["generated"]),
            collations=tuple((row["collations"] or "").split(",")) if row["collations"] else (),
            exact=bool(row["is_enum"]),
        )


def _of_sqlite(cursor: Any, dialect: Dialect, name: TableName) -> Iterator[Column]:
    *schema, table = map(dialect.quote, name.parts)
    prefix = f"PRAGMA {schema[-1]}." if schema else "PRAGMA "
    collations: dict[str, set[str]] = {}
    for index in _ask(cursor, f"{prefix}index_list({table})"):
        if index["unique"]:
            for row in _ask(cursor, f"{prefix}index_xinfo({dialect.quote(index['name'])})"):
                if row["key"] and row["name"] is not None and row["coll"].upper() != "BINARY":
                    collations.setdefault(row["name"], set()).add(row["coll"].upper())
    strict = any(row.get("strict") for row in _ask(cursor, f"{prefix}table_list({table})"))
    columns = _ask(cursor, f"{prefix}table_xinfo({table})")
    keys = sum(bool(row["pk"]) for row in columns)
    for row in columns:
        generated = row["hidden"] in (2, 3)
        # SQLite gives a value to the only column of a key that is an INTEGER.
        numbered = row["pk"] and keys == 1 and row["type"].upper() == "INTEGER"
        yield Column(
            name=row["name"],
            type=row["type"].lower(),
            required=bool(row["notnull"]) and row["dflt_value"] is None and not generated and not numbered,
            nullable=not row["notnull"],
            generated=generated,
            collations=tuple(sorted(collations.get(row["name"], ()))),
            loose=not strict or row["type"].upper() == "ANY",
        )


def _of_duckdb(cursor: Any, _: Dialect, name: TableName) -> Iterator[Column]:
    *place, table = name.parts
    places = [("schema_name", place[-1:]), ("database_name", place[-2:-1])]
    where = f"lower(table_name) = lower({_literal(table)})" + "".join(
        f" AND lower({column}) = lower({_literal(part[0]) if part else default})"
        for (column, part), default in zip(places, ("current_schema()", "current_database()"), strict=True)
    )
    if len(place) == 1:
        # "a.b" may be a schema and a table, or a database and a table.
        where = (
            f"lower(table_name) = lower({_literal(table)}) "
            f"AND lower({_literal(place[0])}) IN (lower(schema_name), lower(database_name))"
        )
    made = _ask(cursor, f"SELECT sql FROM duckdb_tables() WHERE {where}")  # noqa: S608 (all is quoted)
    declared = str(made[0]["sql"]) if made else ""
    (usual,) = _ask(cursor, "SELECT current_setting('default_collation') AS collation")
    columns = f"SELECT * FROM duckdb_columns() WHERE {where} ORDER BY column_index"  # noqa: S608 (all is quoted)
    for row in _ask(cursor, columns):
        generated = bool(row.get("is_generated"))
        yield Column(
            name=row["column_name"],
            type=row["data_type"].lower(),
            required=not row["is_nullable"] and row["column_default"] is None and not generated,
            nullable=bool(row["is_nullable"]),
            generated=generated,
            collations=_collation_of_duckdb(declared, row["column_name"], str(usual["collation"] or "")),
            exact=row["data_type"].startswith("ENUM("),
        )


def _collation_of_duckdb(declared: str, name: str, usual: str) -> tuple[str, ...]:
    """
    Return the collation of a column; DuckDB has it only in the text of the table's CREATE statement.

    :param usual: the collation of columns without one.
    """
    quoted = '"' + name.replace('"', '""') + '"'
    found = re.search(
        rf"""[(,]\s*(?:{re.escape(quoted)}|{re.escape(name)})\s+VARCHAR\s+COLLATE\s+("[^"]*"|[\w.]+)""",
        declared,
        re.IGNORECASE,
    )
    collation = (found[1].strip('"') if found else usual).upper()
    return (f"DuckDB {collation}",) if collation not in ("", "BINARY", "C", "POSIX") else ()


_Reader = Callable[[Any, Dialect, TableName], Iterator[Column]]
_READERS: Mapping[str, _Reader] = {"PostgreSQL": _of_postgres, "SQLite": _of_sqlite, "DuckDB": _of_duckdb}
"""By the dialect's name."""
