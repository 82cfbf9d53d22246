"""The statements that apply one entity's rows, composed once and run for every batch.

Pure: names in, composed SQL out. Values travel as parameters.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from psycopg import sql

# Keys per journal row: the change feed unpacks a row a page (see schemas/migrations).
JOURNAL_KEYS = 4096
GONE = "HILANG_DARI_VIEW"


@dataclass(frozen=True, slots=True)
class DigestKeys:
    """What keyed digests are made with; all derived from KPU's one digest key.

    `seeds` key the row digest that detects unchanged rows (two 64-bit hashes: cheap, not for proofs);
    `inner` and `outer` are the HMAC-SHA-256 pads for `nik_hmac`.
    """

    seeds: tuple[int, int]
    inner: bytes
    outer: bytes

    @classmethod
    def derive(cls, key: bytes) -> DigestKeys:
        mac = hmac.new(key, b"row digest", hashlib.sha256).digest()
        nik = hmac.new(key, b"nik", hashlib.sha256).digest().ljust(64, b"\0")
        return cls(
            (int.from_bytes(mac[:8], "big", signed=True), int.from_bytes(mac[8:16], "big", signed=True)),
            bytes(byte ^ 0x36 for byte in nik),
            bytes(byte ^ 0x5C for byte in nik),
        )

    def nik_hmac(self, nik: str) -> bytes:
        """The same digest in Python, for look-ups by a person's NIK."""
        return hashlib.sha256(self.outer + hashlib.sha256(self.inner + nik.encode()).digest()).digest()


