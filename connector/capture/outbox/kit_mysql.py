"""The outbox kit's SQL for MariaDB and MySQL: row triggers. Pure.

A trigger reads no table that we or the party's other sessions write: InnoDB would lock what it reads until the party's
transaction ends, and writers would wait for one another. The limit of notes is therefore kept in a sequence, which
takes no locks; MySQL has none, and there the notes have no limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from connector.capture.outbox.request import GONE, OutboxRequest, OutboxTable
from connector.capture.polling import reader
from connector.capture.sqltext import Step, account, mytext, ticked

# Event: the verb, and the rows whose keys are noted; the second only where it differs.
ROW_EVENTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "i": ("insert", ("new",)),
    "u": ("update", ("new", "old")),
    "d": ("delete", ("old",)),
}


def owner_account(request: OutboxRequest) -> str:
    return f"{mytext(request.owner)}@'localhost'"


def limit_name(request: OutboxRequest) -> str:
    """The sequence whose next value is the first note for which there is no room."""
    return f"{request.name}_batas"


def triggers_name(request: OutboxRequest) -> str:
    """The procedure that shows the kit's triggers: the reader itself may not see them."""
    return f"{request.name}_pemicu"


def steps(request: OutboxRequest) -> Iterator[Step]:
    yield from reader.my_beginning()
    yield from reader.my_reader(request.reader, request.views)
    yield from _objects(request)
    for table in request.tables:
        columns = ", ".join(ticked(column) for column in table.columns)
        rights = f"trigger, select ({columns})" if columns else "trigger"
        yield Step(
            "the triggers run with these rights: the key columns of the row at hand, and no other",
            f"grant {rights} on {ticked(table.schema, table.name)} to {owner_account(request)}",
        )
        for event, (verb, _) in ROW_EVENTS.items():
            yield from _trigger(request, table, event, verb)
    yield from _shown(request)


def _objects(request: OutboxRequest) -> Iterator[Step]:
    notes, mark = ticked(request.schema, request.name), ticked(request.schema, request.mark)
    owner, login = owner_account(request), account(request.reader)
    yield Step(
        "whose rights the triggers have; locked, nobody logs in as it. Do not drop it: your writes would fail",
        f"create user if not exists {owner} account lock",
    )
    yield Step(
        "notes: which table, and the key columns' text. Do not drop it before its triggers: see the removal",
        f"create table if not exists {notes} (id bigint unsigned not null auto_increment primary key,"
        " tabel varchar(130) character set utf8mb4 not null, kunci longtext character set utf8mb4,"
        " dicatat timestamp(6) not null default current_timestamp(6)) engine=InnoDB",
    )
    yield Step(
        "after which hand-over, and up to which note, they were last removed; and how many there may be",
        f"create table if not exists {mark} (only_row tinyint not null primary key, handed bigint not null,"
        " pruned bigint not null, notes_max bigint not null, lost tinyint not null) engine=InnoDB",
    )
    yield Step("its one row", f"insert ignore into {mark} values (1, 0, 0, {request.notes_max}, 0)")
    yield Step("the triggers write notes", f"grant select, insert, delete on {notes} to {owner}")
    yield Step("the reader reads notes, and removes what was applied", f"grant select, delete on {notes} to {login}")
    yield Step("and writes down how far", f"grant select, update on {mark} to {login}")
    if request.engine == "mariadb":
        limit = ticked(request.schema, limit_name(request))
        yield Step(
            "its next value is the first note for which there is no room; reading it takes no lock",
            f"create sequence if not exists {limit} start with {request.notes_max + 1} increment by 1 nocache",
        )
        yield Step("the triggers look at it", f"grant select on {limit} to {owner}")
        yield Step("the reader moves it on as it removes notes", f"grant select, insert on {limit} to {login}")


