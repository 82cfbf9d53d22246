"""What a statement in the binary log may have done to the tables we follow, from its first words and its names. Pure.

Rows are logged as rows; as statements come what changes tables (TRUNCATE, ALTER, DROP), and what a session that left
row format wrote. Nothing is parsed beyond that: in doubt, more is looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final

_LEADING: Final = re.compile(rb"(?:\s+|/\*(?![!M]).*?\*/|--[^\n]*(?:\n|\Z)|#[^\n]*(?:\n|\Z))*", re.DOTALL)
_WORD: Final = re.compile(rb"(?:/\*M?!\d*\s*)?\(*\s*([a-z]+)(?:\s+([a-z]+))?")


class Effect(Enum):
    """What a statement is to a reader of rows."""

    BEGIN = "begin"
    END = "end"  # of a transaction
    ROWS = "rows"  # changed rows that the log does not show
    PREPARED = "prepared"  # by an earlier XA PREPARE, whose rows are visible only now; and the end
    NAMED = "named"  # may have changed the tables it names
    NONE = "none"


# First word -> effect. A word that is not here may be anything: the tables it names are looked at again.
_EFFECTS: Final = {
    b"begin": Effect.BEGIN, b"commit": Effect.END, b"rollback": Effect.END,
    b"savepoint": Effect.NONE, b"release": Effect.NONE,
    **dict.fromkeys(
        (b"insert", b"update", b"delete", b"replace", b"load", b"with", b"call", b"do", b"select", b"merge"),
        Effect.ROWS,
    ),
    **dict.fromkeys(
        (b"grant", b"revoke", b"flush", b"analyze", b"optimize", b"set", b"check", b"start", b"install"), Effect.NONE
    ),
}  # fmt: skip
_XA: Final = {
    b"start": Effect.BEGIN, b"begin": Effect.BEGIN, b"commit": Effect.PREPARED, b"rollback": Effect.END,
}  # fmt: skip
# What is made or dropped that has no rows.
_ROWLESS: Final = frozenset({b"user", b"role", b"function", b"procedure", b"event", b"trigger", b"index", b"sequence"})


def effect(text: bytes) -> Effect:
    if text == b"BEGIN":
        return Effect.BEGIN
    if text == b"COMMIT":
        return Effect.END
    start = _LEADING.match(text)
    found = _WORD.match(text[:4096].lower(), start.end() if start and start.end() < 4096 else 0)
    if found is None:
        return Effect.NAMED
    first, second = found[1], found[2] or b""
    if first == b"xa":
        return _XA.get(second, Effect.NONE)
    if first == b"rollback" and second == b"to":
        return Effect.NONE
    if first in (b"create", b"drop") and second in _ROWLESS:
        return Effect.NONE
    return _EFFECTS.get(first, Effect.NAMED)


class Names:
    """Finds the tables we follow in a statement's bytes, in whatever character set and quotes."""

    def __init__(self, tables: Iterable[tuple[str, str]]) -> None:
        self._needles = [(table, _spellings(table[1])) for table in tables]
        self._schemas = [(table, _spellings(table[0])) for table in tables]

    def named(self, text: bytes) -> set[tuple[str, str]]:
        lowered = text.lower()
        found = {table for table, needles in self._needles if any(needle in lowered for needle in needles)}
        if b"schema" in lowered or b"database" in lowered:
            found |= {table for table, needles in self._schemas if any(needle in lowered for needle in needles)}
        return found


def _spellings(name: str) -> frozenset[bytes]:
    texts = {name, name.replace("`", "``")}
    return frozenset(text.encode(codec, "replace").lower() for text in texts for codec in ("utf-8", "latin-1"))
