"""Debezium as a child with a JVM: killed, hung, slow to be read; and a daemon that follows a party through it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from jvm import TcpServer, require_debezium
from workbench import UjiParty, Workbench, drop_party, new_name, wait_until

from connector.capture.debezium import process, properties
from connector.capture.debezium.process import Child
from connector.capture.debezium.properties import Endpoint, Followed
from connector.capture.debezium.source import DebeziumSource, JvmSettings
from connector.capture.postgres.pull import SlotSettings
from connector.capture.signals import Route, Routes
from connector.errors import EnvironmentMissing, SourceMisconfigured, SourceUnavailable
from connector.events import Position, SourceIdentity

ROUTES: Routes = {("public", "orang"): (Route("anggota", key=(("orang_id", "orang_id"),)),)}


@pytest.fixture
def party(pg_tcp: TcpServer) -> Iterator[UjiParty]:
    database = new_name(pg_tcp.server, "partai")
    made = UjiParty("uji", 1, pg_tcp.server, database, "debezium", via=pg_tcp.address)
    made.install(100)
    yield made
    drop_party(made)


@contextmanager
def opened(
    party: UjiParty, jvm: JvmSettings, stored: Position | None = None, identity: SourceIdentity | None = None
) -> Iterator[DebeziumSource]:
    settings = SlotSettings(party.daemon_dsn, "uji", party.slot, party.slot, ROUTES, 10_000, 0.02, 60.0)
    with closing(DebeziumSource(settings, jvm, stored, identity, lambda _: False)) as source:
        yield source


def keys_until(source: DebeziumSource, key: str) -> tuple[set[str], Position]:
    found: set[str] = set()
    position = source.start

    def there() -> bool:
        nonlocal position
        signals = source.read(0.2)
        if signals is not None:
            found.update(one for part in signals.keys["anggota"].slices(1_000) for one in part)
            position = signals.position
        return key in found

    wait_until(there, f"key {key} is told")
    return found, position


def status_kb(pid: int, word: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(word))


def test_a_killed_child_is_told_of_and_the_next_one_misses_nothing(party: UjiParty) -> None:
    with opened(party, JvmSettings(128)) as source:
        party.run("update public.orang set nama = 'A' where orang_id = 1")
        _, position = keys_until(source, "1")
        party.run("update public.orang set nama = 'B' where orang_id = 2")
        os.kill(source.child_pid, signal.SIGKILL)
        with pytest.raises(SourceUnavailable):
            wait_until(lambda: source.read(0.2) is not None and False, "the loss is told")
        identity = source.identity
    party.run("update public.orang set nama = 'C' where orang_id = 3")
    with opened(party, JvmSettings(128), position, identity) as again:
        assert keys_until(again, "3")[0] == {"2", "3"}


def test_a_child_that_hangs_is_killed_and_keeps_no_file_and_shows_no_secret(party: UjiParty) -> None:
    with opened(party, JvmSettings(128, silence_s=3.0)) as source:
        party.run("update public.orang set nama = 'A' where orang_id = 1")
        keys_until(source, "1")
        pid = source.child_pid
        assert not list(kept(pid)), "an offset that is kept could be lost, or be older than ours"
        assert party.reader.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert party.reader.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(SourceUnavailable, match="said nothing"):
            wait_until(lambda: source.read(0.2) is not None and False, "the silence is noticed")
        assert not Path(f"/proc/{pid}").exists()


def kept(pid: int) -> Iterator[str]:
    """Regular files that a process has open for writing."""
    for place in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(OSError):
            flags = next(line for line in place.read_text(encoding="ascii").splitlines() if line.startswith("flags"))
            target = Path(f"/proc/{pid}/fd/{place.name}")
            if int(flags.split()[1], 8) & (os.O_WRONLY | os.O_RDWR) and stat.S_ISREG(target.stat().st_mode):
                yield str(target.readlink())


def test_a_large_transaction_that_nobody_reads_stays_in_the_heap_that_was_given(party: UjiParty) -> None:
    """The child waits for its reader, the engine for the child, the server for the engine."""
    with opened(party, JvmSettings(64)) as source:
        party.run("update public.orang set nama = 'A' where orang_id = 1")
        keys_until(source, "1")
        own_kb = status_kb(os.getpid(), "VmRSS")
        party.run(
            "insert into public.orang (orang_id, nama, status) select g, repeat('x', 300), 'aktif'"
            " from generate_series(1000, 60999) g"
        )
        wait_until(lambda: waits(source.child_pid), "the child waits for its reader")
        found, _ = keys_until(source, "60999")
        assert len(found) == 60_000
        assert status_kb(source.child_pid, "VmHWM") < 400 * 1024
        assert status_kb(os.getpid(), "VmRSS") - own_kb < 150 * 1024


def waits(pid: int) -> bool:
    """Whether a thread of the process stands in a write to a pipe."""
    channels = []
    for place in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            channels.append((place / "syscall").read_text(encoding="ascii").split()[0] == "1")
    return any(channels)


def test_a_daemon_follows_a_party_through_debezium(party: UjiParty, staging_dsn: str, tmp_path: Path) -> None:
    """Its JVM is killed on the way; nothing is lost, nothing is applied twice, no value is in the log."""
    with closing(Workbench(tmp_path, staging_dsn, [party])) as bench:
        daemon = bench.start()
        bench.await_caught_up("uji")
        party.run("update public.orang set nama = 'BARU' where orang_id between 1 and 20")
        party.run("delete from public.papan_orang where orang_id = 3")
        bench.await_caught_up("uji")
        os.kill(child_of(daemon.worker_pid("uji")), signal.SIGKILL)
        party.run("update public.orang set orang_id = orang_id + 5000 where orang_id between 30 and 35")
        party.run("update public.orang set status = 'mundur' where orang_id between 40 and 45")
        bench.check("uji")
        assert daemon.stop() == 0
        text = daemon.log.read_text(encoding="utf-8")
        for (nik,) in party.ask("select nik from public.orang"):
            assert nik not in text


def child_of(pid: int) -> int:
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (place / "stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()
            if int(words[1]) == pid and b"debezium.child" in (place / "cmdline").read_bytes():
                return int(place.name)
    raise AssertionError("no child")


def test_a_socket_is_no_way_for_debezium(party: UjiParty) -> None:
    party.via = ""
    with pytest.raises(SourceMisconfigured, match="TCP"), opened(party, JvmSettings()):
        pass


def test_without_the_extra_or_a_java_the_environment_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    require_debezium()
    config = {"heap_mb": 64, "engine": "postgresql", "jars": None}
    # What lies where a Java should be, and is none.
    (tmp_path / "lib" / "server").mkdir(parents=True)
    (tmp_path / "lib" / "server" / "libjvm.so").touch()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with (
        closing(Child(config, start_s=30.0, silence_s=30.0)) as child,
        pytest.raises(EnvironmentMissing, match="Java") as caught,
    ):
        wait_until(lambda: child.take(0.5) is not None and False, "the child says what is missing")
    assert "debezium" in caught.value.hint
    monkeypatch.setattr(process, "NEEDS", ("jpype", "no_such_package"))
    with pytest.raises(EnvironmentMissing, match="no_such_package"):
        process.require()


# What Debezium's own classes say of what we would tell it; in a process of its own, a JVM cannot be got rid of.
_LOOK = """
import json, sys
from connector.capture.debezium import jvm
jvm.start(128, jvm.ANY, None)
found = {}
for engine, connector, given in json.load(sys.stdin):
    found[engine] = [jvm.problems(connector, given), sorted(set(given) - jvm.known(connector + "Config"))]
