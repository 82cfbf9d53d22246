"""Append to and read the audit log in staging.

`append` runs inside the batch's transaction: no batch without its entry, no entry without its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import psycopg
from psycopg.pq import TransactionStatus

from connector.audit.entry import GENESIS, StoredEntry, chain_hash, compose

# Rows fetched at a time: of the largest entries there are, 64 MB.
FETCH_ROWS = 1_000

# The lock is what makes numbers gap-free and in the order of commits. The clock is staging's, not this machine's.
_HEAD = "select seq, hash, clock_timestamp() from audit.head where party = %s for update"
_FIRST = "insert into audit.head (party, seq, hash) values (%s, 0, %s) on conflict do nothing"
# One statement moves the head and writes the entry; `seq - 1` would catch a head that was not locked.
_APPEND = """
with head as (
    update audit.head set seq = %(seq)s, hash = %(hash)s where party = %(party)s and seq = %(seq)s - 1 returning party
)
insert into audit.entry (party, seq, body, prev_hash, hash, at)
select party, %(seq)s, %(body)s, %(previous)s, %(hash)s, %(at)s from head
"""


def append(conn: psycopg.Connection, party: str, facts: Mapping[str, object]) -> int:
    """Append an entry for `party` and return its number, 1 for the first. Call inside a transaction.

    The party's head row is locked until commit. Two statements, four for a party's first entry.

    Args:
        facts: what happened. `party`, `seq`, `prev`, `at` (staging's clock, UTC) and `v` are written here.

    Raises:
        ValueError: see `entry.canonical`.
    """
    head = conn.execute(_HEAD, (party,)).fetchone()
    if head is None:
        conn.execute(_FIRST, (party, GENESIS))
        head = conn.execute(_HEAD, (party,)).fetchone()
    assert head is not None
    assert conn.info.transaction_status == TransactionStatus.INTRANS, "append needs a transaction"
    seq, previous, at = int(head[0]) + 1, bytes(head[1]), head[2]
    body = compose(facts, party, seq, previous, at)
    written = {
        "party": party, "seq": seq, "body": body, "previous": previous, "hash": chain_hash(previous, body), "at": at,
    }  # fmt: skip
    assert conn.execute(_APPEND, written).rowcount == 1
    return seq


_COLUMNS = "e.party, e.seq, e.body, e.prev_hash, e.hash, e.at"


def read(
    conn: psycopg.Connection, party: str | None = None, *, after: int | None = None, limit: int | None = None
) -> Iterator[StoredEntry]:
    """Entries of one party (or of all), by party and number. The session is busy until the last one is taken."""
    query = f"""
        select {_COLUMNS} from audit.entry e
         where (%(party)s::text is null or e.party = %(party)s) and (%(after)s::bigint is null or e.seq > %(after)s)
         order by e.party, e.seq limit %(limit)s
    """
    values = {"party": party, "after": after, "limit": limit}
    with conn.cursor(binary=True) as cursor:
        for row in cursor.stream(query.encode(), values, size=FETCH_ROWS):
            yield StoredEntry(*row)


def newest(conn: psycopg.Connection, party: str | None, limit: int) -> list[StoredEntry]:
    """The last entries of one party (or of all), the oldest of them first."""
    query = f"""
        select {_COLUMNS} from audit.head h
         cross join lateral (
               select * from audit.entry own where own.party = h.party order by own.seq desc limit %(limit)s) e
         where %(party)s::text is null or h.party = %(party)s
         order by e.at desc, e.party, e.seq desc limit %(limit)s
    """
    rows = conn.cursor(binary=True).execute(query.encode(), {"party": party, "limit": limit}).fetchall()
    return [StoredEntry(*row) for row in reversed(rows)]


def one(conn: psycopg.Connection, party: str, seq: int) -> StoredEntry | None:
    """Entry `seq` of a party; None where there is none."""
    query = f"select {_COLUMNS} from audit.entry e where e.party = %s and e.seq = %s"
    row = conn.cursor(binary=True).execute(query.encode(), (party, seq)).fetchone()
    return StoredEntry(*row) if row else None


def heads(conn: psycopg.Connection) -> dict[str, tuple[int, bytes]]:
    """Each party's last entry number and hash."""
    return {row[0]: (row[1], bytes(row[2])) for row in conn.execute("select party, seq, hash from audit.head")}
