"""`connector audit checkpoint, consistency, prove, receipt, export, verifier, cosign, take`: the log for others."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import psycopg
import typer

import connector.audit.verifier as single_file
from connector.audit import note, witness
from connector.audit import timestamp as stamps
from connector.audit.note import Algorithm, NoteError, Signer, Verifier
from connector.cli.match import match
from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, run_verb
from connector.cli.wish import TargetArgument, WaitOption, told
from connector.credentials import Secret
from connector.errors import EnvironmentMissing, UsageError
from connector.ops import evidence, wishes
from connector.settings import Config
from connector.staging import migrate, session
from connector.staging.retention import KEEP_DAYS_MIN

PartyArgument = Annotated[str, typer.Argument(help="The party.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Write it there; default: standard output.")]


def register(audit: typer.Typer) -> None:
    for name, verb in (
        ("checkpoint", checkpoint),
        ("consistency", consistency),
        ("prove", prove),
        ("receipt", receipt),
        ("export", export),
        ("verifier", verifier),
        ("cosign", cosign),
        ("take", take),
        ("match", match),
        ("timestamp", timestamp),
        ("prune", prune),
    ):
        audit.command(name)(verb)


def checkpoint(ctx: typer.Context, json: JsonOption = False) -> None:
    """Print the newest signed checkpoint: what a witness cosigns, and what anybody may keep."""
    run_verb("audit checkpoint", json, lambda: _checkpoint(given(ctx)))


def consistency(
    ctx: typer.Context,
    old: Annotated[int, typer.Argument(min=0, help="The smaller size.")],
    new: Annotated[int | None, typer.Argument(min=0, help="The larger size; default: the newest checkpoint's.")] = None,
    json: JsonOption = False,
) -> None:
    """Print the proof that nothing was removed or changed between two sizes of the log (one base64 hash a line)."""
    run_verb("audit consistency", json, lambda: _consistency(given(ctx), old, new))


def prove(
    ctx: typer.Context,
    party: PartyArgument,
    seq: Annotated[int, typer.Argument(min=1, help="The entry's number.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the proof there, and the entry beside it.")] = None,
    json: JsonOption = False,
) -> None:
    """Print the proof that an entry is in the log (C2SP tlog-proof)."""
    run_verb("audit prove", json, lambda: _prove(given(ctx), party, seq, out))


def receipt(  # noqa: PLR0913 - an option each
    ctx: typer.Context,
    party: PartyArgument,
    since: Annotated[int, typer.Option(min=0, help="Entries after this number only.")] = 0,
    until: Annotated[int | None, typer.Option(min=1, help="Entries up to this number only.")] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="With keys, salts and digests of its rows: for the party's eyes only.")
    ] = False,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Make a party's receipt: its entries, each proved, in one file that can be verified offline."""
    span = evidence.Span(since, until, rows)
    run_verb("audit receipt", json, lambda: _receipt(given(ctx), party, span, out))


def export(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or one exported before.")],
    json: JsonOption = False,
) -> None:
    """Write the whole log as static files (C2SP tlog-tiles) that anybody can copy, serve and verify."""
    run_verb("audit export", json, lambda: _export(given(ctx), folder))


def verifier(json: JsonOption = False) -> None:
    """Print a program of one file that verifies logs, receipts and proofs without the connector."""
    run_verb("audit verifier", json, _verifier)


def cosign(  # noqa: PLR0913 - an option each
    current: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="The checkpoint to sign.")],
    key: Annotated[Path, typer.Option(help="The witness's private key.")],
    name: Annotated[str, typer.Option(help="The witness's name, as in its public key.")],
    log: Annotated[list[str], typer.Option(metavar="VKEY", help="The log's public key; may be repeated.")],
    state: Annotated[Path, typer.Option(help="The last checkpoint this witness signed; made the first time.")],
    proof: Annotated[Path | None, typer.Option(help="The consistency proof (connector audit consistency).")] = None,
    json: JsonOption = False,
) -> None:
    """Be a witness: sign a checkpoint if it extends the last one signed. Needs no configuration and no database."""
    run_verb("audit cosign", json, lambda: _cosign(current, Secret("file", str(key)), name, log, state, proof))


def take(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A checkpoint that a witness has signed.")],
    json: JsonOption = False,
) -> None:
    """Take a witness's cosignature in; it is given out with the checkpoint from then on."""
    run_verb("audit take", json, lambda: _take(given(ctx), file))


def timestamp(
    ctx: typer.Context,
    tsa: Annotated[str, typer.Option(help="The authority's URL.")],
    ca: Annotated[Path, typer.Option(help="Its root certificate (PEM), with intermediates.")],
    json: JsonOption = False,
) -> None:
    """Have the newest checkpoint stamped by a time-stamping authority (RFC 3161); for a timer, once a day."""
    run_verb("audit timestamp", json, lambda: _timestamp(given(ctx), tsa, ca))


def prune(
    ctx: typer.Context,
    target: TargetArgument,
    keep_days: Annotated[int, typer.Option(min=KEEP_DAYS_MIN, help="Keep the history of so many days.")],
    wait: WaitOption = 0,
    json: JsonOption = False,
) -> None:
    """Forget the history of rows beyond some days; the daemon does it, and the audit log says so. Entries stay."""
    run_verb("audit prune", json, lambda: _prune(given(ctx), target, keep_days, wait))


# ------------------------------------------------------------------------------------------------- bodies


