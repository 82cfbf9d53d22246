"""The calendar of stages: when an entity may be written. Set by KPU's operator, row by row, with the decision's number.

Nothing is accepted after the limit (PKPU 4/2022 art. 17(2)), so what counts is staging's clock when a batch is applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. `entities` empty: it is for all of them. `closes` None: until somebody closes it."""

    name: str
    opens: datetime
    closes: datetime | None
    entities: Sequence[str]
    basis: str

    def covers(self, entity: str) -> bool:
        return not self.entities or entity in self.entities

    def is_open(self, at: datetime) -> bool:
        return self.opens <= at and (self.closes is None or at < self.closes)


@dataclass(frozen=True, slots=True)
class Closed:
    """Why an entity may not be written now: the stage that closed last, or none yet, and when the next one opens."""

    last: Stage | None
    next: Stage | None

    @property
    def message(self) -> str:
        if self.last is not None and self.last.closes is not None:
            return f"stage {self.last.name} closed at {_time(self.last.closes)} ({self.last.basis})"
        return "no stage is open yet"

    @property
    def hint(self) -> str:
        if self.next is not None:
            return f"changes are kept and applied when {self.next.name} opens at {_time(self.next.opens)}"
        return "changes are kept; they are applied if KPU opens a stage (staging.ref_tahapan)"


def load(conn: psycopg.Connection) -> tuple[tuple[Stage, ...], datetime]:
    """The calendar, and the database's time."""
    rows = conn.execute("select tahapan, dibuka, ditutup, entity, dasar from staging.ref_tahapan").fetchall()
    now = conn.execute("select clock_timestamp()").fetchone()
    assert now is not None
    return tuple(Stage(*row) for row in rows), now[0]


def closed(stages: Sequence[Stage], entity: str, at: datetime) -> Closed | None:
    """Whether an entity's writes must wait, and why; None where they need not."""
    own = [stage for stage in stages if stage.covers(entity)]
    if not own or any(stage.is_open(at) for stage in own):
        return None
    over = [stage for stage in own if stage.closes is not None and stage.closes <= at]
    to_come = [stage for stage in own if stage.opens > at]
    return Closed(
        max(over, key=lambda stage: stage.closes or at, default=None),
        min(to_come, key=lambda stage: stage.opens, default=None),
    )


def _time(point: datetime) -> str:
    return f"{point.astimezone():%Y-%m-%d %H:%M %Z}"
