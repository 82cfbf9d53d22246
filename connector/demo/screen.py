"""What the demo shows while it runs: a line per step, a bar per party. Or nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Screen(Protocol):
    def step(self, text: str) -> None:
        """Something begins."""

    def bar(self, name: str, done: float, total: float, note: str = "") -> None:
        """How far `name` is; its bar is made at the first call."""


class Silent:
    """For `--json`: no decoration."""

    def step(self, text: str) -> None:
        pass

    def bar(self, name: str, done: float, total: float, note: str = "") -> None:
        pass


class Terminal:
    """Lines and bars on stdout. Where that is no terminal, lines only."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}
        self._begun = time.monotonic()

    def step(self, text: str) -> None:
        self._progress.console.print(f"{time.monotonic() - self._begun:6.1f} s  {text}")

    def bar(self, name: str, done: float, total: float, note: str = "") -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total, note=note)
        self._progress.update(self._bars[name], completed=min(done, total), total=total, note=note)


@contextlib.contextmanager
def terminal() -> Iterator[Terminal]:
    """The screen for people, for the length of the block."""
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Terminal(progress)
