"""Runs the slow periodic work: a process of its own beside the parties' workers, so that no batch waits for it.

Of several daemons one does it (an advisory lock says which). A run that was missed, because nobody was there, is made
up for once; a job never runs twice at a time; a job that fails is noted and comes again at its next time. What a job
says goes into the ledger in our own words: an error that is not ours shows its class only.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from connector import schedule
from connector.errors import ConnectorError
from connector.ops import jobs as ledger
from connector.runtime.policy import Policy, Reaction, delay_s
from connector.runtime.ports import Wait
from connector.staging import session

ADVISORY_LOCK = 0x5369506F6C03
# How often it is looked whether another daemon's scheduler is gone, and how often ours says that it is there.
STANDBY_S, BEAT_S = 5.0, 5.0
# A run that could not begin in time still does, so long after: a night's work must not be lost to a busy evening.
MISFIRE_S = 6 * 3_600
# What was missed while nobody was there is made up for when the parties have had time to catch up.
CATCH_UP_S = 60.0
# The processors are the parties'.
NICE = 5
_RETRY = Policy(Reaction.RETRY, first_s=0.5, most_s=30.0)


class JobFailed(ConnectorError):
    """A job did not do all of its work."""


@dataclass(frozen=True, slots=True)
class Job:
    """One kind of periodic work. `work` opens what it needs and gives a sentence about what it did."""

    name: str
    schedule: str
    work: Callable[[], str]


class Scheduler:
    """Runs jobs until told to stop. A job under way then is given up: its next run does it whole."""

    def __init__(
        self, dsn: str, jobs: Sequence[Job], timezone: str, daemon: str, wait: Wait, *, catch_up_s: float = CATCH_UP_S
    ) -> None:
        self._dsn = dsn
        self._jobs = tuple(jobs)
        self._timezone = timezone
        self._daemon = daemon
        self._wait = wait
        self._catch_up_s = catch_up_s
        self._log = structlog.get_logger()

    def run(self) -> None:
        """Come back after every error; returns only when told to stop."""
        os.nice(NICE)
        attempt = 0
        while True:
            try:
                with closing(session.connect(self._dsn, "connector jobs")) as conn:
                    attempt = 0
                    if not self._await_turn(conn):
                        return
                    with self._running(conn) as running:
                        self._beat_until_stopped(conn, running)
                    return
            except ConnectorError as error:
                attempt += 1
                self._log.warning("scheduler_lost_staging", error=type(error).__name__, message=str(error))
            if self._wait(delay_s(_RETRY, attempt, random.random())):  # noqa: S311 - jitter, not a secret
                return

    def _await_turn(self, conn: psycopg.Connection) -> bool:
        """Wait until the jobs are ours; False where we are to stop. The lock is the session's."""
        pause_s = 0.0
        while not self._wait(pause_s):
            with session.translated("asking for the jobs"):
                row = conn.execute("select pg_try_advisory_lock(%s)", (ADVISORY_LOCK,)).fetchone()
            if row is not None and row[0]:
                return True
            pause_s = STANDBY_S
        return False

    @contextmanager
    def _running(self, conn: psycopg.Connection) -> Iterator[Any]:
        known = ledger.declare(conn, {job.name: job.schedule for job in self._jobs})
        # One thread: two heavy jobs at a time would take a core each.
        scheduler = BackgroundScheduler(
            timezone=self._timezone, executors={"default": ThreadPoolExecutor(1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": MISFIRE_S},
        )  # fmt: skip
        for job in self._jobs:
            trigger = schedule.trigger(job.schedule, self._timezone)
            due = {"next_run_time": at} if (at := self._missed(known[job.name], trigger)) else {}
            scheduler.add_job(self._do, trigger, (job,), id=job.name, name=job.name, **due)
        scheduler.start()
        try:
            yield scheduler
        finally:
            scheduler.shutdown(wait=False)

    def _missed(self, last: ledger.JobStatus, trigger: Any) -> datetime | None:
        """When to make up for a run that should have been, or that was broken off; None where there was none."""
        if last.last_started_at is None:
            return None
        now = datetime.now(UTC)
        should = trigger.get_next_fire_time(last.last_started_at, last.last_started_at + timedelta(seconds=1))
        if last.outcome == "interrupted" or (should is not None and should < now):
            return now + timedelta(seconds=self._catch_up_s)
        return None

    def _beat_until_stopped(self, conn: psycopg.Connection, running: Any) -> None:
        pause_s = 0.0
        while not self._wait(pause_s):
            ledger.beat(conn, self._daemon, {job.id: job.next_run_time for job in running.get_jobs()})
            pause_s = BEAT_S

    def _do(self, job: Job) -> None:
        """Run a job and note how it ended. Nothing gets out of here: the scheduler's own log would show it whole."""
        try:
            with closing(session.connect(self._dsn, f"connector job {job.name}")) as conn:
                ledger.begin(conn, job.name)
            said, good = outcome_of(job)
            log = self._log.info if good else self._log.error
            log("job_ended" if good else "job_failed", job=job.name, said=said)
            with closing(session.connect(self._dsn, f"connector job {job.name}")) as conn:
                ledger.end(conn, job.name, said, good=good)
        except ConnectorError as error:
            with suppress(Exception):
                self._log.warning("job_not_noted", job=job.name, error=type(error).__name__, message=str(error))


def outcome_of(job: Job) -> tuple[str, bool]:
    """Run a job; gives what it says and whether it went well."""
    try:
        return job.work(), True
    except ConnectorError as error:
        return f"{error}{f' ({error.hint})' if error.hint else ''}", False
    except Exception as error:  # noqa: BLE001 - a job that crashes is noted and takes nothing with it
        return f"{type(error).__name__}, a fault of ours", False
