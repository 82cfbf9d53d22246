"""Read from PostgreSQL's catalogue what lineage asks: definitions of views, what they read, columns of base tables.

Any login may read this: `pg_catalog` shows every definition, and no row of any table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import psycopg

from connector import pg
from connector.capture.lineage import catalogue
from connector.capture.lineage.catalogue import BaseTable, Catalogue, Column, Name, ViewText

_KINDS = {
    "smallint": catalogue.INT, "integer": catalogue.INT, "bigint": catalogue.INT, "text": catalogue.TEXT,
    "character varying": catalogue.TEXT, "name": catalogue.TEXT, "uuid": catalogue.UUID, "date": catalogue.DATE,
    "boolean": catalogue.BOOL,
}  # fmt: skip
_UNSEEN = {
    "m": "a materialized view: a refresh is not in the log",
    "f": "a foreign table: its changes happen on another server",
}
# Built in, and so in no list of what a view depends on.
_READS_BY_TEXT = r"\m(query|table|schema|database|cursor)_to_xml(schema|_and_xmlschema)?\M|\mdblink\M"


def read(conn: psycopg.Connection, views: Iterable[Name], tables: Iterable[Name] = (), *, logged: bool) -> Catalogue:
    """The catalogue behind some views, and beside it of `tables`; a relation that is not there is left out.

    Args:
        logged: changes are followed in the log: a column counts where the log tells its old value.
    """
    params = {
        "views": json.dumps([{"s": schema, "n": name} for schema, name in dict.fromkeys([*views, *tables])]),
        "reading": _READS_BY_TEXT,
    }
    with pg.translated("reading the views' definitions"):
        relations = conn.execute(_RELATIONS, params).fetchall()
        system = conn.execute(_SYSTEM_RELATIONS).fetchall()
        columns = conn.execute(_COLUMNS, {"rels": [oid for oid, *_ in relations]}).fetchall()
    found: dict[int, dict[str, Column]] = {}
    identity: dict[int, list[str]] = {}
    for rel, name, type_name, generated, keeps, is_primary in columns:
        carried = not logged or (not generated and keeps)
        found.setdefault(rel, {})[name] = Column(_kind(type_name), carried)
        if is_primary:
            identity.setdefault(rel, []).append(name)
    texts: dict[Name, ViewText] = {}
    bases = {("pg_catalog", name): BaseTable(unseen=_OF_THE_SYSTEM) for (name,) in system}
    for oid, schema, name, kind, text, reads, functions in relations:
        if kind == "v":
            shown = tuple(found.get(oid, {}))
            texts[schema, name] = ViewText(text, shown, tuple((s, n) for s, n in reads), tuple(functions))
        else:
            unseen = (
                "a table of the system: its changes are not followed" if schema in _SYSTEM else _UNSEEN.get(kind, "")
            )
            bases[schema, name] = BaseTable(found.get(oid, {}), tuple(identity.get(oid, ())), unseen)
    # The session's search_path is pinned: what a definition names without a schema is of the system.
    return Catalogue("postgres", bases, texts, schema="pg_catalog")


def unpublished(conn: psycopg.Connection, publication: str, tables: Iterable[Name]) -> tuple[Name, ...]:
    """Which of these tables the publication does not carry, whole or in partitions."""
    asked = json.dumps([{"s": schema, "n": name} for schema, name in tables])
    with pg.translated("reading the publication"):
        rows = conn.execute(_UNPUBLISHED, {"tables": asked, "publication": publication}).fetchall()
    return tuple((schema, name) for schema, name in rows)


def uncarried(
    conn: psycopg.Connection, publication: str, columns: Mapping[Name, Iterable[str]]
) -> Mapping[Name, frozenset[str]]:  # fmt: skip
    """Which of these columns the publication's column lists leave out, by table; a table without one is whole."""
    asked = json.dumps([{"s": schema, "n": name, "k": list(names)} for (schema, name), names in columns.items()])
    with pg.translated("reading the publication"):
        rows = conn.execute(_UNCARRIED, {"tables": asked, "publication": publication}).fetchall()
    return {(schema, name): frozenset(lacking) for schema, name, lacking in rows}


_OF_THE_SYSTEM = "a table of the system: its changes are not followed"
_SYSTEM = ("pg_catalog", "information_schema")


def _kind(name: str) -> str:
    """The kind of a type's name. Lengths do not matter to values of varying length; of others they are part of it."""
    return _KINDS.get(name.partition("(")[0], name)


