"""The outbox kit's SQL for PostgreSQL: statement triggers with transition tables. Pure.

Each base table has a transaction of its own: the kit never holds one table's lock while it waits for another's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from connector.capture.outbox.request import GONE, OutboxRequest, OutboxTable
from connector.capture.polling import reader
from connector.capture.postgres.kit_reader import drop_schema_body, make_schema_body
from connector.capture.postgres.kit_request import MARK
from connector.capture.postgres.quoting import text, texts
from connector.capture.sqltext import Step, do, quoted


def steps(request: OutboxRequest) -> Iterator[Step]:
    schema, owner = quoted(request.schema), quoted(request.owner)
    yield from reader.pg_beginning()
    tables = _wanted(request)
    yield reader.pg_refusal(request.reader, request.views, (_role_taken(request), _table_problems(tables)), tables)
    yield from reader.pg_reader(request.reader, request.views)
    yield Step("owns what follows; nobody logs in as it", do(_make_owner(request)))
    yield Step("a place for the kit's objects", do(make_schema_body(request.schema)))
    yield Step("the owner works in it, and may own objects there", f"grant usage, create on schema {schema} to {owner}")
    yield from _tables(request)
    yield from _prune(request)
    yield Step("the reader comes in", f"grant usage on schema {schema} to {quoted(request.reader)}")
    yield Step("the notes are there", "commit")
    for table in request.tables:
        yield from _triggers(request, table)
    yield reader.pg_check_views(request.reader, request.views)


def removal(request: OutboxRequest) -> Iterator[Step]:
    yield Step("this file is UTF-8, whatever the client assumes", "set client_encoding = 'UTF8'")
    for table in request.tables:
        yield from reader.pg_transaction()
        for event in TRANSITIONS:
            function = f"{quoted(request.schema, request.trigger(table, event))}()"
            # With the function goes its trigger; the table may be gone already, and its triggers with it.
            yield Step(f"no more notes of {table.place}", f"drop function if exists {function} cascade")
        yield Step("its writers go on", "commit")
    yield from reader.pg_transaction()
    yield Step("the pruning", f"drop function if exists {quoted(request.schema, f'{request.name}_prune')}{_PRUNE}")
    yield Step("and the way back", f"drop function if exists {quoted(request.schema, f'{request.name}_reopen')}()")
    for name in (request.name, request.mark, f"{request.name}_lost"):
        yield Step("the notes", f"drop table if exists {quoted(request.schema, name)}")
    yield reader.pg_roles_removed((request.owner, request.reader), request.schema, request.views)
    yield Step("the schema, where the kit made it and nothing else is in it", do(drop_schema_body(request.schema)))
    yield Step("all of it", "commit")
    yield reader.pg_leftovers((request.owner, request.reader))


# ------------------------------------------------------------------------------------------------- refusals


def _wanted(request: OutboxRequest) -> str:
    rows = ", ".join(f"({text(table.schema)}, {text(table.name)}, {texts(table.columns)})" for table in request.tables)
    return f"(values {rows}) as t(schema_name, table_name, key_columns)" if rows else reader.NO_TABLES


def _role_taken(request: OutboxRequest) -> str:
    return f"""\
select 'error' as level, 'ROLE_TAKEN' as code, quote_ident(rolname) as subject,
       'is a role that this kit did not make' as message,
       'choose another name with `slot:` in connector.yaml' as remedy
  from pg_roles where rolname = {text(request.owner)}
   and coalesce(shobj_description(oid, 'pg_authid'), '') not like '{MARK}:%'"""


def _table_problems(tables: str) -> str:
    return f"""\
select p.level, p.code, format('%I.%I', t.schema_name, t.table_name) as subject, p.message, p.remedy
  from {tables}
  left join pg_namespace n on n.nspname = t.schema_name
  left join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name and c.relkind in ('r', 'p', 'v', 'm', 'f')
  cross join lateral (
    select array(select k from unnest(t.key_columns) k
                  where not exists (select from pg_attribute a
                                     where a.attrelid = c.oid and a.attname = k and not a.attisdropped)) as absent
  ) columns
  cross join lateral (values
    (c.oid is null, 'error', 'TABLE_MISSING', 'the table does not exist',
     'correct its name in the mapping''s lineage; upper case and spaces count'),
    (c.relkind in ('v', 'm', 'f'), 'error', 'NOT_A_TABLE', 'is a view or a foreign table: a trigger would see nothing',
     'name the base tables that the view reads in the mapping''s lineage instead'),
    (c.oid is not null and cardinality(columns.absent) > 0, 'error', 'KEY_COLUMN_MISSING',
     'has no column ' || array_to_string(columns.absent, ', '), 'correct the column in the mapping''s lineage'),
    (c.relkind = 'r' and exists (
       select from pg_inherits h join pg_class child on child.oid = h.inhrelid
        where h.inhparent = c.oid
          and not exists (select from {tables} join pg_namespace s on s.nspname = t.schema_name
                           where s.oid = child.relnamespace and t.table_name = child.relname)),
     'error', 'CHILD_TABLES', 'has child tables (INHERITS) that the lineage does not name: their changes would be '
     'missed', 'name each child table in the mapping''s lineage with the same key'),
    (c.oid is not null and not has_table_privilege(c.oid, 'trigger'), 'error', 'TRIGGER_DENIED',
     'this session may make no trigger on it', 'run the kit as its owner, or as superuser')
  ) p(hit, level, code, message, remedy)
 where p.hit
 order by 3, 2"""


# -------------------------------------------------------------------------------------------------- objects


def _make_owner(request: OutboxRequest) -> str:
    owner = quoted(request.owner)
    return f"""
