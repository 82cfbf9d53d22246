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

from connector.staging.commitment import row_digest_sql

# Keys per journal row: the change feed unpacks a row a page (see schemas/migrations).
JOURNAL_KEYS = 4096
GONE = "HILANG_DARI_VIEW"


@dataclass(frozen=True, slots=True)
class DigestKeys:
    """What keyed digests are made with; all derived from KPU's one digest key.

    `seed` keys the 64-bit row digest that detects unchanged rows (cheap, not for proofs: a party that does not
    know it cannot make two rows look the same, and chance does so once in 10^19 changes);
    `inner` and `outer` are the HMAC-SHA-256 pads for `nik_hmac`.
    """

    seed: int
    inner: bytes
    outer: bytes

    @classmethod
    def derive(cls, key: bytes) -> DigestKeys:
        mac = hmac.new(key, b"row digest", hashlib.sha256).digest()
        nik = hmac.new(key, b"nik", hashlib.sha256).digest().ljust(64, b"\0")
        return cls(
            int.from_bytes(mac[:8], "big", signed=True),
            bytes(byte ^ 0x36 for byte in nik),
            bytes(byte ^ 0x5C for byte in nik),
        )

    def nik_hmac(self, nik: str) -> bytes:
        """The same digest in Python, for look-ups by a person's NIK."""
        return self._hmac(nik.encode())

    def key_digest(self, entity: str, key: str) -> bytes:
        """A digest of a row's key, for logs that outlive the row. No NIK has a NUL in it, so the two never meet."""
        return self._hmac(f"{entity}\0{key}".encode())

    def _hmac(self, text: bytes) -> bytes:
        return hashlib.sha256(self.outer + hashlib.sha256(self.inner + text).digest()).digest()