def _trigger(request: OutboxRequest, table: OutboxTable, event: str, verb: str) -> Iterator[Step]:
    name = ticked(table.schema, request.trigger(table, event))
    why = f"notes {verb}s of {table.place}; a note that cannot be written is left out, the write goes on"
    made = (
        f"definer = {owner_account(request)} trigger {name} after {verb} on {ticked(table.schema, table.name)}"
        f" for each row {trigger_body(request, table, event)}"
    )
    if request.engine == "mariadb":
        yield Step(why, f"create or replace {made}")
    else:
        yield Step("once more is the same", f"drop trigger if exists {name}")
        yield Step(why, f"create {made}")


def trigger_body(request: OutboxRequest, table: OutboxTable, event: str) -> str:
    """The text of a trigger, as `check` compares it with what the server has."""
    notes = " ".join(_notes(request, table, ROW_EVENTS[event][1]))
    return f"begin declare continue handler for sqlexception begin end; {notes} end"


def _notes(request: OutboxRequest, table: OutboxTable, rows: Sequence[str]) -> Iterator[str]:
    into = f"insert into {ticked(request.schema, request.name)} (tabel, kunci)"
    place = mytext(table.place)
    if not table.columns:
        yield _limited(request, f"{into} values ({place}, null);")
        return
    for nth, row in enumerate(rows):
        pairs = ", ".join(
            f"{mytext(column)}, cast({row}.{ticked(column)} as char character set utf8mb4)" for column in table.columns
        )
        if table.tells_gone and row == "old":
            pairs += f", {mytext(GONE)}, 'x'"
        note = _limited(request, f"{into} values ({place}, json_object({pairs}));")
        if nth:
            # Binary: what a collation calls equal are two keys.
            same = " and ".join(
                f"binary old.{ticked(column)} <=> binary new.{ticked(column)}" for column in table.columns
            )
            note = f"if not ({same}) then {note} end if;"
        yield note


def _limited(request: OutboxRequest, note: str) -> str:
    """A note for which there is no room is removed again: nobody else ever saw it, so nobody waits for it."""
    if request.engine != "mariadb":
        return note
    limit = ticked(request.schema, limit_name(request))
    return (
        f"{note} if last_insert_id() >= (select next_not_cached_value from {limit}) then"
        f" delete from {ticked(request.schema, request.name)} where id = last_insert_id(); end if;"
    )


def _shown(request: OutboxRequest) -> Iterator[Step]:
    name = ticked(request.schema, triggers_name(request))
    body = (
        "select event_object_schema, event_object_table, trigger_name, event_manipulation, action_timing,"
        " action_statement from information_schema.triggers"
        f" where definer = {mytext(f'{request.owner}@localhost')}"
    )
    yield Step("once more is the same", f"drop procedure if exists {name}")
    yield Step(
        "shows KPU's check that the triggers are there and whole; it shows nothing else",
        f"create definer = {owner_account(request)} procedure {name}() reads sql data sql security definer {body}",
    )
    for who in (owner_account(request), account(request.reader)):
        yield Step("may be called by these two", f"grant execute on procedure {name} to {who}")


def removal(request: OutboxRequest) -> Iterator[Step]:
    yield from reader.my_beginning()
    for table in request.tables:
        for event in ROW_EVENTS:
            yield Step(
                "triggers first: without their table they would fail the party's writes",
                f"drop trigger if exists {ticked(table.schema, request.trigger(table, event))}",
            )
    procedure = ticked(request.schema, triggers_name(request))
    yield Step("what showed them", f"drop procedure if exists {procedure}")
    mine = [(request.schema, request.name), (request.schema, request.mark)]
    if request.engine == "mariadb":
        mine.append((request.schema, limit_name(request)))
        yield Step("the limit", f"drop sequence if exists {ticked(*mine[-1])}")
    for name in mine[:2]:
        yield Step("the change table", f"drop table if exists {ticked(*name)}")
    yield Step("whose rights the triggers had", f"drop user if exists {owner_account(request)}")
    yield from reader.my_reader_removed(request.reader, [*mine, *request.views])
