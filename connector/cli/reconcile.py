"""`connector reconcile PARTY[/ENTITY]`: is staging what the party's views say? And if not, read what differs again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from connector import app as composition
from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, Table, run_verb
from connector.cli.wish import TargetArgument, WaitOption
from connector.errors import ConnectorError
from connector.ops import reconcile as ops
from connector.ops import wishes
from connector.staging import migrate, session

COLUMNS = (
    "entity", "view", "refused", "staged", "missing", "different", "extra", "not refused", "refused still", "moving",
    "parked", "seconds",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    @app.command("reconcile")
    def reconcile(
        ctx: typer.Context,
        target: TargetArgument,
        repair: Annotated[bool, typer.Option("--repair", help="Have the daemon read again what differs.")] = False,
        settle: Annotated[
            float | None,
            typer.Option(min=0, help="Seconds staging has to catch up; default: as its way of capture needs."),
        ] = None,
        wait: WaitOption = 0,
        json: JsonOption = False,
    ) -> None:
        """Compare a party's views with staging, row for row after mapping. Safe beside a running daemon."""
        run_verb("reconcile", json, lambda: _reconcile(given(ctx), target, (repair, settle, wait)))


def _reconcile(options: Globals, text: str, how: tuple[bool, float | None, float]) -> Answer:
    repair, settle_s, wait_s = how
    config = options.load()
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector reconcile") as conn:
        migrate.require(conn)
        target = wishes.target(conn, config, text)
        party = composition.open_party(config, target.party, dsn)
        given_s = party.notices_within_s if settle_s is None else settle_s
        asking = ops.Options(given_s, wishes.operator(), party.ordered)
        runs, skipped = composition.reconcile(conn, party, target.entity, asking)
        asked = [ops.record(conn, target.party, run, wishes.operator(), repair=repair) for run in runs]
        outcomes = [wishes.await_outcome(conn, one, wait_s) for one in asked] if wait_s else []
    return _answer(target, runs, skipped, repair=repair, open_wishes=sum(one is None for one in outcomes))


def _answer(
    target: wishes.Target, runs: list[ops.Run], skipped: dict[str, str], *, repair: bool, open_wishes: int
) -> Answer:
    total = sum(run.total for run in runs)
    result = {
        "party": target.party, "repair": repair, "differing": total, "skipped": skipped,
        "entities": {run.entity: asdict(run) | {"total": run.total} for run in runs},
    }  # fmt: skip
    told = [f"{len(runs)} entities of {target.party} compared: {total:,} keys differ"]
    told += [f"{name}: not compared, {why}" for name, why in skipped.items()]
    told += [f"{run.entity}: staging is behind the view, look again later" for run in runs if not run.settled]
    if repair and total:
        told.append("what differs is read again by the daemon")
    if open_wishes:
        told.append(f"{open_wishes} runs are not in the audit log yet: no daemon took note in time")
    error: ConnectorError | None = None
    if total and not repair:
        error = ops.Differs(
            f"{total:,} keys differ", place=str(target), hint=f"connector reconcile {target} --repair reads them again"
        )
    return Answer("; ".join(told), result, _tables(runs), error=error)


def _tables(runs: list[ops.Run]) -> tuple[Table, ...]:
    rows = tuple(
        (
            run.entity, f"{run.view_rows:,}", f"{run.refused_rows:,}", f"{run.live_rows:,}",
            *(f"{count:,}" for count in run.differing.values()), f"{run.moving:,}", f"{run.parked:,}",
            f"{run.took_s:.1f}",
        )
        for run in runs
    )  # fmt: skip
    examples = tuple((run.entity, one.key, one.kind) for run in runs for one in run.examples)
    tables = [Table(COLUMNS, rows), Table(("entity", "key", "differs"), examples)]
    return tuple(table for table in tables if table.rows)
