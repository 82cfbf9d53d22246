"""The product on one screen: signals in, the view read again, rows and entry and position applied as one.

    signals -> snapshot that shows them -> for each entity: keys -> what the view says -> staging
            -> audit entry -> position -> commit -> confirm

What can be read in `Pipeline.apply` is all there is; everything else exists to make those lines true.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import structlog

from connector import failpoint
from connector.capture.signals import KeySet, Signals
from connector.events import EntityState, EntryKind, Outcome, key_parts
from connector.runtime.acts import record
from connector.runtime.ahead import Ahead
from connector.runtime.pace import Pace, bounded
from connector.runtime.ports import Snapshot, Source, View, Wait
from connector.staging.batch import Batch, Read
from connector.staging.party import EntityStatus, PartyStaging
from connector.staging.plan import EntityPlan
from connector.view.blocks import Block
from connector.view.shape import ViewShape

# A gate that stays shut this long is told in the log: somebody's standby is away.
GATE_WARN_S = 5.0
# How long a call waits for it; then whoever called may see to wishes, and calls again.
GATE_S = 0.5
# What a batch's line counts, as its audit entry does.
COUNTS = (
    "signalled", "read", "inserted", "updated", "unchanged", "deleted", "absent", "quarantined", "parked",
)  # fmt: skip
_DIRECT = frozenset({EntityState.STREAMING})


class Stopped(Exception):
    """The wait was ended because the worker is to stop."""


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity as it runs: its statements, and its view as the catalogue shows it."""

    plan: EntityPlan
    shape: ViewShape


@dataclass(frozen=True, slots=True)
class Applied:
    """A batch that is in staging: its audit entry and what it did to each entity."""

    seq: int
    outcomes: tuple[Outcome, ...]


