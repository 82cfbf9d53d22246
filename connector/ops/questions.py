"""An auditor's questions, each answered from indexes: what happened to a key, what a party sent, who did what, and when
nothing could be done. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import psycopg
from psycopg.rows import class_row

from connector.audit import log, merkle, note, tree
from connector.audit.entry import Json, decode
from connector.audit.note import Checkpoint, NoteError, Verifier
from connector.errors import AuditBroken, UsageError
from connector.mapping.contract import ENTITIES
from connector.settings import Config
from connector.staging import history
from connector.staging.history import History
from connector.staging.session import translated
from connector.yamlpos import closest, shown

_SNAPSHOT = "set transaction isolation level repeatable read, read only"
# Acts that end a hold of their entity.
_RELEASING = ("released", "resume", "resync", "approve", "copy_begun")


@dataclass(frozen=True, slots=True)
class Span:
    """From a moment on, up to another one (not included); either may be open."""

    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def of(cls, since: str | None, until: str | None) -> Span:
        """Read dates or times; a day as `until` is included.

        Raises:
            UsageError: it is neither.
        """
        return cls(_moment(since, "--from"), _moment(until, "--to", days=1))


def _moment(text: str | None, option: str, days: int = 0) -> datetime | None:
    if text is None:
        return None
    try:
        if len(text) == len("2026-01-31"):
            return datetime.combine(date.fromisoformat(text), time(), UTC) + timedelta(days=days)
        found = datetime.fromisoformat(text)
    except ValueError:
        hint = "2026-11-30, or 2026-11-30T08:00:00+07:00"
        raise UsageError(f"{option} is no date and no time: {shown(text)}", hint=hint) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


# ------------------------------------------------------------------------------------------------- one key


def of_key(conn: psycopg.Connection, config: Config, entity: str, key: str, party: str) -> History:
    """What happened to a key.

    Raises:
        UsageError: there is no such party or entity.
    """
    found = config.party(party)
    if entity not in ENTITIES:
        raise UsageError(f"there is no entity `{shown(entity)}`", hint=closest(entity, ENTITIES))
    with translated("reading the journal"), conn.transaction():
        conn.execute(_SNAPSHOT)
        return history.of_key(conn, (found.name, found.parpol_id), entity, key)


# ------------------------------------------------------------------------------------------------- what was sent


@dataclass(frozen=True, slots=True)
class Sent:
    """What a party sent of an entity, as batches counted it. Entries `first_seq` to `last_seq` say the same."""

    entity: str
    mapping_version: str
    mapping_digest: str
    batches: int
    signalled: int
    read: int
    inserted: int
    updated: int
    unchanged: int
    quarantined: int
    deleted: int
    first_seq: int
    last_seq: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Day:
    """A day's changes of a party."""

    day: date
    changed: int
    quarantined: int


def sent(conn: psycopg.Connection, party: str, span: Span, version: str | None = None) -> tuple[list[Sent], list[Day]]:
    """What a party sent in a time, by entity and mapping version; and day by day."""
    values = {"party": party, "since": span.since, "until": span.until, "version": version}
    with translated("reading batches"), conn.transaction():
        conn.execute(_SNAPSHOT)
        if party not in log.heads(conn):
            raise UsageError(f"no entries of a party `{shown(party)}`", hint=closest(party, log.heads(conn)))
        found = conn.cursor(row_factory=class_row(Sent)).execute(_SENT.encode(), values).fetchall()
        days = conn.cursor(row_factory=class_row(Day)).execute(_DAYS.encode(), values).fetchall()
    return found, days


