"""Copy a view whole: the first time in bulk, later beside live rows. A chunk is a batch with its entry.

After a crash a copy goes on behind its last chunk. What staging has and the copy did not meet is not
deleted here: those keys are parked and looked at once more, under the brake.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from connector import failpoint
from connector.events import EntityState, EntryKind
from connector.runtime.acts import act, record
from connector.runtime.ahead import Ahead
from connector.runtime.pace import Pace, bounded
from connector.runtime.pipeline import Entity
from connector.runtime.ports import View
from connector.staging.batch import BRAKE_ROWS_MIN, Batch, Read
from connector.staging.lane import Lane
from connector.staging.party import EntityStatus, PartyStaging, Standing
from connector.staging.plan import EntityPlan
from connector.view.blocks import Block
from connector.view.shape import ViewShape

# Sessions that load a first copy: one maps while the other writes, on as many processors.
LANES = 2
# Rows without a key cannot be told apart; so many are counted, and the quarantine says "at least".
NULL_KEY_ROWS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next rows in key order. `last` is the key they end with; `whole` says nothing follows."""

    position: int
    blocks: tuple[Block, ...]
    last: str | None
    whole: bool

    @property
    def rows(self) -> int:
        return sum(block.count for block in self.blocks)


def read_chunk(view: View, shape: ViewShape, after: str | None, rows: int) -> Chunk:
    """Read one chunk under a snapshot of its own."""
    snapshot = view.begin()
    try:
        blocks = tuple(bounded(view.chunk(shape, after, rows), rows))
    finally:
        view.end()
    last = blocks[-1].last_key if blocks else None
    return Chunk(snapshot.position, blocks, last, sum(block.count for block in blocks) < rows)


class BulkCopy:
    """A first copy under way: chunks read ahead, loaded side by side in lanes, committed in order."""

    def __init__(self, of: tuple[str, int], chunks: Ahead[Chunk], staging: PartyStaging) -> None:
        """`of`: the entity and the generation of its copy."""
        self.of = of
        self._chunks = chunks
        self._staging = staging
        self._idle: list[Lane] = []
        self._working: deque[tuple[Lane, Chunk]] = deque()
        self._whole = False

    @contextmanager
    def next(self, plan: EntityPlan) -> Iterator[tuple[Batch, Chunk]]:
        """The oldest chunk's batch, loaded; commits when the block ends."""
        while len(self._working) < LANES and not self._whole:
            self._begin(plan)
        lane, chunk = self._working.popleft()
        self._idle.append(lane)
        with lane.turn() as batch:
            failpoint.hit("copy_chunk_read")
            yield batch, chunk

    def _begin(self, plan: EntityPlan) -> None:
        chunk = next(self._chunks)
        self._whole = chunk.whole
        lane = self._idle.pop() if self._idle else self._staging.open_lane()
        # Read ahead: nothing else writes its entity's rows, so its age does not matter.
        lane.begin(plan, chunk.blocks, Read(chunk.position, ordered=False))
        self._working.append((lane, chunk))

    def close(self) -> None:
        self._chunks.close()
        for lane in (*self._idle, *(lane for lane, _ in self._working)):
            lane.close()


