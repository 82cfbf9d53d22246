"""What the audit log proves to others: its keys, proofs, receipts, an exported folder, and the tree's verification."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from connector.audit import log, merkle, note, sequencer, timestamp, tree
from connector.audit.anchor import Anchor, AnchorError
from connector.audit.note import Checkpoint, Note, NoteError, Signer, Verifier
from connector.audit.sequencer import SequencerState, Signing
from connector.audit.tiles import WIDTH, bundle, subtrees, tiles_of
from connector.audit.tree import Leaf, StoredCheckpoint
from connector.credentials import Secret
from connector.errors import AuditBroken, ConfigError, EnvironmentMissing, UsageError
from connector.settings import Config
from connector.staging.session import translated
from connector.yamlpos import closest, shown

RECEIPT = "sipol-connector/receipt@v1"
# A receipt is held in memory whole; a party with more asks in parts (--since).
RECEIPT_ENTRIES_MAX = 100_000
RECEIPT_ROWS_MAX = 3_000_000
_SNAPSHOT = "set transaction isolation level repeatable read, read only"


# ------------------------------------------------------------------------------------------------- keys


def signing(config: Config) -> Signing:
    """How the configuration signs: its keys, looked up now.

    Raises:
        ConfigError: a key cannot be read, or is none.
    """
    audit = config.audit
    signers = tuple(_signer(one, audit.origin) for one in (audit.key, audit.previous_key) if one is not None)
    return Signing(audit.origin, signers, audit.trusted, None if audit.anchor is None else Anchor(audit.anchor))


def public_signing(config: Config) -> Signing:
    """As `signing`, for who only reads: a key that is not here is done without."""
    try:
        return signing(config)
    except ConfigError:
        audit = config.audit
        return Signing(audit.origin, (), audit.trusted, None if audit.anchor is None else Anchor(audit.anchor))


def _signer(secret: Secret, origin: str) -> Signer:
    try:
        return Signer.load(secret.reveal(), origin)
    except NoteError as exc:
        hint = "connector audit keygen makes one"
        raise ConfigError(f"the audit key cannot be used: {exc}", hint=hint, place=secret.reference) from None


# ------------------------------------------------------------------------------------------------- checkpoints


def signed(conn: psycopg.Connection) -> tuple[StoredCheckpoint, Note]:
    """The newest checkpoint, with the cosignatures that came for it.

    Raises:
        UsageError: nothing was signed yet.
    """
    newest = tree.checkpoint(conn)
    if newest is None:
        raise UsageError(
            "no checkpoint was signed yet", hint="name a key in audit.key (connector audit keygen) and run the daemon"
        )
    return newest, note.parse(newest.note).adding(tree.cosignatures(conn, newest.size))


def newest_checkpoint(conn: psycopg.Connection) -> Note:
    """The newest checkpoint as text that others can check."""
    with translated("reading the audit tree"), conn.transaction():
        conn.execute(_SNAPSHOT)
        return signed(conn)[1]


@dataclass(frozen=True, slots=True)
class Consistency:
    """That one checkpoint is the beginning of another: what a witness asks for."""

    old: int
    new: int
    proof: tuple[bytes, ...]


def consistency(conn: psycopg.Connection, old: int, new: int | None) -> Consistency:
    """The proof that nothing was removed or changed between two sizes of the tree.

    Raises:
        UsageError: the tree has not so many entries.
    """
    with translated("reading the audit tree"), conn.transaction():
        conn.execute(_SNAPSHOT)
        size = tree.size(conn)
        upto = signed(conn)[0].size if new is None else new
        if not 0 <= old <= upto <= size:
            raise UsageError(f"the tree has {size:,} entries", hint="OLD is at most NEW, and NEW at most that")
        return Consistency(old, upto, tuple(merkle.consistency(old, upto, tree.nodes(conn))))


def state(conn: psycopg.Connection) -> SequencerState:
    with translated("reading the audit tree"):
        return sequencer.state(conn)


# ------------------------------------------------------------------------------------------------- proofs


@dataclass(frozen=True, slots=True)
class Proof:
    """An entry and its tlog-proof."""

    party: str
    seq: int
    index: int
    body: bytes
    proof: str


def prove(conn: psycopg.Connection, party: str, seq: int) -> Proof:
    """The proof that an entry is in the log that the newest checkpoint signs.

    Raises:
        UsageError: there is no such entry, or no checkpoint covers it yet.
    """
    with translated("reading the audit tree"), conn.transaction():
        conn.execute(_SNAPSHOT)
        checkpoint, text = signed(conn)
        entry = log.one(conn, party, seq)
        if entry is None:
            raise _no_entry(conn, party, seq)
        leaf = _covered(tree.leaf(conn, party, seq), checkpoint.size, f"{party}#{seq}")
        path = merkle.inclusion(leaf.index, checkpoint.size, tree.nodes(conn))
    return Proof(party, seq, leaf.index, entry.body, note.proof_file(leaf.index, path, str(text)))


def _covered(leaf: Leaf | None, size: int, place: str) -> Leaf:
    if leaf is None or leaf.index >= size:
        raise UsageError(f"{place} is not covered by a checkpoint yet", hint="the daemon signs every few seconds")
    return leaf


def _no_entry(conn: psycopg.Connection, party: str, seq: int) -> UsageError:
    heads = log.heads(conn)
    if party not in heads:
        return UsageError(f"no entries of a party `{shown(party)}`", hint=closest(party, heads))
    return UsageError(f"{party} has no entry {seq}", hint=f"its entries are 1 to {heads[party][0]}")


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt, and what it holds."""

    party: str
    entries: int
    first: int
    last: int
    size: int
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """Which of a party's entries a receipt has: after `since`, up to `until`; with `rows`, what they commit to."""

    since: int = 0
    until: int | None = None
    rows: bool = False


