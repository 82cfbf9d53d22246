"""Real servers for the tests: one cluster of each version per test process, a database per test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from jvm import pg_tcp
from mariadb import maria_database, mariadb
from psycopg import sql
from workbench import wait_until

from connector.embedded import Server, system_binaries, wheel_binaries
from connector.errors import EnvironmentMissing

__all__ = ["maria_database", "mariadb", "pg_tcp"]  # fixtures that live beside their server's code

# Tests may lose their servers' data: nothing here survives the run, and fsync would only slow them.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "4GB"}


def missing(reason: str) -> None:
    """A missing server is a skip on a laptop and a failure in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def server_root() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="sipol-tests-"))
    root.chmod(0o755)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def start_server(server_root: Path) -> Iterator[Callable[..., Server]]:
    """Start a cluster of a version: `start_server(16, name, settings)`. Stopped at the end of the session."""
    started: list[Server] = []

    def start(major: int, name: str, settings: dict[str, str] | None = None) -> Server:
        try:
            binaries = system_binaries(major) if major in (15, 17) else wheel_binaries(major)
            server = Server.start(server_root / name, binaries, {**FAST, **(settings or {})})
        except EnvironmentMissing as error:
            missing(str(error))
            raise
        started.append(server)
        return server

    yield start
    for server in started:
        server.destroy()


@pytest.fixture(scope="session")
def pg15(start_server: Callable[..., Server]) -> Server:
    return start_server(15, "pg15")


@pytest.fixture(scope="session")
def pg16(start_server: Callable[..., Server]) -> Server:
    return start_server(16, "pg16")


@pytest.fixture(scope="session")
def pg18(start_server: Callable[..., Server]) -> Server:
    return start_server(18, "pg18")


@pytest.fixture(scope="session")
def staging_server(pg16: Server) -> Server:
    return pg16


_counter = iter(range(1_000_000))


def new_database(server: Server, prefix: str, template: str = "template0") -> str:
    name = f"{prefix}_{next(_counter)}"
    statement = sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
    with psycopg.connect(server.dsn(), autocommit=True) as conn:

        def made() -> bool:
            try:
                conn.execute(statement)
            except psycopg.errors.ObjectInUse:
                return False  # the server's autovacuum is in the template just now
            return True

        wait_until(made, f"{name} is made from {template}")
    return name


def drop_database(server: Server, name: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        slots = conn.execute(
            "select slot_name, active_pid from pg_replication_slots where database = %s", (name,)
        ).fetchall()
        for slot, pid in slots:
            if pid is not None:
                conn.execute("select pg_terminate_backend(%s, 5000)", (pid,))
            conn.execute("select pg_drop_replication_slot(%s)", (slot,))
        conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def staging_template(staging_server: Server) -> str:
    """A migrated database that each test's staging database is copied from."""
    from connector.staging import migrate

    name = new_database(staging_server, "staging_template")
    with psycopg.connect(staging_server.dsn(name)) as conn:
        migrate.apply(conn)
    return name


@pytest.fixture
def staging_dsn(staging_server: Server, staging_template: str) -> Iterator[str]:
    """A fresh, migrated staging database."""
    name = new_database(staging_server, "staging", staging_template)
    yield staging_server.dsn(name)
    drop_database(staging_server, name)


@pytest.fixture(params=[16])
def source_server(request: pytest.FixtureRequest) -> Server:
    """The party's server; parametrise indirectly with 15, 16 or 18 to choose the version."""
    server = request.getfixturevalue(f"pg{request.param}")
    assert isinstance(server, Server)
    return server


@pytest.fixture
def source_dsn(source_server: Server) -> Iterator[str]:
    """A fresh, empty party database (dsn of its owner, a superuser)."""
    name = new_database(source_server, "party")
    yield source_server.dsn(name)
    drop_database(source_server, name)
