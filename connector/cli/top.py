"""`connector top`: what `status` reads, again and again, on one screen; for the last evening before a deadline."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import psycopg
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, run_verb
from connector.cli.status import ago, size
from connector.logs import printable
from connector.ops import status as ops
from connector.settings import Config
from connector.staging import migrate, session

COLUMNS = (
    "party", "says", "lag", "log kept", "room", "rows/s", "rows", "refused", "parked", "p95 s", "entities", "wishes",
)  # fmt: skip
ATTENTION_LINES_MAX = 12
# By the worker's state; what is not here is red.
_COLOURS = {"streaming": "green", "retrying": "yellow"}

EveryOption = Annotated[float, typer.Option("--every", min=0.5, help="Look again after so many seconds.")]


@dataclass(frozen=True, slots=True)
class Line:
    """A party on the screen. `rows_s`: rows written a second since the look before; None at the first."""

    party: str
    state: str
    lag_s: float | None
    lag_bytes: int | None
    headroom_bytes: int | None
    rows_s: float | None
    rows: int
    refused: int
    parked: int
    p95_s: float | None
    entities: str
    wishes: int


def register(app: typer.Typer) -> None:
    @app.command("top")
    def top(ctx: typer.Context, every: EveryOption = 2.0, json: JsonOption = False) -> None:
        """Watch all parties on one screen until Ctrl-C. Not on a terminal, or with --json: one look."""
        run_verb("top", json, lambda: _top(given(ctx), every, live=not json and sys.stdout.isatty()))


def _top(options: Globals, every_s: float, *, live: bool) -> Answer:
    config = options.load(check_secrets=False)
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector top") as conn:
        migrate.require(conn)
        if live:
            with suppress(KeyboardInterrupt):
                _watch(conn, config, every_s)
            return Answer("")
        found = ops.status(conn, config)
    console = Console(width=160, no_color=True, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(screen(found, lines(None, found)))
    return Answer("", found.parties, text=captured.get())


def _watch(conn: psycopg.Connection, config: Config, every_s: float) -> None:
    before: ops.Status | None = None
    with Live(screen=True, auto_refresh=False) as shown:
        while True:
            found = ops.status(conn, config)
            shown.update(screen(found, lines(before, found)), refresh=True)
            before = found
            time.sleep(every_s)


def lines(before: ops.Status | None, now: ops.Status) -> tuple[Line, ...]:
    """The parties, those that need somebody first. Pure."""
    urgent = {one.place.split("/")[0] for one in now.attention}
    found = [_line(name, party, before, now) for name, party in now.parties.items()]
    return tuple(sorted(found, key=lambda line: (line.party not in urgent, -(line.lag_s or 0.0), line.party)))


def _line(name: str, party: ops.Party, before: ops.Status | None, now: ops.Status) -> Line:
    entities = party.entities.values()
    states = sorted({entity.state for entity in entities} - {"streaming"})
    p95 = [entity.latency.p95_s for entity in entities if entity.latency is not None]
    return Line(
        name, party.worker.state if party.worker else "never started", party.lag_s, party.lag_bytes,
        party.headroom_bytes, _rows_s(name, before, now), sum(entity.live_rows for entity in entities),
        sum(entity.quarantined_now for entity in entities), sum(entity.parked for entity in entities),
        max(p95, default=None), ", ".join(states) or "streaming", party.wishes_open,
    )  # fmt: skip


def _rows_s(name: str, before: ops.Status | None, now: ops.Status) -> float | None:
    if before is None or name not in before.parties:
        return None
    passed_s = (now.at - before.at).total_seconds()
    written = _written(now.parties[name]) - _written(before.parties[name])
    return written / passed_s if passed_s > 0 else None


def _written(party: ops.Party) -> int:
    return sum(entity.inserted + entity.updated + entity.deleted for entity in party.entities.values())


def screen(now: ops.Status, found: tuple[Line, ...]) -> Group:
    """One screenful."""
    table = RichTable(box=None, pad_edge=False, header_style="bold", expand=True)
    for place, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if place in (0, 1, 10) else "right", no_wrap=True)
    for line in found:
        shown = Text(line.party, style="bold"), Text(line.state, style=_COLOURS.get(line.state, "red"))
        table.add_row(*shown, *(_text(cell) for cell in _cells(line)))
    return Group(_head(now, found), table, Text(""), *_attention(now))


def _cells(line: Line) -> tuple[str | None, ...]:
    """What stands behind a party's name and state."""
    return (
        ago(line.lag_s), size(line.lag_bytes), size(line.headroom_bytes),
        None if line.rows_s is None else f"{line.rows_s:,.0f}", f"{line.rows:,}", f"{line.refused:,}",
        f"{line.parked:,}", None if line.p95_s is None else f"{line.p95_s:.2f}", line.entities, str(line.wishes),
    )  # fmt: skip


def _head(now: ops.Status, found: tuple[Line, ...]) -> Text:
    rate = sum(line.rows_s or 0.0 for line in found)
    daemons = sorted({party.lease for party in now.parties.values() if party.lease})
    said = (
        f"{now.at:%H:%M:%S}  {len(found)} parties", f"{len(daemons)} daemons ({', '.join(daemons) or 'none'})",
        f"{rate:,.0f} rows/s", f"audit log {now.audit.size:,} entries", f"{now.audit.waiting:,} waiting",
    )  # fmt: skip
    return Text(", ".join(said), style="bold")


def _attention(now: ops.Status) -> list[Text]:
    shown = [Text(printable(f"{one.place}: {one.what}  ->  {one.hint}"), style="yellow") for one in now.attention]
    more = len(shown) - ATTENTION_LINES_MAX
    rest = [Text(f"and {more} more: connector status")] if more > 0 else []
    return [*shown[:ATTENTION_LINES_MAX], *rest] or [Text("nothing needs attention", style="green")]


def _text(value: str | None) -> Text:
    return Text("-" if value is None else printable(value))
