"""What the command prints: with colours and bars on a terminal, else plain lines.

Colours need rich, from the extra ``fastclaim[cli]``. Whoever prints does not know which it is.
"""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

Report = Callable[[int], None]
"""Tells a progress bar how many are done."""

_PLAIN_INTERVAL_S: Final = 1.0


class Row(NamedTuple):
    """One line of a summary."""

    name: str
    value: str
    note: str = ""


class Screen(ABC):
    """Where a command prints to."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Print a line."""

    @abstractmethod
    def rows(self, rows: Sequence[Row]) -> None:
        """Print a summary, its columns aligned."""

    @abstractmethod
    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows under the names of their columns."""

    @abstractmethod
    def good(self, text: str) -> None:
        """Print good news."""

    @abstractmethod
    def bad(self, text: str, details: Sequence[str] = ()) -> None:
        """Print bad news, and what they are."""

    @abstractmethod
    def progress(self, doing: str, total: int | None = None) -> AbstractContextManager[Report]:
        """Show how far something has come, until the block ends; `total` None: nobody knows."""


def screen() -> Screen:
    """The screen for this process's standard output."""
    if sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb"):
        try:
            from rich.console import Console
        except ImportError:
            return PlainScreen()
        return RichScreen(Console(highlight=False))
    return PlainScreen()


def count(number: int, noun: str) -> str:
    """``1 task``, ``2,300 tasks``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class PlainScreen(Screen):
    """Lines of text, for pipes, logs, and where rich is not installed."""

    def say(self, text: str) -> None:
        # Flushed: whoever reads a pipe wants to see how far it is, not how far it was.
        print(text, flush=True)

    def rows(self, rows: Sequence[Row]) -> None:
        names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
        for row in rows:
            self.say(f"  {row.name:<{names}}  {row.value:<{values}}  {row.note}".rstrip())

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = [columns, *rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
        for line in lines:
            cells = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
            self.say("  ".join(cells).rstrip())

    def good(self, text: str) -> None:
        self.say(text)

    def bad(self, text: str, details: Sequence[str] = ()) -> None:
        self.say(text)
        for detail in details:
            self.say(f"  - {detail}")

    @contextmanager
    def progress(self, doing: str, total: int | None = None) -> Iterator[Report]:
        said_at_s, said = time.monotonic(), -1

        def report(done: int) -> None:
            nonlocal said_at_s, said
            if done == said or (done != total and time.monotonic() - said_at_s < _PLAIN_INTERVAL_S):
                return
            said_at_s, said = time.monotonic(), done
            self.say(f"{doing}: {done:,} of {total:,}")

        if total is None:
            self.say(doing)
        yield report


class RichScreen(Screen):
    """A terminal, with rich."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def _print(self, text: str, style: str = "") -> None:
        # A task's id may have brackets in it: never markup.
        self._console.print(text, style=style, markup=False, emoji=False, soft_wrap=True)

    def _mark(self, mark: str) -> str:
        return f"{mark} " if self._console.encoding.startswith("utf") else ""

    def say(self, text: str) -> None:
        self._print(text)

    def rows(self, rows: Sequence[Row]) -> None:
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        # Folded, here and in a table: what is cut off cannot be copied.
        table = Table.grid(padding=(0, 2))
        for _ in Row._fields:
            table.add_column(overflow="fold")
        for row in rows:
            table.add_row(Text(row.name, "cyan"), Text(row.value, "bold"), Text(row.note, "dim"))
        self._console.print(Padding(table, (0, 0, 0, 2)))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 1), header_style="dim")
        for number, column in enumerate(columns):
            # The first names the row: the others give way, unless it needs most of the line.
            longest = max((len(row[number]) for row in rows), default=0)
            is_kept = number == 0 and longest <= self._console.width // 2
            table.add_column(column, overflow="fold", no_wrap=is_kept)
        for first, *others in rows:
            table.add_row(Text(first, "cyan"), *map(Text, others))
        self._console.print(table)

    def good(self, text: str) -> None:
        self._print(self._mark("✓") + text, "bold green")

    def bad(self, text: str, details: Sequence[str] = ()) -> None:
        self._print(self._mark("✗") + text, "bold red")
        for detail in details:
            self._print(f"  - {detail}")

    @contextmanager
    def progress(self, doing: str, total: int | None = None) -> Iterator[Report]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        counter = "" if total is None else f"{{task.completed:>{len(f'{total:,}')},}} of {total:,}"
        columns = (
            TextColumn("{task.description}", style="cyan"),
            BarColumn(),
            TextColumn(counter, style="bold"),
            TimeElapsedColumn(),
        )
        # Transient: the summary that follows says it better.
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(doing, total=total)
            yield lambda done: bar.update(task, completed=done)
