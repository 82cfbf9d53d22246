"""Ask a PostgreSQL party's view what it says now, for given keys or for the next chunk of keys.

Rows pass as the bytes the server sent. Refuses to write, to read anything but the named views, and to
believe a snapshot that does not show what was signalled (`Snapshot.shows`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from connector import pg
from connector.errors import EntityHeld
from connector.events import key_parts, source_key
from connector.view.blocks import Block, check, place_parts, unescape
from connector.view.shape import ViewShape

# A deadlock with a vacuum or DDL at the party ends here instead of waiting with an open snapshot.
LOCK_TIMEOUT_S = 10.0
# A server that does not keep to its own statement_timeout is hung up on so much later.
GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one REPEATABLE READ transaction sees.

    `position` is the place in the log just before the snapshot was taken: reads with a larger one are
    never older. `xmin`, `xmax` and `running` are 64-bit transaction ids.
    """

    position: int
    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, position: int, text: str) -> Snapshot:
        """Read `pg_current_snapshot()`: `xmin:xmax:xip,xip`."""
        low, high, running = text.split(":")
        return cls(position, int(low), int(high), frozenset(int(xid) for xid in running.split(",") if xid))

    def widen(self, xid: int) -> int:
        """The 64-bit id of a 32-bit `xid` from the log: the one nearest to this snapshot's end."""
        wide = (self.xmax & ~0xFFFF_FFFF) | xid
        if wide > self.xmax + 0x8000_0000:
            return wide - 0x1_0000_0000
        if wide + 0x8000_0000 < self.xmax:
            return wide + 0x1_0000_0000
        return wide

    def shows(self, xids: Iterable[int]) -> bool:
        """Whether every one of these (32-bit, committed) transactions is visible.

        A commit can be decoded before it is visible: the log is read from disk while the session
        still waits for its standby. A re-read in that window would store the old row for good.
        """
        for xid in map(self.widen, xids):
            if xid >= self.xmin and (xid >= self.xmax or xid in self.running):
                return False
        return True


