"""Keeps the audit log's tree: takes committed entries in about once a second, signs now and then, says how it fares.

A process of its own beside the parties' workers. It cannot stop one: it only reads what they committed, and whatever
ends its session, it comes back. Several daemons may each have one; an advisory lock lets one work at a time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import psycopg
import structlog

from connector.audit import sequencer, witness
from connector.audit.note import Verifier
from connector.audit.sequencer import Known, LogForked, Signing
from connector.errors import ConnectorError
from connector.runtime.policy import Policy, Reaction, delay_s
from connector.runtime.ports import Wait
from connector.staging import session

TICK_S = 1.0
# A checkpoint is kept for good: one every ten seconds is half a gigabyte a year, and no receipt needs one sooner.
SIGN_S = 10.0
# While nothing happens the heartbeat alone is written.
BEAT_S = 10.0
_RETRY = Policy(Reaction.RETRY, first_s=0.5, most_s=30.0)


@dataclass(frozen=True, slots=True)
class Watchers:
    """Who cosigns, and how many of them are enough."""

    witnesses: tuple[Verifier, ...] = ()
    needed: int = 0


class Notary:
    """Runs ticks until told to stop; the last one takes in and signs what there is."""

    def __init__(self, dsn: str, signing: Callable[[], Signing], watchers: Watchers, wait: Wait) -> None:
        """`signing` looks the keys up; a key that cannot be read is no reason to stop taking entries in."""
        self._dsn = dsn
        self._signing = signing
        self._watchers = watchers
        self._wait = wait
        self._due: dict[str, float] = {}
        self._log = structlog.get_logger()

    def run(self) -> None:
        """Come back after every error; returns only when told to stop."""
        attempt = 0
        while True:
            try:
                with closing(session.connect(self._dsn, "connector audit tree")) as conn:
                    attempt = 0
                    self._session(conn)
                    return
            except ConnectorError as error:
                attempt += 1
                self._log.warning(
                    "notary_lost_staging", error=type(error).__name__, message=str(error), hint=error.hint
                )
            if self._wait(delay_s(_RETRY, attempt, random.random())):  # noqa: S311 - jitter, not a secret
                return

    def _session(self, conn: psycopg.Connection) -> None:
        known = Known()
        last: str | None = None
        stopping = False
        while not stopping:
            stopping = self._wait(TICK_S)
            error = self._tick(conn, known, stopping=stopping)
            said = str(error) if error else None
            if error is not None and said != last:
                self._log.error(
                    "checkpoint_refused" if isinstance(error, LogForked) else "notary_failed",
                    error=type(error).__name__, message=said, hint=error.hint,
                )  # fmt: skip
            last = said

    def _tick(self, conn: psycopg.Connection, known: Known, *, stopping: bool) -> ConnectorError | None:
        """One look; gives what kept it from its work, where that is not the connection's end."""
        error: ConnectorError | None = None
        signing = Signing("")
        taken: int | None = 0
        with session.translated("keeping the audit tree"):
            try:
                signing = self._signing()
                taken = sequencer.integrate(conn, signing, known)
                if taken:
                    self._log.debug("entries_sequenced", entries=taken)
                if self._is_due("sign", SIGN_S) or stopping:
                    self._sign(conn, signing, known)
            except ConnectorError as failed:
                error = failed
            if taken is not None and (error is not None or self._is_due("beat", BEAT_S) or stopping):
                anchored = None if error is not None else self._anchored(conn, signing)
                sequencer.report(conn, signing.origin, error, anchored)
        return error

    def _sign(self, conn: psycopg.Connection, signing: Signing, known: Known) -> None:
        checkpoint = sequencer.sign(conn, signing, known)
        if checkpoint is not None:
            self._log.info("checkpoint_signed", size=checkpoint.size, root=checkpoint.root.hex())

    def _anchored(self, conn: psycopg.Connection, signing: Signing) -> int | None:
        """How many entries are safe outside staging."""
        if self._watchers.needed:
            return witness.cosigned(conn, self._watchers.witnesses, self._watchers.needed)
        return None if signing.anchor is None else sequencer.signed_size(conn)

    def _is_due(self, what: str, every_s: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + every_s
        return True