def receipt(conn: psycopg.Connection, party: str, span: Span = Span()) -> Receipt:
    """A party's entries, each proved under the newest checkpoint: one file that stands alone.

    With `span.rows` also the keys and digests of the rows, and the salts: for this party's eyes only.

    Raises:
        UsageError: no such party, nothing to receipt yet, or too much for one file.
    """
    with translated("reading the audit tree"), conn.transaction():
        conn.execute(_SNAPSHOT)
        checkpoint, text = signed(conn)
        nodes = tree.nodes(conn)
        places = {
            row[0]: row[1]
            for row in conn.execute(
                "select seq, idx from audit.leaf where party = %s and seq > %s and seq <= coalesce(%s, seq)"
                " and idx < %s order by seq limit %s",
                (party, span.since, span.until, checkpoint.size, RECEIPT_ENTRIES_MAX + 1),
            )
        }
        if not places:
            heads = log.heads(conn)
            hint = closest(party, heads) if party not in heads else "they wait for the next checkpoint: a few seconds"
            raise UsageError(f"no entries of `{shown(party)}` after {span.since} under a checkpoint", hint=hint)
        if len(places) > RECEIPT_ENTRIES_MAX:
            hint = f"take it in parts of up to {RECEIPT_ENTRIES_MAX:,} entries, with --since and --until"
            raise UsageError("too many entries for one receipt", hint=hint)
        # Taken first: while entries stream in, the session cannot fetch the tiles that the proofs need.
        stored = list(log.read(conn, party, after=span.since, limit=len(places)))
        entries = [
            {
                "seq": entry.seq,
                "index": places[entry.seq],
                "body": entry.body.decode(),
                "proof": _lines(merkle.inclusion(places[entry.seq], checkpoint.size, nodes)),
            }
            for entry in stored
        ]
        told: dict[str, object] = {
            "receipt": RECEIPT, "party": party, "checkpoint": str(text), "entries": entries,
        }  # fmt: skip
        if span.rows:
            told["rows"] = _receipt_rows(conn, party, min(places), max(places))
    content = json.dumps(told, ensure_ascii=False, indent=1) + "\n"
    return Receipt(party, len(entries), min(places), max(places), checkpoint.size, content)


