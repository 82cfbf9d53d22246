"""Where the demo plays: staging, the parties' databases on three engines, a configuration, and the daemon.

Everything lives in one temporary folder, and everything started here is stopped here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pymysql
from psycopg import sql

from connector.demo import maria, party
from connector.demo.homes import LiteHome, MariaHome, PostgresHome
from connector.demo.interrupt import uninterrupted
from connector.demo.kit import READER
from connector.demo.maria import MariaServer
from connector.embedded import Server, wheel_binaries
from connector.errors import ConnectorError, EnvironmentMissing
from connector.resources import schema_path
from connector.staging import migrate

STAGING_MAJOR = 16
STOP_SECONDS_MAX = 30.0
# One machine plays four: a checkpoint every few seconds would be in the way of the figures.
SETTINGS = {"shared_buffers": "128MB", "max_wal_size": "2GB", "checkpoint_timeout": "15min"}
# Parties have disks of their own in real life. Staging keeps fsync: its commits are what is measured.
PARTY_SETTINGS = {**SETTINGS, "fsync": "off", "full_page_writes": "off"}


# How often Gamma's view is compared. Real parties are compared every few minutes.
DIFF_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class PartySite:
    """One party: its id at KPU, what its database is, its owner's way in, and how the connector follows it."""

    name: str
    parpol_id: int
    server: str
    capture: str
    home: PostgresHome | LiteHome | MariaHome
    source: str
    mapping: Path


@dataclass(frozen=True, slots=True)
class Site:
    """All that runs. `config` is a file that `connector --config` takes; `skipped` says why a party does not play."""

    folder: Path
    config: Path
    staging_dsn: str
    parties: tuple[PartySite, ...]
    skipped: Mapping[str, str]


# On PostgreSQL: id at KPU, major version. The two others have one of each engine.
CAST: Mapping[str, tuple[int, int]] = {"alfa": (1, 18), "beta": (2, 16)}
GAMMA, DELTA = ("gamma", 3), ("delta", 4)


@contextlib.contextmanager
def opened() -> Iterator[Site]:
    """Start the servers, make the databases, write the configuration; take it all away at the end.

    Raises:
        EnvironmentMissing: a server could not be started.
    """
    folder = Path(tempfile.mkdtemp(prefix="sipol-demo-"))
    stack = contextlib.ExitStack()
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    try:
        # The servers' user, who is not us where we are root, must get through.
        folder.chmod(0o755)
        yield _build(folder, stack)
    finally:
        with uninterrupted():
            stack.close()


def _build(folder: Path, stack: contextlib.ExitStack) -> Site:
    staging = _server(folder, "staging", STAGING_MAJOR, SETTINGS, stack)
    _make_database(staging, "staging")
    with psycopg.connect(staging.dsn("staging"), autocommit=True) as conn:
        migrate.apply(conn)
    parties = [_postgres(folder, name, stack) for name in CAST]
    parties.append(sqlite_party(folder))
    skipped: dict[str, str] = {}
    try:
        parties.append(_mariadb(folder, stack))
    except EnvironmentMissing as missing:
        skipped[DELTA[0]] = ": ".join(filter(None, (str(missing), missing.hint)))
    path = _write_config(folder, staging.dsn("staging"), parties)
    return Site(folder, path, staging.dsn("staging"), tuple(parties), skipped)


def _postgres(folder: Path, name: str, stack: contextlib.ExitStack) -> PartySite:
    parpol_id, major = CAST[name]
    server = _server(folder, name, major, PARTY_SETTINGS, stack)
    _make_database(server, name)
    home = PostgresHome(server.dsn(name), server.dsn(name, READER))
    with home.connect() as owner:
        party.create(owner, name)
    source = f"{{engine: postgresql, capture: pull, dsn: {_quoted(home.reader_dsn)}}}"
    return PartySite(name, parpol_id, f"PostgreSQL {major}", "pull", home, source, _mapping(name))


def sqlite_party(folder: Path) -> PartySite:
    """Gamma's database, empty."""
    name, parpol_id = GAMMA
    home = LiteHome(folder / f"{name}.db")
    with closing(home.connect()) as owner:
        owner.executescript(party.ddl(name))
        owner.commit()
    # SQLite has no schemas; all else of the party's mapping is as SQL Server's shapes have it.
    mapping = folder / f"{name}.yaml"
    text = _mapping(name).read_text(encoding="utf-8")
    mapping.write_text(re.sub(r"\b(?:sipol|dbo)\.(?=vw|Tbl|Ref)", "main.", text), encoding="utf-8")
    dsn = _quoted(f"sqlite:///{home.path}")
    source = f"{{engine: sqlite, capture: diff, diff_every_s: {DIFF_EVERY_S:g}, dsn: {dsn}}}"
    return PartySite(name, parpol_id, f"SQLite {sqlite3.sqlite_version}", "diff", home, source, mapping)


