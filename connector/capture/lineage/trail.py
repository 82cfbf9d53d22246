"""One base table's way through a query: which columns of the rows it touches equal which of its own columns.

No parser here. A "row touched by a change" is one that the query gave before or gives after it, and would not without
the changed row of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from connector.capture.lineage.catalogue import Name

# A column inside a query: the number of the source it belongs to, and its name.
Col = tuple[int, str]
# A column that stands for a source's whole row.
WHOLE = "*"
# Some of a table's columns; None: any of them.
Part = frozenset[str] | None
NOTHING: Part = frozenset()


@dataclass(frozen=True, slots=True)
class Edge:
    """Two columns that are equal; `exact`: so are their texts."""

    left: Col
    right: Col
    exact: bool

    def ways(self) -> Iterable[tuple[Col, Col]]:
        return (self.left, self.right), (self.right, self.left)


@dataclass(slots=True)
class Trail:
    """What is known of the rows that one occurrence of a table touches.

    `same`: columns that have, in every touched row, the value of the table's column (or both are NULL). `made`: what
    other columns are made of. `used`: the table's columns that decide which rows there are. `sure`: its columns that
    are not NULL where a row is touched at all. `lasting`: sources and columns that make up rows which stay whatever
    becomes of this table's row; None where rows may leave with it.
    """

    table: Name
    base: int = -1
    shown: bool = False
    same: dict[Col, dict[str, bool]] = field(default_factory=dict)
    made: dict[Col, Part] = field(default_factory=dict)
    # Sources whose row, or its absence, these columns choose.
    chosen: dict[int, Part] = field(default_factory=dict)
    used: Part = NOTHING
    sure: frozenset[str] = frozenset()
    lasting: frozenset[int | Col] | None = None
    why: str = ""

    def equals(self, column: Col) -> Mapping[str, bool]:
        """The table's columns that this one equals, and whether in text."""
        found = self.same.get(column, {})
        if self.shown and column[0] == self.base and column[1] != WHOLE:
            return {**found, column[1]: True}
        return found

    def part(self, column: Col) -> Part:
        if column[0] == self.base:
            return None if column[1] == WHOLE else frozenset({column[1]})
        if column[1] == WHOLE and any(source == column[0] for source, _ in self.made):
            return None
        made, chosen = self.made.get(column, NOTHING), self.chosen.get(column[0], NOTHING)
        return None if made is None or chosen is None else made | chosen

    def parts(self, columns: Iterable[Col]) -> Part:
        found: frozenset[str] = frozenset()
        for column in columns:
            part = self.part(column)
            if part is None:
                return None
            found |= part
        return found

    def choose(self, sources: Iterable[int], columns: Iterable[Col]) -> None:
        """These columns say which row of some sources a row goes with; it stays without one."""
        part = self.parts(columns)
        for source in sources if part != NOTHING else ():
            known = self.chosen.get(source, NOTHING)
            self.chosen[source] = None if known is None or part is None else known | part

    def use(self, columns: Iterable[Col]) -> None:
        part = self.parts(columns)
        self.used = None if self.used is None or part is None else self.used | part

    def lasts(self, columns: Iterable[Col], own: Collection[int]) -> bool:
        """Whether these columns are of what stays; those of sources beside `own` the table has no part in."""
        assert self.lasting is not None
        return all(column[0] not in own or column[0] in self.lasting or column in self.lasting for column in columns)

    def close(self, edges: Iterable[Edge], *, strict: bool) -> None:
        """Follow equalities that hold in every touched row; `strict`: they are conditions, so neither side is NULL."""
        edges = tuple(edges)
        grown = True
        while grown:
            grown = False
            for edge in edges:
                for here, there in edge.ways():
                    grown |= self._carry(here, there, edge.exact)
        if strict:
            for edge in edges:
                self.sure |= self.equals(edge.left).keys() | self.equals(edge.right).keys()

    def _carry(self, here: Col, there: Col, exact: bool) -> bool:
        known = self.equals(there)
        grown = False
        for column, same_text in tuple(self.equals(here).items()):
            better = same_text and exact
            if column not in known or (better and not known[column]):
                self.same.setdefault(there, {})[column] = better
                grown = True
        return grown

    def keep(self, wanted: Callable[[int], bool]) -> None:
        """Forget what is known of other sources' columns."""
        self.same = {column: found for column, found in self.same.items() if wanted(column[0])}
        self.shown = self.shown and wanted(self.base)

    def give_up(self, why: str) -> None:
        """Every row may be touched."""
        self.same, self.shown = {}, False
        self.spoil(why)

    def spoil(self, why: str = "") -> None:
        """Any column of the table may decide which rows there are."""
        self.used, self.lasting = None, None
        self.why = self.why or why
