"""Somebody with every right on the staging server, and time, changes the log so that its chains are whole again.

He has the database; he has not the signing key, the anchor's file, nor what witnesses and parties were handed. Each
test says what he does, and where the tree finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from connector.audit import log, note, sequencer, tree
from connector.audit.entry import GENESIS, chain_hash, compose, decode
from connector.audit.note import Checkpoint
from connector.audit.sequencer import Known, Signing
from connector.embedded import Server
from connector.ops import audit as ops
from connector.staging import session
from tests.conftest import drop_database, new_database
from tests.fixtures.entries import facts
from tests.fixtures.evidence import ORIGIN, signer, signing, tick, write, write_many

Tamper = Callable[[psycopg.Connection], None]

ENTRIES = 300
TABLES = ("entry", "head", "leaf", "subtree", "checkpoint")


@pytest.fixture(scope="module")
def signed_template(
    staging_server: Server, staging_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Three hundred entries of two parties, signed after 100, 290 and 300; the anchor has the last checkpoint."""
    name = new_database(staging_server, "evidence", staging_template)
    anchor = tmp_path_factory.mktemp("anchor") / "last"
    with session.connect(staging_server.dsn(name)) as conn:
        for count, seed in ((100, 1), (190, 2), (10, 3)):
            write_many(conn, ("alfa", "beta"), count, seed)
            tick(conn, signing(anchor))
        sequencer.report(conn, ORIGIN, None, ENTRIES)
    yield name, anchor
    drop_database(staging_server, name)


@pytest.fixture
def anchor(signed_template: tuple[str, Path]) -> Path:
    return signed_template[1]


@pytest.fixture
def conn(staging_server: Server, signed_template: tuple[str, Path]) -> Iterator[psycopg.Connection]:
    """A superuser's session with the guards switched off."""
    name = new_database(staging_server, "tampered", signed_template[0])
    with session.connect(staging_server.dsn(name)) as opened:
        for table in TABLES:
            opened.execute(f"alter table audit.{table} disable trigger all".encode())
        yield opened
    drop_database(staging_server, name)


def found(conn: psycopg.Connection, how: Signing) -> list[str]:
    """What verification says, chains and tree; the guards that are off it says anyway."""
    verified = ops.verify_log(conn, signing=how)
    assert verified.tree is not None
    chains = [f"{breach.party}#{breach.seq}: {breach.what}" for breach in verified.verdict.breaches]
    return chains + [f"{breach.place}: {breach.what}" for breach in verified.tree.breaches]


def rechain(conn: psycopg.Connection, party: str, change: Callable[[int, dict[str, object]], bool]) -> None:
    """Write a party's log anew; `change` alters an entry's facts, or says False to leave it out. All hashes fit."""
    kept = list(log.read(conn, party))
    conn.execute("delete from audit.entry where party = %s", (party,))
    previous, seq = GENESIS, 0
    for entry in kept:
        body: dict[str, object] = dict(decode(entry.body))
        if not change(entry.seq, body):
            continue
        seq += 1
        again = compose(body, party, seq, previous, entry.at)
        digest = chain_hash(previous, again)
        conn.execute(
            "insert into audit.entry (party, seq, body, prev_hash, hash, at) values (%s, %s, %s, %s, %s, %s)",
            (party, seq, again, previous, digest, entry.at),
        )
        previous = digest
    conn.execute("update audit.head set seq = %s, hash = %s where party = %s", (seq, previous, party))


def releaf(conn: psycopg.Connection) -> None:
    """Make the tree anew from the entries there are, as the sequencer would have."""
    kept = tree.checkpoints(conn)
    for table in ("leaf", "subtree", "checkpoint"):
        conn.execute(f"delete from audit.{table}".encode())
    sequencer.integrate(conn, Signing(ORIGIN), Known())
    for one in kept:
        conn.execute("insert into audit.checkpoint values (%s, %s, %s)", (one.size, one.root, one.note))


def edit(seq: int) -> Callable[[int, dict[str, object]], bool]:
    def change(at: int, body: dict[str, object]) -> bool:
        if at == seq:
            body["transactions"] = 4711
        return True

    return change


def test_an_untouched_log_has_nothing_to_find(conn: psycopg.Connection, anchor: Path) -> None:
    assert found(conn, signing(anchor)) == []