begin
  if not exists (select from pg_roles where rolname = {text(request.owner)}) then
    create role {owner} nologin noreplication nosuperuser nocreatedb nocreaterole nobypassrls noinherit;
    comment on role {owner} is '{MARK}: owner of {request.name}';
  end if;
  -- Only a member of a role may give it objects.
  if not (select rolsuper from pg_roles where rolname = current_user) then
    execute format('grant %I to %I', {text(request.owner)}, current_user);
  end if;
end
"""


def _tables(request: OutboxRequest) -> Iterator[Step]:
    notes, mark = quoted(request.schema, request.name), quoted(request.schema, request.mark)
    lost, owner = quoted(request.schema, f"{request.name}_lost"), quoted(request.owner)
    yield Step(
        "notes: which table, and the key columns' text. Never names or addresses",
        f"create table if not exists {notes} (id bigint generated always as identity primary key, tabel text not null,"
        " kunci jsonb, dicatat timestamptz not null default clock_timestamp())",
    )
    yield Step(
        "after which hand-over, and up to which note, they were last removed; and how many there may be",
        f"create table if not exists {mark} (only_row boolean primary key default true check (only_row),"
        f" handed bigint not null default 0, pruned bigint not null default 0,"
        f" notes_max bigint not null default {request.notes_max}, lost boolean not null default false)",
    )
    yield Step("its one row", f"insert into {mark} default values on conflict do nothing")
    yield Step(
        "a row here says that notes were left out because there was no room",
        f"create table if not exists {lost} (at timestamptz not null default clock_timestamp())",
    )
    for one in (notes, mark, lost):
        yield Step("the functions act as this role", f"alter table {one} owner to {owner}")
        yield Step("nobody but the reader", f"revoke all on {one} from public")
        yield Step("the reader reads", f"grant select on {one} to {quoted(request.reader)}")


_PRUNE = "(bigint[], bigint, boolean)"


def prune_body(request: OutboxRequest) -> str:
    notes, mark = quoted(request.schema, request.name), quoted(request.schema, request.mark)
    return (
        f" delete from {notes} where id = any (ids);"
        f" update {mark} set handed = handed_over, lost = lost and not mended,"
        " pruned = greatest(pruned, (select max(id) from unnest(ids) as id)); "
    )


def reopen_body(request: OutboxRequest) -> str:
    mark, lost = quoted(request.schema, request.mark), quoted(request.schema, f"{request.name}_lost")
    sequence = quoted(request.schema, f"{request.name}_id_seq")
    return (
        f" delete from {lost};"
        f" update {mark} set lost = true, pruned = greatest(pruned, (select last_value from {sequence})); "
    )


def _prune(request: OutboxRequest) -> Iterator[Step]:
    bodies = {
        f"{quoted(request.schema, f'{request.name}_prune')}(ids bigint[], handed_over bigint, mended boolean)": (
            "removes exactly the notes that were applied; the reader needs no right to delete", prune_body(request)
        ),
        f"{quoted(request.schema, f'{request.name}_reopen')}()": (
            "makes room again after notes were left out; that they were stays written down until KPU has mended it",
            reopen_body(request),
        ),
    }  # fmt: skip
    for signature, (why, body) in bodies.items():
        name = signature.replace("ids bigint[], handed_over bigint, mended boolean", _PRUNE.strip("()"))
        yield Step(
            why,
            f"create or replace function {signature} returns void"
            f" language sql security definer set search_path = pg_catalog, pg_temp as $kit${body}$kit$",
        )
        yield Step("acts as the owner of the notes", f"alter function {name} owner to {quoted(request.owner)}")
        yield Step("not for everybody", f"revoke all on function {name} from public")
        yield Step("for the reader", f"grant execute on function {name} to {quoted(request.reader)}")


# Keys in one note at most: some kilobytes of text.
KEYS_OF_A_NOTE = 1_000

# Event: the verb, how its trigger names the rows, and those rows' names.
TRANSITIONS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "i": ("insert", "referencing new table as baru", ("baru",)),
    "u": ("update", "referencing old table as lama new table as baru", ("lama", "baru")),
    "d": ("delete", "referencing old table as lama", ("lama",)),
    "t": ("truncate", "", ()),
}


def _triggers(request: OutboxRequest, table: OutboxTable) -> Iterator[Step]:
    yield from reader.pg_transaction()
    for event, (verb, referencing, _) in TRANSITIONS.items():
        trigger = request.trigger(table, event)
        function = quoted(request.schema, trigger)
        yield Step(
            f"notes {verb}s of {table.place}: once a statement, and never a reason for it to fail",
            f"create or replace function {function}() returns trigger language plpgsql security definer"
            f" set search_path = pg_catalog, pg_temp as $kit${trigger_body(request, table, event)}$kit$",
        )
        yield Step("may write notes", f"alter function {function}() owner to {quoted(request.owner)}")
        yield Step("called by its trigger only", f"revoke all on function {function}() from public")
        place = quoted(table.schema, table.name)
        made = f"create trigger {quoted(trigger)} after {verb} on {place} {referencing}"
        yield Step(
            "after the statement, with all its rows at once; one that is there is left alone",
            do(
                f"\nbegin\n  if not exists (select from pg_trigger where tgname = {text(trigger)}"
                f" and tgrelid = {text(place)}::regclass) then\n"
                f"    {made}\n      for each statement execute function {function}();\n  end if;\nend\n"
            ),
        )
    yield Step(f"{table.place} is followed; its writers go on", "commit")


def trigger_body(request: OutboxRequest, table: OutboxTable, event: str) -> str:
    """The text of a trigger's function, as `check` compares it with what the server has."""
    mark, lost = quoted(request.schema, request.mark), quoted(request.schema, f"{request.name}_lost")
    sequence = quoted(request.schema, f"{request.name}_id_seq")
    sources = TRANSITIONS[event][2]
    note = _keys_note(request, table, sources) if sources and table.columns else _whole_note(request, table, sources)
    return f"""
declare
  room bigint;
  noted bigint;
begin
  select m.pruned + m.notes_max - s.last_value into room from {mark} m, {sequence} s;
{note}
  if noted >= room and not exists (select from {lost}) then
    insert into {lost} default values;
  end if;
  return null;
exception when others then
  raise warning 'sipol: a change of % was not noted (%)', {text(table.place)}, sqlstate;
  return null;
end
"""


