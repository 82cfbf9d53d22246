-- How long an entry has been without a safe place outside this database: what the alarm and the stop look at.

alter table audit.sequencer add column anchored bigint not null default 0;
comment on column audit.sequencer.anchored is 'So many entries are covered by a checkpoint that is safe outside this database.';

-- The age of the oldest entry that is not anchored; null where all are. An idle log never ages.
create function audit.unanchored_s() returns double precision
language sql stable set search_path = pg_catalog, pg_temp
return (
    select extract(epoch from clock_timestamp() - coalesce(
        (select e.at from audit.leaf l join audit.entry e on (e.party, e.seq) = (l.party, l.seq) where l.idx = s.anchored),
        (select min(waiting.at)
           from audit.head h
          cross join lateral (
                select e.at from audit.entry e
                 where e.party = h.party
                   and e.seq > coalesce((select max(l.seq) from audit.leaf l where l.party = h.party), 0)
                 order by e.seq limit 1) waiting)))
      from audit.sequencer s);
revoke all on function audit.unanchored_s() from public;
