"""First copy, one large transaction and many small ones, beside PostgreSQL's own logical replication.

`python tests/bench/throughput.py [--rows N] [--capture pull,stream,debezium]`. Both ends and the connector share this
machine. The peer has no mapping, no digests and no audit: it is the floor, not an equal. Where Debezium and a Java are
installed, its engine reads the same work beside it, with no sink at all. Findings over sets are judged
beside the batches: each piece of work begins when they are through, and what the first judgement took is told.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))

from debezium_peer import DebeziumPeer, missing

from connector.capture.postgres.kit import kit_sql
from connector.capture.postgres.kit_request import KitRequest, KitTable
from connector.embedded import Server, wheel_binaries
from connector.staging import migrate

SETTINGS = {
    "shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min", "maintenance_work_mem": "256MB",
    "autovacuum": "off", "max_connections": "40",
}  # fmt: skip

# An address of its own: Debezium knows no sockets, and the usual port of 127.0.0.1 may be somebody's.
ADDRESS = f"127.{os.getpid() % 250 + 2}.{os.getpid() // 250 % 250}.3"

TABLE = """
create table public.kader (
  kader_id uuid primary key, nik text, no_kta text, nama text, jk text, tmp_lahir text, tgl_lahir date, kawin int,
  kerja text, alamat text, rt int, rw int, kel_kode text, status text not null, diubah timestamptz, versi bigint)
"""
FILL = """
insert into public.kader
select gen_random_uuid(),
       '327301' || lpad((1 + g %% 28)::text, 2, '0') || '0190' || lpad((1 + g %% 9999)::text, 4, '0'),
       '3273.' || lpad(g::text, 7, '0'), 'NAMA ORANG', case g %% 2 when 0 then 'L' else 'P' end, 'BANDUNG',
       make_date(1990, 1, 1 + g %% 28), 1 + g %% 4, 'WIRASWASTA', 'JALAN MERDEKA NOMOR ' || g, 1 + g %% 20, 1 + g %% 9,
       '3273011001', 'aktif', now(), g
  from generate_series(1, %s::int) g
"""
VIEW = """
create schema ekspor;
create view ekspor.v_anggota with (security_barrier) as select * from public.kader where status = 'aktif';
create table public.urut as select row_number() over (order by kader_id) as n, kader_id from public.kader;
alter table public.urut add primary key (n);
"""
MAPPING = """
party: bangku
version: 1
entities:
  anggota:
    view: ekspor.v_anggota
    key: [kader_id]
    lineage:
      - {table: public.kader, key: {kader_id: kader_id}}
    columns:
      nik:               {from: nik, digits: true}
      nomor_kta:         {from: no_kta, trim: true}
      nama:              nama
      jenis_kelamin:     {from: jk, codes: {L: L, P: P, W: P}}
      tempat_lahir:      tmp_lahir
      tanggal_lahir:     {from: tgl_lahir, date: YYYY-MM-DD}
      status_perkawinan: {from: kawin, codes: {1: B, 2: S, 3: P, 4: P}}
      pekerjaan:         kerja
      alamat:            alamat
      rt:                {from: rt, pad: 3}
      rw:                {from: rw, pad: 3}
      kode_kelurahan:    {from: kel_kode, region: kemendagri}
"""
UPDATE_MANY = """
update public.kader set alamat = alamat || ' B', versi = versi + 1, diubah = now()
 where kader_id in (select kader_id from public.urut where n <= %s::int)
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured piece of work: seconds of wall time, and the worker's peak memory where it is ours."""

    name: str
    seconds: float
    memory_mb: float = 0.0


class Peer:
    """PostgreSQL's own logical replication into a plain table."""

    def __init__(self, source: Server, target: Server, table_ddl: str) -> None:
        self._source = source
        self._target = target
        with psycopg.connect(source.dsn("bangku"), autocommit=True) as conn:
            conn.execute("create publication peer for table public.kader")
        with psycopg.connect(target.dsn("peer"), autocommit=True) as conn:
            conn.execute(table_ddl.encode())

    def first_copy(self) -> float:
        started = time.monotonic()
        with psycopg.connect(self._target.dsn("peer"), autocommit=True) as conn:
            conn.execute(
                f"create subscription peer connection '{self._source.dsn('bangku')}' publication peer".encode()
            )
            wait(lambda: one(conn, "select bool_and(srsubstate = 'r') from pg_subscription_rel") is True)
        return time.monotonic() - started

    def pause(self) -> None:
        self._run("alter subscription peer disable")
        with psycopg.connect(self._source.dsn("bangku"), autocommit=True) as conn:
            wait(lambda: not one(conn, "select active from pg_replication_slots where slot_name = 'peer'"))

    def resume(self) -> None:
        self._run("alter subscription peer enable")

    def drop(self) -> None:
        self._run("drop subscription peer")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self._target.dsn("peer"), autocommit=True) as conn:
            conn.execute(statement.encode())

    def has(self, versions: int) -> bool:
        with psycopg.connect(self._target.dsn("peer"), autocommit=True) as conn:
            return bool(one(conn, "select sum(versi) from public.kader") == versions)


