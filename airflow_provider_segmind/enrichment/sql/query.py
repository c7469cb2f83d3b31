"""
The rows of a query: its single statement, read in blocks by a separate thread.

The end of a statement is found by our own lexer, because quotation marks and comments differ between databases and
sqlparse has one lexer for all of them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from airflow_provider_segmind.enrichment.sql.dialects import again_after_conflicts, driver_errors
from airflow_provider_segmind.exceptions import SegmindConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Syntax:
    """
    The quotes and comments of a database, in which a semicolon does not end a statement.

    :param nested: whether block comments nest.
    :param line_comments: the beginning of a line comment, as a regular expression.
    :param quotes: the quotation marks of strings and names.
    :param backslashes: the quotation marks within which a backslash escapes the next character.
    :param dollars: whether ``$tag$`` quotes a string.
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
    Return the single statement of a text, without its semicolon and what follows.

    It may end with a line comment, so that text to be appended must begin on a new line.

    :param conn_type: Airflow's connection type of the database.
    :param field: the name of the text in messages.
    :raises SegmindConfigError: there is none, or there are several. Nothing was sent.
    """
    statements = [piece for piece, is_code in _pieces(text, _SYNTAXES.get(conn_type, _STANDARD)) if is_code]
    if not statements:
        raise SegmindConfigError(f"{field!r} contains no statement, only white space and comments. Nothing was sent.")
    if len(statements) > 1:
        raise SegmindConfigError(
            f"{field!r} contains {len(statements)} statements, but only one is allowed: give the SELECT alone. Nothing "
            "was sent."
        )
    return statements[0].strip()


def _pieces(text: str, syntax: Syntax) -> list[tuple[str, bool]]:
    """Return the texts between semicolons, each with whether it is more than white space and comments."""
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
    """Return the end of a comment that begins here, None if none does."""
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
    """Return the end of a quoted string or name that begins here, None if none does."""
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
    """Return the position after a closing quotation mark; if it is doubled, the next piece is read like this one."""
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
    """Return whether a character belongs to the word before it."""
    before = text[place - 1 : place]
    return before.isalnum() or before in ("_", "$") if before else False


BLOCK_ROWS = 1000
CURSOR = "segmind_rows"
CLOSING_SECONDS = 0.5
"""How long a cursor may take to close; a hanging driver must not delay a finished run."""


class Query:
    """
    The rows of one query, as dicts.

    SQLite lets only the thread that opened a connection use it, and the engine reads in any free thread; so a thread
    of its own opens, reads and closes. PostgreSQL keeps the rows at the server, in a cursor that outlives its
    transaction: rows are read for as long as answers take, and an open transaction would keep vacuum waiting that long.

    :param connect: opens a connection of PEP 249.
    :param sql: a SELECT.
    :param name: its name in messages.
    :param hold: whether reading takes long, so that PostgreSQL needs a cursor that outlives its transaction.
    :param conn_type: Airflow's connection type of the database, which says how its statements are written.
    :raises SegmindConfigError: ``sql`` is not one statement.
    """

    def __init__(
        self, connect: Callable[[], Any], sql: str, *, name: str, hold: bool = True, conn_type: str = ""
    ) -> None:
        self._hold = hold
        self._connect = connect
        self.sql = only_statement(sql, conn_type)
        self._name = name
        self._rows_read = 0
        self._connection: Any = None
        self._cursor: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segmind-sql")

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """
        Yield the rows, once.

        :raises SegmindEnrichmentError: the database failed.
        :raises SegmindConfigError: two columns have the same name.
        """
        self.open()
        names: list[str] | None = None
        while True:
            block, description = self._thread.submit(self._fetch).result()
            if names is None:
                names = self._names(description)
            self._rows_read += len(block)
            for row in block:
                yield row if isinstance(row, Mapping) else dict(zip(names, map(_plain, row), strict=True))
            if len(block) < BLOCK_ROWS:
                self.close()
                return

    def open(self) -> None:
        """
        Run the query, unless it runs already.

        :raises SegmindEnrichmentError: the database refused it.
        """
        if self._cursor is None:
            with driver_errors(f"Reading {self._name}", meaning="Nothing was sent."):
                self._thread.submit(again_after_conflicts, self._open).result()

    def close(self) -> None:
        """Close the connection."""
        closing = self._thread.submit(self._close)
        with contextlib.suppress(TimeoutError):
            closing.result(CLOSING_SECONDS)
        self._thread.shutdown(wait=False)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segmind-sql")

    def _open(self) -> None:
        connection = self._connection = self._connect()
        server_side = type(connection).__module__.startswith("psycopg")
        self._cursor = connection.cursor(name=CURSOR, withhold=self._hold) if server_side else connection.cursor()
        try:
            self._cursor.execute(self.sql)
            if server_side and self._hold:
                connection.commit()
        except BaseException:
            self._close()
            raise

    def _fetch(self) -> tuple[Sequence[Any], Any]:
        # Numbers only: a message must not repeat a statement, which may name people, nor the values of a row.
        doing = f"Reading {self._name} failed after {self._rows_read} rows: fetching more"
        meaning = "What was answered for the rows before is in the ledger and is not paid again."
        with driver_errors(doing, meaning=meaning, values=True):
            return self._cursor.fetchmany(BLOCK_ROWS), self._cursor.description

    def _close(self) -> None:
        for each in (self._cursor, self._connection):
            # All that is needed has been read.
            with contextlib.suppress(Exception):
                if each is not None:
                    each.close()
        self._connection = self._cursor = None

    def _names(self, description: Sequence[Sequence[Any]] | None) -> list[str]:
        names = [str(column[0]) for column in description or ()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SegmindConfigError(
                f"{self._name} has the columns {twice} twice: rename them with AS. Nothing was sent."
            )
        return names


def _plain(value: Any) -> Any:
    return bytes(value) if type(value) is memoryview else value
