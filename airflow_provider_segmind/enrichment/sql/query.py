"""
The rows of a query: its single statement, read in blocks by a separate thread.

The end of a statement is found by our own lexer, because quotation marks and comments differ between databases and
sqlparse has one lexer for all of them.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from typing import Any

from airflow_provider_segmind.enrichment.rows import Undecoded
from airflow_provider_segmind.enrichment.sql.dialects import again_after_conflicts, driver_errors
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.wording import counted


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
    :param raw: whether a backslash does not escape in ``r'…'``.
    :param delimiters: whether ``q'[…]'`` quotes a string, with any other character in place of the brackets.
    """

    nested: bool = False
    line_comments: str = "--"
    quotes: str = "'\"`"
    backslashes: str = ""
    dollars: bool = False
    escape_strings: bool = False
    brackets: bool = False
    triple: bool = False
    raw: bool = False
    delimiters: bool = False


_POSTGRES = Syntax(nested=True, quotes="'\"", dollars=True, escape_strings=True)
# In MySQL, "--" begins a comment only before white space.
_MYSQL = Syntax(line_comments=r"#|--(?=\s|\Z)", backslashes="'\"")
_BIGQUERY = Syntax(line_comments="#|--", backslashes="'\"`", triple=True)
_SQL_SERVER = Syntax(nested=True, quotes="'\"", brackets=True)
_SNOWFLAKE = Syntax(line_comments="--|//", quotes="'\"", backslashes="'", dollars=True)
_HIVE = Syntax(backslashes="'\"")
_SPARK = replace(_HIVE, raw=True)
_ORACLE = Syntax(quotes="'\"", delimiters=True)
_REDSHIFT = replace(_POSTGRES, backslashes="'")
_CLICKHOUSE = Syntax(line_comments="#|--", backslashes="'\"`", dollars=True)
_STANDARD = Syntax()
_BACKSLASHES = Syntax(backslashes="'\"`")
_SYNTAXES: Mapping[str, tuple[Syntax, ...]] = {
    **dict.fromkeys(("postgres", "pgvector", "duckdb"), (_POSTGRES,)),
    "redshift": (_REDSHIFT, _POSTGRES),
    "vertica": (Syntax(nested=True, quotes="'\"", dollars=True, escape_strings=True),),
    "sqlite": (Syntax(brackets=True),),
    # With NO_BACKSLASH_ESCAPES a backslash is an ordinary character.
    "mysql": (_MYSQL, replace(_MYSQL, backslashes="")),
    "oracle": (_ORACLE,),
    "clickhouse": (_CLICKHOUSE,),
    "snowflake": (_SNOWFLAKE,),
    **dict.fromkeys(("gcpbigquery", "google_cloud_platform"), (_BIGQUERY,)),
    "mssql": (_SQL_SERVER,),
    **dict.fromkeys(("hive_cli", "hiveserver2", "impala"), (_HIVE,)),
    **dict.fromkeys(("spark_sql", "databricks"), (_SPARK, _HIVE)),
}
"""By Airflow's connection type: how its statements may be read, the usual way first."""
_UNKNOWN = (
    _STANDARD,
    _BACKSLASHES,
    _MYSQL,
    _POSTGRES,
    _SQL_SERVER,
    _ORACLE,
    _SNOWFLAKE,
    _CLICKHOUSE,
    _BIGQUERY,
    _SPARK,
)
"""How the statements of other databases, and of those behind a bridge such as JDBC, may be read."""
_BLOCK = re.compile(r"/\*|\*/")


def only_statement(text: str, conn_type: str) -> str:
    """
    Return the single statement of a text, without its semicolon and what follows.

    It may end with a line comment, so that text to be appended must begin on a new line.

    :param conn_type: Airflow's connection type of the database.
    :raises SegmindConfigError: there is none, or there are several. Nothing was sent.
    """
    syntaxes = _SYNTAXES.get(conn_type, _UNKNOWN)
    readings = [(syntax, *_pieces(text, syntax)) for syntax in syntaxes]
    closed = [(syntax, found) for syntax, found, whole in readings if whole] or [readings[0][:2]]
    # If the text can be read as one statement, the database decides.
    syntax, statements = next((reading for reading in closed if len(reading[1]) == 1), closed[0])
    if not statements:
        raise SegmindConfigError("'sql' contains no statement, only white space and comments. Nothing was sent.")
    if len(statements) > 1:
        raise SegmindConfigError(
            f"'sql' contains {len(statements)} statements, but only one is allowed: give the SELECT alone. Nothing "
            "was sent."
        )
    verb = _verb(statements[0], syntax)
    if verb in _CHANGES:
        raise SegmindConfigError(
            f"'sql' is a statement that changes the database ({verb}): give a SELECT. It was not run. Nothing was sent."
        )
    return statements[0].strip()


