"""`connector demo`: the whole connector on this machine, with invented parties, ending with a proof."""

from __future__ import annotations

from typing import Annotated

import typer

from connector.cli.options import JsonOption
from connector.cli.output import Answer, Table, run_verb
from connector.demo.interrupt import terminable
from connector.demo.measure import COUNTS
from connector.demo.play import MEMBERS, Options, Result, play
from connector.demo.screen import Silent, terminal
from connector.errors import ConnectorError

HEADINGS = ("party", "entity", *COUNTS, "p50 ms", "p95 ms", "rows/s", "differing")


class DemoFailed(ConnectorError):
    """Staging is not what the views say, or the audit log does not verify."""


def register(app: typer.Typer) -> None:
    @app.command("demo")
    def demo(
        seconds: Annotated[float, typer.Option(min=1, help="How long the parties make changes.")] = 30.0,
        members: Annotated[
            int,
            typer.Option(min=200, help="People in each PostgreSQL party's database; the others have 20,000 at most."),
        ] = MEMBERS,
        rate: Annotated[
            float, typer.Option(min=1, help="Transactions a second at each PostgreSQL party; a quarter at others.")
        ] = 100.0,
        json: JsonOption = False,
    ) -> None:
        """Show the connector at work on servers of its own and invented parties, and prove the outcome."""
        # A small party has a small territory: a few thousand boards beside 500 members would be odd.
        options = Options(seconds, members, rate, regencies=None if members >= MEMBERS else max(4, members // 140))
        with terminable():
            run_verb("demo", json, lambda: _demo(options, json))


def _demo(options: Options, as_json: bool) -> Answer:
    if as_json:
        return answer(play(options, Silent()))
    with terminal() as screen:
        result = play(options, screen)
    return answer(result)


def answer(result: Result) -> Answer:
    """What the run comes to; an error where anything differs."""
    error: ConnectorError | None = None
    if result.differing_rows:
        examples = [
            key
            for party in result.parties.values()
            for one in party.entities.values()
            for key in one.difference.examples
        ]
        error = DemoFailed(f"{result.differing_rows} rows differ", hint=f"for example {', '.join(examples[:5])}")
    elif not result.audit_verified:
        error = DemoFailed("the audit log does not verify", hint="connector audit verify names the first broken entry")
    compared = sum(one.view_rows for party in result.parties.values() for one in party.entities.values())
    audit = "verified" if result.audit_verified else "BROKEN"
    summary = (
        f"{compared} rows compared, {result.differing_rows} differ; audit log {audit};"
        f" first copy {result.rows_per_s:,.0f} rows/s; a change is in staging after {_ms(result.latency_ms.p50)} ms"
        f" (p95 {_ms(result.latency_ms.p95)} ms)"
    )
    for name, why in result.skipped.items():
        summary += f"; {name} did not play: {why}"
    return Answer(summary, result, (_entities(result), _parties(result)), error=error)


def _entities(result: Result) -> Table:
    rows = tuple(
        (
            party, entity, *(getattr(one, count) for count in COUNTS), _ms(one.latency_ms.p50), _ms(one.latency_ms.p95),
            None if one.rows_per_s is None else f"{one.rows_per_s:,.0f}", one.difference.total,
        )
        for party, found in result.parties.items()
        for entity, one in found.entities.items()
    )  # fmt: skip
    return Table(HEADINGS, rows, "what was read from the views and what became of it")


def _parties(result: Result) -> Table:
    rows = tuple(
        (
            name, party.server, party.capture, party.transactions, party.flood_rows, f"{party.copy_s:.1f}",
            party.audit_entries, ", ".join(f"{count} {reason}" for reason, count in list(party.quarantine.items())[:3]),
        )
        for name, party in result.parties.items()
    )  # fmt: skip
    columns = (
        "party",
        "server",
        "capture",
        "transactions",
        "rows of the largest",
        "first copy s",
        "audit entries",
        "refused most",
    )
    return Table(columns, rows, "the parties")


def _ms(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"
