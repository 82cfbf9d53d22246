"""One reading session at a party's database: statements in, rows of cells out, errors in our words.

A driver's own message never leaves this module: it may carry cell values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor

from connector.errors import EntityHeld, SourceMisconfigured, SourceProtocolError
from connector.sqldb.cells import Cell
from connector.sqldb.engines import Columns, Engine, Options, Row, engine_for

# Rows taken from the driver at a time.
GROUP_ROWS = 1_000

HINTS = {
    "view_missing": "create the view, correct `view:` in the mapping, or grant the reader SELECT on it",
    "view_changed": "put the column back into the view, or change the mapping",
    "permission_denied": "grant the reader SELECT on the view; its definer must be there and may read its tables",
}


class SqlSession:
    """A connection. One thread at a time."""

    def __init__(self, url: str, options: Options, *, writes: bool = False) -> None:
        """Connect and pin; `writes` is for a change table of ours, nothing else.

        Raises:
            SourceUnavailable: no connection.
            UsageError: the URL cannot be used.
        """
        self.engine: Engine = engine_for(url, options, writes=writes)
        with self.translated("connecting"):
            pooled = self.engine.engine.raw_connection()
            # Off the pool: what is pinned is never given to anybody else, and closing closes.
            pooled.detach()
        assert pooled.dbapi_connection is not None
        self._pooled = pooled
        self._raw = pooled.dbapi_connection
        try:
            with self.translated("setting the session up"):
                self.engine.pin(self._raw)
        except BaseException:
            self.close()
            raise
        self._open = False

    @property
    def raw(self) -> DBAPIConnection:
        """The driver's own connection, for a protocol that is no statement."""
        return self._raw

    @property
    def dialect(self) -> str:
        return self.engine.engine.dialect.name

    @property
    def is_mariadb(self) -> bool:
        """MariaDB, and not MySQL: the dialect is one, the server is not."""
        return "MariaDB" in str(getattr(self._raw, "server_version", ""))

    def close(self) -> None:
        with suppress(Exception):
            self._raw.close()
        self.engine.engine.dispose()

    def begin(self) -> None:
        with self.translated("taking a snapshot"):
            self.engine.begin(self._raw)
        self._open = True

    def end(self) -> None:
        if not self._open:
            return
        self._open = False
        # A session that broke is thrown away by its owner; what broke it has been told.
        with suppress(Exception):
            self.engine.end(self._raw)

    def columns(self, schema: str, name: str) -> Columns:
        with self.translated(f"looking up view {schema}.{name}"):
            return self.engine.columns(self._raw, schema, name)

    def views(self) -> list[tuple[str, str]]:
        """The views that the session may read, by schema and name."""
        with self.translated("listing the views"):
            return self.engine.views(self._raw)

    def cells(self, statement: sa.Select[Any]) -> Iterator[list[Sequence[Cell]]]:
        """The rows as text, in groups. Wrap with `held_or_translated`."""
        for group, encode in self._groups(statement):
            yield [encode(row) for row in group]

    def pairs(self, statement: sa.Select[Any]) -> Iterator[list[tuple[Row, Sequence[Cell]]]]:
        """The rows as the driver gave them and as text, in groups."""
        for group, encode in self._groups(statement):
            yield [(row, encode(row)) for row in group]

    def rows(self, statement: sa.Select[Any]) -> Iterator[Sequence[Row]]:
        """The rows as the driver gave them, in groups."""
        for group, _ in self._groups(statement):
            yield group

    def _groups(self, statement: sa.Select[Any]) -> Iterator[tuple[Sequence[Row], Callable[[Row], Sequence[Cell]]]]:
        cursor = self.engine.cursor(self._raw)
        try:
            self._execute(cursor, statement)
            encode = self.engine.encoder(cursor)
            while group := cursor.fetchmany(GROUP_ROWS):
                yield group, encode
        finally:
            with suppress(Exception):
                cursor.close()

    def _execute(self, cursor: DBAPICursor, statement: sa.Select[Any]) -> None:
        cursor.execute(*self.compiled(statement))

    def compiled(self, statement: sa.Select[Any]) -> tuple[str, Any]:
        """A statement in the driver's own words, and its values."""
        compiled = statement.compile(dialect=self.engine.engine.dialect, compile_kwargs={"render_postcompile": True})
        assert isinstance(compiled, sa.sql.compiler.SQLCompiler)
        values = compiled.params
        if compiled.positiontup is not None:
            return str(compiled), tuple(values[name] for name in compiled.positiontup)
        return str(compiled), values

    def execute(self, text: str, values: Sequence[object] = ()) -> list[Row]:
        """A statement in the driver's own words (its placeholders), and all of its rows."""
        cursor = self._raw.cursor()
        try:
            cursor.execute(text, values)
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            cursor.close()

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Turn driver errors inside the block into ours."""
        try:
            yield
        except self._errors as error:
            meaning = self.engine.error(error, doing)
            if isinstance(meaning, str):
                meaning = SourceProtocolError(f"{doing}: refused ({meaning})", hint=HINTS[meaning])
            raise meaning from None

    @contextmanager
    def held_or_translated(self, entity: str, doing: str) -> Iterator[None]:
        """As `translated`, but what concerns one view alone becomes `EntityHeld`."""
        try:
            yield
        except self._errors as error:
            meaning = self.engine.error(error, doing)
            if isinstance(meaning, str):
                raise EntityHeld(entity, meaning, doing, hint=HINTS[meaning]) from None
            raise meaning from None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction."""
        self.execute("begin immediate" if self.dialect == "sqlite" else "start transaction")
        try:
            yield
        except BaseException:
            with suppress(*self._errors):
                self.execute("rollback")
            raise
        self.execute("commit")

    @contextmanager
    def misconfigured_or_translated(self, message: str, doing: str, hint: str) -> Iterator[None]:
        """As `translated`, but a table or right that is missing is for the party's DBA to mend."""
        try:
            yield
        except self._errors as error:
            meaning = self.engine.error(error, doing)
            if isinstance(meaning, str):
                raise SourceMisconfigured(message, hint=hint) from None
            raise meaning from None

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        """What a driver raises. A socket that breaks in PyMySQL's hands may come as it is."""
        base = getattr(self.engine.engine.dialect.dbapi, "Error", None)
        return (sa.exc.DBAPIError, OSError, *((base,) if base else ()))