def test_an_entry_changed_with_its_whole_chain_is_found_at_its_leaf(conn: psycopg.Connection, anchor: Path) -> None:
    rechain(conn, "alfa", edit(40))
    leaf = tree.leaf(conn, "alfa", 40)
    assert leaf is not None
    assert found(conn, signing(anchor)) == [
        f"leaf {leaf.index}: entry alfa#40 was changed after it was taken into the tree"
    ]


def test_an_entry_changed_with_its_chain_and_the_tree_is_found_by_the_next_checkpoint(
    conn: psycopg.Connection, anchor: Path
) -> None:
    rechain(conn, "alfa", edit(10))
    releaf(conn)
    (said,) = found(conn, signing(anchor))
    assert said.startswith("checkpoint 100: the leaves do not give the root that was signed")


def test_an_entry_taken_out_of_a_chain_and_the_tree_is_found(conn: psycopg.Connection, anchor: Path) -> None:
    rechain(conn, "beta", lambda seq, _: seq != 30)
    conn.execute("update staging.sync_batch set audit_seq = audit_seq - 1 where audit_seq > 30")
    assert any("is gone" in said or "was changed" in said for said in found(conn, signing(anchor)))
    releaf(conn)
    said = found(conn, signing(anchor))
    assert said[0].startswith("beta#30: its positions begin at 0/1E")
    assert said[1] == "leaf 299: the leaf is missing: the sequencer had taken in 300"
    assert said[2].startswith("checkpoint 100: the leaves do not give the root that was signed")


def test_checkpoints_made_anew_without_the_key_are_found(conn: psycopg.Connection, anchor: Path) -> None:
    rechain(conn, "alfa", edit(10))
    releaf(conn)
    conn.execute("delete from audit.checkpoint")
    thief = replace(signing(anchor), signers=(signer(9),), anchor=None)
    sequencer.sign(conn, thief, Known())
    said = found(conn, signing(anchor))
    assert said[0] == "checkpoint 300: no trusted key signed the checkpoint"
    assert said[1].startswith("the anchor of 300 entries: the leaves do not give the root")


def test_all_checkpoints_removed_are_missed_by_the_anchor(conn: psycopg.Connection, anchor: Path) -> None:
    rechain(conn, "alfa", edit(10))
    releaf(conn)
    conn.execute("delete from audit.checkpoint")
    (said,) = found(conn, signing(anchor))
    assert said.startswith("the anchor of 300 entries: the leaves do not give the root")


def test_p8_a_log_cut_off_with_everything_about_it_is_missed_by_the_anchor(
    conn: psycopg.Connection, anchor: Path
) -> None:
    conn.execute("delete from audit.checkpoint where size > 100")
    last = conn.execute("select party, max(seq) from audit.leaf where idx < 100 group by party").fetchall()
    conn.execute("delete from audit.leaf where idx >= 100")
    conn.execute("delete from audit.subtree")
    for party, seq in last:
        conn.execute("delete from audit.entry where party = %s and seq > %s", (party, seq))
        rechain(conn, party, lambda *_: True)
    said = found(conn, signing(anchor))
    assert said[0] == "leaf 100: the leaf is missing: the sequencer had taken in 300"
    conn.execute("update audit.sequencer set size = 100")
    assert found(conn, signing(anchor)) == [
        "the anchor of 300 entries: the tree has 100 leaves: it was cut off, or is an old backup"
    ]


def test_an_old_checkpoint_put_back_as_the_anchor_lets_nothing_be_signed_twice(
    conn: psycopg.Connection, anchor: Path, tmp_path: Path
) -> None:
    """He replays checkpoint 100 where he may write; the tree still holds all that was signed after it."""
    old = tree.checkpoints(conn)[0]
    replayed = tmp_path / "anchor"
    replayed.write_text(old.note, encoding="utf-8")
    rechain(conn, "alfa", edit(80))
    releaf(conn)
    assert found(conn, signing(replayed))[0].startswith("checkpoint 290: the leaves do not give")
    assert found(conn, signing(anchor))


