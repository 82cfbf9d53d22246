"""Takes committed entries into the tree and signs its checkpoints. Never in a party's way.

A party's entries are numbered in the order of their commits, and a snapshot that shows entry n shows all before it. So
a tick needs no lock against the parties and no horizon: it takes, of one snapshot, what follows the last leaf of each
party. What committed before a tick began is never behind what committed after it; within a tick the time in the
entries decides. Waiting for the oldest open transaction, as the change feed does, would order entries no better and
let one party's long batch hold up every receipt.

Refuses to add to or sign a tree that does not continue the last checkpoint known outside this database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import psycopg

from connector.audit import merkle, note, tree
from connector.audit.anchor import Anchor
from connector.audit.note import Checkpoint, NoteError, Signer, Verifier
from connector.audit.tiles import subtrees
from connector.errors import ConnectorError

# Entries of one party taken at a time: a second's work at most.
PARTY_ROWS_MAX = 10_000
_LOCK = "select pg_try_advisory_xact_lock(hashtextextended('connector audit tree', 0))"
_DUE = """
with parties as (
    select h.party, coalesce((select max(l.seq) from audit.leaf l where l.party = h.party), 0) as taken
      from audit.head h)
select e.party, e.seq, sha256('\\x00'::bytea || e.body), e.at
  from parties p cross join lateral (
       select party, seq, body, at from audit.entry own where own.party = p.party and own.seq > p.taken
        order by seq limit %s) e
 order by e.party, e.seq
"""


class LogForked(ConnectorError):
    """The tree here is not a continuation of what was signed before: nothing is added and nothing signed."""


@dataclass(frozen=True, slots=True)
class Signing:
    """Under which name the log is signed, with which keys, and where its last checkpoint is kept.

    `signers` has more than one key while a key is being replaced; `trusted` are the public keys of the log, past and
    present.
    """

    origin: str
    signers: tuple[Signer, ...] = ()
    trusted: tuple[Verifier, ...] = ()
    anchor: Anchor | None = None

    @property
    def verifiers(self) -> tuple[Verifier, ...]:
        return tuple(dict.fromkeys((*(signer.verifier() for signer in self.signers), *self.trusted)))


@dataclass(slots=True)
class Known:
    """What a sequencer remembers between ticks, so as not to prove the same twice."""

    anchor: str | None = field(default=None)


@dataclass(frozen=True, slots=True)
class Due:
    """A committed entry that is not a leaf yet."""

    party: str
    seq: int
    hash: bytes
    at: datetime


@dataclass(frozen=True, slots=True)
class SequencerState:
    """Where the tree stands. `waiting` entries are committed and not in it.

    `unanchored_s`: how old the oldest entry is that no checkpoint outside staging covers; None where there is none.
    """

    origin: str | None
    state: str
    message: str | None
    hint: str | None
    size: int
    signed: int
    anchored: int
    anchored_at: datetime | None
    unanchored_s: float | None
    heartbeat_age_s: float | None
    waiting: int


def integrate(conn: psycopg.Connection, signing: Signing, known: Known) -> int | None:
    """Take what was committed into the tree: one transaction. Gives how many entries; None where another does it.

    Raises:
        LogForked, AnchorError: see `check_anchor`.
    """
    with conn.transaction():
        # The signature that follows must not be on disk before its leaves are.
        conn.execute("set local synchronous_commit = on")
        if not _locked(conn):
            return None
        due = in_order(_due(conn), PARTY_ROWS_MAX)
        if not due:
            return 0
        check_anchor(conn, signing, known)
        _add(conn, due)
    return len(due)


def _locked(conn: psycopg.Connection) -> bool:
    """Alone until commit. Taken before anything is read: what is read afterwards is what the one before left."""
    row = conn.execute(_LOCK).fetchone()
    return bool(row and row[0])


def _due(conn: psycopg.Connection) -> list[Due]:
    rows = conn.cursor(binary=True).execute(_DUE, (PARTY_ROWS_MAX,)).fetchall()
    return [Due(*row) for row in rows]


def in_order(due: Sequence[Due], party_rows_max: int) -> list[Due]:
    """The order of leaves: by time, never against a party's own numbers. Pure.

    Args:
        due: by party and number; of each party at most `party_rows_max`. Where a party has that many there may be
            more, and later entries of other parties wait for them.
    """
    clock: dict[str, datetime] = {}
    count: dict[str, int] = {}
    timed: list[tuple[datetime, Due]] = []
    for one in due:
        # Staging's clock may be set back: an entry is never earlier than its predecessor.
        clock[one.party] = max(one.at, clock.get(one.party, one.at))
        count[one.party] = count.get(one.party, 0) + 1
        timed.append((clock[one.party], one))
    full = [clock[party] for party, rows in count.items() if rows >= party_rows_max]
    until = min(full) if full else None
    timed.sort(key=lambda pair: (pair[0], pair[1].party, pair[1].seq))
    return [one for at, one in timed if until is None or at <= until]


def _add(conn: psycopg.Connection, due: Sequence[Due]) -> None:
    try:
        frontier = tree.frontier(conn)
    except LookupError as damaged:
        raise LogForked(f"the tree is damaged: {damaged}", hint="connector audit verify says where") from None
    kept: list[tuple[int, int, bytes]] = []
    into = "copy audit.leaf (idx, party, seq, hash) from stdin (format binary)"
    with conn.cursor() as cursor, cursor.copy(into) as copy:
        copy.set_types(["int8", "text", "int8", "bytea"])
        for one in due:
            copy.write_row((frontier.size, one.party, one.seq, one.hash))
            completed = frontier.append(one.hash)
            kept.extend(subtrees(frontier.size, completed))
    if kept:
        conn.cursor().executemany("insert into audit.subtree (level, idx, hash) values (%s, %s, %s)", kept)


def check_anchor(conn: psycopg.Connection, signing: Signing, known: Known) -> None:
    """The tree must continue the last checkpoint that anybody outside was given.

    Raises:
        LogForked: it does not: staging was restored from a backup, or written anew.
        AnchorError: the anchor cannot be read.
    """
    newest = tree.checkpoint(conn)
    if signing.anchor is None:
        if newest is not None:
            _continues(conn, Checkpoint.parse(note.parse(newest.note).text), signing, "the last checkpoint signed")
        return
    text = signing.anchor.read()
    if text is None:
        if newest is not None:
            raise LogForked(
                "the anchor is gone, and this log was signed before", place=str(signing.anchor.path),
                hint="put it back, or the newest checkpoint that a witness holds; ours: connector audit checkpoint",
            )  # fmt: skip
        return
    if text != known.anchor:
        _continues(conn, _trusted(text, signing), signing, "the anchor")
        known.anchor = text


def _trusted(text: str, signing: Signing) -> Checkpoint:
    """The anchor's checkpoint: one of ours, or nothing."""
    assert signing.anchor is not None
    try:
        if signing.verifiers:
            return note.opened(text, signing.verifiers)[1]
        return Checkpoint.parse(note.parse(text).text)
    except NoteError as exc:
        raise LogForked(
            f"the anchor is no checkpoint of this log: {exc}", place=str(signing.anchor.path),
            hint="after a change of key, name the old public key in audit.trusted",
        ) from None  # fmt: skip


