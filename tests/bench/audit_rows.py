"""What commitments to rows cost: the statement that applies updates with and without them; the journal's bytes a row.

    python tests/bench/audit_rows.py [--rows 200000]

On a server of its own; nothing is kept. Keys are UUIDs, the longest there are in practice. Without: a constant stands
in the digest's place, and everything else is as it is. Seconds are the staging session's processor time, the best of
rounds that take turns: a machine that does other things too is no place for wall time.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import psycopg
from psycopg import sql

from connector.app import _plan
from connector.embedded import Server, wheel_binaries
from connector.events import EntryKind, Position
from connector.mapping.document import loads
from connector.mapping.program import Program, ProgramOptions, compile_entity
from connector.runtime.acts import record
from connector.staging import migrate
from connector.staging.batch import Batch, Read
from connector.staging.party import PartyStaging
from connector.staging.plan import DigestKeys, EntityPlan
from connector.view.blocks import Block, check
from tests.bench.throughput import MAPPING, SETTINGS

SLICE = 20_000
ROUNDS = 5
NOTHING = "'\\x00112233445566778899aabbccddeeff'::bytea"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def blocks(program: Program, keys: list[str], tag: str) -> Iterator[tuple[Block, list[str]]]:
    """Members as their view gives them, a slice at a time; `tag` makes a version of them."""
    for start in range(0, len(keys), SLICE):
        part = keys[start : start + SLICE]
        lines = [_line(program, start + place, key, tag) for place, key in enumerate(part)]
        yield check(lines, len(program.inputs), 1, 1_000_000), part


def _line(program: Program, n: int, key: str, tag: str) -> bytes:
    row = {
        "kader_id": key, "nik": f"327301{1 + n % 28:02}0190{1 + n % 9999:04}", "no_kta": f"3273.{n:07}",
        "nama": "NAMA ORANG", "jk": "LP"[n % 2], "tmp_lahir": "BANDUNG", "tgl_lahir": f"1990-01-{1 + n % 28:02}",
        "kawin": str(1 + n % 4), "kerja": "WIRASWASTA", "alamat": f"JALAN MERDEKA NOMOR {n}{tag}",
        "rt": str(1 + n % 20), "rw": str(1 + n % 9), "kel_kode": "3273011001",
    }  # fmt: skip
    return ("\t".join(row[name] for name in program.inputs) + "\n").encode()


class Party:
    """A party that is driven as the runtime drives one."""

    def __init__(self, dsn: str, parpol_id: int, program: Program) -> None:
        self.name = f"bangku{parpol_id}"
        self.plan: EntityPlan = _plan(self.name, parpol_id, program)
        self.staging = PartyStaging(dsn, self.name, parpol_id, "NASIONAL", DigestKeys.derive(b"k" * 32))
        self.staging.prepare(self.plan)
        self._place = 0

    def batch(self, kind: EntryKind, work: list[tuple[Block, list[str] | None]], *, attach: bool = False) -> None:
        self._place += 1_000
        at = Position(self._place, f"0/{self._place:X}")
        with self.staging.batch(kind, Read(at.ordinal)) as batch:
            if not work and not attach:
                self.staging.begin_copy(batch, self.plan)
            self._apply(batch, work)
            if attach:
                self.staging.attach(batch, self.plan)
            record(batch, self.name, at, {})

    def _apply(self, batch: Batch, work: list[tuple[Block, list[str] | None]]) -> None:
        for block, keys in work:
            batch.apply(self.plan, [block], keys, fresh=keys is None)

    def processor_s(self) -> float:
        pid = self.staging._conn.info.backend_pid
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100


def prepared(dsn: str, parpol_id: int, program: Program, keys: list[str]) -> Party:
    """A party whose first copy is in."""
    party = Party(dsn, parpol_id, program)
    party.batch(EntryKind.COPY, [])
    for block, _ in blocks(program, keys, ""):
        party.batch(EntryKind.COPY, [(block, None)])
    party.batch(EntryKind.COPY, [], attach=True)
    # Composed once: with what stands for the digest now.
    assert party.plan.apply is not None
    return party


def measure(dsn: str, parties: tuple[Party, ...], program: Program, keys: list[str]) -> list[float]:
    """Of each party the best of some rounds of updating every row: processor seconds."""
    took: list[list[float]] = [[] for _ in parties]
    for place in range(ROUNDS):
        for party, rounds in zip(parties, took, strict=True):
            work = list(blocks(program, keys, f" {place}"))
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute("checkpoint")
                conn.execute(sql.SQL("vacuum {}").format(party.plan.partition))
            before = party.processor_s()
            party.batch(EntryKind.SIGNALS, [(block, part) for block, part in work])
            rounds.append(party.processor_s() - before)
    return [min(rounds) for rounds in took]


def nothing(*_: object, **__: object) -> sql.SQL:
    """In the place of a row's digest."""
    return sql.SQL(NOTHING)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    program = compile_entity(loads(MAPPING.encode(), "bangku.yaml"), "anggota", ProgramOptions(1, "NASIONAL"))
    keys = [str(uuid.UUID(int=random.Random(place).getrandbits(128))) for place in range(rows)]
    with tempfile.TemporaryDirectory(prefix="sipol-bench-") as folder:
        Path(folder).chmod(0o755)
        server = Server.start(Path(folder) / "data", wheel_binaries(16), SETTINGS)
        try:
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                migrate.apply(conn)
            with mock.patch("connector.staging.plan.row_digest_sql", nothing):
                bare = prepared(server.dsn(), 2, program, keys)
            whole = prepared(server.dsn(), 1, program, keys)
            without, with_them = measure(server.dsn(), (bare, whole), program, keys)
            for party in (bare, whole):
                party.staging.close()
            share = (with_them - without) / without * 100
            say(f"updates               {with_them:12.2f} s   ({rows:,} rows, processor of the staging session)")
            say(f"of it commitments     {with_them - without:12.2f} s   ({share:.1f} % more; at most 5)")
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                conn.execute("delete from connector.journal where parpol_id = 2 or digests is null")
                conn.execute("vacuum full connector.journal")
                found = conn.execute(
                    "select pg_total_relation_size('connector.journal')::float8 / sum(key_count) from connector.journal"
                ).fetchone()
                assert found is not None
                say(f"journal               {found[0]:12.1f} bytes a changed row   (keys of 36 letters; at most 60)")
        finally:
            server.destroy()


if __name__ == "__main__":
    main()
