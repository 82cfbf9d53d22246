"""The part of the preflight that looks at the views: columns, keys, types, and how one key is found again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import psycopg
from psycopg import sql

from connector.capture import verdicts
from connector.capture.finding import Finding, error, ok
from connector.capture.postgres.catalogue import view_problems
from connector.capture.postgres.expectations import (
    MEGABYTE,
    WANTED,
    WANTED_VIEWS,
    Expectations,
    ExpectedView,
    wanted_params,
)
from connector.capture.postgres.questions import Connection, failed, judged, one, rendered

# A table below this is read whole faster than through an index.
SCAN_WARN_BYTES = 8 * MEGABYTE
# Types whose text for the same value is the same, so that a key from the log finds the view's row.
SAME_TEXT = (frozenset({"smallint", "integer", "bigint"}), frozenset({"text", "character varying", "uuid", "name"}))


def views(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    query = view_problems(WANTED, WANTED_VIEWS)
    # What the log does not show matters to those who read the log, or notes in its stead.
    beside = frozenset({"LINEAGE_INCOMPLETE", "TIME_DEPENDENT"} if expected.mode in ("cursor", "diff") else ())
    for finding in judged(conn.execute(rendered(query), wanted_params(expected)).fetchall()):
        if finding.code not in beside:
            yield finding
    for view in expected.views:
        try:
            yield from _view(conn, expected, view)
        except psycopg.errors.InsufficientPrivilege:
            yield error(
                "VIEW_REFUSED",
                view.place,
                "we hold SELECT on it, and yet reading it is refused",
                "its owner must be able to read the base tables, past any row level security; no security_invoker",
            )
        except psycopg.Error as exc:
            yield failed(view.place, exc)
            if conn.closed:
                return


_COLUMNS = """
select a.attname::text as name, format_type(a.atttypid, a.atttypmod) as type,
       has_schema_privilege(n.oid, 'usage') as usable,
       has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select') as readable
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where n.nspname = %(schema)s and c.relname = %(name)s and c.relkind in ('r', 'p', 'v', 'm', 'f')
 order by a.attnum
"""


def _view(conn: Connection, expected: Expectations, view: ExpectedView) -> Iterator[Finding]:
    rows = conn.execute(_COLUMNS, {"schema": view.schema, "name": view.name}).fetchall()
    if not rows:
        return
    types = {row["name"]: row["type"] for row in rows}
    lacking = [column for column in dict.fromkeys(view.key + view.columns) if column not in types]
    if lacking:
        yield verdicts.lacking(view.place, view.entity, lacking)
    else:
        said = ", ".join(f"{column} {types[column]}" for column in dict.fromkeys(view.key + view.columns))
        yield ok("COLUMNS", view.place, f"entity {view.entity} finds its columns: {said}")
    if not rows[0]["readable"]:
        grant = f"grant select on {view.relation.as_string()}"
        if not rows[0]["usable"]:
            grant = f"grant usage on schema {sql.Identifier(view.schema).as_string()}; {grant}"
        yield error("VIEW_DENIED", view.place, "we may not read it", f"{grant} to our role")
    elif all(column in types for column in view.key):
        yield from _keys(conn, expected, view)
        yield from _plan(conn, view, types)
    if expected.reads_log or expected.mode == "outbox":
        yield from _key_types(conn, view)


def _keys(conn: Connection, expected: Expectations, view: ExpectedView) -> Iterator[Finding]:
    """Counts only, and never past COUNT_MAX."""
    columns = sql.SQL(", ").join(map(sql.Identifier, view.key))
    empty = sql.SQL(" or ").join(sql.SQL("{} is null").format(sql.Identifier(column)) for column in view.key)
    query = sql.SQL(
        "select (select count(*) from"
        " (select 1 from {view} group by {columns} having count(*) > 1 limit {most}) d) as doubled,"
        " (select count(*) from (select 1 from {view} where {empty} limit {most}) n) as empty"
    ).format(view=view.relation, columns=columns, empty=empty, most=sql.Literal(verdicts.COUNT_MAX))
    try:
        with conn.transaction():
            conn.execute(
                "select set_config('statement_timeout', %s, true)", [str(int(expected.count_timeout_s * 1000))]
            )
            fact = conn.execute(query).fetchone()
    except psycopg.errors.QueryCanceled:
        yield verdicts.keys_unproven(view.place, view.key, expected.count_timeout_s)
        return
    assert fact is not None
    yield from verdicts.keys(view.place, view.key, fact["doubled"], fact["empty"])


_BASE_TYPES = """
select p.v as view_column, p.b as base_column, format('%I.%I', bn.nspname, bc.relname) as place,
       format_type(coalesce(nullif(vt.typbasetype, 0), vt.oid), null) as view_type,
       format_type(coalesce(nullif(bt.typbasetype, 0), bt.oid), null) as base_type
  from jsonb_to_recordset(%(pairs)s::jsonb) as p(s text, t text, v text, b text)
  join pg_namespace vn on vn.nspname = %(schema)s join pg_class vc on vc.relnamespace = vn.oid and vc.relname = %(name)s
  join pg_attribute va on va.attrelid = vc.oid and va.attname = p.v join pg_type vt on vt.oid = va.atttypid
  join pg_namespace bn on bn.nspname = p.s join pg_class bc on bc.relnamespace = bn.oid and bc.relname = p.t
  join pg_attribute ba on ba.attrelid = bc.oid and ba.attname = p.b join pg_type bt on bt.oid = ba.atttypid
