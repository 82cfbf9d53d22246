"""What a replication slot says about itself, and whether our stored position still fits it.

A start position below the slot's own is moved forward by the server without a word, so the two are
compared on every connect: a gap is `PositionLost`, never a quiet continue.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from connector import pg
from connector.capture.postgres.protocol import lsn_int, lsn_text
from connector.errors import PositionLost, SourceError, SourceMisconfigured, SourceUnavailable
from connector.events import Position, SourceIdentity


@dataclass(frozen=True, slots=True)
class SlotState:
    """A slot and its server. Places in the log are numbers (bytes)."""

    identity: SourceIdentity
    confirmed: int
    restart: int
    current: int
    wal_status: str
    active: bool

    @property
    def lag_bytes(self) -> int:
        """Log the party's server keeps for us."""
        return max(0, self.current - self.restart)


def look(conn: psycopg.Connection, slot: str) -> SlotState | None:
    """Read the slot's state; None where there is no such slot in this database."""
    with pg.translated("looking at the replication slot"):
        row = conn.execute(_LOOK, (slot,)).fetchone()
    if row is None:
        return None
    return SlotState(
        SourceIdentity(str(row[0]), row[1], slot), lsn_int(row[2] or "0/0"), lsn_int(row[3] or "0/0"), lsn_int(row[4]),
        row[5] or "lost", row[6],
    )  # fmt: skip


def start_position(
    state: SlotState | None, slot: str, stored: Position | None, identity: SourceIdentity | None
) -> Position:
    """Where to go on from: the stored position, or the slot's own at the very first start.

    Raises:
        PositionLost: changes between the stored position and what the slot can still give are gone.
        SourceMisconfigured: no slot yet.
    """
    if state is None:
        if stored is None:
            raise SourceMisconfigured(
                f"there is no replication slot {slot}", hint="run the kit's SQL: `connector kit PARTY`"
            )
        raise PositionLost(
            "slot_missing", f"replication slot {slot} is gone", hint="run the kit's SQL, then `connector resync PARTY`"
        )
    if state.wal_status == "lost":
        raise PositionLost(
            "slot_lost", f"replication slot {slot} was invalidated: the server threw away log we had not read",
            hint="drop and create the slot (kit --remove, kit), then `connector resync PARTY`",
        )  # fmt: skip
    if stored is None or identity is None:
        return Position(state.confirmed, lsn_text(state.confirmed))
    _compare(state, slot, stored, identity)
    return stored


def _compare(state: SlotState, slot: str, stored: Position, identity: SourceIdentity) -> None:
    if state.identity.system != identity.system:
        raise PositionLost(
            "identity_changed", "this is another database cluster than the one the position is from",
            hint="check the address; if the party moved on purpose: `connector resync PARTY`",
        )  # fmt: skip
    if state.identity.timeline != identity.timeline:
        raise PositionLost(
            "identity_changed", f"the server is on timeline {state.identity.timeline}, we stand on {identity.timeline}",
            hint="the party failed over or restored a backup: `connector resync PARTY`",
        )  # fmt: skip
    if state.confirmed > stored.ordinal:
        raise PositionLost(
            "position_ahead",
            f"slot {slot} stands at {lsn_text(state.confirmed)}, beyond what staging has ({stored.text})",
            hint="the slot was moved or made anew, or staging was restored from a backup: `connector resync PARTY`",
        )  # fmt: skip
    if stored.ordinal > state.current:
        raise PositionLost(
            "diverged", f"staging has {stored.text}, the server's log ends at {lsn_text(state.current)}",
            hint="the party restored an older state: `connector resync PARTY`",
        )  # fmt: skip


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """As `pg.translated`, with what an error means where a slot or the kit's functions are used."""
    try:
        yield
    except psycopg.Error as error:
        raise _error(error, doing) or pg.translate(error, doing) from None


def _error(error: psycopg.Error, doing: str) -> SourceError | None:
    match error.sqlstate:
        case "42704":
            return PositionLost(
                "slot_missing",
                f"{doing}: the replication slot is gone",
                hint="run the kit's SQL, then `connector resync PARTY`",
            )
        case "55000":
            return PositionLost(
                "slot_lost", f"{doing}: the slot was invalidated",
                hint="make the slot anew (kit --remove, kit), then `connector resync PARTY`",
            )  # fmt: skip
        case "55006":
            return SourceUnavailable(
                f"{doing}: another session is using the slot", hint="is a second daemon running for this party?"
            )
        case "42501" | "42883" | "3F000":
            return SourceMisconfigured(
                f"{doing}: the functions of the kit are missing or may not be called ({error.sqlstate})",
                hint="the party's DBA grants EXECUTE on them again: `connector kit PARTY` prints the SQL",
            )
    return None


_LOOK = """
select (select system_identifier from pg_control_system()),
       ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer,
       confirmed_flush_lsn::text, restart_lsn::text, pg_current_wal_insert_lsn()::text, wal_status, active
  from pg_replication_slots
 where slot_name = %s and slot_type = 'logical' and database = current_database()
"""
