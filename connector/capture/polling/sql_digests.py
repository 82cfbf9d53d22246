"""A view as digests through a SQLAlchemy dialect: the server's own md5 where it has one, ours where it has none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import INTEGER

from connector.capture.polling.cursor import earlier
from connector.capture.polling.ports import Page, PolledView, Seen, Stretch, Total
from connector.events import key_parts, source_key
from connector.sqldb import ranges
from connector.sqldb.cells import Cell
from connector.sqldb.engines import Options, Row
from connector.sqldb.session import SqlSession


class SqlDigests:
    """Reads views as digests through a session of its own. Every statement is short; no snapshot is held."""

    def __init__(self, url: str, options: Options) -> None:
        self._session = SqlSession(url, options)
        self._at_server = self._session.dialect in ("mysql", "mariadb")
        self._types: dict[str, dict[str, str]] = {}

    def close(self) -> None:
        self._session.close()

    @property
    def system(self) -> str:
        return self._session.dialect

    def look(self, view: PolledView) -> bool:
        types = dict(self._session.columns(*view.name).types)
        self._types[view.entity] = types
        return all(name in types for name in view.inputs)

    def total(self, view: PolledView, after: str | None, upto: str | None) -> Total:
        if not self._at_server:
            return self._fold(view, after, upto)
        digest = _row_digest(self._columns(view, view.inputs))
        halves = [
            sa.func.bit_xor(sa.cast(sa.func.conv(sa.func.substr(digest, start, 16), 16, 10), INTEGER(unsigned=True)))
            for start in (1, 17)
        ]
        query = sa.select(sa.func.count(), *halves).where(self._bounds(view, after, upto))
        ((rows, high, low),) = [cells for _, cells in self._rows(view, query)]
        return Total(_number(rows), _number(high) << 64 | _number(low))

    def _fold(self, view: PolledView, after: str | None, upto: str | None) -> Total:
        rows, digest = 0, 0
        query = sa.select(*self._columns(view, view.inputs)).where(self._bounds(view, after, upto))
        with self._session.held_or_translated(view.entity, f"comparing {view.name[0]}.{view.name[1]}"):
            for group in self._session.rows(query):
                rows += len(group)
                for row in group:
                    digest ^= _digest(row)
        return Total(rows, digest)

    def stretch(self, view: PolledView, after: str | None, upto: str | None, rows: int) -> Stretch:
        keys = self._columns(view, view.key)
        inputs = self._columns(view, view.inputs)
        wanted = [*keys, _row_digest(inputs)] if self._at_server else inputs
        query = sa.select(*wanted).where(self._bounds(view, after, upto)).order_by(*keys).limit(rows)
        seen: list[Seen] = []
        last: Row = ()
        for row, cells in self._rows(view, query):
            digest = int(cells[-1] or b"0", 16) if self._at_server else _digest(row)
            seen.append(Seen(_key(cells[: len(keys)]), digest))
            last = row
        place = self._place_text(view, last, view.key) if seen else (after or "")
        return Stretch(seen, place, whole=len(seen) < rows)

    # -- along a column that rises

    def has(self, view: PolledView, column: str) -> bool:
        return column in self._types[view.entity]

    def highest(self, view: PolledView, column: str) -> str | None:
        rising = self._columns(view, (column,))[0]
        query = sa.select(rising).where(rising.is_not(None)).order_by(rising.desc()).limit(1)
        for row, _ in self._rows(view, query):
            return self._session.engine.place(row[0], self._types[view.entity][column])
        return None

    def since(self, view: PolledView, column: str, value: str | None, overlap: float, *, rows: int) -> Page:
        rising = self._columns(view, (column,))[0]
        if value is None:
            return self._page(view, column, rising.is_not(None), rows)
        least = earlier(self._session.engine.place_value(value, self._types[view.entity][column]), overlap)
        return self._page(view, column, rising >= ranges.value(least), rows)

    def next_page(self, view: PolledView, column: str, last: str, *, rows: int) -> Page:
        columns = (column, *view.key)
        place = self._place(view, last, columns)
        return self._page(view, column, ranges.behind(self._columns(view, columns), place), rows)

    def _page(self, view: PolledView, column: str, condition: ranges.Condition, rows: int) -> Page:
        columns = self._columns(view, (column, *view.key))
        inputs = self._columns(view, view.inputs)
        # The same column twice is told apart by its place only.
        more = [_row_digest(inputs)] if self._at_server else [one.label(f"i{n}") for n, one in enumerate(inputs)]
        query = sa.select(*columns, *more).where(ranges.present(columns[1:]), condition).order_by(*columns).limit(rows)
        found: list[tuple[str | None, str, int]] = []
        last: Row = ()
        width = len(columns)
        for row, cells in self._rows(view, query):
            digest = int(cells[-1] or b"0", 16) if self._at_server else _digest(row[width:])
            found.append((_key(cells[1:width]), self._place_text(view, row, (column,)), digest))
            last = row
        place = self._place_text(view, last, (column, *view.key)) if found else ""
        return Page(found, place, whole=len(found) < rows)

    # -- statements

    def _columns(self, view: PolledView, names: Sequence[str]) -> list[sa.ColumnElement[Any]]:
        table = ranges.view(*view.name, tuple(self._types[view.entity]))
        return [table.c[name] for name in names]

    def _bounds(self, view: PolledView, after: str | None, upto: str | None) -> ranges.Condition:
        keys = self._columns(view, view.key)
        parts = [ranges.present(keys)]
        if after is not None:
            parts.append(ranges.behind(keys, self._place(view, after, view.key)))
        if upto is not None:
            parts.append(ranges.up_to(keys, self._place(view, upto, view.key)))
        return sa.and_(*parts)

    def _place(self, view: PolledView, text: str, columns: Sequence[str]) -> list[object]:
        types = self._types[view.entity]
        return [
            self._session.engine.place_value(part, types[name])
            for part, name in zip(key_parts(text, len(columns)), columns, strict=True)
        ]

    def _place_text(self, view: PolledView, row: Row, columns: Sequence[str]) -> str:
        types = self._types[view.entity]
        return source_key(
            self._session.engine.place(value, types[name])
            for value, name in zip(row[: len(columns)], columns, strict=True)
        )

    def _rows(self, view: PolledView, query: sa.Select[Any]) -> Iterator[tuple[Row, Sequence[Cell]]]:
        with self._session.held_or_translated(view.entity, f"comparing {view.name[0]}.{view.name[1]}"):
            for group in self._session.pairs(query):
                yield from group


def _row_digest(columns: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[Any]:
    """Each cell with its length before it, so that no two rows have the same text."""
    cells = [
        sa.func.ifnull(
            sa.func.concat(sa.func.char_length(column), sa.literal_column("':'"), column), sa.literal_column("'-'")
        )
        for column in columns
    ]
    return sa.func.md5(sa.func.concat(*cells))


def _digest(row: Row) -> int:
    """Of the values as the driver gave them: twice as fast as of their text. `repr` tells a text from a number."""
    values = tuple(row)
    text = repr(values)
    if bytes in map(type, values):
        # It does not tell a blob from a text of the same bytes.
        text += repr([type(value) for value in values])
    return int.from_bytes(hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest(), "big")


def _number(cell: Cell) -> int:
    return int(cell or b"0")


def _key(cells: Sequence[Cell]) -> str | None:
    try:
        return source_key((cell or b"").decode() for cell in cells)
    except UnicodeDecodeError:
        return None
