"""A PostgreSQL view as digests: one hash aggregate a bucket, in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from connector import pg
from connector.capture.polling.cursor import earlier
from connector.capture.polling.ports import Page, PolledView, Seen, Stretch, Total
from connector.events import key_parts, source_key


class PgDigests:
    """Reads views as digests through a session of its own. Every statement is short; no snapshot is held."""

    def __init__(self, dsn: str, *, application: str, statement_timeout_s: float) -> None:
        self._conn = pg.connect(
            dsn, application=application, statement_timeout_s=statement_timeout_s, lock_timeout_s=10
        )
        self._types: dict[str, dict[str, str]] = {}

    def close(self) -> None:
        self._conn.close()

    @property
    def system(self) -> str:
        return "postgresql"

    def look(self, view: PolledView) -> bool:
        with pg.translated(f"looking up view {view.name[0]}.{view.name[1]}"):
            rows = self._conn.execute(_TYPES, view.name).fetchall()
        self._types[view.entity] = dict(rows)
        return all(name in self._types[view.entity] for name in view.inputs)

    def total(self, view: PolledView, after: str | None, upto: str | None) -> Total:
        query = sql.SQL("select count(*), bit_xor({})::text from {} v where {}").format(
            _digest(view), sql.Identifier(*view.name), self._bounds(view, after, upto)
        )
        with pg.held_or_translated(view.entity, f"comparing {view.name[0]}.{view.name[1]}"):
            row = self._conn.execute(query).fetchone()
        assert row is not None
        return Total(row[0], int(row[1] or "0", 2))

    def stretch(self, view: PolledView, after: str | None, upto: str | None, rows: int) -> Stretch:
        keys = sql.SQL(", ").join(sql.SQL("v.{}").format(sql.Identifier(name)) for name in view.key)
        query = sql.SQL("select {}, md5({}::text) from {} v where {} order by {} limit {}").format(
            keys, _record(view), sql.Identifier(*view.name), self._bounds(view, after, upto), keys, sql.Literal(rows)
        )
        with pg.held_or_translated(view.entity, f"comparing {view.name[0]}.{view.name[1]}"):
            result = self._conn.execute(query).pgresult
        assert result is not None
        # The server's own text of each key, which is what COPY shows of it too.
        width = len(view.key)
        seen = [
            Seen(
                _key([result.get_value(row, place) or b"" for place in range(width)]),
                int(result.get_value(row, width) or b"0", 16),
            )
            for row in range(result.ntuples)
        ]
        last = next((one.key for one in reversed(seen) if one.key is not None), after or "")
        return Stretch(seen, last, whole=len(seen) < rows)

    # -- along a column that rises

    def has(self, view: PolledView, column: str) -> bool:
        return column in self._types[view.entity]

    def highest(self, view: PolledView, column: str) -> str | None:
        query = sql.SQL("select max(v.{})::text from {} v").format(sql.Identifier(column), sql.Identifier(*view.name))
        with pg.held_or_translated(view.entity, f"following {view.name[0]}.{view.name[1]}"):
            row = self._conn.execute(query).fetchone()
        return None if row is None or row[0] is None else str(row[0])

    def since(self, view: PolledView, column: str, value: str | None, overlap: float, *, rows: int) -> Page:
        name = sql.SQL("v.{}").format(sql.Identifier(column))
        if value is None:
            return self._page(view, column, sql.SQL("{} is not null").format(name), rows)
        least = str(earlier(value, overlap))
        condition = sql.SQL("{} >= {}").format(name, self._literals(view, (column,), (least,))[0])
        return self._page(view, column, condition, rows)

    def next_page(self, view: PolledView, column: str, last: str, *, rows: int) -> Page:
        columns = (column, *view.key)
        condition = sql.SQL("({}) > ({})").format(
            _names(columns), sql.SQL(", ").join(self._literals(view, columns, key_parts(last, len(columns))))
        )
        return self._page(view, column, condition, rows)

    def _page(self, view: PolledView, column: str, condition: sql.Composable, rows: int) -> Page:
        columns = (column, *view.key)
        present = sql.SQL(" and ").join(sql.SQL("v.{} is not null").format(sql.Identifier(name)) for name in view.key)
        query = sql.SQL(
            "select {names}, md5({record}::text) from {view} v where {present} and {condition}"
            " order by {names} limit {rows}"
        ).format(
            names=_names(columns), record=_record(view), view=sql.Identifier(*view.name), present=present,
            condition=condition, rows=sql.Literal(rows),
        )  # fmt: skip
        with pg.held_or_translated(view.entity, f"following {view.name[0]}.{view.name[1]}"):
            result = self._conn.execute(query).pgresult
        assert result is not None
        width = len(columns)
        found = []
        last = ""
        for row in range(result.ntuples):
            cells = [result.get_value(row, place) or b"" for place in range(width)]
            digest = int(result.get_value(row, width) or b"0", 16)
            found.append((_key(cells[1:]), cells[0].decode(), digest))
            last = _key(cells) or last
        return Page(found, last, whole=len(found) < rows)

    def _bounds(self, view: PolledView, after: str | None, upto: str | None) -> sql.Composable:
        names = [sql.SQL("v.{}").format(sql.Identifier(name)) for name in view.key]
        parts: list[sql.Composable] = [sql.SQL("{} is not null").format(name) for name in names]
        for place, sign in ((after, ">"), (upto, "<=")):
            if place is not None:
                parts.append(
                    sql.SQL("({}) {} ({})").format(
                        sql.SQL(", ").join(names), sql.SQL(sign), sql.SQL(", ").join(self._place(view, place))
                    )
                )
        return sql.SQL(" and ").join(parts)

    def _place(self, view: PolledView, text: str) -> Sequence[sql.Composed]:
        return self._literals(view, view.key, key_parts(text, len(view.key)))

    def _literals(self, view: PolledView, columns: Sequence[str], parts: Sequence[str]) -> Sequence[sql.Composed]:
        types = self._types[view.entity]
        # The type is the party's own catalogue's word (format_type quotes it), run on the party's own server.
        return [
            sql.SQL("{}::{}").format(sql.Literal(part), sql.SQL(types[name]))
            for part, name in zip(parts, columns, strict=True)
        ]


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("v.{}").format(sql.Identifier(name)) for name in columns)


def _record(view: PolledView) -> sql.Composed:
    return sql.SQL("row({})").format(
        sql.SQL(", ").join(sql.SQL("v.{}").format(sql.Identifier(name)) for name in view.inputs)
    )


def _digest(view: PolledView) -> sql.Composed:
    return sql.SQL("('x' || md5({}::text))::bit(128)").format(_record(view))


def _key(cells: Sequence[bytes]) -> str | None:
    try:
        return source_key(cell.decode() for cell in cells)
    except UnicodeDecodeError:
        return None


_TYPES = """
select a.attname, format_type(a.atttypid, a.atttypmod)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where n.nspname = %s and c.relname = %s and c.relkind in ('v', 'm', 'r', 'p', 'f')
"""
