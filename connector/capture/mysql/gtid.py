"""Where a reader stands in a binary log: the transactions it has, by their global ids. Pure.

MariaDB names the last transaction of each domain (`0-1-4711,5-2-80`), MySQL sets of intervals for each server
(`3e11fa47-...:1-4711`). Both only grow here, so the number of transactions taken orders positions whatever the ids do.
"""

from __future__ import annotations

import re
import struct
import uuid
from dataclasses import dataclass, field
from typing import Protocol

from connector.errors import PositionLost
from connector.events import Position

_MARIADB = re.compile(r"(\d{1,10})-(\d{1,10})-(\d{1,20})")
_MYSQL = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})((?::\d+(?:-\d+)?)+)")
_PLACE = re.compile(r"(.*) at (\S+):(\d+) of (\S+)")


class Gtids(Protocol):
    """The transactions up to a place."""

    def text(self) -> str: ...
    def count(self) -> int:
        """Rises with the transactions; where a history's ordinals begin."""


@dataclass(slots=True)
class MariaDbGtids:
    """The last transaction of each domain: domain -> server id, sequence number."""

    last: dict[int, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> MariaDbGtids:
        """
        Raises:
            ValueError: not such a list.
        """
        found = cls()
        for part in filter(None, text.replace(" ", "").split(",")):
            numbers = _MARIADB.fullmatch(part)
            if numbers is None:
                raise ValueError("not a list of MariaDB's GTIDs")
            domain, server, sequence = map(int, numbers.groups())
            found.last[domain] = (server, sequence)
        return found

    def text(self) -> str:
        return ",".join(f"{domain}-{server}-{sequence}" for domain, (server, sequence) in sorted(self.last.items()))

    def count(self) -> int:
        return sum(sequence for _, sequence in self.last.values())

    def lacks(self, other: MariaDbGtids) -> bool:
        """Whether `other` is further in any domain."""
        return any(self.last.get(domain, (0, -1))[1] < sequence for domain, (_, sequence) in other.last.items())


@dataclass(slots=True)
class MySqlGtids:
    """Transactions of each server: UUID -> intervals, both ends included, in order."""

    of: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> MySqlGtids:
        """
        Raises:
            ValueError: not such a set (tagged GTIDs are none of ours).
        """
        found = cls()
        for part in filter(None, re.sub(r"\s", "", text).lower().split(",")):
            matched = _MYSQL.fullmatch(part)
            if matched is None:
                raise ValueError("not a set of MySQL's GTIDs")
            for interval in matched[2][1:].split(":"):
                first, _, last = interval.partition("-")
                found._include(matched[1], int(first), int(last or first))
        return found

    def add(self, server: str, number: int) -> None:
        intervals = self.of.setdefault(server, [])
        if intervals and intervals[-1][1] == number - 1:
            intervals[-1] = (intervals[-1][0], number)
        else:
            self._include(server, number, number)

    def _include(self, server: str, first: int, last: int) -> None:
        merged: list[tuple[int, int]] = []
        for start, end in sorted([*self.of.get(server, []), (first, last)]):
            if merged and start <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            else:
                merged.append((start, end))
        self.of[server] = merged

    def text(self) -> str:
        return ",".join(
            server + "".join(f":{first}-{last}" if last > first else f":{first}" for first, last in intervals)
            for server, intervals in sorted(self.of.items())
        )

    def count(self) -> int:
        return sum(last - first + 1 for intervals in self.of.values() for first, last in intervals)

    def lacks(self, other: MySqlGtids) -> bool:
        """Whether `other` has a transaction that is not here."""
        return any(
            not any(start <= first and last <= end for start, end in self.of.get(server, ()))
            for server, intervals in other.of.items()
            for first, last in intervals
        )

    def encoded(self) -> bytes:
        """As COM_BINLOG_DUMP_GTID takes it: intervals end before their second number."""
        body = struct.pack("<Q", len(self.of))
        for server, intervals in sorted(self.of.items()):
            body += uuid.UUID(server).bytes + struct.pack("<Q", len(intervals))
            for first, last in intervals:
                body += struct.pack("<QQ", first, last + 1)
        return body


@dataclass(frozen=True, slots=True)
class Place:
    """A byte in a server's own files. Another server of the same history has other files."""

    file: str
    offset: int
    server: str

    @property
    def order(self) -> tuple[int, int]:
        """Orders places of one server's one history of files."""
        number = self.file.rpartition(".")[2]
        return int(number) if number.isdigit() else 0, self.offset


def position(ordinal: int, gtids: Gtids, place: Place) -> Position:
    """The GTIDs are what counts; the place shows later whether a server of that name has the same files still."""
    return Position(ordinal, f"{gtids.text() or '-'} at {place.file}:{place.offset} of {place.server}")


def parsed(stored: Position) -> tuple[str, Place]:
    """The list of GTIDs, and the place.

    Raises:
        PositionLost: the position is not from a binary log.
    """
    found = _PLACE.fullmatch(stored.text)
    if found is None:
        raise PositionLost(
            "identity_changed", "the stored position is not one of a binary log",
            hint="if the way of capture was changed on purpose: `connector resync PARTY`",
        )  # fmt: skip
    listed, file, offset, server = found.groups()
    return "" if listed == "-" else listed, Place(file, int(offset), server)
