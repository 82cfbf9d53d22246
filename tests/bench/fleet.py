"""Forty parties under one daemon: latency beside a flood and a stall, memory, idle cost, take-over and recovery.

`python tests/bench/fleet.py [--parties 40] [--seconds 30]`. Everything shares this machine: the parties' cluster,
staging, the daemon and the writers. A batch's latency is from its first commit at the party to its end in staging, by
the clock that both servers share.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))

from workbench import Daemon, UjiParty, Workbench, new_name, wait_until

from connector.embedded import Server, wheel_binaries
from connector.staging import migrate

SETTINGS = {
    "max_connections": "600", "max_replication_slots": "60", "max_wal_senders": "60", "shared_buffers": "256MB",
    "synchronous_commit": "on", "max_wal_size": "4GB",
}  # fmt: skip
PEOPLE, FLOOD_PEOPLE = 300, 20_000
# Changes a second of all normal parties together.
CHANGES_S = 420
CHANGE = "update public.orang set alamat = 'JL ' || %s where orang_id = %s"
FLOOD = "update public.orang set alamat = alamat || 'x' where orang_id %% 2 = %s"
LATENCY = """
select extract(epoch from ended_at - committed_first) * 1000
  from staging.sync_batch
 where kind = 'signals' and committed_first > %s and party = any (%s)
"""
# The end of each party's first batch whose changes were all made after a moment.
FIRST_SINCE = """
select party, extract(epoch from min(ended_at) - %(since)s::timestamptz)
  from staging.sync_batch
 where kind = 'signals' and ended_at > %(since)s and party = any (%(parties)s) group by party
"""


class Writers:
    """Small changes at the normal parties, in turn, at a steady rate; and a flood at one of them."""

    def __init__(self, normal: Sequence[UjiParty], flooding: UjiParty, changes_s: float) -> None:
        self._normal = normal
        self._flooding = flooding
        self._pause_s = 1 / changes_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._change), threading.Thread(target=self._flood)]
        self.changes = 0
        self.flooded = 0

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _change(self) -> None:
        with ExitStack() as stack:
            sessions = [stack.enter_context(party.connect()) for party in self._normal]
            due = time.monotonic()
            while not self._stop.is_set():
                conn = sessions[self.changes % len(sessions)]
                conn.execute(CHANGE.encode(), (self.changes, random.randint(1, PEOPLE)))
                self.changes += 1
                due += self._pause_s
                time.sleep(max(0.0, due - time.monotonic()))

    def _flood(self) -> None:
        with self._flooding.connect() as conn:
            while not self._stop.is_set():
                conn.execute(FLOOD.encode(), (self.flooded % 2,))
                self.flooded += 1
                self._stop.wait(0.5)


def group(daemon: Daemon) -> Iterator[Path]:
    """The folders of a daemon's processes."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == daemon.process.pid or int(fields[3]) == daemon.process.pid:
            yield folder


