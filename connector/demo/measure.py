"""Figures of a run: what staging counted, how long a commit took to get there. The arithmetic is pure."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from connector.demo.writer import Commit

Connection = psycopg.Connection[tuple[Any, ...]]

COUNTS = ("signalled", "read", "inserted", "updated", "unchanged", "deleted", "quarantined")


@dataclass(frozen=True, slots=True)
class Applied:
    """One batch of a party's signals: up to which place, when it was begun, and when it was in staging."""

    position: int
    begun: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from a party's commit to the end of the batch that covers it; None where nothing was measured."""

    p50: float | None
    p95: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Latency:
        ordered = sorted(values)
        return cls(_share(ordered, 0.50), _share(ordered, 0.95))


def _share(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of all values do not exceed."""
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 1) if ordered else None


def latencies_ms(commits: Iterable[Commit], batches: Sequence[Applied]) -> dict[str, list[float]]:
    """How long each commit took to be covered by a batch, by entity. `batches` in order of position.

    A commit's record starts after `before`, and a batch's position is the end of a transaction: the first batch whose
    position is past `before` has the commit in it. Commits that no batch covers are left out.
    """
    places = [batch.position for batch in batches]
    found: dict[str, list[float]] = {}
    for commit in commits:
        index = bisect.bisect_right(places, commit.before)
        if index < len(batches):
            found.setdefault(commit.entity, []).append((batches[index].at - commit.at).total_seconds() * 1000)
    return found


def compared_ms(commits: Iterable[Commit], batches: Sequence[Applied]) -> dict[str, list[float]]:
    """As `latencies_ms` where views are compared on a schedule: how long it took at most.

    A compare that was under way at the commit may have passed the row by, and it may have found something else. The
    one after it has seen every row later than the commit.
    """
    begins = [batch.begun for batch in batches]
    found: dict[str, list[float]] = {}
    for commit in commits:
        index = bisect.bisect_left(begins, commit.at) + 1
        if index < len(batches):
            found.setdefault(commit.entity, []).append((batches[index].at - commit.at).total_seconds() * 1000)
    return found


# The number in a position's text that rises, by way of capture: an LSN, a GTID's sequence, a count of hand-overs.
_PLACES = {
    "pull": "(position_to::pg_lsn - '0/0'::pg_lsn)::bigint",
    "stream": "substring(position_to from '^[0-9]+-[0-9]+-([0-9]+)')::bigint",
    "diff": "substring(position_to from ' ([0-9]+)$')::bigint",
}


def batches(staging: Connection, party: str, capture: str = "pull") -> list[Applied]:
    """The party's batches of signals, in order. `stream` is MariaDB's, of one domain."""
    query = f"""
        select {_PLACES[capture]}, min(started_at), min(ended_at)
          from staging.sync_batch
         where party = %s and kind = 'signals' and position_to is not null
         group by 1 order by 1
        """
    return [Applied(position, begun, at) for position, begun, at in staging.execute(query.encode(), (party,))]


@dataclass(frozen=True, slots=True)
class Counted:
    """One entity as the daemon counted it, and how many seconds its batches took."""

    counts: Mapping[str, int]
    busy_s: float

    @property
    def rows_per_s(self) -> float | None:
        """Rows read from the view for each second of a batch."""
        return round(self.counts["read"] / self.busy_s, 1) if self.busy_s else None


def counted(staging: Connection, party: str) -> dict[str, Counted]:
    """By entity."""
    rows = staging.execute(
        """
        select e.entity, e.signalled, e.read, e.inserted, e.updated, e.unchanged, e.deleted, e.quarantined,
               coalesce((select sum(extract(epoch from b.ended_at - b.started_at))::float8
                           from staging.sync_batch b where b.party = e.party and b.entity = e.entity), 0)
          from connector.entity e where e.party = %s order by e.entity
        """,
        (party,),
    )
    return {row[0]: Counted(dict(zip(COUNTS, row[1:-1], strict=True)), row[-1]) for row in rows}
