"""The pieces that every PostgreSQL kit shares: roles, schema, and a block that refuses. Pure text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from connector.capture.postgres.kit_request import MARK, POWERFUL_ROLES, READER_CONNECTIONS_MAX
from connector.capture.postgres.quoting import indented, name, text, texts

Views = Sequence[tuple[str, str]]


def refusal_body(queries: Iterable[str]) -> str:
    """A block that runs queries for (level, code, subject, message, remedy) and refuses with all errors at once."""
    loops = "".join(
        f"""
  for found in
{indented(query, 4)}
  loop
    if found.level = 'error' then
      problems := problems || format('[%s] %s %s. Remedy: %s', found.code, found.subject, found.message, found.remedy);
    else
      raise warning '[%] % %. Remedy: %', found.code, found.subject, found.message, found.remedy;
    end if;
  end loop;
"""
        for query in queries
    )
    return f"""
declare
  found record;
  problems text[] := '{{}}';
begin{loops}
  if cardinality(problems) > 0 then
    raise exception using
      message = format('the kit refuses, and has changed nothing: %s problem(s)', cardinality(problems)),
      detail = array_to_string(problems, E'\\n'),
      hint = 'mend these and run the kit again';
  end if;
end
"""


def role_problems(role: str, tables: str, *, replication: bool) -> str:
    """The query that judges the reader's role; `tables` is a from item with schema_name and table_name, named t."""
    reader = text(role)
    # A reader that this kit made gets its REPLICATION attribute set or taken below; a stranger's role is left alone.
    attribute = "not r.rolreplication" if replication else "r.rolreplication"
    wrong = "has no REPLICATION attribute" if replication else "has the REPLICATION attribute"
    return f"""\
select p.level, p.code, quote_ident(r.rolname) as subject, p.message, p.remedy
  from (select *, coalesce(shobj_description(oid, 'pg_authid'), '') like '{MARK}:%' as ours
          from pg_roles where rolname = {reader}) r
  cross join lateral (values
    (r.rolsuper or r.rolbypassrls or r.rolcreaterole or r.rolcreatedb, 'error', 'READER_TOO_POWERFUL',
     'is superuser, or has BYPASSRLS, CREATEROLE or CREATEDB',
     'name another role as user of the party''s dsn: the kit makes it if it does not exist'),
    (not r.ours and {attribute}, 'error', 'READER_REPLICATION', '{wrong}, and the kit did not make this role',
     'name another role as user of the party''s dsn: the kit makes it if it does not exist'),
    (not r.rolcanlogin, 'error', 'READER_NOLOGIN', 'cannot log in',
     'alter role ' || quote_ident(r.rolname) || ' login;'),
    (not r.rolsuper and exists (
       select from pg_roles p where p.rolname = any ({texts(POWERFUL_ROLES)}) and pg_has_role(r.oid, p.oid, 'member')),
     'error', 'READER_MEMBER', 'is member of a role that reads more than the views',
     'revoke it, or name another role as user of the party''s dsn'),
    (not r.rolsuper and exists (
       select from {tables}
         join pg_namespace n on n.nspname = t.schema_name
         join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name and c.relkind in ('r', 'p')
        where has_any_column_privilege(r.oid, c.oid, 'select, insert, update')),
     'warning', 'READER_SEES_TABLES', 'may read or write base tables directly, by its own grants or through PUBLIC',
     'revoke all on the base tables from it and from public')
  ) p(hit, level, code, message, remedy)
 where p.hit"""


def make_reader(role: str, *, replication: bool) -> str:
    """Statements of a block that makes the reader where it is not there."""
    attribute = "replication" if replication else "noreplication"
    return f"""
  -- The reader is what KPU logs in as. Without a password it cannot log in by one: set it after this script.
  if not exists (select from pg_roles where rolname = {text(role)}) then
    create role {name(role)} login password null {attribute} nosuperuser nocreatedb nocreaterole nobypassrls noinherit
      connection limit {READER_CONNECTIONS_MAX};
    comment on role {name(role)} is '{MARK}: reader';
  elsif exists (select from pg_roles where rolname = {text(role)} and {"not " if replication else ""}rolreplication
                   and shobj_description(oid, 'pg_authid') like '{MARK}:%') then
    alter role {name(role)} {attribute};
  end if;
"""


