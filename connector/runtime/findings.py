"""Keeps findings over sets and the counts of regencies current, beside the parties' workers.

A process of its own: no batch waits for it, and whatever ends its session, it comes back and goes on where it was.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import closing

import psycopg
import structlog

from connector.errors import ConnectorError
from connector.runtime.policy import Policy, Reaction, delay_s
from connector.runtime.ports import Wait
from connector.staging import findings, session

IDLE_S = 1.0
# After work it rests twice as long as it worked, at most so long: the processors are the parties'.
REST_S_MAX = 10.0
# When told to stop it takes in what the workers did last, but no longer than this: then what runs is cancelled, and the
# next start does it.
LAST_S = 3.0
_RETRY = Policy(Reaction.RETRY, first_s=0.5, most_s=30.0)


class Findings:
    """Runs steps until told to stop."""

    def __init__(self, dsn: str, wait: Wait) -> None:
        self._dsn = dsn
        self._wait = wait
        self._log = structlog.get_logger()

    def run(self) -> None:
        """Come back after every error; returns only when told to stop."""
        attempt = 0
        while True:
            try:
                with closing(session.connect(self._dsn, "connector findings")) as conn:
                    attempt = 0
                    self._session(conn)
                    return
            except ConnectorError as error:
                attempt += 1
                self._log.warning("findings_lost_staging", error=type(error).__name__, message=str(error))
            if self._wait(delay_s(_RETRY, attempt, random.random())):  # noqa: S311 - jitter, not a secret
                return

    def _session(self, conn: psycopg.Connection) -> None:
        threading.Thread(target=self._cancel, args=(conn,), name="cancel", daemon=True).start()
        pause_s = 0.0
        while not self._wait(pause_s):
            took_s = self._step(conn)
            pause_s = IDLE_S if took_s is None else min(2 * took_s, REST_S_MAX)
        until = time.monotonic() + LAST_S
        while time.monotonic() < until and self._step(conn, hurry=True) is not None:
            pass

    def _cancel(self, conn: psycopg.Connection) -> None:
        """Wait for the stop in a thread of its own; then end what takes too long."""
        while not self._wait(IDLE_S):
            if conn.closed:
                return
        time.sleep(LAST_S)
        if not conn.closed:
            conn.cancel_safe(timeout=1.0)

    def _step(self, conn: psycopg.Connection, *, hurry: bool = False) -> float | None:
        """Do one step; gives how long it took, None where there was nothing to do."""
        began = time.monotonic()
        with session.translated("keeping findings"):
            if findings.is_loading(conn):
                return None
            done = findings.step(conn, hurry=hurry)
        took_s = time.monotonic() - began
        if done.rebuilt:
            self._log.info("findings_rebuilt", parpol_id=done.rebuilt, took_s=round(took_s, 2))
        return None if done.idle else took_s
