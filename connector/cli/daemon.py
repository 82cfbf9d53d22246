"""`connector run`: the daemon, one worker process per party under a supervisor."""

from __future__ import annotations

from typing import Annotated

import typer

from connector import app as composition
from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, run_verb
from connector.errors import ConnectorError
from connector.staging import migrate, session

OnceOption = Annotated[bool, typer.Option("--once", help="Drain what is there, then exit.")]
OnlyOption = Annotated[list[str] | None, typer.Option("--only", help="Run this party alone; may be repeated.")]


class PartyHalted(ConnectorError):
    """A party could not go on; the log says which and why."""


def register(app: typer.Typer) -> None:
    @app.command("run")
    def run_(ctx: typer.Context, once: OnceOption = False, only: OnlyOption = None, json: JsonOption = False) -> None:
        """Follow every configured party until stopped (SIGTERM or Ctrl-C ends it cleanly)."""
        run_verb("run", json, lambda: _run(given(ctx), once, only or []))


def _run(options: Globals, once: bool, only: list[str]) -> Answer:
    config = options.load()
    parties = [config.party(name).name for name in only] or list(config.parties)
    # Mappings are checked before anything starts: a mistake in one is told at once, with its place.
    for name in parties:
        composition.compile_party(config.parties[name])
    composition.digest_keys(config)
    with staging_dsn(config) as dsn:
        with session.connect(dsn, application="connector run") as conn:
            migrate.require(conn)
        ended = composition.run(config, dsn, parties, once=once, log_format=options.log_format.value)
    if not ended:
        error = PartyHalted("a party was halted", hint="see its last error: connector status")
        return Answer("a party was halted", {"parties": parties}, error=error)
    return Answer("caught up" if once else "stopped", {"parties": parties})
