"""What an operator may ask of the daemon. A wish is a row; the daemon that owns the party obeys it and says so.

Nothing here touches a party or its rows: `runtime/wishes.py` does, and writes the audit entry.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from connector.errors import ConnectorError, UsageError
from connector.events import EntityState
from connector.settings import Config
from connector.staging.session import translated
from connector.yamlpos import closest, shown

VERBS = ("pause", "resume", "resync", "approve", "replay", "discard", "reconcile", "erase", "export", "prune")
BRAKE = "delete_brake"
# The daemon looks every second; asking staging costs a millisecond.
POLL_S = 0.2
DONE = "done"


class NothingPending(ConnectorError):
    """There is nothing that waits for an approval."""


class NotObeyed(ConnectorError):
    """A wish was not obeyed in time, or there was nothing to do about it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A party, or one entity of it."""

    party: str
    entity: str | None = None

    def __str__(self) -> str:
        return f"{self.party}/{self.entity}" if self.entity else self.party


@dataclass(frozen=True, slots=True)
class Standing:
    """An entity as it stands when something is asked for it."""

    entity: str
    state: str
    reason: str | None
    hint: str | None
    since: datetime
    live_rows: int
    pending_deletes: int
    parked: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A wish that is written down. `heartbeat_age_s` tells whether anybody is there to obey it."""

    id: int
    verb: str
    target: Target
    asked_by: str
    asked_at: datetime
    heartbeat_age_s: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the daemon said when it had obeyed. `done` is False where there was nothing to do for any entity."""

    obeyed_at: datetime
    text: str

    @property
    def done(self) -> bool:
        return any(part.rpartition(": ")[2] == DONE for part in self.text.split("; "))


def target(conn: psycopg.Connection, config: Config, text: str) -> Target:
    """Read PARTY or PARTY/ENTITY.

    Raises:
        UsageError: there is no such party in the configuration, or no such entity in staging.
    """
    name, slash, entity = text.partition("/")
    party = config.party(name).name
    with translated("reading the entities"):
        known = [row[0] for row in conn.execute("select entity from connector.entity where party = %s", (party,))]
    if not known:
        raise UsageError(f"{party} was never started", hint="connector check, then connector run", place=party)
    if slash and entity not in known:
        raise UsageError(f"{party} has no entity `{shown(entity)}`", hint=closest(entity, known), place=party)
    return Target(party, entity or None)


def standing(conn: psycopg.Connection, aim: Target) -> tuple[Standing, ...]:
    """The entities a wish would be about, as they stand now."""
    with translated("reading the entities"), conn.cursor(row_factory=class_row(Standing)) as cursor:
        found = cursor.execute(_STANDING, {"party": aim.party, "entity": aim.entity}).fetchall()
    return tuple(found)


def braked(conn: psycopg.Connection, aim: Target) -> tuple[Standing, ...]:
    """What `approve` would let pass.

    Raises:
        NothingPending: no entity stands still because of deletes.
    """
    found = standing(conn, aim)
    held = tuple(one for one in found if one.state == EntityState.HELD.value and one.reason == BRAKE)
    if not held:
        states = ", ".join(f"{one.entity} is {one.state}" for one in found)
        raise NothingPending("nothing waits for an approval", hint=f"{states}: see connector status", place=str(aim))
    return held


def ask(
    conn: psycopg.Connection, verb: str, aim: Target, asked_by: str, args: Mapping[str, object] | None = None
) -> Asked:
    """Write a wish down. The same wish as the newest that is still open is not written twice."""
    assert verb in VERBS
    values = {
        "party": aim.party, "entity": aim.entity, "verb": verb, "asked_by": asked_by, "args": Jsonb(dict(args or {})),
    }  # fmt: skip
    with translated("writing the wish"), conn.transaction():
        conn.execute(_ASK, values)
        row = conn.execute(_NEWEST, values).fetchone()
    assert row is not None
    return Asked(row[0], verb, aim, row[1], row[2], row[3])


def await_outcome(
    conn: psycopg.Connection, asked: Asked, timeout_s: float, pause: Callable[[float], object] = time.sleep
) -> Outcome | None:
    """Wait until a wish is obeyed; None where it is not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        with translated("looking at the wish"):
            row = conn.execute("select obeyed_at, outcome from connector.wish where id = %s", (asked.id,)).fetchone()
        if row is not None and row[0] is not None:
            return Outcome(row[0], row[1] or "")
        rest = deadline - time.monotonic()
        if rest <= 0:
            return None
        pause(min(POLL_S, rest))


def operator() -> str:
    """Who asks, as this machine knows it: user@host. Not what the environment claims."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"uid{os.getuid()}"
    return shown(f"{user}@{os.uname().nodename}", 200)


_STANDING = """
select e.entity, e.state, e.reason, e.hint, e.since, e.live_rows, e.pending_deletes,
       (select count(*) from connector.parked p where p.party = e.party and p.entity = e.entity) as parked
  from connector.entity e
 where e.party = %(party)s and (%(entity)s::text is null or e.entity = %(entity)s)
 order by e.entity
"""

# pause, resume, pause is three wishes; pause, pause is one.
_ASK = """
insert into connector.wish (party, entity, verb, args, asked_by)
select %(party)s, %(entity)s, %(verb)s, %(args)s, %(asked_by)s
 where not exists (
       select from (select entity, verb, args from connector.wish where party = %(party)s and obeyed_at is null
                     order by id desc limit 1) newest
        where newest.verb = %(verb)s and newest.entity is not distinct from %(entity)s::text
          and (newest.args = %(args)s or newest.verb = 'approve'))
"""

_NEWEST = """
select w.id, w.asked_by, w.asked_at, extract(epoch from now() - k.heartbeat_at)::float8
  from connector.wish w left join connector.worker k using (party)
 where w.party = %(party)s and w.verb = %(verb)s and w.entity is not distinct from %(entity)s::text
 order by w.id desc limit 1
"""