def make_schema_body(schema: str) -> str:
    """A block that makes the kit's schema where it is not there."""
    return f"""
begin
  if not exists (select from pg_namespace where nspname = {text(schema)}) then
    create schema {name(schema)};
    comment on schema {name(schema)} is '{MARK}: functions';
  end if;
end
"""


def drop_schema_body(schema: str) -> str:
    """A block that drops the kit's schema, where the kit made it and nothing else is in it."""
    return f"""
begin
  -- The functions of another slot may live here, or something of the party's own: then it stays.
  if exists (select from pg_namespace n where n.nspname = {text(schema)}
              and obj_description(n.oid, 'pg_namespace') like '{MARK}:%'
              and not exists (select from pg_depend d where d.refclassid = 'pg_namespace'::regclass
                                                        and d.refobjid = n.oid and d.deptype = 'n')) then
    drop schema {name(schema)};
  end if;
end
"""


def connect_body(role: str) -> str:
    """A block that lets the reader into this database."""
    return f"""
begin
  execute format('grant connect on database %I to %I', current_database(), {text(role)});
end
"""


def drop_roles_body(roles: Sequence[str], schema: str, views: Views) -> str:
    """A block that takes a kit's grants back, and drops those of its roles that it made."""
    schemas = tuple(dict.fromkeys([schema, *(schema for schema, _ in views)]))
    shown = ", ".join(f"({text(schema)}, {text(name)})" for schema, name in dict.fromkeys(views))
    return f"""
declare
  wanted text;
  found record;
  thing record;
begin
  foreach wanted in array {texts(tuple(roles))} loop
    select oid, rolname, coalesce(shobj_description(oid, 'pg_authid'), '') like '{MARK}:%' as ours into found
      from pg_roles where rolname = wanted;
    if found.oid is null then
      continue;
    end if;
    -- What the kit granted in this database.
    for thing in
      select format('schema %I', n.nspname) as place from pg_namespace n where n.nspname = any ({texts(schemas)})
      union all
      select format('table %I.%I', n.nspname, c.relname)
        from (values {shown or "(null, null)"}) v(schema_name, view_name)
        join pg_namespace n on n.nspname = v.schema_name
        join pg_class c on c.relnamespace = n.oid and c.relname = v.view_name and c.relkind in ('r', 'p', 'v', 'm', 'f')
    loop
      execute format('revoke all on %s from %I', thing.place, wanted);
    end loop;
    if not found.ours then
      raise notice 'role % stays: the kit did not make it', quote_ident(wanted);
      continue;
    end if;
    if exists (select from pg_shdepend d where d.refclassid = 'pg_authid'::regclass and d.refobjid = found.oid
                and d.deptype = 'o'
                and d.dbid in (0, (select oid from pg_database where datname = current_database()))) then
      raise exception using
        message = format('role %I owns objects here, and they would be dropped with it', wanted),
        hint = 'reassign owned by ... to ...; then run this again';
    end if;
    if exists (select from pg_shdepend d where d.refclassid = 'pg_authid'::regclass and d.refobjid = found.oid
                and d.dbid not in (0, (select oid from pg_database where datname = current_database()))) then
      raise notice 'role % stays: another database of this cluster still uses it', quote_ident(wanted);
      continue;
    end if;
    -- Owns nothing, as was just seen: this takes back what is left of its grants, such as on views of an older mapping.
    if not (select rolsuper from pg_roles where rolname = current_user) then
      execute format('grant %I to %I', wanted, current_user);  -- only a member may drop what a role was granted
    end if;
    execute format('drop owned by %I', wanted);
    execute format('drop role %I', wanted);
  end loop;
end
"""
