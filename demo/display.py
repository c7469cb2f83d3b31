"""What a demonstration shows while it goes on: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console
    from rich.status import Status


@dataclass
class Step:
    """One thing that is waited for."""

    title: str
    console: Console
    status: Status | None
    shown: str = ""

    def show(self, detail: str) -> None:
        """Say how far it is; a detail that was shown last is not shown again."""
        if detail == self.shown:
            return
        self.shown = detail
        if self.status is not None:
            self.status.update(f"{self.title}: {detail}")
        else:
            self.console.print(f"  {self.title}: {detail}", markup=False, highlight=False, soft_wrap=True)


WIDEST_CELL = 22
LINE_INTERVAL = 5.0
"""Seconds between two lines where there is no terminal to draw a bar on."""


@dataclass
class Bar:
    """Something that is done bit by bit."""

    title: str
    total: int
    console: Console
    progress: Progress | None
    printed: float = float("-inf")
    pending: str | None = None

    def __post_init__(self) -> None:
        if self.progress is not None:
            self.progress.add_task(self.title, total=self.total, detail="")

    def show(self, done: int, detail: str) -> None:
        """Show the progress: at once on a terminal, else at most one line per ``LINE_INTERVAL``."""
        if self.progress is not None:
            self.progress.update(self.progress.task_ids[0], completed=done, detail=detail)
            return
        self.pending = f"  {self.title}: {done} of {self.total}; {detail}"
        if time.monotonic() - self.printed >= LINE_INTERVAL:
            self.flush()

    def flush(self) -> None:
        """Print the latest line if it has not been printed yet."""
        if self.pending is not None:
            self.printed = time.monotonic()
            self.console.print(self.pending, markup=False, highlight=False, soft_wrap=True)
            self.pending = None


class Display:
    """
    Show steps and remember how long each took.

    :param console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show that something goes on until the block ends, and how long it took."""
        begun = time.monotonic()
        with contextlib.ExitStack() as scope:
            status = None
            if self.console.is_terminal:
                status = scope.enter_context(self.console.status(title))
            else:
                self.console.print(f"{title} …", markup=False, highlight=False)
            yield Step(title, self.console, status)
        self._done(title, begun)

    def _done(self, title: str, begun: float) -> None:
        self.seconds[title] = time.monotonic() - begun
        self.console.print(Text.assemble(("✓ ", "green"), f"{title}  ", (f"{self.seconds[title]:.1f} s", "dim")))

    @contextlib.contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        """
        Show a bar that fills until the block ends, and how long it took.

        :param total: what it holds when it is full.
        """
        begun = time.monotonic()
        with contextlib.ExitStack() as scope:
            progress = None
            if self.console.is_terminal:
                # All of it fits into 80 columns.
                columns = (SpinnerColumn(), BarColumn(16), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"))
                progress = scope.enter_context(Progress(*columns, console=self.console))
            else:
                self.console.print(f"{title} …", markup=False, highlight=False)
            bar = Bar(title, total, self.console, progress)
            try:
                yield bar
            finally:
                # A run shorter than the interval would otherwise end without its last figures.
                bar.flush()
        self._done(title, begun)

    def table(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show rows below the names of their columns."""
        table = Table(title=title, title_justify="left", show_lines=False)
        for name in rows[0] if rows else ():
            table.add_column(name, no_wrap=True)
        for row in rows:
            table.add_row(*(Text(_cut(value)) for value in row.values()))
        self.console.print(table)

    def facts(self, rows: dict[str, str]) -> None:
        """Show a name and a value a line."""
        table = Table.grid(padding=(0, 2))
        for name, value in rows.items():
            table.add_row(Text(name, "bold"), Text(value))
        self.console.print(table)

    def places(self, places: Mapping[str, str]) -> None:
        """Show where things are, each in one line however long it is, so that it can be copied."""
        width = max(map(len, places), default=0)
        for name, place in places.items():
            self.console.print(Text.assemble((name.ljust(width + 2), "bold"), place), soft_wrap=True)

    def answer(self, text: str) -> None:
        """Show what the model answered, as it is."""
        self.console.print(Panel(Text(text or "(no text)"), title="Answer", title_align="left"))

    def trouble(self, text: str) -> None:
        """Show what went wrong."""
        self.console.print(Text.assemble(("✗ ", "red"), text), soft_wrap=True)


def _cut(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= WIDEST_CELL else text[: WIDEST_CELL - 1] + "…"
