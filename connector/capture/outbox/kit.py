"""The outbox kit: a change table and triggers that note key columns, as SQL that a party's DBA reviews and runs. Pure.

First, do no harm. On PostgreSQL a note that cannot be written is a warning and the party's statement goes on. MariaDB
and SQLite look the change table up before a trigger runs: there it must never be dropped before its triggers, and the
script says so. What no trigger sees (MariaDB's foreign-key cascades and TRUNCATE, statements on one partition) the
scheduled diff finds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from connector.errors import UsageError

Engine = Literal["postgresql", "mariadb", "mysql", "sqlite"]
LOCK_TIMEOUT_S = 5
# Bytes of a name that every engine takes, less our suffixes.
NAME_BYTES_MAX = 48


@dataclass(frozen=True, slots=True)
class OutboxTable:
    """A base table, and the columns that tell which view rows its changes touch; none: every row may be touched."""

    schema: str
    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutboxRequest:
    """`name` is the change table's, in `schema` (SQLite: `main`); `reader` is a login (MariaDB: `user@host`)."""

    engine: Engine
    schema: str
    name: str
    reader: str
    tables: tuple[OutboxTable, ...]
    views: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One statement, and why it is needed."""

    why: str
    sql: str


def kit_steps(request: OutboxRequest) -> tuple[Step, ...]:
    """What installs the kit; running it again changes nothing.

    Raises:
        UsageError: a name cannot be used.
    """
    _refuse_bad_names(request)
    match request.engine:
        case "postgresql":
            return tuple(_postgres(request))
        case "sqlite":
            return tuple(_sqlite(request))
        case _:
            return tuple(_mysql(request))


def removal_steps(request: OutboxRequest) -> tuple[Step, ...]:
    """What takes the kit away again, triggers first."""
    _refuse_bad_names(request)
    quote = _quoter(request.engine)
    found: list[Step] = []
    if request.engine == "postgresql":
        found += _remove_postgres(request)
    else:
        for table in request.tables:
            for event in "iud":
                trigger = f"{quote(table.schema)}.{quote(_trigger(request, table, event))}"
                found.append(Step("triggers first: without their table they would fail the party's writes",
                                  f"drop trigger if exists {trigger}"))  # fmt: skip
        found += [
            Step("the change table", f"drop table if exists {quote(request.schema)}.{quote(name)}")
            for name in (request.name, f"{request.name}_mark")
        ]
    return tuple(found)


def script(steps: Sequence[Step], engine: Engine) -> str:
    """The steps as one script for the engine's own client."""
    end = "//" if engine in ("mariadb", "mysql") else ";"
    head = "delimiter //\n" if end == "//" else ""
    return head + "\n".join(f"-- {step.why}\n{step.sql}{end}\n" for step in steps)


# ------------------------------------------------------------------------------------------------ postgresql


def _postgres(request: OutboxRequest) -> Iterator[Step]:
    schema, name, owner = _pg(request.schema), _pg(request.schema, request.name), _pg(f"{request.name}_owner")
    mark, reader = _pg(request.schema, f"{request.name}_mark"), _pg(request.reader)
    yield Step("a kit that waits for a lock makes writers queue behind it", f"set lock_timeout = '{LOCK_TIMEOUT_S}s'")
    yield Step(
        "owns what follows; nobody logs in as it",
        f"do $kit$ begin create role {owner} nologin; exception when duplicate_object then null; end $kit$",
    )
    yield Step("a place for the kit's objects", f"create schema if not exists {schema}")
    yield Step("the owner of the functions works in it", f"grant usage on schema {schema} to {owner}")
    yield Step(
        "notes: which table, and the key columns' text. Never names or addresses",
        f"create table if not exists {name} (id bigint generated always as identity primary key, tabel text not null,"
        " kunci jsonb, dicatat timestamptz not null default clock_timestamp())",
    )
    yield Step(
        "after which hand-over notes were last removed: a restored staging is noticed by it",
        f"create table if not exists {mark} (only_row boolean primary key default true check (only_row),"
        " handed bigint not null default 0)",
    )
    yield Step("its one row", f"insert into {mark} default values on conflict do nothing")
    for one in (name, mark):
        yield Step("the functions act as this role", f"alter table {one} owner to {owner}")
        yield Step("nobody but the reader", f"revoke all on {one} from public")
        yield Step("the reader reads", f"grant select on {one} to {reader}")
    yield from _prune(request, owner, reader)
    for table in request.tables:
        yield from _pg_triggers(request, table, owner)
    yield Step("the reader comes in", f"grant usage on schema {schema} to {reader}")
    for view_schema in dict.fromkeys(view[0] for view in request.views):
        yield Step("to the views", f"grant usage on schema {_pg(view_schema)} to {reader}")
    for view in request.views:
        yield Step("and reads them, and nothing else", f"grant select on {_pg(*view)} to {reader}")
    yield Step("back to the session's own", "reset lock_timeout")