class Ours:
    """`connector run` over a configuration of its own."""

    def __init__(self, folder: Path, source: Server, staging: Server, capture: str, daemon_env: dict[str, str]) -> None:
        self._folder = folder
        self._staging = staging
        self._source = source
        self._process: subprocess.Popen[bytes] | None = None
        self._env = daemon_env
        (folder / "bangku.yaml").write_text(MAPPING, encoding="utf-8")
        key = folder / "digest.key"
        key.touch(mode=0o600)
        key.write_text("b" * 64, encoding="ascii")
        self._slot = f"bangku_{capture}"
        self._config = folder / f"{capture}.yaml"
        by = {"host": ADDRESS} if capture == "debezium" else {}
        self._config.write_text(
            f"staging: {{dsn: '{staging.dsn(f'staging_{capture}')}'}}\ndigest: {{key: '${{file:digest.key}}'}}\n"
            f"parties:\n  bangku:\n    parpol_id: 1\n    mapping: bangku.yaml\n    source: {{engine: postgresql,"
            f" capture: {capture}, slot: {self._slot}, publication: {self._slot},"
            f" dsn: '{make_conninfo(source.dsn('bangku', 'sipol_ro_' + capture), **by)}'}}\n",
            encoding="utf-8",
        )
        self._database = f"staging_{capture}"
        with psycopg.connect(staging.dsn(), autocommit=True) as conn:
            conn.execute(f"create database staging_{capture}".encode())
        with psycopg.connect(staging.dsn(self._database), autocommit=True) as conn:
            migrate.apply(conn)
        request = KitRequest(
            "bangku", "pull" if capture == "pull" else "stream", self._slot, self._slot, "sipol_ro_" + capture,
            (KitTable("public", "kader", ("kader_id",)),), (("ekspor", "v_anggota"),), accept_risk=True,
        )  # fmt: skip
        done = subprocess.run(
            [str(source.binaries / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", source.dsn("bangku")],
            input=kit_sql(request).encode(), capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        with (self._folder / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "connector", "--config", str(self._config), "--log-format", "json", "run"],
                stdout=log, stderr=log, start_new_session=True, env={**os.environ, **self._env},
            )  # fmt: skip

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def streaming(self) -> bool:
        with psycopg.connect(self._staging.dsn(self._database), autocommit=True) as conn:
            return bool(one(conn, "select state from connector.entity where entity = 'anggota'") == "streaming")

    def updated(self, count: int) -> bool:
        with psycopg.connect(self._staging.dsn(self._database), autocommit=True) as conn:
            return int(one(conn, "select updated from connector.entity where entity = 'anggota'") or 0) >= count

    def judged(self) -> bool:
        """Whether findings over sets are up to date with the change feed."""
        with psycopg.connect(self._staging.dsn(self._database), autocommit=True) as conn:
            return bool(one(conn, (
                "select not exists (select from connector.temuan_due)"
                " and not exists (select from connector.hitungan_due)"
                " and (select place is not null and not exists (select from sipol.perubahan(place, 1))"
                " from connector.temuan_cursor)"
            )))  # fmt: skip

    def copy_seconds(self) -> float:
        """From the entry that began the history to the one that ended the copy, by staging's clock."""
        with psycopg.connect(self._staging.dsn(self._database), autocommit=True) as conn:
            return float(str(one(conn, (
                "select extract(epoch from (select min(at) from audit.entry where convert_from(body, 'UTF8') like"
                " '%copy_finished%') - (select min(at) from audit.entry))"
            ))))  # fmt: skip

    def memory_mb(self) -> float:
        """Peak resident memory of the largest process of the daemon."""
        assert self._process is not None
        peak = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text(encoding="ascii", errors="replace")
                stat = (status.parent / "stat").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue
            if int(stat.rsplit(")", 1)[1].split()[3]) == self._process.pid:
                peak = max(peak, *(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")), 0)
        return peak / 1024

    def latencies(self, count: int) -> list[float]:
        """Milliseconds from commit at the party to commit in staging, for single-row changes on an idle source."""
        found = []
        with (
            psycopg.connect(self._source.dsn("bangku"), autocommit=True) as party,
            psycopg.connect(self._staging.dsn(self._database), autocommit=True) as staging,
        ):
            key = one(party, "select kader_id from public.urut where n = 1")
            for place in range(count):
                party.execute("update public.kader set alamat = %s where kader_id = %s", (f"L {place}", key))
                committed = time.monotonic()
                shown = f"select alamat from staging.anggota_p1 where source_key = '{key}'"
                while one(staging, shown) != f"L {place}":
                    time.sleep(0.001)
                found.append((time.monotonic() - committed) * 1000)
                # Spread over the poll interval, so that no phase of it is favoured.
                time.sleep(0.3 + 0.037 * (place % 20))
        return sorted(found)


def one(conn: psycopg.Connection[tuple[Any, ...]], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    return row[0] if row else None


def wait(done: Callable[[], bool], pause_s: float = 0.01) -> None:
    deadline = time.monotonic() + 600
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError("a piece of work did not end within ten minutes")
        time.sleep(pause_s)


def small_transactions(source: Server, first: int, count: int) -> None:
    """`count` single-row updates, each its own transaction, of rows `first`+1 and on."""
    with psycopg.connect(source.dsn("bangku"), autocommit=True) as conn:
        conn.execute("set synchronous_commit = off")
        conn.execute(
            """
            create or replace procedure public.small(low int, amount int) language plpgsql as $$
            declare k uuid;
            begin
              for i in 1..amount loop
                select kader_id into k from public.urut where n = low + i;
                update public.kader set alamat = alamat || ' C', versi = versi + 1 where kader_id = k;
                commit;
              end loop;
            end $$
            """
        )
        conn.execute(f"call public.small({first}, {count})".encode())
        conn.execute("set synchronous_commit = on")
        conn.execute("update public.kader set versi = versi where false")
        conn.execute("select pg_logical_emit_message(true, 'x', 'flush')")


@contextmanager
def servers(rows: int) -> Iterator[tuple[Path, Server, Server]]:
    folder = Path(tempfile.mkdtemp(prefix="sipol-bench-"))
    folder.chmod(0o755)
    try:
        with (
            Server.start(folder / "source", wheel_binaries(16), {**SETTINGS, "listen_addresses": ADDRESS}) as source,
            Server.start(folder / "staging", wheel_binaries(16), SETTINGS) as target,
        ):
            with psycopg.connect(source.dsn(), autocommit=True) as conn:
                conn.execute("create database bangku")
            with psycopg.connect(target.dsn(), autocommit=True) as conn:
                conn.execute("create database peer")
            with psycopg.connect(source.dsn("bangku"), autocommit=True) as conn:
                conn.execute(TABLE.encode())
                conn.execute(FILL, (rows,))
                conn.execute(VIEW.encode())
                conn.execute("vacuum analyze")
                conn.execute("checkpoint")
            yield folder, source, target
    finally:
        if os.environ.get("BENCH_KEEP_LOG"):
            shutil.copy(folder / "daemon.log", os.environ["BENCH_KEEP_LOG"])
        shutil.rmtree(folder, ignore_errors=True)


def versions(source: Server) -> int:
    with psycopg.connect(source.dsn("bangku"), autocommit=True) as conn:
        return int(str(one(conn, "select sum(versi) from public.kader")))


def checkpoint(*both: Server) -> None:
    for server in both:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("checkpoint")


def measure_peer(source: Server, target: Server, large: int, small: int) -> list[Figure]:
    peer = Peer(source, target, TABLE)
    figures = [Figure("first copy", peer.first_copy())]
    checkpoint(source, target)
    with psycopg.connect(source.dsn("bangku"), autocommit=True) as conn:
        conn.execute(UPDATE_MANY, (large,))
    committed = time.monotonic()
    total = versions(source)
    wait(lambda: peer.has(total))
    figures.append(Figure("one large transaction", time.monotonic() - committed))
    peer.pause()
    small_transactions(source, large, small)
    total = versions(source)
    checkpoint(source, target)
    started = time.monotonic()
    peer.resume()
    wait(lambda: peer.has(total))
    figures.append(Figure("many small transactions", time.monotonic() - started))
    peer.drop()
    return figures


def measure_debezium(folder: Path, source: Server, rows: int, large: int, small: int) -> list[Figure]:
    """The same work, read by Debezium's engine and counted. Its JVM's start is not its work."""
    debezium = DebeziumPeer(folder, ADDRESS, "bangku", "public.kader")
    try:
        checkpoint(source)
        debezium.start()
        wait(lambda: debezium.counted >= rows)
        figures = [Figure("first copy", time.monotonic() - debezium.ready_at, debezium.memory_mb())]
        with psycopg.connect(source.dsn("bangku"), autocommit=True) as conn:
            wait(lambda: one(conn, "select active from pg_replication_slots where slot_name = 'debezium'") is True)
            conn.execute(UPDATE_MANY, (large,))
        committed = time.monotonic()
        wait(lambda: debezium.counted >= rows + large)
        figures.append(Figure("one large transaction", time.monotonic() - committed, debezium.memory_mb()))
        debezium.stop()
        small_transactions(source, large, small)
        checkpoint(source)
        before = debezium.counted
        debezium.start()
        wait(lambda: debezium.counted >= before + small)
        figures.append(Figure("many small transactions", time.monotonic() - debezium.ready_at, debezium.memory_mb()))
    finally:
        debezium.stop()
    with psycopg.connect(source.dsn("bangku"), autocommit=True) as conn:
        wait(lambda: not one(conn, "select active from pg_replication_slots where slot_name = 'debezium'"))
        conn.execute("select pg_drop_replication_slot('debezium')")
        conn.execute("drop publication debezium")
    return figures


def measure_ours(
    folder: Path, source: Server, staging: Server, capture: str, large: int, small: int
) -> tuple[list[Figure], list[float]]:
    ours = Ours(folder, source, staging, capture, {})
    checkpoint(source, staging)
    ours.start()
    try:
        wait(ours.streaming)
        figures = [Figure("first copy", ours.copy_seconds(), ours.memory_mb())]
        copied = time.monotonic()
        wait(ours.judged)
        print(f"{capture}: first judgement of findings beside it: {time.monotonic() - copied:.1f} s", flush=True)
        checkpoint(source, staging)
        with psycopg.connect(source.dsn("bangku"), autocommit=True) as conn:
            conn.execute(UPDATE_MANY, (large,))
        committed = time.monotonic()
        wait(lambda: ours.updated(large))
        figures.append(Figure("one large transaction", time.monotonic() - committed, ours.memory_mb()))
        wait(ours.judged)
        waits = ours.latencies(30)
        wait(ours.judged)
        ours.stop()
        small_transactions(source, large, small)
        checkpoint(source, staging)
        base = 30 + large
        ours.start()
        wait(lambda: ours.updated(base + small))
        seconds = catch_up_seconds(staging, capture)
        figures.append(Figure("many small transactions", seconds, ours.memory_mb()))
    finally:
        ours.stop()
    return figures, waits


def catch_up_seconds(staging: Server, capture: str) -> float:
    """From the worker's connect (its epoch's claim) to its last batch, by staging's clock.

    A start takes a second of imports, which the peer's resume does not: it is left out.
    """
    with psycopg.connect(staging.dsn(f"staging_{capture}"), autocommit=True) as conn:
        found = one(
            conn,
            "select extract(epoch from (select max(ended_at) from staging.sync_batch)"
            " - (select claimed_at from connector.source_offset))",
        )
    return float(found)


def report(peer: list[Figure], ours: dict[str, tuple[list[Figure], list[float]]]) -> None:
    for capture, (figures, waits) in ours.items():
        print(f"\n{capture}: ours / native")
        for native, our in zip(peer, figures, strict=True):
            ratio = our.seconds / native.seconds
            figures_text = f"{our.seconds:7.2f} s / {native.seconds:6.2f} s = {ratio:5.2f}"
            print(f"  {our.name:26} {figures_text}   peak {our.memory_mb:.0f} MB")
        print(f"  idle latency p50 {waits[len(waits) // 2]:.0f} ms, p99 {waits[int(len(waits) * 0.99)]:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--capture", default="pull,stream")
    parser.add_argument("--no-peer", action="store_true")
    given = parser.parse_args()
    large, small = given.rows // 5, given.rows // 10
    with servers(given.rows) as (folder, source, target):
        peer = [] if given.no_peer else measure_peer(source, target, large, small)
        for figure in peer:
            print(f"native {figure.name}: {figure.seconds:.2f} s", flush=True)
        reason = "not asked for" if given.no_peer else missing()
        debezium = [] if reason else measure_debezium(folder, source, given.rows, large, small)
        for figure in debezium:
            print(f"Debezium, no sink, {figure.name}: {figure.seconds:.2f} s, {figure.memory_mb:.0f} MB", flush=True)
        if reason:
            print(f"Debezium: {reason}", flush=True)
        ours = {}
        for capture in given.capture.split(","):
            ours[capture] = measure_ours(folder, source, target, capture, large, small)
            for figure in ours[capture][0]:
                print(f"{capture} {figure.name}: {figure.seconds:.2f} s, {figure.memory_mb:.0f} MB", flush=True)
    if peer:
        report(peer, ours)


if __name__ == "__main__":
    threading.stack_size(0)
    main()
