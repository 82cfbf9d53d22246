"""Where each party stands, who may move it, and in which order reads count.

The row in connector.source_offset is compared and set inside the batch's own transaction: it refuses
to move back, and it fences a daemon that no longer owns the party.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg.types.json import Jsonb

from connector.errors import Fenced, StaleRead
from connector.events import Position, SourceIdentity
from connector.staging.session import translated

CLAIM_WAIT_S = 3


@dataclass(frozen=True, slots=True)
class StoredOffset:
    """A party's row. `position` is None until the first copy has been begun."""

    position: Position | None
    audited: Position | None
    identity: SourceIdentity | None
    read_position: int
    epoch: int


def register(conn: psycopg.Connection, party: str, parpol_id: int, jenis: str) -> None:
    """Make the party known to staging; refuses a party id that another party has.

    Raises:
        Fenced: `parpol_id` belongs to another party, or this party had another id.
    """
    with translated("registering the party"), conn.transaction():
        conn.execute(
            "insert into connector.party (party, parpol_id, jenis) values (%s, %s, %s) on conflict do nothing",
            (party, parpol_id, jenis),
        )
        conn.execute("update connector.party set jenis = %s where party = %s and jenis <> %s", (jenis, party, jenis))
        conn.execute(
            "insert into connector.source_offset (party) select party from connector.party where party = %s"
            " on conflict do nothing",
            (party,),
        )
        found = conn.execute("select parpol_id from connector.party where party = %s", (party,)).fetchone()
    if found is None or found[0] != parpol_id:
        raise Fenced(
            f"parpol_id {parpol_id} is not this party's in staging",
            hint="two parties must not share a parpol_id, and a party keeps the one it has",
            place=party,
        )


def note_settings(conn: psycopg.Connection, party: str, settings: Mapping[str, str]) -> None:
    """Say with what the party runs: digests by part of its configuration."""
    with translated("noting the settings"):
        conn.execute(
            "update connector.party set settings = %s where party = %s and settings is distinct from %s",
            (Jsonb(dict(settings)), party, Jsonb(dict(settings))),
        )


def claim(conn: psycopg.Connection, party: str) -> StoredOffset:
    """Take the party over: a session lock that dies with us, and an epoch that outlives us.

    Raises:
        Fenced: another live daemon holds the party.
    """
    with translated("claiming the party"):
        _lock(conn, party)
        conn.execute(
            "update connector.source_offset set epoch = epoch + 1, claimed_at = clock_timestamp() where party = %s",
            (party,),
        )
        return load(conn, party)


def _lock(conn: psycopg.Connection, party: str) -> None:
    # Waiting a little lets a session of our own that just broke off be noticed as gone.
    try:
        with conn.transaction():
            conn.execute("select set_config('lock_timeout', %s, true)", (f"{CLAIM_WAIT_S}s",))
            conn.execute("select pg_advisory_lock(hashtextextended('connector party ' || %s, 0))", (party,))
    except psycopg.errors.LockNotAvailable:
        raise Fenced(
            "another daemon is working for this party", hint="stop the other one, or wait for it to end", place=party
        ) from None


_COLUMNS = (
    "position_ordinal, position_text, audited_ordinal, audited_text, system, timeline, slot, read_position, epoch"
)


def load(conn: psycopg.Connection, party: str, *, lock: bool = False) -> StoredOffset:
    """Read the party's row, locking it against other batches where asked."""
    query = f"select {_COLUMNS} from connector.source_offset where party = %s" + (" for update" if lock else "")
    row = conn.execute(query.encode(), (party,)).fetchone()
    assert row is not None, "register() comes first"
    return StoredOffset(
        position=Position(row[0], row[1]) if row[0] is not None else None,
        audited=Position(row[2], row[3]) if row[2] is not None else None,
        identity=SourceIdentity(row[4], row[5], row[6]) if row[4] is not None else None,
        read_position=row[7],
        epoch=row[8],
    )


def begin(conn: psycopg.Connection, party: str, epoch: int, read_position: int | None) -> StoredOffset:
    """Lock the row for this transaction and check that we may still write.

    Raises:
        Fenced: somebody else claimed the party since.
        StaleRead: what is to be applied was read before something that was applied already.
    """
    stored = load(conn, party, lock=True)
    if stored.epoch != epoch:
        raise Fenced(
            "another daemon has taken this party over", hint="this one stops; nothing was written", place=party
        )
    if read_position is not None and read_position < stored.read_position:
        raise StaleRead("an older read than one already applied", place=party)
    return stored


def advance(
    conn: psycopg.Connection, party: str, position: Position | None, *, read_position: int | None, audited: bool
) -> None:
    """Move the locked row forward; never back.

    Raises:
        StaleRead: the position would move back.
    """
    done = conn.execute(
        """
        update connector.source_offset
           set position_ordinal = coalesce(%(ordinal)s, position_ordinal),
               position_text = coalesce(%(text)s, position_text),
               audited_ordinal = case when %(audited)s then coalesce(%(ordinal)s, audited_ordinal)
                                      else audited_ordinal end,
               audited_text = case when %(audited)s then coalesce(%(text)s, audited_text) else audited_text end,
               read_position = greatest(read_position, coalesce(%(read)s, read_position)),
               moved_at = now()
         where party = %(party)s
           and (%(ordinal)s::bigint is null or position_ordinal is null or position_ordinal <= %(ordinal)s)
        """,
        {
            "party": party,
            "ordinal": position.ordinal if position else None,
            "text": position.text if position else None,
            "read": read_position,
            "audited": audited,
        },
    )
    if done.rowcount != 1:
        raise StaleRead("the position would move back", place=party)


def set_back_reads(conn: psycopg.Connection, party: str, read_position: int) -> None:
    """The party's server lost log that reads had gone beyond: reads count from `read_position` again."""
    conn.execute("update connector.source_offset set read_position = %s where party = %s", (read_position, party))


def restart(conn: psycopg.Connection, party: str, position: Position, identity: SourceIdentity) -> None:
    """Begin a new history at `position`: at first start, or when an operator resyncs after a gap.

    The audit log's range begins anew there; what lay between is told by a control entry.
    """
    conn.execute(
        """
        update connector.source_offset
           set position_ordinal = %s, position_text = %s, audited_ordinal = %s, audited_text = %s,
               system = %s, timeline = %s, slot = %s, read_position = 0, moved_at = now()
         where party = %s
        """,
        (position.ordinal, position.text, position.ordinal, position.text,
         identity.system, identity.timeline, identity.slot, party),
    )  # fmt: skip
