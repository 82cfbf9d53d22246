"""A table as the binary log describes it before its rows: columns by name, and how many bytes each value takes. Pure.

Source: MySQL Source Code Documentation, "Table_map_event", with the optional metadata that
`binlog_row_metadata = FULL` adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from connector.capture.mysql.protocol import HEADER, lenenc, malformed

TINY, SHORT, LONG, FLOAT, DOUBLE, LONGLONG, INT24 = 1, 2, 3, 4, 5, 8, 9
DATE, YEAR, NEWDATE, VARCHAR, BIT = 10, 13, 14, 15, 16
TIMESTAMP2, DATETIME2, TIME2 = 17, 18, 19
BLOB_COMPRESSED, VARCHAR_COMPRESSED, VECTOR, JSON, NEWDECIMAL = 140, 141, 242, 245, 246
ENUM, SET, TINY_BLOB, MEDIUM_BLOB, LONG_BLOB, BLOB, VAR_STRING, STRING, GEOMETRY = range(247, 256)

_FIXED: Final = {TINY: 1, SHORT: 2, INT24: 3, LONG: 4, LONGLONG: 8, FLOAT: 4, DOUBLE: 8, DATE: 3, NEWDATE: 3, YEAR: 1}
_TEMPORAL: Final = {TIMESTAMP2: 4, DATETIME2: 5, TIME2: 3}
_LONG: Final = frozenset({BLOB, TINY_BLOB, MEDIUM_BLOB, LONG_BLOB, GEOMETRY, JSON, BLOB_COMPRESSED, VECTOR})
_META: Final = (
    dict.fromkeys(_FIXED, 0)
    | dict.fromkeys((FLOAT, DOUBLE, *_TEMPORAL, *_LONG), 1)
    | dict.fromkeys((VARCHAR, VARCHAR_COMPRESSED, BIT, NEWDECIMAL, ENUM, SET, VAR_STRING, STRING), 2)
)
_NUMERIC: Final = frozenset({TINY, SHORT, INT24, LONG, LONGLONG, NEWDECIMAL, FLOAT, DOUBLE, YEAR})
_CHARACTER: Final = frozenset({STRING, VAR_STRING, VARCHAR, BLOB, VARCHAR_COMPRESSED, BLOB_COMPRESSED})
_DIGIT_BYTES: Final = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)

_SIGNEDNESS, _DEFAULT_CHARSET, _COLUMN_CHARSET, _COLUMN_NAME = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Column:
    """`name` is empty where the log has no names. `length`: most bytes of a string, bits, or digits of a number;
    `scale`: digits behind its point."""

    name: str
    kind: int
    length: int = 0
    scale: int = 0
    unsigned: bool = False
    collation: int = 0

    @property
    def layout(self) -> tuple[int, int]:
        """Bytes of the length before a value, and of a value where they do not vary."""
        if self.kind in _FIXED:
            return 0, _FIXED[self.kind]
        if self.kind in _TEMPORAL:
            return 0, _TEMPORAL[self.kind] + (self.scale + 1) // 2
        if self.kind in _LONG:
            return self.length, 0
        match self.kind:
            case k if k in (ENUM, SET):
                return 0, self.length
            case k if k == BIT:
                return 0, (self.length + 7) // 8
            case k if k == NEWDECIMAL:
                return 0, decimal_bytes(self.length - self.scale) + decimal_bytes(self.scale)
            case _:
                return (2 if self.length > 255 else 1), 0


def decimal_bytes(digits: int) -> int:
    return digits // 9 * 4 + _DIGIT_BYTES[digits % 9]


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` is None where the log does not tell how long a value is: times in the format before MariaDB 10.1."""

    table_id: int
    schema: str
    name: str
    columns: tuple[Column, ...] | None

    def place(self, column: str) -> int | None:
        """Where a column stands; the engine's own rule for names is to ignore case."""
        wanted = column.casefold()
        for place, found in enumerate(self.columns or ()):
            if found.name.casefold() == wanted:
                return place
        return None


