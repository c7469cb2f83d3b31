"""Tables for people and JSON for scripts, on the standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 200
"""Characters of a line that does not go to a terminal."""
_UNPRINTABLE = dict.fromkeys((*range(32), *range(127, 160)), " ")


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON; dates and paths as strings."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    _write(json.dumps(value, indent=indent, ensure_ascii=plain, default=str) + "\n")


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str | None]], *, right: Iterable[str] = ()) -> None:
    """
    Print a table; one that is wider than the terminal is printed row by row, so that ids can be copied.

    :param right: titles of the columns of numbers.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold", justify="right" if title in right else "left")
    cells = [["-" if cell is None else _clean(cell) for cell in row] for row in rows]
    for row in cells:
        table.add_row(*map(Text, row))
    console = _console()
    unbounded = console.options.update(max_width=10_000)
    if console.measure(table, options=unbounded).maximum <= console.width or not cells:
        _show(console, table)
        return
    for row in cells:
        print_facts(dict(zip(titles, row, strict=True)))
        say("")


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values, one below another; underscores in a name are shown as spaces."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(_clean(name.replace("_", " "))), Text("\n".join(map(_clean, _lines(value)))))
    _show(_console(), table)


def _lines(value: Any) -> Iterator[str]:
    """Yield the lines of a value without what is None; what is nested is indented."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            if each is None:
                continue
            lines = list(_lines(each))
            nested = isinstance(each, Mapping) or len(lines) != 1
            yield f"{name}:" if nested else f"{name}: {lines[0]}"
            yield from (f"  {line}" for line in lines if nested)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _lines(each)
    else:
        yield from (value if isinstance(value, str) else json.dumps(value, default=str)).split("\n")


def say(text: str) -> None:
    """Print a sentence below a table."""
    _show(_console(), Text(_clean(text)))


def complain(text: str) -> None:
    """Print a sentence on the standard error."""
    sys.stderr.write(_clean(text) + "\n")


def _console() -> Console:
    # Not kept: a test, and a pipe, replace the stream.
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, emoji=False)


def _show(console: Console, what: Table | Text) -> None:
    # If rich itself printed, a closed pipe would end the process with exit code 1.
    with console.capture() as captured:
        console.print(what)
    _write(captured.get())


def _write(text: str) -> None:
    """Write a text, with escapes for what the encoding of the terminal or pipe does not have."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _clean(text: str) -> str:
    """Return a text without terminal control characters."""
    return text.translate(_UNPRINTABLE)
