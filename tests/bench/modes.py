"""What each way to follow a MariaDB party costs: catching up, latency, the party's own writes, and an idle hour.

`python tests/bench/modes.py [--rows N] [--modes stream,outbox]`. The source alone is measured, down to the keys that it
signals; what staging takes is in throughput.py. Server and source share this machine.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))

import pymysql
from mariadb import MariaDb, make

from connector.capture.mysql.stream_source import BinlogSettings, BinlogSource
from connector.capture.outbox import kit as outbox
from connector.capture.outbox.leg import OutboxLeg
from connector.capture.outbox.request import OutboxRequest, OutboxTable
from connector.capture.outbox.tables import SqlChangeTable
from connector.capture.signals import KeySet, Route
from connector.sqldb.engines import Options

TABLE = """
create table kader (id int primary key, versi int not null, nik varchar(20), no_kta varchar(20), nama varchar(80),
  tgl_lahir date, diubah datetime, iuran decimal(10,2), kel_kode varchar(10), alamat varchar(80), email varchar(80));
create view v_kader as select * from kader;
create procedure tambah(dari int, banyak int) begin declare n int default 0; while n < banyak do
  insert into kader values (dari + n, 0, '3273010101900001', '3273.000001', 'NAMA ORANG', '1990-01-01', now(), 12.5,
  '3273011001', 'JALAN MERDEKA NOMOR 1', 'orang@contoh.id'); set n = n + 1; end while; end
"""
ROUTES = {("partai", "kader"): (Route("kader", key=(("id", "id"),)),)}
IDLE_S, PROBES = 20.0, 100


class Follower(Protocol):
    """A source, as far as it is measured."""

    def keys(self) -> int:
        """How many keys are signalled next; they count as applied. 0 where nothing is there."""

    def close(self) -> None: ...


class Stream:
    def __init__(self, server: MariaDb) -> None:
        settings = BinlogSettings(
            server.url("partai"), Options("bench"), ROUTES, {"kader": ("partai", "v_kader")}, 1_000_000
        )
        self._source = BinlogSource(settings, None, None, lambda seconds: threading.Event().wait(seconds))
        self.close = self._source.close

    @staticmethod
    def install(server: MariaDb) -> None:
        """Nothing at the party but a login."""

    def keys(self) -> int:
        signals = self._source.read(0.5)
        return 0 if signals is None else _count(signals.keys.get("kader"))


class Outbox:
    def __init__(self, server: MariaDb) -> None:
        table = SqlChangeTable(server.url("partai"), "partai", "sipol_uji", Options("bench"))
        self._leg = OutboxLeg(table, ROUTES, every_s=1.0, keys_in_memory=1_000_000)
        self._leg.learn()
        self._handed = 0
        self.close = self._leg.close

    @staticmethod
    def install(server: MariaDb) -> None:
        tables = (OutboxTable("partai", "kader", ("id",)),)
        request = OutboxRequest("mariadb", "partai", "sipol_uji", "root@localhost", tables, (("partai", "v_kader"),))
        with server.connect("partai") as conn, conn.cursor() as cursor:
            for step in outbox.kit_steps(request):
                cursor.execute(step.sql)

    def keys(self) -> int:
        found = 0
        for part in self._leg.round():
            found += _count(part.keys.get("kader"))
            self._handed += 1
            self._leg.applied(self._handed)
        return found


MODES: dict[str, type[Stream] | type[Outbox]] = {"stream": Stream, "outbox": Outbox}


def _count(keys: KeySet | None) -> int:
    return 0 if keys is None else len(keys)


@contextmanager
def party() -> Iterator[MariaDb]:
    server = make()
    try:
        server.run("create database partai")
        with server.connect("partai") as conn, conn.cursor() as cursor:
            for statement in TABLE.split(";\ncreate "):
                cursor.execute(statement if statement.strip().startswith("create") else f"create {statement}")
        yield server
    finally:
        server.stop(signal.SIGKILL)
        shutil.rmtree(server.folder, ignore_errors=True)


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def drained(follower: Follower, wanted: int) -> float:
    """Seconds until so many keys were signalled."""

    def work() -> None:
        found = 0
        while found < wanted:
            found += follower.keys()

    return timed(work)


def latency_s(follower: Follower, conn: pymysql.Connection[pymysql.cursors.Cursor]) -> list[float]:
    """From before the party's commit to the signal, one change at a time."""
    found = []
    for number in range(PROBES):
        started = time.monotonic()
        with conn.cursor() as cursor:
            cursor.execute("update kader set versi = %s where id = 1", (number + 10,))
        while follower.keys() == 0:
            threading.Event().wait(0.001)
        found.append(time.monotonic() - started)
    return sorted(found)


def idle(server: MariaDb, follower: Follower) -> tuple[float, float]:
    """Statements a minute, and the server's CPU as a share of one core, while nothing happens."""
    assert server.process is not None
    before, cpu = questions(server), cpu_s(server.process.pid)
    deadline = time.monotonic() + IDLE_S
    while time.monotonic() < deadline:
        follower.keys()
        threading.Event().wait(1.0 if isinstance(follower, Outbox) else 0.0)
    return (questions(server) - before - 1) * 60 / IDLE_S, (cpu_s(server.process.pid) - cpu) / IDLE_S


def questions(server: MariaDb) -> int:
    return int(server.query("show global status like 'Questions'")[0][1])


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def measure(name: str, rows: int) -> None:
    with party() as server, server.connect("partai") as conn:
        bare = write(conn, 1, rows)
        with conn.cursor() as cursor:
            cursor.execute("truncate kader")
        mode = MODES[name]
        mode.install(server)
        follower: Follower = mode(server)
        followed = write(conn, 1, rows)
        small = drained(follower, rows)
        with conn.cursor() as cursor:
            bulk = timed(lambda: cursor.execute("update kader set versi = versi + 1"))
        large = drained(follower, rows)
        probes = latency_s(follower, conn)
        asked, share = idle(server, follower)
        follower.close()
    middle, slow = probes[PROBES // 2] * 1e3, probes[-2] * 1e3
    print(
        f"{name}: {rows} one-row transactions {rows / small:,.0f} keys/s; one of {rows} rows {rows / large:,.0f} keys/s"
    )
    print(f"  latency p50 {middle:.1f} ms, p99 {slow:.1f} ms; idle {asked:.0f} statements/min, {share:.2%} of a core")
    print(f"  the party's one-row writes {bare:.1f} s, with the kit {followed:.1f} s; its bulk update {bulk:.1f} s")


def write(conn: pymysql.Connection[pymysql.cursors.Cursor], first: int, rows: int) -> float:
    with conn.cursor() as cursor:
        return timed(lambda: cursor.execute(f"call tambah({first}, {rows})"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--modes", default=",".join(MODES))
    given = parser.parse_args()
    for name in given.modes.split(","):
        measure(name, given.rows)


if __name__ == "__main__":
    main()
