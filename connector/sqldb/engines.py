"""What differs between engines: how a session is pinned, what a driver's row is as text, which error means what.

One small class per engine, chosen by `engine_for`. Each connects through SQLAlchemy's dialect, so every dialect
has at least the general road.
"""

from __future__ import annotations

import sqlite3
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol, cast

import pymysql
import pymysql.cursors
import sqlalchemy as sa
from pymysql.constants import FIELD_TYPE
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor

from connector.errors import SourceBusy, SourceError, SourceProtocolError, SourceUnavailable, UsageError
from connector.sqldb.cells import Cell, RawText, cell, hexadecimal, loose, typed, untyped

Row = Sequence[object]
Encode = Callable[[Row], Sequence[Cell]]


@dataclass(frozen=True, slots=True)
class Columns:
    """A view as the catalogue shows it: column -> type in the engine's words; its definition where it is shown."""

    types: Mapping[str, str]
    definition: str


@dataclass(frozen=True, slots=True)
class Options:
    """How to behave at the party's server."""

    application: str
    statement_timeout_s: float = 0.0
    lock_timeout_s: float = 10.0


class Engine(Protocol):
    """One kind of database."""

    engine: sa.Engine

    def pin(self, connection: DBAPIConnection) -> None:
        """Set a fresh connection up: zone, charset, modes, time limits."""

    def begin(self, connection: DBAPIConnection) -> None:
        """Open a snapshot, where the engine has one that does the party no harm."""

    def end(self, connection: DBAPIConnection) -> None: ...

    def cursor(self, connection: DBAPIConnection) -> DBAPICursor:
        """A cursor that does not fetch everything at once, where that holds no lock at the party."""

    def encoder(self, cursor: DBAPICursor) -> Encode:
        """From a row of this (executed) cursor to its cells' text."""

    def columns(self, connection: DBAPIConnection, schema: str, name: str) -> Columns: ...

    def views(self, connection: DBAPIConnection) -> list[tuple[str, str]]: ...

    def key_values(self, kind: str, text: str) -> tuple[object, ...]:
        """The values of a column of type `kind` that have this text; none where there can be no such value."""

    def place(self, value: object, kind: str) -> str:
        """A key's value as text that `place_value` turns back."""

    def place_value(self, text: str, kind: str) -> object: ...

    def error(self, error: Exception, doing: str) -> SourceError | str:
        """What a driver's error means; a text is the reason to hold the view that was read."""


def engine_for(url: str, options: Options, *, writes: bool = False) -> Engine:
    """The engine for a SQLAlchemy URL. Its sessions refuse to write, unless they are to.

    Raises:
        UsageError: not a URL, or a dialect without its driver.
    """
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
        if backend == "sqlite":
            return Sqlite(parsed, options, writes)
        if backend in ("mysql", "mariadb"):
            return MySql(parsed, options, writes)
        return Other(parsed, options)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError) as error:
        raise UsageError(
            f"the dsn is no SQLAlchemy URL, or its driver is not installed ({type(error).__name__})",
            hint="sqlite:////folder/file.db, mariadb://user@host:3306/database",
        ) from None


def _unwrapped(error: Exception) -> Exception:
    original = getattr(error, "orig", None)
    return original if isinstance(original, Exception) else error


# ---------------------------------------------------------------------------------------------------- sqlite


