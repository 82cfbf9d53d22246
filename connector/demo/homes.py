"""A party's database as its owner reaches it, by engine: a session, a place in its log, what its views say.

What a view says is turned into text here and not by the daemon's code: the comparison at the end must not share it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pymysql
from psycopg import sql

from connector.capture.sqltext import quoted, ticked
from connector.demo.oracle import Cells, Source
from connector.demo.party import C
from connector.errors import SourceError
from connector.mapping.program import Program

View = tuple[str, str]
LOCK_SECONDS_MAX = 30.0
# What a driver raises where a statement or a connection fails.
ERRORS = (psycopg.Error, sqlite3.Error, pymysql.Error)


class Home(Protocol[C]):
    """How the party's own program, its DBA and the comparison get in."""

    @property
    def overlaps(self) -> bool:
        """Whether one thread may keep a transaction open in one session and commit in another."""

    def connect(self) -> C:
        """Raises SourceError where there is no connection."""

    def place(self, conn: C) -> int:
        """A place in the party's log just before what this session commits next; 0 where nobody follows a log."""

    def count(self, view: View) -> int: ...

    def reading(self) -> AbstractContextManager[Source]:
        """What the comparison reads a view through."""


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except ERRORS as error:
        raise SourceError(f"the party's database does not answer ({reason(error)})") from None


def reason(error: BaseException) -> str:
    """A driver's error without its message, which may quote values."""
    if isinstance(error, psycopg.Error):
        return error.sqlstate or "connection lost"
    if isinstance(error, pymysql.Error) and error.args and isinstance(error.args[0], int):
        return f"error {error.args[0]}"
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


@dataclass(frozen=True, slots=True)
class PostgresHome:
    """PostgreSQL; the comparison reads as the connector's own login."""

    dsn: str
    reader_dsn: str = ""
    overlaps: bool = True

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        with _answering():
            return psycopg.connect(self.dsn)

    def place(self, conn: psycopg.Connection[tuple[Any, ...]]) -> int:
        row = conn.execute("select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::text").fetchone()
        assert row is not None
        return int(row[0])

    def count(self, view: View) -> int:
        with self.connect() as owner:
            row = owner.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(*view))).fetchone()
        assert row is not None
        return int(row[0])

    def reading(self) -> AbstractContextManager[Source]:
        return psycopg.connect(self.reader_dsn, autocommit=True)


@dataclass(frozen=True, slots=True)
class LiteHome:
    """A SQLite file. It has one writer at a time, and no log that anybody could follow."""

    path: Path
    overlaps: bool = False

    def connect(self) -> sqlite3.Connection:
        with _answering():
            conn = sqlite3.connect(self.path, timeout=LOCK_SECONDS_MAX)
            # As most programs that keep a file open have it: who reads keeps nobody from writing.
            conn.execute("pragma journal_mode = wal")
            conn.execute("pragma synchronous = off")
            return conn

    def place(self, conn: sqlite3.Connection) -> int:  # noqa: ARG002 - there is no log
        return 0

    def count(self, view: View) -> int:
        with closing(self.connect()) as conn:
            return int(conn.execute(f"select count(*) from {quoted(*view)}").fetchone()[0])

    def reading(self) -> AbstractContextManager[Source]:
        return nullcontext(self._cells)

    def _cells(self, program: Program) -> Cells:
        with closing(self.connect()) as conn:
            for row in conn.execute(_select(program, quoted)):
                yield [_text(value) for value in row]


@dataclass(frozen=True, slots=True)
class MariaHome:
    """MariaDB with a binary log of one domain: a transaction's number in it is its place."""

    socket: Path
    database: str
    # One thread that waits for a row lock of its own other session waits for ever.
    overlaps: bool = False

    def connect(self) -> pymysql.Connection[Any]:
        with _answering():
            return pymysql.connect(
                unix_socket=str(self.socket), user="root", database=self.database, charset="utf8mb4",
                connect_timeout=10, local_infile=False,
            )  # fmt: skip

    def place(self, conn: pymysql.Connection[Any]) -> int:
        with conn.cursor() as cursor:
            cursor.execute("select @@gtid_binlog_pos")
            return int(str(cursor.fetchone()[0]).rpartition("-")[2] or 0)

    def count(self, view: View) -> int:
        with closing(self.connect()) as conn, conn.cursor() as cursor:
            cursor.execute(f"select count(*) from {ticked(*view)}")
            return int(cursor.fetchone()[0])

    def reading(self) -> AbstractContextManager[Source]:
        return nullcontext(self._cells)

    def _cells(self, program: Program) -> Cells:
        with closing(self.connect()) as conn, conn.cursor() as cursor:
            cursor.execute(_select(program, ticked))
            for row in cursor:
                yield [_text(value) for value in row]


def _select(program: Program, quote: Callable[..., str]) -> str:
    return f"select {', '.join(map(quote, program.inputs))} from {quote(*program.view)}"


def _text(value: object) -> str | None:
    """A cell as the engine's own client would print it; the demo's views show numbers, texts and dates only."""
    if value is None or isinstance(value, str):
        return value
    assert isinstance(value, int | date)
    return str(value)
