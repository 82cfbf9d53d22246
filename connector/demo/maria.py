"""A real MariaDB of the demo's own, on a Unix socket in a folder, where the machine has one installed.

Small and not durable: nothing in it survives the run. `mariadbd` refuses root, so as root it runs as `mysql`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connector.errors import EnvironmentMissing

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
# sockaddr_un has 108 bytes.
SOCKET_PATH_MAX = 100
# Debian keeps the server where a plain user's PATH does not lead.
PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
# What a binary log reader needs, and what makes the server small.
OPTIONS: Mapping[str, str] = {
    "skip-networking": "ON",
    "skip-name-resolve": "ON",
    "performance-schema": "OFF",
    "innodb-buffer-pool-size": "64M",
    "innodb-flush-log-at-trx-commit": "0",
    "innodb-doublewrite": "OFF",
    "log-bin": "binlog",
    "server-id": "1",
    "sync-binlog": "0",
    "binlog-format": "ROW",
    "binlog-row-image": "FULL",
    "binlog-row-metadata": "FULL",
    "character-set-server": "utf8mb4",
}


def lacking() -> str | None:
    """Why no MariaDB can be started here; None where one can."""
    missing = [name for name in ("mariadbd", "mariadb-install-db") if shutil.which(name, path=PLACES) is None]
    if missing:
        return f"{' and '.join(missing)} not found: apt-get install mariadb-server"
    if os.geteuid() == 0 and _account() is None:
        return "running as root, and there is no user `mysql` to run the server as"
    return None


class MariaServer:
    """One running server. `destroy` ends it and removes its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self._folder / "s"

    @property
    def log(self) -> Path:
        return self._folder / "log"

    def start(self) -> None:
        """Make the data folder, and start the server.

        Raises:
            EnvironmentMissing: it could not be made or started.
        """
        if len(os.fsencode(self.socket)) > SOCKET_PATH_MAX:
            raise EnvironmentMissing("the folder's name is too long for a socket", hint="set TMPDIR to a shorter one")
        self._folder.mkdir(mode=0o755)
        user = _account()
        if user is not None:
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        install, server = (str(shutil.which(name, path=PLACES)) for name in ("mariadb-install-db", "mariadbd"))
        data = f"--datadir={self._folder / 'data'}"
        with self.log.open("ab") as log:
            done = subprocess.run(
                [install, "--no-defaults", data, "--auth-root-authentication-method=normal", "--skip-test-db",
                 "--skip-name-resolve", "--innodb-log-file-size=16M"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False, **_spawned(user, self._folder),
            )  # fmt: skip
            if done.returncode != 0:
                raise EnvironmentMissing("MariaDB could not make its data folder", hint=self._last_line())
            self._process = subprocess.Popen(
                [server, "--no-defaults", data, f"--socket={self.socket}", f"--pid-file={self._folder / 'pid'}",
                 *(f"--{name}={value}" for name, value in OPTIONS.items())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, **_spawned(user, self._folder),
            )  # fmt: skip
        self._await_ready(self._process)

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        pause = threading.Event()
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.socket)) == 0:
                    return
            pause.wait(0.05)
        raise EnvironmentMissing("MariaDB did not start", hint=self._last_line())

    def _last_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line[:300] for line in reversed(lines) if line.strip()), "")

    def destroy(self) -> None:
        if self._process is not None:
            # What it holds is thrown away: nothing is flushed first.
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait(STOP_SECONDS_MAX)
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)


def _account() -> pwd.struct_passwd | None:
    """Whom the server runs as where we are root."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("mysql")
    return None


def _spawned(user: pwd.struct_passwd | None, folder: Path) -> dict[str, Any]:
    """A session of its own: Ctrl-C reaches us, and we end it in order. Our TMPDIR may not be the server's to write."""
    env = {"PATH": PLACES, "LC_ALL": "C", "TMPDIR": str(folder), "HOME": str(folder)}
    who = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return {"start_new_session": True, "cwd": "/", "env": env, **who}
