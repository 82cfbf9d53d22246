"""`connector lineage PARTY`: which change of which base table has which rows of a view looked at again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from connector.capture.lineage.paths import Path
from connector.cli.options import Globals, JsonOption, given
from connector.cli.output import Answer, Table, run_verb
from connector.errors import EnvironmentMissing
from connector.mapping import document
from connector.ops.lineage import EntityLineage, Found, complete
from connector.settings import Party


def register(app: typer.Typer) -> None:
    @app.command("lineage")
    def lineage(
        ctx: typer.Context,
        party: Annotated[str, typer.Argument(help="The party's name in the configuration.")],
        json: JsonOption = False,
    ) -> None:
        """Show for each base table of a party's views how its changes find the rows that they touch.

        Read off the views' definitions in the party's database; a line of the mapping's `lineage:` wins over that.
        """
        run_verb("lineage", json, lambda: _lineage(given(ctx), party))


def _lineage(options: Globals, name: str) -> Answer:
    party = options.load(check_secrets=False).party(name)
    _, found, unasked = complete(party, document.load(party.mapping), "sipol-connector lineage")
    error = None
    if unasked:
        error = EnvironmentMissing(
            f"the party's database did not answer ({unasked})",
            hint="shown is what the mapping declares; everything else is read off the views' definitions",
        )
    return Answer(_summary(party, found), _result(found), (_table(found), *map(_diagram, found)), error=error)


def _summary(party: Party, found: Found) -> str:
    kinds = [way.path.kind for one in found for way in one.ways]
    whole = kinds.count("whole")
    counted = f"{kinds.count('key')} by key, {kinds.count('match')} by match, {whole} without a path"
    doubts = sum(len(one.remarks) for one in found)
    return f"{party.name}: {counted}" + (f"; {doubts} remarks" if doubts else "")


def _table(found: Found) -> Table:
    rows: list[tuple[object, ...]] = []
    for one in found:
        for way in one.ways:
            path = way.path
            rows.append((
                one.entity, ".".join(path.table), path.kind, _pairs(path) or None, way.origin, path.why or None
            ))  # fmt: skip
        rows += [(one.entity, remark.what, "!", None, None, remark.why) for remark in one.remarks]
    return Table(("entity", "base table", "path", "view column = base column", "by", "why"), tuple(rows))


def _pairs(path: Path) -> str:
    return ", ".join(f"{shown} = {column}" for shown, column in path.pairs)


def _diagram(one: EntityLineage) -> Table:
    lines = list(_branches(one))
    drawn = tuple((f"{'└' if place == len(lines) - 1 else '├'}─ {line}",) for place, line in enumerate(lines))
    return Table((f"{one.entity} ◀── {'.'.join(one.mapped.view)} ({', '.join(one.mapped.key)})",), drawn)


def _branches(one: EntityLineage) -> Iterator[str]:
    width = max((len(".".join(way.path.table)) for way in one.ways), default=0)
    for way in one.ways:
        path = way.path
        table = ".".join(path.table).ljust(width)
        columns = ", ".join(column for _, column in path.pairs)
        shown = ", ".join(name for name, _ in path.pairs)
        match path.kind:
            case "key":
                yield f"{table}  ── {columns} ──▶ key {shown}"
            case "match":
                yield f"{table}  ── {columns} ──▷ rows with that {shown}"
            case "whole":
                yield f"{table}  ┄┄▶ all rows"
    for remark in one.remarks:
        yield f"{remark.what}  ? {remark.why}"


def _result(found: Found) -> dict[str, object]:
    return {
        "entities": [
            {
                "entity": one.entity, "view": ".".join(one.mapped.view), "key": one.mapped.key,
                "tables": [
                    {
                        "table": ".".join(way.path.table), "path": way.path.kind, "columns": dict(way.path.pairs),
                        "rows_stay": way.path.stays, "by": way.origin, "why": way.path.why,
                    }
                    for way in one.ways
                ],
                "remarks": [{"what": remark.what, "why": remark.why} for remark in one.remarks],
            }
            for one in found
        ]
    }  # fmt: skip