def _checkpoint(options: Globals) -> Answer:
    with _opened(options.load(check_secrets=False)) as conn:
        found = evidence.newest_checkpoint(conn)
    size = note.Checkpoint.parse(found.text).size
    names = [one.name for one in found.signatures]
    return Answer(
        f"{size:,} entries, signed by {', '.join(names)}", {"size": size, "note": str(found)}, text=str(found)
    )


def _consistency(options: Globals, old: int, new: int | None) -> Answer:
    with _opened(options.load(check_secrets=False)) as conn:
        found = evidence.consistency(conn, old, new)
    lines = [base64.b64encode(one).decode() for one in found.proof]
    result = {"old": found.old, "new": found.new, "proof": lines}
    summary = f"{len(lines)} hashes prove that the first {found.old:,} of {found.new:,} entries are as they were"
    return Answer(summary, result, text="".join(f"{line}\n" for line in lines))


def _prove(options: Globals, party: str, seq: int, out: Path | None) -> Answer:
    with _opened(options.load(check_secrets=False)) as conn:
        found = evidence.prove(conn, party, seq)
    summary = f"{party}#{seq} is entry {found.index} of the log"
    result = {"party": party, "seq": seq, "index": found.index, "proof": found.proof, "entry": found.body.decode()}
    if out is None:
        return Answer(summary, result, text=found.proof)
    entry = out.with_suffix(".json")
    _write(out, found.proof.encode())
    _write(entry, found.body)
    return Answer(f"{summary}; wrote {out} and {entry}", result)


def _receipt(options: Globals, party: str, span: evidence.Span, out: Path | None) -> Answer:
    with _opened(options.load(check_secrets=False)) as conn:
        found = evidence.receipt(conn, party, span)
    summary = f"{found.entries:,} entries of {party} ({found.first} to {found.last}) proved in a log of {found.size:,}"
    result = {"party": party, "entries": found.entries, "first": found.first, "last": found.last, "size": found.size}
    if out is None:
        return Answer(summary, {**result, "receipt": found.text}, text=found.text)
    _write(out, found.text.encode())
    return Answer(f"{summary}; wrote {out}", {**result, "path": out})


def _export(options: Globals, folder: Path) -> Answer:
    config = options.load(check_secrets=False)
    verifiers = evidence.public_signing(config).verifiers
    with _opened(config) as conn:
        done = evidence.export(conn, folder, (*verifiers, *config.audit.witnesses))
    return Answer(f"{done.size:,} entries are in {done.folder}; {done.files:,} files written", done)


def _verifier() -> Answer:
    assert single_file.__file__ is not None
    return Answer("", None, text=Path(single_file.__file__).read_text(encoding="utf-8"))


def _cosign(current: Path, key: Secret, name: str, log: list[str], state: Path, proof: Path | None) -> Answer:
    previous = _read(state) if state.exists() else None
    try:
        verifiers = [Verifier.parse(one) for one in log]
        signer = Signer.load(key.reveal(), name)
        hashes = [base64.b64decode(line) for line in _read(proof).splitlines()] if proof is not None else []
        done = witness.cosign(_read(current), previous, hashes, verifiers, signer, int(time.time()))
    except (NoteError, ValueError) as exc:
        hint = "keep the checkpoint and what you signed before: two that do not fit prove a second history"
        raise UsageError(f"not signed: {exc}", hint=hint, place=str(current)) from None
    # What was signed is on disk before anybody sees the signature.
    _write(state, str(done).encode())
    size = note.Checkpoint.parse(done.text).size
    vkey = str(signer.verifier(Algorithm.COSIGNATURE))
    return Answer(
        f"cosigned {size:,} entries as {name}", {"size": size, "vkey": vkey, "note": str(done)}, text=str(done)
    )


def _take(options: Globals, file: Path) -> Answer:
    config = options.load(check_secrets=False)
    with _opened(config) as conn:
        try:
            size, who = witness.take(conn, _read(file), config.audit.witnesses)
        except NoteError as exc:
            raise UsageError(f"not taken: {exc}", hint="its key belongs in audit.witnesses", place=str(file)) from None
    return Answer(f"{size:,} entries are cosigned by {', '.join(who)}", {"size": size, "witnesses": who})


def _timestamp(options: Globals, tsa: str, ca: Path) -> Answer:
    roots = _read(ca).encode()
    with _opened(options.load(check_secrets=False)) as conn:
        checkpoint, _ = evidence.signed(conn)
        found = stamps.stamp(checkpoint, tsa, roots)
        stamps.keep(conn, found)
    said = f"{found.size:,} entries existed at {found.said:%Y-%m-%d %H:%M:%S} UTC, says {tsa}"
    return Answer(said, {"size": found.size, "tsa": tsa, "said": found.said, "token": found.token})


def _prune(options: Globals, target: str, keep_days: int, wait_s: float) -> Answer:
    config = options.load(check_secrets=False)
    with _opened(config) as conn:
        aim = wishes.target(conn, config, target)
        asked = wishes.ask(conn, "prune", aim, wishes.operator(), {"keep_days": keep_days})
        return told(conn, asked, wait_s)


@contextmanager
def _opened(config: Config) -> Iterator[psycopg.Connection]:
    """A session at a staging database of our schema."""
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector audit") as conn:
        migrate.require(conn)
        with session.translated("reading the audit tree"):
            yield conn


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UsageError("the file cannot be read, or is no text", place=str(path)) from None


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as exc:
        said = os.strerror(exc.errno or 0)
        raise EnvironmentMissing(f"the file cannot be written ({said})", place=str(path)) from None