def _prune(request: OutboxRequest, owner: str, reader: str) -> Iterator[Step]:
    function = _pg(request.schema, f"{request.name}_prune")
    yield Step(
        "removes exactly the notes that were applied; the reader needs no right to delete",
        f"create or replace function {function}(ids bigint[], handed_over bigint) returns void"
        " language sql security definer set search_path = pg_catalog, pg_temp as $kit$"
        f" delete from {_pg(request.schema, request.name)} where id = any (ids);"
        f" update {_pg(request.schema, f'{request.name}_mark')} set handed = handed_over; $kit$",
    )
    yield Step("acts as the owner of the notes", f"alter function {function}(bigint[], bigint) owner to {owner}")
    yield Step("not for everybody", f"revoke all on function {function}(bigint[], bigint) from public")
    yield Step("for the reader", f"grant execute on function {function}(bigint[], bigint) to {reader}")


_TRANSITIONS = {
    "i": ("insert", "referencing new table as baru", ("baru",)),
    "u": ("update", "referencing old table as lama new table as baru", ("lama", "baru")),
    "d": ("delete", "referencing old table as lama", ("lama",)),
    "t": ("truncate", "", ()),
}


def _pg_triggers(request: OutboxRequest, table: OutboxTable, owner: str) -> Iterator[Step]:
    for event, (verb, referencing, sources) in _TRANSITIONS.items():
        trigger = _trigger(request, table, event)
        function = _pg(request.schema, trigger)
        yield Step(
            f"notes {verb}s of {_remark(table)}: once a statement, and never a reason for it to fail",
            f"create or replace function {function}() returns trigger language plpgsql security definer"
            " set search_path = pg_catalog, pg_temp as $kit$ begin"
            f" {_pg_note(request, table, sources)};"
            " return null; exception when others then"
            f" raise warning 'sipol: a change of % was not noted (%)', {_text(_full(table))}, sqlstate;"
            " return null; end $kit$",
        )
        yield Step("may write notes", f"alter function {function}() owner to {owner}")
        yield Step("called by its trigger only", f"revoke all on function {function}() from public")
        yield Step("once more is the same", f"drop trigger if exists {_pg(trigger)} on {_pg(table.schema, table.name)}")
        yield Step(
            "after the statement, with all its rows at once",
            f"create trigger {_pg(trigger)} after {verb} on {_pg(table.schema, table.name)} {referencing}"
            f" for each statement execute function {function}()",
        )


def _pg_note(request: OutboxRequest, table: OutboxTable, sources: Sequence[str]) -> str:
    into = f"insert into {_pg(request.schema, request.name)} (tabel, kunci)"
    if not sources or not table.columns:
        # A table without a key path: that something changed is all there is to say, once a statement.
        some = f" where exists (select from {sources[-1]})" if len(sources) == 1 else ""
        return f"{into} select {_text(_full(table))}, null{some}"
    columns = ", ".join(f"r.{_pg(column)}::text as c{n}" for n, column in enumerate(table.columns))
    rows = " union ".join(f"select {columns} from {source} r" for source in sources)
    pairs = ", ".join(f"{_text(column)}, k.c{n}" for n, column in enumerate(table.columns))
    return f"{into} select {_text(_full(table))}, jsonb_build_object({pairs}) from ({rows}) k"


