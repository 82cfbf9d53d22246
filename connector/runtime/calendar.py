"""Holds entities whose stage has closed, and lets them go on when one opens. Their signals wait, parked, meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog

from connector.errors import EntityHeld
from connector.events import EntityState
from connector.runtime.acts import act
from connector.staging.party import EntityStatus, PartyStaging
from connector.staging.stages import Stage, closed

# How often the calendar is read; a limit that is in it already is kept to the moment.
READ_S = 5.0
REASON = "stage_closed"
_WRITTEN = frozenset({EntityState.STREAMING, EntityState.COPYING})


class Calendar:
    """The stages as one session sees them."""

    def __init__(self, party: str, staging: PartyStaging, hold: Callable[[EntityHeld], None]) -> None:
        self._party = party
        self._staging = staging
        self._hold = hold
        self._stages: tuple[Stage, ...] = ()
        self._read_at = float("-inf")
        self._then: datetime | None = None
        self._log = structlog.get_logger()

    def keep(self, states: Mapping[str, EntityStatus]) -> bool:
        """Hold and release what the calendar says; True where something changed. Call before anything is applied."""
        now = self._now()
        worked = False
        for name, status in states.items():
            shut = closed(self._stages, name, now)
            if shut is not None and status.state in _WRITTEN:
                self._hold(EntityHeld(name, REASON, shut.message, hint=shut.hint))
                worked = True
            elif shut is None and status.state is EntityState.HELD and status.reason == REASON:
                self._release(name)
                worked = True
        return worked

    def _now(self) -> datetime:
        """The database's time, from its clock when the calendar was read and ours since."""
        since = time.monotonic() - self._read_at
        if self._then is None or since >= READ_S:
            self._stages, self._then = self._staging.stages()
            self._read_at, since = time.monotonic(), 0.0
        return self._then + timedelta(seconds=since)

    def _release(self, entity: str) -> None:
        facts = {"act": "released", "entity": entity, "why": "a stage is open"}
        with act(self._staging, self._party, facts) as batch:
            self._staging.resume_state(batch, entity)
        self._log.info("entity_released", entity=entity, why="a stage is open", rescan=False)