def memory_mb(daemon: Daemon) -> float:
    """Proportional set size of all its processes: what they share counts once."""
    total = 0
    for folder in group(daemon):
        try:
            rollup = (folder / "smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def processor_s(daemon: Daemon) -> float:
    ticks = 0
    for folder in group(daemon):
        try:
            fields = (folder / "stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def workbench(count: int) -> Iterator[tuple[Workbench, Server]]:
    folder = Path(tempfile.mkdtemp(prefix="sipol-fleet-"))
    folder.chmod(0o755)
    try:
        with (
            Server.start(folder / "parties", wheel_binaries(18), {**SETTINGS, "wal_level": "logical"}) as source,
            Server.start(folder / "staging", wheel_binaries(16), SETTINGS) as staging,
        ):
            with psycopg.connect(staging.dsn(), autocommit=True) as conn:
                conn.execute("create database staging")
            with psycopg.connect(staging.dsn("staging"), autocommit=True) as conn:
                migrate.apply(conn)
            parties = []
            for place in range(count):
                name = f"partai{place:02}"
                party = UjiParty(name, place + 1, source, new_name(source, name), limits={"poll_s": 1.0})
                party.install(FLOOD_PEOPLE if place == 0 else PEOPLE)
                parties.append(party)
                print(f"\r{place + 1} of {count} parties", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            bench = Workbench(folder, staging.dsn("staging"), parties)
            try:
                yield bench, staging
            finally:
                bench.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def now(bench: Workbench) -> Any:
    return bench.query("select clock_timestamp()")[0][0]


def until_all_move(bench: Workbench, parties: Sequence[str], since: Any) -> float:
    """Seconds until each of the parties had a batch after a moment; for the slowest."""
    values = {"since": since, "parties": list(parties)}

    def moved() -> bool:
        with bench.staging() as conn:
            return len(conn.execute(FIRST_SINCE.encode(), values).fetchall()) == len(parties)

    wait_until(moved, "every party has a batch", 120)
    with bench.staging() as conn:
        return max(float(row[1]) for row in conn.execute(FIRST_SINCE.encode(), values).fetchall())


def latencies(bench: Workbench, parties: Sequence[str], since: Any) -> str:
    found = sorted(float(row[0]) for row in bench.query(LATENCY, (since, list(parties))))
    p95 = found[int(len(found) * 0.95)]
    return f"p50 {statistics.median(found):.0f} ms, p95 {p95:.0f} ms, of {len(found)} batches"


def measure(bench: Workbench, staging: Server, seconds: float) -> None:
    names = list(bench.parties)
    flooding, stalled, normal = names[0], names[1], names[2:]
    started = time.monotonic()
    daemon = bench.start()
    for name in names:
        bench.await_state(name, "streaming")
    rows = FLOOD_PEOPLE + PEOPLE * (len(names) - 1)
    taken_s = time.monotonic() - started
    print(f"start and first copies of {len(names)} parties, {rows} members: {taken_s:.1f} s")
    time.sleep(10)
    before, began = processor_s(daemon), time.monotonic()
    time.sleep(20)
    share = (processor_s(daemon) - before) / (time.monotonic() - began)
    print(f"idle: {share:.1%} of a core, all processes {memory_mb(daemon):.0f} MB (proportional)")
    writers = Writers([bench.parties[name] for name in normal], bench.parties[flooding], CHANGES_S)
    with bench.parties[stalled].connect() as lock:
        lock.execute("begin")
        lock.execute("lock table public.orang in access exclusive mode")
        with writers:
            since = now(bench)
            time.sleep(seconds)
            rate = writers.changes / seconds
            print(f"with a flood and a stall, {rate:.0f} changes/s: {latencies(bench, normal, since)}")
            print(f"  memory {memory_mb(daemon):.0f} MB; the flood had {writers.flooded * FLOOD_PEOPLE // 2} changes")
            victim, others = normal[0], normal[1:]
            since = now(bench)
            daemon.kill_worker(victim)
            print(f"a worker killed: its party goes on after {until_all_move(bench, [victim], since):.1f} s", end="")
            time.sleep(3)
            print(f"; the others meanwhile {latencies(bench, others, since)}")
            since = now(bench)
            staging.restart()
            print(f"staging restarted: all go on after {until_all_move(bench, normal, since):.1f} s")
            second = bench.start()
            wait_until(lambda: len(second.named("parties_shared")) > 1, "the second daemon has its share", 60)
            time.sleep(5)
            lost = [row[0] for row in bench.query("select party from connector.lease where daemon like %s",
                    (f"%:{daemon.process.pid}",))]  # fmt: skip
            since = now(bench)
            daemon.kill()
            slowest = until_all_move(bench, [name for name in lost if name in normal], since)
            print(f"a daemon with {len(lost)} parties killed: the other one has taken all over after {slowest:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parties", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30)
    given = parser.parse_args()
    with workbench(given.parties) as (bench, staging):
        measure(bench, staging, given.seconds)


if __name__ == "__main__":
    main()
