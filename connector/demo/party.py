"""What the demo asks of a party's database: make it, fill it, and change it while the connector looks on.

The demo plays the party here, as its owner; nothing of this is visible to the connector.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Generic, Protocol, TypeVar

import psycopg
from psycopg import sql

from connector.demo.people import Person

Connection = psycopg.Connection[tuple[Any, ...]]


# A party's own session, of its engine's own driver.
C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Move(Generic[C]):
    """One kind of transaction the live writer commits; `weight` is its share among the kinds.

    `entity` is the one whose view it is sure to touch, for timing; empty where nothing is committed, or where the
    change is found by reading the whole view again.
    """

    name: str
    entity: str
    weight: float
    run: Callable[[C], None]


class PartyOn(Protocol[C]):
    """A demo party. `fill` comes once, after `create`; `moves` and `flood` need a filled database."""

    @property
    def name(self) -> str: ...

    def fill(self, conn: C, persons: Sequence[Person]) -> None:
        """Write members, boards, offices and accounts. The caller commits."""

    def moves(self) -> tuple[Move[C], ...]: ...

    def flood(self, conn: C, rows: int) -> int:
        """Update this many members in the caller's transaction; return how many it were."""


# What a party on PostgreSQL is.
Party = PartyOn[Connection]


def ddl(name: str) -> str:
    """The party's tables and views, in its engine's SQL."""
    return resources.files("connector.demo").joinpath("parties", f"{name}.sql").read_text(encoding="utf-8")


def create(conn: Connection, name: str) -> None:
    """Make the tables and views of a party on PostgreSQL in an empty database."""
    conn.execute(ddl(name).encode())


def copy_rows(conn: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    statement = sql.SQL("copy public.{} ({}) from stdin").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with conn.cursor().copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def insert_row(conn: Connection, table: str, columns: Sequence[str], row: Sequence[object]) -> None:
    statement = sql.SQL("insert into public.{} ({}) values ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(sql.Placeholder() * len(columns)),
    )
    conn.execute(statement, row)


class Keys:
    """A bag of keys one can draw from at random, take from and add to, each in constant time."""

    def __init__(self, rng: random.Random, keys: Iterable[Any] = ()) -> None:
        self._rng = rng
        self._keys = list(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: Any) -> None:
        self._keys.append(key)

    def draw(self) -> Any:
        return self._rng.choice(self._keys)

    def some(self, count: int) -> list[Any]:
        return self._rng.sample(self._keys, min(count, len(self._keys)))

    def take(self) -> Any:
        """Draw one and remove it."""
        place = self._rng.randrange(len(self._keys))
        self._keys[place], self._keys[-1] = self._keys[-1], self._keys[place]
        return self._keys.pop()

    def take_last(self) -> Any:
        """Remove the one that was added last."""
        return self._keys.pop()
