"""Whether the daemon works, judged from what was seen over time. Pure: figures and times in, verdicts out.

A party stalls when its worker calls itself `streaming` and yet gives no sign of life, or when its position does not
move while the log kept for us grows, or while changes that were read wait. A party that cannot be reached is no stall
of ours: it is `retrying`, and alerts tell of it; ending the process would mend nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from connector.ops.status import HEARTBEAT_S_MAX, Party, Status

# Log that a server writes by itself (checkpoints, vacuum) is no change we would miss.
GROWTH_BYTES_MIN = 1 << 20
# Changes read and not applied for so long are waiting for something, whatever the log's size.
WAITING_S = 60.0


@dataclass(frozen=True, slots=True)
class Mark:
    """A party when its position was last seen to move."""

    position: str | None
    at_s: float
    lag_bytes: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`stalled`: why, by party. `halted` and `waiting` parties stand still for a reason that is told elsewhere."""

    stalled: Mapping[str, str]
    halted: tuple[str, ...]
    waiting: tuple[str, ...]
    moving: tuple[str, ...]


class Health:
    """Remembers when each position last moved. `stall_s`: how long it may stand still with work to do."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._marks: dict[str, Mark] = {}

    def look(self, status: Status, now_s: float) -> Verdict:
        """Judge what is seen now. `now_s` is a monotonic clock's."""
        stalled: dict[str, str] = {}
        groups: dict[str, list[str]] = {"halted": [], "waiting": [], "moving": []}
        for name, party in status.parties.items():
            if not party.configured:
                continue
            why = self._stalled(name, party, now_s)
            if why:
                stalled[name] = why
            else:
                groups[_group(party)].append(name)
        return Verdict(stalled, *(tuple(groups[group]) for group in ("halted", "waiting", "moving")))

    def _stalled(self, name: str, party: Party, now_s: float) -> str:
        worker = party.worker
        if worker is None or worker.state != "streaming":
            self._marks.pop(name, None)
            return ""
        if worker.heartbeat_age_s > HEARTBEAT_S_MAX:
            return f"no sign of life for {worker.heartbeat_age_s:.0f} s"
        lag_bytes = party.lag_bytes or 0
        mark = self._marks.get(name)
        if mark is None or mark.position != party.position:
            self._marks[name] = mark = Mark(party.position, now_s, lag_bytes)
        still_s = now_s - mark.at_s
        if still_s < self._stall_s:
            return ""
        if lag_bytes - mark.lag_bytes > GROWTH_BYTES_MIN:
            return f"the position has not moved for {still_s:.0f} s, and the log kept for us grows"
        if party.lag_s is not None and party.lag_s > WAITING_S:
            return f"the position has not moved for {still_s:.0f} s, and changes wait"
        return ""


def _group(party: Party) -> str:
    if party.worker is None or party.worker.state == "retrying":
        return "waiting"
    return "moving" if party.worker.state == "streaming" else "halted"
