"""`connector status [PARTY]`: where everything stands, and what a person should look at."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, Table, run_verb
from connector.ops import status as ops
from connector.staging import migrate, session

PARTIES = ("party", "says", "daemon", "heartbeat", "position", "covered", "log kept", "room", "audit entries", "wishes")
# Short, so that a terminal of 120 columns shows every count in one line.
ENTITIES = (
    "party", "entity", "state", "rows", "new", "changed", "same", "deleted", "refused", "parked", "last batch", "p50 s",
    "p95 s",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    @app.command("status")
    def status(
        ctx: typer.Context,
        party: Annotated[str | None, typer.Argument(help="Only this party; default: every party.")] = None,
        json: JsonOption = False,
    ) -> None:
        """Show where each party and entity stands. Works with and without a running daemon."""
        run_verb("status", json, lambda: _status(given(ctx), party))


def _status(options: Globals, only: str | None) -> Answer:
    config = options.load(check_secrets=False)
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector status") as conn:
        migrate.require(conn)
        found = ops.status(conn, config, only)
    tables = [_parties(found), _entities(found), _audit(found)]
    if found.attention:
        rows = tuple((one.place, one.what, one.hint) for one in found.attention)
        tables.append(Table(("where", "needs attention", "what to do"), rows))
    return Answer(_summary(found), found, tuple(table for table in tables if table.rows))


def _summary(found: ops.Status) -> str:
    states = Counter(one.state for party in found.parties.values() for one in party.entities.values())
    entities = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "never started"
    parties = f"{len(found.parties)} parties" if len(found.parties) != 1 else "1 party"
    said = "; ".join(f"{one.place}: {one.what}" for one in found.attention)
    attention = f"needs attention: {said}" if said else "nothing needs attention"
    return f"{parties}, {states.total()} entities: {entities}; {attention}"


def _parties(found: ops.Status) -> Table:
    rows = tuple(
        (
            name, party.worker.state if party.worker else None, party.lease,
            ago(party.worker.heartbeat_age_s if party.worker else None), party.position, ago(party.lag_s),
            size(party.lag_bytes), size(party.headroom_bytes), party.audit_seq, party.wishes_open,
        )
        for name, party in found.parties.items()
    )  # fmt: skip
    return Table(PARTIES, rows)


def _audit(found: ops.Status) -> Table:
    audit = found.audit
    if not audit.size and not audit.waiting:
        return Table((), ())
    signed = f"{audit.signed:,}" if audit.signed else "none: no key signs it"
    checked = found.verification
    verified = "never" if checked is None else ago((found.at - checked.at).total_seconds())
    row = (audit.origin, audit.state, f"{audit.size:,}", f"{audit.waiting:,}", signed, f"{audit.anchored:,}", verified)
    return Table(("audit log", "sequencer", "entries", "waiting", "signed", "anchored", "verified"), (row,))


def _entities(found: ops.Status) -> Table:
    rows = tuple(
        (
            name, entity, _state(one), f"{one.live_rows:,}", f"{one.inserted:,}", f"{one.updated:,}",
            f"{one.unchanged:,}", f"{one.deleted:,}", f"{one.quarantined_now:,}", f"{one.parked:,}",
            ago(one.last_batch_age_s), f"{one.latency.p50_s:.2f}" if one.latency else None,
            f"{one.latency.p95_s:.2f}" if one.latency else None,
        )
        for name, party in found.parties.items()
        for entity, one in party.entities.items()
    )  # fmt: skip
    return Table(ENTITIES, rows)


def _state(entity: ops.Entity) -> str:
    """The state in a few words: how far a copy is, or why it stands still (the whole story is said below the table)."""
    copy = entity.copy
    if copy is not None:
        share = f" {copy.share:.0%}" if copy.share is not None else f", {copy.rows:,} rows"
        return f"{entity.state}{share}"
    if entity.rescan_since is not None:
        return f"{entity.state}, rescan due"
    return f"{entity.state}: {entity.reason}" if entity.reason else entity.state


def ago(seconds: float | None) -> str | None:
    """A duration in the largest unit that leaves a whole number of two digits or so."""
    if seconds is None:
        return None
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def size(size_bytes: int | None) -> str | None:
    if size_bytes is None:
        return None
    for unit, length in (("GB", 1 << 30), ("MB", 1 << 20)):
        if size_bytes >= length:
            return f"{size_bytes / length:.1f} {unit}"
    return f"{size_bytes / 1024:.0f} kB"
