"""pgoutput messages in, signals out: follows transactions and relations, keeps only view keys.

No sockets. The caller feeds whole messages in the order of the log and takes signals between transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from connector.capture.postgres import protocol
from connector.capture.postgres.protocol import Begin, Commit, Relation, Truncate, Unknown
from connector.capture.postgres.row_keys import KeyExtractor, relation_tag
from connector.capture.signals import Match, Route, Routes, SignalBuffer
from connector.errors import SourceMisconfigured, SourceProtocolError
from connector.events import source_key

Sink = Callable[[bytes], None]
# Messages that carry no row: `B`, `C`, `R`, `T`. All others but rows (origin, type, message) are passed over.
_ROWS = frozenset(b"IUD")


class ChangeReader:
    """Turns one slot's messages into signals in `buffer`."""

    def __init__(self, routes: Routes, buffer: SignalBuffer, after: int) -> None:
        """`after`: the position (as a number) that is covered already; what committed up to it is dropped."""
        self._routes = routes
        self._buffer = buffer
        self._after = after
        self._seen = False
        self._sinks: dict[bytes, Sink] = {}
        self._touched: dict[int, tuple[Route, ...]] = {}
        self._open: Begin | None = None

    @property
    def in_transaction(self) -> bool:
        return self._open is not None

    def feed(self, message: bytes) -> Commit | None:
        """Take one message; gives the commit where it ends a transaction.

        Raises:
            SourceProtocolError: the message is malformed or out of order.
            SourceMisconfigured: the publication lacks a column that a view key comes from.
        """
        if message[:1] in (b"I", b"U", b"D"):
            sink = self._sinks.get(message[1:5])
            if sink is None or self._open is None:
                raise SourceProtocolError("a row came before its transaction or its relation")
            if not self._seen:
                sink(message)
            return None
        return self._control(protocol.decode(message))

    def _control(self, message: protocol.Message) -> Commit | None:
        match message:
            case Begin():
                if self._open is not None:
                    raise SourceProtocolError("a transaction began inside another")
                self._open = message
                # A position is a commit's end, so a commit record that starts before it also ends by it. The
                # server repeats such transactions after its own crash, and each peek does until we confirm.
                self._seen = message.final_lsn < self._after
            case Commit():
                if self._open is None:
                    raise SourceProtocolError("a commit came without its begin")
                if not self._seen:
                    self._buffer.committed(self._open.xid, message.committed_us)
                    self._after = message.end_lsn
                self._open = None
                return message
            case Relation():
                self._learn(message)
            case Truncate() if not self._seen:
                for relation in message.relation_ids:
                    for route in self._touched.get(relation, ()):
                        self._buffer.whole(route.entity)
            case _:
                pass
        return None

    def _learn(self, relation: Relation) -> None:
        routes = self._routes.get((relation.schema, relation.name), ())
        sinks = [self._sink(relation, route) for route in routes]
        self._touched[relation.relation_id] = routes
        self._sinks[relation_tag(relation.relation_id)] = _together(sinks)

    def _sink(self, relation: Relation, route: Route) -> Sink:
        """What a row message of this relation does to one entity."""
        pairs = route.key or route.match
        if not pairs:
            return lambda _: self._buffer.whole(route.entity)
        extract = KeyExtractor(relation, self._places(relation, [column for _, column in pairs]))
        if route.match:
            return self._match_sink(extract, Match(route.entity, tuple(column for column, _ in pairs)), route)
        return self._key_sink(extract, route.entity)

    def _places(self, relation: Relation, columns: Sequence[str]) -> list[int]:
        names = [column.name for column in relation.columns]
        lacking = [column for column in columns if column not in names]
        if lacking:
            raise SourceMisconfigured(
                f"the publication does not carry column {', '.join(lacking)} of {relation.schema}.{relation.name}",
                hint="run the kit's SQL again: `connector kit PARTY`",
            )
        return [names.index(column) for column in columns]

    def _key_sink(self, extract: KeyExtractor, entity: str) -> Sink:
        buffer = self._buffer

        def touch(message: bytes) -> None:
            old, new = extract(message)
            if new is not None:
                self._touch(entity, new)
            if old is not None:
                self._touch(entity, old)

        if len(extract.relation.columns) != 1:
            return touch

        def touch_one(message: bytes) -> None:
            """The common case, unrolled: a relation published with its one key column."""
            old, new = extract(message)
            keys = buffer.keys(entity)
            for key in (new, old):
                if key is not None:
                    value = key[0]
                    try:
                        keys.add(value.decode())  # type: ignore[union-attr]
                    except (AttributeError, UnicodeDecodeError):  # not there, or no text
                        self._touch(entity, key)

        return touch_one

    def _touch(self, entity: str, key: Sequence[bytes | Unknown | None]) -> None:
        parts: list[str] = []
        for value in key:
            if value is None:
                return  # no row of the view has a NULL key that we could stage; the copy reports those
            text = _text(value)
            if text is None:
                # The log does not carry what the key was (`check` refuses such a set-up), or it is no text that
                # we could ask the view for. Still, miss nothing.
                self._buffer.whole(entity)
                return
            parts.append(text)
        self._buffer.keys(entity).add(source_key(parts))

    def _match_sink(self, extract: KeyExtractor, match: Match, route: Route) -> Sink:
        def touch(message: bytes) -> None:
            old, new = extract(message)
            if old is not None and None not in old and old != new and not route.stays:
                # The joined row is gone, or is joined to others now: with an inner join the view's rows are gone with
                # it, and cannot be found by a value that they no longer show.
                self._buffer.whole(match.entity)
            for values in (old, new):
                if values is not None:
                    self._touch_matching(match, values)

        return touch

    def _touch_matching(self, match: Match, values: Sequence[bytes | Unknown | None]) -> None:
        if None in values:
            return  # NULL joins nothing
        texts = [text for text in map(_text, values) if text is not None]
        if len(texts) < len(values):
            self._buffer.whole(match.entity)  # as in `_touch`: nothing that the view could be asked for
        else:
            self._buffer.matches(match).add(source_key(texts))


def _text(value: bytes | Unknown | None) -> str | None:
    """A value as text; None where the log does not carry it, or where a SQL_ASCII database has bytes that are none."""
    if not isinstance(value, bytes):
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _together(sinks: Sequence[Sink]) -> Sink:
    if len(sinks) == 1:
        return sinks[0]

    def all_of_them(message: bytes) -> None:
        for sink in sinks:
            sink(message)

    return all_of_them
