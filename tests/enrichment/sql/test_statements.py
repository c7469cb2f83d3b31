"""What is sent to the databases that no test can reach, and that nothing in a name can run."""

from __future__ import annotations

import pytest

from airflow_provider_segmind.enrichment.sql.column_types import Kind
from airflow_provider_segmind.enrichment.sql.dialects import DIALECTS, TableName, dialect_of, quoted
from airflow_provider_segmind.enrichment.sql.statements import Statements
from airflow_provider_segmind.exceptions import SegmindConfigError

CONDITION = (
    "((COALESCE(held.{q}_segmind_status{q}, '') <> COALESCE(excluded.{q}_segmind_status{q}, '') "
    "OR COALESCE(held.{q}_segmind_fingerprint{q}, '') <> COALESCE(excluded.{q}_segmind_fingerprint{q}, '') "
    "OR COALESCE(held.{q}_segmind_request_id{q}, '') <> COALESCE(excluded.{q}_segmind_request_id{q}, '') "
    "OR COALESCE(held.{q}_segmind_cost{q}, -1) <> COALESCE(excluded.{q}_segmind_cost{q}, -1) "
    "OR held.{q}team{q} IS NULL AND excluded.{q}team{q} IS NOT NULL "
    "OR held.{q}sure{q} IS NULL AND excluded.{q}sure{q} IS NOT NULL) "
    "AND (excluded.{q}_segmind_status{q} = 'success' "
    "OR (excluded.{q}_segmind_status{q} IN ('blocked', 'failed', 'invalid', 'truncated') "
    "AND (NOT COALESCE(held.{q}_segmind_status{q}, '') = 'success' "
    "OR COALESCE(held.{q}_segmind_fingerprint{q}, '') <> COALESCE(excluded.{q}_segmind_fingerprint{q}, ''))) "
    "OR COALESCE(held.{q}_segmind_status{q}, '') IN ('', 'unknown', 'skipped')))"
)


def statements(conn_type: str, name: str = "shop.answers") -> Statements:
    return Statements(
        dialect=dialect_of(conn_type),
        name=TableName.parse(name, "target_table"),
        key={"sku": Kind.INTEGER},
        answers={"team": Kind.TEXT, "sure": Kind.NUMBER},
    )


def test_snowflake_merges() -> None:
    made = statements("snowflake", "DB.SHOP.ANSWERS")
    own = [
        "fingerprint VARCHAR", "status VARCHAR", "error VARCHAR", "request_id VARCHAR", "model VARCHAR",
        "cost DOUBLE", "tokens NUMBER(38, 0)",
    ]  # fmt: skip
    own = [f'"_segmind_{one.split()[0]}" {one.partition(" ")[2]}' for one in own]
    columns = ['"sku"', '"team"', '"sure"', *(one.split()[0] for one in own)]
    types = ["NUMBER(38, 0)", "VARCHAR", "DOUBLE", *(one.partition(" ")[2] for one in own)]
    selected = ", ".join(f"CAST(%s AS {kind}) AS {name}" for name, kind in zip(columns, types, strict=True))

    assert made.create() == (
        'CREATE TABLE IF NOT EXISTS "DB"."SHOP"."ANSWERS" (\n  "sku" NUMBER(38, 0),\n  "team" VARCHAR,\n'
        '  "sure" DOUBLE,\n  ' + ",\n  ".join(own) + ',\n  PRIMARY KEY ("sku")\n)'
    )
    assert made.write(2) == (
        f'MERGE INTO "DB"."SHOP"."ANSWERS" AS held USING (SELECT {selected} UNION ALL SELECT {selected}) AS excluded '
        f'ON held."sku" = excluded."sku" WHEN MATCHED AND {CONDITION.format(q=chr(34))} THEN UPDATE SET '
        + ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
        + f" WHEN NOT MATCHED THEN INSERT ({', '.join(columns)}) "
        + f"VALUES ({', '.join(f'excluded.{name}' for name in columns)})"
    )


