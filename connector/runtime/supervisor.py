"""Keeps one worker process per party alive. A party that crashes takes only its own process down.

The supervisor touches no database. Workers come from a fork server, so forty of them share their code's
memory; each ends by itself when the supervisor is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

import structlog

from connector.logs import describe
from connector.runtime.policy import Policy, Reaction, delay_s

CRASH = Policy(Reaction.RETRY, first_s=0.2, most_s=60.0)
# A worker that lived this long did well: its next crash counts as the first.
STEADY_S = 60.0
# SIGTERM asks; after this long SIGKILL ends it. A batch is repeated whole by the next start.
STOP_S = 8.0

# What a worker process runs: party, daemon's name, once, wait(seconds) -> stop? It travels by pickle.
Target = Callable[[str, str, bool, Callable[[float], bool]], bool]


@dataclass(slots=True)
class Running:
    """A worker process, and how it has fared."""

    party: str
    process: ForkServerProcess
    lifeline: Connection
    started_s: float
    crashes: int = 0


class Supervisor:
    """Runs workers for `parties` until stopped, or with `once` until each has caught up.

    `beside` are processes that serve all parties and that no party waits for: started again whenever they end, and
    stopped last, so that they see what the workers did last.
    """

    def __init__(
        self, target: Target, parties: Sequence[str], *, once: bool, beside: Mapping[str, Target] | None = None
    ) -> None:
        self._parties = tuple(parties)
        self._beside = dict(beside or {})
        self._target = target
        self._once = once
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([type(target).__module__])
        self._workers: dict[str, Running] = {}
        self._due: dict[str, tuple[float, int]] = {}
        self._failed: set[str] = set()
        self._stop = threading.Event()
        self._daemon = f"{os.uname().nodename}:{os.getpid()}"
        self._log = structlog.get_logger()

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> bool:
        """Supervise. True where every party ended as asked."""
        previous = {number: signal.signal(number, lambda *_: self.stop()) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for name in (*self._parties, *self._beside):
                self._start(name, 0)
            while not self._stop.is_set() and (self._workers.keys() | self._due.keys()) - self._beside.keys():
                self._stop.wait(0.1)
                self._look()
        finally:
            self._end()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return not self._failed

    def _start(self, party: str, crashes: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_child, args=(self._beside.get(party, self._target), party, self._daemon, self._once, theirs),
            name=f"connector {party}",
        )  # fmt: skip
        process.start()
        theirs.close()
        self._workers[party] = Running(party, process, ours, time.monotonic(), crashes)
        self._log.info("worker_started", party=party, pid=process.pid)

    def _look(self) -> None:
        now = time.monotonic()
        for party, (due, crashes) in list(self._due.items()):
            if now >= due:
                del self._due[party]
                self._start(party, crashes)
        for running in list(self._workers.values()):
            if running.process.exitcode is not None:
                self._ended(running, running.process.exitcode)

    def _ended(self, running: Running, code: int) -> None:
        del self._workers[running.party]
        running.process.join()
        running.lifeline.close()
        if code == 0 and running.party not in self._beside:
            self._log.info("worker_ended", party=running.party)
        elif code == EXIT_HALTED and running.party not in self._beside:
            self._failed.add(running.party)
            self._log.error(
                "party_halted",
                party=running.party,
                hint="see the error above; after mending it, start the daemon again",
            )
        else:
            steady = time.monotonic() - running.started_s > STEADY_S
            crashes = 1 if steady else running.crashes + 1
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
        self._end_all([running for name, running in self._workers.items() if name not in self._beside])
        self._end_all([running for name, running in self._workers.items() if name in self._beside])
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
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
