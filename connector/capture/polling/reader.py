"""The login that reads a party's views, as steps of a kit: made, given the views alone, and taken back. Pure.

No password is ever written: on PostgreSQL the role has none, on MariaDB and MySQL the account is locked until its DBA
sets one. SQLite has no logins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from connector.capture.postgres import kit_reader
from connector.capture.postgres.catalogue import view_problems
from connector.capture.postgres.kit_reader import Views
from connector.capture.postgres.kit_request import READER_CONNECTIONS_MAX
from connector.capture.postgres.quoting import text, texts
from connector.capture.sqltext import LOCK_TIMEOUT_S, Step, account, do, mytext, quoted, ticked

# A from item that names no table, for the queries that ask for one.
NO_TABLES = "(select null::text as schema_name, null::text as table_name, null::text[] as key_columns where false) as t"
# Oldest PostgreSQL whose catalogue has what our questions ask for; older ones than 15 were not tried.
POSTGRES_MIN = 120000

# ------------------------------------------------------------------------------------------------ postgresql


def pg_beginning() -> Iterator[Step]:
    yield Step("this file is UTF-8, whatever the client assumes", "set client_encoding = 'UTF8'")
    yield from pg_transaction()


def pg_transaction() -> Iterator[Step]:
    yield Step("all or nothing", "begin")
    yield Step("no name is looked up where others can write", "set local search_path = pg_catalog, pg_temp")
    yield Step("a backslash is itself", "set local standard_conforming_strings = on")
    yield Step(
        "nobody's work waits longer than this for ours; if it is not enough, run the script again",
        f"set local lock_timeout = '{LOCK_TIMEOUT_S}s'",
    )


def pg_refusal(reader: str, views: Views, more: Sequence[str] = (), tables: str = NO_TABLES) -> Step:
    """The block that looks and refuses; `tables` is a from item of tables to follow, `more` are further queries."""
    shown = ", ".join(f"({text(schema)}, {text(name)})" for schema, name in dict.fromkeys(views))
    wanted_views = f"select * from (values {shown}) v(schema_name, view_name)"
    queries = [_PG_SERVER, kit_reader.role_problems(reader, tables, replication=False), *more]
    if views:
        queries.append(view_problems(f"select * from {tables}", wanted_views))
    return Step(
        "First, do no harm: this block only looks, and refuses with all reasons at once",
        do(kit_reader.refusal_body(queries)),
    )


_PG_SERVER = f"""\
select p.level, p.code, 'server' as subject, p.message, p.remedy
  from (values
    (current_setting('server_version_num')::int < {POSTGRES_MIN}, 'error', 'SERVER_TOO_OLD',
     'runs PostgreSQL ' || current_setting('server_version') || ': older than our questions', 'upgrade the server'),
    (pg_is_in_recovery(), 'error', 'STANDBY', 'is a standby: nothing can be created here',
     'run the kit on the primary'),
    (current_setting('server_encoding') = 'SQL_ASCII', 'warning', 'SQL_ASCII',
     'stores bytes of any encoding: text that is not UTF-8 will be refused row by row', 'none needed; see quarantine')
  ) p(hit, level, code, message, remedy)
 where p.hit"""


def pg_reader(reader: str, views: Views) -> Iterator[Step]:
    yield Step(
        "what KPU logs in as. One that exists keeps its password and attributes",
        do(f"\nbegin{kit_reader.make_reader(reader, replication=False)}end\n"),
    )
    yield Step("it may connect here (needed where CONNECT was taken from PUBLIC)", do(kit_reader.connect_body(reader)))
    for schema in dict.fromkeys(schema for schema, _ in views):
        yield Step("looks names up in the views' schema", f"grant usage on schema {quoted(schema)} to {quoted(reader)}")
    for view in dict.fromkeys(views):
        yield Step(
            "and reads the views. This is all the row data that KPU can see",
            f"grant select on {quoted(*view)} to {quoted(reader)}",
        )


def pg_roles_removed(roles: Sequence[str], schema: str, views: Views) -> Step:
    return Step(
        "the grants, and the roles that the kit made (it left a comment on each)",
        do(kit_reader.drop_roles_body(roles, schema, views)),
    )


def pg_check_views(reader: str, views: Views) -> Step:
    """The self-check of a kit: a row for each fact, `ok` or not."""
    login = (
        f"select 'role ' || quote_ident({text(reader)}) as fact, exists (select from pg_roles"
        f" where rolname = {text(reader)} and rolcanlogin and not rolsuper and not rolreplication) as ok"
    )
    facts = [
        f"select 'view ' || {text(quoted(*view))}, coalesce(has_table_privilege({text(reader)},"
        f" to_regclass({text(quoted(*view))}), 'select'), false)"
        for view in dict.fromkeys(views)
    ]
    all_facts = " union all ".join([login, *facts])
    return Step(
        "self-check: every line should say ok",
        f"select fact, case when ok then 'ok' else 'NOT OK' end as state from ({all_facts}) facts",
    )


def pg_leftovers(roles: Sequence[str]) -> Step:
    return Step(
        "self-check: no row means that nothing is left; what the kit did not make stays, and shows here",
        "select 'role ' || quote_ident(rolname) as left_over from pg_roles"
        f" where rolname = any ({texts(tuple(roles))})",
    )


# ------------------------------------------------------------------------------------------- mariadb, mysql


def my_beginning() -> Iterator[Step]:
    yield Step("this file is UTF-8, whatever the client assumes", "set names utf8mb4")
    yield Step(
        "nobody's work waits longer than this for ours; if it is not enough, run the script again",
        f"set session lock_wait_timeout = {LOCK_TIMEOUT_S}",
    )
    yield Step("quotes and backslashes mean what this file means by them", "set session sql_mode = ''")


def my_reader(reader: str, views: Views) -> Iterator[Step]:
    yield Step(
        "what KPU logs in as. Locked: see the end. One that exists keeps its password",
        f"create user if not exists {account(reader)} with max_user_connections {READER_CONNECTIONS_MAX} account lock",
    )
    for view in dict.fromkeys(views):
        yield Step(
            "it reads the views, all the row data that KPU can see; and their text, to notice a changed filter",
            f"grant select, show view on {ticked(*view)} to {account(reader)}",
        )


def my_reader_removed(reader: str, relations: Sequence[tuple[str, str]]) -> Iterator[Step]:
    """Take back what was granted on `relations`; drop the account where the kit made it and it has nothing else."""
    for relation in dict.fromkeys(relations):
        condition = my_has_grant(reader, "table_privileges", table_schema=relation[0], table_name=relation[1])
        yield from my_where(
            condition, f"revoke all privileges on {ticked(*relation)} from {account(reader)}", "its grant, if there"
        )
    user, _, host = _user_host(reader)
    made = (
        f"exists (select 1 from mysql.user where user = {mytext(user)} and host = {mytext(host)}"
        f" and max_user_connections = {READER_CONNECTIONS_MAX})"
    )
    others = " or ".join((
        my_has_grant(reader, "user_privileges", but=("USAGE",)), my_has_grant(reader, "schema_privileges"),
        my_has_grant(reader, "table_privileges", but=("SELECT", "SHOW VIEW")),
    ))  # fmt: skip
    yield from my_where(
        f"{made} and not ({others})",
        f"drop user {account(reader)}",
        "the reader, where it has the kit's limit of connections and no right beyond reading single views",
    )


def my_where(condition: str, statement: str, why: str) -> Iterator[Step]:
    """A statement that is run only where something holds: plain SQL has no `if` outside of a procedure."""
    yield Step(why, f"set @sipol = if({condition}, {mytext(statement)}, 'do 0')")
    yield Step("put together", "prepare sipol from @sipol")
    yield Step("and run", "execute sipol")
    yield Step("done with it", "deallocate prepare sipol")


def my_has_grant(reader: str, catalogue: str, *, but: tuple[str, ...] = (), **where: str) -> str:
    user, _, host = _user_host(reader)
    grantee = f"'{user}'@'{host}'"
    wanted = [f"grantee = {mytext(grantee)}"]
    wanted += [f"{column} = {mytext(value)}" for column, value in where.items()]
    if but:
        wanted.append(f"privilege_type not in ({', '.join(map(mytext, but))})")
    return f"exists (select 1 from information_schema.{catalogue} where {' and '.join(wanted)})"


def _user_host(reader: str) -> tuple[str, str, str]:
    user, at, host = reader.rpartition("@")
    return (user, at, host) if at else (reader, "", "%")


def my_ending(reader: str) -> str:
    how = f"alter user {account(reader)} identified by '...' account unlock;"
    return f"NEXT, by hand, because a password belongs into no file:\n  {how}"


# --------------------------------------------------------------------------------------------------- sqlite


def lite_check_views(views: Views) -> Step:
    facts = " union all ".join(
        f"select {text(f'view {schema}.{name}')} as fact,"
        f" case when exists (select 1 from {quoted(schema)}.sqlite_master where name = {text(name)}"
        " and type = 'view') then 'ok' else 'NOT OK' end as state"
        for schema, name in dict.fromkeys(views)
    )
    return Step("SQLite has no logins: who may read the file may read all of it. Every line should say ok", facts)
