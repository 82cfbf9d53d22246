"""A party's kit from its mapping and configuration. Needs no connection and no secret but the name of the reader."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict

from connector.capture.postgres.kit_request import KitRequest, KitTable, Mode
from connector.config import Party
from connector.errors import ConfigError, UsageError
from connector.mapping.rules import Document

# What a dsn that cannot be read (its variable is not set here) or names no user leaves us with.
READER_DEFAULT = "sipol_ro"


def kit_request(
    party: Party, mapping: Document, mode: Mode, *, reader: str | None = None, accept_risk: bool = False
) -> KitRequest:
    """What the kit is about: all base tables of the lineage, all views of the mapping.

    Raises:
        UsageError: the mapping is another party's, or an entity has no lineage.
    """
    if mapping.party != party.name:
        raise UsageError(f"{party.mapping.name} is the mapping of party {mapping.party}", place=party.name)
    silent = [entity.name for entity in mapping.entities.values() if not entity.lineage]
    if silent:
        raise UsageError(
            f"no lineage for {', '.join(silent)}",
            hint="name under `lineage:` the base tables of the view: their changes say which keys to look at again",
            place=str(party.mapping),
        )
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


def reader_of(party: Party) -> str:
    """The user that the party's dsn names."""
    try:
        user = conninfo_to_dict(party.source.dsn.reveal()).get("user")
    except (ConfigError, psycopg.ProgrammingError):
        return READER_DEFAULT
    return str(user) if user else READER_DEFAULT
