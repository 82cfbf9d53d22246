"""The recipe for a relay cluster: a small server of the party's own that holds the shared tables alone. Pure text.

Three steps. The publisher's script, on the party's main server, makes a publication of what the views need and a role
of the party's own, and prints the tables and views as SQL. That SQL is run on the empty relay. The subscriber's script,
on the relay, subscribes, and is the kit of mode `stream` for KPU. KPU never meets the main server.
"""

from __future__ import annotations

from connector.capture.postgres.catalogue import table_columns, table_problems, view_problems
from connector.capture.postgres.kit import beginning, kit_sql
from connector.capture.postgres.kit_guard import WANTED, WANTED_VIEWS
from connector.capture.postgres.kit_reader import drop_roles_body, refusal_body
from connector.capture.postgres.kit_removal import drop_slot, kit_remove_sql
from connector.capture.postgres.kit_request import LOCK_TIMEOUT_S, MARK, KitRequest, refuse_bad_names
from connector.capture.postgres.quoting import do, indented, name, remark, text
from connector.errors import UsageError

# The copy of the tables takes a session each, the stream one; the rest is for sessions not yet noticed to be gone.
SESSIONS_MAX = 8
_SHOWN = "select schema_name, table_name, key_columns from pg_temp.sipol_kit_shown"


def relay_name(request: KitRequest) -> str:
    """The publication, the role and the slot on the main server, and the subscription on the relay."""
    return f"{request.slot}_relay"


def publisher_sql(request: KitRequest) -> str:
    """The script for the party's main server; what it prints is the SQL for the empty relay.

    Raises:
        UsageError: a name cannot be used, or there is no view or no table.
    """
    _refuse(request)
    parts = (
        _publisher_heading(request), "\\set QUIET on\n\\pset tuples_only on\n\\pset format unaligned\n",
        beginning(request), _closure(), _guard(request), _role(request), _publication(request), _structure(),
        "commit;\n",
    )  # fmt: skip
    return "\n".join(parts)


def subscriber_sql(request: KitRequest) -> str:
    """The script for the relay: the subscription, then the kit of mode `stream`.

    Raises:
        UsageError: as `publisher_sql`.
    """
    _refuse(request)
    return f"{_subscriber_heading(request)}\n{_subscription(request)}\n{kit_sql(request)}"


def publisher_remove_sql(request: KitRequest) -> str:
    """Takes the publisher's part back, after the subscriber's."""
    relay = relay_name(request)
    publication = f"""
begin
  if exists (select from pg_publication where pubname = {text(relay)}
              and obj_description(oid, 'pg_publication') like '{MARK}:%') then
    drop publication {name(relay)};
  end if;
end
"""
    return f"""\
-- Sipol connector: takes back what the relay of party {remark(request.party)} needed on the main server.
-- Run the subscriber's removal on the relay first: it drops the subscription, and with it the slot here.
set client_encoding = 'UTF8';
{drop_slot(relay)}
begin;
set local search_path = pg_catalog, pg_temp;
set local standard_conforming_strings = on;
set local lock_timeout = '{LOCK_TIMEOUT_S}s';
-- 2. The publication, and the role with its grants, if the kit made them.
{do(publication)}
{do(drop_roles_body((relay,), "public", ()))}commit;
"""


def subscriber_remove_sql(request: KitRequest) -> str:
    """Takes the relay's part back: KPU's kit, the subscription, and the copied tables and views."""
    relay = relay_name(request)
    drops = f"""
declare
  thing record;
begin
  -- What the publisher's SQL made here carries its comment. Views first: they stand on the tables.
  for thing in
    select format(case relkind when 'v' then 'drop view if exists %I.%I cascade' else 'drop table if exists %I.%I' end,
                  n.nspname, c.relname) as statement
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'v') and obj_description(c.oid, 'pg_class') = '{MARK}: relay'
     order by c.relkind desc, c.oid
  loop
    execute thing.statement;
  end loop;
  for thing in
    select format('drop schema %I', n.nspname) as statement from pg_namespace n
     where obj_description(n.oid, 'pg_namespace') = '{MARK}: relay'
       and not exists (select from pg_depend d where d.refclassid = 'pg_namespace'::regclass
                                                 and d.refobjid = n.oid and d.deptype = 'n')
  loop
    execute thing.statement;
  end loop;
end
"""
    return f"""\
{kit_remove_sql(request)}
-- 4. The subscription, and with it the slot on the main server. If that cannot be reached any more:
--    alter subscription {remark(name(relay))} disable; alter subscription ... set (slot_name = none); drop it; then run
--    the publisher's removal there.
drop subscription if exists {name(relay)};

-- 5. The copied tables and views.
begin;
set local search_path = pg_catalog, pg_temp;
set local standard_conforming_strings = on;
{do(drops)}commit;
"""


