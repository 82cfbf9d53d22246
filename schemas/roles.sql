-- Who may do what in staging. `connector migrate` runs this file after every migration and whenever it has changed, so
-- a new table is covered; it may be run any number of times. Each role is a group without a login: grant it to a login.
--
--   sipol_daemon   works for the parties: writes rows, adds to the audit log, cannot change or remove an entry, owns nothing
--   sipol_reader   Sipol: the views and the change feed of schema sipol
--   sipol_auditor  reads the audit log and what it is checked against; no row of a person
--   sipol_ops      `status`, `quarantine list` and wishes; no row of a person
--
-- The owner of the schema remains who ran `connector migrate`; no program needs to log in as the owner between upgrades.

do $$
declare
    name text;
begin
    foreach name in array array['sipol_daemon', 'sipol_reader', 'sipol_auditor', 'sipol_ops'] loop
        begin
            if to_regrole(name) is null then
                execute format('create role %I nologin', name);
            end if;
        exception
            -- Roles belong to the whole server: another database of ours may be making it now.
            when duplicate_object or unique_violation then null;
            -- Without the right to make roles, an administrator makes them and runs `connector migrate` again.
            when insufficient_privilege then null;
        end;
    end loop;
end
$$;

do $$
declare
    one record;
begin
    if to_regrole('sipol_daemon') is not null then
        grant usage on schema connector, staging, audit, sipol to sipol_daemon;
        grant select, insert, update, delete on all tables in schema connector, staging to sipol_daemon;
        -- Schema and reference data are the owner's.
        revoke insert, update, delete on connector.migration, connector.grants from sipol_daemon;
        for one in select c.oid::regclass as name from pg_class c
                    where c.relnamespace = 'staging'::regnamespace and c.relkind = 'r' and c.relname like 'ref\_%' loop
            execute format('revoke insert, update, delete on %s from sipol_daemon', one.name);
        end loop;
        -- The audit log is added to; what is a head, a signature or a state moves.
        grant select, insert on all tables in schema audit to sipol_daemon;
        grant update on audit.head, audit.sequencer, audit.cosignature to sipol_daemon;
        -- An erasure deletes salts, and a key that is a person's number; digests stay.
        grant delete on audit.salt to sipol_daemon;
        grant delete on audit.committed to sipol_daemon;
        grant update (keys) on audit.committed to sipol_daemon;
        grant select on all tables in schema sipol to sipol_daemon;
        grant usage on all sequences in schema connector, staging, audit to sipol_daemon;
        grant execute on all functions in schema connector, staging, audit, sipol to sipol_daemon;
    end if;

    if to_regrole('sipol_reader') is not null then
        grant usage on schema sipol to sipol_reader;
        grant select on all tables in schema sipol to sipol_reader;
        grant execute on all functions in schema sipol to sipol_reader;
    end if;

    if to_regrole('sipol_auditor') is not null then
        grant usage on schema connector, staging, audit to sipol_auditor;
        grant select on all tables in schema audit to sipol_auditor;
        -- Salts open commitments to rows: a party's, through its receipts.
        revoke all on audit.salt from sipol_auditor;
        grant select on connector.migration, connector.party, connector.entity, connector.source_offset,
                        connector.verification, staging.sync_batch to sipol_auditor;
        grant execute on function audit.unanchored_s() to sipol_auditor;
    end if;

    if to_regrole('sipol_ops') is not null then
        grant usage on schema connector, staging, audit to sipol_ops;
        grant select on connector.migration, connector.party, connector.entity, connector.source_offset, connector.worker,
                        connector.parked, connector.wish, connector.daemon, connector.lease, connector.verification,
                        connector.job, connector.scheduler,
                        staging.sync_batch, staging.karantina, staging.hitungan,
                        audit.entry, audit.head, audit.leaf, audit.checkpoint, audit.cosignature, audit.sequencer
              to sipol_ops;
        for one in select c.oid::regclass as name from pg_class c
                    where c.relnamespace = 'staging'::regnamespace and c.relkind = 'r' and c.relname like 'ref\_%' loop
            execute format('grant select on %s to sipol_ops', one.name);
        end loop;
        grant insert on connector.wish to sipol_ops;
        grant execute on function audit.unanchored_s() to sipol_ops;
    end if;
end
$$;
