"""`connector subject find, export, erase --nik`: a person's own data, on the person's request."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psycopg
import typer

from connector import app as composition
from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, Table, run_verb
from connector.cli.wish import WaitOption
from connector.errors import ConnectorError, UsageError
from connector.ops import subject as ops
from connector.ops import wishes
from connector.ops.quarantine import masked
from connector.staging import migrate, session

NikOption = Annotated[str, typer.Option(help="The person's NIK; `-` reads it from stdin, out of the shell's history.")]
ReasonOption = Annotated[str, typer.Option(help="The request's number; stands in the audit log: no name, no NIK.")]


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, and why."""

    nik: str
    reason: str = ""
    wait_s: float = 0
    live: bool = False
    yes: bool = False


def register(app: typer.Typer) -> None:
    subject = typer.Typer(no_args_is_help=True, help="Requests of a person about his or her data (UU 27/2022).")
    subject.command("find")(find)
    subject.command("export")(export)
    subject.command("erase")(erase)
    app.add_typer(subject, name="subject")


def find(ctx: typer.Context, nik: NikOption, json: JsonOption = False) -> None:
    """Where a person stands: staging, quarantine, audit log, of every party."""
    run_verb("subject find", json, lambda: _find(given(ctx), Request(nik)))


def export(
    ctx: typer.Context,
    nik: NikOption,
    out: Annotated[Path, typer.Option(help="A new file; its owner alone may read it.")],
    reason: ReasonOption,
    json: JsonOption = False,
) -> None:
    """Write a copy of what is held of a person."""
    run_verb("subject export", json, lambda: _export(given(ctx), Request(nik, reason), out))


def erase(  # noqa: PLR0913 - one for each option of the verb
    ctx: typer.Context,
    nik: NikOption,
    reason: ReasonOption,
    live: Annotated[
        bool, typer.Option("--live", help="Also rows that a party still sends; they can come back.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not only show what would go.")] = False,
    wait: WaitOption = 0,
    json: JsonOption = False,
) -> None:
    """Take a person out of staging for good. The audit log stays whole: it holds no person."""
    run_verb("subject erase", json, lambda: _erase(given(ctx), Request(nik, reason, wait, live, yes)))


@contextmanager
def _looked(options: Globals, request: Request) -> Iterator[tuple[psycopg.Connection, str, ops.Found]]:
    nik = ops.number(sys.stdin.readline() if request.nik == "-" else request.nik)
    if request.reason and masked(request.reason) != request.reason:
        raise UsageError(
            "--reason holds a NIK", hint="name the request by its number: it stands in the audit log for good"
        )
    config = options.load(check_secrets=False)
    keys = composition.digest_keys(config)
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector subject") as conn:
        migrate.require(conn)
        yield conn, nik, ops.find(conn, nik, keys.nik_hmac(nik))


def _find(options: Globals, request: Request) -> Answer:
    with _looked(options, request) as (_, _, found):
        return Answer(_summary(found), _result(found), _tables(found))


def _export(options: Globals, request: Request, out: Path) -> Answer:
    with _looked(options, request) as (conn, _, found):
        rows = ops.export(conn, found.places, out)
        for (party, entity), keys in found.by_entity.items():
            args = {"keys": keys, "reason": request.reason}
            wishes.ask(conn, "export", wishes.Target(party, entity), wishes.operator(), args)
    return Answer(f"{rows} rows written to {out}; each party's audit log notes it", _result(found) | {"path": out})


def _erase(options: Globals, request: Request) -> Answer:
    with _looked(options, request) as (conn, nik, found):
        ops.check_erasable(found, live=request.live)
        if not found.places:
            return Answer("nothing is held of this person", _result(found))
        if not request.yes:
            raise UsageError(f"this would go: {_summary(found)}", hint="look at it with `subject find`, then add --yes")
        asked = [
            wishes.ask(
                conn, "erase", wishes.Target(party, entity), wishes.operator(),
                {"keys": keys, "nik": nik, "reason": request.reason},
            )
            for (party, entity), keys in found.by_entity.items()
        ]  # fmt: skip
        outcomes = [wishes.await_outcome(conn, one, request.wait_s) for one in asked] if request.wait_s else []
    result = _result(found) | {"wishes": [one.id for one in asked], "outcomes": [one and one.text for one in outcomes]}
    late = [
        str(one.target) for one, outcome in zip(asked, outcomes, strict=False) if outcome is None or not outcome.done
    ]
    error: ConnectorError | None = None
    if late:
        error = wishes.NotObeyed(
            f"not erased yet: {', '.join(late)}",
            hint="is a daemon up, and can it reach the party? see connector status",
        )
    return Answer(f"erasure asked for: {_summary(found)}", result, error=error)


def _summary(found: ops.Found) -> str:
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(found.counts.items())) or "nothing"
    parties = len({one.party for one in found.places})
    mentioned = f"; {len(found.audit_entries)} audit entries hold the number itself" if found.audit_entries else ""
    return f"{counts} at {parties} parties{mentioned}"


def _result(found: ops.Found) -> dict[str, object]:
    return {"places": found.shown, "counts": dict(found.counts), "audit_entries": found.audit_entries}


def _tables(found: ops.Found) -> tuple[Table, ...]:
    rows = tuple((one.party, one.entity, one.key, one.kind, one.since) for one in found.shown)
    return (Table(("party", "entity", "key", "is", "since"), rows),) if rows else ()
