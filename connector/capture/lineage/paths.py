"""From a view's trails to paths: for each base table, how a change of one of its rows finds rows of the view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from connector.capture.lineage.catalogue import Catalogue, Column, Name
from connector.capture.lineage.parts import Result
from connector.capture.lineage.query import Analysis
from connector.capture.lineage.trail import Trail

Kind = Literal["key", "match", "whole"]


@dataclass(frozen=True, slots=True)
class Path:
    """A base table's path to a view.

    `pairs` are (column of the view, column of the table): the view's key, or columns by which its rows are found.
    `stays`: no row of the view leaves with a row of this table. `why`: what speaks against a better path.
    """

    table: Name
    kind: Kind
    pairs: tuple[tuple[str, str], ...] = ()
    stays: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """Something behind a view whose changes no path can tell."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Derived:
    """All paths to one view, by table, and what no path can cover."""

    paths: tuple[Path, ...]
    remarks: tuple[Remark, ...] = ()


def derive(catalogue: Catalogue, view: Name, key: Sequence[str]) -> Derived:
    """How changes of base tables find rows of a view.

    Args:
        catalogue: the view's definition, those of the views behind it, and their tables' columns.
        key: the view's key columns, as the mapping names them.
    """
    analysis = Analysis(catalogue)
    result = analysis.view(view)
    named = {name.lower(): name for name in result.columns} if catalogue.dialect != "postgres" else {}
    columns = [name if name in result.columns else named.get(name.lower(), name) for name in key]
    found: dict[Name, list[Path]] = {}
    for trail in result.trails:
        path = _path(catalogue, result, trail, dict(zip(key, columns, strict=True)))
        paths = found.setdefault(trail.table, [])
        if path not in paths:
            paths.append(path)
    return Derived(tuple(path for paths in found.values() for path in _best(paths)), _remarks(catalogue, analysis))


def _best(paths: list[Path]) -> list[Path]:
    """One reason to look at the whole view makes every other path needless."""
    whole = [path for path in paths if path.kind == "whole"]
    return whole[:1] or paths


def _remarks(catalogue: Catalogue, analysis: Analysis) -> tuple[Remark, ...]:
    met = analysis.relations
    functions = {name for view in met.read if view in catalogue.views for name in catalogue.views[view].functions}
    unseen = {name: catalogue.tables[name].unseen for name in met.read if name in catalogue.tables}
    found = [
        (sorted(functions | analysis.functions), "is a function: what it reads nobody sees, and is not followed"),
        (_places(met.unknown), "is taken for a table: the catalogue does not show it"),
        (_places(met.unread), "has a definition that cannot be read: name its tables under `lineage:`"),
        *(([".".join(name)], f"is {why}") for name, why in sorted(unseen.items()) if why),
    ]
    return tuple(Remark(what, why) for names, why in found for what in names)


def _places(names: Iterable[Name]) -> list[str]:
    return sorted(".".join(name) for name in names)


def _path(catalogue: Catalogue, result: Result, trail: Trail, key: Mapping[str, str]) -> Path:
    table = catalogue.tables.get(trail.table)
    columns = table.columns if table is not None else None
    identity = table.identity if table is not None else ()
    carried = _Carried(columns, identity)
    chosen = {
        shown: carried.best(column for column, exact in trail.equals((result.number, inner)).items() if exact)
        for shown, inner in key.items()
    }
    if all(chosen.values()):
        return Path(trail.table, "key", tuple((shown, column) for shown, column in chosen.items() if column))
    return _match(result, trail, carried, tuple(key.values()))


def _match(result: Result, trail: Trail, carried: _Carried, key: Sequence[str]) -> Path:
    """By columns of the view: only where no row that a change touches could be gone from it unseen.

    What follows a table looks at the whole view when a row of it is deleted, or changes in one of these columns, unless
    rows stay whatever becomes of it.
    """
    ways: dict[str, str] = {}
    for name in result.columns:
        for column in trail.equals((result.number, name)):
            if column in trail.sure and carried.may(column):
                ways.setdefault(column, name)
    stays = trail.lasting is not None and all((result.number, name) in trail.lasting for name in key)
    if stays and ways:
        wanted = set(carried.narrow(ways))
        return _matching(trail, ways, wanted, stays=True)
    used = None if trail.used is None else trail.parts((result.number, name) for name in key)
    # Where rows stay, a row of NULLs goes as a row of the table comes: that changes a key that is made of it.
    decisive = None if used is None or trail.used is None or trail.lasting is not None else trail.used | used
    if decisive and decisive <= ways.keys():
        return _matching(trail, ways, set(decisive), stays=False)
    return Path(trail.table, "whole", why=_why(trail, ways, decisive, stays=stays))


def _matching(trail: Trail, ways: Mapping[str, str], columns: set[str], *, stays: bool) -> Path:
    pairs = tuple((name, column) for column, name in ways.items() if column in columns)
    return Path(trail.table, "match", pairs, stays)


def _why(trail: Trail, ways: Mapping[str, str], decisive: frozenset[str] | None, *, stays: bool) -> str:
    if trail.why:
        return trail.why
    if stays or not ways:
        return "the view shows no column that tells which rows it touches"
    lacking = sorted((decisive or frozenset()) - ways.keys())
    if lacking:
        return f"{', '.join(lacking)} decides which rows there are, and the view does not show it"
    return "rows may leave the view with it"


class _Carried:
    """Which columns of a table what follows it can tell, old values too; the primary key is best."""

    def __init__(self, columns: Mapping[str, Column] | None, identity: Sequence[str]) -> None:
        self._columns = columns
        self._identity = identity

    def may(self, column: str) -> bool:
        return self._columns is None or (column in self._columns and self._columns[column].carried)

    def best(self, columns: Iterable[str]) -> str | None:
        found = sorted(column for column in columns if self.may(column))
        return next((column for column in found if column in self._identity), found[0] if found else None)

    def narrow(self, columns: Mapping[str, str]) -> tuple[str, ...]:
        """Columns of the primary key, where there are any among these; else all."""
        return tuple(column for column in columns if column in self._identity) or tuple(columns)
