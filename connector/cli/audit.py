"""`connector audit log, show, verify, keygen`: what was recorded, and the proof that it still is."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from connector import app as composition
from connector.audit.entry import StoredEntry
from connector.cli import evidence as evidence_cli
from connector.cli import questions as questions_cli
from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, Table, run_verb
from connector.errors import AuditBroken, ConnectorError, UsageError
from connector.ops import audit as ops
from connector.ops import evidence, keygen
from connector.ops.deep import Looked, look
from connector.staging import migrate, session
from connector.yamlpos import closest, shown

LIMIT = 20
PROGRESS_EVERY = 2_000

PartyOption = Annotated[str | None, typer.Option(help="Only this party; default: every party.")]


def register(app: typer.Typer) -> None:
    audit = typer.Typer(no_args_is_help=True, help="The audit log: read it, and prove that nobody changed it.")
    audit.command("log")(log)
    audit.command("show")(show)
    audit.command("verify")(verify)
    audit.command("keygen")(make_key)
    evidence_cli.register(audit)
    questions_cli.register(audit)
    app.add_typer(audit, name="audit")


def log(
    ctx: typer.Context,
    party: PartyOption = None,
    since: Annotated[int | None, typer.Option(min=0, help="The entries after this number, with --party.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="So many entries at most.")] = LIMIT,
    json: JsonOption = False,
) -> None:
    """The last entries, the newest at the end; with --since the entries that follow."""
    run_verb("audit log", json, lambda: _log(given(ctx), party, since, limit))


def show(
    ctx: typer.Context,
    party: Annotated[str, typer.Argument(help="The party.")],
    seq: Annotated[int, typer.Argument(min=1, help="The entry's number.")],
    json: JsonOption = False,
) -> None:
    """One entry whole, and whether it is linked and hashed as it should be."""
    run_verb("audit show", json, lambda: _show(given(ctx), party, seq))


def verify(
    ctx: typer.Context,
    party: PartyOption = None,
    noted: Annotated[
        list[str] | None, typer.Option(metavar="PARTY#SEQ=HASH", help="A head noted earlier; may be repeated.")
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also recompute the digest of every staged row; needs digest.key.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Recompute every hash, link and balance. Fails at the first entry that was changed, moved, added or removed."""
    options = given(ctx)
    run_verb("audit verify", json, lambda: _verify(options, party, noted or [], quiet=json, deep=deep))


