"""From a stream of pgoutput messages to deliveries that end where a transaction ends.

No sockets, no threads, no clock. Row messages pass through unread.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from connector.capture.postgres.protocol import Begin, Commit, LogicalMessage, decode, lsn_text
from connector.errors import SourceProtocolError

PAYLOAD_OVERHEAD_BYTES: Final = 48
"""What CPython adds to a bytes object in a list: uncounted, a buffer of small rows would take twice its limit."""

_BEGIN, _COMMIT = ord("B"), ord("C")


@dataclass(frozen=True, slots=True)
class Delivery:
    """Raw pgoutput messages in order: one or more whole transactions, or a part of a large one.

    The payloads of successive deliveries are the stream. `commit_end` is the end of the last transaction when
    the delivery ends with its Commit, and None when that transaction goes on in the next delivery.
    """

    payloads: tuple[bytes, ...]
    commit_end: int | None


@dataclass(frozen=True, slots=True)
class Idle:
    """Everything up to `position` was handed over before, and no transaction is under way."""

    position: int


class Assembler:
    """Cuts the stream of messages into deliveries, and knows when the stream stands idle.

    `size_bytes` is what it holds. A transaction of more than `part_bytes` leaves in parts, so no more than
    `part_bytes` (and one message) of an unfinished transaction ever stays here.
    """

    def __init__(self, after: int, part_bytes: int) -> None:
        self.size_bytes = 0
        self._part_bytes = part_bytes
        self._ready: deque[tuple[Delivery, int]] = deque()
        self._whole: list[bytes] = []
        self._whole_bytes = 0
        self._open: list[bytes] = []
        self._open_bytes = 0
        self._final_lsn: int | None = None  # of the transaction under way
        self._last_end = after
        self._idle = after

    @property
    def has_delivery(self) -> bool:
        return bool(self._ready or self._whole)

    def feed(self, payloads: list[bytes]) -> None:
        """Take the next messages.

        Raises:
            SourceProtocolError: messages out of place, or a transaction at or before one already seen.
        """
        for payload in payloads:
            kind = payload[0]
            if kind == _BEGIN:
                self._begin(payload)
            elif self._final_lsn is None:
                self._outside(payload)
                continue
            size = len(payload) + PAYLOAD_OVERHEAD_BYTES
            self._open.append(payload)
            self._open_bytes += size
            self.size_bytes += size
            if kind == _COMMIT:
                self._commit(payload)
            elif self._open_bytes >= self._part_bytes:
                self._seal_whole()
                self._ready.append((Delivery(tuple(self._open), None), self._open_bytes))
                self._open, self._open_bytes = [], 0

    def idle(self, wal_end: int) -> None:
        """The server has read its log up to `wal_end`. Inside a transaction this means nothing."""
        if self._final_lsn is None and wal_end > self._last_end:
            self._idle = max(self._idle, wal_end)

    def pop(self) -> Delivery | None:
        """The next delivery: as many whole transactions as have gathered, about `part_bytes` of them at most."""
        if not self._ready:
            self._seal_whole()
        if not self._ready:
            return None
        delivery, size = self._ready.popleft()
        self.size_bytes -= size
        return delivery

    def pop_idle(self) -> Idle | None:
        """Where the stream stands, once: None if something is held, under way, or nothing moved since."""
        if self.size_bytes or self._final_lsn is not None or self._idle <= self._last_end:
            return None
        self._last_end = self._idle
        return Idle(self._idle)

    def _begin(self, payload: bytes) -> None:
        begin = decode(payload)
        if self._final_lsn is not None:
            raise _disorder("Begin inside a transaction")
        assert isinstance(begin, Begin)
        self._final_lsn = begin.final_lsn

    def _commit(self, payload: bytes) -> None:
        commit = decode(payload)
        assert isinstance(commit, Commit)
        if commit.commit_lsn != self._final_lsn:
            raise _disorder("Commit of another transaction")
        if commit.end_lsn <= max(commit.commit_lsn, self._last_end):
            raise _disorder(f"a commit that ends at {lsn_text(commit.end_lsn)}, after {lsn_text(self._last_end)}")
        self._final_lsn, self._last_end = None, commit.end_lsn
        self._whole += self._open
        self._whole_bytes += self._open_bytes
        self._open, self._open_bytes = [], 0
        if self._whole_bytes >= self._part_bytes:
            self._seal_whole()

    def _seal_whole(self) -> None:
        # Whatever is whole was committed last, so its end is the last end (an idle position needs it popped).
        if self._whole:
            self._ready.append((Delivery(tuple(self._whole), self._last_end), self._whole_bytes))
            self._whole, self._whole_bytes = [], 0

    def _outside(self, payload: bytes) -> None:
        """A non-transactional logical message belongs to no transaction and touches no key: it is left out."""
        message = decode(payload)
        if not isinstance(message, LogicalMessage) or message.transactional:
            raise _disorder(f"{type(message).__name__} outside a transaction")


def _disorder(what: str) -> SourceProtocolError:
    return SourceProtocolError(
        f"the stream is out of order: {what}", hint="a proxy in between, or a broken server: report with its log"
    )
