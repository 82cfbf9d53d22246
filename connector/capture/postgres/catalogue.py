"""What a party's catalogue says about the tables and views we would follow, judged in SQL.

The judgement is one query each for tables and views, so that the kit (which runs it as the party's DBA, inside
a DO block) and `check` (which runs it as our reader) can never disagree. SQL text only: no sockets, no clock.

Both queries give rows `(level, code, subject, message, remedy)`, level `error` or `warning`. Names come out quoted as
the server quotes them; no row content is ever looked at.
"""

from __future__ import annotations

# Facts of each wanted table, one row per leaf: a plain table is its own leaf, a partitioned one has its partitions,
# because PostgreSQL checks the replica identity of the leaf that a row is in.
# An index that is deferrable, partial, on expressions or invalid is no identity, whatever `relreplident` says.
_FACTS = """
facts as (
  select w.key_columns, c.oid as rel, c.relkind, c.relpersistence as persistence,
         format('%I.%I', w.schema_name, w.table_name) as place,
         leaf.oid as leaf, quote_ident(ln.nspname) || '.' || quote_ident(leaf.relname) as leaf_place,
         leaf.relname as leaf_name,
         leaf.relkind as leaf_kind, leaf.relpersistence as leaf_persistence, leaf.relreplident as identity,
         c.relrowsecurity as row_security,
         case leaf.relreplident when 'f' then every.names else ident.names end as identity_columns,
         pk.names as primary_columns, every.names as columns, every.nullable, every.generated,
         ready.index_name as ready_index
    from wanted w
    left join pg_namespace n on n.nspname = w.schema_name
    left join pg_class c on c.relnamespace = n.oid and c.relname = w.table_name
                        and c.relkind in ('r', 'p', 'v', 'm', 'f')
    left join lateral (
      select c.oid as relid where c.relkind <> 'p'
      union all
      select t.relid::oid from pg_partition_tree(c.oid) t where c.relkind = 'p' and t.isleaf
    ) l on true
    left join pg_class leaf on leaf.oid = l.relid
    left join pg_namespace ln on ln.oid = leaf.relnamespace
    left join lateral (
      select array_agg(a.attname::text order by a.attnum) as names,
             coalesce(array_agg(a.attname::text) filter (where not a.attnotnull), '{}') as nullable,
             coalesce(array_agg(a.attname::text) filter (where a.attgenerated <> ''), '{}') as generated
        from pg_attribute a where a.attrelid = coalesce(leaf.oid, c.oid) and a.attnum > 0 and not a.attisdropped
    ) every on true
    left join lateral (
      select u.names from usable_index u where u.rel = leaf.oid
         and case leaf.relreplident when 'd' then u.is_primary when 'i' then u.is_identity else false end
    ) ident on true
    left join lateral (select u.names from usable_index u where u.rel = leaf.oid and u.is_primary) pk on true
    left join lateral (
      select u.index_name from usable_index u
       where u.rel = leaf.oid and u.names @> w.key_columns and not u.names && every.nullable
       order by cardinality(u.names), u.index_name limit 1
    ) ready on true
),
"""

_USABLE_INDEX = """
usable_index as (
  select i.indrelid as rel, x.relname as index_name, i.indisprimary as is_primary, i.indisreplident as is_identity,
         k.names
    from pg_index i
    join pg_class x on x.oid = i.indexrelid
    cross join lateral (
      select array_agg(a.attname::text order by p.place) as names
        from generate_series(0, i.indnkeyatts - 1) p(place)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[p.place]
    ) k
   where i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
),
"""

