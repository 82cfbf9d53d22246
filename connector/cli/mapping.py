"""`connector mapping lint | test | sql | dry-run`: a mapping file, from reading it to trying it on real rows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from connector.cli.options import EMBEDDED_MAJOR, Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, Table, run_verb
from connector.config import Party
from connector.embedded import Server, wheel_binaries
from connector.errors import ConnectorError, MappingError, UsageError
from connector.mapping import document
from connector.mapping.program import ProgramOptions, compile_entity
from connector.mapping.reasons import REASONS
from connector.mapping.rules import Document
from connector.ops import trial
from connector.ops.program_text import program_text
from connector.staging import migrate, session
from connector.view.postgres import PostgresView

# Enough to meet every habit of a party's data entry, and read in about a second.
ROWS_DEFAULT = 10_000
ROWS_MAX = 1_000_000

FileArgument = Annotated[Path, typer.Argument(help="A mapping file.")]


class Jenis(Enum):
    """Which kind of party a file is for: a local party of Aceh may go without NIK."""

    NASIONAL = "NASIONAL"
    LOKAL_ACEH = "LOKAL_ACEH"


JenisOption = Annotated[Jenis, typer.Option(help="The kind of party.")]


class ExamplesFailed(ConnectorError):
    """Tests of a mapping file did not come out as the file says: exit code 1."""


def register(app: typer.Typer) -> None:
    verbs = typer.Typer(
        help="Check a mapping file, run its tests, print its SQL, try it on real rows.", no_args_is_help=True
    )

    @verbs.command("lint")
    def lint(
        ctx: typer.Context,
        files: Annotated[
            list[Path] | None, typer.Argument(help="Mapping files; default: those of all parties.")
        ] = None,
        json: JsonOption = False,
    ) -> None:
        """Check mapping files without a database."""
        run_verb("mapping lint", json, lambda: _lint(given(ctx), files or []))

    @verbs.command("sql")
    def sql(
        file: FileArgument,
        entity: Annotated[str | None, typer.Argument(help="Only this entity; default: every entity.")] = None,
        jenis: JenisOption = Jenis.NASIONAL,
        json: JsonOption = False,
    ) -> None:
        """Print the SQL that a mapping compiles to."""
        run_verb("mapping sql", json, lambda: _sql(file, entity, jenis))

    @verbs.command("schema")
    def schema(json: JsonOption = False) -> None:
        """Print the JSON Schema of mapping files, for editors; schemas/mapping.schema.json is its copy."""
        run_verb("mapping schema", json, lambda: Answer("", text=document.schema_text()))

    @verbs.command("test")
    def test(
        ctx: typer.Context,
        file: FileArgument,
        on_staging: Annotated[
            bool, typer.Option("--on-staging", help="On the configured staging, not on a server made for it.")
        ] = False,
        jenis: JenisOption = Jenis.NASIONAL,
        json: JsonOption = False,
    ) -> None:
        """Run the tests that a mapping file carries."""
        run_verb("mapping test", json, lambda: _test(given(ctx), file, on_staging, jenis))

    @verbs.command("dry-run")
    def dry_run(
        ctx: typer.Context,
        party: Annotated[str, typer.Argument(help="The party's name in the configuration.")],
        entity: Annotated[str | None, typer.Argument(help="Only this entity; default: every entity.")] = None,
        rows: Annotated[int, typer.Option(min=1, max=ROWS_MAX, help="Rows of each view to try.")] = ROWS_DEFAULT,
        json: JsonOption = False,
    ) -> None:
        """Map rows of the party's views and stage none: how many would pass, and why the others would not."""
        run_verb("mapping dry-run", json, lambda: _dry_run(given(ctx), party, entity, rows))

    app.add_typer(verbs, name="mapping")


# ------------------------------------------------------------------------------------------------- lint, sql


