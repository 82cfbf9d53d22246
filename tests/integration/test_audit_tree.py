"""The tree in staging: what is committed becomes a leaf, in order, once; checkpoints are never contradicted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from connector.audit import log, merkle, note, sequencer, tree, witness
from connector.audit.anchor import Anchor, AnchorError
from connector.audit.note import Algorithm, Checkpoint, NoteError
from connector.audit.sequencer import Due, Known, LogForked, Signing, in_order
from connector.embedded import Server
from connector.ops import evidence
from connector.staging import session
from tests.conftest import drop_database, new_database
from tests.fixtures.entries import facts
from tests.fixtures.evidence import ORIGIN, signer, signing, tick, write, write_many

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def conn(staging_dsn: str) -> Iterator[psycopg.Connection]:
    with session.connect(staging_dsn) as opened:
        yield opened


def places(conn: psycopg.Connection) -> list[tuple[str, int]]:
    return [(leaf.party, leaf.seq) for leaf in tree.leaves(conn)]


# ------------------------------------------------------------------------------------------------- sequencing


def test_committed_entries_become_leaves_in_the_order_of_their_commits(conn: psycopg.Connection) -> None:
    write(conn, "beta", "alfa", "beta", "beta", "alfa")
    assert sequencer.integrate(conn, Signing(ORIGIN), Known()) == 5
    assert places(conn) == [("beta", 1), ("alfa", 1), ("beta", 2), ("beta", 3), ("alfa", 2)]
    assert sequencer.integrate(conn, Signing(ORIGIN), Known()) == 0


def test_an_open_batch_holds_nobody_up_and_gets_its_place_when_it_commits(
    conn: psycopg.Connection, staging_dsn: str
) -> None:
    write(conn, "alfa")
    with session.connect(staging_dsn) as other:
        with other.transaction():
            log.append(other, "beta", facts(1))
            write(conn, "alfa", start=2)
            assert sequencer.integrate(conn, Signing(ORIGIN), Known()) == 2
            assert places(conn) == [("alfa", 1), ("alfa", 2)]
        assert sequencer.integrate(conn, Signing(ORIGIN), Known()) == 1
        with other.transaction(force_rollback=True):
            log.append(other, "beta", facts(2))
    assert sequencer.integrate(conn, Signing(ORIGIN), Known()) == 0
    assert places(conn) == [("alfa", 1), ("alfa", 2), ("beta", 1)]


def test_two_sequencers_take_each_entry_once(conn: psycopg.Connection, staging_dsn: str) -> None:
    write_many(conn, ("alfa", "beta", "gama"), 300)
    done: list[int | None] = []

    def run() -> None:
        with session.connect(staging_dsn) as own:
            done.append(sequencer.integrate(own, Signing(ORIGIN), Known()))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(taken or 0 for taken in done) == 300
    assert tree.size(conn) == 300
    assert not evidence.verify_tree(conn, Signing(ORIGIN)).breaches


def test_a_clock_set_back_does_not_turn_a_party_s_entries_around() -> None:
    due = [
        Due("alfa", 1, b"", NOON),
        Due("alfa", 2, b"", NOON - timedelta(hours=1)),
        Due("beta", 1, b"", NOON - timedelta(minutes=1)),
    ]
    assert [(one.party, one.seq) for one in in_order(due, 10)] == [("beta", 1), ("alfa", 1), ("alfa", 2)]


def test_of_a_long_backlog_the_oldest_come_first_whoever_has_more() -> None:
    due = [Due("alfa", seq, b"", NOON + timedelta(seconds=seq)) for seq in (1, 2)]
    due += [Due("beta", seq, b"", NOON + timedelta(seconds=3 * seq)) for seq in (1, 2)]
    # Of alfa there may be more entries before beta's: beta's wait.
    assert [(one.party, one.seq) for one in in_order(due, 2)] == [("alfa", 1), ("alfa", 2)]
    assert len(in_order(due, 3)) == 4


def test_the_tree_grows_over_ticks_as_it_would_at_once(conn: psycopg.Connection) -> None:
    frontier = merkle.Frontier()
    for count in (1, 254, 1, 1, 300):
        write_many(conn, ("alfa", "beta"), count)
        tick(conn, signing())
        for leaf in tree.leaves(conn, frontier.size):
            frontier.append(leaf.hash)
        newest = tree.checkpoint(conn)
        assert newest is not None
        assert (newest.size, newest.root) == (frontier.size, frontier.root())
    verdict = evidence.verify_tree(conn, signing())
    assert (verdict.size, verdict.signed, verdict.checkpoints, verdict.breaches) == (557, 557, 5, ())
    nodes = tree.nodes(conn)
    for leaf in list(tree.leaves(conn)):
        if leaf.index % 37 == 0:
            proof = merkle.inclusion(leaf.index, 557, nodes)
            assert merkle.includes(leaf.hash, leaf.index, 557, proof, frontier.root())


# ------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_is_signed_once_and_verifies(conn: psycopg.Connection, tmp_path: Path) -> None:
    how = signing(tmp_path / "anchor")
    assert tick(conn, how) is None
    write(conn, "alfa", "beta")
    checkpoint = tick(conn, how)
    assert checkpoint is not None
    assert (checkpoint.origin, checkpoint.size) == (ORIGIN, 2)
    assert tick(conn, how) is None
    anchored = (tmp_path / "anchor").read_text(encoding="utf-8")
    assert note.opened(anchored, [signer().verifier()], ORIGIN)[1] == checkpoint
    assert anchored == str(evidence.newest_checkpoint(conn))


def test_without_a_key_the_log_is_sequenced_and_verify_says_that_nobody_signs_it(conn: psycopg.Connection) -> None:
    write(conn, "alfa")
    assert tick(conn, Signing(ORIGIN)) is None
    verdict = evidence.verify_tree(conn, Signing(ORIGIN))
    assert (verdict.size, verdict.signed, verdict.breaches) == (1, 0, ())
    assert verdict.unsigned_reason == "no key signs the log (audit.key)"


def test_a_new_key_signs_beside_the_old_one_and_all_verifies_after(conn: psycopg.Connection, tmp_path: Path) -> None:
    anchor = Anchor(tmp_path / "anchor")
    write(conn, "alfa")
    tick(conn, Signing(ORIGIN, (signer(1),), (), anchor))
    write(conn, "alfa", start=2)
    tick(conn, Signing(ORIGIN, (signer(2), signer(1)), (), anchor))
    write(conn, "alfa", start=3)
    after = Signing(ORIGIN, (signer(2),), (signer(1).verifier(),), anchor)
    tick(conn, after)
    assert not evidence.verify_tree(conn, after).breaches
    forgotten = evidence.verify_tree(conn, Signing(ORIGIN, (signer(2),), (), anchor))
    assert [(one.place, one.what) for one in forgotten.breaches] == [
        ("checkpoint 1", "no trusted key signed the checkpoint")
    ]


# ------------------------------------------------------------------------------------------------- after a restore


@pytest.fixture
def restored(staging_server: Server, staging_template: str, tmp_path: Path) -> Iterator[psycopg.Connection]:
    """A staging database as its backup had it: ten entries were signed since, and then it was restored."""
    backup = new_database(staging_server, "backup", staging_template)
    anchor = signing(tmp_path / "anchor")
    with session.connect(staging_server.dsn(backup)) as conn:
        write_many(conn, ("alfa", "beta"), 10)
        tick(conn, anchor)
    name = new_database(staging_server, "restored", backup)
    with session.connect(staging_server.dsn(backup)) as conn:
        write_many(conn, ("alfa", "beta"), 10, seed=1)
        tick(conn, anchor)
    with session.connect(staging_server.dsn(name)) as conn:
        yield conn
    drop_database(staging_server, name)
    drop_database(staging_server, backup)


def test_a_restored_backup_is_neither_added_to_nor_signed(restored: psycopg.Connection, tmp_path: Path) -> None:
    how = signing(tmp_path / "anchor")
    with pytest.raises(LogForked, match="the tree has 10 entries, the anchor has 20"):
        sequencer.sign(restored, how, Known())
    write_many(restored, ("alfa", "beta"), 12, seed=2)
    with pytest.raises(LogForked, match="restored from a backup"):
        sequencer.integrate(restored, how, Known())
    assert tree.size(restored) == 10
    (breach,) = evidence.verify_tree(restored, how).breaches
    assert (breach.place, breach.what) == (
        "the anchor of 20 entries", "the tree has 10 leaves: it was cut off, or is an old backup",
    )  # fmt: skip


def test_a_second_history_that_has_grown_past_the_first_is_refused(
    restored: psycopg.Connection, tmp_path: Path
) -> None:
    write_many(restored, ("alfa", "beta"), 12, seed=2)
    sequencer.integrate(restored, Signing(ORIGIN), Known())
    how = signing(tmp_path / "anchor")
    with pytest.raises(LogForked, match="there are two histories"):
        sequencer.sign(restored, how, Known())
    (breach,) = evidence.verify_tree(restored, how).breaches
    assert breach.place == "the anchor of 20 entries"
    assert "do not give the root that was signed" in breach.what


def test_an_anchor_that_is_gone_or_another_s_stops_signing(conn: psycopg.Connection, tmp_path: Path) -> None:
    path = tmp_path / "anchor"
    write(conn, "alfa")
    tick(conn, signing(path))
    ours = path.read_text(encoding="utf-8")
    path.unlink()
    write(conn, "alfa", start=2)
    with pytest.raises(LogForked, match="the anchor is gone"):
        tick(conn, signing(path))
    path.write_text(str(note.sign(Checkpoint(ORIGIN, 1, bytes(32)), [signer(9)])), encoding="utf-8")
    with pytest.raises(LogForked, match="no checkpoint of this log"):
        tick(conn, signing(path))
    path.write_bytes(b"\xff")
    with pytest.raises(AnchorError):
        tick(conn, signing(path))
    path.write_text(ours, encoding="utf-8")
    assert tick(conn, signing(path)) is not None


def test_an_anchor_that_somebody_moved_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    anchor = Anchor(tmp_path / "folder" / "anchor")
    anchor.replace(None, "one")
    with pytest.raises(AnchorError, match="moved by somebody else"):
        anchor.replace(None, "two")
    anchor.replace("one", "two")
    assert anchor.read() == "two"
    assert {path.name for path in anchor.path.parent.iterdir()} == {"anchor", "anchor.lock"}


def test_a_log_keeps_its_name(conn: psycopg.Connection) -> None:
    write(conn, "alfa")
    tick(conn, signing())
    write(conn, "alfa", start=2)
    with pytest.raises(LogForked, match="the log is called kpu"):
        tick(conn, Signing("other.example", (signer(1, "other.example"),)))


# ------------------------------------------------------------------------------------------------- witnesses


def test_so_many_witnesses_make_a_checkpoint_an_anchored_one(conn: psycopg.Connection) -> None:
    log_key = [signer().verifier()]
    kpu, bawaslu = signer(3, "kpu.example/w"), signer(4, "bawaslu.example/w")
    known = [one.verifier(Algorithm.COSIGNATURE) for one in (kpu, bawaslu)]
    write(conn, "alfa", "beta")
    tick(conn, signing())
    published = str(evidence.newest_checkpoint(conn))
    assert witness.take(conn, str(witness.cosign(published, None, (), log_key, kpu, 1)), known) == (
        2,
        ("kpu.example/w",),
    )
    assert (witness.cosigned(conn, known, 1), witness.cosigned(conn, known, 2)) == (2, 0)
    witness.take(conn, str(witness.cosign(published, None, (), log_key, bawaslu, 2)), known)
    assert witness.cosigned(conn, known, 2) == 2
    signed = evidence.newest_checkpoint(conn)
    assert {one.name for one in signed.signatures} == {ORIGIN, "kpu.example/w", "bawaslu.example/w"}
    write(conn, "alfa", start=2)
    tick(conn, signing())
    proof = evidence.consistency(conn, 2, None).proof
    second = witness.cosign(str(evidence.newest_checkpoint(conn)), str(signed), proof, log_key, kpu, 3)
    assert witness.take(conn, str(second), known)[0] == 3
    assert witness.cosigned(conn, known, 2) == 2


def test_a_stranger_s_signature_and_a_forged_checkpoint_are_not_taken(conn: psycopg.Connection) -> None:
    stranger = signer(5, "stranger.example/w")
    known = [signer(3, "kpu.example/w").verifier(Algorithm.COSIGNATURE)]
    write(conn, "alfa")
    tick(conn, signing())
    published = str(evidence.newest_checkpoint(conn))
    with pytest.raises(NoteError, match="no witness of the configuration"):
        witness.take(conn, str(witness.cosign(published, None, (), [signer().verifier()], stranger, 1)), known)
    forged = str(note.sign(Checkpoint(ORIGIN, 1, bytes(32)), [signer()]))
    with pytest.raises(NoteError, match="it may prove a fork"):
        witness.take(conn, forged, known)


# ------------------------------------------------------------------------------------------------- its own state


def test_the_sequencer_s_state_tells_since_when_nothing_is_anchored(conn: psycopg.Connection, tmp_path: Path) -> None:
    how = signing(tmp_path / "anchor")
    assert evidence.state(conn).state == "never started"
    write(conn, "alfa")
    assert evidence.state(conn).waiting == 1
    tick(conn, how)
    sequencer.report(conn, ORIGIN, None, sequencer.signed_size(conn))
    told = evidence.state(conn)
    assert (told.state, told.size, told.waiting, told.anchored_at is None) == ("running", 1, 0, False)
    first = told.anchored_at
    write(conn, "alfa", start=2)
    sequencer.integrate(conn, how, Known())
    sequencer.report(conn, ORIGIN, LogForked("no", hint="h"), sequencer.signed_size(conn))
    told = evidence.state(conn)
    assert (told.state, told.message, told.hint, told.size, told.anchored_at) == ("refusing", "no", "h", 2, first)