class Pipeline:
    """Applies one party's signals. One thread at a time."""

    def __init__(self, party: str, source: Source, view: View, staging: PartyStaging, pace: Pace, wait: Wait) -> None:
        self._party = party
        self._source = source
        self._view = view
        self._staging = staging
        self._limits = pace.limits
        self._pace = pace
        self._wait = wait
        self._hidden_s = 0.0
        self._watch = pace.watch
        self._traces = pace.traces
        self._log = structlog.get_logger()

    def apply(self, signals: Signals, entities: Mapping[str, Entity], states: Mapping[str, EntityStatus]) -> bool:
        """Apply whole transactions: all of it or nothing, then confirm.

        False where their commits do not show yet, although the log has them: nothing was done, call again.

        Raises:
            EntityHeld: one entity cannot go on; nothing was written. Hold it and call again.
        """
        applied: Applied | None = None
        if signals.empty:
            self._staging.move_idle(signals.position)
        else:
            failpoint.hit("after_read")
            if not self._hidden_s:
                self._watch.begin()
            with self._watch.stage("gate"):
                snapshot = self._see(signals)
            if snapshot is None:
                return False
            applied = self._apply(snapshot, signals, entities, states)
        try:
            failpoint.hit("before_confirm")
            with self._watch.stage("confirm"):
                self._source.confirm(signals.position)
            failpoint.hit("after_confirm")
        finally:
            # The batch is in, whether or not the source has heard of it.
            if applied is not None:
                self._tell(applied, signals)
        return True

    def _apply(
        self, snapshot: Snapshot, signals: Signals, entities: Mapping[str, Entity], states: Mapping[str, EntityStatus]
    ) -> Applied:
        self._watch.add("read", signals.read_s)
        read = Read(snapshot.position, signals.committed_first, signals.committed_last)
        try:
            with self._staging.batch(EntryKind.SIGNALS, read) as batch:
                for name in _blind(signals, entities, states):
                    batch.want_rescan(name)
                for entity, keys in self._touched(signals, entities, states):
                    if _direct(states[entity.plan.entity]):
                        self._apply_keys(batch, entity, keys.slices(self._pace.batch_rows), len(keys))
                    else:
                        for part in keys.slices(self._pace.batch_rows):
                            batch.park(entity.plan, part)
                if signals.notes:
                    batch.remember(signals.notes)
                with self._watch.stage("record"):
                    seq = record(batch, self._party, signals.position, _span(signals))
                recorded = time.monotonic()
            self._watch.add("commit", time.monotonic() - recorded)
        finally:
            self._view.end()
        return Applied(seq, batch.outcomes())

    def drain(self, entity: Entity, parked: int) -> None:
        """Read again what was signalled while the entity was held: one batch, under the brake."""
        snapshot = self._view.begin()
        try:
            with self._staging.batch(EntryKind.SIGNALS, Read(snapshot.position)) as batch:
                slices = self._staging.parked_keys(entity.plan.entity, slice_rows=self._pace.batch_rows)
                self._apply_keys(batch, entity, slices, parked, ahead=False)
                batch.unpark(entity.plan)
                seq = record(batch, self._party, None, {"act": "drain"})
        finally:
            self._view.end()
        self._log.info("parked_keys_applied", entity=entity.plan.entity, keys=parked, audit_seq=seq)

    def _see(self, signals: Signals) -> Snapshot | None:
        """A snapshot in which every signalled transaction is visible; None where there is none for a while."""
        waited_s, pause_s = 0.0, 0.005
        while True:
            snapshot = self._view.begin()
            if snapshot.shows(signals.xids):
                self._hidden_s = 0.0
                return snapshot
            self._view.end()
            if waited_s >= GATE_S:
                self._tell_hidden(signals, waited_s)
                return None
            if self._wait(pause_s):
                raise Stopped
            waited_s, pause_s = waited_s + pause_s, min(pause_s * 2, 0.5)

    def _tell_hidden(self, signals: Signals, waited_s: float) -> None:
        before, self._hidden_s = self._hidden_s, self._hidden_s + waited_s
        if before <= GATE_WARN_S < self._hidden_s:
            self._log.warning(
                "commit_not_visible", waited_s=round(self._hidden_s, 1), position=signals.position.text,
                hint="the party's server waits for a synchronous standby; its change is taken once it shows",
            )  # fmt: skip

    def _touched(
        self, signals: Signals, entities: Mapping[str, Entity], states: Mapping[str, EntityStatus]
    ) -> Iterator[tuple[Entity, KeySet]]:
        """Each touched entity with its keys; those of a joined table's change are looked up in the view."""
        merged: dict[str, KeySet] = dict(signals.keys)
        for match, values in signals.matches.items():
            if match.entity in entities and states[match.entity].state is not EntityState.HELD:
                keys = merged.setdefault(match.entity, KeySet(self._limits.keys_in_memory))
                for part in values.slices(self._pace.batch_rows):
                    rows = [key_parts(value, len(match.columns)) for value in part]
                    with self._watch.stage("fetch"):
                        for key in self._view.matching(entities[match.entity].shape, match.columns, rows):
                            keys.add(key)
        for name, entity in entities.items():  # in the mapping's order, whatever the log's
            if name in merged and len(merged[name]):
                yield entity, merged[name]

    def _apply_keys(
        self, batch: Batch, entity: Entity, slices: Iterator[list[str]], total: int, *, ahead: bool = True
    ) -> None:
        if total <= self._pace.batch_rows or not ahead:
            for part in slices:
                with self._watch.stage("apply"):
                    rows = self._watch.waiting("fetch", self._view.fetch(entity.shape, part))
                    batch.apply(entity.plan, rows, part)
        else:
            # The next slice is read while staging applies this one: both servers work.
            with closing(Ahead(self._fetched(entity, slices))) as fetched:
                for part, blocks in self._watch.waiting("fetch", fetched):
                    with self._watch.stage("apply"):
                        batch.apply(entity.plan, blocks, part)
        failpoint.hit("after_fetch")
        batch.check_brake(entity.plan, self._limits.delete_share_max)
        batch.check_quarantine(entity.plan, self._limits.quarantine_rows_max)

    def _fetched(self, entity: Entity, slices: Iterator[list[str]]) -> Iterator[tuple[list[str], list[Block]]]:
        for part in slices:
            yield part, list(bounded(self._view.fetch(entity.shape, part), len(part)))

    def _tell(self, applied: Applied, signals: Signals) -> None:
        """One wide line for the batch: its counts, whole and by entity, and where its time went."""
        outcomes = applied.outcomes
        counts = {name: sum(getattr(outcome, name) for outcome in outcomes) for name in COUNTS}
        lap = self._watch.lap()
        stages = {f"{stage}_s": round(seconds, 4) for stage, seconds in lap.items()}
        entities = {
            outcome.entity: {name: getattr(outcome, name) for name in COUNTS if getattr(outcome, name)}
            for outcome in outcomes
        }
        self._log.info(
            "batch_committed", audit_seq=applied.seq, position=signals.position.text,
            transactions=signals.transactions, **counts, **stages, entities=entities,
        )  # fmt: skip
        facts: dict[str, str | int] = {
            "audit_seq": applied.seq,
            "position": signals.position.text,
            "transactions": signals.transactions,
        }
        self._traces.batch({**facts, **counts}, lap)


def _blind(signals: Signals, entities: Mapping[str, Entity], states: Mapping[str, EntityStatus]) -> frozenset[str]:
    """Entities to be read whole later: every row may have changed, or their view cannot be asked who is touched."""
    unseen = {name for name in signals.keys if name not in entities}
    unasked = {
        match.entity
        for match in signals.matches
        if match.entity not in entities or states[match.entity].state is EntityState.HELD
    }
    return frozenset(signals.whole | unseen | unasked) & states.keys()


def _direct(status: EntityStatus) -> bool:
    """Whether an entity's signals are applied as they come. A first copy, a hold and a pause park them."""
    return status.state in _DIRECT or (status.state is EntityState.COPYING and not status.bulk)


def _span(signals: Signals) -> dict[str, object]:
    """When the batch's transactions were committed, by the party's clock."""
    if signals.committed_first is None or signals.committed_last is None:
        return {"transactions": signals.transactions}
    return {
        "transactions": signals.transactions,
        "committed_first": signals.committed_first.isoformat(timespec="milliseconds"),
        "committed_last": signals.committed_last.isoformat(timespec="milliseconds"),
    }