_CHANGES = frozenset(
    {
        *("ALTER", "COPY", "CREATE", "DELETE", "DROP", "GRANT", "INSERT", "MERGE", "RENAME", "REPLACE", "REVOKE"),
        *("TRUNCATE", "UPDATE", "UPSERT"),
    }
)
"""First words of statements that change data; the rows of some (``RETURNING``) could be read like those of a SELECT."""
_FIRST_WORD = re.compile(r"[^\W\d]\w*")
_CHANGING_CTE = re.compile(r"\bAS\s+(?:NOT\s+)?(?:MATERIALIZED\s+)?\(\s*(INSERT|UPDATE|DELETE|MERGE)\b")
_INNERMOST = re.compile(r"\([^()]*\)")
_AFTER_CTES = re.compile(r"\b(SELECT|VALUES|TABLE|FROM|INSERT|UPDATE|DELETE|MERGE|REPLACE)\b(?!\s+AS\b)")


def _verb(statement: str, syntax: Syntax) -> str:
    """Return the first word of a statement in capitals; after a WITH, the word that says what the statement does."""
    code = "".join(
        statement[start:end] if kind == "other" else " " for kind, start, end, _ in _read_tokens(statement, syntax)
    ).upper()
    first = _FIRST_WORD.search(code)
    if first is None or first[0] != "WITH":
        return first[0] if first else ""
    if inside := _CHANGING_CTE.search(code):
        return inside[1]
    while (outside := _INNERMOST.sub(" ", code)) != code:
        code = outside
    after = _AFTER_CTES.search(code)
    return after[1] if after else "WITH"


def _pieces(text: str, syntax: Syntax) -> tuple[list[str], bool]:
    """Return the statements between semicolons, and whether every quote and comment in them is closed."""
    found: list[str] = []
    start = 0
    is_code, whole = False, True
    for kind, begin, place, closed in _read_tokens(text, syntax):
        whole = whole and closed
        if kind == "end":
            found += [text[start:begin]] if is_code else []
            start, is_code = place, False
        elif kind in ("code", "open", "other"):
            is_code = True
    return [*found, *([text[start:]] if is_code else [])], whole


def _read_tokens(text: str, syntax: Syntax) -> Iterator[tuple[str, int, int, bool]]:
    """Yield the kind of each token, where it begins and ends, and whether it is closed there."""
    token = _tokens(syntax)
    place = 0
    while match := token.match(text, place):
        kind, place = str(match.lastgroup), match.end()
        closed = kind != "open"
        if kind == "block":
            place, closed = _block_end(text, place, nested=syntax.nested)
        yield kind, match.start(), place, closed


@cache
def _tokens(syntax: Syntax) -> re.Pattern[str]:
    code, opened = [], [re.escape(mark) for mark in syntax.quotes]
    if syntax.dollars:
        tag = r"(?<![\w$])\$(?:[^\W\d]\w*)?\$"
        code.append(rf"(?P<tag>{tag}).*?(?P=tag)")
        opened.append(tag)
    if syntax.delimiters:
        pairs = "|".join(rf"{re.escape(left)}.*?{re.escape(right)}'" for left, right in ("[]", "{}", "()", "<>"))
        code.append(rf"(?<![\w$#])[Nn]?[Qq]'(?:{pairs}|(?P<delimiter>[^\s\[{{(<]).*?(?P=delimiter)')")
    if syntax.raw:
        code += [rf"(?<![\w$])[Rr]{mark}[^{mark}]*{mark}" for mark in "'\""]
    if syntax.escape_strings:
        code.append(r"(?<![\w$])[Ee]" + _quoted("'", "'", escapes=True))
    for mark in syntax.quotes:
        escapes = mark in syntax.backslashes
        code += [_quoted(mark * 3, mark * 3, escapes=escapes)] if syntax.triple else []
        code.append(_quoted(mark, mark, escapes=escapes))
    if syntax.brackets:
        code.append(_quoted("[", "]", escapes=False))
        opened.append(r"\[")
    return re.compile(
        rf"(?P<line>(?:{syntax.line_comments})[^\r\n]*)|(?P<block>/\*)|(?P<end>;)|(?P<space>\s+)"
        rf"|(?P<code>{'|'.join(code)})|(?P<open>(?:{'|'.join(opened)}).*)|(?P<other>.)",
        re.DOTALL,
    )


def _quoted(opening: str, closing: str, *, escapes: bool) -> str:
    """Return the pattern of a string or name up to its closing mark, which may be doubled inside."""
    mark = re.escape(closing)
    inside = [mark * 2] if len(closing) == 1 else []
    inside += [r"\\."] if escapes else []
    return rf"{re.escape(opening)}(?:{'|'.join([*inside, f'(?!{mark}).'])})*+{mark}"


def _block_end(text: str, place: int, *, nested: bool) -> tuple[int, bool]:
    """Return where a comment ends, and whether it is closed there."""
    depth = 1
    while depth and (mark := _BLOCK.search(text, place)):
        place = mark.end()
        if mark[0] == "*/":
            depth -= 1
        elif nested:
            depth += 1
    return (len(text), False) if depth else (place, True)


FETCH_ROWS = 1000
CURSOR = "segmind_rows"
CLOSING_SECONDS = 0.5
"""How long a cursor may take to close; a hanging driver must not delay a finished run."""


