"""The audit log for people: what was written, and whether it is still what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from connector.audit import log
from connector.audit.entry import GENESIS, Json, StoredEntry, chain_hash, leaf_hash
from connector.audit.sequencer import Signing
from connector.audit.verify import Anchor, Verdict, verify
from connector.errors import AuditBroken, StagingIncompatible, UsageError
from connector.ops import evidence
from connector.ops.evidence import TreeVerdict
from connector.staging.session import translated
from connector.yamlpos import closest, shown

# How each count is shown in one line; what is zero is left out.
_SIGNS = (
    ("inserted", "+{}"),
    ("updated", "~{}"),
    ("deleted", "-{}"),
    ("unchanged", "{} unchanged"),
    ("quarantined", "{} quarantined"),
    ("absent", "{} absent"),
    ("parked", "{} parked"),
)
_BROKEN_HINT = (
    "keep the database as it is: who changed it, and from which backup, is now the question;"
    " entries before this one are as they were written"
)

# A batch's own record names its entry. Whoever cuts the log's end off, and its head with it, leaves these behind.
_BATCHES = "select party, max(audit_seq) from staging.sync_batch where audit_seq is not null group by party"
# Who switches a guard off leaves it off, or switches it on again as an ordinary trigger.
_GUARDS = (
    "entry_is_append_only", "head_is_never_removed", "leaf_is_append_only", "subtree_is_append_only",
    "checkpoint_is_append_only",
)  # fmt: skip
_GUARDS_ON = """
select t.tgname from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = 'audit' and t.tgenabled = 'A'
"""
_SNAPSHOT = "set transaction isolation level repeatable read, read only"


@dataclass(frozen=True, slots=True)
class Line:
    """An entry in one line. Everything in it comes from the entry's own bytes."""

    party: str
    seq: int
    at: str
    kind: str
    act: str
    position_from: str
    position_to: str
    counts: str


@dataclass(frozen=True, slots=True)
class Shown:
    """An entry whole, and what its bytes hash to."""

    party: str
    seq: int
    hash: bytes
    prev_hash: bytes
    leaf_hash: bytes
    size_bytes: int
    matches: bool
    body: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Verified:
    """A verification's outcome, with the heads it was made against, to be noted elsewhere.

    `guards_off` are the triggers that should refuse changes and do not: no proof of a change, and no accident either.
    `tree` is None where one party alone was verified.
    """

    verdict: Verdict
    heads: Mapping[str, tuple[int, bytes]]
    guards_off: tuple[str, ...]
    tree: TreeVerdict | None = None


def recent(conn: psycopg.Connection, party: str | None, limit: int) -> list[StoredEntry]:
    """The last entries of one party or of all, the oldest of them first."""
    with translated("reading the audit log"):
        return log.newest(conn, party, limit)


def since(conn: psycopg.Connection, party: str, seq: int, limit: int) -> list[StoredEntry]:
    """The first entries of a party after number `seq`."""
    with translated("reading the audit log"):
        return list(log.read(conn, party, after=seq, limit=limit))


def parties(conn: psycopg.Connection) -> tuple[str, ...]:
    """Whose entries there are."""
    with translated("reading the audit log"):
        return tuple(sorted(log.heads(conn)))


def line(entry: StoredEntry) -> Line:
    """Sum an entry up."""
    body = entry.fields()
    return Line(
        entry.party, entry.seq, _text(body, "at"), _text(body, "kind") or "(unreadable)", _text(body, "act"),
        _text(body, "position_from"), _text(body, "position_to"), _what(body),
    )  # fmt: skip


def show(conn: psycopg.Connection, party: str, seq: int) -> Shown:
    """One entry.

    Raises:
        UsageError: there is none of this number.
    """
    with translated("reading the audit log"), conn.transaction():
        conn.execute(_SNAPSHOT)
        heads = log.heads(conn)
        before, entry = log.one(conn, party, seq - 1), log.one(conn, party, seq)
    if entry is None:
        if party not in heads:
            raise UsageError(f"no entries of a party `{shown(party)}`", hint=closest(party, heads))
        raise UsageError(f"{party} has no entry {seq}", hint=f"its entries are 1 to {heads[party][0]}")
    linked = entry.prev_hash == (before.hash if before else GENESIS)
    return Shown(
        party, seq, entry.hash, entry.prev_hash, leaf_hash(entry.body), len(entry.body),
        linked and chain_hash(entry.prev_hash, entry.body) == entry.hash, entry.fields(),
    )  # fmt: skip


