"""The few key columns of a rows event; what stands between them is stepped over, never decoded. Pure.

A row has a bit for each of its columns that is NULL, and then the values, one after the other, without their names:
where a value ends is known from its column only. Bytes that do not add up to the event's end raise `Unreadable`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from connector.capture.mysql.protocol import HEADER, Kind, lenenc, uncompressed
from connector.capture.mysql.tables import Column


class Absent(Enum):
    """A value that the row image does not carry (`binlog_row_image` other than FULL). It is never NULL."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT
Value = bytes | None | Absent
Values = tuple[Value, ...]


class Unreadable(Exception):
    """The bytes are not rows of this table."""


WRITES: Final = frozenset({Kind.WRITE_1, Kind.WRITE_2, Kind.WRITE_1_COMPRESSED, Kind.WRITE_COMPRESSED})
UPDATES: Final = frozenset({Kind.UPDATE_1, Kind.UPDATE_2, Kind.UPDATE_1_COMPRESSED, Kind.UPDATE_COMPRESSED})
DELETES: Final = frozenset({Kind.DELETE_1, Kind.DELETE_2, Kind.DELETE_1_COMPRESSED, Kind.DELETE_COMPRESSED})
ROWS: Final = WRITES | UPDATES | DELETES
_SECOND: Final = frozenset(
    {Kind.WRITE_2, Kind.UPDATE_2, Kind.DELETE_2, Kind.WRITE_COMPRESSED, Kind.UPDATE_COMPRESSED, Kind.DELETE_COMPRESSED}
)
_COMPRESSED: Final = frozenset(kind for kind in ROWS if kind >= Kind.WRITE_1_COMPRESSED)


@dataclass(frozen=True, slots=True)
class Step:
    """One column, or several in a row that nobody wants: bytes of its length, of its value, and which one is wanted."""

    prefix: int
    size: int
    want: int = -1


class Image:
    """Reads one row image: the columns that a bitmap names as present."""

    def __init__(self, columns: Sequence[Column], present: int, wanted: Sequence[int]) -> None:
        there = [place for place in range(len(columns)) if present >> place & 1]
        self._null_bytes = (len(there) + 7) // 8
        self._null_mask = (1 << len(there)) - 1  # the bits behind the last column are not always zero
        self._steps = [Step(*columns[place].layout, wanted.index(place) if place in wanted else -1) for place in there]
        self._fast = [(step.prefix, step.size, step.want) for step in _merged(self._steps)]
        self._blank: list[Value] = [ABSENT] * len(wanted)

    def read(self, data: bytes, at: int) -> tuple[Values, int]:
        """The wanted values, and where the image ends."""
        nulls = int.from_bytes(data[at : at + self._null_bytes], "little") & self._null_mask
        at += self._null_bytes
        if nulls:
            return self._with_nulls(data, at, nulls)
        values = self._blank.copy()
        for prefix, size, want in self._fast:
            if prefix == 1:
                size = data[at]  # noqa: PLW2901 - the fixed size is for columns without a prefix
                at += 1
            elif prefix:
                size = int.from_bytes(data[at : at + prefix], "little")  # noqa: PLW2901
                at += prefix
            if want >= 0:
                values[want] = data[at : at + size]
            at += size
        return tuple(values), at

    def _with_nulls(self, data: bytes, at: int, nulls: int) -> tuple[Values, int]:
        values = self._blank.copy()
        for place, step in enumerate(self._steps):
            if nulls >> place & 1:
                if step.want >= 0:
                    values[step.want] = None
                continue
            size = int.from_bytes(data[at : at + step.prefix], "little") if step.prefix else step.size
            at += step.prefix
            if step.want >= 0:
                values[step.want] = data[at : at + size]
            at += size
        return tuple(values), at


def _merged(steps: Sequence[Step]) -> Iterator[Step]:
    """Neighbours of a fixed length that nobody wants are one step."""
    skipped = 0
    for step in steps:
        if step.prefix == 0 and step.want < 0:
            skipped += step.size
            continue
        if skipped:
            yield Step(0, skipped)
            skipped = 0
        yield step
    if skipped:
        yield Step(0, skipped)


class RowReader:
    """Takes the wanted columns out of one table's rows events."""

    def __init__(self, columns: Sequence[Column], wanted: Sequence[int]) -> None:
        self._columns = columns
        self._wanted = tuple(wanted)
        self._images: dict[bytes, Image] = {}

    def changes(self, event: bytes, kind: int) -> Iterator[tuple[Values | None, Values | None]]:
        """Old and new values of each row; None where there was, or is, no row.

        Raises:
            Unreadable: the event does not hold whole rows of this table.
        """
        at = HEADER + 8
        try:
            if kind in _SECOND:
                at += int.from_bytes(event[at : at + 2], "little")
            width, at = lenenc(event, at)
            if width != len(self._columns):
                raise Unreadable
            size = (width + 7) // 8
            first = self._image(event[at : at + size])
            second = self._image(event[at + size : at + 2 * size]) if kind in UPDATES else first
            at += size * (2 if kind in UPDATES else 1)
            if kind in _COMPRESSED:
                event, at = uncompressed(event, at), 0
            yield from self._rows(event, at, kind, first, second)
        except IndexError:
            raise Unreadable from None

    def _rows(
        self, data: bytes, at: int, kind: int, first: Image, second: Image
    ) -> Iterator[tuple[Values | None, Values | None]]:
        end = len(data)
        old: Values | None = None
        new: Values | None = None
        while at < end:
            begun = at
            if kind in UPDATES:
                old, at = first.read(data, at)
                new, at = second.read(data, at)
                if ABSENT in new:
                    # What an update does not log anew it did not change.
                    new = tuple(before if after is ABSENT else after for before, after in zip(old, new, strict=True))
            elif kind in WRITES:
                new, at = first.read(data, at)
            else:
                old, at = first.read(data, at)
            if at > end or at == begun:
                raise Unreadable
            yield old, new

    def _image(self, present: bytes) -> Image:
        found = self._images.get(present)
        if found is None:
            found = Image(self._columns, int.from_bytes(present, "little"), self._wanted)
            self._images[present] = found
        return found
