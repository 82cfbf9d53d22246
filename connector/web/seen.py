"""What the web process saw last: one value, replaced whole, that every request is answered from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from connector.ops.figures import Figures
from connector.web.health import Verdict

# The look before the last may have failed; three in a row have not by chance.
OLD_LOOKS_MAX = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """`figures` and `verdict` are of the last look that succeeded, `at_s` (monotonic) when that was."""

    daemon: str
    every_s: float
    figures: Figures | None = None
    verdict: Verdict | None = None
    at_s: float = 0.0
    problem: str = "staging was not looked at yet"
    # When the certificate of a peer ends, as seconds since 1970; `""` is staging.
    certificates: Mapping[str, float] = field(default_factory=dict)

    def fresh(self, now_s: float) -> bool:
        return self.figures is not None and now_s - self.at_s < OLD_LOOKS_MAX * self.every_s
