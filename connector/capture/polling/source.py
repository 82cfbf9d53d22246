"""A source made of legs: each looks again when it is due, and what it finds is handed over a part at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from connector.capture.polling.ports import Found, Leg, Memory
from connector.capture.signals import Signals
from connector.errors import PositionLost
from connector.events import Position, SourceIdentity

# Sleeps up to so many seconds and says whether to stop.
Wait = Callable[[float], bool]


class PollSource:
    """Polls one party's views. A position is a number of hand-overs: it rises with each, and orders nothing else."""

    def __init__(
        self, legs: Sequence[Leg], memory: Memory, identity: SourceIdentity, stored: Position | None,
        known: SourceIdentity | None, wait: Wait,
    ) -> None:  # fmt: skip
        """Compare with what the position belongs to; at the very first start, remember how things are.

        Args:
            stored: the position staging has, with the identity it is `known` under; None before the first start.

        Raises:
            PositionLost: the party was followed in another way before: what was last seen is not ours to compare with.
        """
        self.identity = identity
        self._legs = tuple(legs)
        self._memory = memory
        self._wait = wait
        self._start = stored or Position(0, _text(identity, 0))
        self._handed = self._start.ordinal
        self._due = dict.fromkeys(range(len(self._legs)), 0.0)
        self._running: tuple[int, Iterator[Found]] | None = None
        try:
            self._begin(stored, known)
        except BaseException:
            self.close()
            raise

    def _begin(self, stored: Position | None, known: SourceIdentity | None) -> None:
        if stored is None:
            # A copy of everything follows: a change from here on differs from what is remembered.
            for leg in self._legs:
                leg.learn()
        elif known is not None and known != self.identity:
            raise PositionLost(
                "identity_changed",
                f"the position is from {known.slot or 'another'} of {known.system},"
                f" this is {self.identity.slot} of {self.identity.system}",
                hint="if the way of capture was changed on purpose: `connector resync PARTY`",
            )
        else:
            for leg in self._legs:
                leg.resume(stored.ordinal)

    @property
    def start(self) -> Position:
        return self._start

    def close(self) -> None:
        for leg in self._legs:
            leg.close()
        self._memory.close()

    def read(self, timeout_s: float) -> Signals | None:
        """The next part of what was found. None only where nothing is due: a round under way is seen through."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self._next()
            if found is not None:
                return self._signals(found)
            rest = min(deadline, *self._due.values()) - time.monotonic()
            if time.monotonic() >= deadline or self._wait(max(0.0, rest)):
                return None

    def _next(self) -> Found | None:
        """What the running round finds next, or the first find of a round that is due."""
        while True:
            if self._running is None:
                due = [place for place, at in self._due.items() if at <= time.monotonic()]
                if not due:
                    return None
                self._running = (due[0], self._legs[due[0]].round())
            place, finds = self._running
            found = next(finds, None)
            if found is not None:
                return found
            self._running = None
            self._due[place] = time.monotonic() + self._legs[place].every_s
            if self._wait(0):
                return None

    def _signals(self, found: Found) -> Signals:
        self._handed += 1
        position = Position(self._handed, _text(self.identity, self._handed))
        return Signals(position, found.keys, found.matches, found.whole, (), 0, None, None, notes=found.notes)

    def confirm(self, position: Position) -> None:
        """What was handed over is applied: its leg may forget it at the party."""
        if self._running is not None and position.ordinal == self._handed:
            self._legs[self._running[0]].applied(position.ordinal)

    def lag_bytes(self) -> int:
        return 0

    def give_up(self) -> None:
        """Nothing is kept for us at the party."""


def _text(identity: SourceIdentity, ordinal: int) -> str:
    return f"{identity.slot} {ordinal}"
