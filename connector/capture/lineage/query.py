"""A parsed query into trails: block by block, from the tables in FROM to the columns that come out.

The grammar: inner, cross, left and right joins, USING, subqueries and LATERAL in FROM, common table expressions,
nested views, WHERE, EXISTS, IN and scalar subqueries, GROUP BY, DISTINCT, set operations, LIMIT, window functions.
Anything else raises `NotUnderstood` inside, and the tables of that part keep no path.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sqlglot import exp

from connector.capture.lineage.catalogue import EXACT, Catalogue, Name
from connector.capture.lineage.expressions import Expressions, Resolved
from connector.capture.lineage.parts import Node, Result, Said, full, inner, limited, move, outer, renamed, soften
from connector.capture.lineage.relations import Relations, among
from connector.capture.lineage.scope import Common, Names, NotUnderstood, Scope, Source
from connector.capture.lineage.trail import Col, Edge, Trail

# More is a program of its own, or hostile.
BLOCKS_MAX = 500

_SELECT = frozenset(
    {"with_", "expressions", "distinct", "from_", "joins", "where", "group", "having", "windows", "order", "limit",
     "offset", "kind", "hint", "operation_modifiers"}
)  # fmt: skip
_SET = frozenset({"with_", "this", "expression", "distinct", "order", "limit", "offset"})
_JOIN = frozenset({"this", "on", "side", "kind", "using", "method"})
_TABLE = frozenset({"this", "alias", "db", "joins", "only", "ordinality", "rows_from"})
_SUBQUERY = frozenset({"this", "alias", "joins", "with_", "order", "limit", "offset"})
_LATERAL = frozenset({"this", "alias", "view", "outer", "cross_apply", "ordinality"})


class Analysis:
    """One view's analysis."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._names = Names(catalogue.dialect)
        self._numbers = itertools.count()
        self._blocks = 0
        self.relations = Relations(catalogue, self._names, self._numbers, self.query)
        self._expressions = Expressions(catalogue.dialect, self.query)

    @property
    def functions(self) -> set[str]:
        """Functions that are not the engine's own."""
        return self._expressions.functions

    def view(self, name: Name) -> Result:
        """A view's tables and columns. What is not understood has no path; no table is left out."""
        return self.relations.view(name)

    # -- queries

    def query(self, node: exp.Expr, outer: Scope | None, common: Mapping[str, Common]) -> Result:
        """Analyse a query; trails may tell of `outer`'s columns too.

        Raises:
            NotUnderstood: it is outside the grammar.
        """
        self._blocks += 1
        if self._blocks > BLOCKS_MAX:
            self.relations.exhausted = True
            raise NotUnderstood("it has too many parts")
        match node:
            case exp.Subquery() if not node.args.get("joins"):
                return self._subquery(node, outer, common)
            case exp.Paren():
                return self.query(node.this, outer, common)
            case exp.SetOperation():
                return self._set_operation(node, outer, common)
            case exp.Select():
                return self._select(node, outer, common)
            case exp.Values() if not any(node.find_all(exp.Query)):
                width = len(node.expressions[0].expressions) if node.expressions else 0
                return Result(next(self._numbers), {f"column{place + 1}": "" for place in range(width)}, [])
        raise NotUnderstood(f"{node.key} as a query")

    def _subquery(self, node: exp.Subquery, outer: Scope | None, common: Mapping[str, Common]) -> Result:
        """A query in brackets; an alias and joins behind it are its caller's."""
        _only(node, _SUBQUERY)
        result = self.query(node.this, outer, self._with(node, outer, common))
        if node.args.get("limit") or node.args.get("offset"):
            limited(result)
        return result

    def _with(self, node: exp.Expr, outer: Scope | None, common: Mapping[str, Common]) -> Mapping[str, Common]:
        found = node.args.get("with_")
        if found is None:
            return common
        _only(found, frozenset({"expressions", "recursive"}))
        names = dict(common)
        # Other engines need no RECURSIVE to let a query name itself.
        is_own_name = bool(found.args.get("recursive")) or self._catalogue.dialect != "postgres"
        for one in found.expressions:
            alias = one.args["alias"]
            columns = tuple(self._names.of(column) for column in alias.args.get("columns") or ())
            names[self._names.of(alias.this)] = Common(one.this, columns, dict(names), is_own_name, outer)
        return names

    def _set_operation(self, node: exp.SetOperation, outer: Scope | None, common: Mapping[str, Common]) -> Result:
        _only(node, _SET)
        if "with" in str(node.args.get("side") or "").lower() or node.args.get("by_name"):
            raise NotUnderstood("a union by name")
        common = self._with(node, outer, common)
        arms = [self.query(node.this, outer, common), self.query(node.expression, outer, common)]
        if len(arms[0].columns) != len(arms[1].columns):
            raise NotUnderstood("parts of a union with different columns")
        number = next(self._numbers)
        kinds = [left if left == right else "" for left, right in zip(*(arm.columns.values() for arm in arms))]  # noqa: B905
        columns = dict(zip(arms[0].columns, kinds, strict=True))
        trails = []
        is_all = isinstance(node, exp.Union) and not node.args.get("distinct")
        for arm in arms:
            places = dict(zip(arm.columns, columns, strict=True))
            for trail in arm.trails:
                move(trail, arm.number, number, places, lambda name: columns[name] != "")
                if not is_all:
                    trail.spoil(f"{node.key.upper()} compares whole rows")
                    soften(trail, number, columns)
                trails.append(trail)
        result = Result(number, columns, trails)
        if node.args.get("limit") or node.args.get("offset"):
            limited(result)
        return result

    # -- a block

    def _select(self, node: exp.Select, outer: Scope | None, common: Mapping[str, Common]) -> Result:
        _only(node, _SELECT)
        scope = Scope(self._names, outer, self._with(node, outer, common))
        block = self._from(node, scope)
        if node.args.get("where"):
            self._filter(block, node.args["where"].this, scope)
        grouped = self._group(node, block, scope)
        if node.args.get("having"):
            said = self._expressions.read(node.args["having"].this, scope)
            for trail in said.trails:
                trail.give_up("a subquery in HAVING")
            block.trails += said.trails
            for trail in block.trails:
                trail.spoil("HAVING decides which rows there are")
        result = self._output(node, block, scope, grouped)
        ordered = self._expressions.read(node.args["order"], scope, lenient=True) if node.args.get("order") else Said()
        result.trails += self.relations.blind(ordered.trails, "a subquery in ORDER BY")
        if node.args.get("limit") or node.args.get("offset"):
            limited(result)
        return result

    def _from(self, node: exp.Select, scope: Scope) -> Node:
        found = node.args.get("from_")
        if found is None:
            if node.args.get("joins"):
                raise NotUnderstood("joins without FROM")
            return Node()
        return self._joined(self._leaf(found.this, scope), node.args.get("joins") or (), scope)

    def _joined(self, left: Node, joins: Iterable[exp.Join], scope: Scope) -> Node:
        with_comma = False
        for join in joins:
            _only(join, _JOIN)
            side, kind = (join.args.get("side") or "").upper(), (join.args.get("kind") or "").upper()
            if join.args.get("method") or kind not in ("", "INNER", "CROSS", "OUTER"):
                raise NotUnderstood(f"{join.args.get('method') or kind} JOIN")
            if side in ("RIGHT", "FULL") and with_comma:
                raise NotUnderstood("a comma before an outer join")
            with_comma |= not any(join.args.get(part) for part in ("side", "kind", "on", "using"))
            before = set(left.sources)
            lateral = join.this if isinstance(join.this, exp.Lateral) else None
            right = self._leaf(join.this, scope)
            if lateral is not None and lateral.args.get("cross_apply") is False:
                side = "LEFT"  # OUTER APPLY
            left = self._join(left, right, side, join, scope, before)
        return left

    def _join(self, left: Node, right: Node, side: str, join: exp.Join, scope: Scope, before: set[int]) -> Node:
        said, edges = Said(), []
        if join.args.get("on") is not None:
            said = self._expressions.read(join.args["on"], scope)
            edges = list(self._expressions.edges(join.args["on"], scope, said))
        for name in join.args.get("using") or ():
            edge = self._using(self._names.of(name), before, right.sources, scope, prefer_right=side == "RIGHT")
            said.columns |= {edge.left, edge.right}
            if self._kinds_agree(edge, scope):
                edges.append(edge)
        said.columns |= right.needs
        match side:
            case "":
                return inner(left, right, said, edges)
            case "LEFT":
                return outer(left, right, said, edges)
            case "RIGHT":
                return outer(right, left, said, edges)
            case "FULL":
                return full(left, right, said)
        raise NotUnderstood(f"{side} JOIN")

    def _using(self, name: str, left: set[int], right: set[int], scope: Scope, *, prefer_right: bool) -> Edge:
        ends = []
        for numbers in (left, right):
            found = [
                (source, known)
                for source in scope.sources
                if source.number in numbers and (known := self._names.among(name, source.columns)) is not None
                and known not in source.merged
            ]  # fmt: skip
            if len(found) != 1 or any(source.is_open for source in scope.sources if source.number in numbers):
                raise NotUnderstood(f"USING ({name}) of tables that we cannot see")
            ends.append(found[0])
        hidden = ends[0] if prefer_right else ends[1]
        hidden[0].merged.add(hidden[1])
        (one, first), (two, second) = ends
        return Edge((one.number, first), (two.number, second), one.columns[first] in EXACT)

    def _kinds_agree(self, edge: Edge, scope: Scope) -> bool:
        return scope.kind(edge.left) == scope.kind(edge.right) != ""

    # -- FROM

    def _leaf(self, node: exp.Expr, scope: Scope) -> Node:
        match node:
            case exp.Table() if isinstance(node.this, exp.Identifier):
                return self._table(node, scope)
            case exp.Subquery() if isinstance(node.this, exp.Table | exp.Subquery) and not _is_query(node.this):
                return self._bracket(node, scope)
            case exp.Subquery():
                return self._derived(node, scope)
            case exp.Lateral():
                _only(node, _LATERAL)
                if isinstance(node.this, exp.Subquery):
                    return self._lateral(node, scope)
                return self._function(node, scope)
            case exp.Values():
                return self._derived(node, scope)
            case exp.Table() | exp.Unnest():
                return self._function(node, scope)
        raise NotUnderstood(f"{node.key} in FROM")

    def _table(self, node: exp.Table, scope: Scope) -> Node:
        _only(node, _TABLE)
        name = self._names.of(node.this)
        alias, columns = _alias(node, self._names)
        common = among(name, scope.common, self._names) if not node.args.get("db") else None
        if common is not None:
            result = renamed(self.relations.common(*common), columns)
            found = self._add(scope, result, alias or name, "")
        else:
            relation = self.relations.name(node)
            if columns:
                raise NotUnderstood("a table whose columns are renamed in FROM")
            result = self.relations.relation(relation)
            found = self._add(
                scope, result, alias or name, "" if alias else relation[0], is_open=self.relations.is_open(relation)
            )
        return self._joined(found, node.args.get("joins") or (), scope)

    def _add(self, scope: Scope, result: Result, alias: str, schema: str, *, is_open: bool = False) -> Node:
        scope.sources.append(Source(result.number, alias, schema, dict(result.columns), is_open))
        return Node({result.number}, [], result.trails)

    def _bracket(self, node: exp.Subquery, scope: Scope) -> Node:
        _only(node, frozenset({"this", "joins"}))
        found = self._leaf(node.this, scope)
        return self._joined(found, node.args.get("joins") or (), scope)

    def _derived(self, node: exp.Expr, scope: Scope) -> Node:
        alias, columns = _alias(node, self._names)
        bare = node
        if isinstance(node, exp.Subquery):
            bare = node.copy()
            bare.set("joins", None)
        if scope.outer is None:
            result = self.relations.contained(bare, None, scope.common, columns)
        else:
            # It may use columns from outside the block: what is not understood in it is not understood of the block.
            result = renamed(self.query(bare, scope.outer, scope.common), columns)
        return self._joined(self._add(scope, result, alias, ""), node.args.get("joins") or (), scope)

    def _lateral(self, node: exp.Lateral, scope: Scope) -> Node:
        alias, columns = _alias(node, self._names)
        lent, scope.lent = scope.lent, set()
        result = renamed(self.query(node.this, scope, scope.common), columns)
        needs, scope.lent = scope.lent, lent | scope.lent
        found = self._add(scope, result, alias, "")
        found.needs = set(needs)
        return found

    def _function(self, node: exp.Expr, scope: Scope) -> Node:
        """A function in FROM: its columns are made of its arguments'."""
        alias, columns = _alias(node, self._names)
        said = Said()
        for part in ("this", "expressions", "rows_from"):
            found = node.args.get(part)
            for one in found if isinstance(found, list) else [found]:
                call = one.this if isinstance(one, exp.Table) else one
                if isinstance(call, exp.Expr) and not isinstance(call, exp.Identifier):
                    self._expressions.read_into(call, scope, said)
        if said.trails:
            raise NotUnderstood("a subquery inside a function in FROM")
        if node.args.get("db") is not None:
            self._expressions.functions.add(f"{self._names.of(node.args['db'])}.{node.this.name}")
        number = next(self._numbers)
        names = dict.fromkeys((*columns, alias or "function"), "")
        offset = node.args.get("offset")
        if isinstance(offset, exp.Identifier):
            names[self._names.of(offset)] = ""
        # Which columns it has, its definition alone would say: of any name that nobody else has.
        scope.sources.append(Source(number, alias, "", names))
        return Node({number}, [], [], set(said.columns))

    # -- conditions and groups

    def _filter(self, block: Node, condition: exp.Expr, scope: Scope) -> None:
        said = self._expressions.read(condition, scope)
        edges = list(self._expressions.edges(condition, scope, said))
        for trail in block.trails:
            trail.close([*edges, *block.facts], strict=False)
            trail.close(edges, strict=True)
            trail.use(said.columns)
            if trail.lasting is not None and not trail.lasts(said.columns, block.sources):
                trail.spoil("a condition on it decides which rows there are")
        for trail in said.trails:
            trail.close([*edges, *block.facts], strict=False)
            trail.close(edges, strict=True)
        block.trails += said.trails
        block.facts += edges

    def _group(self, node: exp.Select, block: Node, scope: Scope) -> set[Col] | None:
        """The columns that make up a group; None where there are no groups."""
        group = node.args.get("group")
        if group is None:
            return None
        _only(group, frozenset({"expressions"}))
        columns: set[Col] = set()
        said = Said()
        for expression in group.expressions:
            one = self._meant(expression, node, scope)
            if isinstance(one, exp.Rollup | exp.Cube | exp.GroupingSets):
                raise NotUnderstood("GROUP BY of several groupings")
            self._expressions.read_into(one, scope, said)
            plain = self._expressions.plain(one, scope)
            if plain is not None and plain[2]:
                columns.add(plain[0])
        if said.trails:
            raise NotUnderstood("a subquery in GROUP BY")
        for trail in block.trails:
            trail.use(said.columns)
            if trail.lasting is not None and not trail.lasts(said.columns, block.sources):
                trail.spoil("it decides which groups there are")
        return columns

    def _meant(self, expression: exp.Expr, node: exp.Select, scope: Scope) -> exp.Expr:
        """What GROUP BY means by a number, or by the name of an output column."""
        if isinstance(expression, exp.Literal) and not expression.is_string:
            place = int(expression.this)
            if not 1 <= place <= len(node.expressions):
                raise NotUnderstood("GROUP BY a number")
            return _bare(node.expressions[place - 1])
        if isinstance(expression, exp.Column) and not expression.args.get("table"):
            name = self._names.of(expression.this)
            aliased = [one for one in node.expressions if isinstance(one, exp.Alias)]
            named: list[exp.Expr] = [
                one.this for one in aliased if self._names.same(self._names.of(one.args["alias"]), name)
            ]
            if named and named[0] != expression:
                if any(self._names.among(name, source.columns) or source.is_open for source in scope.sources):
                    raise NotUnderstood(f"GROUP BY {name}, a column and the name of another output column")
                return named[0]
        return expression

    # -- output

    def _output(self, node: exp.Select, block: Node, scope: Scope, grouped: set[Col] | None) -> Result:
        number = next(self._numbers)
        outputs = _named_once(self._projections(node, scope))
        said = [self._expressions.read(expression, scope) for _, expression in outputs]
        within = {id(trail): place for place, one in enumerate(said) for trail in one.trails}
        for one in said:
            for trail in one.trails:
                # In the list of what is shown: whatever it says, no row comes or goes with it.
                trail.lasting = frozenset(block.sources)
                trail.close(block.facts, strict=False)
        trails = [*block.trails, *itertools.chain.from_iterable(one.trails for one in said)]
        is_window = any(one.is_window for one in said) or bool(node.args.get("windows"))
        if grouped is None and any(one.is_aggregate for one in said):
            grouped = set()
        grouped = self._distinct(node, grouped, trails, scope)
        columns: dict[str, str] = {}
        for trail in trails:
            self._carry_out(trail, number, outputs, said, block, scope, (grouped, within.get(id(trail))))
            if is_window:
                trail.keep(lambda source: source != number)
                trail.spoil("a window function looks at other rows")
        for name, expression in outputs:
            plain = self._expressions.plain(expression, scope)
            columns[name] = plain[1] if plain is not None else ""
        if grouped is not None or node.args.get("distinct"):
            for trail in trails:
                soften(trail, number, columns)
        return Result(number, columns, trails)

    def _projections(self, node: exp.Select, scope: Scope) -> Iterator[tuple[str, exp.Expr]]:
        for place, one in enumerate(node.expressions):
            if isinstance(one, exp.Star) or (isinstance(one, exp.Column) and isinstance(one.this, exp.Star)):
                if any(value for key, value in one.args.items() if key not in ("this", "table", "db")):
                    raise NotUnderstood("* with exceptions")
                alias = self._names.of(one.args.get("table")) if isinstance(one, exp.Column) else ""
                for name, column in scope.all_columns(alias):
                    yield name, Resolved(this=column)
            elif isinstance(one, exp.Alias):
                yield self._names.of(one.args["alias"]), one.this
            elif isinstance(one, exp.Column):
                yield self._names.of(one.this), one
            elif isinstance(one, exp.Aliases):
                raise NotUnderstood("several names for one output column")
            else:
                yield f"?{place}", one

    def _distinct(
        self, node: exp.Select, grouped: set[Col] | None, trails: Iterable[Trail], scope: Scope
    ) -> set[Col] | None:
        distinct = node.args.get("distinct")
        if distinct is None:
            return grouped
        for trail in trails:
            trail.spoil("DISTINCT")
        on = distinct.args.get("on")
        if on is None:
            return grouped
        plain = [self._expressions.plain(one, scope) for one in (on.expressions or [on])]
        chosen = {one[0] for one in plain if one is not None and one[2]}
        return chosen if grouped is None else chosen & grouped

    def _carry_out(  # noqa: PLR0913 - an inner step of `_output`
        self, trail: Trail, number: int, outputs: Sequence[tuple[str, exp.Expr]], said: Sequence[Said], block: Node,
        scope: Scope, how: tuple[set[Col] | None, int | None],
    ) -> None:  # fmt: skip
        """Say of one trail what the output columns are to it, and forget the block's own."""
        grouped, inside = how
        same: dict[Col, dict[str, bool]] = {}
        lasting: set[int | Col] = set()
        for place, ((name, expression), one) in enumerate(zip(outputs, said, strict=True)):
            column = (number, name)
            if inside == place or (one.mixes and inside is None):
                trail.made[column] = None
                continue
            trail.made[column] = trail.parts(one.columns)
            if trail.lasting is not None and trail.lasts(one.columns, block.sources):
                lasting.add(column)
            plain = self._expressions.plain(expression, scope)
            if plain is None or (grouped is not None and plain[0] not in grouped):
                continue
            found = trail.equals(plain[0])
            if found:
                same[column] = dict(found)
        trail.keep(lambda source: source not in block.sources)
        trail.same.update(same)
        if trail.lasting is not None:
            trail.lasting = frozenset(lasting)


