-- The tree over the entries of all parties: RFC 6962, kept so that a proof needs a handful of index reads.
-- Rows are added and never changed: what is a leaf now is a leaf for good.

-- Which entry is which leaf. Not a sequence: numbers are given to what was committed, by one sequencer, without a gap.
create table audit.leaf (
    idx    bigint primary key check (idx >= 0),
    party  text not null,
    seq    bigint not null,
    hash   bytea not null check (octet_length(hash) = 32),
    unique (party, seq)
);
comment on column audit.leaf.hash is 'SHA-256(0x00 || body) of the entry, as it was when it was taken into the tree.';

create table audit.subtree (
    level  smallint not null check (level between 1 and 7),
    idx    bigint not null check (idx >= 0),
    hash   bytea not null check (octet_length(hash) = 32),
    primary key (level, idx)
);
comment on table audit.subtree is 'Roots of the complete subtrees of 256, 65,536 ... leaves: a tile of a level is 256 rows.';

create table audit.checkpoint (
    size  bigint primary key check (size >= 1),
    root  bytea not null check (octet_length(root) = 32),
    note  text not null,
    at    timestamptz not null default clock_timestamp()
);
comment on table audit.checkpoint is 'Every checkpoint that was signed (C2SP tlog-checkpoint).';

-- Signatures of others, as they came. Kept apart from the checkpoint: they come later, and one by one.
create table audit.cosignature (
    size     bigint not null references audit.checkpoint,
    witness  text not null,
    line     text not null,
    at       timestamptz not null default clock_timestamp(),
    primary key (size, witness, line)
);

-- What the sequencer says of itself. `anchored_at`: when the log's newest checkpoint was last known outside this database.
create table audit.sequencer (
    only_row     boolean primary key default true check (only_row),
    origin       text,
    state        text not null default 'never started',
    message      text,
    hint         text,
    size         bigint not null default 0,
    anchored_at  timestamptz,
    heartbeat_at timestamptz
) with (fillfactor = 50);
insert into audit.sequencer default values;

create trigger leaf_is_append_only before update or delete or truncate on audit.leaf
    for each statement execute function audit.refuse_change();
alter table audit.leaf enable always trigger leaf_is_append_only;
create trigger subtree_is_append_only before update or delete or truncate on audit.subtree
    for each statement execute function audit.refuse_change();
alter table audit.subtree enable always trigger subtree_is_append_only;
create trigger checkpoint_is_append_only before update or delete or truncate on audit.checkpoint
    for each statement execute function audit.refuse_change();
alter table audit.checkpoint enable always trigger checkpoint_is_append_only;

revoke all on audit.leaf, audit.subtree, audit.checkpoint, audit.cosignature, audit.sequencer from public;
revoke update, delete, truncate on audit.leaf, audit.subtree, audit.checkpoint from current_user;