class Sqlite:
    """A file. Read in short statements: a long read would keep the party's own writer out (rollback journal)."""

    def __init__(self, url: sa.URL, options: Options, writes: bool) -> None:
        self._path = url.database or ""
        self._mode = "rw" if writes else "ro"
        self._options = options
        self.engine = sa.create_engine(url, creator=self._connect, poolclass=sa.pool.NullPool)

    def _connect(self) -> sqlite3.Connection:
        # Threads take turns with a session (a first copy is read ahead); mode=ro cannot write, nor make a file.
        uri = f"file:{urllib.parse.quote(self._path)}?mode={self._mode}"
        return sqlite3.connect(
            uri, uri=True, timeout=self._options.lock_timeout_s, isolation_level=None, check_same_thread=False
        )

    def pin(self, connection: DBAPIConnection) -> None:
        raw: Any = connection
        raw.execute(f"pragma query_only = {'on' if self._mode == 'ro' else 'off'}")
        raw.execute("pragma trusted_schema = off")
        raw.execute("select count(*) from sqlite_master").fetchone()  # a file that is no database says so here
        raw.text_factory = RawText

    def begin(self, connection: DBAPIConnection) -> None:
        pass

    def end(self, connection: DBAPIConnection) -> None:
        pass

    def cursor(self, connection: DBAPIConnection) -> DBAPICursor:
        return connection.cursor()

    def encoder(self, _: DBAPICursor) -> Encode:
        return _encode

    def columns(self, connection: DBAPIConnection, schema: str, name: str) -> Columns:
        raw: Any = connection
        found = raw.execute("select name, type from pragma_table_info(?, ?)", (name, schema)).fetchall()
        # `name` of a catalogue is no identifier to bind: the schema is looked for among the attached ones.
        attached = {row[1].decode(): row[1].decode() for row in raw.execute("pragma database_list").fetchall()}
        if schema not in attached:
            return Columns({}, "")
        quoted = attached[schema].replace('"', '""')
        text = raw.execute(f'select sql from "{quoted}".sqlite_master where name = ?', (name,)).fetchone()
        definition = cell(text[0]) if text else None
        return Columns(
            {row[0].decode(): row[1].decode() for row in found}, (definition or b"").decode("utf-8", "replace")
        )

    def views(self, connection: DBAPIConnection) -> list[tuple[str, str]]:
        raw: Any = connection
        found = raw.execute("select name from main.sqlite_master where type = 'view' order by name").fetchall()
        return [("main", row[0].decode()) for row in found]

    def key_values(self, kind: str, text: str) -> tuple[object, ...]:  # noqa: ARG002 - types bind nothing in SQLite
        return loose(text)

    def place(self, value: object, kind: str) -> str:  # noqa: ARG002 - as above
        return typed(value)

    def place_value(self, text: str, kind: str) -> object:  # noqa: ARG002 - as above
        return untyped(text)

    def error(self, error: Exception, doing: str) -> SourceError | str:
        name = getattr(_unwrapped(error), "sqlite_errorname", None) or ""
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_INTERRUPT")):
            return SourceBusy(f"{doing}: the file is locked ({name})", hint="will try again")
        if name.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM", "SQLITE_READONLY")):
            return SourceUnavailable(
                f"{doing}: the file cannot be read ({name})", hint="is it there, and may the connector read it?"
            )
        if name == "SQLITE_ERROR":
            return "view_changed"
        return SourceProtocolError(
            f"{doing}: SQLite refused ({name or type(error).__name__})", hint="is the file whole?"
        )


def _encode(row: Row) -> Sequence[Cell]:
    return [cell(value) for value in row]


# ------------------------------------------------------------------------------------------- mysql and mariadb

_HELD = {
    1146: "view_missing",  # no such table
    1356: "view_missing",  # view references something that is gone, or its definer lacks rights
    1049: "view_missing",
    1054: "view_changed",
    1142: "permission_denied",
    1143: "permission_denied",
    1044: "permission_denied",
    1345: "permission_denied",
    1449: "permission_denied",  # the definer of the view is gone
}
_BUSY = frozenset({1205, 1213, 1969, 3024, 1317, 1114, 1021, 1028, 1038})
_INTEGERS = frozenset(
    {FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG, FIELD_TYPE.DECIMAL,
     FIELD_TYPE.NEWDECIMAL, FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE}
)  # fmt: skip
_BYTES = frozenset(
    {FIELD_TYPE.VARCHAR, FIELD_TYPE.VAR_STRING, FIELD_TYPE.STRING, FIELD_TYPE.TINY_BLOB, FIELD_TYPE.BLOB,
     FIELD_TYPE.MEDIUM_BLOB, FIELD_TYPE.LONG_BLOB, FIELD_TYPE.GEOMETRY}
)  # fmt: skip
_BINARY_CHARSET = 63
_ZEROFILL = 64

_PINS = (
    "set names utf8mb4",
    "set session time_zone = '+00:00'",
    # ANSI_QUOTES, NO_BACKSLASH_ESCAPES or PAD_CHAR_TO_FULL_LENGTH would change what our statements and its texts mean.
    "set session sql_mode = 'NO_ENGINE_SUBSTITUTION'",
    "set session group_concat_max_len = 1048576",
    "set session transaction isolation level repeatable read",
    "set session wait_timeout = 28800",
    "set session net_write_timeout = 600",
)