def test_bigquery_merges_with_named_values() -> None:
    made = statements("gcpbigquery", "my-project.shop.answers")
    text = made.write(2)

    assert text.startswith(
        "MERGE INTO `my-project`.`shop`.`answers` AS held USING (SELECT CAST(%(p0)s AS INT64) AS `sku`, "
        "CAST(%(p1)s AS STRING) AS `team`, CAST(%(p2)s AS FLOAT64) AS `sure`, "
    )
    assert " UNION ALL SELECT CAST(%(p10)s AS INT64) AS `sku`, " in text
    assert f"WHEN MATCHED AND {CONDITION.format(q='`')} THEN UPDATE SET `team` = excluded.`team`, " in text
    assert "PRIMARY KEY (`sku`) NOT ENFORCED" in made.create()
    assert made.parameters([{"sku": 1, "team": "a"}])["p1"] == "a"  # type: ignore[call-overload]


@pytest.mark.parametrize(("conn_type", "marker"), [("postgres", "%s"), ("sqlite", "?"), ("duckdb", "?")])
def test_the_others_have_on_conflict(conn_type: str, marker: str) -> None:
    text = statements(conn_type).write(1)

    assert text.startswith('INSERT INTO "shop"."answers" AS held ("sku", "team", "sure", "_segmind_fingerprint", ')
    assert f'VALUES ({", ".join([marker] * 10)}) ON CONFLICT ("sku") DO UPDATE SET "team" = excluded.' in text
    assert text.endswith(f"WHERE {CONDITION.format(q=chr(34))}")


def test_a_rehearsal_writes_no_row() -> None:
    text = statements("postgres").rehearse()

    assert 'SELECT "sku", "team", "sure", ' in text
    assert 'FROM "shop"."answers" WHERE 1 = 0 ON CONFLICT ("sku") DO UPDATE' in text


def test_a_database_that_is_not_known_is_said_to_be_none() -> None:
    with pytest.raises(SegmindConfigError, match=r"'mysql'.*PostgreSQL, SQLite, DuckDB, Snowflake, BigQuery"):
        dialect_of("mysql")


def test_every_dialect_has_a_type_for_every_kind() -> None:
    assert all(set(dialect.types) == set(Kind) for dialect in DIALECTS.values())


class TestNames:
    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("answers", ("answers",)),
            ("shop.Answers", ("shop", "Answers")),
            ('shop."my table.v1"', ("shop", "my table.v1")),
            ('"say ""hi"""', ('say "hi"',)),
            ("müsli.größe", ("müsli", "größe")),
        ],
    )
    def test_parts_are_told_apart(self, text: str, parts: tuple[str, ...]) -> None:
        assert TableName.parse(text, "target_table").parts == parts
        assert TableName.of_source(f" {text}\n") == TableName(parts)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a;drop table b",
            'a"b',
            '"a',
            '"a"b',
            "a'--",
            '""',
            'x"; DROP TABLE y; --',
        ],
    )
    def test_what_is_no_name_is_refused(self, text: str) -> None:
        assert TableName.of_source(text) is None
        with pytest.raises(SegmindConfigError, match="'target_table'"):
            TableName.parse(text, "target_table")

    def test_a_quotation_mark_ends_no_name(self) -> None:
        assert quoted('a" --', '"') == '"a"" --"'
        assert quoted("a` --\\", "`") == "`a\\` --\\\\`"
        with pytest.raises(SegmindConfigError):
            quoted("a\x00", '"')

    def test_a_percent_sign_is_no_placeholder(self) -> None:
        made = Statements(
            dialect=dialect_of("postgres"), name=TableName(("100%s",)), key={"%s": Kind.TEXT}, answers={"a%": Kind.TEXT}
        )

        assert made.write(1) % tuple("x" * 9) != ""
        assert '"100%s"' in made.write(1) % tuple("x" * 9)
        assert '"100%s"' in made.rehearse()
