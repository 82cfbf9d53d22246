"""What `check` examines: the staging database, and each party's database against its mapping and limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import psycopg

from connector.capture.debezium import preflight as debezium
from connector.capture.finding import Finding, error, ok, warning
from connector.capture.mysql.preflight import examine_log
from connector.capture.polling.preflight import examine as examine_sql
from connector.capture.postgres.expectations import MEGABYTE, CheckMode, Expectations, ExpectedTable, ExpectedView
from connector.capture.postgres.kit_request import Mode
from connector.capture.postgres.preflight import examine
from connector.capture.sqltext import MYSQLS
from connector.errors import StagingError, StagingIncompatible, StagingUnavailable, UsageError
from connector.mapping import check as mapping_check
from connector.mapping import document
from connector.mapping.rules import Document, Lineage
from connector.ops import certificates, lineage
from connector.ops.kit import outbox_request
from connector.settings import Party
from connector.staging import migrate, session

# Debezium reads a slot through a walsender: what a stream of ours needs, and gives away, is the same.
MODES: Mapping[str, Mode] = {"pull": "pull", "stream": "stream", "debezium": "stream"}
# Ways of capture that ask the views alone: no base table is followed.
UNROUTED = frozenset({"cursor", "diff"})
# As the alert has it: time for a party's DBA to have a certificate signed.
CERTIFICATE_DAYS = 21
POLLED_ENGINES = ("postgresql", "mariadb", "mysql", "sqlite")


def check_party(party: Party) -> tuple[Finding, ...]:
    """Examine one party's database.

    Raises:
        UsageError: the mapping or the dsn cannot be used, or nothing is known of this way of capture.
    """
    mapping = document.load(party.mapping)
    found: lineage.Found = ()
    if party.source.capture not in UNROUTED:
        mapping, found, _ = lineage.complete(party, mapping, "sipol-connector check")
    expected = expectations(party, mapping)
    ask = examine if party.source.engine == "postgresql" else examine_sql
    dsn = party.source.dsn.reveal()
    logged = examine_log(dsn, expected.views) if _has_binlog(party) else ()
    certificate = server_certificate(party.name, party.source.engine, dsn, datetime.now(UTC))
    ours = debezium.examine(dsn) if party.source.capture == "debezium" else ()
    return _party_rules(party, mapping) + _lineage(found) + ours + ask(dsn, expected) + logged + certificate


def expectations(party: Party, mapping: Document) -> Expectations:
    """What the party's database should offer, from its mapping and configuration."""
    views = tuple(
        ExpectedView(
            entity=entity.name,
            schema=entity.view[0],
            name=entity.view[1],
            key=entity.key,
            columns=tuple(dict.fromkeys([*mapping_check.inputs(entity), *_matched(entity.lineage)])),
            lineage=tuple(
                ExpectedTable(*line.table, key=tuple(line.key.items()), match=tuple(line.match.items()))
                for line in entity.lineage
            ),
        )
        for entity in mapping.entities.values()
    )
    return Expectations(
        mode=_check_mode(party),
        slot=party.source.slot,
        publication=party.source.publication,
        views=views,
        lag_warn_bytes=party.limits.lag_warn_mb * MEGABYTE,
        lag_drop_bytes=party.limits.lag_drop_mb * MEGABYTE,
        outbox=outbox_request(party, mapping) if _has_outbox(party, mapping) else None,
        cursor=party.source.cursor.column if party.source.cursor is not None else None,
        diff_every_s=party.source.diff_every_s,
    )


def _has_outbox(party: Party, mapping: Document) -> bool:
    """Whether the change table can be named: what keeps it from that is a finding already."""
    return (
        party.source.capture == "outbox"
        and mapping.party == party.name
        and all(entity.lineage for entity in mapping.entities.values())
    )


def _has_binlog(party: Party) -> bool:
    return party.source.capture == "stream" and party.source.engine in MYSQLS


def _check_mode(party: Party) -> CheckMode:
    match party.source.capture:
        case "stream" if _has_binlog(party):
            return "stream"
        case "outbox" | "cursor" | "diff" as polled:
            if party.source.engine in POLLED_ENGINES:
                return polled
    return capture_mode(party)


def capture_mode(party: Party) -> Mode:
    """The party's way of capture, where there is a kit and a preflight for it.

    Raises:
        UsageError: there is none.
    """
    if party.source.engine == "postgresql" and party.source.capture in MODES:
        return MODES[party.source.capture]
    raise UsageError(
        f"`{party.source.capture}` of {party.source.engine} has no kit and no check yet",
        hint="every engine's outbox, cursor and diff have; postgresql's pull, stream, debezium; mariadb's stream",
        place=party.name,
    )


def _lineage(found: lineage.Found) -> tuple[Finding, ...]:
    """What is behind the views and can be followed by no path, and what is declared against the catalogue."""
    remedy = "`connector lineage PARTY` shows all paths; correct `lineage:` in the mapping, or rely on the compares"
    return tuple(
        warning("LINEAGE_DOUBTFUL", one.entity, f"{remark.what} {remark.why}", remedy)
        for one in found
        for remark in one.remarks
        # A table that the mapping declares is vouched for; MariaDB rightly hides it from a reader without a right.
        if remark.what not in {".".join(line.table) for line in one.mapped.declared}
    )


def _matched(lineage: tuple[Lineage, ...]) -> Iterator[str]:
    for line in lineage:
        yield from line.match


