"""The change table through PostgreSQL's own road, and through a SQLAlchemy dialect (MariaDB, MySQL, SQLite)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import psycopg
from psycopg import sql

from connector import pg
from connector.capture.outbox.leg import parse
from connector.capture.outbox.ports import Notes, Row, State
from connector.errors import SourceMisconfigured
from connector.sqldb.engines import Options
from connector.sqldb.session import SqlSession

# Notes fetched before it is known how many keys they hold.
FIRST_NOTES = 20

_NOT_ALLOWED = "the change table or its functions may not be used"
_HINT = "the party's DBA runs the kit's SQL again: `connector kit PARTY`"


class PgChangeTable:
    """Reads the table; removes notes through the kit's function: the login needs no more than EXECUTE on it."""

    def __init__(self, dsn: str, schema: str, name: str, *, application: str, statement_timeout_s: float) -> None:
        self._conn = pg.connect(
            dsn, application=application, statement_timeout_s=statement_timeout_s, lock_timeout_s=10
        )
        self._schema = schema
        self._name = name

    def close(self) -> None:
        self._conn.close()

    @contextmanager
    def _using(self, doing: str) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            if error.sqlstate in ("42501", "42P01", "42883", "3F000"):
                raise SourceMisconfigured(f"{doing}: {_NOT_ALLOWED} ({error.sqlstate})", hint=_HINT) from None
            raise pg.translate(error, doing) from None

    def state(self) -> State | None:
        query = sql.SQL("select handed, lost, exists (select from {}) from {}").format(
            sql.Identifier(self._schema, f"{self._name}_lost"), sql.Identifier(self._schema, f"{self._name}_mark")
        )
        with self._using("looking at the change table"):
            try:
                row = self._conn.execute(query).fetchone()
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                return None
        return None if row is None else State(int(row[0]), row[1] or row[2], row[1] and not row[2])

    def rows(self, limit: int) -> Notes:
        table = sql.Identifier(self._schema, self._name)
        query = sql.SQL("select id, tabel, kunci::text from {} order by id").format(table)
        with self._using("reading the change table"):
            # Most looks find nothing: that is one statement, not a cursor's five.
            if self._conn.execute(sql.SQL("select from {} limit 1").format(table)).fetchone() is None:
                return Notes((), True)
        found: list[Row] = []
        keys, size = 0, min(limit, FIRST_NOTES)
        # Through a cursor: a note may hold one key or a thousand, and memory is for `limit` of them.
        with self._using("reading the change table"), self._conn.transaction(), self._conn.cursor("notes") as cursor:
            cursor.execute(query)
            while keys < limit and (group := cursor.fetchmany(size)):
                notes = [parse(*row) for row in group]
                found += notes
                sizes = [len(note.keys or "-") for note in notes]
                keys += sum(sizes)
                size = max(1, (limit - keys) // max(sizes))
        return Notes(found, keys < limit)

    def remove(self, ids: Sequence[int], handed: int, *, mended: bool = False) -> None:
        query = sql.SQL("select {}(%s::bigint[], %s, %s)").format(sql.Identifier(self._schema, f"{self._name}_prune"))
        with self._using("removing applied notes"):
            self._conn.execute(query, (list(ids), handed, mended))

    def reopen(self) -> None:
        with self._using("making room for notes"):
            self._conn.execute(sql.SQL("select {}()").format(sql.Identifier(self._schema, f"{self._name}_reopen")))


class SqlChangeTable:
    """Reads and removes through plain statements: the login needs SELECT and DELETE on this one table."""

    def __init__(self, url: str, schema: str, name: str, options: Options) -> None:
        self._session = SqlSession(url, options, writes=True)
        quote = self._session.engine.engine.dialect.identifier_preparer.quote
        self._table = f"{quote(schema)}.{quote(name)}"
        self._mark = f"{quote(schema)}.{quote(f'{name}_mark')}"
        self._view = (schema, f"{name}_mark")
        self._room: _Room = _FileRoom(self._session, self._table, self._mark)
        if self._session.dialect != "sqlite":
            self._room = _SequenceRoom(self._session, (schema, name), f"{quote(schema)}.{quote(f'{name}_batas')}")

    def close(self) -> None:
        self._session.close()

    @contextmanager
    def _using(self, doing: str) -> Iterator[None]:
        with self._session.misconfigured_or_translated(f"{doing}: {_NOT_ALLOWED}", doing, _HINT):
            yield

    def state(self) -> State | None:
        if not self._session.columns(*self._view).types:
            return None
        with self._using("looking at the change table"):
            rows = self._session.execute(f"select handed, lost from {self._mark}")
            if not rows:
                return None
            handed, lost = (int(str(_plain(value))) for value in rows[0])
            full = lost < _LOST_AGAIN and self._room.full()
        return State(handed, bool(lost) or full, lost == 1 and not full)

    def rows(self, limit: int) -> Notes:
        with self._using("reading the change table"):
            found = self._session.execute(f"select id, tabel, kunci from {self._table} order by id limit {int(limit)}")
        return Notes([parse(*row) for row in found], len(found) < limit)

    def remove(self, ids: Sequence[int], handed: int, *, mended: bool = False) -> None:
        numbers = [int(number) for number in ids]
        upto = max(numbers, default=0)
        with self._using("removing applied notes"):
            with self._session.writing():
                for start in range(0, len(numbers), 1_000):
                    part = ", ".join(map(str, numbers[start : start + 1_000]))
                    self._session.execute(f"delete from {self._table} where id in ({part})")
                self._session.execute(
                    f"update {self._mark} set handed = {int(handed)},"
                    f" pruned = case when pruned < {upto} then {upto} else pruned end"
                    + (", lost = case when lost = 1 then 0 else lost end" if mended else "")
                )
            if upto:
                self._move(upto)

    def _move(self, upto: int) -> None:
        """Move the limit on. What met the old one while it was moved is lost as well."""
        before = self._room.move(upto + self._notes_max())
        if before is not None and self._room.reached() >= before:
            self._session.execute(f"update {self._mark} set lost = {_LOST_AGAIN}")

    def _notes_max(self) -> int:
        return int(str(_plain(self._session.execute(f"select notes_max from {self._mark}")[0][0])))

    def reopen(self) -> None:
        with self._using("making room for notes"):
            upto = self._room.reached()
            with self._session.writing():
                self._session.execute(f"update {self._mark} set lost = 1, pruned = {upto}")
            self._room.move(upto + self._notes_max())


# `lost` of a table whose limit was met, again perhaps, since it was last reopened.
_LOST_AGAIN = 2


class _Room(Protocol):
    """Where an engine keeps the limit of notes. Numbers are notes' ids."""

    def full(self) -> bool:
        """Whether the limit was met."""

    def reached(self) -> int:
        """The last id that was given out."""

    def move(self, upto: int) -> int | None:
        """Move the limit on; the first id that did not fit before, None where nothing can slip in between."""


class _FileRoom:
    """SQLite: the triggers look at the mark's row themselves, and write there that they met the limit."""

    def __init__(self, session: SqlSession, table: str, mark: str) -> None:
        self._session = session
        self._table = table
        self._mark = mark

    def full(self) -> bool:
        return False

    def reached(self) -> int:
        return int(str(_plain(self._session.execute(f"select coalesce(max(id), 0) from {self._table}")[0][0])))

    def move(self, upto: int) -> int | None:  # noqa: ARG002 - it moves with the mark's row
        return None


class _SequenceRoom:
    """MariaDB: a sequence, which takes no locks. MySQL has none, and no limit."""

    def __init__(self, session: SqlSession, table: tuple[str, str], sequence: str) -> None:
        self._session = session
        self._table = table
        self._sequence = sequence if session.is_mariadb else None

    def full(self) -> bool:
        return self._sequence is not None and self.reached() >= self._next()

    def _next(self) -> int:
        found = self._session.execute(f"select next_not_cached_value from {self._sequence}")
        return int(str(_plain(found[0][0])))

    def reached(self) -> int:
        found = self._session.execute(
            "select auto_increment from information_schema.tables where table_schema = %s and table_name = %s",
            self._table,
        )
        return int(str(_plain(found[0][0]))) - 1

    def move(self, upto: int) -> int | None:
        if self._sequence is None:
            return None
        before = self._next()
        self._session.execute(f"select setval({self._sequence}, {int(upto)})")
        return before


def _plain(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value
