"""The outbox kit's SQL for SQLite: row triggers. Pure.

A file has one writer at a time, so a trigger may look around.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from connector.capture.outbox.kit_mysql import ROW_EVENTS
from connector.capture.outbox.request import GONE, OutboxRequest, OutboxTable
from connector.capture.polling.reader import lite_check_views
from connector.capture.sqltext import Step, quoted, text


def steps(request: OutboxRequest) -> Iterator[Step]:
    notes, mark = quoted(request.schema, request.name), quoted(request.schema, request.mark)
    yield Step("nobody's work waits longer than this for ours", "pragma busy_timeout = 5000")
    yield Step(
        "notes: which table, and the key columns' text. Do not drop it before its triggers: see the removal",
        f"create table if not exists {notes} (id integer primary key autoincrement, tabel text not null, kunci text,"
        " dicatat text not null default current_timestamp)",
    )
    yield Step(
        "after which hand-over, and up to which note, they were last removed; and how many there may be",
        f"create table if not exists {mark} (only_row integer primary key, handed integer not null,"
        " pruned integer not null, notes_max integer not null, lost integer not null)",
    )
    yield Step("its one row", f"insert or ignore into {mark} values (1, 0, 0, {request.notes_max}, 0)")
    for table in request.tables:
        for event in ROW_EVENTS:
            yield Step("once more is the same", f"drop trigger if exists {_name(request, table, event)}")
            yield Step(f"notes {ROW_EVENTS[event][0]}s of {table.place}", trigger_text(request, table, event))
    if request.views:
        yield lite_check_views(request.views)


def removal(request: OutboxRequest) -> Iterator[Step]:
    yield Step("nobody's work waits longer than this for ours", "pragma busy_timeout = 5000")
    for table in request.tables:
        for event in ROW_EVENTS:
            yield Step(
                "triggers first: without their table they would fail the party's writes",
                f"drop trigger if exists {_name(request, table, event)}",
            )
    for name in (request.name, request.mark):
        yield Step("the change table", f"drop table if exists {quoted(request.schema, name)}")


def _name(request: OutboxRequest, table: OutboxTable, event: str) -> str:
    return quoted(table.schema, request.trigger(table, event))


def trigger_text(request: OutboxRequest, table: OutboxTable, event: str) -> str:
    """The whole statement. SQLite keeps it from `create trigger` on, which `check` compares."""
    verb, rows = ROW_EVENTS[event]
    notes = " ".join(_notes(request, table, rows))
    # A trigger names its table, and the tables that it writes, without the schema.
    return f"create trigger {_name(request, table, event)} after {verb} on {quoted(table.name)} begin {notes} end"


def _notes(request: OutboxRequest, table: OutboxTable, rows: Sequence[str]) -> Iterator[str]:
    mark = quoted(request.mark)
    full = f"coalesce((select max(id) from {quoted(request.name)}), 0) >= (select pruned + notes_max from {mark})"
    for nth, row in enumerate(rows if table.columns else rows[:1]):
        keys = "null"
        condition = f"where not ({full})"
        if table.columns:
            pairs = ", ".join(f"{text(column)}, {_lite_text(f'{row}.{quoted(column)}')}" for column in table.columns)
            gone = f", {text(GONE)}, 'x'" if table.tells_gone and row == "old" else ""
            keys = f"json_object({pairs}{gone})"
        if nth:
            same = " and ".join(f"old.{quoted(column)} is new.{quoted(column)}" for column in table.columns)
            condition += f" and not ({same})"
        yield (
            f"insert or ignore into {quoted(request.name)} (tabel, kunci)"
            f" select {text(table.place)}, {keys} {condition};"
        )
    yield f"update {mark} set lost = 2 where lost < 2 and {full};"


def _lite_text(value: str) -> str:
    """The text that a re-read gives a key: whole numbers without a point, blobs as hexadecimal."""
    return (
        f"case typeof({value}) when 'blob' then '\\x' || lower(hex({value}))"
        f" when 'real' then case when {value} = cast({value} as integer) then cast(cast({value} as integer) as text)"
        f" else cast({value} as text) end else cast({value} as text) end"
    )
