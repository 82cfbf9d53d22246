"""What the mapping and the configuration expect of a party's database. Plain values, and their form as parameters."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from connector.capture.outbox.request import OutboxRequest
from connector.capture.postgres.kit_request import KitTable

MEGABYTE = 1 << 20
CheckMode = Literal["pull", "stream", "outbox", "cursor", "diff"]


@dataclass(frozen=True, slots=True)
class ExpectedTable:
    """A base table of the lineage; pairs are (column of the view, column of the table)."""

    schema: str
    name: str
    key: tuple[tuple[str, str], ...] = ()
    match: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ExpectedView:
    """A view as the mapping expects it; `columns` are all that are read, key columns included."""

    entity: str
    schema: str
    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    lineage: tuple[ExpectedTable, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def relation(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class Expectations:
    """What one party's database should offer us."""

    mode: CheckMode
    slot: str
    publication: str
    views: tuple[ExpectedView, ...]
    schema: str = "sipol"
    lag_warn_bytes: int = 1024 * MEGABYTE
    lag_drop_bytes: int = 8192 * MEGABYTE
    statement_timeout_s: float = 10.0
    # Counting keys reads a whole view: the one question that may take long at the party.
    count_timeout_s: float = 30.0
    # Of the modes that poll: the change table, the column that is followed, and how often views are compared.
    outbox: OutboxRequest | None = None
    cursor: str | None = None
    diff_every_s: float = 0.0

    @property
    def reads_log(self) -> bool:
        return self.mode in ("pull", "stream")

    @property
    def tables(self) -> tuple[KitTable, ...]:
        return tuple(
            KitTable(table.schema, table.name, tuple(base for _, base in table.key + table.match))
            for view in self.views
            for table in view.lineage
        )


# `wanted` and `wanted_view` of the catalogue queries, from parameters.
WANTED = """select t.s as schema_name, t.n as table_name, array(select jsonb_array_elements_text(t.k)) as key_columns
  from jsonb_to_recordset(%(tables)s::jsonb) as t(s text, n text, k jsonb)"""
WANTED_VIEWS = """select v.s as schema_name, v.n as view_name
  from jsonb_to_recordset(%(views)s::jsonb) as v(s text, n text)"""


def allowed_params(expected: Expectations) -> dict[str, str]:
    """As `wanted_params`, with everything that the reader may read as the views: the change table beside them."""
    found = wanted_params(expected)
    views = json.loads(found["views"])
    if expected.outbox is not None:
        request = expected.outbox
        views += [{"s": request.schema, "n": name} for name in (request.name, request.mark, f"{request.name}_lost")]
    return {**found, "views": json.dumps(views)}


def wanted_params(expected: Expectations) -> dict[str, str]:
    """The parameters that `WANTED` and `WANTED_VIEWS` name."""
    keys: dict[tuple[str, str], dict[str, None]] = {}
    for table in expected.tables:
        keys.setdefault((table.schema, table.name), {}).update(dict.fromkeys(table.key_columns))
    tables = [{"s": schema, "n": name, "k": list(columns)} for (schema, name), columns in keys.items()]
    views = [
        {"s": schema, "n": name} for schema, name in dict.fromkeys((view.schema, view.name) for view in expected.views)
    ]
    return {"tables": json.dumps(tables), "views": json.dumps(views)}
