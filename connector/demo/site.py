"""Where the demo plays: three PostgreSQL clusters, two parties' databases, a configuration, and the daemon.

Everything lives in one temporary folder, and everything started here is stopped here.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from connector.demo import party
from connector.demo.interrupt import uninterrupted
from connector.embedded import Server, wheel_binaries
from connector.errors import ConnectorError, SourceError
from connector.resources import schema_path
from connector.staging import migrate

STAGING_MAJOR = 16
READER = "sipol_ro"
STOP_SECONDS_MAX = 30.0
# One machine plays four: a checkpoint every few seconds would be in the way of the figures.
SETTINGS = {"shared_buffers": "128MB", "max_wal_size": "2GB", "checkpoint_timeout": "15min"}
# Parties have disks of their own in real life. Staging keeps fsync: its commits are what is measured.
PARTY_SETTINGS = {**SETTINGS, "fsync": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class PartySite:
    """One party: its id at KPU, the version of its server, and two ways in: as its owner, and as our reader."""

    name: str
    parpol_id: int
    major: int
    owner_dsn: str
    reader_dsn: str


@dataclass(frozen=True, slots=True)
class Site:
    """All that runs. `config` is a file that `connector --config` takes."""

    folder: Path
    config: Path
    staging_dsn: str
    parties: tuple[PartySite, ...]


CAST: Mapping[str, tuple[int, int]] = {"alfa": (1, 18), "beta": (2, 16)}


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
    parties = []
    for name, (parpol_id, major) in CAST.items():
        server = _server(folder, name, major, PARTY_SETTINGS, stack)
        _make_database(server, name)
        with psycopg.connect(server.dsn(name)) as owner:
            party.create(owner, name)
        parties.append(PartySite(name, parpol_id, major, server.dsn(name), server.dsn(name, READER)))
    path = _write_config(folder, staging.dsn("staging"), parties)
    return Site(folder, path, staging.dsn("staging"), tuple(parties))


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
            f"    mapping: {_quoted(str(schema_path('parties', f'{site.name}.yaml')))}",
            f"    source: {{engine: postgresql, capture: pull, dsn: {_quoted(site.reader_dsn)}}}",
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


def connect_owner(site: PartySite, *, autocommit: bool = False) -> party.Connection:
    """A session as the party's own DBA.

    Raises:
        SourceError: no connection.
    """
    try:
        return psycopg.connect(site.owner_dsn, autocommit=autocommit)
    except psycopg.Error as error:
        raise SourceError(
            f"the party's server does not answer ({error.sqlstate or 'no answer'})", place=site.name
        ) from None
