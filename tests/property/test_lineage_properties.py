"""Derived lineage over random schemas, views and changes, on real servers.

Whatever changes, every key whose view rows differ is signalled: by its key, by a value that the view is asked for, or
by a look at all of it.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg
import pytest

from connector.capture.lineage.catalogue import BaseTable, Catalogue, Column, ViewText
from connector.capture.lineage.paths import Derived, derive
from connector.capture.postgres import definitions
from connector.capture.signals import Route, touched

COLUMNS = ("id", "a", "b", "c")
TABLES = ("t0", "t1", "t2", "t3")
VALUES = (0, 1, 2, 3, None)

Rows = list[tuple[Any, ...]]


class Place(Protocol):
    """A database with the tables and views of one example."""

    def run(self, statement: str) -> None: ...
    def ask(self, query: str) -> Rows: ...
    def catalogue(self, view: str) -> Catalogue: ...


@dataclass
class Queries:
    """Writes random queries of the grammar that lineage understands, and some that it does not."""

    dice: random.Random
    relations: dict[str, tuple[str, ...]]
    # As a party would write it: joins by key, what is joined by is shown.
    tidy: bool
    joined: list[str] = field(default_factory=list)
    aliases: Iterator[int] = field(default_factory=lambda: iter(range(10_000)))

    def chance(self, share: float) -> bool:
        return self.dice.random() < (share / 3 if self.tidy else share)

    def relation(self, depth: int) -> tuple[str, str, tuple[str, ...]]:
        """A source for FROM: its text, alias, columns."""
        alias = f"x{next(self.aliases)}"
        if depth > 0 and self.chance(0.15):
            text, columns = self.query(depth - 1)
            return f"({text}) {alias}", alias, columns
        name = self.dice.choice(list(self.relations))
        return f"{name} {alias}", alias, self.relations[name]

    def query(self, depth: int) -> tuple[str, tuple[str, ...]]:
        if depth > 0 and self.chance(0.12):
            first, columns = self.block(depth - 1, 2)
            second, _ = self.block(depth - 1, 2)
            verb = self.dice.choice(["union all", "union all", "union all", "union", "except", "intersect"])
            return f"{first} {verb} {second}", columns
        return self.block(depth)

    def block(self, depth: int, width: int | None = None) -> tuple[str, tuple[str, ...]]:
        self.joined.clear()
        source, alias, columns = self.relation(depth)
        self.joined.clear()
        shown = [f"{alias}.{column}" for column in columns]
        merged: set[str] = set()
        for _ in range(self.dice.choice([0, 1, 1, 2])):
            text, other, theirs = self.relation(depth)
            also = [f"{other}.{column}" for column in theirs]
            wild = [] if self.tidy else ["right join", "full join", "cross join"]
            join = self.dice.choice(["join", "join", "left join", "left join", *wild])
            if join == "cross join":
                source = f"{source} cross join {text}"
            elif self.chance(0.15) and not merged and (both := sorted(set(columns) & set(theirs))):
                name = self.dice.choice(both)
                source = f"{source} {join} {text} using ({name})"
                merged.add(name)
            else:
                source = f"{source} {join} {text} on {self.condition(shown, also)}"
                merged.add("-")
            shown += also
        text = f" from {source}"
        if self.dice.random() < 0.6:
            text += f" where {self.where(shown, depth)}"
        return self.listed(shown, text, depth, width)

    def listed(self, shown: list[str], rest: str, depth: int, width: int | None) -> tuple[str, tuple[str, ...]]:
        count = width or self.dice.randint(2, 5)
        grouped = self.chance(0.15)
        picked = [self.dice.choice(shown) for _ in range(count)]
        if self.tidy:
            picked = [shown[0], *(self.joined + shown[1:])][:count]
        groups = list(dict.fromkeys(picked))
        if grouped and width is None:
            picked[-1] = self.dice.choice(["count(*)", f"max({self.dice.choice(shown)})"])
            groups = list(dict.fromkeys(picked[:-1]))
        elif width is None and self.chance(0.15):
            picked[-1] = f"coalesce({picked[-1]}, '7')"
        elif width is None and depth > 0 and self.chance(0.15):
            picked[-1] = f"(select count(*) {self.inner(shown)})"
        names = tuple(f"c{place}" for place in range(len(picked)))
        distinct = "distinct " if self.chance(0.07) else ""
        text = (
            f"select {distinct}" + ", ".join(f"{one} as {name}" for one, name in zip(picked, names, strict=True)) + rest
        )
        if grouped:
            text += f" group by {', '.join(groups)}"
            if self.chance(0.3):
                text += " having count(*) < 3"
        elif self.chance(0.04) and width is None:
            text += f" order by {', '.join(shown)} limit 3"
        return text, names

    def condition(self, ours: Sequence[str], theirs: Sequence[str]) -> str:
        left, right = self.dice.choice(list(ours)), self.dice.choice(list(theirs))
        if self.tidy and self.dice.random() < 0.7:
            right = theirs[0]
        self.joined.append(self.dice.choice([left, left, right]))
        found = [f"{left} = {right}"]
        if self.chance(0.3):
            found.append(self.simple([*ours, *theirs]))
        return " and ".join(found)

    def simple(self, shown: Sequence[str]) -> str:
        one, other = self.dice.choice(list(shown)), self.dice.choice(list(shown))
        return self.dice.choice([
            f"{one} = '{self.dice.randint(0, 3)}'", f"{one} <> '{self.dice.randint(0, 3)}'", f"{one} is null",
            f"{one} is not null", f"{one} = {other}", f"({one} = {other} or {one} > '1')",
        ])  # fmt: skip

    def where(self, shown: Sequence[str], depth: int) -> str:
        found = []
        for _ in range(self.dice.choice([1, 1, 2])):
            if depth > 0 and self.dice.random() < 0.4:
                one = self.dice.choice(list(shown))
                found.append(self.dice.choice([
                    f"exists (select 1 {self.inner(shown)})",
                    f"not exists (select 1 {self.inner(shown)})",
                    f"{one} in (select {self.first(shown)})",
                    f"{one} not in (select {self.first(shown)})",
                    f"({one} = '2' or exists (select 1 {self.inner(shown)}))",
                ]))  # fmt: skip
            else:
                found.append(self.simple(shown))
        return " and ".join(found)

    def inner(self, shown: Sequence[str]) -> str:
        """FROM and WHERE of a correlated subquery."""
        return self._inner(shown)[0]

    def first(self, shown: Sequence[str]) -> str:
        text, own = self._inner(shown)
        return f"{self.dice.choice(own)} {text}"

    def _inner(self, shown: Sequence[str]) -> tuple[str, list[str]]:
        source, alias, columns = self.relation(0)
        own = [f"{alias}.{column}" for column in columns]
        if self.chance(0.3):
            text, other, theirs = self.relation(0)
            also = [f"{other}.{column}" for column in theirs]
            source = f"{source} {self.dice.choice(['join', 'left join'])} {text} on {self.condition(own, also)}"
            own += also
        found = [f"{self.dice.choice(own)} = {self.dice.choice(list(shown))}"] if self.chance(0.8) else []
        if self.chance(0.4):
            found.append(self.simple(own))
        return f"from {source}" + (f" where {' and '.join(found)}" if found else ""), own


@dataclass
class Example:
    """Views over four small tables; the last one is the party's."""

    views: dict[str, str]
    key: tuple[str, ...]


