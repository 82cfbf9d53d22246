"""What a question of the preflight has in hand, and what it needs of each engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from connector.capture.finding import Finding
from connector.capture.postgres.expectations import Expectations, ExpectedView
from connector.capture.sqltext import quoted, ticked
from connector.sqldb.session import SqlSession

if TYPE_CHECKING:
    import sqlalchemy as sa


class EngineQuestions(Protocol):
    """What differs between engines about a view."""

    def view(self, asked: Asked, view: ExpectedView, types: Mapping[str, str]) -> Iterator[Finding]:
        """What is wrong with a view that has its columns."""

    def as_bytes(self, column: str) -> str:
        """A column's value without its collation."""

    def cost(self, asked: Asked, view: ExpectedView, statement: sa.Select[Any]) -> str | None:
        """What a re-read of one key looks at, where that is too much."""

    def rises(self, kind: str) -> bool:
        """Whether a column of this type can rise with every change."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One party's database under examination."""

    session: SqlSession
    expected: Expectations
    url: sa.URL
    engine: EngineQuestions

    def quote(self, *names: str) -> str:
        return (quoted if self.session.dialect == "sqlite" else ticked)(*names)

    def place(self, schema: str, name: str) -> str:
        return self.quote(schema, name)

    def one(self, statement: str, values: Sequence[object] = ()) -> Sequence[object]:
        """The only row of a query that always has one."""
        (row,) = self.session.execute(statement, values)
        return row

    def texts(self, statement: str, values: Sequence[object] = ()) -> list[tuple[str, ...]]:
        """Rows as text; NULL is empty."""
        return [tuple(text(value) for value in row) for row in self.session.execute(statement, values)]

    def named(self, statement: str) -> dict[str, str]:
        """Rows of a name and a value."""
        return {row[0]: row[1] for row in self.texts(statement)}


def text(value: object) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def number(value: object) -> int:
    return int(text(value) or 0)
