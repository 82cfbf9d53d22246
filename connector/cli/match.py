"""`connector audit match RECEIPT --mapping FILE --dsn DSN`: a party holds its receipts against its own view."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from connector import app as composition
from connector.cli.options import EMBEDDED_MAJOR, JsonOption
from connector.cli.output import Answer, Table, run_verb
from connector.credentials import Secret
from connector.embedded import Server, wheel_binaries
from connector.errors import ConnectorError
from connector.ops import match as ops
from connector.settings import Source
from connector.staging import migrate, session

KEYS_SHOWN = 20
COLUMNS = ("entity", *ops.KINDS)


class NotTheSame(ConnectorError):
    """What KPU recorded is not what the party's view says."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for on the command line."""

    receipts: tuple[Path, ...]
    log: tuple[str, ...]
    mapping: Path
    dsn: str
    engine: str
    jenis: str
    scratch: str | None


def match(  # noqa: PLR0913 - an option each
    receipts: Annotated[list[Path], typer.Argument(metavar="RECEIPT...", help="Made by `audit receipt --rows`.")],
    log: Annotated[list[str], typer.Option("--log", metavar="VKEY", help="The log's public key; may be repeated.")],
    mapping: Annotated[Path, typer.Option(help="The party's mapping file.")],
    dsn: Annotated[str, typer.Option(envvar="CONNECTOR_MATCH_DSN", help="The party's own database.")],
    engine: Annotated[str, typer.Option(help="postgresql, mariadb, sqlite ...")] = "postgresql",
    jenis: Annotated[str, typer.Option(help="NASIONAL or LOKAL_ACEH.")] = "NASIONAL",
    scratch: Annotated[
        str | None, typer.Option(help="An empty PostgreSQL database to map in; default: a server of its own.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run by a party: which rows of its own views KPU has recorded as they are, differently, or not at all."""
    asked = Asked(tuple(receipts), tuple(log), mapping, dsn, engine, jenis, scratch)
    run_verb("audit match", json, lambda: _match(asked))


def _match(asked: Asked) -> Answer:
    receipts = ops.read(asked.receipts, asked.log)
    source = Source(asked.engine, Secret.literal(asked.dsn), "diff", "", "")
    party = composition.open_own(asked.mapping, receipts.party, source, asked.jenis)
    found: list[ops.Matched] = []
    with _scratch(asked.scratch) as scratch, session.connect(scratch, application="connector match") as conn:
        with session.translated("preparing the scratch database"):
            migrate.apply(conn)
        with closing(party.open_view()) as view:
            for name, (plan, seen) in party.plans.items():
                shape = view.shape(name, seen.name, seen.key, seen.inputs)
                found.append(ops.match(conn, view, plan, shape, receipts.pages.get(name, ())))
    return _answer(receipts, found)


@contextmanager
def _scratch(dsn: str | None) -> Iterator[str]:
    """A database to map in: nothing of KPU's is in it, and nothing stays."""
    if dsn is not None:
        yield dsn
        return
    with tempfile.TemporaryDirectory(prefix="sipol-match-") as folder:
        Path(folder).chmod(0o755)
        server = Server.start(Path(folder) / "data", wheel_binaries(EMBEDDED_MAJOR), {"fsync": "off"})
        try:
            yield server.dsn()
        finally:
            server.destroy()


def _answer(receipts: ops.Receipts, found: list[ops.Matched]) -> Answer:
    wrong, same = sum(one.wrong for one in found), sum(one.rows["same"] for one in found)
    span = f"entries {receipts.first:,} to {receipts.last:,} of {receipts.party}"
    summary = f"{same:,} rows are recorded as your views have them, {wrong:,} are not ({span})"
    if not receipts.whole:
        summary += "; the receipts do not begin with entry 1: what is lacking may stand in an earlier one"
    if uncompared := sum(one.rows["erased"] + one.rows["other_mapping"] for one in found):
        summary += f"; {uncompared:,} cannot be compared (salt erased, or written under another mapping)"
    rows = tuple((one.entity, *(f"{one.rows[kind]:,}" for kind in ops.KINDS)) for one in found)
    keys = tuple((one.entity, key, kind) for one in found for key, kind in one.keys[:KEYS_SHOWN])
    tables = [Table(COLUMNS, rows), Table(("entity", "key", "is"), keys)]
    result = {"party": receipts.party, "first": receipts.first, "last": receipts.last, "whole": receipts.whole,
              "entities": [asdict(one) for one in found]}  # fmt: skip
    error: ConnectorError | None = None
    if wrong:
        hint = "changes of the last minutes are not in the receipt; ask for a new one, then for an answer"
        error = NotTheSame(f"{wrong:,} rows are not recorded as your views have them", hint=hint)
    return Answer(summary, result, tuple(table for table in tables if table.rows), error=error)
