"""
One statement out of the text of a query: where it ends, told apart from what only looks like its end.

A semicolon may be part of a quoted text, a name or a comment, and how those are written differs between databases.
sqlparse, which Airflow's SQL providers bring along, has one lexer for all of them: ``#`` begins a comment for
PostgreSQL, too, where ``#>`` is an operator, and a backslash escapes a quotation mark everywhere. So this reads the
text itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from airflow_provider_segmind.exceptions import SegmindConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Syntax:
    """
    What a database lets stand around a semicolon.

    :param nested: whether a block comment may hold another.
    :param line_comments: what begins a comment that ends with its line, as a regular expression.
    :param quotes: the marks that open and close a text or a name.
    :param backslashes: the marks within which a backslash escapes the next character.
    :param dollars: whether ``$tag$`` quotes a text.
    :param escape_strings: whether a backslash escapes in ``E'…'`` alone.
    :param brackets: whether ``[…]`` quotes a name.
    :param triple: whether three quotation marks are one.
    """

    nested: bool = False
    line_comments: str = "--"
    quotes: str = "'\"`"
    backslashes: str = ""
    dollars: bool = False
    escape_strings: bool = False
    brackets: bool = False
    triple: bool = False


_POSTGRES = Syntax(nested=True, quotes="'\"", dollars=True, escape_strings=True)
# MySQL takes "--" for a comment only before a blank.
_MYSQL = Syntax(line_comments=r"#|--(?=\s|\Z)", backslashes="'\"")
_BIGQUERY = Syntax(line_comments="#|--", backslashes="'\"`", triple=True)
_SQL_SERVER = Syntax(nested=True, quotes="'\"", brackets=True)
_HIVE = Syntax(backslashes="'\"")
_SYNTAXES: Mapping[str, Syntax] = {
    **dict.fromkeys(("postgres", "redshift", "pgvector", "duckdb"), _POSTGRES),
    "vertica": Syntax(nested=True, quotes="'\"", dollars=True, escape_strings=True),
    "sqlite": Syntax(brackets=True),
    "mysql": _MYSQL,
    "snowflake": Syntax(line_comments="--|//", quotes="'\"", backslashes="'", dollars=True),
    **dict.fromkeys(("gcpbigquery", "google_cloud_platform"), _BIGQUERY),
    **dict.fromkeys(("mssql", "odbc"), _SQL_SERVER),
    **dict.fromkeys(("hive_cli", "hiveserver2", "spark_sql", "databricks", "impala"), _HIVE),
}
"""By Airflow's connection type; others are read by the standard."""
_STANDARD = Syntax()
_DOLLAR = re.compile(r"\$(?:[^\W\d]\w*)?\$")
_BLOCK = re.compile(r"/\*|\*/")


def only_statement(text: str, conn_type: str, *, field: str = "sql") -> str:
    """
    Return the one statement that a text holds, without the semicolon that ends it and without what stands behind.

    A comment may stand at its end, so that whoever goes on behind it does so on a new line.

    :param conn_type: Airflow's connection type of the database.
    :param field: what the message calls the text.
    :raises SegmindConfigError: it holds none, or several. Nothing was sent.
    """
    statements = [piece for piece, is_code in _pieces(text, _SYNTAXES.get(conn_type, _STANDARD)) if is_code]
    if not statements:
        raise SegmindConfigError(f"{field!r} holds no statement, only blanks and comments. Nothing was sent.")
    if len(statements) > 1:
        raise SegmindConfigError(
            f"{field!r} holds {len(statements)} statements, but the rows come from one: give the SELECT alone. Nothing "
            "was sent."
        )
    return statements[0].strip()


def _pieces(text: str, syntax: Syntax) -> list[tuple[str, bool]]:
    """Return what stands between semicolons, and whether it is more than blanks and comments."""
    found: list[tuple[str, bool]] = []
    start = place = 0
    is_code = False
    while place < len(text):
        end = _comment_end(text, place, syntax)
        if end is None:
            if text[place] == ";":
                found.append((text[start:place], is_code))
                start, is_code = place + 1, False
                end = place + 1
            else:
                is_code = is_code or not text[place].isspace()
                end = _quoted_end(text, place, syntax) or place + 1
        place = end
    return [*found, (text[start:], is_code)]


def _comment_end(text: str, place: int, syntax: Syntax) -> int | None:
    """Return where a comment that begins here ends, None when none does."""
    if re.compile(syntax.line_comments).match(text, place):
        line = re.compile(r"[\r\n]").search(text, place)
        return line.end() if line else len(text)
    if not text.startswith("/*", place):
        return None
    depth, place = 1, place + 2
    while depth and (mark := _BLOCK.search(text, place)):
        if mark[0] == "*/":
            depth -= 1
        elif syntax.nested:
            depth += 1
        place = mark.end()
    return len(text) if depth else place


def _quoted_end(text: str, place: int, syntax: Syntax) -> int | None:
    """Return where a quoted text or name that begins here ends, None when none does."""
    mark = text[place]
    if syntax.dollars and mark == "$" and not _in_word(text, place) and (dollar := _DOLLAR.match(text, place)):
        end = text.find(dollar[0], dollar.end())
        return len(text) if end < 0 else end + len(dollar[0])
    if syntax.brackets and mark == "[":
        return _closing(text, place + 1, "]", escapes=False)
    if mark not in syntax.quotes:
        return None
    escapes = mark in syntax.backslashes
    if syntax.escape_strings and mark == "'" and text[place - 1 : place] in ("E", "e"):
        escapes = not _in_word(text, place - 1)
    closing = mark * 3 if syntax.triple and text.startswith(mark * 3, place) else mark
    return _closing(text, place + len(closing), closing, escapes=escapes)


def _closing(text: str, place: int, mark: str, *, escapes: bool) -> int:
    """Return the place behind a closing mark; where it stands twice, the next piece is read like this one."""
    pattern = re.compile((r"\\.|" if escapes else "") + re.escape(mark), re.DOTALL)
    while match := pattern.search(text, place):
        place = match.end()
        if match[0] != mark:
            continue
        if len(mark) == 1 and text.startswith(mark, place):
            place += 1
            continue
        return place
    return len(text)


def _in_word(text: str, place: int) -> bool:
    """Tell whether a character belongs to the word before it."""
    before = text[place - 1 : place]
    return before.isalnum() or before in ("_", "$") if before else False
