"""One party's worker: runs sessions until told to stop, and comes back after errors.

Whatever ends a session is looked up in `policy.TABLE`; the next session begins from what staging has
stored, so nothing needs to be remembered here.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from connector.errors import ConnectorError, Fenced, PositionLost, SourceBusy, StagingError
from connector.events import EntityState
from connector.runtime.acts import act
from connector.runtime.pace import Pace
from connector.runtime.pipeline import Stopped
from connector.runtime.policy import Policy, Reaction, delay_s, policy_for
from connector.runtime.ports import Party, Wait
from connector.runtime.session import WISHES_S, Session
from connector.runtime.traces import Traces
from connector.staging.party import PartyStaging, Report, Standing

# Shorter interruptions are retries; longer ones stand in the audit log.
OUTAGE_S_MIN = 5.0
# With `once` nobody waits for a server to come back: so many tries, then the run has failed.
ONCE_TRIES_MAX = 5
_STATES = {Reaction.RETRY: "retrying", Reaction.RESYNC_NEEDED: "needs_resync", Reaction.HALT: "failed"}


@dataclass(frozen=True, slots=True)
class Outage:
    """The first error of a row of them. `began` is of a clock that nobody sets."""

    since: datetime
    began: float
    error: ConnectorError

    def facts(self, until: datetime, attempts: int) -> dict[str, object]:
        """What the audit entry says; times are this machine's."""
        return {
            "act": "staging_lost" if isinstance(self.error, StagingError) else "source_lost",
            "reason": type(self.error).__name__, "message": str(self.error), "attempts": attempts,
            "outage_from": _time(self.since), "outage_to": _time(until),
        }  # fmt: skip


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Worker:
    """Runs one party until told to stop, or until it has caught up (`once`)."""

    def __init__(self, party: Party, *, daemon: str, wait: Wait, once: bool = False) -> None:
        self._party = party
        self._daemon = daemon
        self._wait = wait
        self._once = once
        self._log = structlog.get_logger()
        self._attempt = 0
        self._pace = Pace(party.limits, Traces.from_environment(party.name))
        self._outage: Outage | None = None

    def run(self) -> bool:
        """Run; True where it ended as asked, False where the party had to be halted."""
        while not self._wait(0):
            try:
                with ExitStack() as sessions:
                    session = Session(
                        self._party, sessions, self._daemon, self._wait, self._pace, self._progress
                    )  # fmt: skip
                    self._end_outage(session)
                    if session.run(once=self._once):
                        return True
            except Stopped:
                return True
            except MemoryError:
                error = SourceBusy("the work does not fit into limits.memory_mb", hint="less is taken at a time")
                if not self._react(error, policy_for(error)):
                    return False
            except ConnectorError as refused:
                if not self._react(refused, policy_for(refused)):
                    return False
        return True

    def _end_outage(self, session: Session) -> None:
        """Party and staging are reached again: if they were not for long, the audit log says from when to when."""
        outage, self._outage = self._outage, None
        if outage is not None and time.monotonic() - outage.began >= OUTAGE_S_MIN:
            session.record_outage(outage.facts(datetime.now(UTC), self._attempt))

    def _progress(self) -> None:
        self._attempt = 0
        self._pace.done()

    def _react(self, error: ConnectorError, policy: Policy) -> bool:
        """Report an error, and wait where it may pass; False where this party must halt."""
        self._attempt += 1
        if self._outage is None and policy.reaction is Reaction.RETRY:
            self._outage = Outage(datetime.now(UTC), time.monotonic(), error)
        if isinstance(error, SourceBusy):
            self._pace.slower()
        log = self._log.warning if policy.reaction is Reaction.RETRY else self._log.error
        log(
            "session_ended", error=type(error).__name__, message=str(error), hint=error.hint,
            reaction=policy.reaction.value, attempt=self._attempt,
        )  # fmt: skip
        self._report(error, policy)
        if isinstance(error, PositionLost):
            if not self._await_resync(error):
                return False
            # Asked for, yet the slot may still be as it was: not in a tight circle.
            self._wait(delay_s(policy, self._attempt, random.random()))  # noqa: S311 - jitter, not a secret
            return True
        if isinstance(error, StagingError) and not isinstance(error, Fenced):
            # No session runs that would watch it: the party's disk must not pay for our database's outage.
            self._party.guard_disk()
        if policy.reaction is Reaction.HALT or (self._once and self._attempt >= ONCE_TRIES_MAX):
            return False
        self._wait(delay_s(policy, self._attempt, random.random()))  # noqa: S311 - jitter, not a secret
        return True

    def _report(self, error: ConnectorError, policy: Policy) -> None:
        report = Report(
            _STATES[policy.reaction], self._daemon, error=str(error), hint=error.hint, attempt=self._attempt
        )
        try:
            self._party.report(report)
        except ConnectorError as unreachable:
            self._log.warning("report_failed", error=type(unreachable).__name__, message=str(unreachable))

    def _await_resync(self, error: PositionLost) -> bool:
        """Stand still, visibly, until an operator asks for a resync."""
        marked = False
        while True:
            try:
                with closing(self._party.open_staging()) as staging:
                    if not marked:
                        self._mark_lost(staging, error)
                        marked = True
                    if any(wish.verb == "resync" and wish.entity is None for wish in staging.wishes()):
                        return True
            except ConnectorError as unreachable:
                self._log.warning("staging_unreachable", error=type(unreachable).__name__, message=str(unreachable))
            if self._once:
                return False
            if self._wait(WISHES_S):
                return True

    def _mark_lost(self, staging: PartyStaging, error: PositionLost) -> None:
        """Write the gap into every entity's state and into the audit log, once."""
        for plan, _ in self._party.plans.values():
            staging.prepare(plan)
        if all(status.state is EntityState.NEEDS_RESYNC for status in staging.entities().values()):
            return
        facts = {"act": "position_lost", "reason": error.reason, "message": error.message}
        with act(staging, self._party.name, facts) as batch:
            for name in self._party.plans:
                staging.set_state(batch, name, Standing(EntityState.NEEDS_RESYNC, error.reason, error.hint))