def make_key(
    ctx: typer.Context,
    path: Annotated[Path | None, typer.Argument(help="Default: the file that audit.key names.")] = None,
    witness: Annotated[
        str | None, typer.Option(metavar="NAME", help="The key is a witness's, under this name: bawaslu.example/w.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make the Ed25519 key that signs the log's checkpoints; with --witness, one that cosigns another's."""
    run_verb("audit keygen", json, lambda: _make_key(given(ctx), path, witness))


@contextmanager
def opened(options: Globals) -> Iterator[psycopg.Connection]:
    """A session at a staging database of our schema."""
    config = options.load(check_secrets=False)
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector audit") as conn:
        migrate.require(conn)
        yield conn


# ------------------------------------------------------------------------------------------------- log, show


def _log(options: Globals, party: str | None, since: int | None, limit: int) -> Answer:
    if since is not None and party is None:
        raise UsageError("--since counts the entries of one party", hint="add --party PARTY")
    with opened(options) as conn:
        if since is not None and party is not None:
            entries = ops.since(conn, party, since, limit)
        else:
            entries = ops.recent(conn, party, limit)
        if not entries and party is not None:
            known = ops.parties(conn)
            if party not in known:
                raise UsageError(f"no entries of a party `{shown(party)}`", hint=closest(party, known))
    lines = [ops.line(entry) for entry in entries]
    rows = tuple((one.party, one.seq, one.at, one.act or one.kind, _span(one), one.counts or None) for one in lines)
    result = {
        "entries": [
            {**asdict(one), "hash": entry.hash, "body": entry.fields()}
            for one, entry in zip(lines, entries, strict=True)
        ]
    }
    summary = f"{len(rows)} entries" if rows else "no entries"
    return Answer(summary, result, (Table(("party", "entry", "at", "act", "positions", "what"), rows),) if rows else ())


def _span(line: ops.Line) -> str | None:
    if line.position_from == line.position_to:
        return line.position_to or None
    return f"{line.position_from} .. {line.position_to}"


def _show(options: Globals, party: str, seq: int) -> Answer:
    with opened(options) as conn:
        found = ops.show(conn, party, seq)
    # Escaped to ASCII: a name in an entry cannot reach the terminal's controls.
    text = json_module.dumps(found.body, indent=2)
    facts = f"{party}#{seq}: {found.size_bytes} bytes, leaf {found.leaf_hash.hex()}, hash {found.hash.hex()}"
    if not found.matches:
        error = AuditBroken(party, seq, "the entry does not match its hash or link", hint="connector audit verify")
        return Answer(facts, found, text=text, error=error)
    return Answer(facts, found, text=text)


# ------------------------------------------------------------------------------------------------- verify


def _verify(options: Globals, party: str | None, noted: list[str], *, quiet: bool, deep: bool) -> Answer:
    anchors = [ops.noted(text) for text in noted]
    with opened(options) as conn:
        watch = None if quiet or not sys.stderr.isatty() else _watched
        signing = evidence.public_signing(options.load(check_secrets=False))
        verified = ops.verify_log(conn, party, anchors, watch, signing)
        if party is not None and party not in verified.heads and not verified.verdict.breaches:
            raise UsageError(f"no entries of a party `{shown(party)}`", hint=closest(party, ops.parties(conn)))
        if party is None:
            ops.note_verified(conn, verified)
        looked = _look(conn, options, party) if deep else ()
    verdict = verified.verdict
    heads = {name: ops.note(name, head) for name, head in sorted(verified.heads.items())}
    result = {
        "audit_verified": ops.error_of(verified) is None,
        "entries": verdict.entries,
        "breaches": [asdict(breach) for breach in verdict.breaches],
        "heads": heads,
        "anchored": bool(noted) or bool(verified.tree and verified.tree.signed),
        "tree": verified.tree,
        "guards_off": verified.guards_off,
        "rows": looked,
    }
    said, tables = [_summary(verified, noted)], _tables(verified, heads)
    if deep:
        said.append(_rows_summary(looked))
        tables = (*tables, *_row_tables(looked))
    return Answer("\n".join(said), result, tables, error=ops.error_of(verified) or _rows_error(looked))


def _look(conn: psycopg.Connection, options: Globals, party: str | None) -> tuple[Looked, ...]:
    """Look at the rows of one party or of all."""
    config = options.load(check_secrets=False)
    keys = composition.digest_keys(config)
    names = [config.party(party).name] if party is not None else list(config.parties)
    found = (look(conn, plan, keys) for name in names for plan in composition.party_plans(config, name))
    return tuple(one for one in found if one is not None)


def _rows_summary(looked: tuple[Looked, ...]) -> str:
    rows, skipped = sum(one.rows for one in looked), sum(one.skipped for one in looked)
    wrong = sum(suspect.rows for one in looked for suspect in one.suspects)
    said = f"{rows:,} staged rows looked at; " + (f"{wrong:,} are not as batches left them" if wrong else "all fit")
    return said + (f" ({skipped:,} are of another mapping and were not)" if skipped else "")


def _row_tables(looked: tuple[Looked, ...]) -> tuple[Table, ...]:
    rows = tuple(
        (one.party, suspect.entity, suspect.rows, suspect.what, ", ".join(suspect.keys) or None)
        for one in looked
        for suspect in one.suspects
    )
    return (Table(("party", "entity", "rows", "what", "keys"), rows),) if rows else ()


def _rows_error(looked: tuple[Looked, ...]) -> RowsChanged | None:
    for one in looked:
        for suspect in one.suspects:
            hint = "who wrote to staging behind the connector? connector resync puts the rows right"
            return RowsChanged(f"{suspect.rows:,} rows: {suspect.what}", hint=hint, place=f"{one.party}/{one.entity}")
    return None


class RowsChanged(ConnectorError):
    """Staged rows are not those that batches wrote."""


def _summary(verified: ops.Verified, noted: list[str]) -> str:
    verdict = verified.verdict
    count = sum(verdict.entries.values())
    if verdict.breaches:
        where = ", ".join(f"{breach.party}#{breach.seq}" for breach in verdict.breaches)
        said = [f"{count:,} entries read; BROKEN at {where}"]
    elif not count:
        said = ["the audit log is empty"]
    else:
        said = [f"{count:,} entries of {len(verdict.entries)} parties verified: none changed, moved, added or removed"]
        if not noted and not (verified.tree and verified.tree.signed):
            said.append("no noted head was given: that a whole log was written anew is not excluded (see --noted)")
    if verified.tree is not None and (count or verified.tree.size or verified.tree.breaches):
        said.append(_tree(verified.tree))
    if verified.guards_off:
        said.append(f"switched off in the database: {', '.join(verified.guards_off)}; find out who did that, and when")
    return "\n".join(said)


def _tree(tree: evidence.TreeVerdict) -> str:
    """The tree in one line."""
    if tree.breaches:
        return "; ".join(f"tree BROKEN: {breach.place}: {breach.what}" for breach in tree.breaches)
    signed = f"{tree.signed:,} under {tree.checkpoints:,} signed checkpoints" if tree.signed else tree.unsigned_reason
    waiting = f"; {tree.waiting:,} entries wait for it" if tree.waiting else ""
    return f"tree of {tree.size:,} entries rebuilt; {signed}{waiting}"


def _tables(verified: ops.Verified, heads: dict[str, str]) -> tuple[Table, ...]:
    broken = {breach.party: breach for breach in verified.verdict.breaches}
    names = sorted({*heads, *verified.verdict.entries, *broken})
    rows = tuple(
        (
            name, verified.verdict.entries.get(name, 0),
            f"broken at {broken[name].seq}: {broken[name].what}" if name in broken else "whole", heads.get(name),
        )
        for name in names
    )  # fmt: skip
    return (Table(("party", "entries", "log", "head, to be noted elsewhere"), rows),) if rows else ()


def _watched(entries: Iterator[StoredEntry], total: int) -> Iterable[StoredEntry]:
    """Pass entries on under a progress bar."""
    columns = (TextColumn("verifying"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task("verifying", total=total)
        for count, entry in enumerate(entries, 1):
            if count % PROGRESS_EVERY == 0:
                progress.update(task, completed=count)
            yield entry


# ------------------------------------------------------------------------------------------------- keygen


def _make_key(options: Globals, path: Path | None, witness: str | None) -> Answer:
    if witness is not None and path is None:
        raise UsageError("a witness's key needs a file of its own", hint="connector audit keygen PATH --witness NAME")
    if path is None:
        path = keygen.place_for(options.load(check_secrets=False).audit.key, "audit.key")
    name = witness if witness is not None else options.load(check_secrets=False).audit.origin
    public = keygen.make_audit_key(path)
    verifier = keygen.verifier(public, name, witness=witness is not None)
    pem = keygen.public_pem(public)
    told = "give this public key to whoever checks the log, by another way than ours"
    summary = f"wrote {path}; {told}:\n{verifier}\n{pem}"
    return Answer(summary, {"path": path, "public_key": pem, "vkey": verifier})
