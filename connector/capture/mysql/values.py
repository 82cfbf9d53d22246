"""A key's bytes in the log as the text that the view gives for the same value. Pure.

The text must be the one of `connector.sqldb` to the letter, or a changed row would be looked for under a key that the
view does not have. What cannot be told for certain (an ENUM's label, a FLOAT's digits, a UUID's order of bytes, a
character set that Python does not have to the letter) has no reader here, and the entity is looked at whole instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from connector.capture.mysql import tables
from connector.capture.mysql.tables import Column, decimal_bytes

# None: these bytes are no text of that character set, and who knows what the server makes of them.
ToText = Callable[[bytes], str | None]

# MySQL's latin1 is Windows-1252, with the five codes that Windows leaves out as control characters.
_LATIN1: Final = {
    code: bytes([code]).decode("cp1252") for code in range(0x80, 0xA0) if code not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
_CODECS: Final = {
    "utf8mb4": "utf-8", "utf8mb3": "utf-8", "utf8": "utf-8", "ascii": "ascii", "ucs2": "utf-16-be",
    "utf16": "utf-16-be", "utf16le": "utf-16-le", "utf32": "utf-32-be",
}  # fmt: skip
_INTEGERS: Final = frozenset({tables.TINY, tables.SHORT, tables.INT24, tables.LONG, tables.LONGLONG})
_STRINGS: Final = frozenset({tables.STRING, tables.VAR_STRING, tables.VARCHAR})
_BLOBS: Final = frozenset({tables.BLOB, tables.TINY_BLOB, tables.MEDIUM_BLOB, tables.LONG_BLOB})


def family(view_type: str) -> str:
    """What kind of text a view's column has, from its type in the catalogue; empty for what we do not read."""
    word = view_type.split("(")[0].split()[0].lower() if view_type else ""
    arguments = view_type.partition("(")[2].partition(")")[0].replace(" ", "")
    if word in ("tinyint", "smallint", "mediumint", "int", "bigint"):
        return "int"
    if word in ("char", "varchar", "tinytext", "text", "mediumtext", "longtext"):
        return "text"
    if word in ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"):
        return "bytes"
    if word == "decimal":
        return f"decimal {arguments.partition(',')[2] or '0'}"
    if word in ("datetime", "timestamp"):
        return f"moment {arguments or '0'}"
    return word if word in ("date", "year", "bit") else ""


def reader(column: Column, charsets: Mapping[int, str], view_type: str) -> ToText | None:
    """How a column's bytes become the text of a view's column of that type; None where nobody can tell.

    Args:
        charsets: collation id -> character set, as the server has them.
    """
    found = _reader(column, charsets)
    if found is None or found[0] != family(view_type):
        return None
    return found[1]


def _reader(column: Column, charsets: Mapping[int, str]) -> tuple[str, ToText] | None:
    kind = column.kind
    if kind in _INTEGERS:
        signed = not column.unsigned
        return "int", lambda value: str(int.from_bytes(value, "little", signed=signed))
    if kind in _STRINGS or kind in _BLOBS:
        return _string(column, charsets.get(column.collation, ""))
    scale = column.scale
    match kind:
        case tables.NEWDECIMAL:
            return f"decimal {scale}", lambda value: decimal_text(value, column.length, scale)
        case tables.DATE | tables.NEWDATE:
            return "date", _date
        case tables.DATETIME2:
            return f"moment {scale}", lambda value: _datetime(value, scale)
        case tables.TIMESTAMP2:
            return f"moment {scale}", lambda value: _timestamp(value, scale)
        case tables.YEAR:
            return "year", lambda value: str(1900 + value[0]) if value[0] else "0000"
        case tables.BIT:
            return "bit", lambda value: str(int.from_bytes(value, "big"))
    return None


def _string(column: Column, charset: str) -> tuple[str, ToText] | None:
    if charset == "binary":
        # The log leaves a BINARY column's padding out; the view shows it.
        size = column.length if column.kind == tables.STRING else 0
        return "bytes", lambda value: "\\x" + value.ljust(size, b"\0").hex()
    if charset == "latin1":
        read: ToText = lambda value: value.decode("latin-1").translate(_LATIN1)  # noqa: E731
    elif charset in _CODECS:
        read = _decoder(_CODECS[charset])
    else:
        return None
    if column.kind != tables.STRING:
        return "text", read
    return "text", lambda value: None if (text := read(value)) is None else text.rstrip(" ")


def _decoder(codec: str) -> ToText:
    def read(value: bytes) -> str | None:
        try:
            return value.decode(codec)
        except UnicodeDecodeError:
            return None

    return read


def decimal_text(value: bytes, precision: int, scale: int) -> str:
    """A DECIMAL: nine digits in four bytes each, odd digits in as few bytes as hold them; the first bit is a sign."""
    negative = not value[0] & 0x80
    number = bytearray(value)
    number[0] ^= 0x80
    if negative:
        number = bytearray(byte ^ 0xFF for byte in number)
    whole = precision - scale
    split = decimal_bytes(whole)
    digits = _digits(number[:split], whole % 9, first=True).lstrip("0") or "0"
    fraction = _digits(number[split:], scale % 9, first=False)
    return ("-" if negative else "") + digits + ("." + fraction if scale else "")


def _digits(data: bytes | bytearray, odd: int, *, first: bool) -> str:
    """The digits of one side of the point; its odd group is the outermost."""
    size = decimal_bytes(odd)
    cut = size if first else len(data) - size
    parts = [(data[:cut], odd), (data[cut:], 0)] if first else [(data[:cut], 0), (data[cut:], odd)]
    text = ""
    for part, width in parts:
        step = decimal_bytes(width) if width else 4
        for at in range(0, len(part), step):
            text += str(int.from_bytes(part[at : at + step], "big")).zfill(width or 9)
    return text


def _date(value: bytes) -> str:
    number = int.from_bytes(value, "little")
    return f"{number >> 9:04d}-{number >> 5 & 15:02d}-{number & 31:02d}"


def _fraction(value: bytes, scale: int) -> str:
    return f".{int.from_bytes(value, 'big'):0{2 * len(value)}d}"[: scale + 1] if scale else ""


def _datetime(value: bytes, scale: int) -> str:
    """Also `0000-00-00` and days that no calendar has: they are what they are."""
    number = int.from_bytes(value[:5], "big") - (1 << 39)
    year, month = divmod(number >> 22, 13)
    day, hour, minute, second = number >> 17 & 31, number >> 12 & 31, number >> 6 & 63, number & 63
    return f"{year:04d}-{month:02d}-{day:02d} {hour:02d}:{minute:02d}:{second:02d}" + _fraction(value[5:], scale)


def _timestamp(value: bytes, scale: int) -> str:
    """In UTC, as our reading sessions are."""
    seconds = int.from_bytes(value[:4], "big")
    moment = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if seconds else "0000-00-00 00:00:00"
    return moment + _fraction(value[4:], scale)
