"""Asks again and again, in a thread of its own, which parties this daemon is to work for.

The supervisor never waits for staging: it acts on the last answer. While there is none, who works goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Protocol

import structlog

from connector.errors import ConnectorError
from connector.logs import describe

LOOK_S = 1.0
# A daemon that has never had an answer for so long tries every party: the epoch keeps that safe, and each worker then
# tells what it cannot reach, and guards its party's disk.
ALONE_S = 10.0


class Share(Protocol):
    """Who shares the parties among daemons (`staging.leases`)."""

    def look(self, parties: Collection[str], running: Collection[str]) -> frozenset[str]: ...
    def end(self) -> None: ...
    def forget(self) -> None: ...


class Lease:
    """This daemon's share, as last told."""

    def __init__(self, share: Share, parties: Collection[str]) -> None:
        self._share = share
        self._parties = frozenset(parties)
        self._running: frozenset[str] = frozenset()
        self._mine: frozenset[str] | None = None
        self._began_s = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._log = structlog.get_logger()
        self._thread.start()

    def mine(self, parties: Collection[str], running: Collection[str]) -> frozenset[str]:
        """Which of `parties` to work for now; `running` have a worker here, be it one that is ending."""
        self._parties, self._running = frozenset(parties), frozenset(running)
        if self._mine is not None:
            return self._mine & self._parties
        return self._parties if time.monotonic() > self._began_s + ALONE_S else frozenset()

    def end(self) -> None:
        """Give everything up; the workers have ended."""
        self._stop.set()
        self._thread.join(LOOK_S)
        if not self._thread.is_alive():
            self._share.end()

    def _keep(self) -> None:
        told = False
        while not self._stop.is_set():
            try:
                mine = self._share.look(self._parties, self._running)
            except ConnectorError as error:
                if not told:
                    self._log.warning("leases_unknown", **describe(error))
                told = True
            else:
                if told or mine != self._mine:
                    self._log.info("parties_shared", parties=sorted(mine))
                told, self._mine = False, mine
            self._stop.wait(LOOK_S)
