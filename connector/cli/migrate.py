"""`connector migrate`: the staging schema to this version."""

from __future__ import annotations

import typer

from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, Table, run_verb
from connector.staging import migrate, session


def register(app: typer.Typer) -> None:
    @app.command("migrate")
    def migrate_(ctx: typer.Context, json: JsonOption = False) -> None:
        """Bring the staging schema to this version."""
        run_verb("migrate", json, lambda: _migrate(given(ctx)))


def _migrate(options: Globals) -> Answer:
    config = options.load()
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector migrate") as conn:
        applied = migrate.apply(conn)
        version = migrate.version(conn)
    result = {"version": version, "applied": [{"version": step.version, "name": step.name} for step in applied]}
    if not applied:
        return Answer(f"staging is at version {version}; nothing to do", result)
    rows = tuple((step.version or "reference", step.name) for step in applied)
    return Answer(f"staging is at version {version}", result, (Table(("step", "name"), rows),))
