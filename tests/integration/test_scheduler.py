"""The periodic work on a real staging: run at its time, made up for once, noted, and no danger to anybody."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from workbench import wait_until

from connector import schedule
from connector.errors import SourceUnavailable, StagingIncompatible
from connector.ops import jobs as ledger
from connector.ops import upkeep
from connector.runtime.scheduler import Job, Scheduler
from connector.settings import Retention
from connector.staging import session
from tests.fixtures.commandline import CommandLine


@pytest.fixture
def conn(staging_dsn: str) -> Iterator[psycopg.Connection]:
    with session.connect(staging_dsn) as opened:
        yield opened


@contextmanager
def running(dsn: str, *jobs: Job, daemon: str = "uji:1", catch_up_s: float = 0.1) -> Iterator[None]:
    """A scheduler in a thread, until the block ends."""
    stop = threading.Event()

    def wait(seconds: float) -> bool:
        return stop.wait(min(seconds, 0.1)) if seconds > 0 else stop.is_set()

    scheduler = Scheduler(dsn, jobs, "Asia/Jakarta", daemon, wait, catch_up_s=catch_up_s)
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def status(conn: psycopg.Connection, job: str) -> ledger.JobStatus:
    return {one.job: one for one in ledger.listing(conn).jobs}[job]


def until(conn: psycopg.Connection, job: str, done: Callable[[ledger.JobStatus], bool]) -> ledger.JobStatus:
    wait_until(lambda: any(one.job == job and done(one) for one in ledger.listing(conn).jobs), f"{job} is so", 20)
    return status(conn, job)


def test_a_job_runs_again_and_again_and_says_what_it_did(conn: psycopg.Connection, staging_dsn: str) -> None:
    with running(staging_dsn, Job("a", "every 1s", lambda: "two rows went")):
        one = until(conn, "a", lambda one: one.runs >= 2 and one.outcome == "ok")
        listed = until(conn, "a", lambda one: one.next_run_at is not None)
    assert (one.message, one.failures, listed.schedule) == ("two rows went", 0, "every 1s")
    assert ledger.listing(conn).daemon == "uji:1"


def test_a_job_that_crashes_is_noted_without_values_and_stops_no_other(
    conn: psycopg.Connection, staging_dsn: str
) -> None:
    def crash() -> str:
        raise ValueError("NIK 3273015512950007")

    def fail() -> str:
        raise SourceUnavailable("no connection", hint="is it up?")

    told = io.StringIO()
    jobs = (Job("a", "every 1s", crash), Job("b", "every 1s", fail), Job("c", "every 1s", lambda: "well"))
    with redirect_stderr(told), running(staging_dsn, *jobs):
        crashed = until(conn, "a", lambda one: one.failures >= 2)
        failed = until(conn, "b", lambda one: one.failures >= 1 and one.outcome == "failed")
        until(conn, "c", lambda one: one.runs >= 2)
    assert crashed.message == "ValueError, a fault of ours"
    assert failed.message == "no connection (is it up?)"
    assert "3273015512950007" not in told.getvalue()


def test_a_job_never_runs_twice_at_a_time_and_what_piled_up_runs_once(
    conn: psycopg.Connection, staging_dsn: str
) -> None:
    gate, entered = threading.Event(), []

    def slow() -> str:
        entered.append(threading.get_ident())
        gate.wait(20)
        return "through"

    with running(staging_dsn, Job("a", "every 1s", slow), Job("b", "every 1s", lambda: "quick")):
        until(conn, "a", lambda one: one.outcome == "running")
        wait_until(lambda: ledger.listing(conn).heartbeat_age_s is not None, "the scheduler lives", 20)
        first = len(entered)
        gate.set()
        until(conn, "b", lambda one: one.runs >= 1)
    assert first == 1


def test_what_was_missed_while_nobody_was_there_is_made_up_for_once(conn: psycopg.Connection, staging_dsn: str) -> None:
    yearly = Job("a", "0 0 1 1 *", lambda: "done")
    with running(staging_dsn, yearly):
        until(conn, "a", lambda one: one.next_run_at is not None)
    assert status(conn, "a").runs == 0, "it was never due"
    conn.execute("update connector.job set last_started_at = now() - interval '800 days', outcome = 'ok', runs = 1")
    with running(staging_dsn, yearly):
        until(conn, "a", lambda one: one.runs == 2 and one.outcome == "ok")
    with running(staging_dsn, yearly):
        until(conn, "a", lambda one: one.next_run_at is not None)
    assert status(conn, "a").runs == 2, "two years were missed, one run made up for them"


def test_a_run_that_its_process_did_not_outlive_is_interrupted_and_done_again(
    conn: psycopg.Connection, staging_dsn: str
) -> None:
    ledger.declare(conn, {"a": "0 0 1 1 *"})
    ledger.begin(conn, "a")
    with running(staging_dsn, Job("a", "0 0 1 1 *", lambda: "whole"), catch_up_s=3_600):
        wait_until(lambda: status(conn, "a").outcome == "interrupted", "it is told", 20)
    with running(staging_dsn, Job("a", "0 0 1 1 *", lambda: "whole")):
        assert until(conn, "a", lambda one: one.outcome == "ok").message == "whole"


def test_of_several_daemons_one_runs_the_jobs_and_another_takes_over(
    conn: psycopg.Connection, staging_dsn: str
) -> None:
    job = Job("a", "every 1s", lambda: "done")
    with running(staging_dsn, job, daemon="dua:2"):
        with running(staging_dsn, job, daemon="uji:1"):
            wait_until(lambda: ledger.listing(conn).daemon is not None, "one of them runs jobs", 20)
            first = ledger.listing(conn).daemon
            locks = "select count(*) from pg_locks where locktype = 'advisory' and granted"
            assert conn.execute(locks.encode()).fetchall() == [(1,)]
        if first == "uji:1":
            wait_until(lambda: ledger.listing(conn).daemon == "dua:2", "the other one does", 20)


def test_a_job_that_the_configuration_dropped_is_not_listed(conn: psycopg.Connection) -> None:
    ledger.declare(conn, {"a": "every 1h", "b": "every 1h"})
    assert set(ledger.declare(conn, {"b": "every 2h"})) == {"b"}
    assert status(conn, "b").schedule == "every 2h"


@pytest.mark.parametrize("text", ["15 2 * * *", "every 30s", "every 10min", "0 5 * * 1", "off"])
def test_a_schedule_is_cron_or_every(text: str) -> None:
    assert schedule.problem(text) is None


@pytest.mark.parametrize("text", ["", "daily", "every 0s", "61 2 * * *", "* * * *", "every 5 min", "@daily"])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    assert schedule.problem(text) == "is no schedule"


def test_a_night_s_run_is_at_night_in_jakarta() -> None:
    trigger = schedule.trigger("15 2 * * *", "Asia/Jakarta")
    at = trigger.get_next_fire_time(None, datetime.now(UTC))
    assert (at.hour, at.minute, at.utcoffset()) == (2, 15, timedelta(hours=7))


# ------------------------------------------------------------------------------------------------- the work itself

OLD = """
insert into connector.party (party, parpol_id) values ('alfa', 1);
insert into connector.wish (party, verb, obeyed_at) values ('alfa', 'pause', now() - interval '200 days'),
       ('alfa', 'resume', now());