def _lint(options: Globals, files: list[Path]) -> Answer:
    paths = files or [party.mapping for party in options.load(check_secrets=False).parties.values()]
    problems: list[str] = []
    rows: list[tuple[object, ...]] = []
    for path in paths:
        try:
            loaded = document.load(path)
        except MappingError as error:
            problems += error.problems or (str(error),)
        else:
            rows += [(path, *row) for row in _contents(loaded)]
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise MappingError(count, problems=tuple(problems), hint="schemas/README.md is the reference")
    columns = ("file", "entity", "view", "columns", "tests", "version", "digest")
    result = [dict(zip(columns, row, strict=True)) for row in rows]
    shown = tuple((*row[:-1], str(row[-1])[:12]) for row in rows)
    good = "the mapping file is good" if len(paths) == 1 else f"{len(paths)} mapping files are good"
    return Answer(good, result, (Table(columns, shown),))


def _contents(loaded: Document) -> Iterator[tuple[object, ...]]:
    for mapping in loaded.entities.values():
        view = ".".join(mapping.view)
        yield mapping.name, view, len(mapping.rules), len(mapping.examples), loaded.version, loaded.digest


def _sql(file: Path, entity: str | None, jenis: Jenis) -> Answer:
    loaded = document.load(file)
    options = ProgramOptions(parpol_id=0, jenis=jenis.value)
    programs = [compile_entity(loaded, name, options) for name in ([entity] if entity else loaded.entities)]
    return Answer(f"{len(programs)} programs of {loaded.party}", text="\n".join(map(program_text, programs)))


# ------------------------------------------------------------------------------------------------- test


def _test(options: Globals, file: Path, on_staging: bool, jenis: Jenis) -> Answer:
    loaded = document.load(file)
    if not any(mapping.examples for mapping in loaded.entities.values()):
        return Answer(f"{file} has no tests", [])
    with (
        _server(options, on_staging) as dsn,
        session.connect(dsn, application="connector mapping test") as conn,
        session.translated("running the tests"),
    ):
        verdicts = trial.examples(conn, loaded, ProgramOptions(parpol_id=0, jenis=jenis.value))
    failed = [verdict for verdict in verdicts if not verdict.ok]
    rows = tuple(
        (f"{file}:{verdict.line}", verdict.entity, verdict.name, "ok" if verdict.ok else "; ".join(verdict.problems))
        for verdict in verdicts
    )
    error = ExamplesFailed(f"{len(failed)} of {len(verdicts)} tests failed", place=str(file)) if failed else None
    summary = f"{len(verdicts) - len(failed)} of {len(verdicts)} tests passed"
    return Answer(summary, verdicts, (Table(("place", "entity", "test", "outcome"), rows),), error=error)


@contextmanager
def _server(options: Globals, on_staging: bool) -> Iterator[str]:
    """A migrated staging database: the configured one, or a server of our own that is gone afterwards."""
    if on_staging:
        with staging_dsn(options.load()) as dsn, session.connect(dsn, application="connector mapping test") as conn:
            migrate.require(conn)
            yield dsn
        return
    with tempfile.TemporaryDirectory(prefix="sipol-mapping-") as folder:
        Path(folder).chmod(0o755)  # the server may run as another user
        server = Server.start(Path(folder) / "staging", wheel_binaries(EMBEDDED_MAJOR), {"fsync": "off"})
        try:
            with session.connect(server.dsn(), application="connector mapping test") as conn:
                migrate.apply(conn)
            yield server.dsn()
        finally:
            server.destroy()


# ------------------------------------------------------------------------------------------------- dry run


def _dry_run(options: Globals, name: str, only: str | None, rows: int) -> Answer:
    config = options.load()
    party = config.party(name)
    loaded = document.load(party.mapping)
    if only is not None and only not in loaded.entities:
        raise UsageError(f"the mapping of {name} has no entity {only}", hint=f"it has: {', '.join(loaded.entities)}")
    if party.source.engine != "postgresql":
        raise UsageError(f"this version cannot read views of {party.source.engine} yet", place=name)
    entities = [only] if only else list(loaded.entities)
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector mapping dry-run") as conn:
        migrate.require(conn)
        view = PostgresView(
            party.source.dsn.reveal(),
            application=f"sipol connector {name} dry-run",
            statement_timeout_s=party.limits.statement_timeout_s,
            cell_bytes_max=party.limits.cell_bytes_max,
        )
        with closing(view):
            trials = [_tried(conn, view, party, loaded, entity, rows) for entity in entities]
    return _answer(trials)


def _tried(
    conn: trial.Connection, view: PostgresView, party: Party, loaded: Document, entity: str, rows: int
) -> trial.Trial:
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
