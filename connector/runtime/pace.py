"""How much to take at a time: halved each time the party's server is busy, doubled again by what succeeds. Pure."""

from __future__ import annotations

from connector.runtime.ports import Limits

# Fewer rows at a time do not help a server that cannot give even these within its time limit.
ROWS_MIN = 10
HALVINGS_MAX = 12
# Pieces of work that must succeed before a larger one is tried: a slow view then fails one time in so many.
SUCCESSES = 20


class Pace:
    """A worker's limits, and how much of them to use just now. Outlives its sessions."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
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
