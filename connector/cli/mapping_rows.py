"""`connector mapping dry-run | diff | init`: what a mapping makes of a party's rows, and a first one from its views."""

from __future__ import annotations

from contextlib import closing
from itertools import chain
from pathlib import Path

from connector import app as composition
from connector.cli.options import Globals, staging_dsn
from connector.cli.output import Answer, Table
from connector.errors import UsageError
from connector.mapping import document
from connector.mapping.contract import ENTITIES
from connector.mapping.program import ProgramOptions, compile_entity
from connector.mapping.reasons import REASONS
from connector.mapping.rules import Document
from connector.ops import mapping_diff, mapping_draft, trial
from connector.ops.inbox import Connection
from connector.ops.mapping_diff import EntityDiff
from connector.settings import Party
from connector.staging import migrate, session
from connector.view.postgres import PostgresView
from connector.view.sql import SqlView
from connector.yamlpos import closest

View = PostgresView | SqlView


# ------------------------------------------------------------------------------------------------- dry run


def dry_run(options: Globals, name: str, only: str | None, rows: int) -> Answer:
    config = options.load()
    party = config.party(name)
    loaded = document.load(party.mapping)
    if only is not None and only not in loaded.entities:
        raise UsageError(f"the mapping of {name} has no entity {only}", hint=f"it has: {', '.join(loaded.entities)}")
    entities = [only] if only else list(loaded.entities)
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector mapping dry-run") as conn:
        migrate.require(conn)
        with closing(composition.open_view(party, f"sipol connector {name} dry-run")) as view:
            trials = [_tried(conn, view, party, loaded, entity, rows) for entity in entities]
    return _answer(trials)


def _tried(conn: Connection, view: View, party: Party, loaded: Document, entity: str, rows: int) -> trial.Trial:
    program = compile_entity(loaded, entity, ProgramOptions(party.parpol_id, party.jenis))
    shape = view.shape(entity, program.view, program.key, program.inputs)
    view.begin()
    try:
        with session.translated(f"trying {entity}"):
            # Rows without a key come in no chunk, and are refused all the same.
            blocks = chain(view.chunk(shape, None, rows), view.null_keys(shape, rows))
            return trial.dry_run(conn, program, loaded.entities[entity], blocks)
    finally:
        view.end()


def _answer(trials: list[trial.Trial]) -> Answer:
    read, passed = sum(one.read for one in trials), sum(one.passed for one in trials)
    totals = Table(
        ("entity", "read", "would pass", "would be refused"),
        tuple((one.entity, one.read, one.passed, one.refused) for one in trials),
    )
    reasons = Table(
        ("entity", "reason", "column", "rows", "keys", "what to do"),
        tuple(
            (one.entity, seen.reason, seen.column or None, seen.rows, " ".join(seen.keys), _advice(seen.reason))
            for one in trials
            for seen in one.reasons
        ),
    )
    findings = Table(
        ("entity", "finding", "rows", "what to do"),
        tuple((one.entity, code, rows, _advice(code)) for one in trials for code, rows in one.findings.items()),
    )
    codes = Table(
        ("entity", "column", "code without an entry", "rows"),
        tuple((one.entity, seen.column, seen.code, seen.rows) for one in trials for seen in one.codes),
    )
    places = Table(
        ("entity", "region not found", "rows"),
        tuple((one.entity, place, rows) for one in trials for place, rows in one.places),
    )
    tables = tuple(table for table in (totals, reasons, findings, codes, places) if table.rows)
    return Answer(f"{passed} of {read} rows would be staged; nothing was", trials, tables)


def _advice(code: str) -> str | None:
    return REASONS[code].english if code in REASONS else None


# ------------------------------------------------------------------------------------------------- diff


