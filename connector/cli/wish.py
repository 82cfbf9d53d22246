"""`connector pause, resume, resync, approve PARTY[/ENTITY]`: wishes that the daemon obeys."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import psycopg
import typer

from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, run_verb
from connector.errors import ConnectorError, UsageError
from connector.logs import printable
from connector.ops import wishes as ops
from connector.ops.status import HEARTBEAT_S_MAX
from connector.staging import migrate, session

TargetArgument = Annotated[str, typer.Argument(metavar="PARTY[/ENTITY]", help="A party, or one entity of it.")]
WaitOption = Annotated[float, typer.Option(min=0, help="Wait up to so many seconds until the daemon has obeyed.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for a confirmation.")]


class NotConfirmed(ConnectorError):
    """The operator said no."""


@dataclass(frozen=True, slots=True)
class Request:
    """A verb of this module, as it was typed."""

    verb: str
    target: str
    wait_s: float
    yes: bool
    json: bool


def register(app: typer.Typer) -> None:
    @app.command("pause")
    def pause(ctx: typer.Context, target: TargetArgument, wait: WaitOption = 0, json: JsonOption = False) -> None:
        """Stop applying changes; they are remembered and applied after `resume`."""
        _run(ctx, Request("pause", target, wait, True, json))

    @app.command("resume")
    def resume(ctx: typer.Context, target: TargetArgument, wait: WaitOption = 0, json: JsonOption = False) -> None:
        """Go on after a pause."""
        _run(ctx, Request("resume", target, wait, True, json))

    @app.command("resync")
    def resync(
        ctx: typer.Context, target: TargetArgument, wait: WaitOption = 0, yes: YesOption = False,
        json: JsonOption = False,
    ) -> None:  # fmt: skip
        """Read the view whole again, beside the rows that are there."""
        _run(ctx, Request("resync", target, wait, yes, json))

    @app.command("approve")
    def approve(
        ctx: typer.Context, target: TargetArgument, wait: WaitOption = 0, yes: YesOption = False,
        json: JsonOption = False,
    ) -> None:  # fmt: skip
        """Let deletes pass that the brake has stopped."""
        _run(ctx, Request("approve", target, wait, yes, json))


def _run(ctx: typer.Context, request: Request) -> None:
    run_verb(request.verb, request.json, lambda: _wish(given(ctx), request))


def _wish(options: Globals, request: Request) -> Answer:
    config = options.load(check_secrets=False)
    with staging_dsn(config) as dsn, session.connect(dsn, application=f"connector {request.verb}") as conn:
        migrate.require(conn)
        target = ops.target(conn, config, request.target)
        args = _seen(conn, request, target)
        asked = ops.ask(conn, request.verb, target, ops.operator(), args)
        return told(conn, asked, request.wait_s)


# ------------------------------------------------------------------------------------------------- confirm


def _seen(conn: psycopg.Connection, request: Request, target: ops.Target) -> dict[str, object]:
    """Show what is at stake and have it confirmed; gives what the operator saw, to stand in the wish."""
    match request.verb, target.entity:
        case "approve", _:
            found = ops.braked(conn, target)
            lines = [_deletes(one) for one in found]
            question = "Let these deletes pass?"
        case "resync", None:
            found = ops.standing(conn, target)
            lines = [f"{one.entity}: {one.live_rows:,} rows, {one.state}" for one in found]
            question = f"Read all {len(found)} entities of {target} whole again?"
        case _:
            return {}
    if not request.yes:
        _confirm(request, lines, question)
    return {"seen": {one.entity: {"live_rows": one.live_rows, "pending_deletes": one.pending_deletes} for one in found}}


def _deletes(one: ops.Standing) -> str:
    share = f" ({one.pending_deletes / one.live_rows:.1%})" if one.live_rows else ""
    rows = f"{one.pending_deletes:,} of {one.live_rows:,} rows{share} would go; " if one.pending_deletes else ""
    return f"{one.entity}: {rows}held since {one.since:%Y-%m-%d %H:%M:%S %Z}: {one.hint or one.reason}"


def _confirm(request: Request, lines: list[str], question: str) -> None:
    """Ask on stderr: stdout is for the answer.

    Raises:
        UsageError: nobody is there to be asked.
        NotConfirmed: the answer was no.
    """
    if request.json or not sys.stdin.isatty():
        told = "; ".join(printable(line) for line in lines)
        raise UsageError(f"{request.verb} wants a confirmation: {told}", hint="look at it, then add --yes")
    for line in lines:
        typer.echo(printable(line), err=True)
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise NotConfirmed("nothing was asked for", hint="the entities stay as they are")


# ------------------------------------------------------------------------------------------------- answer


def told(conn: psycopg.Connection, asked: ops.Asked, wait_s: float) -> Answer:
    """What a verb answers that has asked for something: that it did, or what came of it within `wait_s`."""
    if not wait_s:
        return Answer(f"{asked.verb} {asked.target}: asked for{_nobody(asked)}", _result(asked, None))
    return _answer(asked, ops.await_outcome(conn, asked, wait_s), wait_s)


def _answer(asked: ops.Asked, outcome: ops.Outcome | None, wait_s: float) -> Answer:
    name = f"{asked.verb} {asked.target}"
    result = _result(asked, outcome)
    if outcome is None:
        hint = "it stays asked for, and is obeyed when a daemon serves the party: see connector status"
        error: ConnectorError = ops.NotObeyed(f"not obeyed within {wait_s:g} s", hint=hint, place=name)
        return Answer(f"{name}: not obeyed yet{_nobody(asked)}", result, error=error)
    if not outcome.done:
        error = ops.NotObeyed(outcome.text, hint="see connector status", place=name)
        return Answer(f"{name}: {outcome.text}", result, error=error)
    return Answer(f"{name}: {outcome.text}", result)


def _nobody(asked: ops.Asked) -> str:
    """A word of warning where no daemon seems to be there."""
    if asked.heartbeat_age_s is None or asked.heartbeat_age_s <= HEARTBEAT_S_MAX:
        return ""
    return f"; but no daemon has reported for {asked.heartbeat_age_s:.0f} s"


def _result(asked: ops.Asked, outcome: ops.Outcome | None) -> dict[str, object]:
    return {
        "wish": asked.id, "verb": asked.verb, "party": asked.target.party, "entity": asked.target.entity,
        "asked_by": asked.asked_by, "asked_at": asked.asked_at, "obeyed_at": outcome.obeyed_at if outcome else None,
        "outcome": outcome.text if outcome else None, "heartbeat_age_s": asked.heartbeat_age_s,
    }  # fmt: skip
