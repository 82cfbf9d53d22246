-- What only a table's owner may do, for a daemon that is none: a party's partitions. Everything else it may by grants
-- (schemas/roles.sql). Who can call these can add an empty partition for a party and nothing else: a table that is
-- attached is never dropped, and only partitioned tables of schema staging are taken.

create function connector.partition_parent(entity text) returns regclass
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    parent regclass;
begin
    select c.oid into parent
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = 'staging' and c.relkind = 'p' and c.relname = entity;
    if parent is null then
        raise exception 'staging has no such entity' using errcode = '42P01';
    end if;
    return parent;
end
$$;

create function connector.begin_partition(entity text, parpol_id smallint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    parent  regclass := connector.partition_parent(entity);
    child   text := format('staging.%I', entity || '_p' || parpol_id);
begin
    if exists (select from pg_class c where c.oid = to_regclass(child) and c.relispartition) then
        raise exception 'the partition is attached' using errcode = '55006';
    end if;
    execute format('drop table if exists %s', child);
    -- Room on each page for the next version of its rows: with it, an update stays on the page (HOT).
    execute format('create table %s (like %s including defaults including constraints including storage,'
                   ' check (parpol_id = %s)) with (fillfactor = 85)', child, parent, parpol_id);
    if to_regrole('sipol_daemon') is not null then
        execute format('grant select, insert, update, delete on %s to sipol_daemon', child);
    end if;
end
$$;

create function connector.attach_partition(entity text, parpol_id smallint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    parent  regclass := connector.partition_parent(entity);
    child   text := format('staging.%I', entity || '_p' || parpol_id);
begin
    execute format('alter table %s add primary key (parpol_id, source_key)', child);
    execute format('alter table %s attach partition %s for values in (%s)', parent, child, parpol_id);
    -- A tenth of the usual sample: the planner only needs to know that the table is large.
    perform set_config('default_statistics_target', '10', true);
    execute format('analyze %s', child);
end
$$;

revoke all on function connector.partition_parent(text), connector.begin_partition(text, smallint),
                       connector.attach_partition(text, smallint) from public;

-- Which edition of schemas/roles.sql was run last, and over how many migrations.
create table connector.grants (
    only_row    boolean primary key default true check (only_row),
    sha256      bytea not null,
    version     integer not null,
    granted_at  timestamptz not null default now()
);
revoke all on connector.grants from public;
