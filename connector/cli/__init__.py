"""The command line: one module per verb, each with `register(app)`; this module finds and runs them.

Promise: exit codes 0 ok, 1 failed at run time, 2 bad usage, configuration or mapping, 3 environment missing; with
`--json` exactly one envelope on stdout, whatever happens; never a traceback unless CONNECTOR_DEBUG=1.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from connector import __version__, logs
from connector.cli.options import Globals, LogFormat
from connector.cli.output import Output, internal_error, show_traceback_if_asked
from connector.errors import UsageError

# Verb -> module. Only the module of the verb that was typed is imported: the demo's libraries are slow to load.
VERBS: dict[str, str] = {
    "demo": "demo",
    "run": "daemon",
    "reload": "reload",
    "migrate": "migrate",
    "check": "check",
    "kit": "kit",
    "lineage": "lineage",
    "mapping": "mapping",
    "status": "status",
    "top": "top",
    "pause": "wish",
    "resume": "wish",
    "resync": "wish",
    "approve": "wish",
    "reconcile": "reconcile",
    "quarantine": "quarantine",
    "audit": "audit",
    "digest": "digest",
    "readiness": "readiness",
    "subject": "subject",
    "jobs": "jobs",
}

# Global options that take a value: the word after them is no verb.
_WITH_VALUE = ("--config", "--log-format")


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    verb = _verb(arguments)
    as_json = "--json" in arguments
    try:
        app = build(verb)
        # With --json a usage error must become an envelope, so typer may not print and exit by itself.
        code = app(args=list(arguments), prog_name="connector", standalone_mode=not as_json)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 1
    except TyperException as exc:
        help_for = f"connector {verb}" if verb in VERBS else "connector"
        error = UsageError(exc.format_message(), hint=f"see {help_for} --help")
        return Output(as_json).fail(verb, error)
    except KeyboardInterrupt:
        return 130
    except Exception as exc:  # noqa: BLE001 - the outermost line of a program a person runs: say it without a traceback
        show_traceback_if_asked()
        return Output(as_json).fail(verb, internal_error(exc))
    return code if isinstance(code, int) else 0


def build(verb: str = "") -> typer.Typer:
    """The parser; of all verbs that exist, or of one when it is a verb."""
    app = typer.Typer(
        name="connector",
        help="Follows political parties' database views into the staging schema that Sipol reads.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_globals)
    wanted = [VERBS[verb]] if verb in VERBS else list(dict.fromkeys(VERBS.values()))
    for name in wanted:
        if importlib.util.find_spec(f"{__name__}.{name}") is not None:
            importlib.import_module(f"{__name__}.{name}").register(app)
    return app


def _verb(arguments: Sequence[str]) -> str:
    """The first word that is neither an option nor an option's value."""
    words = iter(arguments)
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"connector {__version__}")
        raise typer.Exit


def _globals(
    ctx: typer.Context,
    config: Annotated[Path, typer.Option(envvar="CONNECTOR_CONFIG", help="The configuration.")] = Path(
        "config/connector.yaml"
    ),
    log_format: Annotated[LogFormat, typer.Option(help="How log lines on stderr look.")] = LogFormat.CONSOLE,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    logs.setup(log_format.value)
    ctx.obj = Globals(config, log_format)
