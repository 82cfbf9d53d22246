"""The SQL that a party's DBA reviews and runs, and the SQL that takes it all back.

Pure text: no sockets, no clock, no secret. What only the party's server knows (which columns form a table's replica
identity, whether a role is too powerful) the script looks up there, and it refuses before it changes anything.
"""

from __future__ import annotations

from connector.capture.postgres.catalogue import table_columns
from connector.capture.postgres.kit_guard import WANTED, guard
from connector.capture.postgres.kit_reader import connect_body, make_reader, make_schema_body
from connector.capture.postgres.kit_removal import kit_remove_sql
from connector.capture.postgres.kit_request import (
    LOCK_TIMEOUT_S,
    MARK,
    KitRequest,
    KitTable,
    Mode,
    confirm_name,
    peek_name,
    refuse_bad_names,
    release_name,
)
from connector.capture.postgres.quoting import do, indented, name, quoted, remark, text, texts
from connector.errors import UsageError

__all__ = ["KitRequest", "KitTable", "Mode", "confirm_body", "kit_remove_sql", "kit_sql", "peek_body", "release_body"]


def kit_sql(request: KitRequest) -> str:
    """The script that opens a party's database to us, for its DBA.

    It runs in any client, as a superuser, whole or `psql -1`; a second run changes nothing. Nothing is changed when a
    table or view is not fit: all reasons are told at once, each with its remedy.

    Raises:
        UsageError: a name cannot be used, or there is no view or no table.
    """
    refuse_bad_names(request)
    if not request.views or not request.tables:
        raise UsageError(
            f"no {'view' if not request.views else 'base table'} to follow",
            hint="the mapping names a view for each entity, and `lineage` names the base tables behind it",
            place=request.party,
        )
    parts = [_heading(request), beginning(request), guard(request), _roles(request), _publication(request)]
    if request.mode == "pull":
        parts.append(_functions(request))
    parts += [_grants(request), "commit;\n", _slot(request), _self_check(request), _ending(request)]
    return "\n".join(parts)


def peek_body(slot: str, publication: str) -> str:
    """The text of the peek function, as `check` compares it with what the server has."""
    return f"""
  select change.lsn, change.xid, change.data
    from pg_catalog.pg_logical_slot_peek_binary_changes(
           {text(slot)}, greatest(upto, '0/1'), max_changes,
           'proto_version', '1', 'publication_names', {text(name(publication))}, 'messages', 'false') as change
"""


def confirm_body(slot: str) -> str:
    """The text of the confirm function, as `check` compares it with what the server has."""
    return f"""
declare
  confirmed pg_catalog.pg_lsn;
begin
  select s.confirmed_flush_lsn into confirmed from pg_catalog.pg_replication_slots s
   where s.slot_name = {text(slot)} and s.database = pg_catalog.current_database() and s.plugin = 'pgoutput';
  if confirmed is null then
    raise exception using errcode = 'undefined_object', message = 'the slot ' || {text(slot)} || ' does not exist';
  end if;
  if upto <= confirmed then
    return confirmed;
  end if;
  return (select moved.end_lsn from pg_catalog.pg_replication_slot_advance({text(slot)}, upto) as moved);
end
"""


def release_body(slot: str) -> str:
    """The text of the release function, as `check` compares it with what the server has."""
    return f"""
  select coalesce((
    select pg_catalog.pg_drop_replication_slot(s.slot_name) is not null
      from pg_catalog.pg_replication_slots s
     where s.slot_name = {text(slot)} and s.database = pg_catalog.current_database() and s.plugin = 'pgoutput'), false)
"""


