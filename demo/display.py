"""The output of a demonstration: spinners and bars on a terminal, plain lines elsewhere."""

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
    """A step of a demonstration that takes some time."""

    title: str
    console: Console
    status: Status | None
    shown: str = ""

    def show(self, detail: str) -> None:
        """Show a detail of the progress, unless it was the last one shown."""
        if detail == self.shown:
            return
        self.shown = detail
        if self.status is not None:
            self.status.update(f"{self.title}: {detail}")
        else:
            self.console.print(f"  {self.title}: {detail}", markup=False, highlight=False, soft_wrap=True)


WIDEST_CELL = 22
LINE_INTERVAL = 5.0
"""Seconds between two lines of progress without a terminal."""


@dataclass
class Bar:
    """A progress bar."""

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
    Shows steps and results, and records how long each step took.

    :param console: the console to write to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step while the block runs, and then how long it took."""
        started = time.monotonic()
        with contextlib.ExitStack() as scope:
            status = None
            if self.console.is_terminal:
                status = scope.enter_context(self.console.status(title))
            else:
                self.console.print(f"{title} …", markup=False, highlight=False)
            yield Step(title, self.console, status)
        self._done(title, started)

    def _done(self, title: str, started: float) -> None:
        self.seconds[title] = time.monotonic() - started
        self.console.print(Text.assemble(("✓ ", "green"), f"{title}  ", (f"{self.seconds[title]:.1f} s", "dim")))

    @contextlib.contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        """
        Show a progress bar while the block runs, and then how long it took.

        :param total: the value of a full bar.
        """
        started = time.monotonic()
        with contextlib.ExitStack() as scope:
            progress = None
            if self.console.is_terminal:
                # These fit into 80 columns.
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
        self._done(title, started)

    def table(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show rows in a table."""
        table = Table(title=title, title_justify="left", show_lines=False)
        for name in rows[0] if rows else ():
            table.add_column(name, no_wrap=True)
        for row in rows:
            table.add_row(*(Text(_cut(value)) for value in row.values()))
        self.console.print(table)

    def facts(self, rows: dict[str, str]) -> None:
        """Show one name and value per line."""
        table = Table.grid(padding=(0, 2))
        for name, value in rows.items():
            table.add_row(Text(name, "bold"), Text(value))
        self.console.print(table)

    def locations(self, locations: Mapping[str, str]) -> None:
        """Show paths and addresses, each in one line of any length, so that it can be copied."""
        width = max(map(len, locations), default=0)
        for name, location in locations.items():
            self.console.print(Text.assemble((name.ljust(width + 2), "bold"), location), soft_wrap=True)

    def reply(self, text: str) -> None:
        """Show the reply of the model."""
        self.console.print(Panel(Text(text or "(no text)"), title="Reply", title_align="left"))

    def problem(self, text: str) -> None:
        """Show an error."""
        self.console.print(Text.assemble(("✗ ", "red"), text), soft_wrap=True)


def _cut(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= WIDEST_CELL else text[: WIDEST_CELL - 1] + "…"
