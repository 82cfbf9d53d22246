"""`connector jobs`: the periodic work, how each job's last run ended and when the next one is; run one now."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from connector import app as composition
from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, Table, run_verb
from connector.errors import ConnectorError, UsageError
from connector.ops import jobs as ops
from connector.runtime.scheduler import outcome_of
from connector.staging import migrate, session
from connector.yamlpos import closest, shown

COLUMNS = ("job", "schedule", "last run", "outcome", "took", "next run", "runs", "failures", "said")


class JobFailed(ConnectorError):
    """A job that was run by hand failed."""


def register(app: typer.Typer) -> None:
    jobs = typer.Typer(help="The periodic work of the daemon.", invoke_without_command=True)

    @jobs.callback()
    def list_(ctx: typer.Context, json: JsonOption = False) -> None:
        """Each job, how its last run ended, and when the next one is."""
        if ctx.invoked_subcommand is None:
            run_verb("jobs", json, lambda: _list(given(ctx)))

    @jobs.command("run")
    def run_(
        ctx: typer.Context, job: Annotated[str, typer.Argument(help="The job's name.")], json: JsonOption = False
    ) -> None:
        """Run a job now, in this process."""
        run_verb("jobs run", json, lambda: _run(given(ctx), job))

    app.add_typer(jobs, name="jobs")


def _list(options: Globals) -> Answer:
    config = options.load(check_secrets=False)
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector jobs") as conn:
        migrate.require(conn)
        found = ops.listing(conn)
    rows = tuple(
        (
            one.job, one.schedule, _time(one.last_started_at), one.outcome,
            None if one.last_started_at is None or one.last_ended_at is None
            else f"{(one.last_ended_at - one.last_started_at).total_seconds():.1f} s",
            _time(one.next_run_at), one.runs, one.failures, one.message,
        )
        for one in found.jobs
    )  # fmt: skip
    if found.heartbeat_age_s is None:
        said = "no daemon has run jobs yet"
    else:
        said = f"run by {found.daemon}, last seen {found.heartbeat_age_s:.0f} s ago"
    return Answer(f"{len(found.jobs)} jobs, {said}", found, (Table(COLUMNS, rows),) if rows else ())


def _run(options: Globals, name: str) -> Answer:
    config = options.load()
    with staging_dsn(config) as dsn:
        with session.connect(dsn, application="connector jobs") as conn:
            migrate.require(conn)
        jobs = {job.name: job for job in composition.jobs(config, dsn)}
        if name not in jobs:
            raise UsageError(f"there is no job `{shown(name)}`", hint=closest(name, jobs) or ", ".join(jobs))
        said, good = outcome_of(jobs[name])
    return Answer(said, {"job": name, "good": good}, error=None if good else JobFailed(said, place=name))


def _time(at: datetime | None) -> str | None:
    return None if at is None else f"{at.astimezone():%Y-%m-%d %H:%M:%S %Z}"
