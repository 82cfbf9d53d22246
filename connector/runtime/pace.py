"""How much to take at a time: halved each time the party's server is busy, doubled again by what succeeds. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from connector.errors import SourceBusy
from connector.runtime.ports import Limits
from connector.runtime.stopwatch import Stopwatch
from connector.runtime.traces import Traces
from connector.view.blocks import Block

# Fewer rows at a time do not help a server that cannot give even these within its time limit.
ROWS_MIN = 10
HALVINGS_MAX = 12
# Read ahead and loaded at once are up to four chunks of this size.
READ_BYTES_MAX = 64 << 20
# Pieces of work that must succeed before a larger one is tried: a slow view then fails one time in so many.
SUCCESSES = 20


def bounded(blocks: Iterable[Block], rows: int) -> Iterator[Block]:
    """Pass blocks on, and stop where `rows` rows at a time turn out too wide to hold in memory.

    Raises:
        SourceBusy: over `READ_BYTES_MAX`; the next try takes half as many rows. A chunk is never cut short: a
            doubled key split between two would pass for two good ones.
    """
    size = 0
    for block in blocks:
        size += len(block.data)
        if size > READ_BYTES_MAX and rows > ROWS_MIN:
            raise SourceBusy(f"{rows} rows at a time are too wide to hold", hint="fewer are read at a time")
        yield block


class Pace:
    """A worker's limits, how much of them to use just now, and where its time goes. Outlives its sessions."""

    def __init__(self, limits: Limits, traces: Traces | None = None) -> None:
        self.limits = limits
        self.watch = Stopwatch()
        self.traces = traces or Traces()
        self._halvings = 0
        self._successes = 0

    @property
    def batch_rows(self) -> int:
        return self._cut(self.limits.batch_rows)

    @property
    def copy_rows(self) -> int:
        return self._cut(self.limits.copy_rows)

    def _cut(self, rows: int) -> int:
        return max(min(rows, ROWS_MIN), rows >> self._halvings)

    def slower(self) -> None:
        """A statement met a limit at the party."""
        self._halvings = min(self._halvings + 1, HALVINGS_MAX)
        self._successes = 0

    def done(self) -> None:
        """Some work succeeded."""
        if self._halvings:
            self._successes += 1
            if self._successes == SUCCESSES:
                self._halvings -= 1
                self._successes = 0
