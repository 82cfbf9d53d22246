"""`connector mapping`: a mapping file, from its first draft to trying it on real rows (see also `mapping_rows`)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from connector.cli import mapping_rows
from connector.cli.options import EMBEDDED_MAJOR, Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, Table, run_verb
from connector.embedded import Server, wheel_binaries
from connector.errors import ConnectorError, MappingError
from connector.mapping import document
from connector.mapping.program import ProgramOptions, compile_entity
from connector.mapping.rules import Document
from connector.ops import trial
from connector.ops.program_text import program_text
from connector.staging import migrate, session

# Enough to meet every habit of a party's data entry, and read in about a second.
ROWS_DEFAULT = 10_000
ROWS_MAX = 1_000_000
DIFF_ROWS_DEFAULT = 100_000

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
        run_verb("mapping dry-run", json, lambda: mapping_rows.dry_run(given(ctx), party, entity, rows))

    @verbs.command("diff")
    def diff(
        ctx: typer.Context,
        old: Annotated[Path, typer.Argument(help="The mapping file in force.")],
        new: Annotated[Path, typer.Argument(help="The mapping file that is to take its place.")],
        rows: Annotated[int, typer.Option(min=1, max=ROWS_MAX, help="Rows of each view to try.")] = DIFF_ROWS_DEFAULT,
        json: JsonOption = False,
    ) -> None:
        """Which staged rows a new mapping would change, by column and reason; stages none."""
        run_verb("mapping diff", json, lambda: mapping_rows.diff(given(ctx), old, new, rows))

    @verbs.command("init")
    def init(
        ctx: typer.Context,
        party: Annotated[str, typer.Argument(help="The party's name in the configuration.")],
        entity: Annotated[
            list[str] | None, typer.Option("--entity", help="ENTITY=SCHEMA.VIEW: which view feeds it; may be repeated.")
        ] = None,
        rows: Annotated[int, typer.Option(min=1, max=ROWS_DEFAULT, help="Rows of each view to look at.")] = 1_000,
        json: JsonOption = False,
    ) -> None:
        """Print a first mapping file from the columns of a party's views; meaning is never guessed."""
        run_verb("mapping init", json, lambda: mapping_rows.init(given(ctx), party, entity or [], rows))

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
