"""What the audit log costs: sequencing per second, verifying a million entries, a proof at ten million.

    python tests/bench/audit.py [--entries 1000000] [--proof-size 10000000]

On a server of its own; nothing is kept. The tree of the proof is made in SQL: its leaves are real, its entries are not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from connector.audit import log, merkle, sequencer, tree
from connector.audit.entry import GENESIS, chain_hash, compose
from connector.audit.sequencer import Known, Signing
from connector.audit.tiles import subtrees
from connector.embedded import Server, wheel_binaries
from connector.ops import audit as ops
from connector.staging import migrate, session
from tests.fixtures.entries import STARTED, facts
from tests.fixtures.evidence import ORIGIN, signing

PROOFS = 200


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def fill(conn: psycopg.Connection, count: int) -> None:
    """So many entries of four parties, as `log.append` would have written them."""
    into = "copy audit.entry (party, seq, body, prev_hash, hash, at) from stdin (format binary)"
    for number in range(1, 5):
        party, previous = f"party{number}", GENESIS
        with conn.transaction(), conn.cursor() as cursor, cursor.copy(into) as copy:
            copy.set_types(["text", "int8", "bytea", "bytea", "bytea", "timestamptz"])
            for seq in range(1, count // 4 + 1):
                body = compose(facts(seq), party, seq, previous, STARTED)
                digest = chain_hash(previous, body)
                copy.write_row((party, seq, body, previous, digest, STARTED))
                previous = digest
        conn.execute("insert into audit.head (party, seq, hash) values (%s, %s, %s)", (party, count // 4, previous))
    conn.execute("analyze audit.entry")


def sequence(conn: psycopg.Connection) -> None:
    how, known = signing(), Known()
    started = time.perf_counter()
    while sequencer.integrate(conn, how, known):
        pass
    took_s = time.perf_counter() - started
    size = tree.size(conn)
    say(
        f"sequencing            {size / took_s:12,.0f} entries/s   ({size:,} entries in {took_s:.1f} s; at least 2,000)"
    )
    started = time.perf_counter()
    sequencer.sign(conn, how, known)
    say(f"signing a checkpoint  {(time.perf_counter() - started) * 1000:12.1f} ms")


def verify(conn: psycopg.Connection) -> None:
    started = time.perf_counter()
    verified = ops.verify_log(conn, signing=signing())
    took_s = time.perf_counter() - started
    assert verified.tree is not None
    assert not verified.tree.breaches
    assert not verified.verdict.breaches
    per_million = took_s / sum(verified.verdict.entries.values()) * 1_000_000
    say(f"verifying a million   {per_million:12.1f} s   (chains, tree and checkpoints; at most 60)")


def grow(conn: psycopg.Connection, size: int) -> None:
    """A tree of so many leaves without entries."""
    conn.execute("alter table audit.leaf disable trigger all")
    conn.execute("alter table audit.subtree disable trigger all")
    conn.execute("delete from audit.leaf; delete from audit.subtree")
    conn.execute(
        "insert into audit.leaf select n, 'p', n, sha256(int8send(n)) from generate_series(0, %s - 1) n", (size,)
    )
    frontier = merkle.Frontier()
    kept: list[tuple[int, int, bytes]] = []
    for leaf in tree.leaves(conn):
        kept.extend(subtrees(frontier.size + 1, frontier.append(leaf.hash)))
    conn.cursor().executemany("insert into audit.subtree (level, idx, hash) values (%s, %s, %s)", kept)
    conn.execute("analyze audit.leaf; analyze audit.subtree")


def prove(conn: psycopg.Connection, size: int) -> None:
    took: list[float] = []
    root = merkle.root(size, tree.nodes(conn))
    for place in range(PROOFS):
        index = place * 7_919 * 6_151 % size
        started = time.perf_counter()
        nodes = tree.nodes(conn)
        proof = merkle.inclusion(index, size, nodes)
        took.append((time.perf_counter() - started) * 1000)
        leaf = next(iter(list(tree.leaves(conn, index, index + 1))))
        assert merkle.includes(leaf.hash, index, size, proof, root)
    took.sort()
    p95 = took[PROOFS * 95 // 100]
    say(f"inclusion proof       {took[PROOFS // 2]:12.1f} ms   (p95 {p95:.1f} ms at {size:,}; at most 50)")


def append(conn: psycopg.Connection, count: int = 2_000) -> None:
    started = time.perf_counter()
    for place in range(count):
        with conn.transaction():
            log.append(conn, "appended", facts(place + 1))
    per_ms = (time.perf_counter() - started) / count * 1000
    say(f"appending an entry    {per_ms:12.2f} ms   (a transaction of its own)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--proof-size", type=int, default=10_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sipol-bench-") as folder:
        Path(folder).chmod(0o755)
        server = Server.start(Path(folder) / "data", wheel_binaries(16), {"max_wal_size": "8GB"})
        try:
            with session.connect(server.dsn()) as conn:
                migrate.apply(conn)
                say(f"log                   {ORIGIN}")
                append(conn)
                sequencer.integrate(conn, Signing(ORIGIN), Known())
                fill(conn, options.entries)
                sequence(conn)
                verify(conn)
                grow(conn, options.proof_size)
                prove(conn, options.proof_size)
        finally:
            server.destroy()


if __name__ == "__main__":
    main()
