"""The web process: looks at staging every few seconds, and serves what it saw."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace

import psycopg
import structlog

from connector.errors import ConnectorError, EnvironmentMissing
from connector.ops import certificates, figures
from connector.settings import Config
from connector.staging import session
from connector.web.health import Health
from connector.web.seen import Seen
from connector.web.server import Server

# A look at forty parties of eight entities took 0.18 s on a busy machine (of it 7 ms here); Prometheus asks every 15 s.
LOOK_S = 10.0
# What a look may take: a monitor must never be what staging is busy with.
LOOK_S_MAX = 10.0
CERTIFICATES_S = 3_600.0

Wait = Callable[[float], bool]


class Web:
    """Serves until told to stop."""

    def __init__(self, config: Config, staging_dsn: str, daemon: str, wait: Wait) -> None:
        assert config.web is not None
        self._config = config
        self._dsn = staging_dsn
        self._wait = wait
        self._every_s = min(LOOK_S, config.web.stall_s / 3)
        self._health = Health(config.web.stall_s)
        self._seen = Seen(daemon, self._every_s)
        self._ends: Mapping[str, float] = {}
        self._log = structlog.get_logger()

    def run(self) -> None:
        """Serve.

        Raises:
            EnvironmentMissing: the address is taken, or not ours to take.
        """
        assert self._config.web is not None
        address = self._config.web.address
        try:
            server = Server(address, self._config, self._whole)
        except OSError as error:
            raise EnvironmentMissing(
                f"cannot listen on {address[0]}:{address[1]} (errno {error.errno})",
                hint="another daemon on this machine? give each its own `web.listen`",
            ) from None
        with server:
            threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
            threading.Thread(target=self._certificates, name="certificates", daemon=True).start()
            self._log.info("web_started", host=address[0], port=server.server_address[1])
            self._look_until_stopped()
            server.shutdown()

    def _whole(self) -> Seen:
        """What each of the two threads saw; neither writes the other's."""
        return replace(self._seen, certificates=self._ends)

    def _look_until_stopped(self) -> None:
        while True:
            try:
                with closing(session.connect(self._dsn, "connector web")) as conn:
                    limit_ms = int(LOOK_S_MAX * 1000)
                    conn.execute("select set_config('statement_timeout', %s, false)", (str(limit_ms),))
                    self._session(conn)
                    return
            except ConnectorError as error:
                self._missed(error)
            if self._wait(self._every_s):
                return

    def _session(self, conn: psycopg.Connection) -> None:
        while not self._wait(0):
            found = figures.read(conn, self._config)
            now_s = time.monotonic()
            verdict = self._health.look(found.status, now_s)
            before = self._seen
            self._seen = replace(before, figures=found, verdict=verdict, at_s=now_s, problem="")
            self._tell(before, self._seen)
            if self._wait(self._every_s):
                return

    def _tell(self, before: Seen, after: Seen) -> None:
        """One line where a party begins to stall: who reads logs alone is to know it too."""
        assert after.verdict is not None
        known = before.verdict.stalled if before.verdict is not None else {}
        for party, why in after.verdict.stalled.items():
            if party not in known:
                self._log.error(
                    "party_stalled", party=party, why=why, hint="connector status; deploy/RUNBOOK.md, NoProgress"
                )

    def _missed(self, error: ConnectorError) -> None:
        if not self._seen.problem:
            self._log.warning("web_lost_staging", error=type(error).__name__, message=str(error))
        self._seen = replace(self._seen, problem=error.message)

    def _certificates(self) -> None:
        while True:
            self._ends = certificates.ends(self._config)
            if self._wait(CERTIFICATES_S):
                return
