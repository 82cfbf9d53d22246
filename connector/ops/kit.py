"""A party's kit from its mapping and configuration.

Which base tables it is about is looked up in the party's database where that answers; else the mapping must say.
"""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from connector.capture.debezium import properties
from connector.capture.debezium.kit import DebeziumRequest
from connector.capture.mysql.kit import BinlogRequest
from connector.capture.outbox.request import OutboxRequest, OutboxTable
from connector.capture.polling.kit import PolledMode, PolledRequest
from connector.capture.postgres.kit_request import KitRequest, KitTable, Mode
from connector.errors import ConfigError, UsageError
from connector.mapping.rules import Document
from connector.settings import Party

# What a dsn that cannot be read (its variable is not set here) or names no user leaves us with.
READER_DEFAULT = "sipol_ro"
# Where the kits put their objects in a PostgreSQL party's database.
OUTBOX_SCHEMA = "sipol"


def kit_request(
    party: Party, mapping: Document, mode: Mode, *, reader: str | None = None, accept_risk: bool = False
) -> KitRequest:
    """What the kit is about: all base tables of the lineage, all views of the mapping.

    Raises:
        UsageError: the mapping is another party's, or an entity has no lineage.
    """
    _refuse_strangers(party, mapping)
    tables = tuple(
        KitTable(*line.table, tuple((line.key or line.match).values()))
        for entity in mapping.entities.values()
        for line in entity.lineage
    )
    return KitRequest(
        party=party.name,
        mode=mode,
        slot=party.source.slot,
        publication=party.source.publication,
        reader=reader or reader_of(party),
        tables=tables,
        views=tuple(dict.fromkeys(entity.view for entity in mapping.entities.values())),
        accept_risk=accept_risk,
    )


def outbox_request(party: Party, mapping: Document, *, reader: str | None = None) -> OutboxRequest:
    """What the outbox kit is about: each base table of the lineage once, with all columns any entity needs of it.

    Raises:
        UsageError: the mapping is another party's, an entity has no lineage, or the engine has no triggers of ours.
    """
    _refuse_strangers(party, mapping)
    columns: dict[tuple[str, str], dict[str, None]] = {}
    for entity in mapping.entities.values():
        for line in entity.lineage:
            columns.setdefault(line.table, {}).update(dict.fromkeys((line.key or line.match).values()))
    views = tuple(dict.fromkeys(entity.view for entity in mapping.entities.values()))
    match party.source.engine:
        case "postgresql" | "mariadb" | "mysql" | "sqlite" as engine:
            schema = OUTBOX_SCHEMA if engine == "postgresql" else views[0][0]
        case engine:
            raise UsageError(f"there is no outbox kit for {engine}", hint="capture: cursor or diff", place=party.name)
    matched = {line.table for entity in mapping.entities.values() for line in entity.lineage if line.match}
    tables = tuple(OutboxTable(*table, tuple(names), table in matched) for table, names in columns.items())
    return OutboxRequest(engine, schema, party.source.slot, reader or reader_of(party), tables, views, party.name)


def debezium_request(party: Party, mapping: Document, *, reader: str | None = None) -> DebeziumRequest:
    """What the kit of an engine without a slot is about: the tables of the lineage, and where the server is.

    Raises:
        UsageError: the mapping is another party's, an entity has no lineage, or Debezium follows no such engine.
    """
    _refuse_strangers(party, mapping)
    columns: dict[tuple[str, str], dict[str, None]] = {}
    for entity in mapping.entities.values():
        for line in entity.lineage:
            columns.setdefault(line.table, {}).update(dict.fromkeys((line.key or line.match).values()))
    match party.source.engine:
        case "mariadb" | "mysql" | "mssql" | "oracle" as engine:
            tables = tuple(properties.Followed(*table, tuple(names)) for table, names in columns.items())
            views = tuple(dict.fromkeys(entity.view for entity in mapping.entities.values()))
            name = reader or reader_of(party)
            return DebeziumRequest(party.name, engine, name, _endpoint_of(party), tables, views)
        case engine:
            raise UsageError(f"Debezium does not follow {engine}", hint="capture: outbox or diff", place=party.name)


