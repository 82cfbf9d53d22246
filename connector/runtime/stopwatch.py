"""Where a batch's time went, by stage; and all batches' since the worker started.

read     the party's log decoded into keys          apply    staging maps, checks and writes them
gate     until a snapshot shows the transactions    record   the audit entry, counts and the position
fetch    waiting for the party's view to give rows  commit   staging makes it durable
                                                    confirm  the party may recycle its log
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
STAGES = ("read", "gate", "fetch", "apply", "record", "commit", "confirm")


class Stopwatch:
    """One thread at a time. A stage inside another is not counted in the outer one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lap: Counter[str] = Counter()
        self._total: Counter[str] = Counter()
        self._laps = 0
        self._inner_s = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began, before = self._clock(), self._inner_s
        self._inner_s = 0.0
        try:
            yield
        finally:
            took_s = self._clock() - began
            self._lap[name] += took_s - self._inner_s  # type: ignore[assignment] # a Counter of seconds
            self._inner_s = before + took_s

    def waiting(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Pass items on, and count the time it takes to get each."""
        rest = iter(items)
        while True:
            with self.stage(name):
                item = next(rest, self)
            if item is self:
                return
            yield item  # type: ignore[misc] # what is not the mark is an item

    def add(self, name: str, seconds: float) -> None:
        self._lap[name] += seconds  # type: ignore[assignment]

    def begin(self) -> None:
        """Forget a lap that came to nothing."""
        self._lap.clear()
        self._inner_s = 0.0

    def lap(self) -> Mapping[str, float]:
        """End a batch; gives its seconds by stage."""
        done = {name: float(self._lap[name]) for name in STAGES}
        self._total.update(self._lap)
        self._laps += 1
        self.begin()
        return done

    @property
    def totals(self) -> Mapping[str, float]:
        """Seconds by stage since the worker started, and how many `batches` they are."""
        return {"batches": self._laps, **{name: float(self._total[name]) for name in STAGES}}
