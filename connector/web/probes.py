"""/livez and /readyz: what they answer, from what was seen. Pure.

`/livez` fails where ending the process may mend something: every party of this daemon that should move stands still.
An outage of staging or of a party does not fail it, or a cluster would restart daemons in circles while a database is
down. `/readyz` fails on any stall, on an outage of staging, and with `?party=NAME` on whatever keeps that party.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from connector.web.health import Verdict
from connector.web.seen import Seen


@dataclass(frozen=True, slots=True)
class Probe:
    """An answer: 200 or 503, and lines for a person."""

    good: bool
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(("ok" if self.good else "failed", *self.lines)) + "\n"


def live(seen: Seen, now_s: float) -> Probe:
    """Whether this daemon works at all."""
    if not seen.fresh(now_s) or seen.verdict is None or seen.figures is None:
        return Probe(True, (f"staging: {seen.problem}; nothing is known of the parties",))
    ours = {
        name
        for name, party in seen.figures.status.parties.items()
        if party.worker is not None and party.worker.daemon == seen.daemon
    }
    stalled = {name: why for name, why in seen.verdict.stalled.items() if name in ours}
    if stalled and not ours & set(seen.verdict.moving):
        return Probe(False, _stalls(stalled))
    return Probe(True, _stalls(stalled))


def ready(seen: Seen, now_s: float, party: str = "") -> Probe:
    """Whether everything that can move does; with `party`, whether that one does."""
    if not seen.fresh(now_s) or seen.verdict is None:
        return Probe(False, (f"staging: {seen.problem}",))
    verdict = seen.verdict
    if party:
        return Probe(party in verdict.moving, (f"{party}: {_standing(verdict, party)}",))
    told = [f"{name}: waits for its server" for name in verdict.waiting]
    told += [f"{name}: halted, or needs a resync" for name in verdict.halted]
    return Probe(not verdict.stalled, (*_stalls(verdict.stalled), *told))


def _stalls(stalled: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}: stalled: {why}" for name, why in sorted(stalled.items()))


def _standing(verdict: Verdict, party: str) -> str:
    if party in verdict.stalled:
        return f"stalled: {verdict.stalled[party]}"
    groups = {"moves": verdict.moving, "waits for its server": verdict.waiting, "halted": verdict.halted}
    return next((said for said, names in groups.items() if party in names), "no such party")