_IN_SPAN = """
 where party = %(party)s and (%(since)s::timestamptz is null or ended_at >= %(since)s)
   and (%(until)s::timestamptz is null or ended_at < %(until)s)
   and (%(version)s::text is null or mapping_version = %(version)s)
"""
_SENT = f"""
select entity, coalesce(mapping_version, '') as mapping_version, coalesce(mapping_digest, '') as mapping_digest,
       count(*) as batches, sum(signalled)::bigint as signalled, sum(read)::bigint as read,
       sum(inserted)::bigint as inserted, sum(updated)::bigint as updated, sum(unchanged)::bigint as unchanged,
       sum(quarantined)::bigint as quarantined, sum(deleted)::bigint as deleted, min(audit_seq) as first_seq,
       max(audit_seq) as last_seq, min(ended_at) as first_at, max(ended_at) as last_at
  from staging.sync_batch {_IN_SPAN} group by 1, 2, 3 order by 1, min(id)
"""
_DAYS = f"""
select (ended_at at time zone 'Asia/Jakarta')::date as day, sum(inserted + updated + deleted)::bigint as changed,
       sum(quarantined)::bigint as quarantined
  from staging.sync_batch {_IN_SPAN} group by 1 order by 1
"""


def changed_keys(conn: psycopg.Connection, party: str, version: str, limit: int) -> list[tuple[str, str, str]]:
    """Entity, key and operation of rows that were changed under a mapping version, oldest first."""
    with translated("reading the journal"):
        return conn.execute(_CHANGED, {"party": party, "version": version, "limit": limit}).fetchall()


_CHANGED = """
select p.entity, p.key, p.op
  from staging.sync_batch b
 cross join lateral (
       select j.entity, one.key, case one.op when 'D' then 'gone' else 'there' end as op, j.first_ordinal + one.n as n
         from connector.journal j, unnest(j.keys, string_to_array(j.ops, null)) with ordinality as one (key, op, n)
        where j.batch_id = b.id and j.digests is not null
       union all
       select c.entity, one.key, 'there', c.first_ordinal + one.n
         from audit.committed c, unnest(c.keys) with ordinality as one (key, n) where c.batch_id = b.id) p
 where b.party = %(party)s and b.mapping_version = %(version)s
 order by b.id, p.n limit %(limit)s
"""


# ------------------------------------------------------------------------------------------------- acts and outages


@dataclass(frozen=True, slots=True)
class Act:
    """An entry that is no batch: what somebody asked for, or what the connector did by itself (`asked_by` empty)."""

    party: str
    seq: int
    at: str
    act: str
    entity: str
    asked_by: str
    what: str


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which a party, or one of its entities, was not followed. `until` None: it goes on."""

    party: str
    entity: str
    since: str
    until: str | None
    reason: str
    first_seq: int
    last_seq: int | None


def acts(conn: psycopg.Connection, party: str | None, span: Span, limit: int, *, manual: bool = True) -> list[Act]:
    """Acts, the oldest first; of the newest `limit`. With `manual` only what a person asked for."""
    with translated("reading acts"):
        found = [_act(*row) for row in _control(conn, party, span)]
    kept = [one for one in found if one.asked_by or not manual]
    return kept[-limit:]


def outages(conn: psycopg.Connection, party: str | None, span: Span) -> list[Outage]:
    """Holds, lost positions and outages, each with its end where it has one."""
    with translated("reading outages"):
        return list(_outages((name, seq, _fields(body)) for name, seq, body in _control(conn, party, span)))


def _control(conn: psycopg.Connection, party: str | None, span: Span) -> list[tuple[str, int, bytes]]:
    return conn.execute(_CONTROL, {"party": party, "since": span.since, "until": span.until}).fetchall()


# The predicate of the index entry_acts, word for word.
_CONTROL = """
select party, seq, body from audit.entry
 where position('"kind":"signals"'::bytea in body) = 0 and position('"kind":"copy"'::bytea in body) = 0
   and (%(since)s::timestamptz is null or at >= %(since)s) and (%(until)s::timestamptz is null or at < %(until)s)
   and (%(party)s::text is null or party = %(party)s)
 order by at, party, seq