def example(dice: random.Random) -> Example:
    tidy = dice.random() < 0.7
    queries = Queries(dice, dict.fromkeys(TABLES, COLUMNS), tidy)
    views: dict[str, str] = {}
    columns: tuple[str, ...] = ()
    for number in range(dice.choice([1, 1, 2])):
        text, columns = queries.query(2)
        views[f"v{number}"] = text
        queries.relations[f"v{number}"] = columns
    keys = [name for name in columns if dice.random() < (0.15 if tidy else 0.4)][:2]
    if tidy and columns[0] not in keys:
        keys = [columns[0], *keys][:2]
    return Example(views, tuple(keys) or (columns[0],))


@dataclass
class Table:
    """One table's rows as the test keeps them."""

    rows: dict[int, dict[str, int | None]] = field(default_factory=dict)


def row(dice: random.Random, number: int) -> dict[str, int | None]:
    return {"id": number, **{name: dice.choice(VALUES) for name in COLUMNS[1:]}}


def literal(value: int | None) -> str:
    """A constant that a number and a text can take."""
    return "null" if value is None else f"'{value}'"


def change(
    dice: random.Random, tables: Mapping[str, Table], names: Sequence[str], *, grow: bool = False
) -> tuple[str, str, Any, Any]:
    """One random change: statement, table, the row before, the row after."""
    name = dice.choice(names)
    rows = tables[name].rows
    free = [number for number in range(6) if number not in rows]
    verb = "insert" if grow else dice.choice(["insert", "update", "update", "delete"])
    if (verb == "insert" and free) or not rows:
        new = row(dice, dice.choice(free))
        rows[int(new["id"] or 0)] = new
        values = ", ".join(map(literal, new.values()))
        return f"insert into {name} values ({values})", name, None, new
    number = dice.choice(sorted(rows))
    old = rows.pop(number)
    if verb == "delete":
        return f"delete from {name} where id = {number}", name, old, None
    new = {**old, **{column: dice.choice(VALUES) for column in COLUMNS[1:] if dice.random() < 0.5}}
    if free and dice.random() < 0.2:
        new["id"] = dice.choice(free)
    rows[int(new["id"] or 0)] = new
    sets = ", ".join(f"{column} = {literal(value)}" for column, value in new.items())
    return f"update {name} set {sets} where id = {number}", name, old, new


def routes(derived: Derived) -> dict[str, list[Route]]:
    found: dict[str, list[Route]] = {}
    for path in derived.paths:
        key, match = (path.pairs if path.kind == kind else () for kind in ("key", "match"))
        found.setdefault(path.table[1], []).append(Route("e", key, match, path.stays))
    return found


def image(row: Mapping[str, int | None] | None) -> dict[str, str | None] | None:
    return None if row is None else {name: None if value is None else str(value) for name, value in row.items()}


