"""A child's events become signals: whole transactions, beyond the stored position, each key through its routes.

No sockets, no JVM, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from connector.capture.debezium.frames import END, GONE, KEYS, MARK, OLD, UNKNOWN, WHOLE
from connector.capture.debezium.properties import Followed
from connector.capture.signals import Match, Route, Routes, SignalBuffer, Signals
from connector.errors import SourceProtocolError
from connector.events import Position, source_key


class Touched:
    """Gathers what a child tells. `covered` is the position (a number) that everything is gathered up to."""

    def __init__(
        self, routes: Routes, tables: Sequence[Followed], keys_in_memory: int, after: int,
        nulls: frozenset[int] = frozenset(),
    ) -> None:  # fmt: skip
        """`nulls`: numbers of tables whose deleted rows come whole, so that a NULL in them is one."""
        self._sinks = [
            tuple(_Sink(route, table) for route in routes[table.schema, table.name]) for table in tables
        ]  # fmt: skip
        self._keys_in_memory = keys_in_memory
        self._nulls = nulls
        self._after = after
        self.covered = after
        self.in_transaction = False
        self._buffer = SignalBuffer(keys_in_memory)
        # Where a transaction stands is told at its end: until one was beyond `after`, each is gathered for itself,
        # and thrown away where it turns out to be a replay.
        self._replay: SignalBuffer | None = SignalBuffer(keys_in_memory)

    @property
    def transactions(self) -> int:
        return self._buffer.transactions

    def feed(self, events: Iterable[Sequence[Any]]) -> None:
        """Take one batch of the child's.

        Raises:
            SourceProtocolError: it is not what a child says.
        """
        try:
            for event in events:
                self._event(event)
        except (ValueError, IndexError, TypeError):
            raise SourceProtocolError(
                "Debezium's child said what no child says", hint="are two versions installed at once?"
            ) from None

    def _event(self, event: Sequence[Any]) -> None:
        match event:
            case [str(kind), int(table), list(rows)] if kind in (KEYS, OLD, GONE):
                self.in_transaction = True
                self._rows(kind, table, rows)
            case [kind, int(table)] if kind == WHOLE:
                self.in_transaction = True
                for sink in self._sinks[table]:
                    self._open.whole(sink.route.entity)
            case [kind, int(position), int(number), int(at_us)] if kind == END:
                self._end(position, number, at_us)
            case [kind, int(position)] if kind == MARK:
                if not self.in_transaction:
                    self.covered = max(self.covered, position)
            case _:
                raise ValueError

    @property
    def _open(self) -> SignalBuffer:
        return self._buffer if self._replay is None else self._replay

    def _end(self, position: int, number: int, at_us: int) -> None:
        self.in_transaction = False
        if position <= self._after:
            self._replay = SignalBuffer(self._keys_in_memory)
            return
        if self._replay is not None:
            self._buffer, self._replay = self._replay, None
        self._buffer.committed(number, at_us)
        self.covered = max(self.covered, position)

    def _rows(self, kind: str, table: int, rows: list[Any]) -> None:
        for sink in self._sinks[table]:
            sink.take(self._open, kind, rows, told=kind == KEYS or table in self._nulls)

    def take(self, position: Position, *, read_s: float = 0.0) -> Signals:
        """Everything gathered, as covered by `position`; only between transactions."""
        assert not self.in_transaction
        return self._buffer.take(position, read_s=read_s)


class _Sink:
    """What a row of one table does to one entity."""

    def __init__(self, route: Route, table: Followed) -> None:
        pairs = route.key or route.match
        self.route = route
        self._places = [table.columns.index(column) for _, column in pairs]
        self._match = Match(route.entity, tuple(name for name, _ in route.match)) if route.match else None
        # What the row that comes next was called before.
        self._before: list[Any] | None = None

    def take(self, buffer: SignalBuffer, kind: str, rows: list[Any], *, told: bool) -> None:
        """`told`: a NULL is one, not a column that the log does not carry."""
        if not self._places:
            buffer.whole(self.route.entity)
            return
        keys = buffer.matches(self._match) if self._match is not None else buffer.keys(self.route.entity)
        for row in rows:
            parts = [row[place] for place in self._places]
            if self._match is not None and self._leaves(kind, parts):
                buffer.whole(self.route.entity)
            if UNKNOWN in parts or (None in parts and not told):
                buffer.whole(self.route.entity)
            elif None not in parts:
                # A row with a NULL key is never staged, and NULL joins nothing.
                keys.add(source_key(parts))

    def _leaves(self, kind: str, parts: list[Any]) -> bool:
        """Whether a joined row is gone, or joined to others now: with an inner join the view's rows are gone with it,
        and cannot be found by a value that they no longer show."""
        before, self._before = self._before, parts if kind == OLD else None
        gone = parts if kind == GONE else before if kind == KEYS and before != parts else None
        return gone is not None and None not in gone and not self.route.stays


def nulls_told(tables: Sequence[Followed], full: Iterable[tuple[str, str]]) -> frozenset[int]:
    """The numbers of tables among those whose whole rows are in the log."""
    names = frozenset(full)
    return frozenset(number for number, table in enumerate(tables) if (table.schema, table.name) in names)
