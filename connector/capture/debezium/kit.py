"""The kit of `debezium` for engines without a slot: what the DBA grants, to be reviewed, and what Debezium is told.

Pure. PostgreSQL has its own (`capture/postgres/kit.py`, mode stream). For SQL Server and Oracle there is no server to
prove these on: the statements follow the manuals, the properties are checked by Debezium's own definitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from zlib import crc32

from connector.capture.debezium import properties
from connector.capture.debezium.properties import Endpoint, Engine, Followed
from connector.capture.sqltext import Step, account, quoted, refuse_bad_names, text, ticked

PASSWORD: Final = "${file:PASSWORD}"  # noqa: S105 - a placeholder, never a password
# Server ids of replicas are 32-bit numbers; ours stay away from the small ones that people give.
SERVER_ID_MIN: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class DebeziumRequest:
    """What one party's kit is about. `views` are what the reader may SELECT: schema and name."""

    party: str
    engine: Engine
    reader: str
    endpoint: Endpoint
    tables: tuple[Followed, ...]
    views: tuple[tuple[str, str], ...]


def kit_text(request: DebeziumRequest) -> str:
    """The script for the DBA, with the properties that go with it in its comments.

    Raises:
        UsageError: a name cannot be used.
    """
    _refuse(request)
    steps = _MAKING[request.engine](request)
    # A backslash escapes in a file of properties.
    lines = (f"--   {name}={value.replace(chr(92), chr(92) * 2)}\n" for name, value in sorted(told(request).items()))
    told_by = f"\n-- What Debezium is told, as a file of properties has it ({request.engine}):\n"
    return _script(request, _heading(request), steps) + told_by + "".join(lines)


def removal_text(request: DebeziumRequest) -> str:
    """The script that takes it back."""
    _refuse(request)
    heading = [f"Sipol connector: takes back the kit of party {request.party}, mode debezium."]
    return _script(request, heading, _REMOVING[request.engine](request))


def told(request: DebeziumRequest) -> Mapping[str, str]:
    """The properties, with a placeholder where the password goes."""
    endpoint = replace(request.endpoint, user=request.reader.partition("@")[0], password=PASSWORD)
    number = SERVER_ID_MIN + crc32(request.party.encode()) % 1_000_000_000
    return properties.others(request.engine, endpoint, request.tables, number)


def _refuse(request: DebeziumRequest) -> None:
    names = [request.reader, request.endpoint.database or "-"]
    for table in request.tables:
        names += [table.schema, table.name, *table.columns]
    for view in request.views:
        names += view
    refuse_bad_names(names)


def _heading(request: DebeziumRequest) -> list[str]:
    proved = {"mssql": "SQL Server", "oracle": "Oracle"}.get(request.engine)
    return [
        f"Sipol connector: kit for party {request.party}, mode debezium on {request.engine}.",
        f"For the DBA to read, then to run. `connector kit {request.party} --remove` takes it back.",
        "WHAT THIS GIVES AWAY: " + _GIVES[request.engine],
        *([f"This was never run on a server: try it on a copy of your {proved} first."] if proved else []),
        "NEXT, by hand, because a password belongs into no file: the reader's password.",
    ]


_GIVES: Final[Mapping[Engine, str]] = {
    "mariadb": "a replication login can read the whole server's binary log, every database and column of it.",
    "mysql": "a replication login can read the whole server's binary log, every database and column of it.",
    "mssql": "the columns named below, kept in change tables for as long as the clean-up job says; and the views.",
    "oracle": "LOGMINING and the dictionary's views show the whole database's redo, every schema of it.",
}


def _script(request: DebeziumRequest, heading: Sequence[str], steps: Iterator[Step]) -> str:
    end = {"mssql": "\ngo", "oracle": ";"}.get(request.engine, ";")
    body = "\n".join(f"-- {step.why}\n{step.sql}{end}\n" for step in steps)
    return "".join(f"-- {line}\n" for line in heading) + "\n" + body


# -------------------------------------------------------------------------------------------- MariaDB and MySQL


def _mysql(request: DebeziumRequest) -> Iterator[Step]:
    reader = account(request.reader)
    yield Step("the login; a limit on its sessions", f"create user if not exists {reader} with max_user_connections 8")
    yield Step("reads the binary log", f"grant replication slave, replication client on *.* to {reader}")
    if request.engine == "mariadb":
        yield Step("sees where the log stands", f"grant binlog monitor on *.* to {reader}")
    for table in request.tables:
        what = f" ({', '.join(ticked(name) for name in table.columns)})" if table.columns else ""
        rows = "of its rows only key columns can be read" if table.columns else "it has no key path, so all of it"
        yield Step(
            f"Debezium reads the structure of what it follows; {rows}",
            f"grant select{what} on {ticked(table.schema, table.name)} to {reader}",
        )
    for view in request.views:
        yield Step("and the views", f"grant select on {ticked(*view)} to {reader}")


def _mysql_removal(request: DebeziumRequest) -> Iterator[Step]:
    yield Step("with the login go its rights", f"drop user if exists {account(request.reader)}")


# --------------------------------------------------------------------------------------------------- SQL Server


def _bracketed(*names: str) -> str:
    return ".".join("[" + name.replace("]", "]]") + "]" for name in names)


def _capture(table: Followed) -> str:
    return f"sipol_{crc32(f'{table.schema}.{table.name}'.encode()):08x}"


