"""One party's side of staging: its session, partitions, entities' states, parked keys, wishes.

One thread at a time. Every method but `batch` is a small transaction of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from connector import failpoint
from connector.errors import StagingError, Unanchored
from connector.events import EntityState, EntryKind, Position, SourceIdentity
from connector.staging import brake, offsets, quarantine, session, stages
from connector.staging.batch import Batch, Read
from connector.staging.lane import Lane
from connector.staging.plan import DigestKeys, EntityPlan


@dataclass(frozen=True, slots=True)
class EntityStatus:
    """A row of connector.entity."""

    entity: str
    state: EntityState
    reason: str | None
    generation: int
    copy_after: str | None
    copy_rows: int
    bulk: bool
    view_fingerprint: str | None
    live_rows: int
    brake_off: bool
    mapping_digest: str | None
    rescan_since: datetime | None
    has_parked: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """A state to put an entity in. `copied`: its copy is through; `brake_off`: an operator let deletes pass;
    `deletes`: how many wait for one.
    """

    state: EntityState
    reason: str = ""
    hint: str = ""
    brake_off: bool = False
    copied: bool = False
    deletes: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of itself; `error` and `hint` are our words, never a driver's.

    `stages`: seconds by stage and `batches`, in all since it started.
    """

    state: str
    daemon: str
    lag_bytes: int | None = None
    lag_s: float | None = None
    error: str = ""
    hint: str = ""
    attempt: int = 0
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator asked for."""

    id: int
    entity: str | None
    verb: str
    args: dict[str, Any]
    asked_by: str


class PartyStaging:
    """A party's session at staging, claimed for us alone while it lasts."""

    def __init__(self, dsn: str, party: str, parpol_id: int, jenis: str, keys: DigestKeys) -> None:
        self._dsn = dsn
        self._party = party
        self._parpol_id = parpol_id
        self._keys = keys
        self._conn = session.connect(dsn, f"connector {party}")
        try:
            offsets.register(self._conn, party, parpol_id, jenis)
            claimed = offsets.claim(self._conn, party)
        except BaseException:
            self._conn.close()
            raise
        self._epoch = claimed.epoch
        self._grown: Counter[str] = Counter()

    def close(self) -> None:
        self._conn.close()

    def open_lane(self) -> Lane:
        """A session beside this one, for a first copy's chunks; it is fenced as this one is."""
        return Lane(self._dsn, self._party, self._keys, self._epoch)

    def note_settings(self, settings: Mapping[str, str]) -> None:
        offsets.note_settings(self._conn, self._party, settings)

    def stored(self) -> offsets.StoredOffset:
        with session.translated("reading the position"):
            return offsets.load(self._conn, self._party)

    def prepare(self, plan: EntityPlan) -> None:
        """Make the entity's row and this session's temporary tables."""
        with session.translated(f"preparing {plan.entity}"):
            self._conn.execute(
                "insert into connector.entity (party, entity) values (%s, %s) on conflict do nothing",
                (self._party, plan.entity),
            )
            for statement in plan.temporary_tables:
                self._conn.execute(statement)

    def entities(self) -> dict[str, EntityStatus]:
        with session.translated("reading entity states"):
            rows = self._conn.execute(_ENTITIES, (self._party,)).fetchall()
        return {row[0]: EntityStatus(row[0], EntityState(row[1]), *row[2:]) for row in rows}

    @contextmanager
    def batch(self, kind: EntryKind, read: Read) -> Iterator[Batch]:
        """Open the transaction of one batch; it commits when the block ends, or leaves nothing behind.

        Raises:
            Fenced, StaleRead: see `offsets.begin`.
            StagingUnavailable: the batch is to be repeated; whether it was committed, the stored position tells.
        """
        failpoint.hit("before_begin")
        with session.translated("applying a batch"), self._conn.transaction():
            batch = Batch(self._conn, self._party, self._keys, kind, read, self._grown)
            batch.lock(self._epoch)
            yield batch
            failpoint.hit("before_commit")
        failpoint.hit("after_commit")

    def move_idle(self, position: Position) -> None:
        """Move the position over a stretch of log that holds nothing for us; no entry is due for that.

        The next entry's range begins where the last entry's ended, so the stretch is covered by it.
        """
        with session.translated("moving the position"), self._conn.transaction():
            offsets.begin(self._conn, self._party, self._epoch, None)
            offsets.advance(self._conn, self._party, position, read_position=None, audited=False)
        failpoint.hit("idle_move")

    def restart(self, batch: Batch, position: Position, identity: SourceIdentity) -> None:
        """Begin a new history at `position`, inside `batch`'s transaction."""
        offsets.restart(batch.transaction, self._party, position, identity)

    def set_back_reads(self, batch: Batch, read_position: int) -> None:
        """Let reads count from `read_position` again, inside `batch`'s transaction."""
        offsets.set_back_reads(batch.transaction, self._party, read_position)

    def set_state(self, batch: Batch, entity: str, standing: Standing) -> None:
        """Change an entity's state, inside `batch`'s transaction."""
        batch.transaction.execute(
            """
            update connector.entity
               set state = %s, reason = nullif(%s, ''), hint = nullif(%s, ''), brake_off = %s,
                   since = clock_timestamp(), copying = copying and not %s,
                   pending_deletes = coalesce(%s, pending_deletes)
             where party = %s and entity = %s
            """,
            (
                standing.state.value, standing.reason, standing.hint, standing.brake_off, standing.copied,
                standing.deletes,
                self._party, entity,
            ),
        )  # fmt: skip

    def resume_state(self, batch: Batch, entity: str) -> None:
        """Let an entity go on where it was: in its copy if that is not through, else in the stream."""
        batch.transaction.execute(
            """
            update connector.entity
               set state = case when copying then 'copying' when generation = 0 then 'new' else 'streaming' end,
                   reason = null, hint = null,
                   since = clock_timestamp()
             where party = %s and entity = %s
            """,
            (self._party, entity),
        )

    def set_fingerprint(self, entity: str, fingerprint: str) -> None:
        with session.translated("noting the view's shape"):
            self._conn.execute(
                "update connector.entity set view_fingerprint = %s where party = %s and entity = %s",
                (fingerprint, self._party, entity),
            )

    # -- copies

    def begin_copy(self, batch: Batch, plan: EntityPlan) -> bool:
        """Start a copy of an entity from its first key; True where it may load in bulk.

        A first copy goes into a table of its own without an index, which joins the partitioned table when
        it is whole: Sipol never sees half a party, and the load is twice as fast. Rows that are there
        already stay: a resync runs beside them.
        """
        conn = batch.transaction
        bulk = self._make_partition(conn, plan)
        conn.execute(
            """
            update connector.entity
               set state = 'copying', copying = true, reason = null, hint = null,
                   generation = generation + 1, copy_after = null,
                   copy_rows = 0, bulk = %s, since = clock_timestamp(), brake_off = false, pending_deletes = 0,
                   rescan_since = null, live_rows = case when %s then 0 else live_rows end
             where party = %s and entity = %s
            """,
            (bulk, bulk, self._party, plan.entity),
        )
        conn.execute("delete from connector.seen where party = %s and entity = %s", (self._party, plan.entity))
        # What a first copy refuses it says anew; rows without a key are counted anew at the end of every copy.
        conn.execute(
            "delete from staging.karantina where parpol_id = %s and entity = %s"
            " and (%s or source_key = '' and 'NULL_KEY' = any (reasons))",
            (plan.parpol_id, plan.entity, bulk),
        )
        return bulk

    def _make_partition(self, conn: psycopg.Connection, plan: EntityPlan) -> bool:
        """Make the party's table where it is missing; True while it is not attached yet."""
        row = conn.execute(
            """
            select c.relispartition, pg_get_expr(c.relpartbound, c.oid) from pg_class c
             where c.oid = to_regclass(%s)
            """,
            (f"staging.{sql.Identifier(plan.partition_name).as_string(None)}",),
        ).fetchone()
        if row is not None and row[0]:
            if row[1] != f"FOR VALUES IN ('{plan.parpol_id}')":
                raise StagingError(
                    f"table {plan.partition_name} is a partition of something else", hint="rename it and start again"
                )
            return False
        conn.execute("select connector.begin_partition(%s, %s::smallint)", (plan.entity, plan.parpol_id))
        return True

    def note_chunk(self, batch: Batch, entity: str, after: str, rows: int) -> None:
        """A chunk is in; inside its batch. After a crash the copy goes on behind it."""
        batch.transaction.execute(
            "update connector.entity set copy_after = %s, copy_rows = copy_rows + %s where party = %s and entity = %s",
            (after, rows, self._party, entity),
        )

    def attach(self, batch: Batch, plan: EntityPlan) -> None:
        """A first copy is whole: index it and make it part of the contract's table."""
        conn = batch.transaction
        conn.execute("set local maintenance_work_mem = '256MB'")
        conn.execute("select connector.attach_partition(%s, %s::smallint)", (plan.entity, plan.parpol_id))
        batch.journal_all(plan)

    def park_unseen(self, batch: Batch, plan: EntityPlan, generation: int) -> tuple[int, int]:
        """A resync is through: what staging has and the copy did not meet is to be looked at once more.

        Returns how many keys were parked, and how many live rows there are.
        """
        conn = batch.transaction
        parked = conn.execute(
            sql.SQL(
                """
                insert into connector.parked (party, entity, source_key)
                select %(party)s, %(entity)s, t.source_key from {} t
                 where t.dihapus_pada is null and not exists (
                   select from connector.seen s where s.party = %(party)s and s.entity = %(entity)s
                      and s.generation = %(generation)s and s.source_key = t.source_key)
                on conflict do nothing
                """
            ).format(plan.partition),
            {"party": self._party, "entity": plan.entity, "generation": generation},
        ).rowcount
        # A refused row may have left the view as well; read again, its key is found absent and leaves the quarantine.
        conn.execute(
            """
            insert into connector.parked (party, entity, source_key)
            select %(party)s, k.entity, k.source_key from staging.karantina k
             where k.parpol_id = %(parpol_id)s and k.entity = %(entity)s and k.source_key <> '' and not exists (
               select from connector.seen s where s.party = %(party)s and s.entity = k.entity
                  and s.generation = %(generation)s and s.source_key = k.source_key)
            on conflict do nothing
            """,
            {"party": self._party, "parpol_id": plan.parpol_id, "entity": plan.entity, "generation": generation},
        )
        live = conn.execute(
            "update connector.entity set pending_deletes = %s where party = %s and entity = %s returning live_rows",
            (parked, self._party, plan.entity),
        ).fetchone()
        conn.execute("delete from connector.seen where party = %s and entity = %s", (self._party, plan.entity))
        assert live is not None
        return parked, live[0]

    def parked_regions(self, batch: Batch, plan: EntityPlan) -> str:
        """The parked keys' rows by region, in words; inside `batch`'s transaction."""
        return brake.of_parked(batch.transaction, plan)

    def seen_rows(self, entity: str, generation: int) -> int:
        """Keys noted by this copy. Fewer than it copied: staging's server crashed and forgot them."""
        with session.translated("counting seen keys"):
            row = self._conn.execute(
                "select count(*) from connector.seen where party = %s and entity = %s and generation = %s",
                (self._party, entity, generation),
            ).fetchone()
        assert row is not None
        return int(row[0])

    # -- parked keys

    def parked(self) -> dict[str, int]:
        """How many keys are parked, by entity; entities without any are not in it."""
        with session.translated("counting parked keys"):
            rows = self._conn.execute(
                "select entity, count(*) from connector.parked where party = %s group by entity", (self._party,)
            ).fetchall()
        return dict(rows)

    def parked_keys(self, entity: str, *, slice_rows: int) -> Iterator[list[str]]:
        """The parked keys of an entity, in slices."""
        after: str | None = None
        while True:
            with session.translated("reading parked keys"):
                rows = self._conn.execute(
                    """
                    select source_key from connector.parked
                     where party = %s and entity = %s and (%s::text is null or source_key > %s)
                     order by source_key limit %s
                    """,
                    (self._party, entity, after, after, slice_rows),
                ).fetchall()
            if not rows:
                return
            yield [row[0] for row in rows]
            after = rows[-1][0]

    def park_refused(self, older_days: float) -> int:
        """Have refused rows that nobody has looked at for so long read again; gives how many."""
        with session.translated("looking at old refusals"), self._conn.transaction():
            query = "select entity from connector.entity where party = %s"
            names = [row[0] for row in self._conn.execute(query, (self._party,)).fetchall()]
            return sum(quarantine.park(self._conn, self._party, name, older_days=older_days).keys for name in names)

    def stages(self) -> tuple[tuple[stages.Stage, ...], datetime]:
        """The calendar, and staging's time."""
        with session.translated("reading the calendar"):
            return stages.load(self._conn)

    # -- wishes

    @property
    def digest_keys(self) -> DigestKeys:
        return self._keys

    def wishes(self) -> Sequence[Wish]:
        """What was asked for and is not done yet, oldest first."""
        with session.translated("reading wishes"):
            rows = self._conn.execute(
                "select id, entity, verb, args, asked_by from connector.wish"
                " where party = %s and obeyed_at is null order by id",
                (self._party,),
            ).fetchall()
        return [Wish(*row) for row in rows]

    def obeyed(self, batch: Batch, wish: Wish, outcome: str, args: Mapping[str, object] | None = None) -> None:
        """Note what came of a wish. `args` replace its own: what was needed to obey it need not be kept."""
        batch.transaction.execute(
            "update connector.wish set obeyed_at = clock_timestamp(), outcome = %s, args = coalesce(%s, args)"
            " where id = %s",
            (outcome, None if args is None else Jsonb(dict(args)), wish.id),
        )

    # -- policy

    def check_anchored(self, age_s_max: float) -> None:
        """Refuse to go on while entries have been without an anchor for longer than that.

        Raises:
            Unanchored: it is so.
        """
        with session.translated("looking at the audit log's anchor"):
            row = self._conn.execute("select audit.unanchored_s()").fetchone()
        if row is not None and row[0] is not None and row[0] > age_s_max:
            raise Unanchored(
                f"the audit log has not been anchored for {row[0] / 3600:.1f} h (audit.stop_h: {age_s_max / 3600:g})",
                hint="is the anchor's file writable, do the witnesses sign? connector status says what keeps it",
                place=self._party,
            )

    # -- what the worker says of itself

    def report(self, report: Report) -> None:
        with session.translated("reporting"):
            write_report(self._conn, self._party, report)


