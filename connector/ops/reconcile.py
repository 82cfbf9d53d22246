"""Compare a party's views with staging, row for row after mapping, beside the running stream.

It reads with sessions of its own and takes no lock on either side. A difference counts only if a later look, for which
staging had time to catch up, finds it unchanged. Repairing and recording are wishes: only the daemon writes rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import psycopg

from connector.errors import ConnectorError
from connector.events import EntityState
from connector.ops import wishes
from connector.ops.quarantine import masked
from connector.staging.compare import Comparison, Differing
from connector.staging.plan import DigestKeys, EntityPlan
from connector.staging.session import translated
from connector.view.blocks import Block
from connector.view.shape import ViewShape

# Rows a look reads at a time, under one snapshot each: a second of the party's time.
CHUNK_ROWS = 50_000
# Keys that are asked for at a time.
SLICE_ROWS = 10_000
# A key that changes between so many looks is under change, and the stream is its judge.
LOOKS_MAX = 5
EXAMPLES_MAX = 20
POLL_S = 0.1


class Differs(ConnectorError):
    """Staging is not what the view says."""


class Snapshot(Protocol):
    @property
    def position(self) -> int: ...


class View(Protocol):
    """What a compare asks of a party."""

    def begin(self) -> Snapshot: ...
    def end(self) -> None: ...
    def fetch(self, shape: ViewShape, keys: Sequence[str]) -> Iterator[Block]: ...
    def chunk(self, shape: ViewShape, after: str | None, rows: int) -> Iterator[Block]: ...


@dataclass(frozen=True, slots=True)
class Subject:
    """One entity of a party, as it is compared."""

    plan: EntityPlan
    shape: ViewShape
    keys: DigestKeys


@dataclass(frozen=True, slots=True)
class Options:
    """How long staging may take to catch up between two looks; who asks.

    `ordered`: the view's snapshots and the source's positions are numbers of one kind, so that it can be known when
    staging has caught up. Otherwise `settle_s` must be as long as the source may take to notice a change.
    """

    settle_s: float
    asked_by: str
    ordered: bool = True
    chunk_rows: int = CHUNK_ROWS
    pause: Callable[[float], object] = time.sleep


@dataclass(frozen=True, slots=True)
class Run:
    """What one entity's compare found. Counts are keys; `examples` show a few differing keys, masked."""

    id: int
    entity: str
    view_rows: int
    refused_rows: int
    live_rows: int
    differing: Mapping[str, int]
    moving: int
    parked: int
    settled: bool
    took_s: float
    examples: tuple[Differing, ...]

    @property
    def total(self) -> int:
        return sum(self.differing.values())

    def facts(self) -> dict[str, object]:
        """What the audit entry says of it: whole numbers only."""
        return {
            "run": self.id, "view_rows": self.view_rows, "refused_rows": self.refused_rows, "live_rows": self.live_rows,
            **self.differing, "moving": self.moving, "parked": self.parked, "settled": self.settled,
        }  # fmt: skip


def comparable(conn: psycopg.Connection, party: str) -> dict[str, str]:
    """Entities that cannot be compared now, and why."""
    with translated("reading entity states"):
        rows = conn.execute("select entity, state, bulk from connector.entity where party = %s", (party,)).fetchall()
    standing = {entity: (state, bulk) for entity, state, bulk in rows}
    why = {}
    for entity, (state, bulk) in standing.items():
        if state == EntityState.NEW.value:
            why[entity] = "it was never copied"
        elif state == EntityState.COPYING.value and bulk:
            why[entity] = "its first copy is under way"
    return why


def compare(conn: psycopg.Connection, view: View, subject: Subject, options: Options) -> Run:
    """Compare one entity and write down what was found."""
    begun, started = time.monotonic(), datetime.now(UTC)
    party, entity = subject.plan.party, subject.plan.entity
    comparison = Comparison(conn, subject.plan, subject.keys)
    before = _position(conn, party)
    rows, refused, seen = _first_look(view, subject, comparison, options.chunk_rows)
    comparison.gone()
    settled = _look_again(view, subject, comparison, (conn, before, seen), options)
    found, moving = comparison.counts(), sum(comparison.counts(settled=False).values())
    live, parked = comparison.live_rows(), comparison.parked()
    values = {
        "party": party, "entity": entity, "asked_by": options.asked_by, "started_at": started, "view_rows": rows,
        "refused_rows": refused, "live_rows": live, **found, "moving": moving, "parked": parked, "settled": settled,
    }  # fmt: skip
    with translated("recording the compare"), conn.transaction():
        conn.execute(_FORGET, values)
        row = conn.execute(_RECORD, values).fetchone()
        assert row is not None
        comparison.keep(row[0])
    shown = tuple(Differing(masked(one.key), one.kind) for one in comparison.examples(EXAMPLES_MAX))
    return Run(row[0], entity, rows, refused, live, found, moving, parked, settled, time.monotonic() - begun, shown)


