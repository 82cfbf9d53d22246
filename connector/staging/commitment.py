"""Commitments to rows: a salted digest of each changed row, and one digest of a batch that its audit entry carries.

Pure. Not the keyed digest that tells unchanged rows: that one is KPU's alone, and proves nothing to others. A salt is
random, one for each batch and entity; the party gets it with its receipt and can make the same digests of its own
rows. Deleting the salt makes them meaningless. schemas/audit-entry.md specifies the bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import date

from psycopg import sql

SALT_BYTES = 32
# Of SHA-512: 128 bits. Another row with the same digest takes 2^128 tries; the salt is drawn after the row is read.
DIGEST_BYTES = 16

Cell = str | int | bool | bytes | date | None

# PostgreSQL's numbers of the contract's types (pg_type.oid); a column of the contract is one of these.
TYPES: Mapping[str, int] = {"boolean": 16, "bytea": 17, "bigint": 20, "smallint": 21, "text": 25, "date": 1082}
_DATE_ZERO = date(2000, 1, 1)


def row_digest_sql(
    key: sql.Composable, columns: sql.Composable, *, gone: sql.Composable, salt: sql.Composable
) -> sql.Composed:
    """SQL of one row's digest. `record_send` is the server's own binary form of a row: exact, and cheaper than text."""
    return sql.SQL(
        "substring(sha512(case when {gone} then record_send(row({salt}, {key}))"
        " else record_send(row({salt}, {key}, {columns})) end) for {length})"
    ).format(gone=gone, salt=salt, key=key, columns=columns, length=sql.Literal(DIGEST_BYTES))


def row_digest(salt: bytes, key: str, cells: Sequence[tuple[str, Cell]] | None) -> bytes:
    """The same digest in Python.

    Args:
        cells: type (of `TYPES`) and value of the mapped columns, in the contract's order; None for a row that is gone.
    """
    fields: list[tuple[str, Cell]] = [("bytea", salt), ("text", key), *(cells or ())]
    record = struct.pack(">i", len(fields)) + b"".join(_field(TYPES[kind], cell) for kind, cell in fields)
    return hashlib.sha512(record).digest()[:DIGEST_BYTES]


def _field(oid: int, cell: Cell) -> bytes:
    """One field of PostgreSQL's binary record: type, length, value."""
    if cell is None:
        return struct.pack(">Ii", oid, -1)
    data = _binary(oid, cell)
    return struct.pack(">Ii", oid, len(data)) + data


def _binary(oid: int, cell: Cell) -> bytes:
    match cell:
        case bool():
            return struct.pack(">?", cell)
        case int():
            return struct.pack(">q" if oid == TYPES["bigint"] else ">h", cell)
        case date():
            return struct.pack(">i", (cell - _DATE_ZERO).days)
        case bytes():
            return cell
        case str():
            return cell.encode()
        case None:
            raise AssertionError("a null has no bytes")


def page_digest(digests: bytes) -> bytes:
    """Of a page of rows: the digests one after the other."""
    return hashlib.sha256(digests).digest()


def commitment(pages: Iterable[bytes]) -> bytes:
    """What the entry says of an entity: over its pages in the order in which they were written."""
    return hashlib.sha256(b"".join(pages)).digest()