def write_report(conn: psycopg.Connection, party: str, report: Report) -> None:
    """Write the worker's own row. Needs no claim: also a worker that cannot work says why."""
    conn.execute(
        """
        insert into connector.worker
               (party, state, daemon, lag_bytes, lag_s, error, hint, attempt, stages, heartbeat_at)
        values (%s, %s, %s, %s, %s, nullif(%s, ''), nullif(%s, ''), %s, %s, clock_timestamp())
        on conflict (party) do update
           set state = excluded.state, daemon = excluded.daemon,
               lag_bytes = coalesce(excluded.lag_bytes, worker.lag_bytes), lag_s = excluded.lag_s,
               error = excluded.error, hint = excluded.hint, attempt = excluded.attempt,
               stages = coalesce(excluded.stages, worker.stages), heartbeat_at = excluded.heartbeat_at
        """,
        (
            party, report.state, report.daemon, report.lag_bytes, report.lag_s, report.error, report.hint,
            report.attempt, Jsonb(dict(report.stages)) if report.stages else None,
        ),
    )  # fmt: skip


_ENTITIES = """
select entity, state, reason, generation, copy_after, copy_rows, bulk, view_fingerprint, live_rows, brake_off,
       mapping_digest, rescan_since,
       exists (select from connector.parked p where p.party = e.party and p.entity = e.entity)
  from connector.entity e where party = %s
"""