def _continues(conn: psycopg.Connection, last: Checkpoint, signing: Signing, source: str) -> None:
    size = tree.size(conn)
    if last.origin != signing.origin:
        raise LogForked(
            f"the log is called {last.origin} in {source}, and {signing.origin} in the configuration",
            hint="a log keeps its name (audit.origin)",
        )
    if last.size > size:
        raise LogForked(
            f"the tree has {size} entries, {source} has {last.size}: staging was restored from a backup, or cut off",
            hint="restore it up to its last commit; signing on would make a second history, which witnesses refuse",
        )
    try:
        here = merkle.root(last.size, tree.nodes(conn))
    except LookupError:
        here = b""
    if here != last.root:
        raise LogForked(
            f"the tree's first {last.size} entries are not those of {source}: there are two histories",
            hint="keep both; connector audit verify says what differs here",
        )


def sign(conn: psycopg.Connection, signing: Signing, known: Known) -> Checkpoint | None:
    """Sign the tree as it is now, if it grew; the anchor first, then staging. None where there was nothing to do.

    Raises:
        LogForked, AnchorError: see `check_anchor`; `Anchor.replace`.
    """
    if not signing.signers:
        return None
    with conn.transaction():
        if not _locked(conn):
            return None
        check_anchor(conn, signing, known)
        size = tree.size(conn)
        newest = tree.checkpoint(conn)
        if size == (newest.size if newest else 0):
            return None
        checkpoint = Checkpoint(signing.origin, size, merkle.root(size, tree.nodes(conn)))
        text = str(note.sign(checkpoint, signing.signers))
        if signing.anchor is not None:
            # Between check and here nobody may have moved it: a second daemon with another staging would.
            signing.anchor.replace(known.anchor, text)
            known.anchor = text
        conn.execute(
            "insert into audit.checkpoint (size, root, note) values (%s, %s, %s)", (size, checkpoint.root, text)
        )
    return checkpoint


def signed_size(conn: psycopg.Connection) -> int:
    """How many entries the newest checkpoint covers."""
    newest = tree.checkpoint(conn)
    return newest.size if newest else 0


def report(conn: psycopg.Connection, origin: str, error: ConnectorError | None, anchored: int | None) -> None:
    """Say how the sequencer fares.

    Args:
        anchored: how many entries a checkpoint covers that is safe outside staging; None where nobody knows.
    """
    state = "running" if error is None else "refusing" if isinstance(error, LogForked) else "failing"
    message, hint = (str(error), error.hint) if error else ("", "")
    conn.execute(
        """
        update audit.sequencer
           set origin = %(origin)s, state = %(state)s, message = nullif(%(message)s, ''), hint = nullif(%(hint)s, ''),
               heartbeat_at = clock_timestamp(), size = tree.size,
               anchored = greatest(anchored, coalesce(%(anchored)s::bigint, 0)),
               anchored_at = case when %(anchored)s::bigint >= tree.size then clock_timestamp()
                                  else greatest(anchored_at, safe.at) end
          from (select coalesce(max(idx) + 1, 0) as size from audit.leaf) tree
          left join audit.checkpoint safe on safe.size = %(anchored)s::bigint
        """,
        {"origin": origin, "state": state, "message": message, "hint": hint, "anchored": anchored},
    )


def state(conn: psycopg.Connection) -> SequencerState:
    """What the sequencer said last, and how old that is."""
    row = conn.execute(_STATE).fetchone()
    assert row is not None
    return SequencerState(*row)


_STATE = """
select s.origin, s.state, s.message, s.hint, s.size, (select coalesce(max(size), 0) from audit.checkpoint),
       s.anchored, s.anchored_at, audit.unanchored_s(),
       extract(epoch from clock_timestamp() - s.heartbeat_at)::float8,
       (select coalesce(sum(h.seq), 0)::bigint from audit.head h)
         - (select coalesce(max(idx) + 1, 0) from audit.leaf)
  from audit.sequencer s
"""