class PostgresView:
    """A reading session at one party. One thread at a time; one snapshot at a time."""

    def __init__(self, dsn: str, *, application: str, statement_timeout_s: float, cell_bytes_max: int) -> None:
        self._conn = pg.connect(
            dsn, application=application, statement_timeout_s=statement_timeout_s, lock_timeout_s=LOCK_TIMEOUT_S
        )
        self._cell_bytes_max = cell_bytes_max
        self._limit_s = statement_timeout_s + GRACE_S if statement_timeout_s else math.inf

    def close(self) -> None:
        self._conn.close()

    def shape(self, entity: str, view: tuple[str, str], key: Sequence[str], inputs: Sequence[str]) -> ViewShape:
        """Look the view up in the catalogue.

        Raises:
            EntityHeld: the view or one of its mapped columns is not there, or may not be read.
        """
        with pg.translated(f"looking up view {view[0]}.{view[1]}"):
            rows = self._conn.execute(_SHAPE, {"schema": view[0], "name": view[1]}).fetchall()
        if not rows:
            raise EntityHeld(
                entity, "view_missing", f"there is no view {view[0]}.{view[1]}",
                hint="create the view, or correct `view:` in the mapping",
            )  # fmt: skip
        types = {name: kind for name, kind, _ in rows}
        lacking = [column for column in inputs if column not in types]
        if lacking:
            raise EntityHeld(
                entity, "view_changed", f"view {view[0]}.{view[1]} has no column {', '.join(lacking)}",
                hint="put the column back into the view, or change the mapping",
            )  # fmt: skip
        return ViewShape(entity, view[0], view[1], tuple(key), tuple(inputs), types, rows[0][2])

    def begin(self) -> Snapshot:
        """Open the snapshot that everything is read under until `end`."""
        with pg.translated("taking a snapshot"):
            position = self._conn.execute(_POSITION).fetchone()
            self._conn.execute("begin transaction isolation level repeatable read, read only")
            seen = self._conn.execute("select pg_current_snapshot()::text").fetchone()
        assert position is not None
        assert seen is not None
        return Snapshot.parse(int(position[0]), seen[0])

    def end(self) -> None:
        if self._conn.closed or self._conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            return
        try:
            self._conn.execute("rollback")
        except psycopg.Error:
            self._conn.close()

    def fetch(self, shape: ViewShape, keys: Sequence[str]) -> Iterator[Block]:
        """What the view says for these keys, in no order; a key it does not have gives no row."""
        with pg.held_or_translated(shape.entity, f"reading {shape.schema}.{shape.name}"):
            condition = self._any_of(shape, shape.key, [key_parts(key, len(shape.key)) for key in keys])
            query = sql.SQL("copy (select {} from {} v where {}) to stdout").format(
                _columns(shape.inputs), _relation(shape), condition
            )
            yield from self._blocks(shape, query)

    def chunk(self, shape: ViewShape, after: str | None, rows: int) -> Iterator[Block]:
        """The next rows in key order after place `after`, at least `rows` of them where there are that many.

        Rows that share the last key are all in (`with ties`), so a doubled key is never split between
        chunks. Rows with a NULL in their key are not here: see `null_keys`.
        """
        keys = sql.SQL(", ").join(_compared(shape, name) for name in shape.key)
        with pg.held_or_translated(shape.entity, f"copying {shape.schema}.{shape.name}"):
            query = sql.SQL(
                "copy (select {} from {} v where {} order by {} fetch first {} rows with ties) to stdout"
            ).format(_columns(shape.inputs), _relation(shape), self._after(shape, after), keys, sql.Literal(rows))
            yield from self._blocks(shape, query)

    def null_keys(self, shape: ViewShape, rows: int) -> Iterator[Block]:
        """Up to `rows` rows whose key has a NULL: they cannot be staged, and must not be dropped silently."""
        broken = sql.SQL(" or ").join(sql.SQL("v.{} is null").format(sql.Identifier(name)) for name in shape.key)
        with pg.held_or_translated(shape.entity, f"copying {shape.schema}.{shape.name}"):
            query = sql.SQL("copy (select {} from {} v where {} limit {}) to stdout").format(
                _columns(shape.inputs), _relation(shape), broken, sql.Literal(rows)
            )
            yield from self._blocks(shape, query)

    def sample(self, shape: ViewShape, rows: int) -> Iterator[Block]:
        """Up to `rows` rows in no order, whatever their keys."""
        with pg.held_or_translated(shape.entity, f"reading {shape.schema}.{shape.name}"):
            query = sql.SQL("copy (select {} from {} v limit {}) to stdout").format(
                _columns(shape.inputs), _relation(shape), sql.Literal(rows)
            )
            yield from self._blocks(shape, query)

    def readable(self) -> list[tuple[str, str]]:
        """The views this login may read, by schema and name."""
        with pg.translated("listing the views"):
            return [(schema, name) for schema, name in self._conn.execute(_READABLE).fetchall()]

    def matching(self, shape: ViewShape, columns: Sequence[str], values: Sequence[Sequence[str]]) -> Iterator[str]:
        """Keys of the rows whose `columns` have one of these values: who is touched by a joined table's change."""
        with pg.held_or_translated(shape.entity, f"reading {shape.schema}.{shape.name}"):
            query = sql.SQL("copy (select {} from {} v where {}) to stdout").format(
                _columns(shape.key), _relation(shape), self._any_of(shape, columns, values)
            )
            for group in pg.copy_out(self._conn, query, self._limit_s):
                for row in group:
                    key = _copied_key(row)
                    if key is not None:
                        yield key

    def _blocks(self, shape: ViewShape, query: sql.Composed) -> Iterator[Block]:
        for group in pg.copy_out(self._conn, query, self._limit_s):
            yield check(group, len(shape.inputs), len(shape.key), self._cell_bytes_max)

    def _after(self, shape: ViewShape, after: str | None) -> sql.Composable:
        whole = sql.SQL(" and ").join(sql.SQL("v.{} is not null").format(sql.Identifier(name)) for name in shape.key)
        if after is None:
            return whole
        for place, part in enumerate(place_parts(after, len(shape.key))):
            self._conn.execute(_SET_BYTES, (f"sipol.a{place}", part))
        left = sql.SQL(", ").join(_compared(shape, name) for name in shape.key)
        right = sql.SQL(", ").join(
            _setting(f"sipol.a{place}", shape.types[name]) for place, name in enumerate(shape.key)
        )
        return sql.SQL("{} and ({}) > ({})").format(whole, left, right)

    def _any_of(self, shape: ViewShape, columns: Sequence[str], values: Sequence[Sequence[str]]) -> sql.Composable:
        compared = [_compared(shape, name) for name in columns]
        arrays = [_array([value[place] for value in values], shape.types[name]) for place, name in enumerate(columns)]
        if len(columns) == 1:
            return sql.SQL("{} = any({})").format(compared[0], arrays[0])
        left = sql.SQL(", ").join(compared)
        # The single conditions let the planner use an index: `in` over several columns is no index condition
        # behind a security barrier.
        singly = sql.SQL(" and ").join(
            sql.SQL("{} = any({})").format(column, array) for column, array in zip(compared, arrays, strict=True)
        )
        # `is true` keeps the pairs a hash table of its own: made a join, they have been compared one by one, since
        # the planner multiplies the conditions' selectivities and expects a single row.
        pairs = sql.SQL(", ").join(arrays)
        return sql.SQL("{} and (({}) in (select * from unnest({}) as k)) is true").format(singly, left, pairs)


