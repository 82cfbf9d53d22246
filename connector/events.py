"""The words every stage shares: position, signal, keys, batch outcome.

Plain values. No sockets, no clock, no SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a party's change stream, up to which everything is covered.

    `ordinal` orders positions of one source (for PostgreSQL the LSN as an integer); `text`
    is what people and audit entries read (`0/16B3748`). A position is always the end of a
    whole transaction, never an event's own place: two transactions can share an LSN.
    """

    ordinal: int
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """What must not change under a stored position: which cluster, which history, which slot."""

    system: str
    timeline: int
    slot: str


def source_key(parts: Iterable[str]) -> str:
    """Join the key columns' text into the staging key.

    One column: its text, unchanged. Several: backslash and bar are escaped by a backslash and
    the parts are joined by a bar, so that no two keys share a text. The mapping program builds
    the same text in SQL (`mapping.program.source_key_sql`).
    """
    texts = tuple(parts)
    if len(texts) == 1:
        return texts[0]
    return "|".join(text.replace("\\", "\\\\").replace("|", "\\|") for text in texts)


def key_parts(key: str, width: int) -> tuple[str, ...]:
    """Split a staging key into its `width` columns' text; the inverse of `source_key`."""
    if width == 1:
        return (key,)
    parts: list[str] = []
    current: list[str] = []
    letters = iter(key)
    for letter in letters:
        if letter == "\\":
            current.append(next(letters, ""))
        elif letter == "|":
            parts.append("".join(current))
            current = []
        else:
            current.append(letter)
    parts.append("".join(current))
    return tuple(parts)


class EntryKind(Enum):
    """What an audit entry records."""

    SIGNALS = "signals"
    COPY = "copy"
    CONTROL = "control"
    OUTAGE = "outage"


class EntityState(Enum):
    """Where an entity of a party stands. `runtime/states.py` has the table of moves."""

    NEW = "new"
    COPYING = "copying"
    STREAMING = "streaming"
    HELD = "held"
    PAUSED = "paused"
    NEEDS_RESYNC = "needs_resync"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one batch did to one entity, counted by the staging database in keys.

    `read = inserted + updated + unchanged + quarantined` and, for signals,
    `signalled = read + deleted + absent`: the database refuses a batch that does not balance.
    """

    entity: str
    signalled: int = 0
    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    quarantined: int = 0
    deleted: int = 0
    absent: int = 0
    parked: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    digest: bytes = b""
    mapping_version: str = ""
    mapping_digest: str = ""


@dataclass(frozen=True, slots=True)
class SpanOfTime:
    """First and last commit time (party's clock, UTC) of what a batch carries."""

    first: datetime
    last: datetime
