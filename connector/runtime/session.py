"""One connected stretch of a worker's life: signals, copies, parked keys, wishes, and a look around.

Ends with an error of `errors`; `worker` decides what that means.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime

import structlog

from connector.capture.signals import Signals
from connector.errors import EntityHeld, PositionLost
from connector.events import EntityState
from connector.runtime.acts import act, outage
from connector.runtime.calendar import Calendar
from connector.runtime.copy import Copier
from connector.runtime.pace import Pace
from connector.runtime.pipeline import Pipeline
from connector.runtime.ports import Party, Source, Wait
from connector.runtime.shapes import Shapes
from connector.runtime.wishes import obey
from connector.staging.party import EntityStatus, Report, Standing, Wish

# How often a running session looks at views' shapes and held entities, its lag, and operators' wishes.
SHAPES_S, LAG_S, WISHES_S = 5.0, 5.0, 0.9
# How often it is looked whether the audit log is still anchored, where the policy is to stop without.
ANCHOR_S = 10.0
# How often it looks for refused rows that were not looked at for `limits.quarantine_days`.
REFUSED_S = 3_600.0
# How long to wait for signals where there is nothing else to do; a wish is obeyed that much later at most. Each round
# asks staging a little, and there are forty parties.
READ_S = 1.0
# Changes of a table without a key path come in bursts; the entity is read whole once the burst is over.
RESCAN_SETTLE_S = 2.0

Entities = Mapping[str, EntityStatus]


class Session:
    """All of one party's connections, and the loop over them."""

    def __init__(
        self, party: Party, sessions: ExitStack, daemon: str, wait: Wait, pace: Pace, progress: Callable[[], None]
    ) -> None:
        """Connect and compare positions. `progress` is called when work was done: an error then starts anew."""
        self._party = party
        self._daemon = daemon
        self._wait = wait
        self._progress = progress
        self._pace = pace
        self._log = structlog.get_logger()
        self._staging = sessions.enter_context(closing(party.open_staging()))
        for plan, _ in party.plans.values():
            self._staging.prepare(plan)
        self._source = sessions.enter_context(closing(self._open_source()))
        self._view = view = sessions.enter_context(closing(party.open_view()))
        bulk_view = sessions.enter_context(closing(party.open_view()))
        copier = Copier(party.name, view, bulk_view, self._staging, pace)
        self._copier = sessions.enter_context(closing(copier))
        self._pipeline = Pipeline(party.name, self._source, view, self._staging, pace, wait)
        self._shapes = Shapes(party, view, self._staging)
        self._calendar = Calendar(party.name, self._staging, self._hold)
        self._pending: Signals | None = None
        self._due: dict[str, float] = {}
        self._lag_s = 0.0
        self._endangered = False
        self._rerouted = False

    # -- connecting

    def _open_source(self) -> Source:
        """Open the source at the stored position, or begin a history where there is none yet."""
        stored = self._staging.stored()
        asked = [wish for wish in self._staging.wishes() if wish.verb == "resync" and wish.entity is None]
        lost = any(status.state is EntityState.NEEDS_RESYNC for status in self._staging.entities().values())
        if stored.position is None or (lost and asked):
            source = self._party.open_source(None, None, self._wait)
            self._begin_history(source, asked)
            return source
        return self._party.open_source(stored.position, stored.identity, self._wait)

    def _begin_history(self, source: Source, asked: list[Wish]) -> None:
        """Start at the source's own position and copy everything; the entry's positions say where."""
        start = source.start.text
        facts = {
            "act": "history_begun", "asked_by": [wish.asked_by for wish in asked],
            "position_from": start, "position_to": start,
        }  # fmt: skip
        with act(self._staging, self._party.name, facts) as batch:
            self._staging.restart(batch, source.start, source.identity)
            for plan, _ in self._party.plans.values():
                self._staging.begin_copy(batch, plan)
            for wish in asked:
                self._staging.obeyed(batch, wish, "done")
        self._log.info("history_begun", position=start, resync=bool(asked))

    def _doubt_lost_reads(self) -> None:
        """Read everything again where the party's server crashed and lost log that our reads had gone beyond.

        With `synchronous_commit = off` a snapshot shows commits that are not on disk. A crash takes them back, and no
        signal tells of it.
        """
        position = self._view.begin().position
        self._view.end()
        if position >= self._staging.stored().read_position:
            return
        with act(self._staging, self._party.name, {"act": "reads_doubted"}) as batch:
            self._staging.set_back_reads(batch, position)
            for name in self._party.plans:
                batch.want_rescan(name)
        self._log.warning(
            "source_log_lost",
            hint="the party's server came back without the end of its log: its views are read again",
        )

    def record_outage(self, facts: Mapping[str, object]) -> None:
        """The party was not followed before this session."""
        seq = outage(self._staging, self._party.name, facts)
        self._log.info("outage_recorded", audit_seq=seq, reason=facts["reason"])

    # -- running

    def run(self, *, once: bool) -> bool:
        """Work until told to stop; with `once`, until everything that was there is in staging.

        Returns:
            False where another session is to begin at once, because the views are made of other tables now.
        """
        self._doubt_lost_reads()
        self._look_at_shapes(self._staging.entities(), starting=True)
        self._report()
        while not self._wait(0):
            if self._rerouted:
                return False
            if self._step():
                self._progress()
            elif once and self._settled(self._staging.entities()):
                return True
        return True

    def _step(self) -> bool:
        """One round; False where there was nothing to do."""
        unanchored_s_max = self._party.limits.unanchored_s_max
        if unanchored_s_max is not None and self._is_due("anchor", ANCHOR_S):
            self._staging.check_anchored(unanchored_s_max)
        states = self._staging.entities()
        worked = self._signals(states)
        worked |= self._look_around(states)
        if worked:
            states = self._staging.entities()
            if self._calendar.keep(states):
                # A wish or a mended view set an entity going whose stage is closed.
                return True
        if self._endangered:
            # Only what lets the party's server forget log is done now.
            return worked
        return worked | (self._copy(states) or self._drain(states) or self._rescan(states))

    def _signals(self, states: Entities) -> bool:
        """Take and apply what the source has; wait a little only where there is nothing else to do."""
        if self._pending is None:
            busy = any(states[name].state is EntityState.COPYING for name in self._shapes.entities)
            self._pending = self._source.read(0.0 if busy else READ_S)
        if self._calendar.keep(states):
            # What was read is applied with the entities' new states.
            return True
        if self._pending is None:
            self._lag_s = 0.0
            return False
        if self._pending.committed_last is not None:
            # By two clocks: the party's and ours. A negative lag is a clock that is off, not a wonder.
            self._lag_s = max(0.0, (datetime.now(UTC) - self._pending.committed_last).total_seconds())
        try:
            if not self._pipeline.apply(self._pending, self._shapes.entities, states):
                return False
        except EntityHeld as held:
            # Nothing was written; with the entity held, its keys will be parked and the others applied.
            self._hold(held)
            return True
        # Also where it held nothing for us: the position moved, and there may be more behind it.
        self._pending = None
        return True

    def _copy(self, states: Entities) -> bool:
        for name, entity in self._shapes.entities.items():
            if states[name].state is EntityState.NEW:
                self._copier.begin(entity, "the mapping names it since now")
                return True
        try:
            return self._copier.step(self._shapes.entities, states)
        except EntityHeld as held:
            self._hold(held)
            return True

    def _drain(self, states: Entities) -> bool:
        """Apply the parked keys of an entity that is running again."""
        if not any(status.has_parked for status in states.values()):
            return False
        for name, count in self._staging.parked().items():
            if name in self._shapes.entities and states[name].state is EntityState.STREAMING:
                try:
                    self._pipeline.drain(self._shapes.entities[name], count)
                    self._end_brake_off(states[name])
                except EntityHeld as held:
                    self._hold(held)
                return True
        return False

    def _end_brake_off(self, status: EntityStatus) -> None:
        if status.brake_off:
            facts = {"act": "brake_on", "entity": status.entity}
            with act(self._staging, self._party.name, facts) as batch:
                self._staging.set_state(batch, status.entity, Standing(EntityState.STREAMING))

    def _rescan(self, states: Entities) -> bool:
        """Begin a rescan whose burst of reasons is over."""
        for name, status in states.items():
            wanted = status.state is EntityState.STREAMING and status.rescan_since is not None
            if (
                wanted
                and name in self._shapes.entities
                and self._is_due(f"rescan {name}", RESCAN_SETTLE_S, first=False)
            ):
                self._due.pop(f"rescan {name}")
                self._copier.begin(self._shapes.entities[name], "rows may have changed that no key was signalled for")
                return True
        return False

    def _settled(self, states: Entities) -> bool:
        if self._pending is not None:
            return False
        states = {name: status for name, status in states.items() if name in self._shapes.entities}
        under_way = (EntityState.NEW, EntityState.COPYING)
        if any(status.state in under_way or status.rescan_since is not None for status in states.values()):
            return False
        running = {name for name, status in states.items() if status.state is EntityState.STREAMING}
        return not (self._staging.parked().keys() & running)

    # -- looking around

    def _look_around(self, states: Entities) -> bool:
        worked = False
        if self._is_due("wishes", WISHES_S):
            for wish in self._staging.wishes():
                self._copier.close()
                obey(wish, self._party.name, self._staging, self._shapes.entities)
                worked = True
        if self._is_due("shapes", SHAPES_S) and self._look_at_shapes(states):
            # What is loaded ahead must not stay an open transaction while its entity is held.
            self._copier.close()
            worked = True
        if self._is_due("lag", LAG_S):
            self._report()
        if self._is_due("refused", REFUSED_S):
            worked |= self._staging.park_refused(self._party.limits.quarantine_days) > 0
        return worked

    def _look_at_shapes(self, states: Entities, *, starting: bool = False) -> bool:
        worked = self._shapes.look(states, starting=starting)
        if worked and self._party.rerouted():
            # What was signalled meanwhile by the old definition is made good: such a view is read whole.
            self._rerouted = True
            self._log.info("lineage_changed")
        return worked

    def _is_due(self, what: str, every_s: float, *, first: bool = True) -> bool:
        now = time.monotonic()
        if what not in self._due:
            self._due[what] = now + every_s
            return first
        if now < self._due[what]:
            return False
        self._due[what] = now + every_s
        return True

    def _hold(self, held: EntityHeld) -> None:
        self._copier.close()
        self._shapes.hold(held)

    def _report(self) -> None:
        lag_bytes = self._source.lag_bytes()
        limits = self._party.limits
        if lag_bytes > limits.lag_drop_bytes:
            self._source.give_up()
            raise PositionLost(
                "slot_given_up", f"the party's server kept {lag_bytes >> 20} MiB of log for us, over the agreed limit",
                hint="find what held us up, run the kit's SQL again, then `connector resync PARTY`",
            )  # fmt: skip
        self._endangered = lag_bytes > (limits.lag_warn_bytes + limits.lag_drop_bytes) // 2
        if lag_bytes > limits.lag_warn_bytes:
            self._log.warning(
                "source_log_kept", lag_bytes=lag_bytes, copies_stopped=self._endangered,
                hint="the party's server keeps log for us: is our work slow, or a transaction long open there?",
            )  # fmt: skip
        self._staging.report(
            Report("streaming", self._daemon, lag_bytes=lag_bytes, lag_s=self._lag_s, stages=self._pace.watch.totals)
        )
