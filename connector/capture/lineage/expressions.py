"""Expressions of a query block: which columns they read, which equalities they say, which subqueries they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

from sqlglot import exp

from connector.capture.lineage.catalogue import DATE, EXACT, INT, TEXT, UUID
from connector.capture.lineage.parts import Result, Said
from connector.capture.lineage.scope import Common, NotUnderstood, Scope
from connector.capture.lineage.trail import WHOLE, Col, Edge

_TEXTS = frozenset({exp.DType.TEXT, exp.DType.VARCHAR})
_INTS = frozenset({exp.DType.SMALLINT, exp.DType.INT, exp.DType.BIGINT})

Query = Callable[[exp.Expr, Scope, Mapping[str, Common]], Result]


class Expressions:
    """Reads expressions; `query` analyses the subqueries in them. `functions`: those that are somebody's own."""

    def __init__(self, dialect: str, query: Query) -> None:
        self._dialect = dialect
        self._query = query
        self.functions: set[str] = set()

    def read(self, node: exp.Expr, scope: Scope, *, lenient: bool = False) -> Said:
        said = Said()
        try:
            self.read_into(node, scope, said)
        except NotUnderstood:
            # ORDER BY may name output columns, and orders nothing that we keep in order.
            if not lenient or any(node.find_all(exp.Query)):
                raise
        return said

    def read_into(self, node: exp.Expr, scope: Scope, said: Said) -> None:
        match node:
            case Resolved():
                said.columns.add(node.this)
            case exp.Query():
                self._inner(node, scope, said)
            case exp.Column():
                said.columns.add(scope.column(node))
            case exp.Table() | exp.Command() | exp.Lateral():
                raise NotUnderstood(f"{node.key} in an expression")
            case _:
                windowed = isinstance(node, exp.Window)
                said.is_window |= windowed
                said.is_aggregate |= _is_aggregate(node)
                said.mixes |= windowed or _is_aggregate(node) or isinstance(node, exp.Anonymous)
                if isinstance(node, exp.Anonymous):
                    self._note_function(node)
                inner = Said(said.columns, said.trails, firsts=said.firsts) if windowed else said
                for child in node.iter_expressions():
                    self.read_into(child, scope, inner)

    def _note_function(self, node: exp.Anonymous) -> None:
        # Only a function of somebody's own is called with its schema.
        if isinstance(node.parent, exp.Dot):
            self.functions.add(f"{node.parent.this.name}.{node.name}")

    def _inner(self, node: exp.Expr, scope: Scope, said: Said) -> None:
        """A subquery in an expression: which of the block's columns tell the rows whose value it may change."""
        lent, scope.lent = scope.lent, set()
        result = self._query(node, scope, scope.common)
        used, scope.lent = scope.lent, lent | scope.lent
        said.columns |= used
        first, kind = next(iter(result.columns.items()), ("", ""))
        said.firsts[id(node)] = kind, [(trail, trail.equals((result.number, first))) for trail in result.trails]
        for trail in result.trails:
            trail.keep(lambda source: source != result.number)
            trail.spoil("a subquery reads it")
        said.trails += result.trails

    def edges(self, condition: exp.Expr, scope: Scope, said: Said) -> Iterator[Edge]:
        """The equalities that hold wherever the condition does."""
        for one in _conjuncts(condition):
            if isinstance(one, exp.EQ):
                yield from self._equal(one.this, one.expression, scope)
            elif isinstance(one, exp.In) and one.args.get("query") is not None:
                self._in(one, scope, said)

    def _equal(self, left: exp.Expr, right: exp.Expr, scope: Scope) -> Iterator[Edge]:
        if isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple):
            for one, other in zip(left.expressions, right.expressions, strict=False):
                yield from self._equal(one, other, scope)
            return
        one, other = self.plain(left, scope), self.plain(right, scope)
        if one is not None and other is not None and one[1] == other[1] != "":
            yield Edge(one[0], other[0], one[1] in EXACT)

    def _in(self, node: exp.In, scope: Scope, said: Said) -> None:
        """`x in (select y ...)` as a condition: rows with x = y are the ones that y's tables touch."""
        plain = self.plain(node.this, scope)
        kind, firsts = said.firsts.get(id(node.args["query"]), ("", []))
        if plain is None or kind == "" or kind != plain[1]:
            return
        for trail, first in firsts:
            for column, exact in first.items():
                known = trail.same.setdefault(plain[0], {})
                known[column] = known.get(column, False) or (exact and kind in EXACT)
                trail.sure |= {column}

    def plain(self, node: exp.Expr, scope: Scope) -> tuple[Col, str, bool] | None:
        """The column that an expression is, its kind, and whether it is the very column; None where it computes."""
        match node:
            case Resolved():
                column: Col = node.this
                return column, scope.kind(column), True
            case exp.Paren():
                return self.plain(node.this, scope)
            case exp.Column():
                column = scope.column(node)
                return None if column[1] == WHOLE else (column, scope.kind(column), True)
            case exp.Cast() if self._dialect == "postgres":
                inner = self.plain(node.this, scope)
                kind = "" if inner is None else _cast(inner[1], node.args["to"])
                return None if inner is None or not kind else (inner[0], kind, inner[1] == kind)
        return None


class Resolved(exp.Expression):
    """A column that `*` stood for; `this` is it."""

    arg_types: ClassVar[dict[str, bool]] = {"this": True}


def _conjuncts(node: exp.Expr) -> Iterator[exp.Expr]:
    match node:
        case exp.And():
            yield from _conjuncts(node.this)
            yield from _conjuncts(node.expression)
        case exp.Paren():
            yield from _conjuncts(node.this)
        case _:
            yield node


def _cast(kind: str, to: exp.Expr) -> str:
    """The kind after a cast that keeps the text; empty where it may not."""
    if not isinstance(to, exp.DataType) or to.expressions:
        return ""
    if to.this in _TEXTS and kind in (INT, TEXT, UUID, DATE):
        return TEXT
    return INT if to.this in _INTS and kind == INT else ""


def _is_aggregate(node: exp.Expr) -> bool:
    return isinstance(node, exp.AggFunc | exp.Filter | exp.WithinGroup) or "Agg" in type(node).__name__