def test_two_parties_entries_swapped_are_found_at_both(conn: psycopg.Connection, anchor: Path) -> None:
    conn.execute("update audit.entry set party = 'x' where party = 'alfa' and seq = 20")
    conn.execute("update audit.entry set party = 'alfa' where party = 'beta' and seq = 20")
    conn.execute("update audit.entry set party = 'beta' where party = 'x'")
    said = found(conn, signing(anchor))
    assert [line.split(":")[0] for line in said[:2]] == ["alfa#20", "beta#20"]
    assert said[2].split(":")[0].startswith("leaf ")


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("update audit.leaf set hash = sha256('x') where idx = 150", "leaf 150"),
        ("delete from audit.leaf where idx = 150", "leaf 150"),
        ("delete from audit.leaf where idx = 299", "checkpoint 300"),
        ("update audit.subtree set hash = sha256('x')", "subtree 1/0"),
        ("delete from audit.subtree", "subtree 1/0"),
        ("insert into audit.subtree values (1, 1, sha256('x'))", "subtree 1/1"),
        ("update audit.checkpoint set root = sha256('x') where size = 100", "checkpoint 100"),
        ("update audit.checkpoint set note = replace(note, '100', '101') where size = 100", "checkpoint 100"),
        ("update audit.checkpoint set note = 'nothing' where size = 290", "checkpoint 290"),
    ],
)
def test_any_change_of_the_tree_is_found_where_it_was_made(
    conn: psycopg.Connection, anchor: Path, statement: str, place: str
) -> None:
    conn.execute(statement.encode())
    assert place in {line.split(":")[0] for line in found(conn, signing(anchor))}


def test_leaves_in_another_order_are_found(conn: psycopg.Connection, anchor: Path) -> None:
    conn.execute("alter table audit.leaf drop constraint leaf_idx_check")
    conn.execute("update audit.leaf set idx = -1 where idx = 120")
    conn.execute("update audit.leaf set idx = 120 where idx = 200")
    conn.execute("update audit.leaf set idx = 200 where idx = -1")
    assert found(conn, signing(anchor))[0].split(":")[0] in ("leaf 120", "leaf 121", "leaf 200", "checkpoint 290")


def test_a_second_history_shows_against_a_checkpoint_that_a_party_kept(conn: psycopg.Connection, anchor: Path) -> None:
    """He has the key and the anchor as well; the party has its receipt's checkpoint. Two signed roots of one size."""
    kept = tree.checkpoints(conn)[-1].note
    rechain(conn, "beta", edit(5))
    releaf(conn)
    conn.execute("delete from audit.checkpoint")
    sequencer.sign(conn, replace(signing(anchor), anchor=None), Known())
    forged = tree.checkpoints(conn)[-1].note
    assert found(conn, replace(signing(anchor), anchor=None)) == []
    verifier = [signer().verifier()]
    ours, theirs = (note.opened(text, verifier, ORIGIN)[1] for text in (forged, kept))
    assert (ours.size, ours.root != theirs.root) == (theirs.size, True)
    assert isinstance(theirs, Checkpoint)


def test_guards_that_are_off_are_told(conn: psycopg.Connection, anchor: Path) -> None:
    verified = ops.verify_log(conn, signing=signing(anchor))
    assert set(verified.guards_off) == {
        "entry_is_append_only", "head_is_never_removed", "leaf_is_append_only", "subtree_is_append_only",
        "checkpoint_is_append_only",
    }  # fmt: skip


def test_the_guards_refuse_a_change_of_the_tree(staging_dsn: str) -> None:
    with session.connect(staging_dsn) as opened:
        write(opened, "alfa")
        tick(opened, signing())
        for statement in (
            "update audit.leaf set seq = 2",
            "delete from audit.leaf",
            "truncate audit.subtree",
            "delete from audit.checkpoint",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                opened.execute(statement.encode())


def test_an_entry_may_not_be_rewritten_as_a_leaf_of_its_own(conn: psycopg.Connection, anchor: Path) -> None:
    """An entry behind the log's end is no breach of the tree: it waits for it, as every new one does."""
    with conn.transaction():
        log.append(conn, "alfa", facts(1, position_from=None, position_to=None))
    verified = ops.verify_log(conn, signing=signing(anchor))
    assert verified.tree is not None
    assert (verified.tree.breaches, verified.tree.waiting) == ((), 1)
