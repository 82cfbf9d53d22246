"""Copy a view whole: the first time in bulk, later beside live rows. A chunk is a batch with its entry.

After a crash a copy goes on behind its last chunk. What staging has and the copy did not meet is not
deleted here: those keys are parked and looked at once more, under the brake.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import structlog

from connector import failpoint
from connector.events import EntityState, EntryKind
from connector.runtime.acts import act, record
from connector.runtime.ahead import Ahead
from connector.runtime.pipeline import Entity
from connector.runtime.ports import Limits
from connector.staging.batch import BRAKE_ROWS_MIN, Batch, Read
from connector.staging.party import EntityStatus, PartyStaging, Standing
from connector.view.blocks import Block
from connector.view.postgres import PostgresView, ViewShape

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


def read_chunk(view: PostgresView, shape: ViewShape, after: str | None, rows: int) -> Chunk:
    """Read one chunk under a snapshot of its own."""
    snapshot = view.begin()
    try:
        blocks = tuple(view.chunk(shape, after, rows))
    finally:
        view.end()
    last = blocks[-1].last_key if blocks else None
    return Chunk(snapshot.position, blocks, last, sum(block.count for block in blocks) < rows)


class Copier:
    """Copies a party's entities, a chunk a step, one entity after the other."""

    def __init__(
        self, party: str, view: PostgresView, bulk_view: PostgresView, staging: PartyStaging, limits: Limits
    ) -> None:
        """`bulk_view` is a second session at the party: first copies are read ahead on it."""
        self._party = party
        self._view = view
        self._bulk_view = bulk_view
        self._staging = staging
        self._limits = limits
        self._ahead: tuple[str, int, Ahead[Chunk]] | None = None
        self._log = structlog.get_logger()

    def close(self) -> None:
        self._drop_ahead()

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
        self._drop_ahead()
        facts = {"act": "copy_begun", "entity": entity.plan.entity, "why": why}
        with act(self._staging, self._party, facts) as batch:
            self._staging.begin_copy(batch, entity.plan)
        self._log.info("copy_begun", entity=entity.plan.entity, why=why)

    def _forgotten(self, status: EntityStatus) -> bool:
        return (
            not status.bulk and status.copy_rows > 0 and self._staging.seen_rows(status.entity, status.generation) == 0
        )

    def _chunk(self, entity: Entity, status: EntityStatus) -> None:
        chunk = self._next(entity, status)
        failpoint.hit("copy_chunk_read")
        generation = None if status.bulk else status.generation
        # A bulk chunk was read ahead; nothing else writes its entity's rows, so its age does not matter.
        read = Read(chunk.position, ordered=not status.bulk)
        with self._staging.batch(EntryKind.COPY, read) as batch:
            batch.apply(entity.plan, chunk.blocks, fresh=status.bulk, generation=generation)
            if chunk.last is not None:
                self._staging.note_chunk(batch, status.entity, chunk.last, chunk.rows)
            if chunk.whole:
                self._finish(batch, entity, status)
            more: dict[str, object] = {"act": "copy_finished" if chunk.whole else "copy_chunk", "rows": chunk.rows}
            seq = record(batch, self._party, None, more)
        failpoint.hit("copy_after_finish" if chunk.whole else "copy_chunk_applied")
        self._log.info("copy_chunk_committed", entity=status.entity, rows=chunk.rows, whole=chunk.whole, audit_seq=seq)

    def _next(self, entity: Entity, status: EntityStatus) -> Chunk:
        if not status.bulk:
            return read_chunk(self._view, entity.shape, status.copy_after, self._limits.copy_rows)
        if self._ahead is None or self._ahead[:2] != (status.entity, status.generation):
            self._drop_ahead()
            chunks = Ahead(self._chunks(entity.shape, status.copy_after))
            self._ahead = (status.entity, status.generation, chunks)
        chunk = next(self._ahead[2])
        if chunk.whole:
            self._drop_ahead()
        return chunk

    def _chunks(self, shape: ViewShape, after: str | None) -> Iterator[Chunk]:
        while True:
            chunk = read_chunk(self._bulk_view, shape, after, self._limits.copy_rows)
            yield chunk
            if chunk.whole:
                return
            after = chunk.last

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead[2].close()
            self._ahead = None

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
            hint = (
                f"{unseen} of {live} rows are no longer in the view: connector approve, or mend it and connector resync"
            )
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
