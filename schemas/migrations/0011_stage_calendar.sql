-- Which entities a stage is for. Outside its stages an entity's writes wait; one that no stage names is always open.

alter table staging.ref_tahapan add column entity text[] not null default '{}';
comment on column staging.ref_tahapan.entity is 'The entities whose writes this stage allows while it is open; empty: all of them.';