"""


def _key_types(conn: Connection, view: ExpectedView) -> Iterator[Finding]:
    """A key from the log is looked up in the view by its text: both must write a value in the same way."""
    pairs = [
        {"s": table.schema, "t": table.name, "v": shown, "b": base}
        for table in view.lineage
        for shown, base in table.key + table.match
    ]
    params = {"pairs": json.dumps(pairs), "schema": view.schema, "name": view.name}
    for row in conn.execute(rendered(_BASE_TYPES), params).fetchall():
        types = {row["view_type"], row["base_type"]}
        if len(types) > 1 and not any(types <= family for family in SAME_TEXT):
            yield error(
                "KEY_TYPE_DIFFERS",
                view.place,
                f"column {row['view_column']} is {row['view_type']}, but"
                f" {row['place']}.{row['base_column']} is {row['base_type']}: a key from the log may not find its row",
                f"show {row['base_column']} in the view as it is, without a cast",
            )


def _plan(conn: Connection, view: ExpectedView, types: Mapping[str, str]) -> Iterator[Finding]:
    """Ask for the plan of reading one key again, as the daemon will thousands of times."""
    columns = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in view.key)
    whole = sql.SQL(" and ").join(sql.SQL("{} is not null").format(sql.Identifier(column)) for column in view.key)
    sample = conn.execute(
        sql.SQL("select {} from {} where {} limit 1").format(columns, view.relation, whole)
    ).fetchone()
    if sample is None:
        yield ok("VIEW_EMPTY", view.place, "has no row yet")
        return
    wanted = _any_of(view.key, types, [str(value) for value in sample.values()])
    fields = sql.SQL(", ").join(map(sql.Identifier, dict.fromkeys(c for c in view.key + view.columns if c in types)))
    query = sql.SQL("explain (format json, verbose) select {} from {} v where {}").format(fields, view.relation, wanted)
    plan = conn.execute(query).fetchone()
    assert plan is not None
    scanned = sorted(set(_scans(plan["QUERY PLAN"][0]["Plan"])))
    big = [place for place in scanned if _size(conn, place) > SCAN_WARN_BYTES]
    if big:
        names = ", ".join(f"{schema}.{name}" for schema, name in big)
        yield verdicts.scans(
            view.place,
            f"all of {names}",
            "index the key's column in that table; DISTINCT, GROUP BY, window functions, and security_barrier together "
            "with a key of several columns, keep a view from using an index",
        )
    else:
        yield verdicts.scans_nothing(view.place)


def _any_of(key: Sequence[str], types: Mapping[str, str], values: Sequence[str]) -> sql.Composable:
    """The condition in the shape that the re-read uses: a comparison with `=` may be planned better than that one."""
    # A type's name is the party's own catalogue's word, quoted by it, and runs on its own server only.
    arrays = [
        sql.SQL("{}::{}[]").format(sql.Literal([value]), sql.SQL(types[column]))
        for column, value in zip(key, values, strict=True)
    ]
    if len(key) == 1:
        return sql.SQL("v.{} = any({})").format(sql.Identifier(key[0]), arrays[0])
    left = sql.SQL(", ").join(sql.SQL("v.{}").format(sql.Identifier(column)) for column in key)
    return sql.SQL("({}) in (select * from unnest({}) as k)").format(left, sql.SQL(", ").join(arrays))


def _scans(node: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    if node.get("Node Type") == "Seq Scan":
        yield str(node.get("Schema", "")), str(node.get("Relation Name", ""))
    for child in cast("list[Mapping[str, object]]", node.get("Plans", [])):
        yield from _scans(child)


def _size(conn: Connection, place: tuple[str, str]) -> int:
    query = (
        "select coalesce(sum(pg_relation_size(c.oid)), 0)::bigint as size from pg_class c"
        " join pg_namespace n on n.oid = c.relnamespace where n.nspname = %(schema)s and c.relname = %(name)s"
    )
    return cast(int, one(conn, query, {"schema": place[0], "name": place[1]})["size"])


# ------------------------------------------------------------------------------------------------- what polls

RISES = re.compile(r"(smallint|integer|bigint|numeric|real|double|timestamp|text|character varying|bytea|xid8)\b")


def followed(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    """The schedule of compares, and the column that mode `cursor` follows."""
    yield verdicts.schedule(expected.diff_every_s, expected.mode)
    if expected.cursor is None:
        return
    column, found = expected.cursor, []
    for view in expected.views:
        rows = conn.execute(_COLUMNS, {"schema": view.schema, "name": view.name}).fetchall()
        kind = next((row["type"] for row in rows if row["name"] == column), None)
        if kind is not None and rows[0]["readable"]:
            found.append((view.place, kind, _nulls(conn, expected, view, column)))
    yield from verdicts.cursor(column, found, [RISES.match(kind) is not None for _, kind, _ in found])


def _nulls(conn: Connection, expected: Expectations, view: ExpectedView, column: str) -> int:
    """Counted to COUNT_MAX; none where counting takes too long: the compare meets them all the same."""
    query = sql.SQL("select count(*) as empty from (select 1 from {} where {} is null limit {}) n").format(
        view.relation, sql.Identifier(column), sql.Literal(verdicts.COUNT_MAX)
    )
    try:
        with conn.transaction():
            conn.execute(
                "select set_config('statement_timeout', %s, true)", [str(int(expected.count_timeout_s * 1000))]
            )
            fact = conn.execute(query).fetchone()
    except psycopg.errors.QueryCanceled:
        return 0
    assert fact is not None
    return int(fact["empty"])
