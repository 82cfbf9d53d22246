"""One staging transaction for one party: rows applied and counted, entry appended, position moved.

Refuses a batch that does not balance, a daemon that no longer owns the party, and a read older than
one already applied.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import psycopg
from psycopg import sql

from connector import failpoint
from connector.errors import EntityHeld, SourceProtocolError, StagingError, StagingUnavailable
from connector.events import KEY_LETTERS_SAFE, EntryKind, Note, Outcome, Position, short_key
from connector.staging import brake, memory, offsets, quarantine
from connector.staging.commitment import SALT_BYTES, commitment, page_digest, row_digest
from connector.staging.plan import DigestKeys, EntityPlan

# An entity this small may lose rows without the brake: a share of ten offices says nothing.
BRAKE_ROWS_MIN = 20
# A batch of so many keys takes less time than planning its statement (6 ms), so small ones share a plan. It is for the
# size that the partition had: planned anew after so many new rows, then after each doubling.
SMALL_ROWS, GROWN_ROWS = 200, 1_000
# What a row turned out to be: I new, U changed, R back from the dead, D gone; N (unchanged), Q, A write nothing.
WRITES = ("I", "U", "R", "D")


class BadRow(Protocol):
    """A row the byte check refused."""

    @property
    def key(self) -> tuple[str | None, ...]: ...
    @property
    def reason(self) -> str: ...


class Block(Protocol):
    """Checked COPY text."""

    @property
    def data(self) -> bytes: ...
    @property
    def rows(self) -> int: ...
    @property
    def bad(self) -> Sequence[BadRow]: ...


@dataclass(frozen=True, slots=True)
class Read:
    """What a batch's rows were read under: place in the log, and commit times at the party."""

    position: int | None
    committed_first: datetime | None = None
    committed_last: datetime | None = None
    # A first copy's chunks are read ahead: its entity's signals wait parked, so no order is at stake.
    ordered: bool = True


@dataclass(frozen=True, slots=True)
class Applied:
    """What one slice did: keys by kind, a digest over each page of its changes, refused rows by reason."""

    ops: Counter[str]
    pages: tuple[bytes, ...]
    reasons: Mapping[str, int]


@dataclass(slots=True)
class Tally:
    """One entity's counts while its slices are applied. `salt` is for the commitments to what they write."""

    plan: EntityPlan
    batch_id: int
    signalled: int = 0
    parked: int = 0
    ops: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    pages: list[bytes] = field(default_factory=list)
    salt: bytes = field(default_factory=lambda: secrets.token_bytes(SALT_BYTES), repr=False)

    def add(self, applied: Applied) -> None:
        self.pages.extend(applied.pages)
        self.ops.update(applied.ops)
        self.reasons.update(applied.reasons)

    def outcome(self) -> Outcome:
        ops = self.ops
        return Outcome(
            entity=self.plan.entity,
            signalled=self.signalled,
            read=ops["I"] + ops["U"] + ops["R"] + ops["N"] + ops["Q"],
            inserted=ops["I"],
            updated=ops["U"] + ops["R"],
            unchanged=ops["N"],
            quarantined=ops["Q"],
            deleted=ops["D"],
            absent=ops["A"],
            parked=self.parked,
            reasons=dict(self.reasons),
            batch_id=self.batch_id,
            commitment=commitment(self.pages),
            mapping_version=self.plan.mapping_version,
            mapping_digest=self.plan.mapping_digest,
        )