def _relation(shape: ViewShape) -> sql.Identifier:
    return sql.Identifier(shape.schema, shape.name)


def _columns(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("v.{}").format(sql.Identifier(name)) for name in names)


def _compared(shape: ViewShape, name: str) -> sql.Composed:
    """A column as it is compared: by its base type, since a domain over an enum has no comparison of its own.

    Raises:
        EntityHeld: a type that brings its own comparison (citext): we would compare by another, and a copy that sorts
            by one and goes on by the other loses rows.
    """
    kind = shape.types[name]
    if not kind:
        raise EntityHeld(
            shape.entity, "view_changed", f"column {name} of {shape.schema}.{shape.name} has a type that is no key",
            hint=f"show it as text in the view: {name}::text",
        )  # fmt: skip
    return sql.SQL("v.{}::{}").format(sql.Identifier(name), sql.SQL(kind))


def _setting(name: str, kind: str) -> sql.Composed:
    # `kind` is the party's own catalogue's word (format_type quotes it), run on the party's own server.
    return sql.SQL("current_setting({})::{}").format(sql.Literal(name), sql.SQL(kind))


def _array(values: Sequence[str], kind: str) -> sql.Composed:
    """An array of the party's own key type, as a constant: COPY takes no parameters.

    A session setting would do too, but the planner makes a hash table of a constant only. A setting it may put into a
    filter, and then the text is parsed again for every row: 5,500 keys took 30 s instead of 20 ms.
    """
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    text = '{"' + '","'.join(quoted) + '"}' if values else "{}"
    # `kind` is the party's own catalogue's word (format_type quotes it), run on the party's own server.
    return sql.SQL("{}::{}").format(sql.Literal(text), sql.SQL(kind + "[]"))


def _copied_key(row: bytes) -> str | None:
    """A row's staging key; None where it has a NULL or is no text: such a row is never staged."""
    cells = row[:-1].split(b"\t")
    if b"\\N" in cells:
        return None
    try:
        return source_key(unescape(cell).decode() for cell in cells)
    except UnicodeDecodeError:
        return None


# A database of encoding SQL_ASCII has keys that are no text at all; every other one converts our UTF-8.
_SET_BYTES = """
select set_config(%s, convert_from(%s, case getdatabaseencoding() when 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end),
                  true) is null
"""

# Where the log ends in memory, not on disk: a snapshot may show commits that are not on disk yet, and a server that
# is found before this place after a crash has lost them.
_POSITION = (
    "select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end"
    " - '0/0'::pg_lsn)::text"
)

# Each column's type, for a domain the type under it; empty where values are not compared by what pg_catalog has. The
# fingerprint changes when the view, or one behind it, is replaced, retyped or renamed: its rows may differ with nothing
# in the log then.
_SHAPE = """
select a.attname,
       (with recursive base as (
          select a.atttypid as oid, a.atttypmod as typmod
          union all
          select t.typbasetype, t.typtypmod from base join pg_type t using (oid) where t.typtype = 'd')
        select case when t.typcategory <> 'A' and (t.typtype = 'e' or t.typnamespace = 'pg_catalog'::regnamespace)
                    then format_type(oid, typmod) else '' end
          from base join pg_type t using (oid) where t.typtype <> 'd'),
       md5(coalesce(pg_get_viewdef(c.oid), '')
         || (with recursive reads(rel) as (
               select c.oid
               union
               select d.refobjid
                 from reads r
                 join pg_rewrite w on w.ev_class = r.rel
                 join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
                                 and d.refclassid = 'pg_class'::regclass)
             select coalesce(string_agg(pg_get_viewdef(v.oid), '' order by v.oid), '')
               from reads r join pg_class v on v.oid = r.rel and v.relkind = 'v' and v.oid <> c.oid)
         || (
         select string_agg(b.attname || ' ' || format_type(b.atttypid, b.atttypmod), ',' order by b.attnum)
           from pg_attribute b where b.attrelid = c.oid and b.attnum > 0 and not b.attisdropped))
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where n.nspname = %(schema)s and c.relname = %(name)s and c.relkind in ('v', 'm', 'r', 'p', 'f')
 order by a.attnum
"""

_READABLE = """
select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('v', 'm') and n.nspname not in ('pg_catalog', 'information_schema')
   and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select') order by 1, 2
"""
