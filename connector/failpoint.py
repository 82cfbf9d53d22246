"""Named places where a test may stop, kill or delay the daemon. Inert unless CONNECTOR_FAILPOINTS is set.

CONNECTOR_FAILPOINTS is `name=action[:nth][@file]` joined by commas. Actions: `kill` (SIGKILL to ourselves),
`powercut` (to the whole process group: the daemon with all its workers), `raise`, `sleep-SECONDS`, `hold`.
`nth` counts visits from 1; without it the first visit acts, and only it does. With a file a place is armed while
the daemon runs: from visit `nth` on it acts when the file is there, once, and renames it to `file.taken` before.
`hold` needs a file and waits there until `file.taken` is gone.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# Every place, in the order a batch passes them. A test walks this list; `hit` refuses other names.
NAMES: tuple[str, ...] = (
    "after_read",
    "after_fetch",
    "before_begin",
    "after_rows",
    "after_audit",
    "after_offset",
    "before_commit",
    "after_commit",
    "before_confirm",
    "after_confirm",
    "copy_chunk_read",
    "copy_chunk_applied",
    "copy_before_finish",
    "copy_after_finish",
    "idle_move",
)

_visits: Counter[str] = Counter()


class FailpointReached(Exception):
    """Raised by the action `raise`."""


@dataclass(frozen=True, slots=True)
class _Order:
    verb: str
    nth: int
    file: Path | None

    @property
    def taken(self) -> Path:
        assert self.file is not None
        return self.file.with_name(self.file.name + ".taken")

    def due(self, visits: int) -> bool:
        if self.file is None:
            return visits == self.nth
        if visits < self.nth:
            return False
        try:
            self.file.rename(self.taken)
        except FileNotFoundError:
            return False
        return True


def _plan() -> dict[str, _Order]:
    plan: dict[str, _Order] = {}
    for item in filter(None, os.environ.get("CONNECTOR_FAILPOINTS", "").split(",")):
        name, _, order = item.partition("=")
        action, _, file = order.partition("@")
        verb, _, nth = action.partition(":")
        plan[name.strip()] = _Order(verb, int(nth or 1), Path(file) if file else None)
    return plan


_PLAN = _plan()


def hit(name: str) -> None:
    """Act as CONNECTOR_FAILPOINTS says for this place; nothing in production."""
    if not _PLAN:
        return
    assert name in NAMES, name
    _visits[name] += 1
    order = _PLAN.get(name)
    if order is None or not order.due(_visits[name]):
        return
    match order.verb:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "powercut":
            os.killpg(0, signal.SIGKILL)
        case "raise":
            raise FailpointReached(name)
        case "hold":
            while order.taken.exists():
                time.sleep(0.01)
        case verb:
            time.sleep(float(verb.removeprefix("sleep-")))