def _heading(request: KitRequest) -> str:
    party = remark(request.party)
    reveals = (
        f"""\
-- WHAT THIS GIVES AWAY: the rows of the views named below, and which keys of the base tables change, and when.
-- The role {remark(request.reader)} gets no REPLICATION attribute, no table, no other view, and no password."""
        if request.mode == "pull"
        else """\
-- WHAT THIS GIVES AWAY: EVERYTHING IN THIS CLUSTER. A login with REPLICATION can take a base backup of all databases
-- and read every publication, whatever else it is granted. So mode `stream` is for a relay cluster: a small server
-- that holds a copy of the shared tables and nothing else. On your main server use mode pull."""
    )
    return f"""\
-- Sipol connector: kit for party {party}, mode {request.mode}.
-- For the DBA to read, then to run in the party's database as a superuser:
--     psql -X -v ON_ERROR_STOP=1 -d DATABASE -f THIS_FILE
-- It may be run again at any time, and after the mapping changed. `connector kit {party} --remove` takes it back.
--
{reveals}
-- It changes no setting of the server, no table and no view. It writes no password.
"""


def beginning(request: KitRequest) -> str:
    """The head of a kit's transaction: its settings, and what the request is about as scratch tables."""
    rows = ",\n".join(
        f"  ({text(table.schema)}, {text(table.name)}, {texts(table.key_columns)})" for table in _merged(request.tables)
    )
    views = ",\n".join(f"  ({text(schema)}, {text(name)})" for schema, name in dict.fromkeys(request.views))
    return f"""\
-- This file is UTF-8, whatever the client assumes.
set client_encoding = 'UTF8';

-- 1. All or nothing: what fails leaves no trace. No name is looked up in a schema that others can write to, and
--    nobody's work waits longer than {LOCK_TIMEOUT_S} seconds for ours.
begin;
set local search_path = pg_catalog, pg_temp;
set local standard_conforming_strings = on;
set local lock_timeout = '{LOCK_TIMEOUT_S}s';
set local jit = off;  -- compiling the look-ups below would take longer than all of them

-- 2. What this is about: base tables to follow, with the columns that must reach the log when a row is deleted or
--    moves; and views to read. Scratch tables of this session, gone at the end of this transaction.
create temporary table sipol_kit_tables (schema_name text, table_name text, key_columns text[]) on commit drop;
insert into sipol_kit_tables values
{rows};
create temporary table sipol_kit_views (schema_name text, view_name text) on commit drop;
insert into sipol_kit_views values
{views};
"""


def _merged(tables: tuple[KitTable, ...]) -> list[KitTable]:
    """One entry per table, with the key columns of all the views that it stands behind."""
    keys: dict[tuple[str, str], dict[str, None]] = {}
    for table in tables:
        keys.setdefault((table.schema, table.name), {}).update(dict.fromkeys(table.key_columns))
    return [KitTable(schema, name, tuple(columns)) for (schema, name), columns in keys.items()]


def _roles(request: KitRequest) -> str:
    guardian = name(request.guardian)
    create_guardian = f"""
  -- The guardian owns the two functions below and lends them its REPLICATION attribute. Nobody can log in as it.
  if not exists (select from pg_roles where rolname = {text(request.guardian)}) then
    create role {guardian} nologin replication nosuperuser nocreatedb nocreaterole nobypassrls noinherit;
    comment on role {guardian} is '{MARK}: guardian of slot {request.slot}';
  end if;
"""
    reader = make_reader(request.reader, replication=request.mode == "stream")
    body = f"""
begin{create_guardian if request.mode == "pull" else ""}{reader}end
"""
    return f"""\
-- 4. Roles. One that exists already keeps its password; only a reader made by this kit has its attributes set again.
{do(body)}"""


