"""Where a batch's time went adds up, and an inner stage's time is its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connector.runtime.stopwatch import Stopwatch


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_inner_stage_is_not_counted_in_the_outer_one() -> None:
    clock = Clock()
    watch = Stopwatch(clock)

    def rows() -> Iterator[int]:
        for _ in range(2):
            clock.now += 3
            yield 1

    with watch.stage("apply"):
        for _ in watch.waiting("fetch", rows()):
            clock.now += 1
        clock.now += 5
    with watch.stage("record"):
        clock.now += 2
    lap = watch.lap()
    assert (lap["fetch"], lap["apply"], lap["record"], lap["gate"]) == (6, 7, 2, 0)
    assert sum(lap.values()) == clock.now


def test_totals_count_laps_and_forget_what_came_to_nothing() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    for _ in range(2):
        watch.add("read", 1.5)
        watch.lap()
    with pytest.raises(ZeroDivisionError), watch.stage("apply"):
        clock.now += 1 / 0
    watch.add("apply", 1)
    watch.begin()
    assert watch.totals["batches"] == 2
    assert watch.totals["read"] == 3
    assert watch.totals["apply"] == 0
