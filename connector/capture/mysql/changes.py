"""Binary log events in, signals out: follows transactions and tables, keeps only view keys.

No sockets. The caller feeds whole events in the order of the log, and takes signals between transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from connector.capture.mysql import protocol, rows, statements, tables
from connector.capture.mysql.gtid import Gtids, MariaDbGtids, MySqlGtids, Place
from connector.capture.mysql.protocol import Kind, MariaDbGtid
from connector.capture.mysql.rows import ABSENT, Absent, RowReader, Unreadable, Values
from connector.capture.mysql.statements import Effect
from connector.capture.mysql.values import ToText, reader
from connector.capture.signals import Match, Route, Routes, SignalBuffer
from connector.errors import PositionLost, SourceProtocolError
from connector.events import source_key

Sink = Callable[[bytes, int], None]
Touch = Callable[[Values | None, Values | None], None]
_UNIX_2000 = 946_684_800
# Looked at for each event of the log: plain numbers.
_FORMAT, _TABLE_MAP = int(Kind.FORMAT), int(Kind.TABLE_MAP)
# Descriptions of tables kept by their bytes; a server that makes tables all day must not make us grow.
_TABLES_MAX = 4_096


@dataclass(frozen=True, slots=True)
class Views:
    """What the server's catalogue says: column types of each entity's view, and the character sets of collations.

    `folded`: the server keeps table names in small letters, whatever the mapping writes.
    """

    types: Mapping[str, Mapping[str, str]]
    charsets: Mapping[int, str] = field(default_factory=dict)
    folded: bool = False


class ChangeReader:
    """Turns one binary log into signals in `buffer`."""

    def __init__(self, routes: Routes, views: Views, buffer: SignalBuffer, gtids: Gtids, place: Place) -> None:
        """`gtids` and `place` are where reading begins."""
        self._buffer = buffer
        self._gtids = gtids
        self._file, self._offset, self._server = place.file, place.offset, place.server
        self._base = 0
        self._checksums = False
        self._begun = False
        self._open: MariaDbGtid | tuple[str, int] | None = None
        self._touched = False
        self._alone = False
        self._transactions = 0
        self._sinks: dict[int, Sink | None] = {}
        self._known: dict[bytes, Sink | None] = {}
        self._log = structlog.get_logger()
        self.follow(routes, views)

    def follow(self, routes: Routes, views: Views) -> None:
        """What to look out for, from the next description of a table on."""
        self._views = views
        fold = str.casefold if views.folded else str
        self._routes = {(fold(schema), fold(name)): found for (schema, name), found in routes.items()}
        self._fold = fold
        self._names = statements.Names(tuple(self._routes))
        self._known = {}
        keyed: dict[str, int] = {}
        for found in routes.values():
            for route in found:
                keyed[route.entity] = keyed.get(route.entity, 0) + bool(route.key)
        self._joined = frozenset(entity for entity, count in keyed.items() if count > 1)

    @property
    def begun(self) -> bool:
        """Whether the server sends."""
        return self._begun

    @property
    def in_transaction(self) -> bool:
        return self._open is not None

    @property
    def place(self) -> Place:
        """The end of the last whole transaction."""
        return Place(self._file, self._offset, self._server)

    @property
    def gtids(self) -> Gtids:
        return self._gtids

    @property
    def transactions(self) -> int:
        """Whole transactions taken so far, ours or not."""
        return self._transactions

    def checksums(self, on: bool) -> None:
        """What the server was told, for the events before the first format description."""
        self._checksums = on

    def feed(self, event: bytes) -> bool:
        """Take one event; True where it ended a transaction.

        Raises:
            SourceProtocolError: the event is malformed, or its kind is one that nobody can pass over.
            PositionLost: the server says that its log lacks something.
        """
        if len(event) < protocol.HEADER:
            raise protocol.malformed("an event's header")
        kind = event[4]
        if kind == _FORMAT:
            self._checksums = protocol.has_checksums(event)
            self._begun = True
            self._sinks = {}
            if not protocol.header(event).flags & protocol.ARTIFICIAL:
                # A file begins: what a crash left half in the last one was never committed.
                self._open = None
            return False
        if self._checksums:
            event = protocol.verified(event)
        if kind in rows.ROWS:
            sink = self._sinks.get(tables.table_id(event))
            if sink is not None:
                self._touched = True
                sink(event, kind)
            return False
        if kind == _TABLE_MAP:
            self._sinks[tables.table_id(event)] = self._sink_of(event)
            return False
        head = protocol.header(event)
        if head.flags & protocol.ARTIFICIAL or kind in protocol.SILENT:
            if kind == Kind.ROTATE:
                self._rotate(event)
            return False
        return self._control(event, head)

    def _control(self, event: bytes, head: protocol.Header) -> bool:
        match head.kind:
            case Kind.MARIADB_GTID:
                gtid = protocol.mariadb_gtid(event, head.server_id)
                self._begin(gtid, alone=gtid.alone)
            case Kind.MYSQL_GTID:
                # Alone until a BEGIN says otherwise.
                self._begin(protocol.mysql_gtid(event), alone=True)
            case Kind.XID | Kind.XA_PREPARE:
                return self._end(head)
            case Kind.QUERY | Kind.QUERY_COMPRESSED:
                return self._statement(protocol.query(event, compressed=head.kind != Kind.QUERY), head)
            case Kind.ROTATE:
                self._rotate(event)
            case Kind.PAYLOAD:
                # A whole transaction, packed by MySQL in a way that this version does not unpack.
                self._all("transaction_packed")
                return self._end(head)
            case Kind.PARTIAL_UPDATE | Kind.EXECUTE_LOAD:
                self._all("rows_not_logged")
            case Kind.INCIDENT:
                raise PositionLost(
                    "position_lost", "the server's binary log has a hole, it says so itself",
                    hint="see the server's error log for the incident, then `connector resync PARTY`",
                )  # fmt: skip
            case Kind.MYSQL_ANONYMOUS | Kind.MYSQL_TAGGED_GTID:
                raise SourceProtocolError(
                    "a transaction without a GTID that this version can follow",
                    hint="set gtid_mode = ON and use untagged GTIDs, then `connector resync PARTY`",
                )
            case _ if not head.flags & protocol.IGNORABLE:
                self._all(f"event_unknown_{head.kind}")
        return False

    # -- transactions

    def _begin(self, gtid: MariaDbGtid | tuple[str, int], *, alone: bool) -> None:
        if self._open is not None:
            raise SourceProtocolError("a transaction began inside another in the binary log")
        self._open, self._alone, self._touched = gtid, alone, False

    def _end(self, head: protocol.Header) -> bool:
        match self._open, self._gtids:
            case MariaDbGtid() as gtid, MariaDbGtids() as gtids:
                gtids.last[gtid.domain] = (gtid.server_id, gtid.sequence)
            case (server, number), MySqlGtids() as sets:
                sets.add(server, number)
            case _:
                return False
        self._open = None
        self._transactions += 1
        offset = self._base + head.end
        if offset < self._offset:
            # A file that one transaction made longer than 4 GiB: the log's own numbers begin anew.
            self._base += 1 << 32
            offset += 1 << 32
        self._offset = offset
        if self._touched:
            self._buffer.committed(self._transactions, (head.timestamp - _UNIX_2000) * 1_000_000)
        return True

    def _rotate(self, event: bytes) -> None:
        file, offset = protocol.rotation(event)
        if file != self._file:
            self._file, self._offset, self._base = file, offset, 0
        self._sinks = {}

    def _statement(self, found: protocol.Query, head: protocol.Header) -> bool:
        effect = statements.effect(found.text)
        if effect is Effect.BEGIN:
            self._alone = False
            return False
        if effect in (Effect.ROWS, Effect.PREPARED):
            self._all("statement_logged" if effect is Effect.ROWS else "prepared_before")
        if effect in (Effect.END, Effect.PREPARED):
            return self._end(head)
        if effect is Effect.NAMED:
            for table in self._names.named(found.text):
                self._whole(self._routes[table])
        return self._end(head) if self._alone else False

    # -- what is touched

    def _whole(self, routes: Sequence[Route]) -> None:
        self._touched = True
        for route in routes:
            self._buffer.whole(route.entity)

    def _all(self, reason: str) -> None:
        self._log.warning(
            "rows_not_in_log", reason=reason,
            hint="a session at the party left binlog_format = ROW, or used XA; every view is read again",
        )  # fmt: skip
        for routes in self._routes.values():
            self._whole(routes)

    def _sink_of(self, event: bytes) -> Sink | None:
        body = event[protocol.HEADER :]
        if body not in self._known:
            if len(self._known) >= _TABLES_MAX:
                self._known = {}
            self._known[body] = self._made(tables.parse(event, mariadb=isinstance(self._gtids, MariaDbGtids)))
        return self._known[body]

    def _made(self, table: tables.Table) -> Sink | None:
        routes = self._routes.get((self._fold(table.schema), self._fold(table.name)))
        if routes is None:
            return None
        if table.columns is None:
            self._log.warning(
                "table_unreadable", table=f"{table.schema}.{table.name}",
                hint="it has TIME, DATETIME or TIMESTAMP columns in an old format: `alter table ... force` renews them",
            )  # fmt: skip
            return lambda _event, _kind: self._whole(routes)
        wanted, touches = self._plan(table, routes)
        read = RowReader(table.columns, wanted).changes

        def sink(event: bytes, kind: int) -> None:
            try:
                for old, new in read(event, kind):
                    for touch in touches:
                        touch(old, new)
            except Unreadable:
                self._log.warning("rows_unreadable", table=f"{table.schema}.{table.name}")
                self._whole(routes)

        return sink

    def _plan(self, table: tables.Table, routes: Sequence[Route]) -> tuple[list[int], list[Touch]]:
        """The columns to read, and what each row does to each entity."""
        wanted: list[int] = []
        touches: list[Touch] = []
        for route in routes:
            pairs = route.key or route.match
            readers = [self._reader(table, route.entity, pair) for pair in pairs]
            known = [one for one in readers if one is not None]
            if not pairs or len(known) < len(pairs):
                touches.append(self._touch_whole(route))
                continue
            slots = []
            for place, _ in known:
                if place not in wanted:
                    wanted.append(place)
                slots.append(wanted.index(place))
            touches.append(self._touch(route, slots, [text for _, text in known]))
        return wanted, touches

    def _reader(self, table: tables.Table, entity: str, pair: tuple[str, str]) -> tuple[int, ToText] | None:
        """Where a column of the view stands in the table's rows, and how its bytes become text."""
        shown, base = pair
        place = table.place(base)
        assert table.columns is not None
        found = None
        if place is not None:
            kind = self._views.types.get(entity, {}).get(shown, "")
            found = reader(table.columns[place], self._views.charsets, kind)
        if found is None or place is None:
            self._log.warning(
                "key_not_in_log", entity=entity, table=f"{table.schema}.{table.name}", column=base,
                hint="the column is gone, unnamed (binlog_row_metadata) or of a type whose text the log does not give:"
                " each change of this table has the view read whole; `connector check` says more",
            )  # fmt: skip
            return None
        return place, found

    def _touch_whole(self, route: Route) -> Touch:
        return lambda _old, _new: self._buffer.whole(route.entity)

    def _touch(self, route: Route, slots: Sequence[int], texts: Sequence[ToText]) -> Touch:
        if not route.key:
            match = Match(route.entity, tuple(shown for shown, _ in route.match))
            return self._touch_match(match, slots, texts, stays=route.stays)
        shown = tuple(column for column, _ in route.key)
        types = self._views.types.get(route.entity, {})
        loose = route.entity in self._joined and any(_folds(types.get(column, "")) for column in shown)
        same = Match(route.entity, shown) if loose else None

        def touch(old: Values | None, new: Values | None) -> None:
            if new is not None:
                self._add(route.entity, same, slots, texts, new)
            if old is not None and old != new:
                self._add(route.entity, same, slots, texts, old)

        return touch

    def _add(
        self, entity: str, same: Match | None, slots: Sequence[int], texts: Sequence[ToText], values: Values
    ) -> None:
        key = _text(slots, texts, values)
        if key is ABSENT:
            self._buffer.whole(entity)
        elif key is not None:
            self._buffer.keys(entity).add(key)
            if same is not None:
                # Joined by a collation that calls different texts equal: the view may show the other spelling.
                self._buffer.matches(same).add(key)

    def _touch_match(self, match: Match, slots: Sequence[int], texts: Sequence[ToText], *, stays: bool) -> Touch:
        def touch(old: Values | None, new: Values | None) -> None:
            was, now = (None if values is None else _text(slots, texts, values) for values in (old, new))
            if was is not None and was != now and not stays:
                # The joined row is gone, or is joined to others now: with an inner join the view's rows are gone with
                # it, and cannot be found by a value that they no longer show.
                self._buffer.whole(match.entity)
            for key in (was, now):
                if key is ABSENT:
                    self._buffer.whole(match.entity)
                elif key is not None:  # NULL joins nothing
                    self._buffer.matches(match).add(key)

        return touch


def _text(slots: Sequence[int], texts: Sequence[ToText], values: Values) -> str | Absent | None:
    """The key's text; None for a key with a NULL, absent where the log does not carry it or it is no text."""
    parts: list[str] = []
    absent = False
    for slot, text in zip(slots, texts, strict=True):
        value = values[slot]
        if value is None:
            return None  # no row of the view has a NULL key that we could stage; the copy reports those
        part = None if value is ABSENT else text(value)
        if part is None:
            absent = True
        else:
            parts.append(part)
    return ABSENT if absent else source_key(parts)


def _folds(view_type: str) -> bool:
    """Whether equal, for the engine, may be different texts: any collation of letters but the binary ones."""
    collation = view_type.rpartition(" ")[2]
    return "_" in collation and not collation.endswith("_bin")