class MySql:
    """MariaDB and MySQL through PyMySQL. Cells are the server's own text: nothing is parsed into a float or date."""

    def __init__(self, url: sa.URL, options: Options, writes: bool) -> None:
        self._access = "read write" if writes else "read only"
        if url.drivername in ("mysql", "mariadb"):
            url = url.set(drivername=f"{url.drivername}+pymysql")
        self._options = options
        self.engine = sa.create_engine(
            url, poolclass=sa.pool.NullPool,
            connect_args={
                "connect_timeout": 10, "charset": "utf8mb4", "local_infile": False, "program_name": options.application,
                "autocommit": True,
            },
        )  # fmt: skip

    def pin(self, connection: DBAPIConnection) -> None:
        raw: Any = connection
        with raw.cursor() as cursor:
            for statement in _PINS:
                cursor.execute(statement)
            cursor.execute(f"set session transaction {self._access}")
            cursor.execute("set session lock_wait_timeout = %s", (max(1, int(self._options.lock_timeout_s)),))
            limit_s = self._options.statement_timeout_s
            if "MariaDB" in str(raw.server_version):
                cursor.execute("set session max_statement_time = %s", (limit_s,))
            else:
                cursor.execute("set session max_execution_time = %s", (int(limit_s * 1000),))
        # From here on every value comes as the bytes the server sent.
        raw.decoders = {}
        raw.use_unicode = False

    def begin(self, connection: DBAPIConnection) -> None:
        raw: Any = connection
        raw.query("start transaction with consistent snapshot, read only")

    def end(self, connection: DBAPIConnection) -> None:
        raw: Any = connection
        raw.query("rollback")

    def cursor(self, connection: DBAPIConnection) -> DBAPICursor:
        raw: Any = connection
        found: DBAPICursor = raw.cursor(pymysql.cursors.SSCursor)
        return found

    def encoder(self, cursor: DBAPICursor) -> Encode:
        raw: Any = cursor
        special = {place: _as_text(field) for place, field in enumerate(raw._result.fields)}
        changed = [(place, change) for place, change in special.items() if change is not None]
        if not changed:
            return _as_it_is

        def encode(row: Row) -> Sequence[Cell]:
            cells: list[Any] = list(row)
            for place, change in changed:
                if cells[place] is not None:
                    cells[place] = change(cells[place])
            return cells

        return encode

    def columns(self, connection: DBAPIConnection, schema: str, name: str) -> Columns:
        raw: Any = connection
        with raw.cursor() as cursor:
            cursor.execute(
                "select column_name, column_type, collation_name from information_schema.columns"
                " where table_schema = %s and table_name = %s order by ordinal_position", (schema, name),
            )  # fmt: skip
            rows = cursor.fetchall()
            cursor.execute(
                "select view_definition from information_schema.views where table_schema = %s and table_name = %s",
                (schema, name),
            )
            found = cursor.fetchone()
        types = {row[0].decode(): b" ".join(part for part in row[1:] if part).decode() for row in rows}
        return Columns(types, found[0].decode("utf-8", "replace") if found and found[0] else "")

    def views(self, connection: DBAPIConnection) -> list[tuple[str, str]]:
        raw: Any = connection
        with raw.cursor() as cursor:
            cursor.execute("select table_schema, table_name from information_schema.views order by 1, 2")
            return [
                (schema.decode(), name.decode())
                for schema, name in cursor.fetchall()
                if schema not in (b"sys", b"information_schema", b"mysql", b"performance_schema")
            ]

    def key_values(self, kind: str, text: str) -> tuple[object, ...]:
        return _mysql_values(kind, text)

    def place(self, value: object, kind: str) -> str:  # noqa: ARG002 - the server's text and the column's type say all
        assert isinstance(value, bytes)
        return value.hex()

    def place_value(self, text: str, kind: str) -> object:
        found = bytes.fromhex(text)
        if _family(kind) == "bytes":
            return found
        if _family(kind) == "bit":
            return int.from_bytes(found, "big")
        values = _mysql_values(kind, found.decode("utf-8", "replace"))
        return values[0] if values else found

    def error(self, error: Exception, doing: str) -> SourceError | str:
        original = _unwrapped(error)
        code = original.args[0] if original.args and isinstance(original.args[0], int) else 0
        if code in _HELD:
            return _HELD[code]
        if code in _BUSY:
            return SourceBusy(f"{doing}: stopped by a limit or lock at the server ({code})", hint="will try again")
        # PyMySQL's own errors for a broken connection carry 0 or 2xxx.
        if code in (0, 1040, 1041, 1045, 1053, 1077, 1079, 1080, 1129, 1130, 1203, 1226, 1927) or 2000 <= code < 3000:
            return SourceUnavailable(
                f"{doing}: no connection ({code or type(original).__name__})",
                hint="is the server up, the address right, and may this user come in?",
            )
        return SourceProtocolError(f"{doing}: the server refused ({code})", hint="see the server's log at this time")


