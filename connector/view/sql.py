"""Ask a party's view what it says now, through any SQLAlchemy dialect: for given keys, or for the next chunk of keys.

Rows become the same COPY text that PostgreSQL would send. Refuses to write, to give a row of another key than was
asked for (collations may call two keys equal), and to skip a key that shares its chunk's last place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from connector.errors import EntityHeld
from connector.events import key_parts, source_key
from connector.sqldb import ranges
from connector.sqldb.cells import Cell, copy_row
from connector.sqldb.engines import Options, Row
from connector.sqldb.session import SqlSession
from connector.view.blocks import Block, check
from connector.view.shape import ViewShape


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one read sees. These engines give no number that orders reads; the party's epoch alone does."""

    position: int = 0

    def shows(self, xids: Iterable[int]) -> bool:  # noqa: ARG002 - nothing to compare with: see the sources' echo
        return True


class SqlView:
    """A reading session at one party. One thread at a time; one snapshot at a time."""

    def __init__(self, url: str, options: Options, cell_bytes_max: int) -> None:
        self._session = SqlSession(url, options)
        self._cell_bytes_max = cell_bytes_max

    def close(self) -> None:
        self._session.close()

    def shape(self, entity: str, view: tuple[str, str], key: Sequence[str], inputs: Sequence[str]) -> ViewShape:
        """Look the view up in the catalogue.

        Raises:
            EntityHeld: the view or one of its mapped columns is not there, or may not be read.
        """
        found = self._session.columns(*view)
        name = f"{view[0]}.{view[1]}"
        if not found.types:
            raise EntityHeld(
                entity, "view_missing", f"there is no view {name} that we may read",
                hint="create the view, grant the reader SELECT on it, or correct `view:` in the mapping",
            )  # fmt: skip
        lacking = [column for column in inputs if column not in found.types]
        if lacking:
            raise EntityHeld(
                entity, "view_changed", f"view {name} has no column {', '.join(lacking)}",
                hint="put the column back into the view, or change the mapping",
            )  # fmt: skip
        text = repr((found.definition, list(found.types.items())))
        fingerprint = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        return ViewShape(entity, view[0], view[1], tuple(key), tuple(inputs), found.types, fingerprint)

    def begin(self) -> Snapshot:
        self._session.begin()
        return Snapshot()

    def end(self) -> None:
        self._session.end()

    def fetch(self, shape: ViewShape, keys: Sequence[str]) -> Iterator[Block]:
        """What the view says for these keys, in no order; a key it does not have gives no row."""
        asked = [(key, key_parts(key, len(shape.key))) for key in keys]
        found = [(key, values) for key, parts in asked if (values := self._values(shape, shape.key, parts))]
        for part in _parts(found, shape.key):
            query = self._select(shape, shape.inputs).where(self._one_of(shape, shape.key, [one for _, one in part]))
            yield from self._blocks(shape, query, frozenset(key for key, _ in part))
        if not found:
            # A caller asks for no key at all to learn whether the view can be read.
            yield from self._blocks(shape, self._select(shape, shape.inputs).where(sa.false()))

    def chunk(self, shape: ViewShape, after: str | None, rows: int) -> Iterator[Block]:
        """The next rows in key order after place `after`, at least `rows` of them where there are that many.

        Rows that the engine calls equal in their key are all in, so a doubled key is never split between chunks.
        """
        columns = self._columns(shape, shape.key)
        place = None if after is None else self._place(shape, after)
        while rows > 0:
            condition = ranges.present(columns)
            if place is not None:
                condition = sa.and_(condition, ranges.behind(columns, place))
            before, place = place, self._boundary(shape, condition, rows)
            if place is not None:
                if place == before:
                    raise EntityHeld(
                        shape.entity, "view_changed",
                        f"the key of {shape.schema}.{shape.name} does not sort after itself",
                        hint="a key of approximate numbers (FLOAT) cannot be walked: show it as text or a whole number",
                    )  # fmt: skip
                condition = sa.and_(condition, ranges.up_to(columns, place))
            for block in self._blocks(shape, self._select(shape, shape.inputs).where(condition).order_by(*columns)):
                rows -= block.count
                yield block
            if place is None:
                return
            # Not every engine reads both statements under one snapshot: rows may have gone between them.

    def null_keys(self, shape: ViewShape, rows: int) -> Iterator[Block]:
        """Up to `rows` rows whose key has a NULL: they cannot be staged, and must not be dropped silently."""
        condition = ranges.absent(self._columns(shape, shape.key))
        yield from self._blocks(shape, self._select(shape, shape.inputs).where(condition).limit(rows))

    def sample(self, shape: ViewShape, rows: int) -> Iterator[Block]:
        """Up to `rows` rows in no order, whatever their keys."""
        yield from self._blocks(shape, self._select(shape, shape.inputs).limit(rows))

    def readable(self) -> list[tuple[str, str]]:
        """The views this login may read, by schema and name."""
        return self._session.views()

    def matching(self, shape: ViewShape, columns: Sequence[str], values: Sequence[Sequence[str]]) -> Iterator[str]:
        """Keys of the rows whose `columns` have one of these values; a collation may add a few."""
        found = [("", one) for parts in values if (one := self._values(shape, columns, parts))]
        for part in _parts(found, columns):
            query = self._select(shape, shape.key).where(self._one_of(shape, columns, [one for _, one in part]))
            for group in self._cells(shape, query):
                for cells in group:
                    key = _key(cells, shape)
                    if key is not None:
                        yield key

    # -- statements

    def _table(self, shape: ViewShape) -> sa.TableClause:
        return ranges.view(shape.schema, shape.name, tuple(shape.types))

    def _columns(self, shape: ViewShape, names: Sequence[str]) -> list[sa.ColumnElement[Any]]:
        table = self._table(shape)
        return [table.c[name] for name in names]

    def _select(self, shape: ViewShape, names: Sequence[str]) -> sa.Select[Any]:
        return sa.select(*self._columns(shape, names))

    def _values(self, shape: ViewShape, columns: Sequence[str], parts: Sequence[str]) -> list[tuple[object, ...]]:
        found = [
            self._session.engine.key_values(shape.types[name], part) for name, part in zip(columns, parts, strict=True)
        ]
        # One column without a possible value: there is no such row.
        return found if all(found) else []

    def _one_of(self, shape: ViewShape, columns: Sequence[str], keys: list[list[tuple[object, ...]]]) -> Any:
        return ranges.one_of(self._columns(shape, columns), keys)

    def _place(self, shape: ViewShape, after: str) -> list[object]:
        parts = key_parts(after, len(shape.key))
        return [
            self._session.engine.place_value(part, shape.types[name])
            for part, name in zip(parts, shape.key, strict=True)
        ]

    def _boundary(self, shape: ViewShape, condition: ranges.Condition, rows: int) -> list[object] | None:
        """The key that ends the chunk; None where the rest of the view is no longer than that."""
        columns = self._columns(shape, shape.key)
        query = sa.select(*columns).where(condition).order_by(*columns).limit(1).offset(rows - 1)
        for group in self._pairs(shape, query):
            for row, _ in group:
                return self._place(shape, self._place_text(shape, row))
        return None

    def _place_text(self, shape: ViewShape, row: Row) -> str:
        place = self._session.engine.place
        return source_key(
            place(value, shape.types[name]) for value, name in zip(row[: len(shape.key)], shape.key, strict=True)
        )

    # -- rows

    def _cells(self, shape: ViewShape, query: sa.Select[Any]) -> Iterator[list[Sequence[Cell]]]:
        with self._session.held_or_translated(shape.entity, f"reading {shape.schema}.{shape.name}"):
            yield from self._session.cells(query)

    def _pairs(self, shape: ViewShape, query: sa.Select[Any]) -> Iterator[list[tuple[Row, Sequence[Cell]]]]:
        with self._session.held_or_translated(shape.entity, f"reading {shape.schema}.{shape.name}"):
            yield from self._session.pairs(query)

    def _blocks(self, shape: ViewShape, query: sa.Select[Any], wanted: frozenset[str] | None = None) -> Iterator[Block]:
        for group in self._pairs(shape, query):
            kept = group if wanted is None else [pair for pair in group if _key(pair[1], shape) in wanted]
            if kept:
                rows = [copy_row(cells) for _, cells in kept]
                block = check(rows, len(shape.inputs), len(shape.key), self._cell_bytes_max)
                last = kept[-1][0]
                whole = all(value is not None for value in last[: len(shape.key)])
                yield replace(block, last_key=self._place_text(shape, last) if whole else None)


def _key(row: Sequence[Cell], shape: ViewShape) -> str | None:
    """A row's staging key; None where it has a NULL or is no text: such a row is never signalled."""
    cells = row[: len(shape.key)]
    if None in cells:
        return None
    try:
        return source_key(cell.decode() for cell in cells if cell is not None)
    except UnicodeDecodeError:
        return None


Asked = tuple[str, list[tuple[object, ...]]]


def _parts(keys: list[Asked], columns: Sequence[str]) -> Iterator[list[Asked]]:
    """Keys in statements of a bounded number of parameters."""
    size = max(1, ranges.PARAMETERS_MAX // (2 * len(columns)))
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
