"""Conditions over a view's key, for any dialect: behind a place, up to a place, one of these keys."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

Condition = sa.ColumnElement[bool]
# Row values and long IN lists are not every engine's; SQLite takes 32,766 parameters, SQL Server 2,100.
PARAMETERS_MAX = 1_000


@lru_cache(256)
def view(schema: str, name: str, columns: tuple[str, ...]) -> sa.TableClause:
    """The view as a table. The same one for the same names: two objects would be joined with each other."""
    return sa.table(name, *[sa.column(column) for column in dict.fromkeys(columns)], schema=schema or None)


def value(given: object) -> sa.ColumnElement[Any]:
    """A parameter, handed to the driver as it is."""
    if type(given).__name__ == "RawText":
        # Text that is no UTF-8 can only be bound as a blob.
        return sa.cast(sa.literal(bytes(given), sa.types.NullType()), sa.Text)  # type: ignore[call-overload]
    return sa.literal(given, sa.types.NullType())


def present(columns: Sequence[sa.ColumnElement[Any]]) -> Condition:
    return sa.and_(*[column.is_not(None) for column in columns])


def absent(columns: Sequence[sa.ColumnElement[Any]]) -> Condition:
    return sa.or_(*[column.is_(None) for column in columns])


def behind(columns: Sequence[sa.ColumnElement[Any]], place: Sequence[object]) -> Condition:
    """Keys that sort after `place`, column by column; the first condition alone lets an index be used."""
    first = value(place[0])
    if len(columns) == 1:
        return columns[0] > first
    return sa.and_(columns[0] >= first, sa.or_(columns[0] > first, behind(columns[1:], place[1:])))


def up_to(columns: Sequence[sa.ColumnElement[Any]], place: Sequence[object]) -> Condition:
    """Keys that sort before `place`, and those equal to it."""
    last = value(place[0])
    if len(columns) == 1:
        return columns[0] <= last
    return sa.and_(columns[0] <= last, sa.or_(columns[0] < last, up_to(columns[1:], place[1:])))


def one_of(columns: Sequence[sa.ColumnElement[Any]], keys: Sequence[Sequence[Sequence[object]]]) -> Condition:
    """Any of these keys. Each key has, for each column, the values its text may stand for."""
    if len(columns) == 1:
        return columns[0].in_([value(one) for key in keys for one in key[0]])
    return sa.or_(*[
        sa.and_(*[_equals(column, values) for column, values in zip(columns, key, strict=True)]) for key in keys
    ])  # fmt: skip


def _equals(column: sa.ColumnElement[Any], values: Sequence[object]) -> Condition:
    return column == value(values[0]) if len(values) == 1 else column.in_([value(one) for one in values])
