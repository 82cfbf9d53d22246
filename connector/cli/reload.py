"""`connector reload`: check the configuration, say what it changes, and have the running daemon take it."""

from __future__ import annotations

import time
from typing import Annotated

import psycopg
import typer

from connector import app as composition
from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, Table, run_verb
from connector.ops import reload as ops
from connector.staging import migrate, session

POLL_S = 0.2

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only check, and say what would change.")]
WaitOption = Annotated[float, typer.Option(min=0, help="Wait up to so many seconds until every party runs with it.")]


def register(app: typer.Typer) -> None:
    @app.command("reload")
    def reload(
        ctx: typer.Context, dry_run: DryRunOption = False, wait: WaitOption = 30, json: JsonOption = False
    ) -> None:
        """Have the daemon of this machine take the changed configuration; only what differs is started again."""
        run_verb("reload", json, lambda: _reload(given(ctx), dry_run, wait))


def _reload(options: Globals, dry_run: bool, wait_s: float) -> Answer:
    config = options.load()
    wanted = composition.settings(config)
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector reload") as conn:
        migrate.require(conn)
        changes = ops.plan(ops.running(conn), wanted)
        table = Table(
            ("party", "change", "because of"), tuple((c.party, c.change, ", ".join(c.parts)) for c in changes)
        )
        result: dict[str, object] = {"changes": changes, "daemons": ()}
        if dry_run:
            return Answer(f"the configuration is good: {_summary(changes)}; nothing was told", result, (table,))
        names = ops.daemons(conn)
        told = ops.tell(names)
        if not told:
            return Answer("", result, (table,), error=_nobody(names))
        left = _await(conn, wanted, wait_s)
    result["daemons"] = told
    if left:
        error = ops.NotReloaded(
            f"after {wait_s:g} s not yet: {', '.join(left)}",
            hint="connector status; in the daemon's log: configuration_reloaded or configuration_refused",
        )
        return Answer("", result, (table,), error=error)
    return Answer(f"{', '.join(told)}: {_summary(changes)}", result, (table,))


def _summary(changes: tuple[ops.Change, ...]) -> str:
    counts = {verb: sum(change.change == verb for change in changes) for verb in ("start", "restart", "stop", "none")}
    said = [f"{count} {verb}" for verb, count in counts.items() if count and verb != "none"]
    return ", ".join([*said, f"{counts['none']} unchanged"])


def _nobody(names: tuple[str, ...]) -> ops.NotReloaded:
    where = f"daemons were last seen as {', '.join(names)}: run it there" if names else "start one: connector run"
    return ops.NotReloaded("no daemon of this machine was found", hint=where)


def _await(conn: psycopg.Connection, wanted: ops.Settings, wait_s: float) -> list[str]:
    """Wait until parties run with what is wanted; gives those that do not."""
    deadline = time.monotonic() + wait_s
    while True:
        running = ops.running(conn)
        left = [party for party in wanted if running.get(party) != wanted[party]]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(POLL_S)
