"""`connector readiness PARTY`: where the party stands against the legal thresholds."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from connector.cli.options import Globals, JsonOption, given, staging_dsn
from connector.cli.output import Answer, Table, run_verb
from connector.errors import EnvironmentMissing, UsageError
from connector.mapping.contract import ENTITIES
from connector.ops import readiness as ops
from connector.ops import readiness_page
from connector.staging import migrate, session
from connector.yamlpos import shown

ROWS_SHOWN = 30
REGENCIES = (
    "regency", "minimum", "staged", "identical", "potential", "external", "card twice", "age", "work", "NIK", "clean",
    "over", "cushion", "lacks",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    @app.command("readiness")
    def readiness(  # noqa: PLR0913 - one for each option of the verb
        ctx: typer.Context,
        party: Annotated[str, typer.Argument(help="The party.")],
        html: Annotated[Path | None, typer.Option(help="Write the whole report here, as one page.")] = None,
        rows: Annotated[int, typer.Option(min=0, help="Show so many regencies, the thinnest first.")] = ROWS_SHOWN,
        count: Annotated[
            bool, typer.Option("--count", help="Count what changed first; a daemon does by itself.")
        ] = False,
        sipol: Annotated[
            list[str] | None,
            typer.Option(metavar="ENTITY=ROWS", help="How many rows Sipol says it has; may be repeated."),
        ] = None,
        json: JsonOption = False,
    ) -> None:
        """Where a party stands against the legal thresholds, and the shortest way to them. Not a verdict of KPU's."""
        run_verb("readiness", json, lambda: _readiness(given(ctx), party, (html, rows, count), sipol or []))


def _readiness(options: Globals, party: str, how: tuple[Path | None, int, bool], sipol: list[str]) -> Answer:
    html, rows, count = how
    sipol_rows = _sipol_rows(sipol)
    config = options.load(check_secrets=False)
    with staging_dsn(config) as dsn, session.connect(dsn, application="connector readiness") as conn:
        migrate.require(conn)
        if count:
            ops.count(conn)
        found = ops.report(conn, config, party, sipol_rows)
    if html is not None:
        _write(html, readiness_page.page(found))
    return Answer(_summary(found, html), _result(found), tuple(table for table in _tables(found, rows) if table.rows))


def _sipol_rows(given: list[str]) -> dict[str, int]:
    """What Sipol says it has, as it was told on the command line."""
    found: dict[str, int] = {}
    for text in given:
        entity, _, rows = text.partition("=")
        if entity not in ENTITIES or not rows.isascii() or not rows.isdigit():
            raise UsageError(f"`{shown(text)}` is no count of an entity", hint="anggota=50000, for instance")
        found[entity] = int(rows)
    return found


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise EnvironmentMissing(f"{path} cannot be written ({exc.strerror})", hint="name another file") from exc


def _summary(found: ops.Report, html: Path | None) -> str:
    enough = sum(1 for one in found.provinces if one.selisih >= 0)
    regencies = sum(1 for one in found.regencies if one.memenuhi)
    thin = sum(1 for one in found.regencies if one.tipis)
    said = [
        f"{found.party}: {regencies} of {len(found.regencies)} regencies count",
        f"{enough} of {len(found.provinces)} provinces have enough of them",
        f"{thin} regencies have a thin cushion",
    ]
    open_lines = [one.syarat for one in found.requirements if not one.terpenuhi]
    if open_lines:
        said.append(f"still open: {', '.join(open_lines)}")
    if found.elsewhere:
        said.append(f"{found.elsewhere:,} members are in regions without a threshold")
    if found.counting or found.counted_at is None:
        said.append("members are being counted anew (without a daemon: --count)")
    differing = [one.entity for one in found.freshness if one.sipol_rows not in (None, one.live_rows)]
    if differing:
        said.append(f"Sipol has another count of {', '.join(differing)}")
    if html is not None:
        said.append(f"wrote {html}")
    return "; ".join(said)


def _tables(found: ops.Report, rows: int) -> tuple[Table, ...]:
    requirements = Table(
        ("requirement", "needed", "there", "met", "stands on"),
        tuple(
            (one.syarat, f"{one.perlu:g}", f"{one.ada:g}", "yes" if one.terpenuhi else "no", one.dasar)
            for one in found.requirements
        ),
    )
    provinces = Table(
        ("province", "needed", "count", "nearest regencies", "members short", "stands on"),
        tuple(
            (
                f"{one.kode} {one.nama}", one.minimal_kabkota, one.memenuhi, ", ".join(one.jalur), one.kurang_anggota,
                one.dasar,
            )
            for one in found.provinces
            if one.selisih < 0
        ),
        title="provinces that lack regencies",
    )  # fmt: skip
    regencies = Table(
        REGENCIES,
        tuple(
            (
                f"{one.kode} {one.nama}", f"{one.minimal:,}", f"{one.diterima:,}", one.identik, one.potensi,
                one.eksternal, one.kta_ganda, one.usia, one.pekerjaan, one.nik, f"{one.bersih:,}", f"{one.selisih:+,}",
                f"{one.bantalan:.0%}{' thin' if one.tipis else ''}", ", ".join(one.kurang) or None,
            )
            for one in found.regencies[:rows]
        ),
    )  # fmt: skip
    refusals = Table(
        ("entity", "refused for", "rows", "keys", "what to do"),
        tuple((one.entity, one.reason, one.rows, ", ".join(one.keys), one.indonesian) for one in found.refusals),
    )
    unmapped = Table(
        ("entity", "column", "means nothing", "rows"),
        tuple((one.entity, one.column, one.reason, one.rows) for one in found.unmapped),
        title="codes and regions without a meaning; connector mapping dry-run lists the values",
    )
    documents = Table(
        ("document", "noted", "file there"), tuple((one.jenis, one.ada, one.tersedia) for one in found.documents)
    )
    return requirements, provinces, regencies, refusals, unmapped, documents, _counts(found)


def _counts(found: ops.Report) -> Table:
    """The view, staging and Sipol must have the same, but for what was refused."""
    return Table(
        ("entity", "in the view", "counted", "staged", "refused", "in Sipol", "new in 24 h", "changed", "gone"),
        tuple(
            (
                one.entity, one.view_rows, one.view_counted_at, f"{one.live_rows:,}", one.refused_rows,
                _sipol(one), one.added_day, one.changed_day, one.removed_day,
            )
            for one in found.freshness
        ),
    )  # fmt: skip


def _sipol(one: ops.Freshness) -> str | None:
    if one.sipol_rows is None:
        return None
    return f"{one.sipol_rows:,}" + (" differs" if one.sipol_rows != one.live_rows else "")


_DERIVED = {
    ops.Regency: ("selisih", "bantalan", "tipis", "kurang", "memenuhi", "sampel"),
    ops.Province: ("selisih",),
    ops.Requirement: ("terpenuhi",),
}


def _result(found: ops.Report) -> dict[str, object]:
    """The report with what is derived from its fields."""
    plain: dict[str, object] = {field.name: getattr(found, field.name) for field in fields(found)}
    for name in ("requirements", "provinces", "regencies"):
        plain[name] = [_with_derived(one) for one in getattr(found, name)]
    return plain


def _with_derived(one: ops.Regency | ops.Province | ops.Requirement) -> dict[str, object]:
    given_fields = {field.name: getattr(one, field.name) for field in fields(one)}
    derived = {name: getattr(one, name) for name in _DERIVED[type(one)]}
    return given_fields | {
        name: round(value, 4) if isinstance(value, float) else value for name, value in derived.items()
    }
