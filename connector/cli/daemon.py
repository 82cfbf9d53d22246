"""`connector run`: the daemon, one worker process per party under a supervisor."""

from __future__ import annotations

from typing import Annotated

import structlog
import typer

from connector import app as composition
from connector import pg
from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, run_verb
from connector.errors import ConfigError, ConnectorError
from connector.runtime.supervisor import Roster
from connector.settings import Config
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
    old = pg.libpq_too_old()
    if old:
        # Not refused: we make no large-object call, and a party's changes would wait for a package.
        structlog.get_logger().warning("libpq_too_old", what=old, hint="install a newer psycopg-binary or libpq")
    parties = _wanted(config, only)
    # Mappings are checked before anything starts: a mistake in one is told at once, with its place.
    log_format = options.log_format.value
    with staging_dsn(config) as dsn:
        first = composition.roster(config, dsn, parties, log_format)
        with session.connect(dsn, application="connector run") as conn:
            migrate.require(conn)
        asked = config.staging.dsn.reveal if config.staging.dsn is not None else lambda: dsn
        ended = composition.run(first, asked, once=once, reload=lambda: _again(options, config, dsn, only))
    if not ended:
        error = PartyHalted("a party was halted", hint="see its last error: connector status")
        return Answer("a party was halted", {"parties": parties}, error=error)
    return Answer("caught up" if once else "stopped", {"parties": parties})


def _again(options: Globals, running: Config, dsn: str, only: list[str]) -> Roster:
    """What is to run by the configuration as it is now; raises where it has problems."""
    new = options.load()
    if running.staging.embedded != new.staging.embedded:
        raise ConfigError("`staging.embedded` cannot change while the daemon runs", hint="stop it and start it again")
    if new.staging.dsn is not None:
        dsn = new.staging.dsn.reveal()
    left = [name for name in only if name in new.parties]
    return composition.roster(new, dsn, _wanted(new, left or only), options.log_format.value)


def _wanted(config: Config, only: list[str]) -> list[str]:
    return [config.party(name).name for name in only] or list(config.parties)