def _receipt_rows(conn: psycopg.Connection, party: str, first: int, last: int) -> list[dict[str, object]]:
    """Each batch of these entries: its salt (null where it was erased) and its pages."""
    batches = conn.execute(_BATCHES, (party, first, last)).fetchall()
    ids = [row[0] for row in batches]
    counted = conn.execute(_PAGE_ROWS, {"ids": ids}).fetchone()
    if counted is not None and counted[0] > RECEIPT_ROWS_MAX:
        hint = f"take it in parts of up to {RECEIPT_ROWS_MAX:,} changed rows, with --since and --until"
        raise UsageError(f"{counted[0]:,} changed rows are too many for one receipt", hint=hint)
    pages: dict[int, list[dict[str, object]]] = {}
    for batch, keys, ops, digests in conn.execute(_PAGES, {"ids": ids}):
        pages.setdefault(batch, []).append({"keys": keys, "ops": ops, "digests": digests.hex()})
    return [
        {"batch": batch, "entity": entity, "salt": salt and salt.hex(), "pages": pages[batch]}
        for batch, entity, salt in batches
        if batch in pages
    ]


_BATCHES = """
select b.id, b.entity, s.salt from staging.sync_batch b left join audit.salt s on s.batch_id = b.id
 where b.party = %s and b.audit_seq between %s and %s order by b.id
"""
_PAGE_ROWS = """
select (select coalesce(sum(key_count), 0) from connector.journal where batch_id = any (%(ids)s))
     + (select coalesce(sum(cardinality(keys)), 0) from audit.committed where batch_id = any (%(ids)s))
"""
_PAGES = """
select batch_id, keys, ops, digests
  from (select batch_id, first_ordinal, keys, ops, digests from connector.journal
         where batch_id = any (%(ids)s) and digests is not null
        union all
        select batch_id, first_ordinal, keys, repeat('U', cardinality(keys)), digests from audit.committed
         where batch_id = any (%(ids)s)) pages
 order by batch_id, first_ordinal
"""


def _lines(hashes: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(one).decode() for one in hashes]


# ------------------------------------------------------------------------------------------------- export


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    folder: Path
    size: int
    files: int


def export(conn: psycopg.Connection, folder: Path, verifiers: Sequence[Verifier]) -> Exported:
    """Write the log as C2SP tlog-tiles: static files that anybody can copy, serve and verify.

    Goes on from what the folder has. What is in it already is compared, never overwritten.

    Raises:
        AuditBroken: the folder holds another history.
        EnvironmentMissing: it cannot be written.
    """
    try:
        with translated("exporting the audit log"), conn.transaction():
            conn.execute(_SNAPSHOT)
            checkpoint, text = signed(conn)
            before = _exported_size(folder, checkpoint, tree.nodes(conn))
            files = 0
            for tile in tiles_of(checkpoint.size, after=before):
                files += _put(folder / tile.path, tree.fetch_tile(conn, tile.level, tile.index)[: tile.width * 32])
                if tile.level == 0:
                    start = tile.index * WIDTH
                    bodies = tree.bodies(conn, start, start + tile.width)
                    files += _put(folder / tile.entries_path, bundle(bodies))
            for one in tree.checkpoints(conn):
                files += _put(folder / "checkpoints" / str(one.size), one.note.encode())
            for size, number, token in timestamp.kept(conn):
                name = f"{size}.tsr" if number == 1 else f"{size}.{number}.tsr"
                files += _put(folder / "timestamps" / name, token)
            _replace(folder / "log.vkey", "".join(f"{one}\n" for one in verifiers).encode())
            # Last: a reader never sees a checkpoint whose tiles are not there.
            _replace(folder / "checkpoint", str(text).encode())
    except OSError as exc:
        hint = "may this user write there?"
        raise EnvironmentMissing(
            f"the export cannot be written ({os.strerror(exc.errno or 0)})", hint=hint, place=str(folder)
        ) from None
    return Exported(folder, checkpoint.size, files + 2)