def verify_log(
    conn: psycopg.Connection,
    party: str | None = None,
    noted: Iterable[Anchor] = (),
    watch: Callable[[Iterator[StoredEntry], int], Iterable[StoredEntry]] | None = None,
    signing: Signing | None = None,
) -> Verified:
    """Verify the log of one party or of all, in one snapshot: the daemon may go on meanwhile.

    Args:
        noted: heads that somebody wrote down earlier.
        watch: is given the entries and how many there should be, and passes them on (a progress bar).
        signing: the log's keys and anchor; with them and without a `party`, the tree is verified too.
    """
    with translated("verifying the audit log"), conn.transaction():
        conn.execute(_SNAPSHOT)
        heads = {name: head for name, head in log.heads(conn).items() if party in (None, name)}
        batches = conn.execute(_BATCHES).fetchall()
        anchors = [Anchor(name, seq, None, "the record of batches") for name, seq in batches if party in (None, name)]
        guards_on = {name for (name,) in conn.execute(_GUARDS_ON)}
        entries = log.read(conn, party)
        watched = watch(entries, sum(seq for seq, _ in heads.values())) if watch else entries
        verdict = verify(watched, heads, [*anchors, *noted])
        tree = evidence.verify_tree(conn, signing) if signing is not None and party is None else None
    return Verified(verdict, heads, tuple(name for name in _GUARDS if name not in guards_on), tree)


def note_verified(conn: psycopg.Connection, verified: Verified) -> None:
    """Say in staging that the whole log was verified, for the alert that asks who did last.

    An auditor who may only read leaves no note.
    """
    good = error_of(verified) is None and not verified.guards_off
    with suppress(StagingIncompatible), translated("noting the verification"):
        conn.execute(_VERIFIED, (good, sum(verified.verdict.entries.values())))


_VERIFIED = """
insert into connector.verification (good, entries) values (%s, %s)
on conflict (only_row) do update set good = excluded.good, entries = excluded.entries, at = clock_timestamp()
"""


def noted(text: str) -> Anchor:
    """Read a head as `audit verify` prints it: PARTY#SEQ=HASH.

    Raises:
        UsageError: it is something else.
    """
    place, _, digest = text.strip().partition("=")
    party, _, seq = place.partition("#")
    try:
        anchor = Anchor(party, int(seq), bytes.fromhex(digest), "the head you gave")
    except ValueError:
        anchor = Anchor("", 0, b"", "")
    if not anchor.party or anchor.seq < 1 or len(anchor.hash or b"") != len(GENESIS):
        raise UsageError(f"`{shown(text)}` is no head of a log", hint="PARTY#SEQ=HASH, as `audit verify` prints it")
    return anchor


def note(party: str, head: tuple[int, bytes]) -> str:
    """A head as one word, to be kept where nobody of staging's can change it."""
    return f"{party}#{head[0]}={head[1].hex()}"


def error_of(verified: Verified) -> AuditBroken | None:
    """The error for the first breach, or None."""
    if verified.verdict.breaches:
        first = verified.verdict.breaches[0]
        return AuditBroken(first.party, first.seq, first.what, hint=_BROKEN_HINT)
    if verified.tree is not None and verified.tree.breaches:
        wrong = verified.tree.breaches[0]
        return AuditBroken("tree", verified.tree.size, f"{wrong.place}: {wrong.what}", hint=_BROKEN_HINT)
    return None


def _text(body: Mapping[str, Json], name: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) else ""


def _what(body: Mapping[str, Json]) -> str:
    """What an entry did, entity by entity; for an act, whom and why."""
    entities = body.get("entities")
    counted = [_counted(one) for one in entities if isinstance(one, dict)] if isinstance(entities, list) else []
    told = [_text(body, name) for name in ("entity", "why", "reason", "message", "outcome", "asked_by")]
    return "; ".join([text for text in counted if text] or [text for text in told if text])


def _counted(counts: Mapping[str, Json]) -> str:
    shown_counts = [
        sign.format(f"{value:,}") for name, sign in _SIGNS if isinstance(value := counts.get(name), int) and value
    ]
    return f"{counts.get('entity')} {' '.join(shown_counts)}" if shown_counts else ""
