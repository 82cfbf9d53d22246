"""The ledger of periodic jobs: what there is, how each one's last run ended, when the next one is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

from connector.staging.session import translated

MESSAGE_LETTERS_MAX = 500


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job. `outcome`: running, ok, failed, interrupted (its process ended in the middle), or None: never run."""

    job: str
    schedule: str
    next_run_at: datetime | None
    last_started_at: datetime | None
    last_ended_at: datetime | None
    outcome: str | None
    message: str | None
    runs: int
    failures: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All jobs, and the daemon that runs them; `heartbeat_age_s` None: none ever did."""

    daemon: str | None
    heartbeat_age_s: float | None
    jobs: tuple[JobStatus, ...]


def listing(conn: psycopg.Connection) -> Listing:
    with translated("reading the jobs"):
        with conn.cursor(row_factory=class_row(JobStatus)) as cursor:
            jobs = tuple(cursor.execute(_JOBS).fetchall())
        row = conn.execute(_SCHEDULER).fetchone()
    daemon, age_s = row or (None, None)
    return Listing(daemon, age_s, jobs)


def declare(conn: psycopg.Connection, schedules: Mapping[str, str]) -> dict[str, JobStatus]:
    """Make the ledger say what is configured; a run that its process did not outlive is interrupted."""
    with translated("declaring the jobs"), conn.transaction():
        conn.execute(_FORGET, {"jobs": list(schedules)})
        for job, schedule in schedules.items():
            conn.execute(_DECLARE, {"job": job, "schedule": schedule})
        conn.execute(_INTERRUPTED)
    return {one.job: one for one in listing(conn).jobs}


def begin(conn: psycopg.Connection, job: str) -> None:
    with translated("noting a job"):
        conn.execute(_BEGIN, {"job": job})


def end(conn: psycopg.Connection, job: str, message: str, *, good: bool) -> None:
    with translated("noting a job"):
        values = {"job": job, "message": message[:MESSAGE_LETTERS_MAX], "good": good}
        conn.execute(_END, values)


def beat(conn: psycopg.Connection, daemon: str, next_runs: Mapping[str, datetime | None]) -> None:
    """A sign of life, and when each job is to run next."""
    with translated("noting the scheduler"), conn.transaction():
        conn.execute(_BEAT, {"daemon": daemon})
        for job, at in next_runs.items():
            conn.execute(_NEXT, {"job": job, "at": at})


_JOBS = """
select job, schedule, next_run_at, last_started_at, last_ended_at, outcome, message, runs, failures
  from connector.job order by job
"""
_SCHEDULER = "select daemon, extract(epoch from clock_timestamp() - heartbeat_at)::float8 from connector.scheduler"
_FORGET = "delete from connector.job where job <> all (%(jobs)s)"
_DECLARE = """
insert into connector.job (job, schedule) values (%(job)s, %(schedule)s)
on conflict (job) do update set schedule = excluded.schedule
"""
_INTERRUPTED = "update connector.job set outcome = 'interrupted' where outcome = 'running'"
_BEGIN = """
update connector.job
   set last_started_at = clock_timestamp(), last_ended_at = null, outcome = 'running', message = null, runs = runs + 1
 where job = %(job)s
"""
_END = """
update connector.job
   set last_ended_at = clock_timestamp(), outcome = case when %(good)s then 'ok' else 'failed' end,
       message = %(message)s, failures = failures + case when %(good)s then 0 else 1 end
 where job = %(job)s
"""
_BEAT = "update connector.scheduler set daemon = %(daemon)s, heartbeat_at = clock_timestamp()"
_NEXT = "update connector.job set next_run_at = %(at)s where job = %(job)s and next_run_at is distinct from %(at)s"
