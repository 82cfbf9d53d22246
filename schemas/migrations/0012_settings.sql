-- What `connector reload` compares, to say beforehand which parties would be started again.

alter table connector.party add column settings jsonb;
comment on column connector.party.settings is 'Digests of what its worker was last started with, by part of the configuration.';
