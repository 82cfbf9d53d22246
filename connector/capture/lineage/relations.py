"""Views, tables and common table expressions that a query names, and what becomes of parts that are not understood."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from connector.capture.lineage.catalogue import Catalogue, Name
from connector.capture.lineage.parts import Result, renamed
from connector.capture.lineage.scope import Common, Names, NotUnderstood, Scope
from connector.capture.lineage.trail import Trail

# A definition past these is hostile, or a program of its own: its tables get no path.
TEXT_MAX = 200_000
VIEWS_MAX = 50

Query = Callable[[exp.Expr, Scope | None, Mapping[str, Common]], Result]


class Relations:
    """What the names in one view's definition, and in those behind it, stand for.

    `unknown` gathers relations that the catalogue does not show; `unread` views whose text could not be had or parsed
    and that no catalogue tells the tables of; `read` everything that was named.
    """

    def __init__(self, catalogue: Catalogue, names: Names, numbers: Iterator[int], query: Query) -> None:
        """`query` analyses one query; it raises `NotUnderstood`."""
        self._catalogue = catalogue
        self._names = names
        self._numbers = numbers
        self._query = query
        self._inside: list[Name] = []
        # What the text of each view that is being read has named.
        self._named: list[set[Name]] = []
        self._tables: dict[Name, frozenset[Name]] = {}
        self.exhausted = False
        self.unknown: set[Name] = set()
        self.unread: set[Name] = set()
        self.read: set[Name] = set()

    def view(self, name: Name) -> Result:
        """A view's tables and columns. What is not understood has no path; no table is left out."""
        text = self._catalogue.views[name]
        self.read.add(name)
        if name in self._inside or len(self._inside) > VIEWS_MAX:
            # No server makes such views: what is behind them, nobody can say.
            self.unread.add(name)
            return Result(next(self._numbers), {}, [])
        if self.exhausted and name in self._tables:
            # Views that name each other twice and twice again: their tables are known by now.
            return Result(next(self._numbers), {}, self.blind(map(Trail, self._tables[name]), "it has too many parts"))
        self._inside.append(name)
        self._named.append(set())
        try:
            query, columns = self._parsed(text.text)
            result = self.contained(query, None, {}, tuple(text.columns) or columns)
        finally:
            self._inside.pop()
            named = self._named.pop()
        if query is None and not text.reads:
            self.unread.add(name)
        for read in (*text.reads, *(self._worded(text.text) if query is None else ())):
            if read not in named and read != name:
                named.add(read)
                # The catalogue is the authority: a table that the text did not give must not be missed.
                result.trails += self.blind(self.relation(read).trails, "the text does not show how it is read")
        self._tables[name] = frozenset(trail.table for trail in result.trails)
        return result

    def _parsed(self, text: str) -> tuple[exp.Expr | None, tuple[str, ...]]:
        if len(text) > TEXT_MAX:
            return None, ()
        try:
            found = sqlglot.parse_one(text.strip().rstrip(";"), read=self._catalogue.dialect)
        except (SqlglotError, RecursionError):
            return None, ()
        if not isinstance(found, exp.Create):
            return found, ()
        columns: tuple[str, ...] = ()
        if isinstance(found.this, exp.Schema):
            columns = tuple(self._names.of(one.this if isinstance(one, exp.ColumnDef) else one)
                            for one in found.this.expressions)  # fmt: skip
        return found.args.get("expression"), columns

    def contained(
        self, query: exp.Expr | None, outer: Scope | None, common: Mapping[str, Common], columns: Sequence[str] = ()
    ) -> Result:
        """A query that cannot see its surroundings: where it is not understood, its tables are, without a path."""
        try:
            if query is None:
                raise NotUnderstood("the definition cannot be parsed")
            return renamed(self._query(query, outer, common), columns)
        except (NotUnderstood, RecursionError) as error:
            why = str(error) if isinstance(error, NotUnderstood) else "it is nested too deeply"
            names = dict.fromkeys(columns or (() if query is None else getattr(query, "named_selects", ())), "")
            return Result(next(self._numbers), names, self._all_tables(query, why, common))

    def _all_tables(
        self, query: exp.Expr | None, why: str, common: Mapping[str, Common], but: str = ""
    ) -> list[Trail]:  # fmt: skip
        """Every table that a query names, itself or through what it may name, without a path."""
        found: list[Trail] = []
        if query is None:
            return found
        inner = {self._names.of(one.args["alias"].this) for one in query.find_all(exp.CTE) if one.args.get("alias")}
        for table in query.find_all(exp.Table):
            if not isinstance(table.this, exp.Identifier):
                continue
            given, name = table.args.get("db"), self.name(table)
            outside = None if given else among(name[1], common, self._names)
            if outside is not None:
                found += self.blind(self.common(*outside).trails, why)
            elif given or self._knows(name) or not (name[1] in inner or self._names.same(name[1], but)):
                found += self.blind(self.relation(name).trails, why)
        return found

    def _worded(self, text: str) -> Iterator[Name]:
        """Relations whose names stand in a text that could not be parsed."""
        words = set(re.findall(r"\w+", text.lower()))
        for name in (*self._catalogue.tables, *self._catalogue.views):
            if set(re.findall(r"\w+", name[1].lower())) <= words:
                yield name

    def _knows(self, name: Name) -> bool:
        return name in self._catalogue.tables or name in self._catalogue.views

    def blind(self, trails: Iterable[Trail], why: str) -> list[Trail]:
        blinded = list(trails)
        for trail in blinded:
            trail.give_up(why)
        return blinded

    def name(self, table: exp.Table) -> Name:
        given = self._names.of(table.args.get("db"))
        schema = given or self._catalogue.schema or (self._inside[-1][0] if self._inside else "")
        name = self._names.of(table.this)
        return self._catalogue.find(schema, name) or (schema, name)

    def relation(self, name: Name) -> Result:
        self.read.add(name)
        if self._named:
            self._named[-1].add(name)
        if name in self._catalogue.views:
            return self.view(name)
        number = next(self._numbers)
        table = self._catalogue.tables.get(name)
        if table is None:
            self.unknown.add(name)
        columns = {} if table is None or table.columns is None else table.columns
        trail = Trail(name, base=number, shown=True)
        return Result(number, {column: found.kind for column, found in columns.items()}, [trail])

    def is_open(self, name: Name) -> bool:
        table = self._catalogue.tables.get(name)
        return name not in self._catalogue.views and (table is None or table.columns is None)

    def common(self, name: str, one: Common) -> Result:
        tables = [table for table in one.query.find_all(exp.Table) if not table.args.get("db")]
        if one.is_own_name and any(self._names.same(name, self._names.of(table.this)) for table in tables):
            columns = dict.fromkeys(one.columns or getattr(one.query, "named_selects", ()), "")
            why = "a recursive query"
            return Result(next(self._numbers), columns, self._all_tables(one.query, why, one.visible, name))
        if one.scope is None:
            return self.contained(one.query, None, one.visible, one.columns)
        return renamed(self._query(one.query, one.scope, one.visible), one.columns)


def among(name: str, common: Mapping[str, Common], names: Names) -> tuple[str, Common] | None:
    return next(((one, found) for one, found in common.items() if names.same(one, name)), None)