def _mssql(request: DebeziumRequest) -> Iterator[Step]:
    database, reader = request.endpoint.database, request.reader
    yield Step("the right database", f"use {_bracketed(database)}")
    yield Step(
        "the change tables of SQL Server; its agent fills them and cleans them up",
        "if not exists (select 1 from sys.databases where name = db_name() and is_cdc_enabled = 1)"
        " exec sys.sp_cdc_enable_db",
    )
    yield Step(
        "who may read change tables",
        "if database_principal_id(N'sipol_cdc') is null create role [sipol_cdc]",
    )
    for table in request.tables:
        instance = _capture(table)
        columns = f", @captured_column_list = N{text(', '.join(_bracketed(name) for name in table.columns))}"
        yield Step(
            f"changes of {table.schema}.{table.name}: "
            + ("key columns only" if table.columns else "all columns, since the mapping names no key of it"),
            "if not exists (select 1 from cdc.change_tables"
            f" where capture_instance = N{text(instance)}) exec sys.sp_cdc_enable_table"
            f" @source_schema = N{text(table.schema)}, @source_name = N{text(table.name)},"
            f" @capture_instance = N{text(instance)}, @role_name = N'sipol_cdc', @supports_net_changes = 0"
            f"{columns if table.columns else ''}",
        )
    yield Step(
        "the login's user; the login itself is made by hand, with its password",
        f"if database_principal_id(N{text(reader)}) is null create user {_bracketed(reader)}"
        f" for login {_bracketed(reader)}",
    )
    yield Step("reads change tables", f"alter role [sipol_cdc] add member {_bracketed(reader)}")
    yield Step("and their dictionary", f"grant select on schema::cdc to {_bracketed(reader)}")
    yield Step("sees whether the agent runs", f"grant view database state to {_bracketed(reader)}")
    for view in request.views:
        yield Step("and reads the views", f"grant select on {_bracketed(*view)} to {_bracketed(reader)}")


def _mssql_removal(request: DebeziumRequest) -> Iterator[Step]:
    yield Step("the right database", f"use {_bracketed(request.endpoint.database)}")
    for table in request.tables:
        instance = text(_capture(table))
        yield Step(
            f"no more change table of {table.schema}.{table.name}",
            f"if exists (select 1 from cdc.change_tables where capture_instance = N{instance})"
            f" exec sys.sp_cdc_disable_table @source_schema = N{text(table.schema)},"
            f" @source_name = N{text(table.name)}, @capture_instance = N{instance}",
        )
    yield Step(
        "change capture altogether, where nobody else uses it",
        "if not exists (select 1 from cdc.change_tables) exec sys.sp_cdc_disable_db",
    )
    yield Step("with the user go its rights", f"drop user if exists {_bracketed(request.reader)}")
    yield Step("nobody needs it now", "drop role if exists [sipol_cdc]")


# ------------------------------------------------------------------------------------------------------- Oracle

_DICTIONARY: Final = (
    "V_$DATABASE", "V_$LOG", "V_$LOG_HISTORY", "V_$LOGMNR_LOGS", "V_$LOGMNR_CONTENTS", "V_$LOGMNR_PARAMETERS",
    "V_$LOGFILE", "V_$ARCHIVED_LOG", "V_$ARCHIVE_DEST_STATUS", "V_$TRANSACTION", "V_$MYSTAT", "V_$STATNAME",
)  # fmt: skip


def _group(table: Followed) -> str:
    return f"SIPOL_{crc32(f'{table.schema}.{table.name}'.encode()):08X}"


def _oracle(request: DebeziumRequest) -> Iterator[Step]:
    reader = quoted(request.reader)
    yield Step(
        "the log has to say which row changed. It needs ARCHIVELOG mode: `archive log list` shows it",
        "alter database add supplemental log data",
    )
    for table in request.tables:
        if table.columns:
            columns = ", ".join(quoted(name) for name in table.columns)
            yield Step(
                f"the keys of {table.schema}.{table.name} stand in the log of each of its changes",
                f"alter table {quoted(table.schema, table.name)} add supplemental log group {_group(table)}"
                f" ({columns}) always",
            )
    yield Step("the login; its password is set by hand", f"create user {reader} no authentication")
    for right in ("create session", "logmining", "select any transaction", "create table"):
        yield Step("what LogMiner asks of who reads it", f"grant {right} to {reader}")
    yield Step("the table that Debezium flushes the log with", f"alter user {reader} quota 10M on users")
    for package in ("dbms_logmnr", "dbms_logmnr_d"):
        yield Step("LogMiner itself", f"grant execute on sys.{package} to {reader}")
    for view in _DICTIONARY:
        yield Step("where the log stands", f"grant select on sys.{view} to {reader}")
    for table in request.tables:
        yield Step(
            "Debezium reads the structure of what it follows. Oracle has no smaller right: rows can be read too",
            f"grant select on {quoted(table.schema, table.name)} to {reader}",
        )
    for name in request.views:
        yield Step("and the views", f"grant select on {quoted(*name)} to {reader}")


def _oracle_removal(request: DebeziumRequest) -> Iterator[Step]:
    for table in request.tables:
        if table.columns:
            yield Step(
                f"the log of {table.schema}.{table.name} as it was",
                f"alter table {quoted(table.schema, table.name)} drop supplemental log group {_group(table)}",
            )
    yield Step(
        "with the login go its rights. Supplemental logging of the database stays: others may need it",
        f"drop user {quoted(request.reader)} cascade",
    )


_MAKING: Final = {"mariadb": _mysql, "mysql": _mysql, "mssql": _mssql, "oracle": _oracle}
_REMOVING: Final = {
    "mariadb": _mysql_removal, "mysql": _mysql_removal, "mssql": _mssql_removal, "oracle": _oracle_removal,
}  # fmt: skip
