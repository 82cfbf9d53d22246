-- What an auditor's questions look up: a party's batches in a time, those under a mapping, and the entries that are no batch.

create index sync_batch_ended on staging.sync_batch (party, ended_at);
create index sync_batch_mapping on staging.sync_batch (party, mapping_version, id);
create index sync_batch_entry on staging.sync_batch (party, audit_seq);

-- The body is bytes, and whoever writes to it behind our back may leave anything: this predicate fails for no bytes.
-- In a JSON text quotes are escaped, so it cannot be fooled by one.
create index entry_acts on audit.entry (at, party, seq)
 where position('"kind":"signals"'::bytea in body) = 0 and position('"kind":"copy"'::bytea in body) = 0;