def table_id(event: bytes) -> int:
    """Of a table description or a rows event."""
    return int.from_bytes(event[HEADER : HEADER + 6], "little")


def parse(event: bytes, *, mariadb: bool) -> Table:
    """Decode a table description (without its checksum); in MariaDB geometries count as columns with a charset."""
    try:
        return _parse(event, _CHARACTER | {GEOMETRY} if mariadb else _CHARACTER)
    except (IndexError, ValueError):
        raise malformed("a table's description") from None


def _parse(event: bytes, lettered: frozenset[int]) -> Table:
    schema, at = _name(event, HEADER + 8)
    name, at = _name(event, at)
    width, at = lenenc(event, at)
    kinds = event[at : at + width]
    size, at = lenenc(event, at + width)
    metadata, at = event[at : at + size], at + size
    optional = event[at + (width + 7) // 8 :]
    number = table_id(event)
    if len(kinds) < width or len(metadata) < size:
        raise malformed("a table's description")
    if any(kind not in _META for kind in kinds):
        return Table(number, schema, name, None)
    return Table(number, schema, name, tuple(_described(_sized(kinds, metadata), _optional(optional), lettered)))


def _name(event: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + event[at]
    return event[at + 1 : end].decode(), end + 1


def _sized(kinds: bytes, metadata: bytes) -> list[Column]:
    columns, at = [], 0
    for kind in kinds:
        meta = metadata[at : at + _META[kind]]
        at += _META[kind]
        columns.append(_column(kind, meta))
    return columns


def _column(kind: int, meta: bytes) -> Column:
    if kind in (STRING, VAR_STRING, ENUM, SET):
        if meta[0] in (ENUM, SET):
            return Column("", meta[0], meta[1])
        return Column("", kind, ((meta[0] << 4 & 0x300) ^ 0x300) + meta[1])
    if kind in (VARCHAR, VARCHAR_COMPRESSED):
        return Column("", kind, int.from_bytes(meta, "little"))
    if kind == BIT:
        return Column("", kind, meta[0] + 8 * meta[1])
    if kind == NEWDECIMAL:
        return Column("", kind, meta[0], meta[1])
    if kind in _TEMPORAL:
        return Column("", kind, 0, meta[0])
    return Column("", kind, meta[0] if meta else 0)


def _optional(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(data):
        size, start = lenenc(data, at + 1)
        found[data[at]] = data[start : start + size]
        at = start + size
    return found


def _described(columns: Sequence[Column], optional: dict[int, bytes], lettered: frozenset[int]) -> list[Column]:
    names = _names(optional.get(_COLUMN_NAME, b""), len(columns))
    signs = optional.get(_SIGNEDNESS, b"")
    collations = _collations(optional, sum(column.kind in lettered for column in columns))
    described, number, text = [], 0, 0
    for name, column in zip(names, columns, strict=True):
        unsigned, collation = False, 0
        if column.kind in _NUMERIC:
            unsigned = bool(signs and signs[number // 8] & 0x80 >> number % 8)
            number += 1
        elif column.kind in lettered and collations:
            collation = collations[text]
            text += 1
        described.append(Column(name, column.kind, column.length, column.scale, unsigned, collation))
    return described


def _names(data: bytes, width: int) -> list[str]:
    names, at = [], 0
    while at < len(data):
        size, start = lenenc(data, at)
        names.append(data[start : start + size].decode())
        at = start + size
    return names if len(names) == width else [""] * width


def _collations(optional: dict[int, bytes], count: int) -> list[int]:
    """The collation of each column of characters; empty where the log does not say."""
    if _COLUMN_CHARSET in optional:
        found = _numbers(optional[_COLUMN_CHARSET])
        return found if len(found) == count else []
    numbers = _numbers(optional.get(_DEFAULT_CHARSET, b""))
    if not numbers:
        return []
    found = [numbers[0]] * count
    for place, collation in zip(numbers[1::2], numbers[2::2], strict=True):
        found[place] = collation
    return found


def _numbers(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        number, at = lenenc(data, at)
        found.append(number)
    return found