def _whole_note(request: OutboxRequest, table: OutboxTable, sources: Sequence[str]) -> str:
    """A table without a key path, or a truncate: that something changed is all there is to say, once a statement."""
    some = f" where exists (select from {sources[-1]})" if len(sources) == 1 else ""
    return f"""\
  insert into {quoted(request.schema, request.name)} (tabel, kunci) select {text(table.place)}, null{some}
   limit greatest(room, 0);
  get diagnostics noted = row_count;"""


def _rows_or_gone(columns: str, sources: Sequence[str]) -> str:
    """As rows are now, and marked those whose keys no row has any more."""
    here = f"select {columns}, null::text as gone from baru r"
    gone = f"select {columns}, 'x'::text as gone from lama r"
    if "lama" not in sources:
        return here
    if "baru" not in sources:
        return f"select distinct * from ({gone}) g"
    return f"({here}) union ({gone} except select {columns}, 'x'::text from baru r)"


def _keys_note(request: OutboxRequest, table: OutboxTable, sources: Sequence[str]) -> str:
    """The keys of a statement's rows, many to a note: a bulk update of 100,000 rows writes a hundred notes.

    A note's number is its last key's, so that the limit counts keys. Keys are made distinct by UNION: the plan is made
    once, for the first statement, and a join that suits one row would take a bulk update hours.
    """
    sequence = text(f"{quoted(request.schema, f'{request.name}_id_seq')}")
    columns = ", ".join(f"r.{quoted(column)}::text as c{n}" for n, column in enumerate(table.columns))
    rows = " union ".join(f"select {columns} from {source} r" for source in sources)
    pairs = ", ".join(f"{text(column)}, to_jsonb(array_agg(keys.c{n}))" for n, column in enumerate(table.columns))
    if table.tells_gone:
        rows = _rows_or_gone(columns, sources)
        pairs += f", {text(GONE)}, to_jsonb(array_agg(keys.gone))"
    return f"""\
  with keys as materialized (
    select k.*, nextval({sequence}::regclass) as id, (row_number() over () - 1) / {KEYS_OF_A_NOTE} as part
      from ({rows}) k limit greatest(room, 0)
  ), notes as (
    insert into {quoted(request.schema, request.name)} (id, tabel, kunci) overriding system value
    select max(keys.id), {text(table.place)}, jsonb_build_object({pairs}) from keys group by keys.part
  )
  select count(*) into noted from keys;"""