wrong = {**given, "database.port": "bukan angka"}
print(json.dumps([found, jvm.problems(connector, wrong)]))
"""
# Told to Kafka Connect, and to the class that keeps the history.
_NOT_THE_CONNECTOR_S = {"name", "connector.class", "schema.history.internal.file.filename"}


def test_debezium_s_own_definitions_accept_what_each_connector_is_told() -> None:
    """SQL Server's and Oracle's configurations meet no server here, so they are held against these."""
    require_debezium()
    endpoint = Endpoint("db.partai.example", 1, "sipol_ro", "rahasia", "partai")
    tables = (Followed("dbo", "orang", ("orang_id",)), Followed("dbo", "kerja", ()))
    engines: tuple[properties.Engine, ...] = ("mysql", "mssql", "oracle")
    asked = [
        ("postgresql", properties.CONNECTORS["postgresql"], properties.postgresql(endpoint, "s", "s", tables)),
        *((name, properties.CONNECTORS[name], properties.others(name, endpoint, tables, 7)) for name in engines),
    ]
    done = subprocess.run(
        [sys.executable, "-c", _LOOK], input=json.dumps(asked).encode(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found, refused = json.loads(done.stdout)
    assert {engine: problems for engine, (problems, _) in found.items()} == {name: [] for name, _, _ in asked}
    for engine, (_, unknown) in found.items():
        assert set(unknown) <= _NOT_THE_CONNECTOR_S, engine
    assert refused, "they do look: a port that is no number is refused"


def test_check_tells_what_this_machine_lacks_beside_what_the_party_lacks(
    party: UjiParty, staging_dsn: str, tmp_path: Path
) -> None:
    """A party that is in order has no error; without a Java the exit code is 3, and all else is told all the same."""
    with closing(Workbench(tmp_path, staging_dsn, [party])) as bench:

        def check(path: str) -> tuple[int, set[str]]:
            command = [sys.executable, "-m", "connector", "--config", str(bench.config_path), "check", "uji", "--json"]
            environment = {**os.environ, "PATH": path, "JAVA_HOME": ""}
            done = subprocess.run(command, capture_output=True, check=False, env=environment)
            found = json.loads(done.stdout)["result"]["findings"]
            return done.returncode, {one["code"] for one in found if one["level"] == "error" and one["place"] == "uji"}

        whole, errors = check(os.environ["PATH"])
        assert not errors & {"JAVA_MISSING", "DEBEZIUM_MISSING", "NEEDS_TCP"}
        assert whole != 3
        party.via = ""
        bench.write_config()
        code, lacking = check(str(tmp_path))
        assert code == 3
        assert lacking == errors | {"JAVA_MISSING", "NEEDS_TCP"}
