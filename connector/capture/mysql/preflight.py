"""What a MariaDB or MySQL server's binary log lacks, or gives away, for mode `stream`: one question after another.

Only what concerns the log; who may read which view, keys and plans are asked about with every other mode's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from connector.capture.finding import Finding, error, ok, warning
from connector.capture.mysql.dump import BinlogDump
from connector.capture.mysql.server import NEEDED, BinlogServer
from connector.capture.mysql.values import family
from connector.capture.postgres.expectations import ExpectedView
from connector.errors import PositionLost, SourceError
from connector.sqldb.engines import Options

KIT = "the party's DBA runs the kit's SQL: `connector kit PARTY --mode stream`"
# What each of `server.NEEDED` is called when it will not do.
CODES = {
    "log_bin": "BINLOG_OFF", "binlog_format": "BINLOG_FORMAT", "binlog_row_image": "BINLOG_ROW_IMAGE",
    "binlog_row_metadata": "BINLOG_ROW_METADATA", "gtid_mode": "GTID_MODE",
    "binlog_transaction_compression": "BINLOG_PACKED",
}  # fmt: skip
# A long weekend without us, and then some.
RETENTION_S_MIN = 5 * 86_400
# How long the dump's first word is waited for.
ANSWER_S = 20.0


def examine_log(url: str, followed: Sequence[ExpectedView]) -> tuple[Finding, ...]:
    """Look at the server's log with the reader's eyes.

    Raises:
        UsageError: the URL cannot be used.
    """
    options = Options("sipol-connector check", 10.0)
    try:
        with closing(BinlogServer(url, options)) as server:
            return tuple(_examine(server, url, options, followed))
    except SourceError as exc:
        return (error("BINLOG_NOT_EXAMINED", "server", exc.message, exc.hint),)


def _examine(server: BinlogServer, url: str, options: Options, followed: Sequence[ExpectedView]) -> Iterator[Finding]:
    lacking = list(_settings(server))
    yield from lacking or [ok("BINLOG_SETTINGS", "server", "the log says what must be known")]
    yield from _retention(server)
    yield from _safety(server)
    yield from _filters(server, followed)
    yield from _keys(server, followed)
    if not lacking:
        yield _sent(server, url, options)
    yield _reveals(server)


def _settings(server: BinlogServer) -> Iterator[Finding]:
    for name, good, why in NEEDED:
        value = server.setting(name)
        if value is None and name == "binlog_row_metadata":
            yield error(
                "BINLOG_NO_NAMES", "server", "its binary log has no column names: MariaDB before 10.5, MySQL before 8",
                "upgrade the server, or `capture: outbox`",
            )  # fmt: skip
        elif value is not None and value.upper() not in good:
            want = min(good)
            how = "log_bin = binlog; under [mysqld], and a restart" if name == "log_bin" else (
                f"set global {name} = {want}; and under [mysqld]; sessions that are open keep what they had"
            )  # fmt: skip
            yield error(CODES[name], "server", f"{name} = {value}: {why}", how)


def _retention(server: BinlogServer) -> Iterator[Finding]:
    seconds = float(server.setting("binlog_expire_logs_seconds") or 0)
    days = float(server.setting("expire_logs_days") or 0)
    kept_s = seconds or days * 86_400
    remedy = "set global binlog_expire_logs_seconds = 604800; and under [mysqld]"
    if not kept_s:
        said = "binary logs are never purged by time: they fill the disk, or are purged by hand"
        yield warning("BINLOG_RETENTION", "server", said, remedy)
    elif kept_s < RETENTION_S_MIN:
        said = f"binary logs are kept for {kept_s / 3600:.0f} hours: were we away for longer, all is copied again"
        yield warning("BINLOG_RETENTION", "server", said, remedy)
    else:
        yield ok("BINLOG_RETENTION", "server", f"binary logs are kept for {kept_s / 86_400:.0f} days")


def _safety(server: BinlogServer) -> Iterator[Finding]:
    if server.setting("server_id") == "0":
        yield error(
            "SERVER_ID", "server", "server_id = 0: nobody can replicate from it", "server_id = 1 under [mysqld]"
        )
    if server.setting("sync_binlog") not in ("1", None):
        said = "sync_binlog is not 1: after a crash the log may lack what we have read, and all is copied again"
        yield warning("BINLOG_NOT_SYNCED", "server", said, "set global sync_binlog = 1; and under [mysqld]")
    if server.setting("gtid_strict_mode") == "OFF":
        said = "gtid_strict_mode = OFF: a replica that takes over may number transactions in another way"
        yield warning("GTID_NOT_STRICT", "server", said, "set global gtid_strict_mode = ON; and under [mysqld]")
    if server.is_replica and (server.setting("log_slave_updates") or server.setting("log_replica_updates")) == "OFF":
        said = "it is a replica that does not log what it replicates: nothing of it would be seen"
        yield error("REPLICA_SILENT", "server", said, "log_slave_updates = ON under [mysqld], and a restart")


def _filters(server: BinlogServer, followed: Sequence[ExpectedView]) -> Iterator[Finding]:
    only, never = server.filters()
    for schema in sorted({table.schema for one in followed for table in one.lineage}):
        if (only and schema not in only) or schema in never:
            said = f"changes of database {schema} are not logged (binlog_do_db, binlog_ignore_db)"
            yield error("BINLOG_FILTERED", schema, said, "take the filter out of the server's configuration")


def _keys(server: BinlogServer, followed: Sequence[ExpectedView]) -> Iterator[Finding]:
    found = server.types({one.entity: (one.schema, one.name) for one in followed})
    for one in followed:
        types = found[one.entity]
        for table in one.lineage:
            pairs = table.key or table.match
            untold = [shown for shown, _ in pairs if types and not family(types.get(shown, ""))]
            if untold:
                said = f"{', '.join(untold)} has a type whose text the log does not give: each change reads all of it"
                remedy = "show a key of whole numbers, text, dates or bytes; or `capture: outbox`"
                yield warning("KEY_NOT_IN_LOG", f"{one.entity} from {table.schema}.{table.name}", said, remedy)
            elif not pairs:
                said = f"a change of {table.schema}.{table.name} has the whole view read: no path leads to the key"
                yield ok("NO_KEY_PATH", one.entity, said)


def _sent(server: BinlogServer, url: str, options: Options) -> Finding:
    """Have the log sent, as the daemon will."""
    try:
        gtids, place = server.shown()
        with closing(BinlogDump(url, options, gtids)) as dump:
            if not dump.receive(ANSWER_S):
                return error("BINLOG_SILENT", "server", "it does not begin to send its log", "see its error log")
    except PositionLost as exc:
        return error("BINLOG_REFUSED", "server", exc.message, "see the server's error log")
    except SourceError as exc:
        return error("BINLOG_DENIED", "server", exc.message, exc.hint or KIT)
    return ok("BINLOG_SENT", "server", f"sends its log from {gtids.text() or 'its beginning'} ({place.file}) on")


def _reveals(server: BinlogServer) -> Finding:
    if server.is_replica:
        said = "this login can read all that this replica logs: it should hold the shared tables only"
        return ok("BINLOG_REVEALS", "server", said)
    return warning(
        "BINLOG_REVEALS", "server", "this login can read every column of every table that this server logs",
        "follow a relay replica that holds the shared tables only, or use `capture: outbox` (see the kit)",
    )  # fmt: skip
