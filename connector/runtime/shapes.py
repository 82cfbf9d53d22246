"""Watches the views themselves: gone, changed, forbidden, back again; and mappings that changed since.

A change of a view's definition leaves nothing in the log, so it is looked for; what may have been missed
is read whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from connector.errors import EntityHeld
from connector.events import EntityState
from connector.runtime.acts import act
from connector.runtime.pipeline import Entity
from connector.runtime.ports import Party, View
from connector.staging.party import EntityStatus, PartyStaging, Standing

# Reasons to hold an entity that end by themselves when the party's DBA mends the view.
MENDABLE = frozenset({"view_missing", "view_changed", "view_failed", "permission_denied"})
# A view may look mended and fail again for one of its rows: then it is left alone for a while, longer each time.
ALONE_S_FIRST, ALONE_S_MAX = 10.0, 300.0


class Patience:
    """How long to leave an entity alone that was held again soon after it was released."""

    def __init__(self) -> None:
        self._released: dict[str, float] = {}
        self._alone_s: dict[str, float] = {}
        self._until: dict[str, float] = {}

    def released(self, entity: str) -> None:
        self._released[entity] = time.monotonic()

    def held(self, entity: str) -> None:
        now = time.monotonic()
        soon = now - self._released.get(entity, -ALONE_S_MAX) < ALONE_S_MAX
        self._alone_s[entity] = (
            min(max(2 * self._alone_s.get(entity, 0.0), ALONE_S_FIRST), ALONE_S_MAX) if soon else 0.0
        )
        self._until[entity] = now + self._alone_s[entity]

    def over(self, entity: str) -> bool:
        return time.monotonic() >= self._until.get(entity, 0.0)


# An operator's pause, and a party whose history is lost, outlast whatever happens to a view meanwhile.
SET_ASIDE = frozenset({EntityState.PAUSED, EntityState.NEEDS_RESYNC})


class Shapes:
    """The entities of a party as their views are now. `entities` has those that can be read."""

    def __init__(self, party: Party, view: View, staging: PartyStaging) -> None:
        self._party = party
        self._view = view
        self._staging = staging
        self._log = structlog.get_logger()
        self.entities: dict[str, Entity] = {}
        self._patience = Patience()

    def look(self, states: Mapping[str, EntityStatus], *, starting: bool = False) -> bool:
        """Compare each view, and at the start each mapping, with what its rows were staged under."""
        worked = False
        for name, (plan, view) in self._party.plans.items():
            status = states[name]
            if _is_mendable(status) and not self._patience.over(name):
                continue
            try:
                entity = Entity(plan, self._view.shape(name, view.name, view.key, view.inputs))
                self.entities[name] = entity
                if _is_mendable(status):
                    self._probe(entity)
            except EntityHeld as held:
                # Gone, then there again without its grant: the newer reason is the one to act on.
                if status.state not in SET_ASIDE and (
                    status.state is not EntityState.HELD or (_is_mendable(status) and status.reason != held.reason)
                ):
                    self.hold(held)
                    worked = True
                continue
            worked |= self._compare(entity, status, starting)
        return worked

    def _probe(self, entity: Entity) -> None:
        """Raise `EntityHeld` again while the view cannot be read."""
        self._view.begin()
        try:
            for _ in self._view.fetch(entity.shape, []):
                pass
        finally:
            self._view.end()

    def _compare(self, entity: Entity, status: EntityStatus, starting: bool) -> bool:
        known, now = status.view_fingerprint, entity.shape.fingerprint
        if _is_mendable(status):
            # What changed while it was away was not all signalled: read it whole after the parked keys.
            self._go_on(entity, "the view can be read again", rescan=known is not None, resume=True)
        elif known not in (None, now):
            self._go_on(entity, "the view's definition changed", rescan=True, resume=False)
        elif starting and status.mapping_digest not in (None, entity.plan.mapping_digest):
            self._go_on(entity, "the mapping changed", rescan=True, resume=False)
        elif known == now:
            return False
        self._staging.set_fingerprint(entity.plan.entity, now)
        return True

    def _go_on(self, entity: Entity, why: str, *, rescan: bool, resume: bool) -> None:
        name = entity.plan.entity
        facts = {
            "act": "released" if resume else "noticed", "entity": name, "why": why,
            "mapping_version": entity.plan.mapping_version, "mapping_digest": entity.plan.mapping_digest,
        }  # fmt: skip
        if resume:
            self._patience.released(name)
        with act(self._staging, self._party.name, facts) as batch:
            if resume:
                self._staging.resume_state(batch, name)
            if rescan:
                batch.want_rescan(name)
        self._log.info("entity_released" if resume else "view_changed", entity=name, why=why, rescan=rescan)

    def hold(self, held: EntityHeld) -> None:
        """Hold one entity, with the reason where everybody looks for it."""
        self._patience.held(held.entity)
        facts = {"act": "held", "entity": held.entity, "reason": held.reason, "message": held.message}
        standing = Standing(EntityState.HELD, held.reason, f"{held.message}: {held.hint}", deletes=held.deletes)
        with act(self._staging, self._party.name, facts) as batch:
            self._staging.set_state(batch, held.entity, standing)
        self._log.error("entity_held", entity=held.entity, reason=held.reason, message=held.message, hint=held.hint)


def _is_mendable(status: EntityStatus) -> bool:
    return status.state is EntityState.HELD and status.reason in MENDABLE
