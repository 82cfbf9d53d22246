"""Check rows of COPY text before they travel on: bytes in, bytes and bad rows out. No sockets.

Refuses to repair anything. A whole group is checked at once; only a group that fails is taken apart,
so a hostile cell costs one quarantined row and not a batch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from connector.errors import SourceProtocolError
from connector.events import KEY_BYTES_MAX, key_parts, short_parts, source_key

INVALID_UTF8 = "INVALID_UTF8"
CELL_TOO_LARGE = "CELL_TOO_LARGE"
NUL_CHARACTER = "NUL_CHARACTER"

# COPY TO writes these escapes and no others; a server that writes `\.` or `\000` wants to break our COPY.
_STRANGE_ESCAPE = re.compile(rb"\\[^bfnrtvN]")
_ESCAPES = {0x62: b"\b", 0x66: b"\f", 0x6E: b"\n", 0x72: b"\r", 0x74: b"\t", 0x76: b"\v"}
# What a place that no text can tell begins with. A key may begin so too, and is then told in the same way.
_RAW_PLACE = "\x1f"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be copied: its key columns' text (None for NULL; see `short_parts`) and why."""

    key: tuple[str | None, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Block:
    """Checked rows: COPY text ready for staging, how many, and the rows kept out of it.

    `last_key` is the place of the last row, good or bad: where a copy goes on from (`place_parts`). None
    where that row's key has a NULL.
    """

    data: bytes
    rows: int
    last_key: str | None
    bad: tuple[BadRow, ...] = ()

    @property
    def count(self) -> int:
        """All rows, good and bad."""
        return self.rows + len(self.bad)


def check(rows: list[bytes], width: int, key_width: int, cell_bytes_max: int) -> Block:
    """Check a group of COPY text rows.

    Args:
        rows: each ends in a newline, as the server sent it.
        width: cells a row must have; the first `key_width` are the key.
        cell_bytes_max: longest cell let through, in bytes of COPY text.

    Raises:
        SourceProtocolError: the server sent something COPY TO never writes.
    """
    if not rows:
        return Block(b"", 0, None)
    data = b"".join(rows)
    _check_shape(rows, data, width)
    last_key = _place(rows[-1], key_width)
    if max(map(len, rows), default=0) <= min(cell_bytes_max, KEY_BYTES_MAX) and _is_clean(data):
        return Block(data, len(rows), last_key)
    good: list[bytes] = []
    bad: list[BadRow] = []
    for row in rows:
        reason = _reason(row, key_width, cell_bytes_max)
        if reason is None:
            good.append(row)
        else:
            bad.append(BadRow(_key(row, key_width), reason))
    return Block(b"".join(good), len(good), last_key, tuple(bad))


def _check_shape(rows: list[bytes], data: bytes, width: int) -> None:
    if data.count(b"\n") != len(rows) or data.count(b"\t") != len(rows) * (width - 1):
        raise SourceProtocolError(f"the party's server sent rows that do not have {width} cells each")
    if any(not row.endswith(b"\n") for row in (rows[0], rows[-1])) or (b"\r" in data):
        raise SourceProtocolError("the party's server sent a row that is not COPY text")
    if b"\\" in data and _STRANGE_ESCAPE.search(data.replace(b"\\\\", b"")):
        raise SourceProtocolError("the party's server sent an escape that COPY text does not have")


def _is_clean(data: bytes) -> bool:
    if b"\0" in data:
        return False
    if data.isascii():
        return True
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _reason(row: bytes, key_width: int, cell_bytes_max: int) -> str | None:
    cells = row[:-1].split(b"\t")
    if sum(map(len, cells[:key_width])) > KEY_BYTES_MAX:
        return CELL_TOO_LARGE
    if len(row) > cell_bytes_max and any(len(cell) > cell_bytes_max for cell in cells):
        return CELL_TOO_LARGE
    if b"\0" in row:
        return NUL_CHARACTER
    return None if _is_clean(row) else INVALID_UTF8


def _key(row: bytes, key_width: int) -> tuple[str | None, ...]:
    """The key's text; bytes that are no text are shown as escapes, and too long a key is cut."""
    texts = [None if cell == b"\\N" else _text(cell) for cell in _key_cells(row, key_width)]
    short = iter(short_parts(tuple(text for text in texts if text is not None)))
    return tuple(None if text is None else next(short) for text in texts)


def _key_cells(row: bytes, key_width: int) -> list[bytes]:
    return row[:-1].split(b"\t", key_width)[:key_width]


def _place(row: bytes, key_width: int) -> str | None:
    """Where a row stands in key order: its key, or the key's bytes where they are no text."""
    cells = _key_cells(row, key_width)
    if b"\\N" in cells:
        return None
    parts = [unescape(cell) for cell in cells]
    try:
        place = source_key(part.decode() for part in parts)
    except UnicodeDecodeError:
        place = ""
    else:
        if not place.startswith(_RAW_PLACE):
            return place
    return _RAW_PLACE + ".".join(part.hex() for part in parts)


def place_parts(place: str, width: int) -> tuple[bytes, ...]:
    """The key columns' bytes of a `Block.last_key`."""
    if place.startswith(_RAW_PLACE):
        return tuple(bytes.fromhex(part) for part in place[1:].split("."))
    return tuple(part.encode() for part in key_parts(place, width))


def unescape(cell: bytes) -> bytes:
    """A COPY text cell's own bytes."""
    if b"\\" not in cell:
        return cell
    out = bytearray()
    letters = iter(cell)
    for letter in letters:
        if letter != 0x5C:
            out.append(letter)
            continue
        following = next(letters, 0x5C)
        out += _ESCAPES.get(following, bytes((following,)))
    return bytes(out)


def _text(cell: bytes) -> str:
    return unescape(cell).replace(b"\0", b"").decode("utf-8", "backslashreplace")