# `wanted(schema_name text, table_name text, key_columns text[])` comes from the caller.
_TABLE_PROBLEMS = (
    """
with wanted as (:wanted),
"""
    + _USABLE_INDEX
    + _FACTS
    + """
judged as (
  select f.*,
         array(select k from unnest(f.key_columns) k where k <> all (f.columns)) as absent,
         array(select k from unnest(f.key_columns) k where k = any (f.generated)) as computed,
         array(select k from unnest(f.key_columns) k where k <> all (f.identity_columns)) as outside,
         array(select k from unnest(f.key_columns) k where k = any (f.nullable)) as nullable_keys,
         (select string_agg(quote_ident(u.k), ', ' order by u.place)
            from (select k, min(place) as place
                    from unnest(f.key_columns || f.primary_columns) with ordinality as all_keys(k, place)
                   group by k) u) as index_columns,
         quote_ident(left(f.leaf_name, 48) || '_sipol_key') as index_name
    from facts f
)
select p.level, p.code, coalesce(j.leaf_place, j.place) as subject, p.message, p.remedy
  from judged j
  cross join lateral (values
    (j.rel is null, 'error', 'TABLE_MISSING', 'the table does not exist',
     'correct its name in the mapping''s lineage; upper case and spaces count'),
    (j.relkind in ('v', 'm'), 'error', 'NOT_A_TABLE', 'is a view: a view has no log of its own',
     'name the base tables that the view reads in the mapping''s lineage instead'),
    (j.relkind = 'f' or j.leaf_kind = 'f', 'error', 'FOREIGN_TABLE',
     'is a foreign table: its changes happen on another server and are not in this server''s log',
     'connect to the server that holds it, or take it out of the view'),
    (j.persistence <> 'p' or j.leaf_persistence <> 'p', 'error', 'NOT_LOGGED',
     'is unlogged or temporary: its changes are not in the log',
     format('alter table %s set logged; -- rewrites the table', j.leaf_place)),
    (cardinality(j.absent) > 0, 'error', 'KEY_COLUMN_MISSING',
     'has no column ' || array_to_string(j.absent, ', '), 'correct the column in the mapping''s lineage'),
    (cardinality(j.computed) > 0, 'error', 'KEY_COLUMN_GENERATED',
     'column ' || array_to_string(j.computed, ', ') || ' is generated, and generated columns do not reach the log',
     'name the columns it is computed from in the mapping''s lineage, or make it an ordinary column'),
    (j.leaf_kind = 'r' and j.leaf_persistence = 'p' and j.identity_columns is null, 'error', 'NO_IDENTITY',
     'has no usable replica identity: once published, the party''s own UPDATE and DELETE on it would fail',
     case when j.ready_index is not null
          then format('alter table %s replica identity using index %I;', j.leaf_place, j.ready_index)
          when j.primary_columns is not null then format('alter table %s replica identity default;', j.leaf_place)
          else format('add a primary key, not deferrable: alter table %s add primary key (...);', j.leaf_place) end),
    (j.identity = 'f', :full_level, 'IDENTITY_FULL',
     'has replica identity FULL: a column list is then impossible, and every column of it would be in the log stream',
     case when j.ready_index is not null
          then format('alter table %s replica identity using index %I;', j.leaf_place, j.ready_index)
          when j.primary_columns @> j.key_columns then format('alter table %s replica identity default;', j.leaf_place)
          else format('create unique index concurrently %s on %s (%s); alter table %s replica identity using index %s;',
                      j.index_name, j.leaf_place, j.index_columns, j.leaf_place, j.index_name) end),
    (j.identity in ('d', 'i', 'f') and j.identity_columns && j.generated, 'error', 'IDENTITY_GENERATED',
     'its replica identity has a generated column: once published, the party''s own UPDATE on it would fail',
     format('choose a unique index without them: alter table %s replica identity using index ...;', j.leaf_place)),
    (cardinality(j.absent) = 0 and j.identity_columns is not null and cardinality(j.outside) > 0,
     'error', 'KEY_NOT_IN_IDENTITY',
     'column ' || array_to_string(j.outside, ', ') || ' is not in the replica identity: when a row is deleted or moves '
     'to another key, the log would not say which key it left',
     case when j.ready_index is not null
          then format('alter table %s replica identity using index %I;', j.leaf_place, j.ready_index)
          when cardinality(j.nullable_keys) > 0
          then format('column %s must be NOT NULL first; then: create unique index concurrently %s on %s (%s); '
                      'alter table %s replica identity using index %s; -- if it must stay nullable, leave `key` and '
                      '`match` of this table out of the lineage: each change then compares the whole view',
                      array_to_string(j.nullable_keys, ', '), j.index_name, j.leaf_place, j.index_columns,
                      j.leaf_place, j.index_name)
          else format('create unique index concurrently %s on %s (%s); alter table %s replica identity using index %s;',
                      j.index_name, j.leaf_place, j.index_columns, j.leaf_place, j.index_name) end),
    (j.relkind = 'r' and exists (
       select from pg_inherits h join pg_class child on child.oid = h.inhrelid
        where h.inhparent = j.rel and child.relkind in ('r', 'f')
          and not exists (select from wanted w join pg_namespace n on n.nspname = w.schema_name
                           where n.oid = child.relnamespace and w.table_name = child.relname)),
     'error', 'CHILD_TABLES',
     'has child tables (INHERITS) that the lineage does not name: their changes would be missed',
     'name each child table in the mapping''s lineage with the same key'),
    (j.row_security, 'warning', 'ROW_SECURITY', 'has row level security: the view shows what its owner may see',
     'make sure that the view''s owner sees every row that is to be shared')
  ) p(hit, level, code, message, remedy)
 where p.hit
 order by 3, 2
"""
)