# Everything that the views read, by the catalogue's own account of it.
_RELATIONS = """
with recursive reads(rel) as (
  select c.oid
    from jsonb_to_recordset(%(views)s::jsonb) as v(s text, n text)
    join pg_namespace n on n.nspname = v.s
    join pg_class c on c.relnamespace = n.oid and c.relname = v.n and c.relkind in ('r', 'p', 'v', 'm', 'f')
  union
  select d.refobjid
    from reads r
    join pg_class v on v.oid = r.rel and v.relkind = 'v'
    join pg_rewrite w on w.ev_class = r.rel
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
                    and d.refclassid = 'pg_class'::regclass and d.refobjid <> w.ev_class
)
select c.oid::int8, n.nspname, c.relname, c.relkind::text,
       case when c.relkind = 'v' then pg_get_viewdef(c.oid) else '' end,
       array(select distinct array[m.nspname::text, t.relname::text]
               from pg_rewrite w
               join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
                               and d.refclassid = 'pg_class'::regclass and d.refobjid <> w.ev_class
               join pg_class t on t.oid = d.refobjid and t.relkind in ('r', 'p', 'v', 'm', 'f')
               join pg_namespace m on m.oid = t.relnamespace
              where w.ev_class = c.oid and c.relkind = 'v'),
       array(select distinct m.nspname || '.' || p.proname
               from pg_rewrite w
               join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
                               and d.refclassid = 'pg_proc'::regclass
               join pg_proc p on p.oid = d.refobjid and p.provolatile <> 'i'
               join pg_language l on l.oid = p.prolang and l.lanname not in ('internal', 'c')
               join pg_namespace m on m.oid = p.pronamespace
              where w.ev_class = c.oid
              union
             select coalesce(found[1] || '_to_xml', 'dblink')
               from regexp_matches(case when c.relkind = 'v' then pg_get_viewdef(c.oid) else '' end, %(reading)s) found)
  from reads r
  join pg_class c on c.oid = r.rel and c.relkind in ('r', 'p', 'v', 'm', 'f')
  join pg_namespace n on n.oid = c.relnamespace
 order by 2, 3
"""

# What a view depends on of these is in no list: they are never dropped.
_SYSTEM_RELATIONS = (
    "select relname from pg_class where relnamespace = 'pg_catalog'::regnamespace and relkind in ('r', 'v')"
)

# The base type of a domain compares as the domain does. A collation that is not deterministic calls different texts
# equal: a kind of its own.
_COLUMNS = """
select a.attrelid::int8, a.attname,
       (with recursive base as (
          select a.atttypid as oid, a.atttypmod as typmod
          union all
          select t.typbasetype, t.typtypmod from base join pg_type t using (oid) where t.typtype = 'd')
        select format_type(oid, typmod) from base join pg_type t using (oid) where t.typtype <> 'd')
       || case when coalesce(l.collisdeterministic, true) then '' else ' collate ' || l.collname end,
       a.attgenerated <> '',
       a.attnotnull,
       coalesce(a.attnum = any (i.indkey), false)
  from pg_attribute a
  left join pg_index i on i.indrelid = a.attrelid and i.indisprimary
  left join pg_collation l on l.oid = a.attcollation
 where a.attrelid = any (%(rels)s::oid[]) and a.attnum > 0 and not a.attisdropped
 order by a.attrelid, a.attnum
"""

_UNCARRIED = """
select t.s, t.n, l.lacking
  from jsonb_to_recordset(%(tables)s::jsonb) as t(s text, n text, k jsonb)
  join pg_publication_tables p on p.pubname = %(publication)s and p.schemaname = t.s and p.tablename = t.n
  cross join lateral (select array_agg(k.name) as lacking from jsonb_array_elements_text(t.k) as k(name)
                       where k.name <> all (p.attnames::text[])) l
 where l.lacking is not null
"""

_UNPUBLISHED = """
select t.s, t.n
  from jsonb_to_recordset(%(tables)s::jsonb) as t(s text, n text)
  join pg_namespace n on n.nspname = t.s
  join pg_class c on c.relnamespace = n.oid and c.relname = t.n
 where not exists (select from pg_publication_tables p
                    where p.pubname = %(publication)s and p.schemaname = t.s and p.tablename = t.n)
   and not (c.relkind = 'p' and exists (
         select from pg_partition_tree(c.oid) leaf
                join pg_class l on l.oid = leaf.relid join pg_namespace m on m.oid = l.relnamespace
                join pg_publication_tables p on p.pubname = %(publication)s and p.schemaname = m.nspname
                                            and p.tablename = l.relname))
"""