def _remove_postgres(request: OutboxRequest) -> Iterator[Step]:
    schema, owner = request.schema, _pg(f"{request.name}_owner")
    yield Step(
        "a removal that waits for a lock makes writers queue behind it", f"set lock_timeout = '{LOCK_TIMEOUT_S}s'"
    )
    for table in request.tables:
        for event in _TRANSITIONS:
            trigger = _trigger(request, table, event)
            # With the function goes its trigger.
            yield Step(
                f"no more notes of {_remark(table)}", f"drop function if exists {_pg(schema, trigger)}() cascade"
            )
    yield Step("the pruning", f"drop function if exists {_pg(schema, f'{request.name}_prune')}(bigint[], bigint)")
    for name in (request.name, f"{request.name}_mark"):
        yield Step("the notes", f"drop table if exists {_pg(schema, name)}")
    for view in request.views:
        yield Step("the reader reads no more", f"revoke all on {_pg(*view)} from {_pg(request.reader)}")
    for one in dict.fromkeys((schema, *(view[0] for view in request.views))):
        yield Step("nor comes in", f"revoke all on schema {_pg(one)} from {_pg(request.reader)}")
    yield Step("its last rights", f"revoke all on schema {_pg(schema)} from {owner}")
    yield Step("nobody needs it now", f"drop role if exists {owner}")
    yield Step(
        "where nothing else is in it",
        f"do $kit$ begin drop schema {_pg(schema)}; exception when dependent_objects_still_exist then null; end $kit$",
    )
    yield Step("back to the session's own", "reset lock_timeout")


# ------------------------------------------------------------------------------------------- mariadb, mysql


def _mysql(request: OutboxRequest) -> Iterator[Step]:
    name, mark = _my(request.schema, request.name), _my(request.schema, f"{request.name}_mark")
    reader = _account(request.reader)
    yield Step(
        "notes: which table, and the key columns' text. Do not drop it before its triggers: see the removal",
        f"create table if not exists {name} (id bigint unsigned not null auto_increment primary key,"
        " tabel varchar(130) character set utf8mb4 not null, kunci longtext character set utf8mb4,"
        " dicatat timestamp(6) not null default current_timestamp(6)) engine=InnoDB",
    )
    yield Step(
        "after which hand-over notes were last removed: a restored staging is noticed by it",
        f"create table if not exists {mark} (only_row tinyint not null primary key, handed bigint not null)"
        " engine=InnoDB",
    )
    yield Step("its one row", f"insert ignore into {mark} (only_row, handed) values (1, 0)")
    for table in request.tables:
        for event, (verb, rows) in _ROW_EVENTS.items():
            yield Step(
                f"notes {verb}s of {_remark(table)}; a note that cannot be written is left out, the write goes on",
                f"create or replace trigger {_my(table.schema, _trigger(request, table, event))}"
                f" after {verb} on {_my(table.schema, table.name)} for each row begin"
                " declare continue handler for sqlexception begin end;"
                f" {_my_notes(name, table, rows)} end",
            )
    yield Step("the reader reads notes, and removes what was applied", f"grant select, delete on {name} to {reader}")
    yield Step("and writes down how far", f"grant select, update on {mark} to {reader}")
    for view in request.views:
        yield Step("and reads the views, and nothing else", f"grant select on {_my(*view)} to {reader}")


# Verb, and the rows whose keys are noted; the second only where it differs.
_ROW_EVENTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "i": ("insert", ("new",)),
    "u": ("update", ("old", "new")),
    "d": ("delete", ("old",)),
}


def _my_notes(name: str, table: OutboxTable, rows: Sequence[str]) -> str:
    into = f"insert into {name} (tabel, kunci)"
    if not table.columns:
        return f"{into} values ({_text(_full(table), backslashes=True)}, null);"
    notes = []
    for place, row in enumerate(rows):
        pairs = ", ".join(
            f"{_text(column, backslashes=True)}, cast({row}.{_my(column)} as char character set utf8mb4)"
            for column in table.columns
        )
        note = f"{into} values ({_text(_full(table), backslashes=True)}, json_object({pairs}));"
        if place:
            # Binary: what a collation calls equal are two keys.
            same = " and ".join(f"binary old.{_my(column)} <=> binary new.{_my(column)}" for column in table.columns)
            note = f"if not ({same}) then {note} end if;"
        notes.append(note)
    return " ".join(notes)


