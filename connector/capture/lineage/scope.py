"""Which names a query may use, and what they mean: sources and their columns, common table expressions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from connector.capture.lineage.trail import WHOLE, Col


class NotUnderstood(Exception):
    """This part of a definition is outside the grammar; the message says what it is."""


@dataclass(slots=True)
class Source:
    """A table, subquery or function in FROM. `columns`: name -> kind; `is_open`: there may be others."""

    number: int
    alias: str
    schema: str
    columns: dict[str, str]
    is_open: bool = False
    # Columns that USING made one: an unqualified name means the other side's.
    merged: set[str] = field(default_factory=set)


class Names:
    """How this dialect compares names."""

    def __init__(self, dialect: str) -> None:
        self._folds = dialect != "postgres"
        self._lowers = dialect == "postgres"

    def of(self, identifier: exp.Expr | str | None) -> str:
        """An identifier as the catalogue has it."""
        if isinstance(identifier, exp.Identifier):
            name = str(identifier.this)
            return name.lower() if self._lowers and not identifier.args.get("quoted") else name
        return str(identifier or "")

    def same(self, left: str, right: str) -> bool:
        return left == right or (self._folds and left.lower() == right.lower())

    def among(self, name: str, columns: Mapping[str, str]) -> str | None:
        if name in columns:
            return name
        return next((one for one in columns if self._folds and one.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Common:
    """A common table expression: its query, and which others it may name."""

    query: exp.Expr
    columns: tuple[str, ...]
    visible: Mapping[str, Common]
    is_own_name: bool
    scope: Scope | None


class Scope:
    """The sources of one query block, and through `outer` those around it."""

    def __init__(self, names: Names, outer: Scope | None, common: Mapping[str, Common]) -> None:
        self.names = names
        self.outer = outer
        self.common = common
        self.sources: list[Source] = []
        # Columns of this block that queries inside it have used.
        self.lent: set[Col] = set()

    def column(self, node: exp.Column) -> Col:
        """The column that a reference means.

        Raises:
            NotUnderstood: it means none, or more than one.
        """
        found = self._own(node)
        if found is not None:
            return found
        if self.outer is None:
            raise NotUnderstood(f"column {node.name or node.sql()} is of no table that we can see")
        column = self.outer.column(node)
        self.outer.lent.add(column)
        return column

    def kind(self, column: Col) -> str:
        scope: Scope | None = self
        while scope is not None:
            for source in scope.sources:
                if source.number == column[0]:
                    return source.columns.get(column[1], "")
            scope = scope.outer
        return ""

    def _own(self, node: exp.Column) -> Col | None:
        if node.args.get("catalog"):
            raise NotUnderstood("a name of four parts")
        table = self.names.of(node.args.get("table"))
        name = WHOLE if isinstance(node.this, exp.Star) else self.names.of(node.this)
        if table:
            return self._qualified(self.names.of(node.args.get("db")), table, name)
        return self._unqualified(name)

    def _qualified(self, schema: str, table: str, name: str) -> Col | None:
        sources = [one for one in self.sources if self.names.same(one.alias, table)]
        if schema:
            sources = [one for one in sources if self.names.same(one.schema, schema)]
        if not sources:
            return None
        if len(sources) > 1:
            raise NotUnderstood(f"two tables are called {table}")
        known = self.names.among(name, sources[0].columns)
        if known is None and sources[0].is_open and name != WHOLE:
            return sources[0].number, name
        # A column that no list shows (ctid, rowid, a field of a composite): the row as a whole.
        return sources[0].number, WHOLE if known is None else known

    def _unqualified(self, name: str) -> Col | None:
        found = []
        for source in self.sources:
            known = self.names.among(name, source.columns)
            if known is not None and known not in source.merged:
                found.append((source.number, known))
        if len(found) > 1:
            raise NotUnderstood(f"column {name} is of more than one table")
        if any(source.is_open for source in self.sources):
            if len(self.sources) == 1 and self.outer is None:
                return self.sources[0].number, name
            raise NotUnderstood(f"column {name} may be of a table whose columns we cannot see")
        if found:
            return found[0]
        whole = [source for source in self.sources if self.names.same(source.alias, name)]
        return (whole[0].number, WHOLE) if len(whole) == 1 else None

    def all_columns(self, alias: str = "") -> Iterator[tuple[str, Col]]:
        """What `*`, or `alias.*`, stands for.

        Raises:
            NotUnderstood: a source's columns are not known.
        """
        for source in self.sources:
            if alias and not self.names.same(source.alias, alias):
                continue
            if source.is_open:
                raise NotUnderstood(f"the columns of {source.alias} are not known")
            for name in source.columns:
                if alias or name not in source.merged:
                    yield name, (source.number, name)