insert into staging.temuan (jenis, parpol_id, entity, source_key, kelompok, resolved_at)
values ('DUALISME', 1, 'kepengurusan', 'a', 1, now() - interval '200 days'),
       ('DUALISME', 1, 'kepengurusan', 'b', 1, null)
"""


def test_what_is_old_and_no_evidence_goes(conn: psycopg.Connection) -> None:
    conn.execute(OLD)
    assert upkeep.retain(conn, Retention()) == "1 obeyed wishes, 0 compares and 1 ended findings went"
    assert conn.execute("select verb from connector.wish").fetchall() == [("resume",)]
    assert conn.execute("select source_key from staging.temuan").fetchall() == [("b",)]


def test_stale_reference_data_is_a_failure_with_a_remedy(conn: psycopg.Connection) -> None:
    assert "are the ones this program carries" in upkeep.check_reference(conn)
    conn.execute("update staging.ref_versi set sha256 = sha256('x') where nama = 'pekerjaan'")
    with pytest.raises(StagingIncompatible, match="pekerjaan") as caught:
        upkeep.check_reference(conn)
    assert caught.value.hint == "run `connector migrate`"


def test_tables_with_dead_rows_are_vacuumed(conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "DEAD_ROWS_MIN", 1)
    conn.execute("insert into connector.job (job, schedule) select g::text, 'x' from generate_series(1, 500) g")
    conn.execute("delete from connector.job")
    conn.execute("select pg_stat_force_next_flush()")
    wait_until(lambda: upkeep.tend(conn) != "0 tables vacuumed", "the table is vacuumed", 20)


def test_jobs_are_listed_and_run_by_hand(
    conn: psycopg.Connection, tmp_path: Path, staging_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    connector = CommandLine(tmp_path, staging_dsn, capsys)
    assert connector.json("jobs")["summary"] == "0 jobs, no daemon has run jobs yet"
    ledger.declare(conn, {"reconcile": "15 2 * * *"})
    ledger.end(conn, "reconcile", "alfa: 0 of 12 keys differ", good=True)
    (job,) = connector.json("jobs")["result"]["jobs"]
    assert (job["job"], job["outcome"], job["message"]) == ("reconcile", "ok", "alfa: 0 of 12 keys differ")
    assert "alfa: 0 of 12 keys differ" in connector("jobs").out