def _refuse(request: KitRequest) -> None:
    refuse_bad_names(request)
    if request.mode != "stream" or not request.views or not request.tables:
        raise UsageError(
            "a relay is for mode stream, with a view and a base table at least",
            hint="`capture: stream`, and a mapping with `lineage`", place=request.party,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------ publisher


def _publisher_heading(request: KitRequest) -> str:
    party, relay = remark(request.party), remark(name(relay_name(request)))
    return f"""\
-- Sipol connector: the main server's part of a relay for party {party}.
-- For the DBA to read, then to run with psql as a superuser; what it prints is the SQL for the empty relay:
--     psql -X -v ON_ERROR_STOP=1 -d DATABASE -f THIS_FILE > tables-for-the-relay.sql
-- It may be run again after the mapping changed. `connector kit {party} --relay publisher --remove` takes it back.
--
-- WHAT THIS GIVES AWAY: nothing to KPU, which never connects here. The relay gets the columns that the views read, the
-- keys, and no other. The role {relay} is the party's own; it has REPLICATION, so let pg_hba.conf take it from the
-- relay's address only, and give its password to nobody.
-- It changes no setting of the server, no table and no view. It writes no password: \\password {relay}
"""


def _closure() -> str:
    """Which tables, and which of their columns, the views stand on."""
    return """\
-- 2a. What the views read, through other views too: tables that the lineage does not name must be on the relay as well.
create temporary table sipol_kit_reads (rel oid, depth int) on commit drop;
insert into sipol_kit_reads
with recursive reads(rel, depth) as (
  select c.oid, 0 from pg_temp.sipol_kit_views v
    join pg_namespace n on n.nspname = v.schema_name
    join pg_class c on c.relnamespace = n.oid and c.relname = v.view_name
  union
  select d.refobjid, r.depth + 1
    from reads r
    join pg_rewrite w on w.ev_class = r.rel
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
                    and d.refclassid = 'pg_class'::regclass and d.refobjid <> w.ev_class
   where r.depth < 32
)
select rel, max(depth) from reads group by rel;
insert into sipol_kit_tables
select n.nspname, c.relname, '{}'
  from pg_temp.sipol_kit_reads r join pg_class c on c.oid = r.rel join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p')
   and not exists (select from pg_temp.sipol_kit_tables t where t.schema_name = n.nspname and t.table_name = c.relname);
create temporary table sipol_kit_shown (schema_name text, table_name text, key_columns text[]) on commit drop;
insert into sipol_kit_shown
select t.schema_name, t.table_name,
       t.key_columns || array(
         select distinct a.attname::text
           from pg_temp.sipol_kit_reads v
           join pg_rewrite w on w.ev_class = v.rel
           join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
                           and d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid and d.refobjsubid > 0
           join pg_attribute a on a.attrelid = c.oid and a.attnum = d.refobjsubid)
  from pg_temp.sipol_kit_tables t
  left join pg_namespace n on n.nspname = t.schema_name
  left join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name;
"""


def _guard(request: KitRequest) -> str:
    relay = text(relay_name(request))
    server = f"""\
select p.level, p.code, 'server' as subject, p.message, p.remedy
  from (values
    (pg_is_in_recovery(), 'error', 'STANDBY', 'is a standby: nothing can be created here', 'run it on the primary'),
    (not (select rolsuper from pg_roles where rolname = current_user), 'error', 'NOT_SUPERUSER',
     'this session is no superuser, and only a superuser may make a role with REPLICATION', 'run it as postgres'),
    (current_setting('wal_level') <> 'logical', 'error', 'WAL_LEVEL',
     'has wal_level = ' || current_setting('wal_level') || ': the log does not say which rows change',
     'alter system set wal_level = ''logical''; then restart the server (a reload is not enough)'),
    (not exists (select from pg_replication_slots where slot_name = {relay})
     and (select count(*) from pg_replication_slots) >= current_setting('max_replication_slots')::int,
     'error', 'NO_FREE_SLOT', 'all ' || current_setting('max_replication_slots') || ' replication slots are taken',
     'alter system set max_replication_slots = ...; then restart, or drop a slot that nobody uses'),
    (current_setting('max_slot_wal_keep_size') = '-1', 'warning', 'NO_WAL_LIMIT',
     'has no limit on the log that a slot keeps: a relay that stays away would fill the disk',
     'alter system set max_slot_wal_keep_size = ''16GB''; select pg_reload_conf(); -- a size the disk can spare'),
    (exists (select from pg_roles where rolname = {relay}
              and coalesce(shobj_description(oid, 'pg_authid'), '') not like '{MARK}:%'),
     'error', 'ROLE_TAKEN', 'there is a role ' || {relay} || ' that this kit did not make',
     'choose another slot name with `slot:` in connector.yaml'),
    (exists (select from pg_publication where pubname = {relay}
              and coalesce(obj_description(oid, 'pg_publication'), '') not like '{MARK}:%'),
     'error', 'PUBLICATION_TAKEN', 'there is a publication ' || {relay} || ' that this kit did not make',
     'choose another slot name with `slot:` in connector.yaml')
  ) p(hit, level, code, message, remedy)
 where p.hit"""
    body = refusal_body(
        (server, table_problems(WANTED), view_problems(WANTED, WANTED_VIEWS), _GENERATED, _KINDS, _STRANGERS)
    )
    return f"""\
-- 3. First, do no harm: this block only looks, and refuses with all reasons at once.
{do(body)}"""


_GENERATED = """\
select 'error' as level, 'RELAY_GENERATED' as code, format('%I.%I', s.schema_name, s.table_name) as subject,
       'the views read generated column ' || a.attname || ', and generated columns do not reach the relay' as message,
       'compute it in the view, from the columns it is made of' as remedy
  from pg_temp.sipol_kit_shown s
  join pg_namespace n on n.nspname = s.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = s.table_name
  join pg_attribute a on a.attrelid = c.oid and a.attname = any (s.key_columns) and a.attgenerated <> ''"""

_KINDS = """\
select 'error' as level, 'RELAY_KIND' as code, format('%I.%I', n.nspname, c.relname) as subject,
       'is read by the views, and a materialized view or foreign table cannot be followed' as message,
       'let the views read the base tables instead' as remedy
  from pg_temp.sipol_kit_reads r join pg_class c on c.oid = r.rel join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('m', 'f') and r.depth > 0"""

_STRANGERS = """\
select distinct 'warning' as level, 'RELAY_NEEDS' as code, strange.what as subject,
       'is used by the views, or is the type of a column, and is not among what is printed' as message,
       'create it on the relay first' as remedy
  from (
    select 'function ' || d.refobjid::regprocedure::text
      from pg_temp.sipol_kit_reads r join pg_rewrite w on w.ev_class = r.rel
      join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_proc'::regclass
      join pg_proc p on p.oid = d.refobjid
     where p.pronamespace <> 'pg_catalog'::regnamespace
    union all
    select 'type ' || t.oid::regtype::text
      from pg_temp.sipol_kit_shown s
      join pg_namespace n on n.nspname = s.schema_name
      join pg_class c on c.relnamespace = n.oid and c.relname = s.table_name
      join pg_attribute a on a.attrelid = c.oid and a.attname = any (s.key_columns)
      join pg_type t on t.oid = a.atttypid
     where t.typnamespace <> 'pg_catalog'::regnamespace
  ) strange(what)"""


def _role(request: KitRequest) -> str:
    relay = relay_name(request)
    body = f"""
declare
  thing record;
begin
  if not exists (select from pg_roles where rolname = {text(relay)}) then
    create role {name(relay)} login replication password null nosuperuser nocreatedb nocreaterole nobypassrls noinherit
      connection limit {SESSIONS_MAX};
    comment on role {name(relay)} is '{MARK}: the relay of slot {request.slot}';
  end if;
  execute format('grant connect on database %I to %I', current_database(), {text(relay)});
  -- The first copy of each table reads these columns, and no other.
  for thing in
{indented(table_columns(_SHOWN), 4)}
  loop
    execute format('grant usage on schema %I to %I', (select relnamespace::regnamespace::text from pg_class
                                                       where oid = thing.rel), {text(relay)});
    execute format('grant select (%s) on %s to %I',
                   (select string_agg(quote_ident(c), ', ') from unnest(thing.columns) c), thing.place, {text(relay)});
  end loop;
end
"""
    return f"""\
-- 4. The role that the relay comes in as: the party's own.
{do(body)}"""


def _publication(request: KitRequest) -> str:
    relay = relay_name(request)
    options = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
    body = f"""
declare
  listed text;
begin
  -- Before 15 there are no column lists: the relay then has columns of which it fills some.
  select string_agg(format('only %s', wanted.place)
                    || case when current_setting('server_version_num')::int >= 150000
                            then (select ' (' || string_agg(quote_ident(c.name), ', ' order by c.place) || ')'
                                    from unnest(wanted.columns) with ordinality as c(name, place)) else '' end,
                    ', ' order by wanted.place)
    into listed
    from (
{indented(table_columns(_SHOWN), 6)}
    ) wanted;
  if exists (select from pg_publication where pubname = {text(relay)}) then
    execute {text(f"alter publication {name(relay)} set table ")} || listed;
  else
    execute {text(f"create publication {name(relay)} for table ")} || listed || {text(f" with ({options})")};
  end if;
end
"""
    return f"""\
-- 5. The publication: the columns that the views read, and the keys.
{do(body)}
comment on publication {name(relay)} is '{MARK}: publication for the relay of slot {request.slot}';
"""


def _structure() -> str:
    """The query that prints tables and views as SQL for the relay."""
    return f"""\
-- 6. The same tables and views, as SQL for the relay: shared columns, keys, indexes over them, replica identity.
with shared as (
{indented(table_columns(_SHOWN), 2)}
),
lines(part, place, line) as (
  select 0, 0, 'begin;'
  union all
  select distinct 1, 0, format('create schema if not exists %I; comment on schema %I is ''{MARK}: relay'';',
                               n.nspname, n.nspname)
    from (select rel from shared union select rel from pg_temp.sipol_kit_reads) r
    join pg_class c on c.oid = r.rel join pg_namespace n on n.oid = c.relnamespace
   where n.nspname <> 'public'
  union all
  select 2, 0, format('create table %s (%s); comment on table %s is ''{MARK}: relay'';', s.place,
                      (select string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod))
                                         || case when a.attcollation <> t.typcollation
                                                 then format(' collate %I.%I', cn.nspname, co.collname) else '' end
                                         || case when a.attnotnull then ' not null' else '' end, ', ' order by a.attnum)
                         from pg_attribute a
                         join pg_type t on t.oid = a.atttypid
                         left join pg_collation co on co.oid = a.attcollation
                         left join pg_namespace cn on cn.oid = co.collnamespace
                        where a.attrelid = s.rel and a.attname::text = any (s.columns)), s.place)
    from shared s
  union all
  select case when i.indisprimary then 3 else 4 end, 0,
         case when i.indisprimary
              then format('alter table %s add constraint %I %s;', s.place, x.relname, pg_get_constraintdef(k.oid))
              else replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ') || ';' end
    from shared s
    join pg_index i on i.indrelid = s.rel and i.indisvalid and i.indpred is null and i.indexprs is null
    join pg_class x on x.oid = i.indexrelid
    left join pg_constraint k on k.conindid = i.indexrelid and k.contype = 'p'
   where not i.indisexclusion
     and not exists (select from unnest(i.indkey) n(number)
                       join pg_attribute a on a.attrelid = s.rel and a.attnum = n.number
                      where a.attname::text <> all (s.columns))
  union all
  select 5, 0, format('alter table %s replica identity using index %I;', s.place, x.relname)
    from shared s join pg_class c on c.oid = s.rel and c.relreplident = 'i'
    join pg_index i on i.indrelid = s.rel and i.indisreplident join pg_class x on x.oid = i.indexrelid
  union all
  select 6, -r.depth, format(E'create view %I.%I%s as\\n%s\\ncomment on view %I.%I is ''{MARK}: relay'';', n.nspname,
                             c.relname, coalesce(' with (' || array_to_string(c.reloptions, ', ') || ')', ''),
                             pg_get_viewdef(c.oid), n.nspname, c.relname)
    from pg_temp.sipol_kit_reads r join pg_class c on c.oid = r.rel and c.relkind = 'v'
    join pg_namespace n on n.oid = c.relnamespace
  union all
  select 9, 0, 'commit;'
)
select line from lines order by part, place, line;
"""


# ----------------------------------------------------------------------------------------------- subscriber


def _subscriber_heading(request: KitRequest) -> str:
    party = remark(request.party)
    return f"""\
-- Sipol connector: the relay's part for party {party}. First the SQL that the publisher's script printed, then this,
-- with psql as a superuser, in the relay's only database:
--     SIPOL_UTAMA="host=... dbname=... user={remark(relay_name(request))} sslmode=verify-full" \\
--       psql -X -v ON_ERROR_STOP=1 -d DATABASE -f THIS_FILE
-- The password belongs into .pgpass of the relay's operating system account, outside the data directory, NOT into
-- SIPOL_UTAMA: KPU's login here can copy all of this cluster, and with it what a subscription remembers.
-- `connector kit {party} --relay subscriber --remove` takes it back.
"""


def _subscription(request: KitRequest) -> str:
    relay = relay_name(request)
    return f"""\
\\getenv utama SIPOL_UTAMA
\\if :{{?utama}}
\\else
  \\warn 'SIPOL_UTAMA is not set: see the heading'
  \\quit
\\endif
select :'utama' ~* 'password' as has_password \\gset
\\if :has_password
  \\warn 'SIPOL_UTAMA names a password, which KPU could read here: put it into .pgpass'
  \\quit
\\endif

-- The subscription copies the shared tables, and follows them. Run again, it takes up tables that came since.
select not exists (select from pg_subscription where subname = {text(relay)}) as is_new \\gset
\\if :is_new
create subscription {name(relay)} connection :'utama' publication {name(relay)};
\\else
alter subscription {name(relay)} refresh publication;
\\endif
"""
