"""`connector audit history, sent, mapping, acts, outages, between`: an auditor's questions, one command each."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import psycopg
import typer

from connector import app as composition
from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, Table, run_verb
from connector.errors import UsageError
from connector.ops import evidence, paper, questions, subject
from connector.ops.paper import Bars, Paper, Sheet
from connector.ops.quarantine import masked
from connector.settings import Config
from connector.staging import migrate, session
from connector.staging.history import History

ROWS_SHOWN = 100
_NOTE = "Every line names the audit entries (PARTY#NUMBER) that it stands on: connector audit show, prove and receipt."

FromOption = Annotated[str | None, typer.Option("--from", help="A day or a time (UTC where none is said).")]
ToOption = Annotated[str | None, typer.Option("--to", help="A day (included) or a time.")]
PartyOption = Annotated[str | None, typer.Option("--party", help="Only this party.")]
CsvOption = Annotated[Path | None, typer.Option("--csv", help="Also write the tables there, harmless to spreadsheets.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Also write a page to print there.")]


@dataclass(frozen=True, slots=True)
class Ways:
    """How an answer is given besides on the screen."""

    csv: Path | None
    html: Path | None
    json: bool


def register(audit: typer.Typer) -> None:
    for name, verb in (
        ("history", history),
        ("sent", sent),
        ("mapping", mapping),
        ("acts", acts),
        ("outages", outages),
        ("between", between),
    ):
        audit.command(name)(verb)


def history(
    ctx: typer.Context,
    target: Annotated[str | None, typer.Argument(metavar="PARTY/ENTITY/KEY", help="A row by its key.")] = None,
    nik: Annotated[str | None, typer.Option(help="A person, by the NIK; `-` reads it from standard input.")] = None,
    csv: CsvOption = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Every batch that touched a row, or any row of a person: operation, commitments before and after, mapping."""
    run_verb("audit history", json, lambda: _history(given(ctx), target, nik, Ways(csv, html, json)))