def _exported_size(folder: Path, checkpoint: StoredCheckpoint, node: merkle.Node) -> int:
    """How far the folder is; it must be a beginning of our tree."""
    path = folder / "checkpoint"
    if not path.is_file():
        return 0
    try:
        last = Checkpoint.parse(note.parse(path.read_text(encoding="utf-8")).text)
    except (NoteError, UnicodeDecodeError):
        raise UsageError(
            "`checkpoint` in the folder is none", hint="export into an empty folder", place=str(path)
        ) from None
    origin = Checkpoint.parse(note.parse(checkpoint.note).text).origin
    if last.origin != origin:
        raise UsageError(f"the folder has another log: {shown(last.origin)}", hint="another folder", place=str(path))
    if last.size > checkpoint.size or merkle.root(last.size, node) != last.root:
        raise AuditBroken(
            "log", last.size, "the folder was exported from another history of this log",
            hint="keep both: the folder's checkpoint and ours prove that there are two",
        )  # fmt: skip
    return last.size


def _put(path: Path, data: bytes) -> int:
    """Write a file that never changes; gives how many were written."""
    if path.is_file():
        if path.read_bytes() != data:
            raise AuditBroken("log", 0, f"{path} was exported with another content", hint="keep the folder as it is")
        return 0
    _replace(path, data)
    return 1


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    new.replace(path)


# ------------------------------------------------------------------------------------------------- verification


@dataclass(frozen=True, slots=True)
class TreeBreach:
    """One thing that is wrong with the tree: at which leaf, or under which checkpoint."""

    place: str
    what: str


@dataclass(frozen=True, slots=True)
class TreeVerdict:
    """What was found: `signed` of `size` leaves are under a checkpoint; `waiting` entries are no leaves yet."""

    size: int
    signed: int
    waiting: int
    checkpoints: int
    unsigned_reason: str
    breaches: tuple[TreeBreach, ...]


# The roots that the tree must have had, by size, each with who says so.
Expected = dict[int, list[tuple[bytes, str]]]

_UNLIKE = """
select l.idx, l.party, l.seq, e.party is null
  from audit.leaf l left join audit.entry e using (party, seq)
 where e.party is null or sha256('\\x00'::bytea || e.body) is distinct from l.hash
 order by l.idx limit 1
"""
_WAITING = """
select (select coalesce(sum(seq), 0) from audit.head)::bigint - (select count(*) from audit.leaf), size
  from audit.sequencer
"""


def verify_tree(
    conn: psycopg.Connection,
    signing_: Signing,
    watch: Callable[[Iterator[Leaf], int], Iterable[Leaf]] | None = None,
) -> TreeVerdict:
    """Recompute the tree from its leaves, hold the leaves against the entries, and the roots against every checkpoint.

    Call inside the transaction that the entries are verified in.
    """
    size = tree.size(conn)
    stored = tree.checkpoints(conn)
    known, breaches = _expected_roots(stored, signing_)
    unlike = conn.execute(_UNLIKE).fetchone()
    if unlike is not None:
        what = "is gone" if unlike[3] else "was changed after it was taken into the tree"
        breaches.append(TreeBreach(f"leaf {unlike[0]}", f"entry {unlike[1]}#{unlike[2]} {what}"))
    waiting = conn.execute(_WAITING).fetchone()
    assert waiting is not None
    if waiting[1] > size:
        # Its own note, in another table: who cuts the tree off forgets it.
        breaches.append(TreeBreach(f"leaf {size}", f"the leaf is missing: the sequencer had taken in {waiting[1]}"))
    kept = tree.subtrees(conn)
    leaves = tree.leaves(conn)
    breaches += _walk(watch(leaves, size) if watch else leaves, size, known, kept)
    last = stored[-1].size if stored else 0
    reason = "" if stored else "no key signs the log (audit.key)" if not signing_.signers else "nothing was signed yet"
    return TreeVerdict(size, last, waiting[0], len(stored), reason, tuple(breaches))


