"""The kit of mode `stream` for MariaDB and MySQL: a login that reads the binary log, as SQL that a DBA reviews. Pure.

First, do no harm: it changes no setting, no table and no view. A server whose log would not do is refused, with the
lines for its configuration; so is one that holds other tables than the shared ones, unless that risk is accepted: a
replication login reads every column of every table that the server logs, whatever else it is granted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from connector.capture.mysql.server import NEEDED
from connector.capture.polling import reader
from connector.capture.sqltext import Engine, Step, account, mytext, refuse_bad_names
from connector.errors import UsageError

# What the reader is granted on the whole server, and why. Every one of them is taken back.
GRANTS: dict[Engine, tuple[tuple[str, str], ...]] = {
    "mariadb": (
        ("replication slave", "has the binary log sent: which keys changed, in the order of the commits"),
        ("binlog monitor", "sees which log files there are: a purged or foreign log is told from a quiet one"),
    ),
    "mysql": (
        ("replication slave", "has the binary log sent: which keys changed, in the order of the commits"),
        ("replication client", "sees which log files there are: a purged or foreign log is told from a quiet one"),
    ),
}  # fmt: skip
# As the catalogue writes them.
GRANTED = frozenset(grant.upper() for grants in GRANTS.values() for grant, _ in grants)
# What `[mysqld]` should say, and why; the first part is what the kit refuses to go without.
SETTINGS: tuple[tuple[str, str], ...] = (
    ("log_bin = binlog", "the log that is followed; needs a restart"),
    ("server_id = 1", "a number of this server's own among its replicas; never 0"),
    ("binlog_format = ROW", "statements do not say which rows they changed"),
    ("binlog_row_image = FULL", "a shorter image may leave the key out"),
    ("binlog_row_metadata = FULL", "column names in the log: without them a column that moves is taken for another"),
    ("binlog_expire_logs_seconds = 604800", "a week: a purged log costs a full copy (MariaDB 10.5: expire_logs_days)"),
    ("sync_binlog = 1", "a crash must not take back what the log has told"),
)  # fmt: skip
GTID_SETTINGS: dict[Engine, tuple[tuple[str, str], ...]] = {
    "mariadb": (("gtid_strict_mode = ON", "a replica that takes over has the same numbers for the same transactions"),),
    "mysql": (
        ("gtid_mode = ON", "only by GTID can we go on after a failover"),
        ("enforce_gtid_consistency = ON", "gtid_mode needs it"),
    ),
}  # fmt: skip
ASKED: dict[Engine, frozenset[str]] = {
    "mariadb": frozenset({"log_bin", "binlog_format", "binlog_row_image", "binlog_row_metadata"}),
    "mysql": frozenset({"log_bin", "binlog_format", "binlog_row_image", "binlog_row_metadata", "gtid_mode"}),
}
_VARIABLES: dict[Engine, str] = {
    "mariadb": "information_schema.global_variables", "mysql": "performance_schema.global_variables",
}  # fmt: skip
_SYSTEM = "'mysql', 'information_schema', 'performance_schema', 'sys'"
Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class BinlogRequest:
    """`reader` is `user@host`; `tables` are the base tables of the lineage."""

    party: str
    engine: Engine
    reader: str
    tables: tuple[Place, ...]
    views: tuple[Place, ...]
    accept_risk: bool = False


def kit_steps(request: BinlogRequest) -> tuple[Step, ...]:
    """What lets the reader in; running it again changes nothing.

    Raises:
        UsageError: a name cannot be used, or there is no view.
    """
    _refuse(request)
    return tuple(_steps(request))


def _steps(request: BinlogRequest) -> Iterator[Step]:
    yield from reader.my_beginning()
    for name, good, why in NEEDED:
        if name not in ASKED[request.engine]:
            continue
        values = ", ".join(mytext(value) for value in sorted(good))
        there = f"variable_name = {mytext(name)} and upper(variable_value) in ({values})"
        yield from _refused(
            request,
            f"not exists (select 1 from {_VARIABLES[request.engine]} where {there})",
            f"{name} will not do",
            why,
        )
    if not request.accept_risk:
        shared = ", ".join(f"({mytext(schema)}, {mytext(name)})" for schema, name in dict.fromkeys(request.tables))
        yield from _refused(
            request,
            "exists (select 1 from information_schema.tables where table_type = 'BASE TABLE'"
            f" and table_schema not in ({_SYSTEM}) and (table_schema, table_name) not in ({shared}))",
            "other tables than the shared ones are here",
            "a replication login would read them all: run this on a relay replica, or take the risk (--accept-risk)",
        )
    yield from reader.my_reader(request.reader, request.views)
    for grant, why in GRANTS[request.engine]:
        yield Step(why, f"grant {grant} on *.* to {account(request.reader)}")
    yield _cascades(request)


def _refused(request: BinlogRequest, condition: str, message: str, why: str) -> Iterator[Step]:
    """End the script where something holds."""
    if request.engine == "mariadb":
        ends = f"signal sqlstate '45000' set message_text = {mytext('sipol refuses: ' + message)}"
    else:
        # MySQL does not prepare a SIGNAL; a name that is not there carries the message as well.
        ends = f"select 1 from `sipol refuses: {message[:48]}`"
    yield from reader.my_where(condition, ends, f"refuses where {message}: {why}")


def _cascades(request: BinlogRequest) -> Step:
    tables = ", ".join(f"({mytext(schema)}, {mytext(name)})" for schema, name in dict.fromkeys(request.tables))
    return Step(
        "shows what no binary log does: foreign keys that change rows by themselves. Such a change is found by the"
        " next scheduled compare; where that is too late, name the parent table under the view's `lineage:`",
        "select constraint_schema, table_name, referenced_table_name, delete_rule, update_rule"
        " from information_schema.referential_constraints"
        " where (delete_rule in ('CASCADE', 'SET NULL') or update_rule in ('CASCADE', 'SET NULL'))"
        f" and (constraint_schema, table_name) in ({tables})",
    )


def removal_steps(request: BinlogRequest) -> tuple[Step, ...]:
    """What takes it back: the rights on the server first, then the views, then the account."""
    _refuse(request)
    steps = [*reader.my_beginning()]
    for grant, _ in GRANTS[request.engine]:
        steps += reader.my_where(
            reader.my_has_grant(request.reader, "user_privileges", privilege_type=grant.upper()),
            f"revoke {grant} on *.* from {account(request.reader)}", "its right, if there",
        )  # fmt: skip
    return (*steps, *reader.my_reader_removed(request.reader, request.views))


def heading(request: BinlogRequest, *, remove: bool) -> str:
    """What the script is, for the person who is to run it."""
    if remove:
        return f"Sipol connector: takes back the kit of party {request.party}, mode stream."
    settings = [f"    {line:<40} # {why}" for line, why in (*SETTINGS, *GTID_SETTINGS[request.engine])]
    return "\n".join([
        f"Sipol connector: kit for party {request.party}, mode stream on {request.engine}.",
        "For the DBA to read, then to run as root: `mariadb < THIS_FILE`. The first refusal ends it.",
        f"It may be run again at any time. `connector kit {request.party} --mode stream --remove` takes it back.",
        "",
        "WHAT THIS GIVES AWAY: EVERYTHING THAT THIS SERVER LOGS. A replication login reads every change of every",
        "column of every table, back to the oldest binary log, whatever else it is granted. So mode `stream` is for a",
        "relay replica: a small server of your own that replicates the shared tables only (replicate_wild_do_table)",
        "and logs them again (log_slave_updates). On your main server use mode `outbox`.",
        "The connector itself keeps key columns only, and reads rows through the views named below.",
        "It changes no setting, no table and no view. The server's configuration should say, under [mysqld]:",
        *settings,
        reader.my_ending(request.reader),
    ])  # fmt: skip


def _refuse(request: BinlogRequest) -> None:
    refuse_bad_names((request.reader, *(part for place in (*request.views, *request.tables) for part in place)))
    if not request.views:
        raise UsageError("no view to read", hint="the mapping names one for each entity", place=request.party)