def sent(  # noqa: PLR0913
    ctx: typer.Context,
    party: Annotated[str, typer.Argument(help="The party.")],
    since: FromOption = None,
    until: ToOption = None,
    csv: CsvOption = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """What a party sent between two dates, as its batches counted it."""
    run_verb("audit sent", json, lambda: _sent(given(ctx), party, (since, until), Ways(csv, html, json)))


def mapping(  # noqa: PLR0913
    ctx: typer.Context,
    party: Annotated[str, typer.Argument(help="The party.")],
    version: Annotated[str, typer.Argument(help="The mapping's version.")],
    keys: Annotated[int, typer.Option(min=0, max=1_000_000, help="Name so many changed rows.")] = 0,
    csv: CsvOption = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Which rows changed under a version of a party's mapping."""
    run_verb("audit mapping", json, lambda: _mapping(given(ctx), (party, version), keys, Ways(csv, html, json)))


def acts(  # noqa: PLR0913
    ctx: typer.Context,
    party: PartyOption = None,
    since: FromOption = None,
    until: ToOption = None,
    every: Annotated[bool, typer.Option("--all", help="Also what the connector did by itself.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="So many of the newest.")] = 1_000,
    csv: CsvOption = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Every manual act: who asked for what, when, and what came of it."""
    how = (questions.Span.of(since, until), limit, not every)
    run_verb("audit acts", json, lambda: _acts(given(ctx), party, how, Ways(csv, html, json)))


def outages(  # noqa: PLR0913
    ctx: typer.Context,
    party: PartyOption = None,
    since: FromOption = None,
    until: ToOption = None,
    csv: CsvOption = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Every time in which a party or an entity was not followed, and why."""
    run_verb("audit outages", json, lambda: _outages(given(ctx), party, (since, until), Ways(csv, html, json)))


def between(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(help="A checkpoint: a file, or its number of entries.")],
    new: Annotated[str, typer.Argument(help="A later one.")],
    csv: CsvOption = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Was anything removed or changed between two checkpoints? Proves it, or says where it fails."""
    run_verb("audit between", json, lambda: _between(given(ctx), old, new, Ways(csv, html, json)))


# ------------------------------------------------------------------------------------------------- bodies


def _history(options: Globals, target: str | None, nik: str | None, ways: Ways) -> Answer:
    if (target is None) == (nik is None):
        raise UsageError("one of PARTY/ENTITY/KEY and --nik", hint="connector audit history alfa/anggota/a-17")
    with _opened(options) as (conn, config):
        if target is not None:
            party, entity, key = (*target.split("/", 2), "", "")[:3]
            if not key:
                raise UsageError("PARTY/ENTITY/KEY names a row", hint="connector audit history alfa/anggota/a-17")
            found = [questions.of_key(conn, config, entity, key, party)]
            about = target
        else:
            number = subject.number(sys.stdin.readline() if nik == "-" else str(nik))
            keys = composition.digest_keys(config)
            places = subject.find(conn, number, keys.nik_hmac(number)).places
            rows = dict.fromkeys((one.party, one.entity, one.key) for one in places)
            # A key may be the number itself.
            found = [
                replace(questions.of_key(conn, config, entity, key, party), key=masked(key))
                for party, entity, key in rows
            ]
            about = "a person"
    steps = sum(len(one.steps) for one in found)
    said = f"{about}: {len(found)} rows, changed {steps:,} times"
    if any(one.steps and not one.whole for one in found):
        said += "; the journal does not go back to the beginning of every row (retention, or an erasure)"
    sheets = tuple(_steps(one) for one in found)
    return _answer(Paper(f"History of {about}", said, sheets, note=_NOTE), ways, {"rows": found})


def _steps(found: History) -> Sheet:
    """The oldest first. Digests are salted: the same row has another one in each batch."""
    befores = [one.digest.hex() if one.digest else None for one in found.steps[1:]]
    rows = tuple(
        (
            f"{one.ended_at:%Y-%m-%d %H:%M:%S}", f"{found.party}#{one.seq}", one.batch,
            "deleted" if one.gone else "changed" if one.prior else "inserted", one.mapping_version,
            before if one.prior else None, one.digest.hex() if one.digest else None,
        )
        for one, before in zip(found.steps, [*befores, None], strict=False)
    )  # fmt: skip
    state = found.state + (f", refused as {', '.join(found.refused_as)}" if found.refused_as else "")
    title = f"{found.party}/{found.entity}/{found.key}: {state}"
    return Sheet(title, ("at", "entry", "batch", "operation", "mapping", "before", "after"), rows[::-1])


def _sent(options: Globals, party: str, when: tuple[str | None, str | None], ways: Ways) -> Answer:
    span = questions.Span.of(*when)
    with _opened(options) as (conn, _):
        found, days = questions.sent(conn, party, span)
    said = f"{party}: {sum(one.read for one in found):,} rows read in {sum(one.batches for one in found):,} batches"
    bars = Bars("Rows changed, by day", tuple((str(one.day), one.changed) for one in days))
    return _answer(
        Paper(f"What {party} sent", said, (_sent_sheet(party, found),), (bars,), _NOTE), ways,
        {"party": party, "entities": found, "days": days},
    )  # fmt: skip


def _sent_sheet(party: str, found: list[questions.Sent]) -> Sheet:
    columns = (
        "entity", "mapping", "batches", "read", "inserted", "updated", "unchanged", "refused", "deleted", "entries",
        "first", "last",
    )  # fmt: skip
    rows = tuple(
        (
            one.entity, one.mapping_version, one.batches, one.read, one.inserted, one.updated, one.unchanged,
            one.quarantined, one.deleted, f"{party}#{one.first_seq} .. #{one.last_seq}",
            f"{one.first_at:%Y-%m-%d %H:%M}", f"{one.last_at:%Y-%m-%d %H:%M}",
        )
        for one in found
    )  # fmt: skip
    return Sheet("By entity and mapping", columns, rows)


def _mapping(options: Globals, of: tuple[str, str], keys: int, ways: Ways) -> Answer:
    party, version = of
    with _opened(options) as (conn, _):
        found, days = questions.sent(conn, party, questions.Span(), version)
        rows = questions.changed_keys(conn, party, version, keys) if keys else []
    changed = sum(one.inserted + one.updated + one.deleted for one in found)
    said = f"{changed:,} rows of {party} changed under mapping version {version}"
    sheets = [_sent_sheet(party, found)]
    if rows:
        sheets.append(Sheet("Rows", ("entity", "key", "is"), tuple(rows)))
    bars = Bars("Rows changed, by day", tuple((str(one.day), one.changed) for one in days))
    result = {"party": party, "version": version, "changed": changed, "entities": found, "rows": rows}
    return _answer(Paper(f"Mapping {version} of {party}", said, tuple(sheets), (bars,), _NOTE), ways, result)


def _acts(options: Globals, party: str | None, how: tuple[questions.Span, int, bool], ways: Ways) -> Answer:
    span, limit, manual = how
    with _opened(options) as (conn, _):
        found = questions.acts(conn, party, span, limit, manual=manual)
    rows = tuple((one.at, f"{one.party}#{one.seq}", one.act, one.entity, one.asked_by, one.what) for one in found)
    sheet = Sheet("Acts", ("at", "entry", "act", "entity", "asked by", "what"), rows)
    counted = Counter(one.act for one in found)
    who = f"of {party}" if party else "of every party"
    said = f"{len(found):,} {'manual acts' if manual else 'acts'} {who}"
    bars = Bars("Acts, by kind", tuple(counted.most_common()))
    return _answer(Paper("Acts", said, (sheet,), (bars,), _NOTE), ways, {"acts": found})


def _outages(options: Globals, party: str | None, when: tuple[str | None, str | None], ways: Ways) -> Answer:
    span = questions.Span.of(*when)
    with _opened(options) as (conn, _):
        found = questions.outages(conn, party, span)
    rows = tuple(
        (
            one.since, one.until or "goes on", one.party, one.entity, one.reason,
            f"{one.party}#{one.first_seq}" + (f", #{one.last_seq}" if one.last_seq and one.until else ""),
        )
        for one in found
    )  # fmt: skip
    sheet = Sheet("Outages", ("from", "to", "party", "entity", "reason", "entries"), rows)
    going_on = sum(one.until is None for one in found)
    said = f"{len(found):,} outages" + (f", {going_on:,} of them go on" if going_on else "")
    bars = Bars("Outages, by reason", tuple(Counter(one.reason for one in found).most_common()))
    return _answer(Paper("Outages", said, (sheet,), (bars,), _NOTE), ways, {"outages": found})


def _between(options: Globals, old: str, new: str, ways: Ways) -> Answer:
    with _opened(options) as (conn, config):
        verifiers = evidence.public_signing(config).verifiers
        found = questions.between(conn, _text(old), _text(new), verifiers)
    said = f"nothing was removed or changed: the first {found.old:,} of {found.new:,} entries are as they were"
    said += f" ({found.hashes} hashes prove it{'' if found.signed else '; no key is known: signatures not checked'})"
    rows = tuple((party, count, f"#{first} .. #{last}") for party, count, first, last in found.came)
    sheet = Sheet("What came in between", ("party", "entries", "numbers"), rows)
    bars = Bars("Entries in between, by party", tuple((row[0], row[1]) for row in rows))
    return _answer(Paper("Between two checkpoints", said, (sheet,), (bars,), _NOTE), ways, found)


def _text(given_as: str) -> str:
    """A checkpoint's file as text; a number as it is."""
    if given_as.isdigit():
        return given_as
    try:
        return Path(given_as).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UsageError("the checkpoint cannot be read", place=given_as) from None


# ------------------------------------------------------------------------------------------------- answering


def _answer(made: Paper, ways: Ways, result: object) -> Answer:
    said = made.said
    for path, text in ((ways.csv, paper.as_csv), (ways.html, paper.as_html)):
        if path is not None:
            paper.write(path, text(made))
            said += f"; wrote {path}"
    tables = tuple(_shown(sheet) for sheet in made.sheets if sheet.rows)
    if any(len(sheet.rows) > ROWS_SHOWN for sheet in made.sheets):
        said += f"; {ROWS_SHOWN} rows of a table are shown, --csv, --html and --json have all"
    return Answer(said, result, tables)


def _shown(sheet: Sheet) -> Table:
    return Table(sheet.columns, sheet.rows[-ROWS_SHOWN:], sheet.title)


@contextmanager
def _opened(options: Globals) -> Iterator[tuple[psycopg.Connection, Config]]:
    config = options.load(check_secrets=False)
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector audit") as conn:
        migrate.require(conn)
        yield conn, config
