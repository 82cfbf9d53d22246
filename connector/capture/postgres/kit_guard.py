"""The part of the kit that looks at the party's server and refuses before anything is changed. Pure text."""

from __future__ import annotations

from connector.capture.postgres.catalogue import table_problems, view_problems
from connector.capture.postgres.kit_reader import refusal_body, role_problems
from connector.capture.postgres.kit_request import MARK, REPLICATION_MINOR_MIN, KitRequest
from connector.capture.postgres.quoting import do, text

WANTED = "select schema_name, table_name, key_columns from pg_temp.sipol_kit_tables"
WANTED_VIEWS = "select schema_name, view_name from pg_temp.sipol_kit_views"


def guard(request: KitRequest) -> str:
    body = refusal_body(
        (
            _server_problems(request),
            role_problems(request.reader, "pg_temp.sipol_kit_tables t", replication=request.mode == "stream"),
            table_problems(WANTED, full_is_accepted=request.accept_risk),
            view_problems(WANTED, WANTED_VIEWS),
        )
    )
    return f"""\
-- 3. First, do no harm. Publishing a table without a usable replica identity makes the party's own UPDATE and DELETE
--    fail; a role with too many rights would see more than the views. This block only looks, and refuses with all
--    reasons at once.
{do(body)}"""


def _server_problems(request: KitRequest) -> str:
    slot = text(request.slot)
    return f"""\
select p.level, p.code, 'server' as subject, p.message, p.remedy
  from (values
    (current_setting('server_version_num')::int < 150000, 'error', 'SERVER_TOO_OLD',
     'runs PostgreSQL ' || current_setting('server_version') || ': publications have column lists since 15',
     'upgrade the server; or mode outbox, whose triggers need no column list: connector kit PARTY --mode outbox; or a '
     'relay of version 15 or newer'),
    (pg_is_in_recovery(), 'error', 'STANDBY', 'is a standby: nothing can be created here',
     'run the kit on the primary'),
    (not (select rolsuper from pg_roles where rolname = current_user), 'error', 'NOT_SUPERUSER',
     'this session is no superuser, and only a superuser may make a role with REPLICATION',
     'run the kit as postgres; where nobody can be superuser (managed services) the way is a relay'),
    (current_setting('wal_level') <> 'logical', 'error', 'WAL_LEVEL',
     'has wal_level = ' || current_setting('wal_level') || ': the log does not say which rows change',
     'alter system set wal_level = ''logical''; then restart the server (a reload is not enough)'),
    (not exists (select from pg_replication_slots where slot_name = {slot})
     and (select count(*) from pg_replication_slots) >= current_setting('max_replication_slots')::int,
     'error', 'NO_FREE_SLOT', 'all ' || current_setting('max_replication_slots') || ' replication slots are taken',
     'alter system set max_replication_slots = ...; then restart, or drop a slot that nobody uses'),
    (exists (select from pg_replication_slots s where s.slot_name = {slot}
              and (s.plugin is distinct from 'pgoutput' or s.database is distinct from current_database())),
     'error', 'SLOT_TAKEN', 'there is a slot ' || {slot} || ' of another kind or another database',
     'choose another name with `slot:` in connector.yaml'),
    (exists (select from pg_replication_slots where slot_name = {slot} and wal_status = 'lost'),
     'error', 'SLOT_LOST', 'the slot ' || {slot} || ' is lost: the server has dropped log that it still needed',
     'select pg_drop_replication_slot(' || quote_literal({slot}) || '); then run the kit again, and tell KPU: its copy '
     'starts anew'),
    (exists (select from pg_publication where pubname = {text(request.publication)}
              and coalesce(obj_description(oid, 'pg_publication'), '') not like '{MARK}:%'),
     'error', 'PUBLICATION_TAKEN',
     'there is a publication ' || {text(request.publication)} || ' that this kit did not make',
     'choose another name with `publication:` in connector.yaml'),
    (exists (select from pg_roles where rolname = {text(request.guardian)}
              and coalesce(shobj_description(oid, 'pg_authid'), '') not like '{MARK}:%'),
     'error', 'ROLE_TAKEN', 'there is a role ' || {text(request.guardian)} || ' that this kit did not make',
     'choose another slot name with `slot:` in connector.yaml'),
    (current_setting('max_slot_wal_keep_size') = '-1', 'warning', 'NO_WAL_LIMIT',
     'has no limit on the log that a slot keeps: a reader that stays away would fill the disk',
     'alter system set max_slot_wal_keep_size = ''16GB''; select pg_reload_conf(); -- a size the disk can spare'),
    (current_setting('server_encoding') = 'SQL_ASCII', 'warning', 'SQL_ASCII',
     'stores bytes of any encoding: text that is not UTF-8 will be refused row by row', 'none needed; see quarantine')\
{_relay_problems(request)}
  ) p(hit, level, code, message, remedy)
 where p.hit"""


def _relay_problems(request: KitRequest) -> str:
    """What `stream` asks of a cluster, because its login can read all of it."""
    if request.mode != "stream":
        return ""
    level = "'warning'" if request.accept_risk else "'error'"
    floors = ", ".join(f"({major * 10000}, {major * 10000 + minor})" for major, minor in REPLICATION_MINOR_MIN.items())
    return f""",
    (exists (select from (values {floors}) v(first, fixed)
              where current_setting('server_version_num')::int between v.first and v.fixed - 1),
     {level}, 'CVE_2026_6471',
     'runs ' || current_setting('server_version') || ', where a login with REPLICATION can load any library',
     'update to the newest minor version first, or use mode pull'),
    (exists (select from pg_database
              where datname <> current_database() and datname <> 'postgres' and not datistemplate),
     {level}, 'NOT_A_RELAY', 'holds other databases, which a login with REPLICATION can copy',
     'run this on a relay cluster that holds the shared tables only, or use mode pull'),
    (exists (select from pg_publication where pubname <> {text(request.publication)}),
     {level}, 'OTHER_PUBLICATIONS', 'has other publications, which a login with REPLICATION can read',
     'run this on a relay cluster that holds the shared tables only, or use mode pull')"""
