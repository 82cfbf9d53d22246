"""The change table through PostgreSQL's own road, and through a SQLAlchemy dialect (MariaDB, MySQL, SQLite)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import sql

from connector import pg
from connector.capture.outbox.leg import parse
from connector.capture.outbox.ports import Row
from connector.errors import SourceMisconfigured
from connector.sqldb.engines import Options
from connector.sqldb.session import SqlSession

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

    def handed(self) -> int | None:
        with self._using("looking at the change table"):
            # A catalogue read: whoever may not read the table is told so by the next statement.
            there = self._conn.execute(
                "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace"
                " where n.nspname = %s and c.relname = %s)",
                (self._schema, f"{self._name}_mark"),
            ).fetchone()
            if there is None or not there[0]:
                return None
            row = self._conn.execute(
                sql.SQL("select handed from {}").format(sql.Identifier(self._schema, f"{self._name}_mark"))
            ).fetchone()
        return None if row is None else int(row[0])

    def rows(self, limit: int) -> Sequence[Row]:
        query = sql.SQL("select id, tabel, kunci::text from {} order by id limit {}").format(
            sql.Identifier(self._schema, self._name), sql.Literal(limit)
        )
        with self._using("reading the change table"):
            found = self._conn.execute(query).fetchall()
        return [parse(*row) for row in found]

    def remove(self, ids: Sequence[int], handed: int) -> None:
        query = sql.SQL("select {}(%s::bigint[], %s)").format(sql.Identifier(self._schema, f"{self._name}_prune"))
        with self._using("removing applied notes"):
            self._conn.execute(query, (list(ids), handed))


class SqlChangeTable:
    """Reads and removes through plain statements: the login needs SELECT and DELETE on this one table."""

    def __init__(self, url: str, schema: str, name: str, options: Options) -> None:
        self._session = SqlSession(url, options, writes=True)
        quote = self._session.engine.engine.dialect.identifier_preparer.quote
        self._table = f"{quote(schema)}.{quote(name)}"
        self._mark = f"{quote(schema)}.{quote(f'{name}_mark')}"
        self._view = (schema, f"{name}_mark")

    def close(self) -> None:
        self._session.close()

    @contextmanager
    def _using(self, doing: str) -> Iterator[None]:
        with self._session.misconfigured_or_translated(f"{doing}: {_NOT_ALLOWED}", doing, _HINT):
            yield

    def handed(self) -> int | None:
        if not self._session.columns(*self._view).types:
            return None
        with self._using("looking at the change table"):
            rows = self._session.execute(f"select handed from {self._mark}")
        return int(str(_plain(rows[0][0]))) if rows else None

    def rows(self, limit: int) -> Sequence[Row]:
        with self._using("reading the change table"):
            found = self._session.execute(f"select id, tabel, kunci from {self._table} order by id limit {int(limit)}")
        return [parse(*row) for row in found]

    def remove(self, ids: Sequence[int], handed: int) -> None:
        numbers = [int(number) for number in ids]
        with self._using("removing applied notes"), self._session.writing():
            for start in range(0, len(numbers), 1_000):
                part = ", ".join(map(str, numbers[start : start + 1_000]))
                self._session.execute(f"delete from {self._table} where id in ({part})")
            self._session.execute(f"update {self._mark} set handed = {int(handed)}")


def _plain(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value
