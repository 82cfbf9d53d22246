"""What an outbox kit is asked for, and the names it uses. Plain values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from connector.capture.sqltext import Engine, refuse_bad_names
from connector.errors import UsageError

# Bytes of a name that every engine takes, less our suffixes.
NAME_BYTES_MAX = 48
# Keys noted for us while we are away, at up to 200 bytes each. Beyond it the party's disk counts more than ours.
NOTES_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class OutboxTable:
    """A base table, and the columns that tell which view rows its changes touch; none: every row may be touched."""

    schema: str
    name: str
    columns: tuple[str, ...]
    # Rows of a view are found by these columns, and may leave it with a row of this table: notes tell when one went.
    tells_gone: bool = False

    @property
    def place(self) -> str:
        """As its notes name it."""
        return f"{self.schema}.{self.name}"


# Beside a note's columns: a text where no row has these keys any more. No column has this name.
GONE = ""


@dataclass(frozen=True, slots=True)
class OutboxRequest:
    """`name` is the change table's, in `schema` (SQLite: `main`); `reader` is a login (MariaDB: `user@host`)."""

    engine: Engine
    schema: str
    name: str
    reader: str
    tables: tuple[OutboxTable, ...]
    views: tuple[tuple[str, str], ...]
    party: str = "-"
    notes_max: int = NOTES_MAX

    @property
    def mark(self) -> str:
        """The table of one row: how far notes were removed, and how many there may be."""
        return f"{self.name}_mark"

    @property
    def owner(self) -> str:
        """Whose rights the triggers and functions run with; nobody logs in as it."""
        return f"{self.name}_owner"

    def trigger(self, table: OutboxTable, event: str) -> str:
        """The same for the same table, whatever else the mapping names."""
        digest = hashlib.sha256(table.place.encode()).hexdigest()[:8]
        return f"{self.name}_{digest}_{event}"


def refuse(request: OutboxRequest) -> None:
    """Refuse names that cannot be used.

    Raises:
        UsageError: with the name.
    """
    names = [request.schema, request.name, request.reader]
    for table in request.tables:
        names += [table.schema, table.name, *table.columns]
        if "." in table.schema:
            raise UsageError(f"{table.schema!r} cannot be a schema in a kit", hint="a name without a point")
    refuse_bad_names((*names, *(part for view in request.views for part in view)))
    if len(request.name.encode()) > NAME_BYTES_MAX:
        raise UsageError(f"{request.name!r} is too long", hint=f"at most {NAME_BYTES_MAX} bytes: set `slot:`")
    if request.notes_max < 1:
        raise UsageError("there must be room for a note", hint="a million by default")