def _party_rules(party: Party, mapping: Document) -> tuple[Finding, ...]:
    """What the files say without asking the server."""
    found = []
    if mapping.party != party.name:
        said = f"the mapping is for party {mapping.party}"
        found.append(
            error(
                "MAPPING_PARTY", party.name, said, "correct `party:` in the mapping, or `mapping:` in the configuration"
            )
        )
    needs_lineage = party.source.capture not in UNROUTED
    for entity in mapping.entities.values():
        if needs_lineage and not entity.lineage:
            said = "has no lineage: no change in the party's tables would be seen"
            found.append(error("NO_LINEAGE", entity.name, said, "name the base tables of its view under `lineage:`"))
    return tuple(found)


def server_certificate(place: str, engine: str, dsn: str, now: datetime) -> tuple[Finding, ...]:
    """Whether the certificate of a server, where it has one, is good for a while."""
    end = certificates.end_of(engine, dsn)
    if end is None or end - now.timestamp() > CERTIFICATE_DAYS * 86_400:
        return ()
    said = f"the server's certificate ends on {datetime.fromtimestamp(end, UTC):%Y-%m-%d}: then we are refused"
    remedy = "a new one for the same name; where its issuer is another, a new file for sslrootcert"
    return (warning("CERTIFICATE_ENDS", place, said, remedy),)


# ------------------------------------------------------------------------------------------------- staging


def check_staging(dsn: str) -> tuple[Finding, ...]:
    """Examine our own database: reachable, new enough, migrated, ours to write, durable and discreet."""
    try:
        with session.connect(dsn, application="sipol-connector check") as conn, session.translated("checking staging"):
            return tuple(_staging(conn)) + server_certificate("staging", "postgresql", dsn, datetime.now(UTC))
    except StagingUnavailable as exc:
        return (error("STAGING_UNREACHABLE", "staging", exc.message, exc.hint),)
    except StagingError as exc:
        return (error("STAGING_NOT_EXAMINED", "staging", exc.message, exc.hint),)


def _staging(conn: psycopg.Connection) -> Iterator[Finding]:
    version = conn.info.server_version
    if version < migrate.SERVER_VERSION_MIN:
        said = f"PostgreSQL {version // 10000}, and the mapping program needs {migrate.SERVER_VERSION_MIN // 10000}"
        yield error("STAGING_TOO_OLD", "staging", said, "move staging to a newer server")
        return
    yield ok("STAGING_SERVER", "staging", f"PostgreSQL {conn.info.parameter_status('server_version')}")
    try:
        migrate.require(conn)
    except StagingIncompatible as exc:
        yield error("STAGING_SCHEMA", "staging", exc.message, exc.hint)
        return
    yield ok("STAGING_SCHEMA", "staging", f"schema version {migrate.expected()}")
    yield from _privileges(conn)
    yield from _settings(conn)


# What the daemon does: rows everywhere of ours, but audit entries are only added.
_LACKING = r"""
select n.nspname || '.' || c.relname
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where n.nspname in ('staging', 'connector', 'audit') and c.relkind in ('r', 'p') and not c.relispartition
   and not (has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')
            and (c.relname in ('migration', 'grants') or c.relname like 'ref\_%'
                 or has_table_privilege(c.oid, 'insert')
                    and (n.nspname = 'audit' or has_table_privilege(c.oid, 'update'))))
 order by 1
"""

# Only the owner of a partitioned table may add a partition, and a new party needs eight of them: functions do it.
_NOT_OWNED = """
select p.proname::text
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
 where n.nspname = 'connector' and p.proname in ('begin_partition', 'attach_partition')
   and not (has_schema_privilege(n.oid, 'usage') and has_function_privilege(p.oid, 'execute'))
 order by 1
"""


def _privileges(conn: psycopg.Connection) -> Iterator[Finding]:
    lacking = [name for (name,) in conn.execute(_LACKING).fetchall()]
    not_owned = [name for (name,) in conn.execute(_NOT_OWNED).fetchall()]
    if lacking:
        remedy = "grant sipol_daemon to our role"
        yield error("STAGING_DENIED", "staging", f"our role may not write {_some(lacking)}", remedy)
    if not_owned:
        remedy = "grant sipol_daemon to our role"
        said = f"our role cannot add a party's partitions (connector.{_some(not_owned)})"
        yield error("STAGING_NOT_OWNER", "staging", said, remedy)
    if not lacking and not not_owned:
        yield ok("STAGING_ROLE", "staging", "our role may do what it has to")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# name, values that are wrong, code, what happens, remedy
_WISHES: tuple[tuple[str, frozenset[str], str, str, str], ...] = (
    (
        "fsync",
        frozenset({"off"}),
        "STAGING_FSYNC",
        "a power cut can take back what the parties were told is safe",
        "alter system set fsync = on; then reload",
    ),
    (
        "synchronous_commit",
        frozenset({"off"}),
        "STAGING_ASYNC_COMMIT",
        "a crash can take back what the parties were told is safe",
        "alter role ... set synchronous_commit = on;",
    ),
    (
        "log_error_verbosity",
        frozenset({"default", "verbose"}),
        "STAGING_LOG_VERBOSE",
        "an error's DETAIL writes row values, NIK among them, into the server's log",
        "alter system set log_error_verbosity = terse; then reload",
    ),
    (
        "log_parameter_max_length_on_error",
        frozenset({"-1"}),
        "STAGING_LOG_PARAMETERS",
        "an error writes statement parameters into the server's log",
        "alter system set log_parameter_max_length_on_error = 0; then reload",
    ),
)


def _settings(conn: psycopg.Connection) -> Iterator[Finding]:
    for name, wrong, code, message, remedy in _WISHES:
        row = conn.execute("select setting from pg_settings where name = %s", (name,)).fetchone()
        if row is not None and row[0] in wrong:
            yield warning(code, "staging", f"{name} = {row[0]}: {message}", remedy)
