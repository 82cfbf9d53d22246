"""An audit entry as bytes: canonical JSON, hashed, chained to the party's entry before it.

Pure. Refuses whatever two programs could write or read differently. schemas/audit-entry.md specifies it all,
with test vectors, for who wants to check a log without this program.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

# An entry travels in a log whose bundles have 16-bit lengths.
ENTRY_BYTES_MAX = 65_535
# Integers beyond this lose digits in readers that know floating point only (RFC 7493, section 2.2).
INTEGER_MAX = 2**53 - 1
GENESIS = bytes(32)
VERSION = 1

Json = str | int | bool | None | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One row of audit.entry."""

    party: str
    seq: int
    body: bytes
    prev_hash: bytes
    hash: bytes
    at: datetime

    def fields(self) -> dict[str, Json]:
        """The body as JSON; {} where it is not an entry any more (somebody changed it)."""
        try:
            return decode(self.body)
        except ValueError:
            return {}


def compose(facts: Mapping[str, object], party: str, seq: int, previous: bytes, at: datetime) -> bytes:
    """The bytes of entry `seq`: what happened, and which entry it is.

    Raises:
        ValueError: see `canonical`.
    """
    own = {"at": timestamp(at), "party": party, "prev": previous.hex(), "seq": seq, "v": VERSION}
    return canonical({**facts, **own})


def timestamp(at: datetime) -> str:
    """A time as entries write it: UTC, microseconds, always 27 characters."""
    # isoformat: verifying a log asks for one an entry, and strftime takes longer than hashing it.
    return at.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def canonical(body: Mapping[str, object]) -> bytes:
    """The one encoding of an entry: RFC 8785 (sorted keys, no spaces, UTF-8) without fractions.

    Raises:
        ValueError: a float, an integer over `INTEGER_MAX`, a key outside ASCII, half a character, a type that
            JSON does not have, or an entry over `ENTRY_BYTES_MAX`.
    """
    _refuse_ambiguous(body)
    encoded = _ENCODER.encode(body).encode()
    if len(encoded) > ENTRY_BYTES_MAX:
        raise ValueError(f"an audit entry of {len(encoded)} bytes is over {ENTRY_BYTES_MAX}")
    return encoded


# Keys are ASCII, so sorting by code point is sorting by UTF-16 unit, as RFC 8785 wants it.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _refuse_ambiguous(value: object) -> None:
    match value:
        case None | bool() | str():
            pass
        case int():
            if abs(value) > INTEGER_MAX:
                raise ValueError("an audit entry holds no integer beyond 53 bits")
        case Mapping():
            for key, inner in value.items():
                if not isinstance(key, str) or not key.isascii():
                    raise ValueError("the keys of an audit entry are ASCII texts")
                _refuse_ambiguous(inner)
        case list() | tuple():
            for inner in value:
                _refuse_ambiguous(inner)
        case _:
            raise ValueError(f"an audit entry holds no {type(value).__name__}")


def decode(body: bytes) -> dict[str, Json]:
    """Read an entry back.

    Raises:
        ValueError: the bytes are not the canonical encoding of an object: two readers might disagree about them.
    """
    try:
        loaded = _DECODER.decode(body.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(loaded, dict) or _ENCODER.encode(loaded).encode() != body:
        raise ValueError("not the canonical encoding of an object")
    return loaded


def _refuse_number(_: str) -> None:
    raise ValueError("an audit entry holds whole numbers only")


_DECODER = json.JSONDecoder(parse_float=_refuse_number, parse_constant=_refuse_number)


def leaf_hash(body: bytes) -> bytes:
    """SHA-256(0x00 || body): the leaf of an RFC 6962 tree, so that a log over all parties can hold it."""
    return hashlib.sha256(b"\x00" + body).digest()


def chain_hash(previous: bytes, body: bytes) -> bytes:
    """SHA-256(previous || leaf hash): ties an entry to every entry of its party before it."""
    return hashlib.sha256(previous + leaf_hash(body)).digest()
