"""Read from MariaDB, MySQL or a SQLite file what lineage asks: definitions of views, columns of base tables.

A MariaDB login sees a definition with SHOW VIEW, and of base tables only those that it has some right on: of the others
neither columns nor types are known, and fewer paths are found. Any other engine shows us nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from connector.capture.lineage.catalogue import DATE, INT, TEXT, UUID, BaseTable, Catalogue, Column, Name, ViewText
from connector.sqldb.engines import Row
from connector.sqldb.session import SqlSession

_MY_INTS = ("tinyint", "smallint", "mediumint", "int", "bigint")
_SYSTEM = "('mysql', 'information_schema', 'performance_schema', 'sys')"


def read(session: SqlSession, views: Iterable[Name], tables: Iterable[Name] = ()) -> Catalogue:
    """The catalogue of every schema that these relations are in, or for MariaDB of the whole server."""
    with session.translated("reading the views' definitions"):
        match session.dialect:
            case "sqlite":
                return _sqlite(session, {schema for schema, _ in (*views, *tables)})
            case "mysql" | "mariadb":
                return _mysql(session)
    return Catalogue(session.dialect)


def _sqlite(session: SqlSession, schemas: set[str]) -> Catalogue:
    attached = {_text(row[1]) for row in session.execute("pragma database_list")}
    views: dict[Name, ViewText] = {}
    bases: dict[Name, BaseTable] = {}
    for schema in sorted(schemas & attached):
        quoted = schema.replace('"', '""')
        rows = session.execute(
            f"select type, name, sql from \"{quoted}\".sqlite_master where type in ('table', 'view')"
        )
        for kind, name, sql in (map(_text, row) for row in rows):
            columns = session.execute("select name, type, pk from pragma_table_info(?, ?)", (name, schema))
            if kind == "view":
                views[schema, name] = ViewText(sql, tuple(_text(row[0]) for row in columns))
            else:
                bases[schema, name] = _lite_table(sql, columns)
    return Catalogue("sqlite", bases, views)


def _lite_table(sql: str, columns: Iterable[Row]) -> BaseTable:
    # A collation stands in the table's text only, and may call different texts equal.
    is_plain = "collate" not in sql.lower()
    found, identity = {}, []
    for name, kind, place in columns:
        found[_text(name)] = Column(_lite_kind(_text(kind), is_plain))
        if place:
            identity.append(_text(name))
    return BaseTable(found, tuple(identity))


def _lite_kind(declared: str, is_plain: bool) -> str:
    """By SQLite's rules of affinity; what is neither a whole number nor a text may be stored as either."""
    word = declared.upper()
    if "INT" in word:
        return INT
    return TEXT if is_plain and any(part in word for part in ("CHAR", "CLOB", "TEXT")) else ""


def _mysql(session: SqlSession) -> Catalogue:
    texts = session.execute(
        f"select table_schema, table_name, view_definition from information_schema.views"
        f" where table_schema not in {_SYSTEM}"
    )
    rows = session.execute(
        "select c.table_schema, c.table_name, c.column_name, c.column_type, c.collation_name, c.column_key,"
        " t.table_type"
        " from information_schema.columns c join information_schema.tables t"
        " on t.table_schema = c.table_schema and t.table_name = c.table_name"
        f" where c.table_schema not in {_SYSTEM} order by c.ordinal_position"
    )
    shown: dict[Name, dict[str, Column]] = {}
    identity: dict[Name, list[str]] = {}
    is_view: set[Name] = set()
    for schema, name, column, kind, collation, key, relation in (map(_text, row) for row in rows):
        shown.setdefault((schema, name), {})[column] = Column(_my_kind(kind, collation))
        if key == "PRI":
            identity.setdefault((schema, name), []).append(column)
        if "VIEW" in relation.upper():
            is_view.add((schema, name))
    views = {}
    for schema, name, text in (map(_text, row) for row in texts):
        views[schema, name] = ViewText(text, tuple(shown.get((schema, name), ())))
    bases = {
        name: BaseTable(columns, tuple(identity.get(name, ())))
        for name, columns in shown.items()
        if name not in views and name not in is_view
    }
    return Catalogue("mysql", bases, views)


def _my_kind(declared: str, collation: str) -> str:
    """Most collations call different texts equal: such a column equals only one of its very type, and not in text."""
    word = re.split(r"[ (]", declared.lower())[0]
    if word in _MY_INTS and "zerofill" not in declared.lower():
        return INT
    if word in ("uuid", "date"):
        return UUID if word == "uuid" else DATE
    return f"{declared} {collation}".strip()


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else "" if value is None else str(value)
