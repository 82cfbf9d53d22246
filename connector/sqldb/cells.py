"""Values of a driver as canonical text, and key texts as values again. Pure.

The text is what PostgreSQL's COPY would show for the same value: dates ISO, numbers without a display width,
bytes as hexadecimal behind `\\x`. What has no such form (`0000-00-00`) stays the text it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

Cell = bytes | None
# What COPY text writes with a backslash; the rest of the bytes pass as they are.
_SPECIAL = re.compile(rb"[\\\t\n\r\b\f\v]")
_ESCAPES = {0x5C: rb"\\", 0x09: rb"\t", 0x0A: rb"\n", 0x0D: rb"\r", 0x08: rb"\b", 0x0C: rb"\f", 0x0B: rb"\v"}


class RawText(bytes):
    """Text as SQLite keeps it, undecoded: it may be no valid UTF-8. A plain `bytes` is a blob."""


def copy_row(cells: Sequence[Cell]) -> bytes:
    """A row of COPY text, with its newline. NUL bytes are left in: `blocks.check` refuses such a row."""
    row = b"\t".join([b"" if cell is None else cell for cell in cells])
    if _SPECIAL.search(row.replace(b"\t", b"", len(cells) - 1)) is None and row.count(b"\t") == len(cells) - 1:
        return b"\t".join([rb"\N" if cell is None else cell for cell in cells]) + b"\n"
    return b"\t".join([rb"\N" if cell is None else _escaped(cell) for cell in cells]) + b"\n"


def _escaped(cell: bytes) -> bytes:
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0][0]], cell)


# ------------------------------------------------------------------------------------------ values as text


def hexadecimal(value: bytes) -> bytes:
    return rb"\x" + value.hex().encode()


def _real(value: float) -> bytes:
    if math.isnan(value):
        return b"NaN"
    if math.isinf(value):
        return b"Infinity" if value > 0 else b"-Infinity"
    return repr(value).removesuffix(".0").encode()


def _moment(value: datetime) -> bytes:
    return value.isoformat(" ").encode()


def _span(value: timedelta) -> bytes:
    """Hours may exceed a day, as MariaDB's TIME does."""
    seconds, sign = abs(value), "-" if value < timedelta(0) else ""
    hours, rest = divmod(seconds, timedelta(hours=1))
    minutes, rest = divmod(rest, timedelta(minutes=1))
    fraction = f".{rest.microseconds:06d}" if rest.microseconds else ""
    return f"{sign}{hours:02d}:{minutes:02d}:{rest.seconds:02d}{fraction}".encode()


_TEXTS: Mapping[type, Callable[..., bytes]] = {
    RawText: bytes,
    str: str.encode,
    bytes: hexadecimal,
    bytearray: lambda value: hexadecimal(bytes(value)),
    memoryview: lambda value: hexadecimal(bytes(value)),
    bool: lambda value: b"t" if value else b"f",
    int: lambda value: b"%d" % value,
    float: _real,
    Decimal: lambda value: format(value, "f").encode(),
    datetime: _moment,
    date: lambda value: value.isoformat().encode(),
    time: lambda value: value.isoformat().encode(),
    timedelta: _span,
    UUID: lambda value: str(value).encode(),
}


def cell(value: object) -> Cell:
    """A driver's Python value as text; None for NULL.

    A lone surrogate (a driver that could not decode) goes back to the byte it stood for, and the row is refused.
    """
    if value is None:
        return None
    text = _TEXTS.get(type(value))
    if text is None:
        return str(value).encode("utf-8", "surrogateescape")
    try:
        return text(value)
    except UnicodeEncodeError:
        return str(value).encode("utf-8", "surrogateescape")


# ------------------------------------------------------------------------------- typed text, and back


def typed(value: object) -> str:
    """A key's value as text that keeps its type: where a read goes on from. `untyped` undoes it."""
    match value:
        case bool() | int():
            return f"i{int(value)}"
        case float():
            return f"f{value!r}"
        case RawText():
            try:
                return f"t{value.decode()}"
            except UnicodeDecodeError:
                return f"r{value.hex()}"
        case bytes() | bytearray() | memoryview():
            return f"b{bytes(value).hex()}"
        case str():
            return f"t{value}"
        case Decimal():
            return f"d{value}"
        case datetime():
            return f"m{value.isoformat()}"
        case date():
            return f"y{value.isoformat()}"
        case UUID():
            return f"u{value}"
        case _:
            return f"t{value}"


_VALUES: Mapping[str, Callable[[str], object]] = {
    "i": int,
    "f": float,
    "t": str,
    "r": lambda text: RawText(bytes.fromhex(text)),
    "b": bytes.fromhex,
    "d": Decimal,
    "m": datetime.fromisoformat,
    "y": date.fromisoformat,
    "u": UUID,
}


def untyped(text: str) -> object:
    return _VALUES[text[0]](text[1:])


def loose(text: str) -> tuple[object, ...]:
    """The values a key's text may stand for, where the engine does not say what type the key has (SQLite)."""
    found: list[object] = [text]
    if re.fullmatch(r"0|-?[1-9][0-9]{0,18}", text) and -(2**63) <= int(text) < 2**63:
        found.append(int(text))
    if re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?|-?Infinity", text):
        with_point = _as_float(text)
        if with_point is not None and _real(with_point) == text.encode():
            found.append(with_point)
    if re.fullmatch(r"\\x([0-9a-f]{2})*", text):
        found.append(bytes.fromhex(text[2:]))
    return tuple(found)


def _as_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
