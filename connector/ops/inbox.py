"""Rows of a view as text in a temporary table of staging: where a mapping is tried, and a view looked at.

Everything here is gone with the transaction. Cells travel as COPY bytes; nothing reads them but SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg import sql

from connector.view.blocks import Block

Connection = psycopg.Connection[tuple[Any, ...]]


def fill(conn: Connection, width: int, key_width: int, blocks: Iterable[Block], name: str = "inbox") -> None:
    """Make the table and copy the blocks in: columns `i0`, `i1`, ... and `edge`, why the byte check refused a row."""
    names = [sql.Identifier(f"i{place}") for place in range(width)]
    columns = sql.SQL(", ").join(sql.SQL("{} text").format(one) for one in names)
    table = sql.Identifier("pg_temp", name)
    conn.execute(sql.SQL("create temp table {} ({}, edge text) on commit drop").format(sql.Identifier(name), columns))
    bad = [row for block in _copied(conn, table, names, blocks) for row in block.bad]
    keys = names[:key_width]
    insert = sql.SQL("insert into {} ({}, edge) values ({})").format(
        table, sql.SQL(", ").join(keys), sql.SQL(", ").join(sql.Placeholder() * (len(keys) + 1))
    )
    for row in bad:
        conn.execute(insert, [*row.key, row.reason])
    conn.execute(sql.SQL("analyze {}").format(table))


def _copied(
    conn: Connection, table: sql.Identifier, names: Sequence[sql.Identifier], blocks: Iterable[Block]
) -> list[Block]:
    """The blocks, copied in; only those with bad rows are kept."""
    kept: list[Block] = []
    into = sql.SQL("copy {} ({}) from stdin").format(table, sql.SQL(", ").join(names))
    with conn.cursor().copy(into) as copy:
        for block in blocks:
            copy.write(block.data)
            if block.bad:
                kept.append(block)
    return kept