class Query:
    """
    The rows of one query, as dicts.

    SQLite lets only the thread that opened a connection use it, and the engine reads in any free thread; so a thread
    of its own opens, reads and closes. PostgreSQL keeps the rows at the server, in a cursor that outlives its
    transaction: rows are read for as long as answers take, and an open transaction would keep vacuum waiting that long.
    SQLite keeps them in a temporary file, because an open query locks its database for writers.

    :param connect: opens a connection of PEP 249.
    :param sql: a SELECT.
    :param name: its name in messages.
    :param hold: whether reading takes long, so that the rows must outlive the transaction.
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
        self._description: Any = None
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
            if len(block) < FETCH_ROWS:
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
        _keep_far_times(connection)
        if isinstance(connection, sqlite3.Connection):
            connection.text_factory = _text
        server_side = type(connection).__module__.startswith("psycopg")
        self._cursor = connection.cursor(name=CURSOR, withhold=self._hold) if server_side else connection.cursor()
        try:
            self._cursor.execute(self.sql)
            if server_side and self._hold:
                connection.commit()
            elif self._hold and isinstance(connection, sqlite3.Connection):
                self._description = self._cursor.description
                self._cursor = _set_aside(connection, self._cursor, self.sql)
        except BaseException:
            self._close()
            raise

    def _fetch(self) -> tuple[Sequence[Any], Any]:
        # Numbers only: a message must not repeat a statement, which may name people, nor the values of a row.
        doing = f"Reading {self._name} failed after {counted(self._rows_read, 'row')}: fetching more"
        meaning = "Answers to the rows before are in the ledger and are not paid for again."
        with driver_errors(doing, meaning=meaning, values=True):
            return self._cursor.fetchmany(FETCH_ROWS), self._description or self._cursor.description

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


def _text(stored: bytes) -> str | Undecoded:
    """Return a text of SQLite, which accepts any bytes as one: those that are no text concern their row alone."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return Undecoded("text that is not UTF-8")


def _set_aside(connection: sqlite3.Connection, rows: sqlite3.Cursor, sql: str) -> sqlite3.Cursor:
    """Move the rows of a query into a temporary table; where they do not fit, leave them to be read one by one."""
    table, width = f"temp.{CURSOR}", len(rows.description or ())
    try:
        # Columns without a type keep every value as it is.
        connection.execute(f"CREATE TEMP TABLE {CURSOR} ({', '.join(f'c{number}' for number in range(width))})")
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * width)})", rows)  # noqa: S608 (no input)
        connection.commit()
        return connection.execute(f"SELECT * FROM {table} ORDER BY rowid")  # noqa: S608 (no input)
    except sqlite3.Error:
        # A full disk, or a text that is not UTF-8 and cannot be written.
        connection.rollback()
        return connection.execute(sql)


_TIMES = (
    ("PYDATE", 1082, 1182),
    ("PYTIME", 1083, 1183),
    ("PYTIME", 1266, 1270),
    ("PYDATETIME", 1114, 1115),
    ("PYDATETIMETZ", 1184, 1185),
    ("PYINTERVAL", 1186, 1187),
)
"""PostgreSQL's types of dates and times: psycopg2's name, and the oids of the type and its array (pg_type.dat)."""


def _keep_far_times(connection: Any) -> None:
    """
    Make the drivers read dates and times of PostgreSQL that Python does not have (``infinity``, 44 BC, 24:00) as
    strings. They would raise an error, even if nothing needs the column, or read another time.
    """
    driver = type(connection).__module__.partition(".")[0]
    if driver == "psycopg":
        for _, oid, _ in _TIMES:
            connection.adapters.register_loader(oid, _far_times_loader(connection.adapters.get_loader(oid, 0)))
    elif driver == "psycopg2":
        extensions, errors = import_module("psycopg2.extensions"), import_module("psycopg2").Error
        for name, oid, arrays in _TIMES:
            read = partial(_time_or_text, getattr(extensions, name), (ValueError, ArithmeticError, errors))
            kind = extensions.new_type((oid,), name, read)
            extensions.register_type(kind, connection)
            extensions.register_type(extensions.new_array_type((arrays,), f"{name}ARRAY", kind), connection)


def _far_times_loader(near: Any) -> Any:
    """Return a loader of psycopg 3 that returns as a string what another one cannot load."""
    adapt, unreadable = import_module("psycopg.adapt"), import_module("psycopg").DataError

    class FarTimesLoader(adapt.Loader):  # type: ignore[misc, name-defined]
        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._near = near(oid, context)

        def load(self, data: Any) -> Any:
            # Inside an array it is not a string that ends where the value does.
            text = bytes(data)
            try:
                return self._near.load(text)
            except unreadable:
                return text.decode()

    return FarTimesLoader


def _time_or_text(read: Any, unreadable: tuple[type[Exception], ...], text: str | None, cursor: Any) -> Any:
    # psycopg2 reads these as other times.
    if text is not None and (text.endswith("infinity") or text.startswith("24:")):
        return text
    try:
        return read(text, cursor)
    except unreadable:
        return text


def _plain(value: Any) -> Any:
    return bytes(value) if type(value) is memoryview else value