@dataclass(frozen=True)
class EntityPlan:
    """One entity of one party: its compiled mapping, and every statement that applies it.

    `select` reads a table called `inbox` and gives source_key, edge, `columns`, indikasi, alasan,
    alasan_kolom (`mapping.program` says what they mean).
    """

    party: str
    parpol_id: int
    entity: str
    inputs: int
    key_width: int
    columns: tuple[str, ...]
    select: str
    params: Mapping[str, object]
    mapping_version: str
    mapping_digest: str

    @cached_property
    def partition(self) -> sql.Identifier:
        return sql.Identifier("staging", self.partition_name)

    @property
    def partition_name(self) -> str:
        return f"{self.entity}_p{self.parpol_id}"

    @cached_property
    def inbox(self) -> sql.Identifier:
        return sql.Identifier("pg_temp", f"inbox_{self.entity}")

    @cached_property
    def mapped(self) -> sql.Identifier:
        return sql.Identifier("pg_temp", f"mapped_{self.entity}")

    @cached_property
    def signalled(self) -> sql.Identifier:
        return sql.Identifier("pg_temp", f"signalled_{self.entity}")

    def _names(self, alias: str = "") -> sql.Composed:
        dot = sql.SQL(f"{alias}." if alias else "")
        return sql.SQL(", ").join(dot + sql.Identifier(name) for name in self.columns)

    @cached_property
    def temporary_tables(self) -> tuple[sql.Composed, ...]:
        """Made once a session: a table per batch would bloat the catalogue."""
        cells = sql.SQL(", ").join(sql.Identifier(f"i{place}") + sql.SQL(" text") for place in range(self.inputs))
        return (
            sql.SQL("create temp table if not exists {} ({}, edge text) on commit delete rows").format(
                sql.Identifier(f"inbox_{self.entity}"), cells
            ),
            sql.SQL("create temp table if not exists {} (source_key text) on commit delete rows").format(
                sql.Identifier(f"signalled_{self.entity}")
            ),
            sql.SQL(
                "create temp table if not exists {} on commit delete rows as select source_key, {}, indikasi,"
                " null::text[] as alasan, null::text[] as alasan_kolom, row_hash, ''::text as op, null::tid as old,"
                " 1 as rows_seen from {} where false"
            ).format(sql.Identifier(f"mapped_{self.entity}"), self._names(), sql.Identifier("staging", self.entity)),
        )

    @cached_property
    def copy_inbox(self) -> sql.Composed:
        cells = sql.SQL(", ").join(sql.Identifier(f"i{place}") for place in range(self.inputs))
        return sql.SQL("copy {} ({}) from stdin").format(self.inbox, cells)

    @cached_property
    def insert_bad(self) -> sql.Composed:
        """A row the byte check refused: its key and the reason."""
        keys = [sql.Identifier(f"i{place}") for place in range(self.key_width)]
        return sql.SQL("insert into {} ({}, edge) values ({})").format(
            self.inbox, sql.SQL(", ").join(keys), sql.SQL(", ").join(sql.Placeholder() * (self.key_width + 1))
        )

    @cached_property
    def map(self) -> sql.Composed:
        """Map the inbox and say of each row: Q quarantined, I new, R back from the dead, N unchanged, U changed."""
        return sql.SQL(
            """
            insert into {mapped}
            select m.source_key, {m_columns}, m.indikasi, m.alasan, m.alasan_kolom, m.row_hash,
                   case when m.alasan is not null then 'Q'
                        when t.source_key is null then 'I'
                        when t.dihapus_pada is not null then 'R'
                        when t.row_hash = m.row_hash then 'N'
                        else 'U' end, t.ctid, 1
              from ({hashed}) m
              left join {partition} t on t.source_key = m.source_key and m.alasan is null
            """
        ).format(mapped=self.mapped, m_columns=self._names("m"), hashed=self._hashed, partition=self.partition)

    @cached_property
    def map_fresh(self) -> sql.Composed:
        """As `map`, for a partition that holds none of these keys: the first copy."""
        return sql.SQL(
            """
            insert into {mapped}
            select m.source_key, {m_columns}, m.indikasi, m.alasan, m.alasan_kolom, m.row_hash,
                   case when m.alasan is not null then 'Q' else 'I' end, null::tid, 1
              from ({hashed}) m
            """
        ).format(mapped=self.mapped, m_columns=self._names("m"), hashed=self._hashed)

    @cached_property
    def _hashed(self) -> sql.Composed:
        return sql.SQL(
            """
            select s.*, case when s.alasan is null then
                     int8send(hash_record_extended(row({s_columns}, s.indikasi), %(seed_a)s::bigint))
                  || int8send(hash_record_extended(row({s_columns}, s.indikasi), %(seed_b)s::bigint)) end as row_hash
              from (with inbox as not materialized (select * from {inbox}) select * from ({select}) p offset 0) s
            """
        ).format(s_columns=self._names("s"), inbox=self.inbox, select=sql.SQL(self.select))

    @cached_property
    def find_doubles(self) -> sql.Composed:
        return sql.SQL(
            "select exists (select from {} where source_key is not null group by source_key having count(*) > 1)"
        ).format(self.mapped)

    @cached_property
    def refuse_doubles(self) -> tuple[sql.Composed, ...]:
        """A key that the view has twice: both rows are refused, neither wins; one row stays to say so."""
        return (
            sql.SQL(
                """
                update {mapped} m
                   set op = 'Q', alasan = array['DUPLICATE_KEY'], alasan_kolom = array[''], rows_seen = d.rows
                  from (select source_key, count(*)::int as rows from {mapped}
                         where source_key is not null group by source_key having count(*) > 1) d
                 where m.source_key = d.source_key
                """
            ).format(mapped=self.mapped),
            sql.SQL(
                "delete from {mapped} a using {mapped} b where a.source_key = b.source_key and a.ctid > b.ctid"
                " and a.rows_seen > 1"
            ).format(mapped=self.mapped),
        )

    @cached_property
    def find_gone(self) -> sql.Composed:
        """Signalled keys that the view does not have: D where staging has them, A (absent) where not."""
        return sql.SQL(
            """
            insert into {mapped} (source_key, op, old)
            select s.source_key,
                   case when t.source_key is not null and t.dihapus_pada is null then 'D' else 'A' end, t.ctid
              from {signalled} s
              left join {partition} t on t.source_key = s.source_key
             where not exists (select from {mapped} m where m.source_key = s.source_key)
            """
        ).format(mapped=self.mapped, signalled=self.signalled, partition=self.partition)

    @cached_property
    def counts(self) -> sql.Composed:
        return sql.SQL("select op, count(*) from {} group by op").format(self.mapped)

    @cached_property
    def reasons(self) -> sql.Composed:
        return sql.SQL(
            "select reason, sum(rows_seen)::bigint from {}, unnest(alasan) as reason where op = 'Q' group by reason"
        ).format(self.mapped)

    @property
    def _bookkeeping(self) -> sql.SQL:
        return sql.SQL(
            "%(mapping_version)s::text, %(batch_id)s::bigint, %(source_ts)s::timestamptz, %(read_position)s::bigint,"
            " clock_timestamp(), null::timestamptz, null::text"
        )

    def _hmac(self) -> tuple[sql.Composable, sql.Composable]:
        """The extra column and its value, for the entity that has one."""
        if self.entity != "anggota" or "nik" not in self.columns:
            return sql.SQL(""), sql.SQL("")
        value = sql.SQL(", sha256(%(outer)s::bytea || sha256(%(inner)s::bytea || convert_to(m.nik::text, 'UTF8')))")
        return sql.SQL(", nik_hmac"), value

    @cached_property
    def insert(self) -> sql.Composed:
        name, value = self._hmac()
        return sql.SQL(
            """
            insert into {partition} (parpol_id, source_key, {columns}{hmac_name}, indikasi, row_hash,
                   mapping_version, sync_batch_id, source_ts, read_position, staged_at, dihapus_pada, alasan_hapus)
            select %(parpol_id)s::smallint, m.source_key, {m_columns}{hmac}, m.indikasi, m.row_hash, {bookkeeping}
              from {mapped} m where m.op = 'I'
            """
        ).format(
            partition=self.partition, columns=self._names(), m_columns=self._names("m"), mapped=self.mapped,
            hmac_name=name, hmac=value, bookkeeping=self._bookkeeping,
        )  # fmt: skip

    @cached_property
    def update(self) -> sql.Composed:
        name, value = self._hmac()
        return sql.SQL(
            """
            update {partition} t
               set ({columns}{hmac_name}, indikasi, row_hash,
                    mapping_version, sync_batch_id, source_ts, read_position, staged_at, dihapus_pada, alasan_hapus)
                 = row({m_columns}{hmac}, m.indikasi, m.row_hash, {bookkeeping})
              from {mapped} m where m.op in ('U', 'R') and t.ctid = m.old
            """
        ).format(
            partition=self.partition, columns=self._names(), m_columns=self._names("m"), mapped=self.mapped,
            hmac_name=name, hmac=value, bookkeeping=self._bookkeeping,
        )  # fmt: skip

    @cached_property
    def delete(self) -> sql.Composed:
        """A tombstone: the row stays until its stage's retention ends."""
        return sql.SQL(
            """
            update {partition} t
               set dihapus_pada = clock_timestamp(), alasan_hapus = {gone}, sync_batch_id = %(batch_id)s::bigint,
                   source_ts = %(source_ts)s::timestamptz, read_position = %(read_position)s::bigint,
                   staged_at = clock_timestamp()
              from {mapped} m where m.op = 'D' and t.ctid = m.old
            """
        ).format(partition=self.partition, mapped=self.mapped, gone=sql.Literal(GONE))

    @cached_property
    def quarantine(self) -> sql.Composed:
        return sql.SQL(
            """
            insert into staging.karantina
                   (parpol_id, entity, source_key, sync_batch_id, reasons, columns, rows_seen, mapping_version)
            select %(parpol_id)s::smallint, %(entity)s::text, coalesce(m.source_key, ''), %(batch_id)s::bigint,
                   min(m.alasan), min(m.alasan_kolom), sum(m.rows_seen), %(mapping_version)s::text
              from {mapped} m where m.op = 'Q' group by coalesce(m.source_key, '')
            on conflict (parpol_id, entity, source_key) do update
               set sync_batch_id = excluded.sync_batch_id, reasons = excluded.reasons, columns = excluded.columns,
                   rows_seen = excluded.rows_seen, mapping_version = excluded.mapping_version,
                   last_seen = clock_timestamp()
            """
        ).format(mapped=self.mapped)

    @cached_property
    def release(self) -> sql.Composed:
        """A good version, or none at all any more, clears the key's quarantine."""
        return sql.SQL(
            "delete from staging.karantina k using {} m where k.parpol_id = %(parpol_id)s::smallint"
            " and k.entity = %(entity)s::text and k.source_key = m.source_key and m.op <> 'Q'"
        ).format(self.mapped)

    @cached_property
    def journal(self) -> sql.Composed:
        return sql.SQL(
            """
            insert into connector.journal (batch_id, first_ordinal, parpol_id, entity, keys, ops)
            select %(batch_id)s::bigint, min(n), %(parpol_id)s::smallint, %(entity)s::text,
                   array_agg(source_key order by n), string_agg(op, '' order by n)
              from (select source_key, case op when 'D' then 'D' else 'U' end as op,
                           %(ordinal)s::bigint + row_number() over () as n
                      from {} where op in ('I', 'U', 'R', 'D')) c
             group by (n - %(ordinal)s::bigint - 1) / {}
            """
        ).format(self.mapped, sql.Literal(JOURNAL_KEYS))

    @cached_property
    def digest(self) -> sql.Composed:
        """SHA-256 over this slice's changes in key order: key, operation, row digest."""
        return sql.SQL(
            """
            select sha256(convert_to(coalesce(string_agg(
                     source_key || ' ' || op || ' ' || coalesce(encode(row_hash, 'hex'), ''), chr(10)
                     order by source_key collate "C"), ''), 'UTF8'))
              from {} where op in ('I', 'U', 'R', 'D')
            """
        ).format(self.mapped)

    @cached_property
    def mark_seen(self) -> sql.Composed:
        return sql.SQL(
            "insert into connector.seen (party, entity, generation, source_key)"
            " select %(party)s::text, %(entity)s::text, %(generation)s::int, source_key from {}"
            " where source_key is not null"
        ).format(self.mapped)

    @cached_property
    def clear(self) -> sql.Composed:
        return sql.SQL("truncate {}, {}, {}").format(self.inbox, self.mapped, self.signalled)