def _publication(request: KitRequest) -> str:
    publication = name(request.publication)
    options = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
    body = f"""
declare
  listed text;
  statement text;
begin
  -- ONLY: a child table is published when it is listed itself, never by surprise.
  select string_agg(format('only %s%s', wanted.place,
                           (select ' (' || string_agg(quote_ident(c.name), ', ' order by c.place) || ')'
                              from unnest(wanted.columns) with ordinality as c(name, place))),
                    ', ' order by wanted.place)
    into listed
    from (
{indented(table_columns(WANTED), 6)}
    ) wanted;
  if exists (select from pg_publication where pubname = {text(request.publication)}) then
    execute {text(f"alter publication {publication} set ({options})")};
    statement := {text(f"alter publication {publication} set table ")} || listed;
  else
    statement := {text(f"create publication {publication} for table ")} || listed
              || {text(f" with ({options})")};
  end if;
  raise notice '%', statement;
  execute statement;
end
"""
    return f"""\
-- 5. The publication says which tables and which columns the log stream carries: the columns that identify a row, and
--    the columns that give a view's key. Names, addresses and NIK stay out of it unless they are such columns.
--    PostgreSQL demands that the list covers the replica identity; the block looks that up here, so that no UPDATE of
--    the party can fail, and prints the statement it runs.
{do(body)}
-- The mark by which a later run, and the removal, know it as the kit's own.
comment on publication {publication} is '{MARK}: publication of slot {request.slot}';
"""


def _functions(request: KitRequest) -> str:
    schema, guardian, reader = name(request.schema), name(request.guardian), name(request.reader)
    peek = name(request.schema, peek_name(request.slot))
    confirm = name(request.schema, confirm_name(request.slot))
    release = name(request.schema, release_name(request.slot))
    signatures = _signatures(request)
    drops = "\n".join(f"drop function if exists {signature};" for signature in signatures)
    owners = "\n".join(f"alter function {signature} owner to {guardian};" for signature in signatures)
    shut = "\n".join(f"revoke all on function {signature} from public;" for signature in signatures)
    grants = "\n".join(f"grant execute on function {signature} to {reader};" for signature in signatures)
    return f"""\
-- 6. A schema of its own for the functions.
{do(make_schema_body(request.schema))}
-- 7. Three functions, each tied to this slot and this publication: the reader cannot name another. They run with the
--    guardian's rights (SECURITY DEFINER), so names are looked up in pg_catalog only. Made anew on each run, so that
--    no older grant on them survives.
{drops}

-- 7a. peek: the changes up to a position, without taking them: asked again, it answers the same. There is always an
--     upper bound: for the server NULL and 0/0 mean none, and a peek at a whole backlog could run for an hour.
create function {peek}(upto pg_lsn, max_changes integer)
  returns table (lsn pg_lsn, xid xid, data bytea)
  language sql volatile security definer
  set search_path = pg_catalog, pg_temp
as {quoted(peek_body(request.slot, request.publication))};

-- 7b. confirm: "stored safely up to here, you may recycle the log". It never moves backward, and the server never
--     moves it beyond what it has itself written to disk. It answers the position that now stands.
create function {confirm}(upto pg_lsn)
  returns pg_lsn
  language plpgsql volatile strict security definer
  set search_path = pg_catalog, pg_temp
as {quoted(confirm_body(request.slot))};

-- 7c. release: KPU gives this slot up, so that the server keeps no more log for it, when KPU has fallen so far behind
--     that your disk would suffer. KPU then copies the views again; this kit, run again, makes a new slot.
create function {release}()
  returns boolean
  language sql volatile security definer
  set search_path = pg_catalog, pg_temp
as {quoted(release_body(request.slot))};

-- 7d. The guardian owns them, nobody else may call them, the reader may.
{owners}
{shut}
grant usage on schema {schema} to {reader};
{grants}
"""


def _signatures(request: KitRequest) -> tuple[str, ...]:
    """The functions with their argument types, as DDL names them."""
    return (
        f"{name(request.schema, peek_name(request.slot))}(pg_lsn, integer)",
        f"{name(request.schema, confirm_name(request.slot))}(pg_lsn)",
        f"{name(request.schema, release_name(request.slot))}()",
    )


