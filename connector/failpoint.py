"""Named places where a test may stop, kill or delay the daemon. Inert unless CONNECTOR_FAILPOINTS is set.

CONNECTOR_FAILPOINTS is `name=action[:nth]` joined by commas. Actions: `kill` (SIGKILL to ourselves),
`raise`, `sleep-SECONDS`. `nth` counts visits from 1; without it the first visit acts, and only it does.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

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


def _plan() -> dict[str, tuple[str, int]]:
    plan: dict[str, tuple[str, int]] = {}
    for item in filter(None, os.environ.get("CONNECTOR_FAILPOINTS", "").split(",")):
        name, _, action = item.partition("=")
        verb, _, nth = action.partition(":")
        plan[name.strip()] = (verb, int(nth or 1))
    return plan


_PLAN = _plan()


def hit(name: str) -> None:
    """Act as CONNECTOR_FAILPOINTS says for this place; nothing in production."""
    if not _PLAN:
        return
    assert name in NAMES, name
    _visits[name] += 1
    verb, nth = _PLAN.get(name, ("", 0))
    if _visits[name] != nth:
        return
    if verb == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "raise":
        raise FailpointReached(name)
    elif verb.startswith("sleep-"):
        time.sleep(float(verb.removeprefix("sleep-")))