def _expected_roots(stored: Sequence[StoredCheckpoint], signing_: Signing) -> tuple[Expected, list[TreeBreach]]:
    """Which root the tree must have at which size, and says who; the checkpoints' own faults."""
    expected: Expected = {}
    breaches: list[TreeBreach] = []
    for one in stored:
        place = f"checkpoint {one.size}"
        try:
            if signing_.verifiers:
                checkpoint = note.opened(one.note, signing_.verifiers, signing_.origin)[1]
            else:
                checkpoint = Checkpoint.parse(note.parse(one.note).text)
        except NoteError as exc:
            breaches.append(TreeBreach(place, str(exc)))
            continue
        if (checkpoint.size, checkpoint.root) != (one.size, one.root):
            breaches.append(TreeBreach(place, "its row is not what was signed"))
        expected.setdefault(checkpoint.size, []).append((checkpoint.root, place))
    anchor = _anchor(signing_, breaches)
    if anchor is not None:
        expected.setdefault(anchor.size, []).append((anchor.root, f"the anchor of {anchor.size} entries"))
    return expected, breaches


def _anchor(signing_: Signing, breaches: list[TreeBreach]) -> Checkpoint | None:
    """The anchor's checkpoint; None where nothing was anchored yet, or what is there is of no use (a breach)."""
    try:
        text = signing_.anchor.read() if signing_.anchor else None
        if text is None:
            return None
        if signing_.verifiers:
            return note.opened(text, signing_.verifiers, signing_.origin)[1]
        return Checkpoint.parse(note.parse(text).text)
    except (AnchorError, NoteError) as exc:
        breaches.append(TreeBreach("the anchor", str(exc)))
        return None


def _walk(
    leaves: Iterable[Leaf], size: int, expected: Expected, stored: dict[tuple[int, int], bytes]
) -> list[TreeBreach]:
    """Rebuild the tree leaf by leaf; `stored` are the subtrees' roots that proofs are made from."""
    frontier = merkle.Frontier()
    last: dict[str, int] = {}
    for leaf in leaves:
        if leaf.index != frontier.size:
            return [TreeBreach(f"leaf {frontier.size}", "the leaf is missing")]
        due = last.get(leaf.party, 0) + 1
        if leaf.seq != due:
            return [TreeBreach(f"leaf {leaf.index}", f"is {leaf.party}#{leaf.seq}, and {leaf.party}#{due} was due")]
        last[leaf.party] = leaf.seq
        completed = frontier.append(leaf.hash)
        if breach := _root_breach(frontier, expected) or _subtree_breach(frontier.size, completed, stored):
            return [breach]
    unreached = [source for tree_size in sorted(expected) if tree_size > size for _, source in expected[tree_size]]
    if unreached:
        return [TreeBreach(unreached[0], f"the tree has {size} leaves: it was cut off, or is an old backup")]
    if stored:
        level, index = min(stored)
        return [TreeBreach(f"subtree {level}/{index}", "stands behind the tree's end")]
    return []


def _root_breach(frontier: merkle.Frontier, expected: Expected) -> TreeBreach | None:
    for root, source in expected.get(frontier.size, ()):
        if frontier.root() != root:
            what = "the leaves do not give the root that was signed: one was changed, moved, added or removed before"
            return TreeBreach(source, what)
    return None


def _subtree_breach(size: int, completed: Sequence[bytes], stored: dict[tuple[int, int], bytes]) -> TreeBreach | None:
    for level, index, root in subtrees(size, completed):
        if stored.pop((level, index), None) != root:
            return TreeBreach(f"subtree {level}/{index}", "the root that is kept is not that of its leaves")
    return None
