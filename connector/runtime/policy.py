"""Which error means what for a party: wait and try again, hold, or halt. One table, pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from connector.errors import (
    ConnectorError,
    Fenced,
    PositionLost,
    SourceBusy,
    SourceMisconfigured,
    SourceProtocolError,
    SourceUnavailable,
    StagingIncompatible,
    StagingUnavailable,
    StaleRead,
    Unanchored,
)


class Reaction(Enum):
    """What a worker does about an error that ended its session."""

    RETRY = "retry"
    RESYNC_NEEDED = "resync_needed"
    HALT = "halt"


@dataclass(frozen=True, slots=True)
class Policy:
    """A reaction, and how long to wait before the next try at the least and at the most, in seconds."""

    reaction: Reaction
    first_s: float = 0.5
    most_s: float = 30.0


# The first class that fits counts. What is not here halts its party, loudly: nobody knows what it means.
TABLE: tuple[tuple[type[ConnectorError], Policy], ...] = (
    (PositionLost, Policy(Reaction.RESYNC_NEEDED)),
    (StaleRead, Policy(Reaction.RETRY, 0.1, 5.0)),
    (Fenced, Policy(Reaction.RETRY, 2.0, 10.0)),
    (SourceBusy, Policy(Reaction.RETRY, 0.5, 30.0)),
    (SourceMisconfigured, Policy(Reaction.RETRY, 2.0, 30.0)),
    (SourceUnavailable, Policy(Reaction.RETRY, 0.2, 30.0)),
    (SourceProtocolError, Policy(Reaction.RETRY, 5.0, 300.0)),
    (StagingUnavailable, Policy(Reaction.RETRY, 0.2, 15.0)),
    (Unanchored, Policy(Reaction.RETRY, 5.0, 30.0)),
    (StagingIncompatible, Policy(Reaction.RETRY, 5.0, 60.0)),
)


def policy_for(error: ConnectorError) -> Policy:
    """The policy of the first class in `TABLE` that `error` is."""
    for kind, policy in TABLE:
        if isinstance(error, kind):
            return policy
    return Policy(Reaction.HALT)


def delay_s(policy: Policy, attempt: int, jitter: float) -> float:
    """How long to wait before try number `attempt` (from 1): doubling, with up to a quarter of jitter.

    Args:
        jitter: from 0 to 1, so that forty parties do not come back in the same moment.
    """
    wait = min(policy.most_s, policy.first_s * 2.0 ** min(attempt - 1, 12))
    return wait * (1 + 0.25 * jitter)
