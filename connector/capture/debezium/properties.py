"""What Debezium is told, for each engine. No sockets, no JVM.

The same for all: no snapshot (the first copy is ours), no columns but keys, transactions with their ends, and nothing
retried inside (a child that fails is started anew, from our position).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, assert_never

from connector.capture.signals import Routes
from connector.errors import SourceMisconfigured

Engine = Literal["postgresql", "mysql", "mariadb", "mssql", "oracle"]

PREFIX: Final = "sipol"
# Only logical messages with this prefix reach us: other programs' may hold anything.
MESSAGE_PREFIX: Final = "sipol"
HEARTBEAT_MS: Final = 1_000
# A batch is one frame: large enough that crossings cost nothing, small enough for a heap of 256 MB.
BATCH_RECORDS: Final = 4_096
QUEUE_RECORDS: Final = 16_384
QUEUE_BYTES: Final = 32 << 20

CONNECTORS: Final[Mapping[Engine, str]] = {
    "postgresql": "io.debezium.connector.postgresql.PostgresConnector",
    "mysql": "io.debezium.connector.mysql.MySqlConnector",
    "mariadb": "io.debezium.connector.mariadb.MariaDbConnector",
    "mssql": "io.debezium.connector.sqlserver.SqlServerConnector",
    "oracle": "io.debezium.connector.oracle.OracleConnector",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the party's server listens, and who we are there. `more` are properties of this engine's own."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str = ""
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Followed:
    """A base table, and the columns of it that any route needs."""

    schema: str
    name: str
    columns: tuple[str, ...]


def followed(routes: Routes) -> tuple[Followed, ...]:
    """The tables that the routes name, each once.

    Raises:
        SourceMisconfigured: Debezium has no way to be told of such a name, or would mix two tables up.
    """
    tables = tuple(
        Followed(
            schema, name, tuple(dict.fromkeys(pair[1] for route in found for pair in (*route.key, *route.match)))
        )
        for (schema, name), found in routes.items()
    )  # fmt: skip
    topics: dict[str, str] = {}
    for table in tables:
        _refuse_bad_columns(table)
        full = f"{table.schema}.{table.name}"
        first = topics.setdefault(topic(table), full)
        if first != full:
            raise SourceMisconfigured(
                f"Debezium cannot tell {full} from {first}", hint="follow this party by another way of capture"
            )
    return tables


def _refuse_bad_columns(table: Followed) -> None:
    # Debezium splits its list of key columns at these, and knows no way around it.
    bad = [name for name in table.columns if any(letter in ":;, \t\n" for letter in name)]
    if bad:
        raise SourceMisconfigured(
            f"Debezium cannot be told of column {', '.join(bad)} of {table.schema}.{table.name}",
            hint="follow this party by another way of capture",
        )


def topic(table: Followed, database: str = "") -> str:
    """The topic of a table's events, as Debezium spells it."""
    parts = (PREFIX, database, table.schema, table.name) if database else (PREFIX, table.schema, table.name)
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_"
                   for letter in ".".join(parts))  # fmt: skip


def pattern(*names: str) -> str:
    """A regular expression (Java's) that fits just these names, joined by dots. No comma, blank or colon is in it."""
    return "\\.".join(
        "".join(letter if letter.isascii() and (letter.isalnum() or letter == "_") else f"\\x{{{ord(letter):x}}}"
                for letter in name)
        for name in names
    )  # fmt: skip


def _common(engine: Engine, endpoint: Endpoint, tables: Sequence[Followed], database: str = "") -> dict[str, str]:
    named = [(database, table.schema) if database else (table.schema,) for table in tables]
    keyed = [(name, table) for name, table in zip(named, tables, strict=True) if table.columns]
    return {
        "name": PREFIX,
        "connector.class": CONNECTORS[engine],
        "topic.prefix": PREFIX,
        "database.hostname": endpoint.host,
        "database.port": str(endpoint.port),
        "database.user": endpoint.user,
        "database.password": endpoint.password,
        "table.include.list": ",".join(
            pattern(*name, table.name) for name, table in zip(named, tables, strict=True)
        ),
        # The key of an event is what the routes need, whatever the primary key is.
        "message.key.columns": ";".join(
            f"{pattern(*name, table.name)}:{','.join(table.columns)}" for name, table in keyed
        ),
        "snapshot.mode": "no_data",
        "tombstones.on.delete": "false",
        "skipped.operations": "none",
        "provide.transaction.metadata": "true",
        # The one header that is left says that a row was parted in two because its key changed.
        "extended.headers.enabled": "false",
        "heartbeat.interval.ms": str(HEARTBEAT_MS),
        "poll.interval.ms": "20",
        "max.batch.size": str(BATCH_RECORDS),
        "max.queue.size": str(QUEUE_RECORDS),
        "max.queue.size.in.bytes": str(QUEUE_BYTES),
        "errors.max.retries": "0",
        "decimal.handling.mode": "string",
        "binary.handling.mode": "bytes",
        "time.precision.mode": "adaptive_time_microseconds",
    }  # fmt: skip


# For the engine that runs a connector; the connector's own definitions do not know them.
ENGINE: Final[Mapping[str, str]] = {
    "offset.flush.interval.ms": "0",
    "key.converter.schemas.enable": "true",
    "value.converter.schemas.enable": "false",
}
# PostgreSQL's slot is where its log goes on, so no offset is kept at all: searching for one has lost events
# (Debezium's own issues 76, 51 and 1554).
IN_MEMORY: Final[Mapping[str, str]] = {
    **ENGINE, "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
}  # fmt: skip


def postgresql(endpoint: Endpoint, slot: str, publication: str, tables: Sequence[Followed]) -> dict[str, str]:
    """For a slot and a publication that the kit made; the publication alone says which columns travel."""
    return {
        **_common("postgresql", endpoint, tables),
        "database.dbname": endpoint.database,
        "plugin.name": "pgoutput",
        "slot.name": slot,
        "slot.drop.on.stop": "false",
        "slot.max.retries": "5",
        "slot.retry.delay.ms": "1000",
        "publication.name": publication,
        "publication.autocreate.mode": "disabled",
        "message.prefix.include.list": MESSAGE_PREFIX,
        **endpoint.more,
    }


def others(engine: Engine, endpoint: Endpoint, tables: Sequence[Followed], server_id: int) -> dict[str, str]:
    """For an engine whose log is read without a slot. Its log goes on where an offset and a history of schemas say."""
    common = _common(engine, endpoint, tables)
    if engine == "mssql":
        common["message.key.columns"] = _common(engine, endpoint, tables, endpoint.database)["message.key.columns"]
    history = {
        "schema.history.internal": "io.debezium.storage.file.history.FileSchemaHistory",
        "schema.history.internal.store.only.captured.tables.ddl": "true",
        "schema.history.internal.file.filename": "schemas.dat",
    }
    return {**common, **_own(engine, endpoint, server_id), **history, **endpoint.more}


def _own(engine: Engine, endpoint: Endpoint, server_id: int) -> dict[str, str]:
    match engine:
        case "mysql" | "mariadb":
            # A lock on every table, as the default would take, is no business of ours: only structures are read.
            return {"database.server.id": str(server_id), "snapshot.locking.mode": "none"}
        case "mssql":
            # The default isolation locks the tables while their structures are read.
            return {"database.names": endpoint.database, "snapshot.isolation.mode": "read_committed"}
        case "oracle":
            return {"database.dbname": endpoint.database, "log.mining.strategy": "hybrid"}
        case "postgresql":
            raise AssertionError("PostgreSQL has a slot")
        case _:
            assert_never(engine)