def _mariadb(folder: Path, stack: contextlib.ExitStack) -> PartySite:
    """Raises EnvironmentMissing where no server can be started."""
    if why := maria.lacking():
        raise EnvironmentMissing(why)
    server = MariaServer(folder / DELTA[0])
    with uninterrupted():
        stack.callback(server.destroy)
        server.start()
    return mariadb_party(server.socket)


def mariadb_party(socket: Path) -> PartySite:
    """Delta's database, empty, on a running server."""
    name, parpol_id = DELTA
    with (
        closing(pymysql.connect(unix_socket=str(socket), user="root", charset="utf8mb4")) as root,
        root.cursor() as cursor,
    ):
        cursor.execute(f"create database {name} character set utf8mb4")
        cursor.execute("select version()")
        (version,) = cursor.fetchone() or ("",)
    home = MariaHome(socket, name)
    with closing(home.connect()) as owner, owner.cursor() as cursor:
        for statement in party.ddl(name).split(";\n"):
            if statement.strip():
                cursor.execute(statement)
    dsn = _quoted(f"mariadb+pymysql://{READER}@localhost/{name}?unix_socket={socket}")
    source = f"{{engine: mariadb, capture: stream, dsn: {dsn}}}"
    engine = f"MariaDB {str(version).partition('-')[0]}"
    return PartySite(name, parpol_id, engine, "stream", home, source, _mapping(name))


def _mapping(name: str) -> Path:
    return schema_path("parties", f"{name}.yaml")


def _server(folder: Path, name: str, major: int, settings: Mapping[str, str], stack: contextlib.ExitStack) -> Server:
    with uninterrupted():
        server = Server.start(folder / name, wheel_binaries(major), settings)
        stack.callback(server.destroy)
    return server


def _make_database(server: Server, name: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


def _write_config(folder: Path, staging_dsn: str, parties: list[PartySite]) -> Path:
    key = folder / "digest.key"
    key.touch(mode=0o600)
    key.write_text(secrets.token_hex(32), encoding="ascii")
    lines = [f"staging: {{dsn: {_quoted(staging_dsn)}}}", "digest: {key: '${file:digest.key}'}", "parties:"]
    for site in parties:
        lines += [
            f"  {site.name}:",
            f"    parpol_id: {site.parpol_id}",
            f"    mapping: {_quoted(str(site.mapping))}",
            f"    source: {site.source}",
            "    limits: {poll_s: 0.2, copy_rows: 10000}",
        ]
    path = folder / "connector.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class Daemon:
    """`connector run` as a process of its own, as an operator would run it."""

    def __init__(self, site: Site) -> None:
        self._log = site.folder / "daemon.log"
        self._config = site.config
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        command = [sys.executable, "-m", "connector", "--config", str(self._config), "--log-format", "json", "run"]
        with uninterrupted(), self._log.open("ab") as log:
            # A session of its own: Ctrl-C reaches us, and we end it in order.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def check(self) -> None:
        """Raises ConnectorError where the daemon has ended by itself."""
        if not self.alive:
            code = self._process.returncode if self._process is not None else None
            raise ConnectorError(f"the daemon ended by itself (exit code {code})", hint=self.last_words())

    def stop(self) -> int | None:
        """Ask it to end and wait; what does not is killed. Gives its exit code."""
        process = self._process
        if process is None:
            return None
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # Its workers end with it; one that hangs must not outlive the demo.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.returncode

    def last_words(self) -> str:
        """The last thing it logged as an error or warning: event, reason and hint, no values."""
        found = ""
        with contextlib.suppress(OSError):
            for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict) and event.get("level") in ("error", "warning", "critical"):
                        words = (event.get(key) for key in ("party", "entity", "event", "error", "reason", "hint"))
                        found = " ".join(str(word) for word in words if word)
        return found


@contextlib.contextmanager
def running(site: Site) -> Iterator[Daemon]:
    """The daemon for the length of the block."""
    daemon = Daemon(site)
    try:
        daemon.start()
        yield daemon
    finally:
        with uninterrupted():
            daemon.stop()
