-- What sources without a log last saw of a party's views. It moves in the transaction of the batch it belongs to:
-- a change is signalled until a batch with it is in, and never forgotten before.

create table connector.bucket (
    party    text not null references connector.party,
    entity   text not null,
    ordinal  numeric not null,
    upto     text not null,
    rows     bigint not null,
    digest   bytea not null check (octet_length(digest) = 16),
    keys     text[] not null,
    marks    bytea not null,
    primary key (party, entity, ordinal),
    constraint one_mark_per_key check (octet_length(marks) = 8 * cardinality(keys))
);
comment on table connector.bucket is 'A stretch of a view in key order, as a diff last saw it: one digest over its rows, and one for each key.';
comment on column connector.bucket.ordinal is 'Order of the stretches. Between two there is always room for another.';
comment on column connector.bucket.upto is 'The place of its last key in the words of the source; the last stretch goes on to the end.';

create table connector.cursor (
    party   text not null references connector.party,
    entity  text not null,
    value   text not null,
    primary key (party, entity)
) with (fillfactor = 50);
comment on table connector.cursor is 'How far a source that follows a column has read, in the words of that source.';

do $$
begin
    if 'lz4' = any ((select enumvals from pg_settings where name = 'default_toast_compression')::text[]) then
        alter table connector.bucket alter column keys set compression lz4;
    end if;
    alter table connector.bucket alter column marks set storage external;
end
$$;
