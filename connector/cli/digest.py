"""`connector digest keygen`: the key of row digests and of nik_hmac, which KPU alone holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from connector.cli.options import Globals, JsonOption, given
from connector.cli.output import Answer, run_verb
from connector.ops import keygen


def register(app: typer.Typer) -> None:
    digest = typer.Typer(no_args_is_help=True, help="The key of row digests.")
    digest.command("keygen")(make_key)
    app.add_typer(digest, name="digest")


def make_key(
    ctx: typer.Context,
    path: Annotated[Path | None, typer.Argument(help="Default: the file that digest.key names.")] = None,
    json: JsonOption = False,
) -> None:
    """Make the key that digests of rows and of NIKs are keyed with."""
    run_verb("digest keygen", json, lambda: _make_key(given(ctx), path))


def _make_key(options: Globals, path: Path | None) -> Answer:
    if path is None:
        path = keygen.place_for(options.load(check_secrets=False).digest.key, "digest.key")
    keygen.make_digest_key(path)
    summary = f"wrote {path}; with another key every digest differs: keep a copy where staging's backups are not"
    return Answer(summary, {"path": path})
