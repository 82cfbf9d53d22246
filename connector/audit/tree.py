"""The tree in staging: its leaves, subtrees and checkpoints, read. Only `sequencer` adds to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg

from connector.audit.merkle import Frontier
from connector.audit.tiles import WIDTH, TileNodes

_SIZE = "select coalesce(max(idx) + 1, 0) from audit.leaf"
_LEAVES = "select string_agg(hash, ''::bytea order by idx) from audit.leaf where idx >= %s and idx < %s"
_SUBTREES = (
    "select string_agg(hash, ''::bytea order by idx) from audit.subtree where level = %s and idx >= %s and idx < %s"
)


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A row of audit.checkpoint; `note` is the signed checkpoint as it was published."""

    size: int
    root: bytes
    note: str
    at: object


@dataclass(frozen=True, slots=True)
class Leaf:
    """Which entry a leaf is."""

    index: int
    party: str
    seq: int
    hash: bytes


def size(conn: psycopg.Connection) -> int:
    """How many leaves the tree has."""
    row = conn.execute(_SIZE).fetchone()
    assert row is not None
    return int(row[0])


def fetch_tile(conn: psycopg.Connection, level: int, index: int) -> bytes:
    """The hashes of a tile, one after the other; empty where there are none."""
    first = index * WIDTH
    cursor = conn.cursor(binary=True)
    if level == 0:
        row = cursor.execute(_LEAVES, (first, first + WIDTH)).fetchone()
    else:
        row = cursor.execute(_SUBTREES, (level, first, first + WIDTH)).fetchone()
    return bytes(row[0]) if row and row[0] is not None else b""


def nodes(conn: psycopg.Connection) -> TileNodes:
    """A reader of complete subtrees, for proofs and roots."""
    return TileNodes(lambda level, index: fetch_tile(conn, level, index))


def frontier(conn: psycopg.Connection) -> Frontier:
    """The tree's frontier, to go on from.

    Raises:
        LookupError: leaves or subtrees are missing: somebody removed them.
    """
    return Frontier.load(size(conn), nodes(conn))


def subtrees(conn: psycopg.Connection) -> dict[tuple[int, int], bytes]:
    """All kept subtrees' roots, by level and index: one for 256 leaves."""
    rows = conn.cursor(binary=True).execute("select level, idx, hash from audit.subtree")
    return {(level, index): bytes(found) for level, index, found in rows}


def leaf(conn: psycopg.Connection, party: str, seq: int) -> Leaf | None:
    """The leaf that an entry is; None where it is not in the tree yet."""
    row = conn.execute(
        "select idx, party, seq, hash from audit.leaf where party = %s and seq = %s", (party, seq)
    ).fetchone()
    return Leaf(row[0], row[1], row[2], bytes(row[3])) if row else None


def leaves(conn: psycopg.Connection, start: int = 0, end: int | None = None) -> Iterator[Leaf]:
    """Leaves in order. The session is busy until the last one is taken."""
    query = b"""
        select idx, party, seq, hash from audit.leaf where idx >= %s and (%s::bigint is null or idx < %s) order by idx
    """
    with conn.cursor(binary=True) as cursor:
        for row in cursor.stream(query, (start, end, end), size=10_000):
            yield Leaf(*row)


def bodies(conn: psycopg.Connection, start: int, end: int) -> list[bytes]:
    """The entries of leaves [start, end), in order."""
    rows = conn.cursor(binary=True).execute(
        "select e.body from audit.leaf l join audit.entry e using (party, seq)"
        " where l.idx >= %s and l.idx < %s order by l.idx",
        (start, end),
    )
    return [bytes(row[0]) for row in rows.fetchall()]


_CHECKPOINTS = "select size, root, note, at from audit.checkpoint"


def checkpoints(conn: psycopg.Connection) -> list[StoredCheckpoint]:
    """All checkpoints, the smallest first."""
    return [_stored(row) for row in conn.execute(f"{_CHECKPOINTS} order by size".encode()).fetchall()]


def checkpoint(conn: psycopg.Connection, at_least: int = 0) -> StoredCheckpoint | None:
    """The newest checkpoint of a tree of so many leaves or more, with the witnesses' lines that came by now."""
    row = conn.execute(f"{_CHECKPOINTS} where size >= %s order by size desc limit 1".encode(), (at_least,)).fetchone()
    return _stored(row) if row else None


def cosignatures(conn: psycopg.Connection, tree_size: int) -> list[str]:
    """The signature lines that others gave for a checkpoint."""
    rows = conn.execute("select line from audit.cosignature where size = %s order by witness, line", (tree_size,))
    return [row[0] for row in rows.fetchall()]


def _stored(row: Sequence[object]) -> StoredCheckpoint:
    tree_size, root, note, at = row
    assert isinstance(tree_size, int)
    assert isinstance(root, bytes)
    assert isinstance(note, str)
    return StoredCheckpoint(tree_size, root, note, at)
