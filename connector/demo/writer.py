"""A party at work: small transactions at a steady rate, from a seeded mix, in a thread of its own.

Beside the mix there is one transaction of thousands of rows half-way, and every few seconds one that stays open while
later ones commit, so that commit order and start order differ (where the engine lets one thread do that).
"""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from connector.demo import homes
from connector.demo.homes import Home
from connector.demo.party import Move, PartyOn
from connector.errors import SourceError

FLOOD_ROWS = 5_000
OPEN_EVERY_S = 3.0
OPEN_FOR_S = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast, for how long (None: until stopped), and how large the one big transaction is."""

    per_second: float = 100.0
    seconds: float | None = None
    flood_rows: int = FLOOD_ROWS


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit as the party saw it: `before` is a place in its log just before the commit's own record, or 0."""

    entity: str
    before: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Written:
    """What a writer committed, in order; how often each move; rows of the big transaction."""

    commits: tuple[Commit, ...]
    moves: Mapping[str, int]
    flood_rows: int

    @property
    def transactions(self) -> int:
        return sum(self.moves.values())


class Writer:
    """Start it, stop it, read what it wrote. One thread, two connections."""

    def __init__(self, home: Home[Any], party: PartyOn[Any], rng: random.Random, pace: Pace) -> None:
        self._home = home
        self._party = party
        self._rng = rng
        self._pace = pace
        self._moves: Counter[str] = Counter()
        self._commits: list[Commit] = []
        self._flooded = 0
        self._failure: Exception | None = None
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"writer-{party.name}", daemon=True)

    @property
    def party(self) -> str:
        return self._party.name

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def transactions(self) -> int:
        return len(self._commits)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> Written:
        """Wait until `pace.seconds` are over.

        Raises:
            SourceError: the party's own transaction failed.
        """
        self._thread.join()
        if self._failure is not None:
            raise SourceError(
                f"the party's own writer failed ({homes.reason(self._failure)})",
                hint="is its server still there, and are its tables the demo's?",
                place=self._party.name,
            )
        return Written(tuple(self._commits), dict(self._moves), self._flooded)

    def stop(self) -> Written:
        """End after the transaction at hand. Raises as `join` does."""
        self._halt.set()
        return self.join()

    def _work(self) -> None:
        try:
            with closing(self._home.connect()) as conn, closing(self._home.connect()) as slow:
                self._write(conn, slow)
        except (SourceError, *homes.ERRORS) as error:
            self._failure = error

    def _write(self, conn: Any, slow: Any) -> None:
        moves = self._party.moves()
        weights = [move.weight for move in moves]
        begun = due = time.monotonic()
        ends = begun + self._pace.seconds if self._pace.seconds is not None else None
        flood_at: float | None = begun + (self._pace.seconds / 2 if self._pace.seconds is not None else OPEN_EVERY_S)
        open_at = begun + OPEN_EVERY_S if self._home.overlaps else math.inf
        close_at: float | None = None
        while not self._halt.is_set():
            now = time.monotonic()
            if ends is not None and now >= ends:
                break
            if flood_at is not None and now >= flood_at:
                flood_at = None
                self._flood(conn)
            if close_at is None and now >= open_at:
                moves[0].run(slow)  # a member joins, and the transaction stays open
                close_at = now + OPEN_FOR_S
            elif close_at is not None and now >= close_at:
                self._commit(slow, moves[0].name, moves[0].entity)
                open_at, close_at = now + OPEN_EVERY_S, None
            self._one(conn, self._rng.choices(moves, weights)[0])
            due = max(due + 1 / self._pace.per_second, now - 1)  # after a stall, catch up one second's worth at most
            self._halt.wait(max(0.0, due - time.monotonic()))
        if close_at is not None:
            self._commit(slow, moves[0].name, moves[0].entity)

    def _one(self, conn: Any, move: Move[Any]) -> None:
        move.run(conn)
        self._commit(conn, move.name, move.entity)

    def _commit(self, conn: Any, name: str, entity: str) -> None:
        place = self._home.place(conn)
        conn.commit()
        self._moves[name] += 1
        if entity:
            self._commits.append(Commit(entity, place, datetime.now(UTC)))

    def _flood(self, conn: Any) -> None:
        if self._pace.flood_rows:
            self._flooded = self._party.flood(conn, self._pace.flood_rows)
            self._commit(conn, "flood", "anggota")


@contextlib.contextmanager
def writing(writers: Sequence[Writer]) -> Iterator[Sequence[Writer]]:
    """Run writers for the length of the block; they are stopped however it ends."""
    started: list[Writer] = []
    try:
        for writer in writers:
            writer.start()
            started.append(writer)
        yield started
    finally:
        for writer in started:
            with contextlib.suppress(SourceError):
                writer.stop()
