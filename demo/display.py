"""What a demonstration shows while it goes on: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        self.seconds[title] = time.monotonic() - begun
        self.console.print(Text.assemble(("✓ ", "green"), f"{title}  ", (f"{self.seconds[title]:.1f} s", "dim")))

    def facts(self, rows: dict[str, str]) -> None:
        """Show a name and a value a line."""
        table = Table.grid(padding=(0, 2))
        for name, value in rows.items():
            table.add_row(Text(name, "bold"), Text(value))
        self.console.print(table)

    def answer(self, text: str) -> None:
        """Show what the model answered, as it is."""
        self.console.print(Panel(Text(text or "(no text)"), title="Answer", title_align="left"))

    def trouble(self, text: str) -> None:
        """Show what went wrong."""
        self.console.print(Text.assemble(("✗ ", "red"), text), soft_wrap=True)
