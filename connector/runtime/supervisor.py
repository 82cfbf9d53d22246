"""Keeps one worker process per party alive. A party that crashes takes only its own process down.

The supervisor waits for no database. Workers come from a fork server, so forty of them share their code's
memory; each ends by itself when the supervisor is gone. What is to run is a `Roster`; a new one (SIGHUP) touches
only what differs from the one before. Where several daemons share the parties, a `Lease` says which are ours.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

import structlog

from connector.errors import ConfigError, ConnectorError, MappingError
from connector.logs import describe
from connector.runtime import confine
from connector.runtime.lease import Lease, Share
from connector.runtime.policy import Policy, Reaction, delay_s
from connector.runtime.systemd import Systemd

CRASH = Policy(Reaction.RETRY, first_s=0.2, most_s=60.0)
# A worker that lived this long did well: its next crash counts as the first.
STEADY_S = 60.0
# Who waits for a run to end is not to wait for a worker that can never do its work.
ONCE_CRASHES_MAX = 5
# How often processes are looked at: a crash is noticed that much later, and looking at forty of them costs.
LOOK_S = 0.25
# SIGTERM asks; after this long SIGKILL ends it. A batch is repeated whole by the next start.
STOP_S = 8.0

# How many of a refused configuration's problems are logged; `connector reload` shows them all.
PROBLEMS_MAX = 20

# What a worker process runs: party, daemon's name, once, wait(seconds) -> stop? It travels by pickle. Two that are
# equal do the same: that is how a reload knows what to leave alone.
Target = Callable[[str, str, bool, Callable[[float], bool]], bool]


@dataclass(frozen=True, slots=True)
class Roster:
    """What is to run. `beside` are processes that serve all parties and that no party waits for: started again
    whenever they end, and stopped last, so that they see what the workers did last.
    """

    parties: Mapping[str, Target]
    beside: Mapping[str, Target] = field(default_factory=dict)

    @property
    def targets(self) -> Mapping[str, Target]:
        return {**self.parties, **self.beside}


@dataclass(slots=True)
class Running:
    """A worker process, and how it has fared. `retired_s`: when it was told to end because it is wanted no more."""

    party: str
    target: Target
    process: ForkServerProcess
    lifeline: Connection
    started_s: float
    crashes: int = 0
    retired_s: float | None = None


class Supervisor:
    """Runs what a roster says until stopped, or with `once` until each party has caught up.

    `reload` gives the roster as it is to be now, or raises: then everything stays as it was. `share` says which of the
    roster's parties are this daemon's; without one all are.
    """

    def __init__(
        self, roster: Roster, daemon: str, *, once: bool, reload: Callable[[], Roster] | None = None,
        share: Share | None = None,
    ) -> None:  # fmt: skip
        """`daemon`: this process's name, for whoever asks who works for a party."""
        self._roster = roster
        self._daemon = daemon
        self._share = share
        self._lease: Lease | None = None
        self._reload = reload
        self._once = once
        self._context = multiprocessing.get_context("forkserver")
        modules = {type(target).__module__ for target in roster.targets.values()}
        self._context.set_forkserver_preload(sorted(modules))
        self._workers: dict[str, Running] = {}
        self._due: dict[str, tuple[float, int]] = {}
        self._failed: set[str] = set()
        self._stop = threading.Event()
        self._asked = threading.Event()
        self._systemd = Systemd.from_environment()
        self._log = structlog.get_logger()

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> bool:
        """Supervise. True where every party ended as asked."""
        handlers: dict[int, Callable[..., None]] = {
            signal.SIGTERM: lambda *_: self.stop(),
            signal.SIGINT: lambda *_: self.stop(),
            signal.SIGHUP: lambda *_: self._asked.set(),
        }
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        confine.undumpable()
        try:
            if self._share is not None:
                self._lease = Lease(self._share, self._roster.parties)
            self._start_missing()
            self._systemd.ready(f"{len(self._roster.parties)} parties")
            while not self._stop.is_set() and self._has_work():
                self._stop.wait(LOOK_S)
                self._systemd.alive()
                if self._asked.is_set():
                    self._asked.clear()
                    self._reload_roster()
                self._look()
        finally:
            self._systemd.stopping()
            self._end()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return not self._failed

    def _has_work(self) -> bool:
        if self._lease is not None:
            return bool(self._roster.parties.keys() - self._failed)
        return bool((self._workers.keys() | self._due.keys()) - self._roster.beside.keys())

    # -- what is to run

    @property
    def _mine(self) -> frozenset[str]:
        """The parties this daemon is to work for now, and all that stands beside them."""
        parties = frozenset(self._roster.parties)
        if self._lease is not None:
            parties = self._lease.mine(parties, self._workers.keys())
        return parties | self._roster.beside.keys()

    def _follow_lease(self) -> None:
        """Start what became ours, and end what is no longer."""
        mine = self._mine
        for name in mine - self._failed:
            if name not in self._workers and name not in self._due:
                self._start(name, 0)
        for name, running in self._workers.items():
            if name not in mine and running.retired_s is None:
                self._retire(running)
        for name in self._due.keys() - mine:
            del self._due[name]

    def _reload_roster(self) -> None:
        if self._reload is None:
            return
        self._systemd.reloading()
        try:
            roster = self._reload()
        except ConnectorError as error:
            problems = error.problems if isinstance(error, ConfigError | MappingError) else ()
            self._log.error(
                "configuration_refused", message=str(error), problems=problems[:PROBLEMS_MAX],
                hint="everything runs on as before; mend it and run `connector reload` again",
            )  # fmt: skip
        else:
            self._want(roster)
        self._systemd.ready(f"{len(self._roster.parties)} parties")

    def _want(self, roster: Roster) -> None:
        """Make a roster what is to run: only what differs is stopped or started."""
        before, after = self._roster.targets, roster.targets
        self._roster = roster
        self._log.info(
            "configuration_reloaded", added=sorted(after.keys() - before.keys()),
            removed=sorted(before.keys() - after.keys()),
            changed=sorted(name for name in after.keys() & before.keys() if after[name] != before[name]),
        )  # fmt: skip
        for name, running in self._workers.items():
            if running.retired_s is None and after.get(name) != running.target:
                self._retire(running)
        for name in self._due.keys() - after.keys():
            del self._due[name]
        self._start_missing()

    def _start_missing(self) -> None:
        """Start what is to run and does not, a halted party too: what halted it may have been mended."""
        mine = self._mine
        for name in self._roster.targets:
            if name in mine and name not in self._workers and name not in self._due:
                self._start(name, 0)

    # -- processes

    def _retire(self, running: Running) -> None:
        running.retired_s = time.monotonic()
        running.process.terminate()

    def _start(self, party: str, crashes: int) -> None:
        target = self._roster.targets[party]
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_child, args=(target, party, self._daemon, self._once, theirs), name=f"connector {party}"
        )
        process.start()
        theirs.close()
        self._failed.discard(party)
        self._workers[party] = Running(party, target, process, ours, time.monotonic(), crashes)
        self._log.info("worker_started", party=party, pid=process.pid)

    def _look(self) -> None:
        if self._lease is not None:
            self._follow_lease()
        now = time.monotonic()
        for party, (due, crashes) in list(self._due.items()):
            if now >= due:
                del self._due[party]
                self._start(party, crashes)
        for running in list(self._workers.values()):
            if running.process.exitcode is not None:
                self._ended(running, running.process.exitcode)
            elif running.retired_s is not None and now - running.retired_s > STOP_S:
                self._log.warning("worker_killed", party=running.party)
                running.process.kill()

    def _ended(self, running: Running, code: int) -> None:
        del self._workers[running.party]
        running.process.join()
        running.lifeline.close()
        beside = running.party in self._roster.beside
        if running.retired_s is not None:
            self._log.info("worker_retired", party=running.party, exit_code=code)
            if running.party in self._mine:
                self._start(running.party, 0)
        elif code == 0 and not beside:
            self._log.info("worker_ended", party=running.party)
        elif code == EXIT_HALTED and not beside:
            self._failed.add(running.party)
            self._log.error(
                "party_halted",
                party=running.party,
                hint="see the error above; after mending it: connector reload",
            )
        else:
            self._crashed(running, code)

    def _crashed(self, running: Running, code: int) -> None:
        steady = time.monotonic() - running.started_s > STEADY_S
        crashes = 1 if steady else running.crashes + 1
        if self._once and crashes >= ONCE_CRASHES_MAX and running.party not in self._roster.beside:
            self._failed.add(running.party)
            self._log.error(
                "party_halted", party=running.party, exit_code=code, crashes=crashes,
                hint="its worker ends each time; look at the lines before this one",
            )  # fmt: skip
            return
        wait = delay_s(CRASH, crashes, random.random())  # noqa: S311 - jitter, not a secret
        self._due[running.party] = (time.monotonic() + wait, crashes)
        self._log.error(
            "worker_crashed",
            party=running.party,
            exit_code=code,
            crashes=crashes,
            restart_in_s=round(wait, 2),
            hint="it is started again; if this repeats, look at the lines before it",
        )

    def _end(self) -> None:
        self._end_all([running for name, running in self._workers.items() if name not in self._roster.beside])
        if self._lease is not None:
            self._lease.end()
        self._end_all([running for name, running in self._workers.items() if name in self._roster.beside])
        self._workers.clear()

    def _end_all(self, workers: Sequence[Running]) -> None:
        for running in workers:
            running.process.terminate()
        deadline = time.monotonic() + STOP_S
        for running in workers:
            running.process.join(max(0.0, deadline - time.monotonic()))
            if running.process.exitcode is None:
                self._log.warning("worker_killed", party=running.party)
                running.process.kill()
                running.process.join()
            running.lifeline.close()


EXIT_HALTED, EXIT_FAILED = 70, 71


def _child(target: Target, party: str, daemon: str, once: bool, lifeline: Connection) -> None:
    """A worker process: ends on SIGTERM, or when the supervisor is gone."""
    confine.undumpable()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(lifeline, stop), name="lifeline", daemon=True).start()
    try:
        ended = target(party, daemon, once, lambda seconds: stop.wait(seconds) if seconds > 0 else stop.is_set())
    except Exception as error:  # noqa: BLE001 - the process's last line: tell it without a driver's text, then end
        structlog.get_logger().error("worker_failed", party=party, **describe(error))
        os._exit(EXIT_FAILED)
    os._exit(0 if ended else EXIT_HALTED)


def _watch(lifeline: Connection, stop: threading.Event) -> None:
    try:
        lifeline.recv()
    except (EOFError, OSError):
        stop.set()
        time.sleep(STOP_S)
        os._exit(1)