def diff(options: Globals, old: Path, new: Path, rows: int) -> Answer:
    before, after = document.load(old), document.load(new)
    if before.party != after.party:
        raise UsageError(f"{old} is for {before.party}, {new} for {after.party}", hint="compare one party's mappings")
    config = options.load()
    party = config.party(after.party)
    both = [name for name in after.entities if name in before.entities]
    diffs: list[EntityDiff] = []
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector mapping diff") as conn:
        migrate.require(conn)
        with closing(composition.open_view(party, f"sipol connector {party.name} mapping diff")) as view:
            for name in both:
                pair = [
                    compile_entity(loaded, name, ProgramOptions(party.parpol_id, party.jenis))
                    for loaded in (before, after)
                ]
                view.begin()
                try:
                    with session.translated(f"comparing mappings of {name}"):
                        diffs.append(mapping_diff.compare(conn, view, (pair[0], pair[1]), rows))
                finally:
                    view.end()
    added = [name for name in after.entities if name not in before.entities]
    dropped = [name for name in before.entities if name not in after.entities]
    return _difference(diffs, added, dropped, rows)


def _difference(diffs: list[EntityDiff], added: list[str], dropped: list[str], rows: int) -> Answer:
    totals = Table(
        ("entity", "read", "same", "changed", "refused now", "passes now", "refused still", "gone", "new", "no key"),
        tuple(
            (
                one.entity, one.read, one.same, one.changed, one.refused, one.released, one.still_refused, one.gone,
                one.new, one.uncounted,
            )
            for one in diffs
        ),
    )  # fmt: skip
    details = [
        _changes("column that changes", [(one.entity, one.columns) for one in diffs]),
        _changes("reason", [(one.entity, one.reasons) for one in diffs]),
        _changes("finding", [(one.entity, one.findings) for one in diffs]),
    ]
    read, moved = sum(one.read for one in diffs), sum(one.moved for one in diffs)
    told = [f"{moved:,} of {read:,} rows would be staged otherwise; nothing was"]
    told += [f"{one.entity}: only its first {rows:,} rows were read" for one in diffs if one.read >= rows]
    told += [f"{name} is new" for name in added] + [f"{name} is left out" for name in dropped]
    result = {"entities": diffs, "added": added, "dropped": dropped, "moved": moved}
    return Answer("; ".join(told), result, tuple(table for table in (totals, *details) if table.rows))


def _changes(head: str, seen: list[tuple[str, tuple[mapping_diff.Change, ...]]]) -> Table:
    rows = tuple((entity, one.what, one.rows, " ".join(one.keys)) for entity, changes in seen for one in changes)
    return Table(("entity", head, "rows", "keys"), rows)


# ------------------------------------------------------------------------------------------------- init


def init(options: Globals, name: str, wanted: list[str], rows: int) -> Answer:
    config = options.load(check_mappings=False)
    party = config.party(name)
    asked = [_asked(text) for text in wanted]
    looked = []
    with (
        staging_dsn(config) as dsn,
        session.connect(dsn, application="connector mapping init") as conn,
        closing(composition.open_view(party, f"sipol connector {name} mapping init")) as view,
    ):
        readable = view.readable()
        for entity, seen in asked:
            view.begin()
            try:
                with session.translated(f"looking at {'.'.join(seen)}"):
                    looked.append(mapping_draft.look(conn, view, entity, seen, rows))
            finally:
                view.end()
    text = mapping_draft.draft(name, looked, readable)
    return Answer("", text=text.rstrip("\n"))


def _asked(text: str) -> tuple[str, tuple[str, str]]:
    """`ENTITY=SCHEMA.VIEW`."""
    entity, equals, view = text.partition("=")
    schema, dot, name = view.partition(".")
    if not (equals and dot and schema and name):
        raise UsageError(f"`{text}` is not ENTITY=SCHEMA.VIEW", hint="--entity anggota=ekspor.v_anggota")
    if entity not in ENTITIES:
        raise UsageError(f"there is no entity `{entity}`", hint=closest(entity, ENTITIES) or ", ".join(ENTITIES))
    return entity, (schema, name)