def _grants(request: KitRequest) -> str:
    reader = name(request.reader)
    schemas = [
        f"grant usage on schema {name(schema)} to {reader};"
        for schema in dict.fromkeys(schema for schema, _ in request.views)
    ]
    views = [f"grant select on {name(*view)} to {reader};" for view in dict.fromkeys(request.views)]
    return f"""\
-- 8. The reader may connect to this database (needed where CONNECT was taken from PUBLIC),
{do(connect_body(request.reader))}
-- look up names in the schemas of the views,
{chr(10).join(schemas)}

-- and read the views. This is all the row data that KPU can see.
{chr(10).join(views)}
"""


def _slot(request: KitRequest) -> str:
    ready = f"exists (select from pg_publication where pubname = {text(request.publication)})"
    if request.mode == "pull":
        ready += f"\n   and to_regprocedure({text(_signatures(request)[0])}) is not null"
    return f"""\
-- 9. The slot: the server keeps its log from here until KPU confirms. Last, and in a transaction of its own, because
--    PostgreSQL makes no slot in a transaction that has written, and because a slot without a reader fills the disk:
--    so none is made when anything above failed. It waits for transactions now open to end; nobody waits for it.
begin;
set local search_path = pg_catalog, pg_temp;
select slot_name, lsn as starts_at
  from pg_create_logical_replication_slot({text(request.slot)}, 'pgoutput')
 where not exists (select from pg_replication_slots where slot_name = {text(request.slot)})
   and {ready};
commit;
"""


def _self_check(request: KitRequest) -> str:
    slot, publication, reader = text(request.slot), text(request.publication), text(request.reader)
    functions = ""
    if request.mode == "pull":
        functions = "".join(
            f"""
    union all
    select 'function ' || {text(signature)}, coalesce((
      select p.prosecdef and pg_get_userbyid(p.proowner) = {text(request.guardian)}
         and not exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0)
         and exists (select from aclexplode(p.proacl) a join pg_roles r on r.oid = a.grantee where r.rolname = {reader})
        from pg_proc p where p.oid = to_regprocedure({text(signature)})), false)"""
            for signature in _signatures(request)
        )
    views = "".join(
        f"""
    union all
    select 'view ' || {text(name(*view))}, coalesce((
      select has_table_privilege(r.oid, to_regclass({text(name(*view))}), 'select')
        from pg_roles r where r.rolname = {reader}), false)"""
        for view in dict.fromkeys(request.views)
    )
    wrong_attribute = "not rolreplication" if request.mode == "stream" else "rolreplication"
    return f"""\
-- 10. Self-check: every line should say ok.
begin;
set local search_path = pg_catalog, pg_temp;
select fact, case when ok then 'ok' else 'NOT OK' end as state
  from (
    select 'slot ' || {slot} as fact,
           exists (select from pg_replication_slots where slot_name = {slot} and plugin = 'pgoutput'
                      and database = current_database() and coalesce(wal_status, '') <> 'lost') as ok
    union all
    select 'role ' || quote_ident({reader}), exists (
      select from pg_roles where rolname = {reader} and rolcanlogin and not rolsuper and not ({wrong_attribute}))
    union all
    select 'publication ' || quote_ident({publication}),
           exists (select from pg_publication where pubname = {publication})
    union all
    select format('publishes %I.%I (%s), and the reader may not touch it', p.schemaname, p.tablename,
                  array_to_string(p.attnames, ', ')),
           not has_any_column_privilege({reader}, format('%I.%I', p.schemaname, p.tablename)::regclass,
                                        'select, insert, update')
      from pg_publication_tables p where p.pubname = {publication}{functions}{views}
  ) facts;
commit;
"""


def _ending(request: KitRequest) -> str:
    return f"""\
-- NEXT, by hand, because a password belongs into no file:
--     \\password {remark(name(request.reader))}
-- and one line in pg_hba.conf (this database, this role, KPU's address, TLS; no other line lets it in), then reload:
--     hostssl  DATABASE  {remark(name(request.reader))}  KPU_ADDRESS/32  scram-sha-256
"""