# What to publish of each wanted table: the identity's columns and the lineage's, no other; null means all of them
# (a leaf with identity FULL admits no column list).
_TABLE_COLUMNS = (
    """
with wanted as (:wanted),
"""
    + _USABLE_INDEX
    + _FACTS.rstrip().rstrip(",")
    + """
select t.rel, t.place,
       case when not t.whole then
         array(select a.attname::text from pg_attribute a
                where a.attrelid = t.rel and a.attnum > 0 and not a.attisdropped
                  and a.attname::text in (select unnest(f.key_columns || f.identity_columns) from facts f
                                           where f.rel = t.rel)
                order by a.attnum)
       end as columns
  from (select rel, place, bool_or(coalesce(identity = 'f', false)) as whole from facts
         where rel is not null group by rel, place) t
 order by t.place
"""
)

# `wanted(schema_name, table_name, key_columns)` as above, `wanted_view(schema_name text, view_name text)` beside it.
_VIEW_PROBLEMS = """
with recursive wanted as (:wanted), wanted_view as (:views),
shown as (
  select v.schema_name, v.view_name, c.oid as rel, c.relkind, c.relrowsecurity,
         format('%I.%I', v.schema_name, v.view_name) as place,
         coalesce(c.reloptions::text ~* 'security_invoker=(true|on|1|yes)', false) as invoker,
         coalesce(c.reloptions::text ~* 'security_barrier=(true|on|1|yes)', false) as barrier,
         case when c.relkind = 'v' then pg_get_viewdef(c.oid) end as definition
    from wanted_view v
    left join pg_namespace n on n.nspname = v.schema_name
    left join pg_class c on c.relnamespace = n.oid and c.relname = v.view_name
                        and c.relkind in ('r', 'p', 'v', 'm', 'f')
),
reads(view_place, rel) as (
  select s.place, s.rel from shown s where s.relkind = 'v'
  union
  select r.view_place, d.refobjid
    from reads r
    join pg_rewrite w on w.ev_class = r.rel
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
                    and d.refclassid = 'pg_class'::regclass and d.refobjid <> w.ev_class
),
unfollowed as (
  select r.view_place,
         string_agg(distinct format('%I.%I', n.nspname, c.relname), ', ') as tables
    from reads r
    join pg_class c on c.oid = r.rel and c.relkind in ('r', 'p', 'f', 'm')
    join pg_namespace n on n.oid = c.relnamespace
   where n.nspname not in ('pg_catalog', 'information_schema')
     and not exists (select from wanted w where w.schema_name = n.nspname and w.table_name = c.relname)
   group by r.view_place
)
select p.level, p.code, s.place as subject, p.message, p.remedy
  from shown s
  left join unfollowed u on u.view_place = s.place
  cross join lateral (values
    (s.rel is null, 'error', 'VIEW_MISSING', 'the view does not exist',
     'create it, or correct its name in the mapping'),
    (s.relkind <> 'v', 'error', 'NOT_A_VIEW',
     case s.relkind when 'm' then 'is a materialized view: a refresh is not in the log'
                    else 'is a table: the reader may read views only' end,
     format('create an ordinary view over it and map that: create view ... as select ... from %s;', s.place)),
    (s.invoker, 'error', 'SECURITY_INVOKER',
     'is a security_invoker view: the reader would need the base tables themselves',
     format('alter view %s set (security_invoker = false);', s.place)),
    (u.tables is not null, 'warning', 'LINEAGE_INCOMPLETE',
     'reads tables that the lineage does not name, whose changes are then not followed: ' || u.tables,
     'add them to the mapping''s lineage, or rely on the scheduled compare'),
    (s.definition ~* '\\m(current_date|current_timestamp|localtimestamp|(now|clock_timestamp|statement_timestamp)\\()',
     'warning', 'TIME_DEPENDENT', 'depends on the clock: rows come and go without any write',
     'rely on the scheduled compare for these, or move the condition into a column'),
    (s.definition ~* '\\n\\s*where\\M' and not s.barrier, 'warning', 'NO_SECURITY_BARRIER',
     'hides rows by WHERE without security_barrier: a function of the reader''s own could see hidden rows',
     format('alter view %s set (security_barrier = true);', s.place))
  ) p(hit, level, code, message, remedy)
 where p.hit
 order by 3, 2
"""


def table_problems(wanted: str, *, full_is_accepted: bool = False) -> str:
    """The query that judges tables; `wanted` is a select of (schema_name text, table_name text, key_columns text[])."""
    level = "'warning'" if full_is_accepted else "'error'"
    return _TABLE_PROBLEMS.strip().replace(":wanted", wanted).replace(":full_level", level)


def table_columns(wanted: str) -> str:
    """The query for (rel oid, place text, columns text[]): what each table's publication must carry."""
    return _TABLE_COLUMNS.strip().replace(":wanted", wanted)


def view_problems(wanted: str, views: str) -> str:
    """The query that judges views; `views` is a select of (schema_name text, view_name text)."""
    return _VIEW_PROBLEMS.strip().replace(":wanted", wanted).replace(":views", views)