def _as_it_is(row: Row) -> Sequence[Cell]:
    # With no decoders PyMySQL gives bytes and None only.
    return cast(Sequence[Cell], row)


def _as_text(field: Any) -> Callable[[bytes], bytes] | None:
    """How a column's bytes become its text; None where they are it."""
    if field.type_code == FIELD_TYPE.BIT:
        return lambda value: b"%d" % int.from_bytes(value, "big")
    if field.type_code in _BYTES and field.charsetnr == _BINARY_CHARSET:
        return hexadecimal
    if field.type_code in _INTEGERS and field.flags & _ZEROFILL:
        return _without_zeros
    return None


def _without_zeros(value: bytes) -> bytes:
    """ZEROFILL is only how a number is shown."""
    short = value.lstrip(b"0")
    return b"0" + short if not short or not short[:1].isdigit() else short


def _family(kind: str) -> str:
    """What kind of value a MySQL column type takes."""
    word = kind.split("(")[0].split()[0].lower() if kind else ""
    if word in ("tinyint", "smallint", "mediumint", "int", "bigint", "year"):
        return "int"
    if word in ("decimal", "float", "double"):
        return word
    if word in ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"):
        return "bytes"
    return "bit" if word == "bit" else "text"


def _mysql_values(kind: str, text: str) -> tuple[object, ...]:
    """A text that is no value of the column's type matches nothing; the server would bend it to one (`'x'` is 0)."""
    family = _family(kind)
    try:
        if family in ("int", "bit"):
            return (int(text),)
        if family == "decimal":
            return (Decimal(text),)
        if family in ("float", "double"):
            # A decimal beside a double would be compared as what it is, not as the double it came from.
            return (float(text),)
        if family == "bytes":
            return (bytes.fromhex(text[2:]),) if text.startswith("\\x") else ()
    except (ValueError, InvalidOperation):
        return ()
    return (text,)


# ------------------------------------------------------------------------------------------------ any other


class Other:
    """Any other dialect, by what its driver and SQLAlchemy's reflection say. No snapshot beyond a transaction."""

    def __init__(self, url: sa.URL, options: Options) -> None:
        self._options = options
        self.engine = sa.create_engine(url, poolclass=sa.pool.NullPool)

    def pin(self, connection: DBAPIConnection) -> None:
        pass

    def begin(self, connection: DBAPIConnection) -> None:
        pass

    def end(self, connection: DBAPIConnection) -> None:
        connection.rollback()

    def cursor(self, connection: DBAPIConnection) -> DBAPICursor:
        return connection.cursor()

    def encoder(self, _: DBAPICursor) -> Encode:
        return _encode

    def columns(self, connection: DBAPIConnection, schema: str, name: str) -> Columns:  # noqa: ARG002
        inspector = sa.inspect(self.engine)
        try:
            found = inspector.get_columns(name, schema or None)
        except sa.exc.NoSuchTableError:
            return Columns({}, "")
        return Columns({str(column["name"]): str(column["type"]) for column in found}, "")

    def views(self, connection: DBAPIConnection) -> list[tuple[str, str]]:  # noqa: ARG002
        inspector = sa.inspect(self.engine)
        schema = inspector.default_schema_name or ""
        return [(schema, name) for name in sorted(inspector.get_view_names())]

    def key_values(self, kind: str, text: str) -> tuple[object, ...]:  # noqa: ARG002
        return loose(text)

    def place(self, value: object, kind: str) -> str:  # noqa: ARG002
        return typed(value)

    def place_value(self, text: str, kind: str) -> object:  # noqa: ARG002
        return untyped(text)

    def error(self, error: Exception, doing: str) -> SourceError | str:
        original = _unwrapped(error)
        names = {kind.__name__ for kind in type(original).__mro__}
        if "OperationalError" in names or "InterfaceError" in names:
            return SourceUnavailable(
                f"{doing}: the server could not ({type(original).__name__})", hint="will try again"
            )
        if "ProgrammingError" in names:
            return "view_changed"
        return SourceProtocolError(f"{doing}: the server refused ({type(original).__name__})")