"""


def _fields(body: bytes) -> Mapping[str, Json]:
    try:
        return decode(bytes(body))
    except ValueError:
        return {}


def _act(party: str, seq: int, body: bytes) -> Act:
    fields = _fields(body)
    asked = fields.get("asked_by")
    who = ", ".join(map(str, asked)) if isinstance(asked, list) else str(asked or "")
    args = fields.get("args")
    said = [f"{name}={value}" for name, value in sorted(args.items())] if isinstance(args, dict) else []
    said += [str(fields[name]) for name in ("reason", "message", "why", "outcome") if fields.get(name)]
    act = str(fields.get("act") or fields.get("kind") or "(unreadable)")
    return Act(party, seq, str(fields.get("at", "")), act, str(fields.get("entity") or "*"), who, "; ".join(said))


def _outages(entries: Iterator[tuple[str, int, Mapping[str, Json]]]) -> Iterator[Outage]:
    """Pair what began with what ended it. Pure."""
    open_: dict[tuple[str, str], Outage] = {}
    for party, seq, fields in entries:
        act, at, entity = str(fields.get("act", "")), str(fields.get("at", "")), str(fields.get("entity") or "*")
        if fields.get("kind") == "outage":
            reason = str(fields.get("reason") or act)
            yield Outage(
                party, "*", str(fields.get("outage_from", at)), str(fields.get("outage_to", at)), reason, seq, seq
            )
        elif act in ("held", "position_lost", "pause"):
            reason = str(fields.get("reason") or act)
            open_.setdefault((party, entity), Outage(party, entity, at, None, reason, seq, None))
        elif act in _RELEASING or act == "history_begun":
            ended_here = [place for place in open_ if place[0] == party and entity in ("*", place[1])]
            for place in ended_here:
                begun = open_.pop(place)
                yield Outage(party, begun.entity, begun.since, at, begun.reason, begun.first_seq, seq)
    yield from open_.values()


# ------------------------------------------------------------------------------------------------- two checkpoints


@dataclass(frozen=True, slots=True)
class Between:
    """Two checkpoints of one log of which one is the beginning of the other, and what came in between, by party."""

    old: int
    new: int
    hashes: int
    signed: bool
    came: tuple[tuple[str, int, int, int], ...]


def between(conn: psycopg.Connection, old: str, new: str, verifiers: Sequence[Verifier]) -> Between:
    """Was anything removed or changed between two checkpoints? Each is a size, or a checkpoint's text.

    Raises:
        AuditBroken: the tree here is not what a checkpoint says, or one is not the beginning of the other.
        UsageError: there is no such checkpoint, or it is none.
    """
    with translated("reading the audit tree"), conn.transaction():
        conn.execute(_SNAPSHOT)
        one, two = sorted((_checkpoint(conn, text, verifiers) for text in (old, new)), key=lambda found: found.size)
        size, nodes = tree.size(conn), tree.nodes(conn)
        for found in (one, two):
            here = merkle.root(found.size, nodes) if found.size <= size else b""
            if here != found.root:
                hint = "keep the checkpoint and a copy of the database: together they prove it"
                what = f"the first {found.size:,} entries are not those that the checkpoint signs"
                raise AuditBroken("tree", found.size, what, hint=hint)
        proof = merkle.consistency(one.size, two.size, nodes)
        if not merkle.extends(one.size, one.root, two.size, two.root, proof):
            raise AuditBroken("tree", two.size, "the older checkpoint is not the beginning of the newer one")
        came = conn.execute(_CAME, (one.size, two.size)).fetchall()
    return Between(one.size, two.size, len(proof), bool(verifiers), tuple(came))


_CAME = """
select party, count(*), min(seq), max(seq) from audit.leaf where idx >= %s and idx < %s group by party order by party
"""


def _checkpoint(conn: psycopg.Connection, text: str, verifiers: Sequence[Verifier]) -> Checkpoint:
    if text.strip().isdigit():
        stored = next((one for one in tree.checkpoints(conn) if one.size == int(text)), None)
        if stored is None:
            hint = "connector audit export writes all checkpoints"
            raise UsageError(f"no checkpoint of {int(text):,} entries was signed", hint=hint)
        text = stored.note
    try:
        if verifiers:
            return note.opened(text, verifiers)[1]
        return Checkpoint.parse(note.parse(text).text)
    except NoteError as error:
        raise UsageError(
            f"not a checkpoint of this log: {error}", hint="after a change of key: audit.trusted"
        ) from None