class Batch:
    """An open transaction. Made by `PartyStaging.batch`; `finish` before leaving it."""

    def __init__(
        self, conn: psycopg.Connection, party: str, keys: DigestKeys, kind: EntryKind, read: Read,
        grown: Counter[str] | None = None,
    ) -> None:  # fmt: skip
        """`grown`: how many rows the session that `conn` is has inserted, by entity; counted on here."""
        self._conn = conn
        self._grown: Counter[str] = Counter() if grown is None else grown
        self._party = party
        self._keys = keys
        self._kind = kind
        self._read = read
        self._stored: offsets.StoredOffset | None = None
        self._tallies: dict[str, Tally] = {}
        self._started = datetime.now().astimezone()

    def lock(self, epoch: int) -> None:
        """Take the party's lock until commit; needed before `facts`.

        Raises:
            Fenced, StaleRead: see `offsets.begin`.
        """
        self._stored = offsets.begin(
            self._conn, self._party, epoch, self._read.position if self._read.ordered else None
        )

    def _before(self) -> Position | None:
        assert self._stored is not None, "lock() comes first"
        return self._stored.audited

    def apply(
        self,
        plan: EntityPlan,
        blocks: Iterable[Block],
        signalled: Sequence[str] | None = None,
        *,
        fresh: bool = False,
        generation: int | None = None,
    ) -> None:
        """Apply rows of one entity.

        Args:
            plan: the entity's statements.
            blocks: what the view said, as COPY text.
            signalled: the keys that were asked for, each once; None for a copy's chunk.
            fresh: the partition holds none of these keys (a first copy).
            generation: note the keys as seen by this copy, so that its end knows what is gone.
        """
        tally = self._tally(plan)
        if tally.ops:
            self._conn.execute(plan.clear)
        rows = self._load(plan, blocks, signalled)
        params = {**self._params(tally), "rows": rows, "generation": generation}
        tally.signalled += len(signalled or ())
        if not fresh and max(rows, len(signalled or ())) <= SMALL_ROWS:
            size = (self._grown[plan.entity] // GROWN_ROWS).bit_length()
            applied = self._run(sql.SQL("{}\n-- plan {}").format(plan.apply, sql.Literal(size)), params, prepare=True)
        else:
            applied = self._run(plan.apply_fresh if fresh else plan.apply, params, prepare=False)
        self._grown[plan.entity] += applied.ops["I"]
        tally.add(applied)
        if not fresh:
            self._conn.execute(plan.release, params)
        if generation is not None:
            self._conn.execute(plan.mark_seen, params)

    def _run(self, statement: sql.Composed, params: dict[str, object], *, prepare: bool) -> Applied:
        row = self._conn.execute(statement, params, prepare=prepare).fetchone()
        assert row is not None
        applied = Applied(Counter(dict(zip("IURNDAQ", row[:7], strict=True))), tuple(row[10] or ()), row[11] or {})
        if (row[7], row[8], row[9]) != (applied.ops["I"], applied.ops["U"] + applied.ops["R"], applied.ops["D"]):
            # Somebody else wrote to this party's rows between our look and our write.
            raise StagingUnavailable("rows changed behind the batch", hint="it is read and applied again")
        return applied

    def _tally(self, plan: EntityPlan) -> Tally:
        if plan.entity not in self._tallies:
            row = self._conn.execute("select nextval(pg_get_serial_sequence('staging.sync_batch', 'id'))").fetchone()
            assert row is not None
            self._tallies[plan.entity] = Tally(plan, row[0])
        return self._tallies[plan.entity]

    def _load(self, plan: EntityPlan, blocks: Iterable[Block], signalled: Sequence[str] | None) -> int:
        """Bring rows and signalled keys to staging; gives how many rows."""
        rows = 0
        bad: list[tuple[str | None, ...]] = []
        with self._conn.cursor() as cursor:
            with _party_format(plan), cursor.copy(plan.copy_inbox) as copy:
                for block in blocks:
                    copy.write(block.data)
                    rows += block.rows + len(block.bad)
                    bad.extend((*row.key, row.reason) for row in block.bad)
            if bad:
                cursor.executemany(plan.insert_bad, bad)
            if signalled is not None:
                _copy_keys(cursor, plan, signalled)
        return rows

    def _params(self, tally: Tally) -> dict[str, object]:
        return {
            **tally.plan.params,
            "party": self._party,
            "parpol_id": tally.plan.parpol_id,
            "entity": tally.plan.entity,
            "batch_id": tally.batch_id,
            "ordinal": sum(tally.ops[op] for op in WRITES),
            "mapping_version": tally.plan.mapping_version,
            "source_ts": self._read.committed_last,
            "read_position": self._read.position or 0,
            "salt": tally.salt,
            "seed": self._keys.seed,
            "inner": self._keys.inner,
            "outer": self._keys.outer,
        }

    def journal_all(self, plan: EntityPlan) -> None:
        """Tell the change feed of every row of a partition that becomes visible with this batch."""
        self._conn.execute(plan.journal_all, self._params(self._tally(plan)))

    def park(self, plan: EntityPlan, keys: Sequence[str]) -> None:
        """Keep keys of a held entity as a set, to be read when it is released."""
        tally = self._tally(plan)
        if any(len(key) > KEY_LETTERS_SAFE and short_key(key, plan.key_width) != key for key in keys):
            # Cut to fit an index, a key cannot be asked for any more.
            self.want_rescan(plan.entity)
        with self._conn.cursor() as cursor:
            _copy_keys(cursor, plan, keys)
            cursor.execute(
                sql.SQL(
                    "insert into connector.parked (party, entity, source_key)"
                    " select %s, %s, source_key from {} on conflict do nothing"
                ).format(plan.signalled),
                (self._party, plan.entity),
            )
            cursor.execute(sql.SQL("truncate {}").format(plan.signalled))
        tally.signalled += len(keys)
        tally.parked += len(keys)

    def remember(self, notes: Iterable[Note]) -> None:
        """What the source saw, to be true from the moment these rows are in."""
        memory.write(self._conn, self._party, notes)

    def want_rescan(self, entity: str) -> None:
        """Every row of the entity may have changed: note that it is to be read whole, soon."""
        self._conn.execute(
            "update connector.entity set rescan_since = coalesce(rescan_since, clock_timestamp())"
            " where party = %s and entity = %s",
            (self._party, entity),
        )

    def unpark(self, plan: EntityPlan) -> None:
        """Forget the parked keys of an entity: this batch has read them."""
        self._conn.execute("delete from connector.parked where party = %s and entity = %s", (self._party, plan.entity))

    def check_brake(self, plan: EntityPlan, share_max: float) -> None:
        """Stop a batch that would delete more of an entity than is plausible.

        Raises:
            EntityHeld: over the share; nothing of the batch stays.
        """
        deletes = self._tallies[plan.entity].ops["D"] if plan.entity in self._tallies else 0
        if deletes <= BRAKE_ROWS_MIN:
            return
        row = self._conn.execute(
            "select live_rows, brake_off from connector.entity where party = %s and entity = %s",
            (self._party, plan.entity),
        ).fetchone()
        if row is not None and not row[1] and deletes > share_max * row[0]:
            where = brake.of_batch(self._conn, plan, self._tallies[plan.entity].batch_id)
            raise EntityHeld(
                plan.entity, "delete_brake", f"{deletes} of {row[0]} rows would be deleted{where}",
                hint="if that is right: connector approve; if not: mend the view, then connector resync",
                deletes=deletes,
            )  # fmt: skip

    def check_quarantine(self, plan: EntityPlan, rows_max: int) -> None:
        """Stop a batch that would refuse more rows of an entity than anybody can look at.

        Raises:
            EntityHeld: over the budget; nothing of the batch stays.
        """
        refused = self._tallies[plan.entity].ops["Q"] if plan.entity in self._tallies else 0
        if refused and quarantine.is_over(self._conn, plan.parpol_id, plan.entity, rows_max):
            raise EntityHeld(
                plan.entity, "quarantine_budget", f"more than {rows_max} rows would be in quarantine",
                hint="connector quarantine list says why; mend the view or the mapping, or raise"
                " limits.quarantine_rows_max; then connector resume",
            )  # fmt: skip

    def count_erased(self, plan: EntityPlan, keys: Sequence[str]) -> tuple[int, bytes]:
        """Count rows that the caller deletes in this batch for good; gives the batch's number and their digests.

        They are under a salt that nobody keeps: of an erased row nothing can be shown, not even that it was this key.
        """
        tally = self._tally(plan)
        tally.ops["D"] += len(keys)
        once = secrets.token_bytes(SALT_BYTES)
        digests = b"".join(row_digest(once, key, None) for key in keys)
        tally.pages.append(page_digest(digests))
        return tally.batch_id, digests

    def commit_again(self, plan: EntityPlan, batches: Sequence[int]) -> int:
        """Commit to the live rows that these batches wrote under a new salt: theirs is gone. Gives how many."""
        tally = self._tally(plan)
        params = {**self._params(tally), "batches": list(batches)}
        pages = self._conn.execute(plan.commit_again, params).fetchall()
        tally.pages.extend(page for _, page, _ in pages)
        return sum(rows for _, _, rows in pages)

    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(tally.outcome() for tally in self._tallies.values())

    @property
    def party(self) -> str:
        return self._party

    @property
    def transaction(self) -> psycopg.Connection:
        """The connection whose transaction this is: the audit entry is appended in it."""
        return self._conn

    def facts(self, position: Position | None, more: Mapping[str, object] | None = None) -> dict[str, object]:
        """What the audit entry of this batch says: counts that balance, and the positions it covers.

        Args:
            position: where the party's stream is covered up to now; None leaves it where it is.
            more: further facts (a copy's chunk, a control act).
        """
        failpoint.hit("after_rows")
        before = self._before() or position
        after = position or self._before()
        facts: dict[str, object] = {
            "kind": self._kind.value,
            "entities": [_counts(outcome) for outcome in self.outcomes()],
        }
        if self._tallies:
            facts["reference"] = self._reference()
        if before is not None and after is not None:
            facts |= {"position_from": before.text, "position_to": after.text}
        # Last: the entry that begins a history says itself where it begins.
        return facts | dict(more or {})

    def _reference(self) -> str:
        """Which reference data the rows were mapped with: one digest over the editions that are loaded now."""
        row = self._conn.execute(_REFERENCE).fetchone()
        assert row is not None
        return str(row[0])

    def advance(self, position: Position | None, seq: int) -> None:
        """Record the counts under audit entry `seq` and move the position: the last act of a batch."""
        failpoint.hit("after_audit")
        before = self._before() or position
        after = position or self._before()
        for tally in self._tallies.values():
            self._record(tally, tally.outcome(), seq, before, after)
        offsets.advance(
            self._conn,
            self._party,
            position,
            read_position=self._read.position if self._read.ordered else None,
            audited=True,
        )
        failpoint.hit("after_offset")

    def _record(
        self, tally: Tally, outcome: Outcome, seq: int, before: Position | None, after: Position | None
    ) -> None:
        facts = {
            "id": tally.batch_id, "party": self._party, "parpol_id": tally.plan.parpol_id, "entity": outcome.entity,
            "kind": self._kind.value, "seq": seq, "version": outcome.mapping_version, "digest": outcome.mapping_digest,
            "from": before.text if before else None, "to": after.text if after else None,
            "signalled": outcome.signalled, "read": outcome.read, "inserted": outcome.inserted,
            "updated": outcome.updated, "unchanged": outcome.unchanged, "deleted": outcome.deleted,
            "absent": outcome.absent, "quarantined": outcome.quarantined, "parked": outcome.parked,
            "started": self._started, "first": self._read.committed_first, "last": self._read.committed_last,
            "revived": tally.ops["R"],
        }  # fmt: skip
        try:
            self._conn.execute(_RECORD, facts)
        except psycopg.errors.CheckViolation:
            raise StagingError(
                f"{outcome.entity}: the batch does not balance", hint="this is a fault of ours; nothing was written"
            ) from None
        if tally.pages:
            self._conn.execute(_SALT, {**facts, "salt": tally.salt})
        self._conn.execute(_COUNT, facts)


def _counts(outcome: Outcome) -> dict[str, object]:
    return {
        "entity": outcome.entity,
        "signalled": outcome.signalled,
        "read": outcome.read,
        "inserted": outcome.inserted,
        "updated": outcome.updated,
        "unchanged": outcome.unchanged,
        "quarantined": outcome.quarantined,
        "deleted": outcome.deleted,
        "absent": outcome.absent,
        "parked": outcome.parked,
        "reasons": dict(sorted(outcome.reasons.items())),
        "batch": outcome.batch_id,
        "commitment": outcome.commitment.hex(),
        "mapping_version": outcome.mapping_version,
        "mapping_digest": outcome.mapping_digest,
    }


@contextmanager
def _party_format(plan: EntityPlan) -> Iterator[None]:
    """Rows that are no COPY text are their server's fault: it was checked for what is cheap to check."""
    try:
        yield
    except psycopg.errors.BadCopyFileFormat:
        raise SourceProtocolError(
            f"{plan.entity}: the party's server sent rows of unequal width", hint="is it PostgreSQL?"
        ) from None


def _copy_keys(cursor: psycopg.Cursor, plan: EntityPlan, keys: Sequence[str]) -> None:
    """Put keys into the entity's temporary table, as a refused row shows them (`short_key`)."""
    short = (key if len(key) <= KEY_LETTERS_SAFE else short_key(key, plan.key_width) for key in keys)
    with cursor.copy(sql.SQL("copy {} from stdin").format(plan.signalled)) as copy:
        copy.write("".join(f"{_escape(key)}\n" for key in short))


def _escape(key: str) -> str:
    return key.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


_REFERENCE = """
select encode(sha256(convert_to(coalesce(string_agg(
         nama || ' ' || encode(sha256, 'hex') || E'\n', '' order by nama collate "C"), ''), 'UTF8')), 'hex')
  from staging.ref_versi
"""

_RECORD = """
insert into staging.sync_batch (id, party, parpol_id, entity, kind, audit_seq, mapping_version, mapping_digest,
       position_from, position_to, signalled, read, inserted, updated, unchanged, deleted, absent, quarantined, parked,
       started_at, ended_at, committed_first, committed_last)
overriding system value
values (%(id)s, %(party)s, %(parpol_id)s, %(entity)s, %(kind)s, %(seq)s, %(version)s, %(digest)s,
       %(from)s, %(to)s, %(signalled)s, %(read)s, %(inserted)s, %(updated)s, %(unchanged)s, %(deleted)s, %(absent)s,
       %(quarantined)s, %(parked)s, %(started)s, clock_timestamp(), %(first)s, %(last)s)
"""

_SALT = """
insert into audit.salt (batch_id, party, entity, salt) values (%(id)s, %(party)s, %(entity)s, %(salt)s)
"""

_COUNT = """
update connector.entity
   set signalled = signalled + %(signalled)s, read = read + %(read)s, inserted = inserted + %(inserted)s,
       updated = updated + %(updated)s, unchanged = unchanged + %(unchanged)s, deleted = deleted + %(deleted)s,
       absent = absent + %(absent)s, quarantined = quarantined + %(quarantined)s,
       live_rows = live_rows + %(inserted)s + %(revived)s - %(deleted)s,
       last_batch_at = clock_timestamp(), mapping_version = %(version)s, mapping_digest = %(digest)s
 where party = %(party)s and entity = %(entity)s
"""