class Copier:
    """Copies a party's entities, a chunk a step, one entity after the other."""

    def __init__(self, party: str, view: View, bulk_view: View, staging: PartyStaging, pace: Pace) -> None:
        """`bulk_view` is a second session at the party: first copies are read ahead on it."""
        self._party = party
        self._view = view
        self._bulk_view = bulk_view
        self._staging = staging
        self._limits = pace.limits
        self._pace = pace
        self._bulk: BulkCopy | None = None
        self._log = structlog.get_logger()

    def close(self) -> None:
        """Give up what was read or loaded ahead; staging's own note says where to go on."""
        if self._bulk is not None:
            self._bulk.close()
            self._bulk = None

    def step(self, entities: Mapping[str, Entity], states: Mapping[str, EntityStatus]) -> bool:
        """Do the next chunk of the first entity that is being copied; False where none is."""
        for name, entity in entities.items():
            status = states[name]
            if status.state is EntityState.COPYING:
                if self._forgotten(status):
                    self.begin(entity, "the staging server crashed and forgot which keys were seen")
                else:
                    self._chunk(entity, status)
                return True
        return False

    def begin(self, entity: Entity, why: str) -> None:
        """Start a copy from the first key."""
        self.close()
        facts = {"act": "copy_begun", "entity": entity.plan.entity, "why": why}
        with act(self._staging, self._party, facts) as batch:
            self._staging.begin_copy(batch, entity.plan)
        self._log.info("copy_begun", entity=entity.plan.entity, why=why)

    def _forgotten(self, status: EntityStatus) -> bool:
        return (
            not status.bulk and status.copy_rows > 0 and self._staging.seen_rows(status.entity, status.generation) == 0
        )

    def _chunk(self, entity: Entity, status: EntityStatus) -> None:
        if status.bulk:
            self._bulk_chunk(entity, status)
            return
        chunk = read_chunk(self._view, entity.shape, status.copy_after, self._pace.copy_rows)
        failpoint.hit("copy_chunk_read")
        with self._staging.batch(EntryKind.COPY, Read(chunk.position)) as batch:
            batch.apply(entity.plan, chunk.blocks, generation=status.generation)
            seq = self._note(batch, entity, status, chunk)
        self._tell(status, chunk, seq)

    def _bulk_chunk(self, entity: Entity, status: EntityStatus) -> None:
        if self._bulk is None or self._bulk.of != (status.entity, status.generation):
            self.close()
            chunks = Ahead(self._chunks(entity.shape, status.copy_after))
            self._bulk = BulkCopy((status.entity, status.generation), chunks, self._staging)
        with self._bulk.next(entity.plan) as (batch, chunk):
            seq = self._note(batch, entity, status, chunk)
        if chunk.whole:
            self.close()
        self._tell(status, chunk, seq)

    def _note(self, batch: Batch, entity: Entity, status: EntityStatus, chunk: Chunk) -> int:
        """The end of a chunk's batch: how far the copy is, what follows from that, and the entry."""
        if chunk.last is not None:
            self._staging.note_chunk(batch, status.entity, chunk.last, chunk.rows)
        if chunk.whole:
            self._finish(batch, entity, status)
        batch.check_quarantine(entity.plan, self._limits.quarantine_rows_max)
        act = "copy_finished" if chunk.whole else "copy_chunk"
        return record(batch, self._party, None, {"act": act, "rows": chunk.rows})

    def _tell(self, status: EntityStatus, chunk: Chunk, seq: int) -> None:
        failpoint.hit("copy_after_finish" if chunk.whole else "copy_chunk_applied")
        self._log.info("copy_chunk_committed", entity=status.entity, rows=chunk.rows, whole=chunk.whole, audit_seq=seq)

    def _chunks(self, shape: ViewShape, after: str | None) -> Iterator[Chunk]:
        while True:
            chunk = read_chunk(self._bulk_view, shape, after, self._pace.copy_rows)
            yield chunk
            if chunk.whole:
                return
            after = chunk.last

    def _finish(self, batch: Batch, entity: Entity, status: EntityStatus) -> None:
        """The last chunk is in: rows without a key, index or what is gone, and the entity's next state."""
        self._null_keys(batch, entity, status)
        failpoint.hit("copy_before_finish")
        if status.bulk:
            self._staging.attach(batch, entity.plan)
            self._staging.set_state(batch, status.entity, Standing(EntityState.STREAMING, copied=True))
            return
        unseen, live = self._staging.park_unseen(batch, entity.plan, status.generation)
        if unseen > BRAKE_ROWS_MIN and unseen > self._limits.delete_share_max * live:
            where = self._staging.parked_regions(batch, entity.plan)
            hint = f"{unseen} of {live} rows are no longer in the view{where}: connector approve, or mend it and resync"
            standing = Standing(EntityState.HELD, "delete_brake", hint, copied=True)
            self._staging.set_state(batch, status.entity, standing)
            self._log.error(
                "delete_brake_pulled", entity=status.entity, rows=unseen, live=live, hint="connector approve, or resync"
            )
        else:
            self._staging.set_state(batch, status.entity, Standing(EntityState.STREAMING, copied=True))

    def _null_keys(self, batch: Batch, entity: Entity, status: EntityStatus) -> None:
        self._view.begin()
        try:
            blocks = tuple(self._view.null_keys(entity.shape, NULL_KEY_ROWS_MAX))
        finally:
            self._view.end()
        if any(block.count for block in blocks):
            batch.apply(entity.plan, blocks, fresh=status.bulk)
