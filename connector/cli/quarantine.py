"""`connector quarantine list, show, replay, discard`: the rows that were refused, why, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psycopg
import typer

from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, Table, run_verb
from connector.cli.wish import TargetArgument, WaitOption, told
from connector.errors import UsageError
from connector.ops import quarantine as ops
from connector.ops import refusal_sheet, wishes
from connector.settings import Config
from connector.staging import migrate, session

ROWS = ("party", "entity", "key", "reasons", "columns", "rows", "first seen", "last seen")
REASONS = ("party", "entity", "reason", "rows", "last seen", "what to do")

RowArgument = Annotated[str, typer.Argument(metavar="PARTY/ENTITY", help="The row's party and entity.")]
KeyArgument = Annotated[str, typer.Argument(help="The row's key, as the party's database has it.")]


def register(app: typer.Typer) -> None:
    quarantine = typer.Typer(no_args_is_help=True, help="The rows that were refused, and why.")
    quarantine.command("list")(list_rows)
    quarantine.command("show")(show)
    quarantine.command("replay")(read_again)
    quarantine.command("discard")(discard)
    app.add_typer(quarantine, name="quarantine")


def list_rows(  # noqa: PLR0913 - one for each option of the verb
    ctx: typer.Context,
    party: Annotated[str | None, typer.Argument(help="Only this party; default: every party.")] = None,
    entity: Annotated[str | None, typer.Option(help="Only this entity.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only rows with this reason, NIK_FORMAT for instance.")] = None,
    since: Annotated[str | None, typer.Option(help="Only rows refused since: 2026-11-30, or 24h, 7d.")] = None,
    limit: Annotated[int, typer.Option(min=0, max=100_000, help="So many rows at most; reasons count all.")] = 50,
    csv: Annotated[Path | None, typer.Option(help="Write the rows here, for the party's staff.")] = None,
    json: JsonOption = False,
) -> None:
    """The refused rows by the party's own keys, and how many there are for each reason."""
    query = ops.Query(party, entity, reason, None, limit)
    run_verb("quarantine list", json, lambda: _list(given(ctx), query, since, csv))


def show(ctx: typer.Context, row: RowArgument, key: KeyArgument, json: JsonOption = False) -> None:
    """One refused row: its reasons in words, since when, and whether an earlier version of it is staged."""
    run_verb("quarantine show", json, lambda: _show(given(ctx), row, key))


def read_again(
    ctx: typer.Context,
    target: TargetArgument,
    reason: Annotated[str | None, typer.Option(help="Only rows with this reason.")] = None,
    wait: WaitOption = 0,
    json: JsonOption = False,
) -> None:
    """Read the refused rows again, in key order, with the mapping as it is now."""
    run_verb("quarantine replay", json, lambda: _replay(given(ctx), target, reason, wait))


def discard(
    ctx: typer.Context,
    row: RowArgument,
    key: KeyArgument,
    reason: Annotated[
        str, typer.Option(help="Why; stands in the audit log for good: no names, no numbers of persons.")
    ],
    wait: WaitOption = 0,
    json: JsonOption = False,
) -> None:
    """Take a row out of quarantine. It comes back if it is read again and is refused again."""
    run_verb("quarantine discard", json, lambda: _discard(given(ctx), row, key, reason, wait))


@contextmanager
def _opened(options: Globals) -> Iterator[tuple[Config, psycopg.Connection]]:
    config = options.load(check_secrets=False)
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector quarantine") as conn:
        migrate.require(conn)
        yield config, conn


# ------------------------------------------------------------------------------------------------- list, show


def _list(options: Globals, query: ops.Query, since: str | None, sheet: Path | None) -> Answer:
    if since is not None:
        query = replace(query, since=ops.since(since, datetime.now(UTC)))
    with _opened(options) as (config, conn):
        ops.check(config, query)
        found = ops.listing(conn, query)
    wrote = f"; wrote {refusal_sheet.write(sheet, found):,} lines to {sheet}" if sheet is not None else ""
    rows = tuple(
        (
            one.party, one.entity, one.key, ", ".join(one.reasons), ", ".join(filter(None, one.columns)) or None,
            one.rows_seen, _time(one.first_seen), _time(one.last_seen),
        )
        for one in found.rows
    )  # fmt: skip
    reasons = tuple(
        (one.party, one.entity, one.reason, one.rows, _time(one.last_seen), one.indonesian or None)
        for one in found.reasons
    )
    tables = (Table(ROWS, rows), Table(REASONS, reasons))
    more = f", {len(rows)} of them shown" if len(rows) < found.total else ""
    return Answer(f"{found.total:,} refused rows{more}{wrote}", found, tuple(table for table in tables if table.rows))


def _show(options: Globals, row: str, key: str) -> Answer:
    with _opened(options) as (config, conn):
        party, entity = _row(conn, config, row)
        found = ops.detail(conn, party, entity, key)
    why = Table(
        ("reason", "column", "what to do", "in English"),
        tuple((one.reason, one.column or None, one.indonesian, one.english) for one in found.why),
    )
    staged = f"an earlier version is staged since {_time(found.staged_at)}" if found.staged_at else "it is not staged"
    summary = (
        f"{party}/{entity} {found.row.key}: refused since {_time(found.row.first_seen)}, last looked at"
        f" {_time(found.row.last_seen)} with mapping {found.row.mapping_version}; {staged}"
    )
    return Answer(summary, found, (why,))


def _row(conn: psycopg.Connection, config: Config, text: str) -> tuple[str, str]:
    aim = wishes.target(conn, config, text)
    if aim.entity is None:
        raise UsageError("a row is named by PARTY/ENTITY and its key", hint=f"{aim.party}/anggota, for instance")
    return aim.party, aim.entity


def _time(point: datetime) -> str:
    return f"{point:%Y-%m-%d %H:%M:%S %Z}".rstrip()


# ------------------------------------------------------------------------------------------------- replay, discard


def _replay(options: Globals, target: str, reason: str | None, wait_s: float) -> Answer:
    with _opened(options) as (config, conn):
        aim = wishes.target(conn, config, target)
        ops.check(config, ops.Query(reason=reason))
        args = {} if reason is None else {"reason": reason}
        return told(conn, wishes.ask(conn, "replay", aim, wishes.operator(), args), wait_s)


def _discard(options: Globals, row: str, key: str, reason: str, wait_s: float) -> Answer:
    if not reason.strip():
        raise UsageError("--reason must say why", hint="the party withdrew the row, letter 12/2026, for instance")
    with _opened(options) as (config, conn):
        party, entity = _row(conn, config, row)
        ops.detail(conn, party, entity, key)
        args = {"key": key, "reason": reason.strip()[:500]}
        aim = wishes.Target(party, entity)
        return told(conn, wishes.ask(conn, "discard", aim, wishes.operator(), args), wait_s)
