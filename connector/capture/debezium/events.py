"""Debezium's events, as its JSON converter writes them, become what `frames` carries. No JVM, no sockets, no clock.

A key's text is what the party's view would show for it. Where Debezium does not give enough to know that text, the
part is `UNKNOWN`, and the entity is read whole: slow, and nothing is missed.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from connector.capture.debezium.frames import END, GONE, KEYS, MARK, OLD, UNKNOWN, WHOLE

Part = str | int | None
Event = list[Any]

_UNIX_TO_2000_US: Final = 946_684_800 * 1_000_000
_BETWEEN: Final = ',"payload":'
_OPERATION: Final = '"op":"'


@dataclass(frozen=True, slots=True)
class Table:
    """A followed table: its number, and the columns whose values make its message key."""

    number: int
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One event: topic, key and value as JSON; whether a row only changed its key; the place, where it is asked for."""

    topic: str
    key: str
    value: str
    moved: bool
    place: str = ""


class EventReader:
    """Turns batches of records into events. Keeps what it learns of key schemas."""

    def __init__(self, prefix: str, tables: Mapping[str, Table], dialect: Dialect) -> None:
        """`tables`: by topic."""
        self._tables = tables
        self._transactions = f"{prefix}.transaction"
        self._messages = f"{prefix}.message"
        self._dialect = dialect
        self._readers: dict[tuple[str, str], tuple[tuple[str, Reader], ...]] = {}

    def batch(self, records: Sequence[Record]) -> tuple[list[Event], int]:
        """The events, and the place in `records` of the last one that ends a transaction; -1 where none does."""
        events: list[Event] = []
        last = -1
        for at, record in enumerate(records):
            table = self._tables.get(record.topic)
            if table is not None:
                self._row(events, record, table)
            elif record.topic == self._transactions or record.topic == self._messages:
                for event in self._boundary(record):
                    events.append(event)
                    last = at
        return events, last

    def _row(self, events: list[Event], record: Record, table: Table) -> None:
        schema, between, payload = record.key.partition(_BETWEEN)
        if not between or not table.columns:
            # A truncate has no key; a table without a key path needs none.
            _add(events, WHOLE, table.number, None)
            return
        # The payload's brace is followed by the envelope's own.
        values = json.loads(payload[:-1])
        readers = self._readers.get((record.topic, schema))
        if readers is None:
            readers = self._readers[record.topic, schema] = self._learn(schema, table)
        parts = [None if (value := values.get(name)) is None else read(value) for name, read in readers]
        kind = KEYS
        if operation(record.value) == "d":
            kind = OLD if record.moved else GONE
        _add(events, kind, table.number, parts)

    def _learn(self, schema: str, table: Table) -> tuple[tuple[str, Reader], ...]:
        fields = {field["field"]: field for field in json.loads(schema + "}")["schema"]["fields"]}
        return tuple(
            (name, self._dialect.reader(fields[name]) if name in fields else _unknown) for name in table.columns
        )

    def _boundary(self, record: Record) -> Iterator[Event]:
        value = json.loads(record.value)
        if record.topic == self._messages:
            if value.get("transaction") is None:
                yield [MARK, value["source"]["lsn"]]
        elif value["status"] == "END":
            place, number = self._dialect.end(value["id"], record.place)
            yield [END, place, number, value["ts_ms"] * 1_000 - _UNIX_TO_2000_US]


def operation(value: str) -> str:
    """The `op` of an event. Within a JSON text every quote is escaped, so the last such field is the envelope's."""
    at = value.rfind(_OPERATION)
    return value[at + len(_OPERATION) : at + len(_OPERATION) + 1] if at >= 0 else ""


def _add(events: list[Event], kind: str, table: int, parts: list[Part] | None) -> None:
    """Rows of one table and kind in a row share one event."""
    if events and events[-1][0] == kind and events[-1][1] == table:
        if parts is not None:
            events[-1][2].append(parts)
    else:
        events.append([kind, table] if parts is None else [kind, table, [parts]])


# ------------------------------------------------------------------------------------------------- text of a key

Reader = Callable[[Any], Part]


def _unknown(_: Any) -> Part:
    return UNKNOWN


def _text(value: Any) -> Part:
    # What Debezium makes of a numeric's infinities has no name of its own in the schema.
    return UNKNOWN if value in ("POSITIVE_INFINITY", "NEGATIVE_INFINITY") else str(value)


def _date(value: Any) -> Part:
    try:
        return (date(1970, 1, 1) + timedelta(days=value)).isoformat()
    except OverflowError:
        return UNKNOWN  # infinity, or a year that Python has not


def _moment(microseconds: int) -> Part:
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    except OverflowError:
        return UNKNOWN
    fraction = f".{moment.microsecond:06}".rstrip("0") if moment.microsecond else ""
    return moment.strftime("%Y-%m-%d %H:%M:%S").rjust(19, "0") + fraction


def _micro_timestamp(value: Any) -> Part:
    return _moment(value)


def _milli_timestamp(value: Any) -> Part:
    return _moment(value * 1_000)


_ZONED = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?Z")


def _zoned_timestamp(value: Any) -> Part:
    """With time zone, as a session in UTC shows it."""
    found = _ZONED.fullmatch(value)
    if found is None:
        return UNKNOWN
    return f"{found[1]} {found[2]}{(found[3] or '').rstrip('0').rstrip('.')}+00"


def _hexadecimal(value: Any) -> Part:
    return "\\x" + base64.b64decode(value).hex()


_WHOLE_NUMBERS = frozenset({"int8", "int16", "int32", "int64"})
_NAMED: Mapping[str, Reader] = {
    "io.debezium.data.Uuid": _text,
    "io.debezium.data.Enum": _text,
    "io.debezium.time.Date": _date,
}
_NAMED_POSTGRES: Mapping[str, Reader] = {
    **_NAMED,
    "io.debezium.time.MicroTimestamp": _micro_timestamp,
    "io.debezium.time.Timestamp": _milli_timestamp,
    "io.debezium.time.ZonedTimestamp": _zoned_timestamp,
}


class Dialect:
    """What differs between engines. This one is PostgreSQL's."""

    def reader(self, field: Mapping[str, Any]) -> Reader:
        """How a key field's value becomes the text that the view shows."""
        kind, name = field.get("type"), field.get("name")
        if name is not None:
            return _NAMED_POSTGRES.get(name, _unknown)
        if kind == "string":
            return _text
        if kind in _WHOLE_NUMBERS:
            return str
        if kind == "boolean":
            return _letter
        return _hexadecimal if kind == "bytes" else _unknown

    def end(self, identity: str, place: str) -> tuple[Any, int]:  # noqa: ARG002 - other engines need the place
        """Where a transaction ends, and its number, from the END event's id `xid:lsn`."""
        number, _, lsn = identity.partition(":")
        return int(lsn), int(number)


def _letter(value: Any) -> Part:
    return "t" if value else "f"
