"""The words every stage shares: position, signal, keys, batch outcome.

Plain values. No sockets, no clock, no SQL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
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


# A longer key does not fit staging's indexes: a btree entry has 2,704 bytes, and escapes may double a key's text.
KEY_BYTES_MAX = 1_300
# No text this short is too long, whatever its letters: the check that nearly every key passes by.
KEY_LETTERS_SAFE = KEY_BYTES_MAX // 4


def short_parts(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The parts themselves; where they are too long for an index together, each cut, with a digest of what it was.

    A row with such a key is never staged, only reported: by a text that always comes out the same.
    """
    if sum(len(part.encode()) for part in parts) <= KEY_BYTES_MAX:
        return parts
    room = KEY_BYTES_MAX // len(parts)
    return tuple(part if len(part.encode()) <= room else _cut(part.encode(), room) for part in parts)


def _cut(text: bytes, room: int) -> str:
    digest = hashlib.sha256(text).hexdigest()[:16]
    return f"{text[: max(0, room - 20)].decode(errors='ignore')}...{digest}"


def short_key(key: str, width: int) -> str:
    """As `short_parts`, for a staging key of `width` columns."""
    if len(key) <= KEY_LETTERS_SAFE:
        return key
    return source_key(short_parts(key_parts(key, width)))


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
    batch_id: int = 0
    commitment: bytes = b""
    mapping_version: str = ""
    mapping_digest: str = ""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A stretch of a view in key order, as a source without a log last saw it.

    `upto` is the place of its last key (the source's words); `digest` is over all its rows; `marks` has eight
    bytes for each of `keys`. Without rows it is to be forgotten.
    """

    entity: str
    ordinal: Decimal
    upto: str
    rows: int
    digest: bytes
    keys: tuple[str, ...]
    marks: bytes


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a source that follows a column has read an entity, in that source's words."""

    entity: str
    value: str


# What a source wants remembered in the transaction that applies its signals.
Note = Bucket | Cursor


@dataclass(frozen=True, slots=True)
class SpanOfTime:
    """First and last commit time (party's clock, UTC) of what a batch carries."""

    first: datetime
    last: datetime