# --------------------------------------------------------------------------------------------------- sqlite


def _sqlite(request: OutboxRequest) -> Iterator[Step]:
    name, mark = _pg(request.schema, request.name), _pg(request.schema, f"{request.name}_mark")
    yield Step(
        "notes: which table, and the key columns' text. Do not drop it before its triggers: see the removal",
        f"create table if not exists {name} (id integer primary key autoincrement, tabel text not null, kunci text,"
        " dicatat text not null default current_timestamp)",
    )
    yield Step(
        "after which hand-over notes were last removed: a restored staging is noticed by it",
        f"create table if not exists {mark} (only_row integer primary key, handed integer not null)",
    )
    yield Step("its one row", f"insert or ignore into {mark} values (1, 0)")
    for table in request.tables:
        for event, (verb, rows) in _ROW_EVENTS.items():
            trigger = _pg(table.schema, _trigger(request, table, event))
            yield Step("once more is the same", f"drop trigger if exists {trigger}")
            yield Step(
                f"notes {verb}s of {_remark(table)}",
                f"create trigger {trigger} after {verb} on {_pg(table.name)} begin"
                f" {_lite_notes(request, table, rows)} end",
            )


def _lite_notes(request: OutboxRequest, table: OutboxTable, rows: Sequence[str]) -> str:
    # A trigger names its table without the schema.
    into = f"insert or ignore into {_pg(request.name)} (tabel, kunci)"
    if not table.columns:
        return f"{into} values ({_text(_full(table))}, null);"
    notes = []
    for place, row in enumerate(rows):
        pairs = ", ".join(f"{_text(column)}, {_lite_text(f'{row}.{_pg(column)}')}" for column in table.columns)
        same = " and ".join(f"old.{_pg(column)} is new.{_pg(column)}" for column in table.columns)
        condition = f" where not ({same})" if place else ""
        notes.append(f"{into} select {_text(_full(table))}, json_object({pairs}){condition};")
    return " ".join(notes)


def _lite_text(value: str) -> str:
    """The text that a re-read gives a key: whole numbers without a point, blobs as hexadecimal."""
    return (
        f"case typeof({value}) when 'blob' then '\\x' || lower(hex({value}))"
        f" when 'real' then case when {value} = cast({value} as integer) then cast(cast({value} as integer) as text)"
        f" else cast({value} as text) end else cast({value} as text) end"
    )


# ---------------------------------------------------------------------------------------------------- words


def _trigger(request: OutboxRequest, table: OutboxTable, event: str) -> str:
    """The same for the same table, whatever else the mapping names."""
    digest = hashlib.sha256(_full(table).encode()).hexdigest()[:8]
    return f"{request.name}_{digest}_{event}"


def _full(table: OutboxTable) -> str:
    return f"{table.schema}.{table.name}"


def _remark(table: OutboxTable) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in _full(table))


def _pg(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def _my(*names: str) -> str:
    return ".".join("`" + name.replace("`", "``") + "`" for name in names)


def _quoter(engine: Engine) -> Callable[..., str]:
    return _my if engine in ("mariadb", "mysql") else _pg


def _text(value: str, *, backslashes: bool = False) -> str:
    quoted = value.replace("'", "''")
    return "'" + (quoted.replace("\\", "\\\\") if backslashes else quoted) + "'"


def _account(reader: str) -> str:
    user, at, host = reader.partition("@")
    return f"{_text(user, backslashes=True)}@{_text(host if at else '%', backslashes=True)}"


def _refuse_bad_names(request: OutboxRequest) -> None:
    names = [request.schema, request.name, request.reader]
    for table in request.tables:
        names += [table.schema, table.name, *table.columns]
        if "." in table.schema:
            raise UsageError(f"{table.schema!r} cannot be a schema in a kit", hint="a name without a point")
    for name in (*names, *(part for view in request.views for part in view)):
        if not name or not name.isprintable() or "$kit$" in name:
            raise UsageError(f"{name!r} cannot be a name in a kit", hint="no control character")
    if len(request.name.encode()) > NAME_BYTES_MAX:
        raise UsageError(f"{request.name!r} is too long", hint=f"at most {NAME_BYTES_MAX} bytes: set `slot:`")