def record(conn: psycopg.Connection, party: str, run: Run, asked_by: str, *, repair: bool) -> wishes.Asked:
    """Have the daemon write the run into the audit log, and read again what differs where a repair is wanted."""
    args = {**run.facts(), "repair": repair}
    return wishes.ask(conn, "reconcile", wishes.Target(party, run.entity), asked_by, args)


def _first_look(view: View, subject: Subject, comparison: Comparison, chunk_rows: int) -> tuple[int, int, int]:
    """All of the view in key order; gives rows, refused rows, and the last snapshot's position."""
    rows = refused = position = 0
    after: str | None = None
    while True:
        blocks = _Passing()
        with _snapshot(view) as snapshot:
            met = comparison.first(blocks.through(view.chunk(subject.shape, after, chunk_rows)))
        rows, refused, position = rows + met.rows, refused + met.refused, max(position, snapshot.position)
        if blocks.count < chunk_rows:
            return rows, refused, position
        after = blocks.last


class _Passing:
    """Counts blocks that pass and remembers where they end, so that a chunk is never held whole."""

    def __init__(self) -> None:
        self.count = 0
        self.last: str | None = None

    def through(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            self.count += block.count
            self.last = block.last_key if block.count else self.last
            yield block


def _look_again(
    view: View, subject: Subject, comparison: Comparison, at: tuple[psycopg.Connection, int, int], options: Options
) -> bool:
    """Look at suspects until none moves; False where staging was still behind at the last look.

    Args:
        at: staging's session, the position stored before the first look, and the first look's own.
    """
    conn, before, position = at
    settled = True
    for _ in range(LOOKS_MAX):
        if next(comparison.unsettled(1), None) is None:
            return settled
        covered = _await_position(conn, subject.plan.party, position, options)
        # A position that stands still is a quiet source or no daemon: waiting longer would change nothing.
        settled = covered or _position(conn, subject.plan.party) == before
        before = _position(conn, subject.plan.party)
        for keys in comparison.unsettled(SLICE_ROWS):
            with _snapshot(view) as snapshot:
                comparison.again(keys, view.fetch(subject.shape, keys), decide=settled)
            position = max(position, snapshot.position)
    return settled


def _await_position(conn: psycopg.Connection, party: str, position: int, options: Options) -> bool:
    if not position or not options.ordered:
        # Time is all there is.
        options.pause(options.settle_s)
        return True
    deadline = time.monotonic() + options.settle_s
    while True:
        if _position(conn, party) >= position:
            return True
        rest = deadline - time.monotonic()
        if rest <= 0:
            return False
        options.pause(min(POLL_S, rest))


def _position(conn: psycopg.Connection, party: str) -> int:
    with translated("reading the position"):
        row = conn.execute(
            "select coalesce(position_ordinal, 0) from connector.source_offset where party = %s", (party,)
        ).fetchone()
    return int(row[0]) if row else 0


@contextmanager
def _snapshot(view: View) -> Iterator[Snapshot]:
    snapshot = view.begin()
    try:
        yield snapshot
    finally:
        view.end()


# Keys are kept of the last run alone.
_FORGET = """
delete from connector.reconcile_key using connector.reconcile r
 where run = r.id and r.party = %(party)s and r.entity = %(entity)s
"""

_RECORD = """
insert into connector.reconcile
       (party, entity, asked_by, started_at, view_rows, refused_rows, live_rows, missing, different, extra,
        refusal_missing, refusal_stale, moving, parked, settled)
values (%(party)s, %(entity)s, %(asked_by)s, %(started_at)s, %(view_rows)s, %(refused_rows)s, %(live_rows)s,
        %(missing)s, %(different)s, %(extra)s, %(refusal_missing)s, %(refusal_stale)s, %(moving)s, %(parked)s,
        %(settled)s)
returning id
"""
