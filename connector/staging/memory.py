"""What sources without a log last saw of a party's views: buckets of digests, and cursors.

Written inside a batch's transaction (`write`), read through a session of its own (`PartyMemory`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import assert_never

import psycopg

from connector.events import Bucket, Cursor, Note
from connector.staging import session


def write(conn: psycopg.Connection, party: str, notes: Iterable[Note]) -> None:
    """Replace what is remembered; inside the caller's transaction."""
    for note in notes:
        match note:
            case Bucket() if note.rows == 0:
                conn.execute(_FORGET, (party, note.entity, note.ordinal))
            case Bucket():
                conn.execute(
                    _BUCKET,
                    (party, note.entity, note.ordinal, note.upto, note.rows, note.digest, list(note.keys), note.marks),
                )
            case Cursor():
                conn.execute(_CURSOR, (party, note.entity, note.value))
            case _:
                assert_never(note)


class PartyMemory:
    """One party's memory. One thread at a time."""

    def __init__(self, dsn: str, party: str) -> None:
        self._conn = session.connect(dsn, f"connector {party}")
        self._party = party

    def close(self) -> None:
        self._conn.close()

    def buckets(self, entity: str) -> Sequence[Bucket]:
        """An entity's buckets in order, without their keys."""
        with session.translated("reading what was last seen"):
            rows = self._conn.execute(_HEADS, (self._party, entity)).fetchall()
        return [Bucket(entity, ordinal, upto, count, digest, (), b"") for ordinal, upto, count, digest in rows]

    def marks(self, entity: str, ordinal: Decimal) -> tuple[Sequence[str], bytes]:
        """A bucket's keys and their marks."""
        with session.translated("reading what was last seen"):
            row = self._conn.execute(_MARKS, (self._party, entity, ordinal)).fetchone()
        return (row[0], row[1]) if row is not None else ((), b"")

    def cursor(self, entity: str) -> str | None:
        with session.translated("reading what was last seen"):
            row = self._conn.execute(_READ_CURSOR, (self._party, entity)).fetchone()
        return None if row is None else str(row[0])

    def begin(self, entity: str, buckets: Iterable[Bucket]) -> None:
        """Remember an entity anew. Only before a history begins: from then on notes move with batches."""
        with session.translated("writing what was last seen"), self._conn.transaction():
            self._conn.execute("delete from connector.bucket where party = %s and entity = %s", (self._party, entity))
            write(self._conn, self._party, buckets)

    def begin_cursor(self, entity: str, value: str | None) -> None:
        """As `begin`, for how far a column was followed."""
        with session.translated("writing what was last seen"), self._conn.transaction():
            self._conn.execute("delete from connector.cursor where party = %s and entity = %s", (self._party, entity))
            if value is not None:
                write(self._conn, self._party, (Cursor(entity, value),))


_BUCKET = """
insert into connector.bucket (party, entity, ordinal, upto, rows, digest, keys, marks)
values (%s, %s, %s, %s, %s, %s, %s, %s)
on conflict (party, entity, ordinal) do update
   set upto = excluded.upto, rows = excluded.rows, digest = excluded.digest, keys = excluded.keys,
       marks = excluded.marks
"""
_FORGET = "delete from connector.bucket where party = %s and entity = %s and ordinal = %s"
_CURSOR = """
insert into connector.cursor (party, entity, value) values (%s, %s, %s)
on conflict (party, entity) do update set value = excluded.value
"""
_HEADS = """
select ordinal, upto, rows, digest from connector.bucket where party = %s and entity = %s order by ordinal
"""
_MARKS = "select keys, marks from connector.bucket where party = %s and entity = %s and ordinal = %s"
_READ_CURSOR = "select value from connector.cursor where party = %s and entity = %s"
