"""What stands behind a statement is left out, what only looks like its end is not, and two statements are refused."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_segmind.enrichment.sql.query import Query, only_statement
from airflow_provider_segmind.exceptions import SegmindConfigError
from tests.support.databases import OneDatabase
from tests.support.examples import examples

BLANKS = st.sampled_from(["", " ", "\n", "\t\r\n", "-- all\n", "--;'\"$$\n", "/* ; */", "/* it's */", "/**/"])
NESTED = st.sampled_from(["/* a /* ; */ b; */", "/*/*/**/*/*/", "/* /* -- */ */"])
CODE = ["';'", "'it''s; /*'", "'--;'", "1 /* ; ' */", "2 -- ; '\n", "'\\'", "''';'''"]
CODE_OF = {
    "sqlite": [*CODE, """(SELECT "a;b" FROM (SELECT 1 AS "a;b"))""", "(SELECT [a;'b] FROM (SELECT 2 AS [a;'b]))"],
    "duckdb": [*CODE, "$$;'$$", "$a$ $$ ; $a$", r"e'a\';'", "1/* /* ; */ ; */"],
    "postgres": [*CODE, "$$;'$$", "$a$ $$ ; $a$", r"e'a\';'", "1/* /* ; */ ; */", "'{\"a\": 1}'::jsonb #> '{a;b}'"],
}


@st.composite
def queries(draw: st.DrawFn, conn_type: str) -> tuple[str, str]:
    """Return a query, and what stands behind its end."""
    blanks = BLANKS if conn_type == "sqlite" else BLANKS | NESTED
    cells = draw(st.lists(st.sampled_from(CODE_OF[conn_type]), min_size=1, max_size=4))
    columns = ", ".join(f"{cell} AS c{number}" for number, cell in enumerate(cells))
    tail = draw(st.sampled_from(["", " ORDER BY 1", " ORDER BY c0 LIMIT 1", " LIMIT 5"]))
    head = "".join(draw(st.lists(blanks, max_size=2)))
    cte = draw(st.sampled_from(["", "WITH one AS (SELECT ';' AS x) "]))
    rest = "".join(draw(st.lists(blanks | st.just(";"), max_size=5)))
    last = draw(st.sampled_from(["", "-- the last line", "/* done */"]))
    return f"{head}{cte}SELECT {columns}{tail}", f"{rest}{last}"


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_database_takes_every_query_as_a_part_of_another(database: OneDatabase, data: st.DataObject) -> None:
    query, rest = data.draw(queries(database.conn_type))
    connection = database.connect()
    try:
        statement = only_statement(query + rest, database.conn_type)
        cursor = connection.cursor()
        cursor.execute(f"SELECT COUNT(*) FROM (\n{statement}\n) counted")
        assert cursor.fetchone()[0] == 1
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("conn_type", "text", "statement"),
    [
        ("mysql", "SELECT 5--3; # all; of\n-- them", "SELECT 5--3"),
        ("mysql", r"SELECT 'it\'s;' # ;", r"SELECT 'it\'s;' # ;"),
        ("mysql", "SELECT `a;b` FROM t;", "SELECT `a;b` FROM t"),
        ("gcpbigquery", "SELECT '''a';b''', r'\\'; # ;", "SELECT '''a';b''', r'\\'; # ;"),
        ("gcpbigquery", "SELECT '''a';b'''; # ;", "SELECT '''a';b'''"),
        ("snowflake", "SELECT $$;$$; // ; all", "SELECT $$;$$"),
        ("mssql", "SELECT [a]];b] FROM t; /* /* ; */ ; */", "SELECT [a]];b] FROM t"),
        ("postgres", "SELECT a$b$ FROM t; -- $b$", "SELECT a$b$ FROM t"),
        ("postgres", r"SELECT 'a\'; -- '", r"SELECT 'a\'"),
        ("never heard of", "SELECT 1;;; -- all", "SELECT 1"),
        ("oracle", "SELECT q'[it's;]' FROM dual; -- all;", "SELECT q'[it's;]' FROM dual"),
        ("oracle", "SELECT q'{it's;}', Q'(;')', nq'<';>', q'!it's;!' FROM dual;", None),
        ("oracle", "SELECT q'\"it's;\"' || q'';a'' FROM dual;", None),
        ("oracle", "SELECT seq 'a', nq FROM t;", None),
        ("oracle", r"SELECT 'C:\' FROM dual; -- it's", r"SELECT 'C:\' FROM dual"),
        ("redshift", r"SELECT 'a\';b' FROM t; -- ;", r"SELECT 'a\';b' FROM t"),
        ("redshift", r"SELECT 'C:\', ';' FROM t;", None),
        (
            "clickhouse",
            r"SELECT 'a\';b', `c\`;`, $x$it's;$x$ FROM t; # all;",
            r"SELECT 'a\';b', `c\`;`, $x$it's;$x$ FROM t",
        ),
        ("mysql", r"SELECT 'a\';b' FROM t;", None),
        ("mysql", r"SELECT 'C:\', ';' FROM t;", None),
        ("databricks", r"SELECT 'a\';b', r'C:\', ';' FROM t;", None),
        ("hiveserver2", r"SELECT 'a\';b' FROM t;", None),
        ("jdbc", "SELECT q'[it's;]' FROM dual;", None),
        ("jdbc", r"SELECT 'a\';b' FROM t;", None),
        ("odbc", "SELECT [it's;] FROM t;", None),
        ("odbc", "SELECT $$it's;$$ FROM t;", None),
        ("generic", "SELECT 1 # it's; all", None),
        # The database says what is wrong with these.
        ("postgres", "SELECT 'a; --", "SELECT 'a; --"),
        ("postgres", "SELECT 1 /* ;", "SELECT 1 /* ;"),
        ("postgres", "SELECT $$;", "SELECT $$;"),
    ],
)
def test_each_database_has_quotation_marks_and_comments_of_its_own(
    conn_type: str, text: str, statement: str | None
) -> None:
    assert only_statement(text, conn_type) == (text.removesuffix(";") if statement is None else statement)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1; SELECT 2",
        r"SELECT 'it\'s'; DELETE FROM t",
        "SELECT 'a'; DELETE FROM t -- all",
        'SELECT `a`;\nSELECT "b";',
    ],
)
@pytest.mark.parametrize("conn_type", ["oracle", "redshift", "clickhouse", "mysql", "databricks", "jdbc", "odbc", ""])
def test_two_statements_are_refused_however_they_are_read(text: str, conn_type: str) -> None:
    if conn_type == "oracle" and "\\" in text:
        # Its last quotation mark opens a string there.
        assert only_statement(text, conn_type) == text
        return
    with pytest.raises(SegmindConfigError, match="'sql' contains 2 statements"):
        only_statement(text, conn_type)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SELECT 1; SELECT 2", "2 statements"),
        ("SELECT 1; DROP TABLE things; -- all", "2 statements"),
        ("SET x = 1; SELECT 1; ;", "2 statements"),
        ("SELECT ';'; /* */ $$;$$", "2 statements"),
        ("SELECT 1; SELECT 'a", "2 statements"),
        ("", "no statement"),
        (" ;\n; -- SELECT 1", "no statement"),
    ],
)
def test_several_statements_or_none_are_refused(text: str, said: str) -> None:
    with pytest.raises(SegmindConfigError, match=f"'sql' contains {said}.*Nothing was sent"):
        Query(lambda: None, text, name="db", conn_type="postgres")


CHANGES = [
    ("UPDATE things SET thing = 'SELECT'", "UPDATE"),
    ("/* WITH */ delete FROM things RETURNING id", "DELETE"),
    ("-- SELECT\nInsert INTO things VALUES (1) RETURNING *", "INSERT"),
    ("REPLACE INTO things VALUES (1)", "REPLACE"),
    ("DROP TABLE things", "DROP"),
    ("CREATE TABLE others AS SELECT * FROM things", "CREATE"),
    ("WITH x AS (SELECT (1)), y(a) AS (SELECT 'SELECT') DELETE FROM things", "DELETE"),
    ("WITH x AS (SELECT 1) /* SELECT */ UPDATE things SET id = (SELECT 1)", "UPDATE"),
    ("WITH x AS NOT MATERIALIZED ( delete FROM things RETURNING id) SELECT * FROM x", "DELETE"),
]


@pytest.mark.parametrize(("text", "verb"), CHANGES)
@pytest.mark.parametrize("conn_type", ["sqlite", "duckdb", "postgres", "mysql", "jdbc"])
def test_a_statement_that_changes_data_is_refused(text: str, verb: str, conn_type: str) -> None:
    with pytest.raises(SegmindConfigError, match=rf"changes the database \({verb}\).*It was not run. Nothing was sent"):
        only_statement(text, conn_type)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT replace(a, 'b', 'c') AS \"update\", a AS deleted FROM updates FOR UPDATE",
        "(SELECT 1) UNION (SELECT 2)",
        "WITH RECURSIVE x(a) AS (SELECT 1), replace AS (SELECT 2) SELECT cast(a AS text), insert(a, 1) FROM x",
        "WITH \"x) DELETE FROM t\" AS (SELECT '(') SELECT 1",
        "VALUES (1)",
        "FROM things",
        "CALL things()",
        "PRAGMA table_info(things)",
    ],
)
@pytest.mark.parametrize("conn_type", ["sqlite", "duckdb", "postgres", "mysql", "jdbc"])
def test_other_statements_are_left_to_the_database(text: str, conn_type: str) -> None:
    assert only_statement(text, conn_type) == text