# ---------------------------------------------------------------------------------------------------- words


def _only(node: exp.Expr, known: frozenset[str]) -> None:
    strange = [name for name, value in node.args.items() if value and name not in known]
    if strange:
        raise NotUnderstood(f"{strange[0].strip('_').replace('_', ' ').upper()} in a query")


def _bare(node: exp.Expr) -> exp.Expr:
    return node.this if isinstance(node, exp.Alias) else node


def _is_query(node: exp.Expr) -> bool:
    """Whether brackets hold a query, and not a join."""
    while isinstance(node, exp.Subquery) and not node.args.get("joins"):
        node = node.this
    return not isinstance(node, exp.Table | exp.Subquery)


def _alias(node: exp.Expr, names: Names) -> tuple[str, tuple[str, ...]]:
    alias = node.args.get("alias")
    if not isinstance(alias, exp.TableAlias):
        return "", ()
    columns = (one.this if isinstance(one, exp.ColumnDef) else one for one in alias.args.get("columns") or ())
    return names.of(alias.this), tuple(names.of(one) for one in columns)


def _named_once(outputs: Iterable[tuple[str, exp.Expr]]) -> list[tuple[str, exp.Expr]]:
    """Of two columns with one name the first has it (SQLite; elsewhere nobody may name either)."""
    found: dict[str, exp.Expr] = {}
    for place, (name, expression) in enumerate(outputs):
        found[f"?{place}" if name in found else name] = expression
    return list(found.items())