_PORTS = {"mariadb": 3306, "mysql": 3306, "mssql": 1433, "oracle": 1521}


def _endpoint_of(party: Party) -> properties.Endpoint:
    """As the dsn has it; placeholders where it cannot be read here."""
    engine = party.source.engine
    try:
        parsed = urlsplit(party.source.dsn.reveal())
        host, port, path, query = parsed.hostname, parsed.port, unquote(parsed.path.lstrip("/")), parse_qs(parsed.query)
    except (ConfigError, ValueError):
        host, port, path, query = None, None, "", {}
    database = path or next(iter(query.get("service_name", [])), "") or "DATABASE"
    return properties.Endpoint(host or "HOST", port or _PORTS[engine], "", "", database)


def polled_request(party: Party, mapping: Document, mode: PolledMode, *, reader: str | None = None) -> PolledRequest:
    """What the kit of a mode that only reads views is about: the views of the mapping.

    Raises:
        UsageError: the mapping is another party's, or the engine has no kit of ours.
    """
    _refuse_another_s(party, mapping)
    match party.source.engine:
        case "postgresql" | "mariadb" | "mysql" | "sqlite" as engine:
            views = tuple(dict.fromkeys(entity.view for entity in mapping.entities.values()))
            return PolledRequest(party.name, engine, mode, reader or reader_of(party), views)
        case engine:
            raise UsageError(
                f"there is no kit for {engine}", hint="a login that may SELECT the views is all there is to it",
                place=party.name,
            )  # fmt: skip


def binlog_request(
    party: Party, mapping: Document, *, reader: str | None = None, accept_risk: bool = False
) -> BinlogRequest:
    """What the kit of a MariaDB or MySQL party's stream is about.

    Raises:
        UsageError: the mapping is another party's, an entity has no lineage, or the engine is another.
    """
    _refuse_strangers(party, mapping)
    match party.source.engine:
        case "mariadb" | "mysql" as engine:
            tables = tuple(line.table for entity in mapping.entities.values() for line in entity.lineage)
            views = tuple(dict.fromkeys(entity.view for entity in mapping.entities.values()))
            return BinlogRequest(
                party.name, engine, reader or reader_of(party), tuple(dict.fromkeys(tables)), views, accept_risk
            )
        case engine:
            raise UsageError(f"{engine} has no binary log", hint="capture: outbox, cursor or diff", place=party.name)


def _refuse_another_s(party: Party, mapping: Document) -> None:
    if mapping.party != party.name:
        raise UsageError(f"{party.mapping.name} is the mapping of party {mapping.party}", place=party.name)


def _refuse_strangers(party: Party, mapping: Document) -> None:
    _refuse_another_s(party, mapping)
    silent = [entity.name for entity in mapping.entities.values() if not entity.lineage]
    if silent:
        raise UsageError(
            f"no lineage for {', '.join(silent)}",
            hint="base tables are read off the views' definitions, and the party's database did not answer: run first"
            " what `connector kit PARTY --mode diff` prints, which makes the login, or name them under `lineage:`",
            place=str(party.mapping),
        )


def reader_of(party: Party) -> str:
    """The user that the party's dsn names."""
    if party.source.engine != "postgresql":
        return _user_of_url(party)
    try:
        user = conninfo_to_dict(party.source.dsn.reveal()).get("user")
    except (ConfigError, psycopg.ProgrammingError):
        return READER_DEFAULT
    return str(user) if user else READER_DEFAULT


def _user_of_url(party: Party) -> str:
    try:
        parsed = urlsplit(party.source.dsn.reveal())
    except (ConfigError, ValueError):
        return READER_DEFAULT
    return unquote(parsed.username) if parsed.username else READER_DEFAULT
