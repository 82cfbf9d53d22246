"""The SQL that takes a kit back: slot, publication, functions, roles, grants. Pure text."""

from __future__ import annotations

from connector.capture.postgres.kit_reader import drop_roles_body, drop_schema_body
from connector.capture.postgres.kit_request import (
    LOCK_TIMEOUT_S,
    MARK,
    KitRequest,
    confirm_name,
    peek_name,
    refuse_bad_names,
    release_name,
)
from connector.capture.postgres.quoting import do, name, remark, text, texts


def kit_remove_sql(request: KitRequest) -> str:
    """The script that takes back whatever `kit_sql` made, in either mode. A second run changes nothing.

    Raises:
        UsageError: a name cannot be used.
    """
    refuse_bad_names(request)
    return "\n".join([_removal_heading(request), drop_slot(request.slot), _drop_objects(request), _leftovers(request)])


def _removal_heading(request: KitRequest) -> str:
    party = remark(request.party)
    return f"""\
-- Sipol connector: takes back the kit of party {party}: slot, publication, functions, roles, grants.
-- For the DBA to run in the party's database as a superuser, with the connector stopped for this party:
--     psql -X -v ON_ERROR_STOP=1 -d DATABASE -f THIS_FILE
-- It drops only what the kit made (it left a comment on each), and may be run again.

-- This file is UTF-8, whatever the client assumes.
set client_encoding = 'UTF8';
"""


def drop_slot(slot_name: str) -> str:
    """Drops a slot of ours in this database, unless somebody reads it."""
    slot = text(slot_name)
    body = f"""
declare
  found record;
begin
  select * into found from pg_replication_slots where slot_name = {slot};
  if found.slot_name is null then
    return;
  end if;
  if found.database is distinct from current_database() or found.plugin is distinct from 'pgoutput' then
    raise exception using
      message = format('the slot %s belongs to database %s with plugin %s: it is not this kit''s', {slot},
                       coalesce(found.database, '(none)'), coalesce(found.plugin, '(none)')),
      hint = 'run this in the database where the kit was run';
  end if;
  if found.active then
    raise exception using
      message = format('the slot %s is in use by process %s', {slot}, found.active_pid),
      hint = 'stop the connector for this party, then run this again';
  end if;
  perform pg_drop_replication_slot({slot});
end
"""
    return f"""\
-- 1. The slot first: whatever fails after this, the server keeps no log for us any more.
begin;
set local search_path = pg_catalog, pg_temp;
set local standard_conforming_strings = on;
{do(body)}commit;
"""


def _drop_objects(request: KitRequest) -> str:
    peek, confirm = name(request.schema, peek_name(request.slot)), name(request.schema, confirm_name(request.slot))
    release = name(request.schema, release_name(request.slot))
    publication = f"""
begin
  if exists (select from pg_publication where pubname = {text(request.publication)}
              and obj_description(oid, 'pg_publication') like '{MARK}:%') then
    drop publication {name(request.publication)};
  end if;
end
"""
    return f"""\
-- 2. The rest: all or nothing.
begin;
set local search_path = pg_catalog, pg_temp;
set local standard_conforming_strings = on;
set local lock_timeout = '{LOCK_TIMEOUT_S}s';

-- 2a. The publication, if the kit made it. From here on the party's tables are as they were.
{do(publication)}
-- 2b. The functions (none in mode stream).
drop function if exists {peek}(pg_lsn, integer);
drop function if exists {confirm}(pg_lsn);
drop function if exists {release}();

-- 2c. The grants and the roles.
{do(drop_roles_body((request.guardian, request.reader), request.schema, request.views))}
-- 2d. The schema of the functions, if the kit made it and nothing else is in it.
{do(drop_schema_body(request.schema))}commit;
"""


def _leftovers(request: KitRequest) -> str:
    functions = texts((peek_name(request.slot), confirm_name(request.slot), release_name(request.slot)))
    return f"""\
-- 3. Self-check: no row means that nothing is left. What the kit did not make stays, and shows here.
begin;
set local search_path = pg_catalog, pg_temp;
select left_over from (
  select 'slot ' || slot_name as left_over from pg_replication_slots where slot_name = {text(request.slot)}
  union all
  select 'publication ' || quote_ident(pubname) from pg_publication where pubname = {text(request.publication)}
  union all
  select 'role ' || quote_ident(rolname) from pg_roles
   where rolname = any ({texts((request.guardian, request.reader))})
  union all
  select 'function ' || p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
   where n.nspname = {text(request.schema)} and p.proname = any ({functions})
) found;
commit;
"""