def by_key(rows: Rows, width: int) -> dict[tuple[str, ...], Counter[tuple[Any, ...]]]:
    found: dict[tuple[str, ...], Counter[tuple[Any, ...]]] = {}
    for one in rows:
        if None not in one[:width]:
            found.setdefault(tuple(str(value) for value in one[:width]), Counter())[one[width:]] += 1
    return found


def signalled(place: Place, view: str, key: Sequence[str], changes: Any, ways: Mapping[str, list[Route]]) -> Any:
    """Keys that the changes touch by the derived routes; None where all of them."""
    found: set[tuple[str, ...]] = set()
    for table, before, after in changes:
        for route in ways.get(table, ()):
            touch = touched(route, image(before), image(after))
            if touch.whole:
                return None
            found |= touch.keys
            for values in touch.values:
                where = " and ".join(
                    f"{name} = '{value}'" for (name, _), value in zip(route.match, values, strict=True)
                )
                rows = place.ask(f"select {', '.join(key)} from {view} where {where}")
                found |= {tuple(str(value) for value in one) for one in rows if None not in one}
    return found


def play(place: Place, dice: random.Random, statistics: Counter[str]) -> None:
    """One example: its views, then changes; after each the promise is looked at."""
    made = example(dice)
    tables = {name: Table() for name in TABLES}
    try:
        for name, text in made.views.items():
            place.run(f"create view {name} as {text}")
            place.ask(f"select * from {name}")
    except (sqlite3.Error, psycopg.Error):
        statistics["not a view"] += 1
        return
    *_, view = made.views
    derived = derive(place.catalogue(view), ("main", view), made.key)
    statistics.update(path.kind for path in derived.paths)
    statistics.update(path.why for path in derived.paths if path.kind == "whole")
    ways = routes(derived)
    asked = f"select {', '.join(made.key)}, {view}.* from {view}"
    names = sorted({path.table[1] for path in derived.paths})
    for statement, *_ in [change(dice, tables, names, grow=True) for _ in range(4 * len(names))]:
        place.run(statement)
    for _ in range(20):
        changes = [change(dice, tables, names) for _ in range(dice.choice([1, 1, 1, 2, 3]))]
        before = by_key(place.ask(asked), len(made.key))
        for statement, *_ in changes:
            place.run(statement)
        after = by_key(place.ask(asked), len(made.key))
        differ = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        found = signalled(place, view, made.key, [rest for _, *rest in changes], ways)
        statistics["changes"] += bool(differ)
        missed = set() if found is None else differ - found
        assert not missed, (made, derived.paths, changes, missed)


class SqlitePlace:
    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def run(self, statement: str) -> None:
        self._conn.execute(statement)

    def ask(self, query: str) -> Rows:
        return self._conn.execute(query).fetchall()

    def catalogue(self, view: str) -> Catalogue:  # noqa: ARG002 - all there is
        columns = {name: Column("int") for name in COLUMNS}
        tables = {("main", name): BaseTable(columns, ("id",)) for name in TABLES}
        texts = self.ask("select name, sql from sqlite_master where type = 'view'")
        return Catalogue("sqlite", tables, {("main", name): ViewText(text) for name, text in texts}, schema="main")


CREATE = "create table {} (id integer primary key, a int, b int, c int)"


@pytest.mark.parametrize("seed", range(4))
def test_sqlite_changes_are_always_signalled(seed: int) -> None:
    dice = random.Random(seed)
    statistics: Counter[str] = Counter()
    for _ in range(200):
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
            for name in TABLES:
                conn.execute(CREATE.format(name))
            play(SqlitePlace(conn), dice, statistics)
    assert statistics["key"] > 40


class PgPlace:
    """One transaction, taken back when the example is over; a statement that fails spoils nothing."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def run(self, statement: str) -> None:
        with self._conn.transaction():
            self._conn.execute(statement.encode())

    def ask(self, query: str) -> Rows:
        return self._conn.execute(query.encode()).fetchall()

    def catalogue(self, view: str) -> Catalogue:
        self._conn.execute("set local search_path = pg_catalog")
        found = definitions.read(self._conn, [("main", view)], logged=False)
        self._conn.execute("set local search_path = main")
        return found


@pytest.mark.parametrize("seed", range(2))
def test_postgresql_changes_are_always_signalled(source_dsn: str, seed: int) -> None:
    """With the server's own text of each view, and its own account of what the view reads."""
    dice = random.Random(seed)
    statistics: Counter[str] = Counter()
    with psycopg.connect(source_dsn) as conn:
        conn.execute("create schema main")
        for place, name in enumerate(TABLES):
            kinds = ("int", "bigint", "text") if place % 2 else ("int", "smallint", "varchar(9)")
            columns = ", ".join(f"{column} {kind}" for column, kind in zip(COLUMNS[1:], kinds, strict=True))
            conn.execute(f"create table main.{name} (id int primary key, {columns})".encode())
        conn.commit()
        for _ in range(150):
            conn.execute("set local search_path = main")
            play(PgPlace(conn), dice, statistics)
            conn.rollback()
    assert statistics["key"] > 30, statistics
    assert statistics["match"] > 8, statistics