# Keys that the view has twice: neither row may win. Almost always empty.
_DOUBLES = sql.SQL(
    "d as materialized (select source_key, count(*)::int as rows, min(n) as kept from m"
    " where source_key is not null group by source_key having count(*) > 1)"
)


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
    def apply(self) -> sql.Composed:
        """Map the inbox, find out what each key is, and write all of it: one statement, one pass.

        Gives how many keys are of each kind and how many rows each write really touched (`Applied`).
        """
        return self._statement(self._against_partition, changes=True)

    @cached_property
    def apply_fresh(self) -> sql.Composed:
        """As `apply`, for a partition that holds none of these keys: a first copy."""
        return self._statement(self._as_new, changes=False)

    def _statement(self, judged: sql.Composed, *, changes: bool) -> sql.Composed:
        parts = [
            sql.SQL("with m as materialized ({})").format(self._hashed),
            _DOUBLES,
            judged,
            self._insert,
            *((self._update, self._delete) if changes else ()),
            self._quarantine,
            self._journal if changes else self._committed,
        ]
        counted = ["op_i", "op_u", "op_r", "op_n", "op_d", "op_a", "op_q"]
        counts = sql.SQL(", ").join(
            sql.SQL("count(*) filter (where op = {}) as {}").format(sql.Literal(name[-1].upper()), sql.Identifier(name))
            for name in counted
        )
        touched = (
            sql.SQL(
                "(select count(*) from written_i), (select count(*) from written_u), (select count(*) from written_d)"
            )
            if changes
            else sql.SQL("(select count(*) from written_i), 0, 0")
        )
        return sql.SQL("{parts} select {counts}, {touched}, {pages}, {reasons} from c").format(
            parts=sql.SQL(", ").join(parts), counts=counts, touched=touched, pages=self._pages, reasons=self._reasons
        )

    @cached_property
    def _hashed(self) -> sql.Composed:
        """The mapped rows with their number and their keyed digest (null for a refused row)."""
        return sql.SQL(
            """
            select s.*, row_number() over () as n,
                   case when s.alasan is null then
                     int8send(hash_record_extended(row({columns}, s.indikasi), %(seed)s::bigint)) end as row_hash
              from (with inbox as not materialized (select * from {inbox}) select * from ({select}) p offset 0) s
            """
        ).format(columns=self._names("s"), inbox=self.inbox, select=sql.SQL(self.select))

    @property
    def mapped(self) -> sql.Composed:
        """The inbox's rows mapped and digested, for who compares them: source_key, alasan, row_hash and the columns."""
        return self._hashed

    # What a key turns out to be: I new, U changed, R back from the dead, N unchanged, D gone, A absent from both
    # sides, Q quarantined.

    @cached_property
    def _against_partition(self) -> sql.Composed:
        # parpol_id is the same in every row of the partition, but the primary key begins with it: without it each key
        # of a small batch walks the whole index (550 keys against 52,000 rows: 3 s instead of 0.2 s).
        nothing = sql.SQL(", ").join([sql.SQL("null")] * len(self.columns))
        return sql.SQL(
            """
            c as materialized (
              select m.n, m.source_key, {columns}, m.indikasi, m.row_hash, t.ctid as old,
                     t.sync_batch_id as prior, coalesce(d.rows, 1) as rows_seen,
                     case when d.rows is not null then array['DUPLICATE_KEY'] else m.alasan end as alasan,
                     case when d.rows is not null then array[''] else m.alasan_kolom end as alasan_kolom,
                     case when m.alasan is not null or d.rows is not null then 'Q'
                          when t.source_key is null then 'I'
                          when t.dihapus_pada is not null then 'R'
                          when t.row_hash = m.row_hash then 'N'
                          else 'U' end as op
                from m
                left join d on d.source_key = m.source_key
                left join {partition} t on t.parpol_id = %(parpol_id)s::smallint and t.source_key = m.source_key
                                       and m.alasan is null
               where d.kept is null or d.kept = m.n
              union all
              select %(rows)s::bigint + row_number() over (), s.source_key, {nothing}, null, null, t.ctid,
                     t.sync_batch_id, 1, null, null,
                     case when t.source_key is not null and t.dihapus_pada is null then 'D' else 'A' end
                from {signalled} s
                left join {partition} t on t.parpol_id = %(parpol_id)s::smallint and t.source_key = s.source_key
               where not exists (select from m where m.source_key = s.source_key))
            """
        ).format(columns=self._names("m"), nothing=nothing, partition=self.partition, signalled=self.signalled)

    @cached_property
    def _as_new(self) -> sql.Composed:
        return sql.SQL(
            """
            c as materialized (
              select m.n, m.source_key, {columns}, m.indikasi, m.row_hash, coalesce(d.rows, 1) as rows_seen,
                     case when d.rows is not null then array['DUPLICATE_KEY'] else m.alasan end as alasan,
                     case when d.rows is not null then array[''] else m.alasan_kolom end as alasan_kolom,
                     case when m.alasan is not null or d.rows is not null then 'Q' else 'I' end as op
                from m left join d on d.source_key = m.source_key
               where d.kept is null or d.kept = m.n)
            """
        ).format(columns=self._names("m"))

    _bookkeeping = sql.SQL(
        "%(mapping_version)s::text, %(batch_id)s::bigint, %(source_ts)s::timestamptz, %(read_position)s::bigint,"
        " clock_timestamp(), null::timestamptz, null::text"
    )

    def _hmac(self) -> tuple[sql.Composable, sql.Composable]:
        """The extra column and its value, for the entity that has one."""
        if self.entity != "anggota" or "nik" not in self.columns:
            return sql.SQL(""), sql.SQL("")
        value = sql.SQL(", sha256(%(outer)s::bytea || sha256(%(inner)s::bytea || convert_to(c.nik::text, 'UTF8')))")
        return sql.SQL(", nik_hmac"), value

    @cached_property
    def _insert(self) -> sql.Composed:
        name, value = self._hmac()
        return sql.SQL(
            """
            written_i as (
              insert into {partition} (parpol_id, source_key, {columns}{hmac_name}, indikasi, row_hash,
                     mapping_version, sync_batch_id, source_ts, read_position, staged_at, dihapus_pada, alasan_hapus)
              select %(parpol_id)s::smallint, c.source_key, {c_columns}{hmac}, c.indikasi, c.row_hash, {bookkeeping}
                from c where c.op = 'I' returning 1)
            """
        ).format(
            partition=self.partition, columns=self._names(), c_columns=self._names("c"),
            hmac_name=name, hmac=value, bookkeeping=self._bookkeeping,
        )  # fmt: skip

    @cached_property
    def _update(self) -> sql.Composed:
        name, value = self._hmac()
        return sql.SQL(
            """
            written_u as (
              update {partition} t
                 set ({columns}{hmac_name}, indikasi, row_hash,
                      mapping_version, sync_batch_id, source_ts, read_position, staged_at, dihapus_pada, alasan_hapus)
                   = row({c_columns}{hmac}, c.indikasi, c.row_hash, {bookkeeping})
                from c where c.op in ('U', 'R') and t.ctid = c.old returning 1)
            """
        ).format(
            partition=self.partition, columns=self._names(), c_columns=self._names("c"),
            hmac_name=name, hmac=value, bookkeeping=self._bookkeeping,
        )  # fmt: skip

    @cached_property
    def _delete(self) -> sql.Composed:
        """A tombstone: the row stays until its stage's retention ends."""
        return sql.SQL(
            """
            written_d as (
              update {partition} t
                 set dihapus_pada = clock_timestamp(), alasan_hapus = {gone}, sync_batch_id = %(batch_id)s::bigint,
                     source_ts = %(source_ts)s::timestamptz, read_position = %(read_position)s::bigint,
                     staged_at = clock_timestamp()
                from c where c.op = 'D' and t.ctid = c.old returning 1)
            """
        ).format(partition=self.partition, gone=sql.Literal(GONE))

    @cached_property
    def _quarantine(self) -> sql.Composed:
        return sql.SQL(
            """
            written_q as (
              insert into staging.karantina
                     (parpol_id, entity, source_key, sync_batch_id, reasons, columns, rows_seen, mapping_version)
              select %(parpol_id)s::smallint, %(entity)s::text, coalesce(c.source_key, ''), %(batch_id)s::bigint,
                     min(c.alasan), min(c.alasan_kolom), sum(c.rows_seen), %(mapping_version)s::text
                from c where c.op = 'Q' group by coalesce(c.source_key, '')
              on conflict (parpol_id, entity, source_key) do update
                 set sync_batch_id = excluded.sync_batch_id, reasons = excluded.reasons, columns = excluded.columns,
                     rows_seen = excluded.rows_seen, mapping_version = excluded.mapping_version,
                     last_seen = clock_timestamp())
            """
        ).format()

    def _row_digest(self, gone: sql.Composable) -> sql.Composed:
        """The commitment to a row of `c`; findings are not in it: they are KPU's, and change with the calendar."""
        return row_digest_sql(
            sql.Identifier("source_key"), self._names(), gone=gone, salt=sql.SQL("%(salt)s::bytea")
        )  # fmt: skip

    @cached_property
    def _journal(self) -> sql.Composed:
        return sql.SQL(
            """
            written_j as (
              insert into connector.journal (batch_id, first_ordinal, parpol_id, entity, keys, ops, digests, priors)
              select %(batch_id)s::bigint, min(p), %(parpol_id)s::smallint, %(entity)s::text,
                     array_agg(source_key), string_agg(letter, ''), string_agg(digest, ''), string_agg(prior, '')
                from (select source_key, case op when 'D' then 'D' else 'U' end as letter, {digest} as digest,
                             int8send(coalesce(prior, 0)) as prior,
                             %(ordinal)s::bigint + row_number() over () as p
                        from c where op in ('I', 'U', 'R', 'D')) j
               group by (p - %(ordinal)s::bigint - 1) / {keys}
              returning first_ordinal, digests)
            """
        ).format(digest=self._row_digest(sql.SQL("op = 'D'")), keys=sql.Literal(JOURNAL_KEYS))

    @cached_property
    def _committed(self) -> sql.Composed:
        """A first copy's rows: Sipol is told of them when it can see them (`journal_all`)."""
        return sql.SQL(
            """
            written_j as (
              insert into audit.committed (batch_id, first_ordinal, parpol_id, entity, keys, digests)
              select %(batch_id)s::bigint, min(p), %(parpol_id)s::smallint, %(entity)s::text,
                     array_agg(source_key), string_agg(digest, '')
                from (select source_key, {digest} as digest, %(ordinal)s::bigint + row_number() over () as p
                        from c where op = 'I') j
               group by (p - %(ordinal)s::bigint - 1) / {keys}
              returning first_ordinal, digests)
            """
        ).format(digest=self._row_digest(sql.SQL("false")), keys=sql.Literal(JOURNAL_KEYS))

    @cached_property
    def commit_again(self) -> sql.Composed:
        """Live rows that the journal has under any of `batches`, committed to under this batch's salt."""
        return sql.SQL(
            """
            with rows as (
              select source_key, {digest} as digest, %(ordinal)s::bigint + row_number() over () as p
                from ({stored}) t
               where source_key in (
                     select unnest(keys) from connector.journal where batch_id = any (%(batches)s)
                     union select unnest(keys) from audit.committed where batch_id = any (%(batches)s))
            ), written as (
              insert into audit.committed (batch_id, first_ordinal, parpol_id, entity, keys, digests)
              select %(batch_id)s::bigint, min(p), %(parpol_id)s::smallint, %(entity)s::text, array_agg(source_key),
                     string_agg(digest, '')
                from rows group by (p - %(ordinal)s::bigint - 1) / {keys}
              returning first_ordinal, sha256(digests) as page, cardinality(keys) as rows
            )
            select first_ordinal, page, rows from written order by first_ordinal
            """
        ).format(
            digest=self._row_digest(sql.SQL("false")), stored=self.stored, keys=sql.Literal(JOURNAL_KEYS)
        )  # fmt: skip

    @cached_property
    def stored(self) -> sql.Composed:
        """The partition's live rows, their columns in the types that the mapping gives: commitments are over types too.

        An empty branch of the mapping decides on them; the planner drops it.
        """
        return sql.SQL(
            "with inbox as not materialized (select * from {inbox})"
            " select source_key, {columns} from ({select}) p where false union all"
            " select source_key, {columns} from {partition}"
            " where parpol_id = %(parpol_id)s::smallint and dihapus_pada is null"
        ).format(
            inbox=self.inbox, columns=self._names(), select=sql.SQL(self.select), partition=self.partition
        )  # fmt: skip

    @cached_property
    def journal_all(self) -> sql.Composed:
        """A first copy's rows for the change feed, all at once: Sipol cannot see them before they are attached."""
        return sql.SQL(
            """
            insert into connector.journal (batch_id, first_ordinal, parpol_id, entity, keys, ops)
            select %(batch_id)s::bigint, min(p), %(parpol_id)s::smallint, %(entity)s::text, array_agg(source_key),
                   repeat('U', count(*)::int)
              from (select source_key, row_number() over () as p from {partition}) j
             group by (p - 1) / {keys}
            """
        ).format(partition=self.partition, keys=sql.Literal(JOURNAL_KEYS))

    # What this slice wrote, page by page: the entry's commitment is over these.
    _pages = sql.SQL("(select array_agg(sha256(digests) order by first_ordinal) from written_j)")
    _reasons = sql.SQL(
        "(select json_object_agg(reason, rows) from (select reason, sum(rows_seen) as rows"
        " from c, unnest(alasan) as reason where op = 'Q' group by reason) r)"
    )

    @cached_property
    def release(self) -> sql.Composed:
        """A good version, or none at all any more, clears the key's quarantine.

        Only what this batch did not write itself: its own refusals carry its number.
        """
        return sql.SQL(
            """
            delete from staging.karantina k
             where k.parpol_id = %(parpol_id)s::smallint and k.entity = %(entity)s::text
               and k.sync_batch_id <> %(batch_id)s::bigint
               and (exists (select from {signalled} s where s.source_key = k.source_key)
                    or exists (select from {inbox} where {key} = k.source_key))
            """
        ).format(signalled=self.signalled, inbox=self.inbox, key=self._key_text)

    @property
    def _key_text(self) -> sql.Composed:
        """The staging key of an inbox row, as `events.source_key` builds it."""
        if self.key_width == 1:
            return sql.SQL("{}").format(sql.Identifier("i0"))
        parts = [
            sql.SQL(r"replace(replace({}, '\', '\\'), '|', '\|')").format(sql.Identifier(f"i{place}"))
            for place in range(self.key_width)
        ]
        return sql.SQL("{}").format(sql.SQL(" || '|' || ").join(parts))

    @cached_property
    def mark_seen(self) -> sql.Composed:
        return sql.SQL(
            "insert into connector.seen (party, entity, generation, source_key)"
            " select %(party)s::text, %(entity)s::text, %(generation)s::int, {key} from {inbox} where {key} is not null"
        ).format(key=self._key_text, inbox=self.inbox)

    @cached_property
    def clear(self) -> sql.Composed:
        return sql.SQL("truncate {}, {}").format(self.inbox, self.signalled)
