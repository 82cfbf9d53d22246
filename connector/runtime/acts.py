"""The last lines of every batch: append the entry, move the position. And batches that are only an act."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from connector.audit import log as audit
from connector.events import EntryKind, Position
from connector.staging.batch import Batch, Read
from connector.staging.party import PartyStaging


def record(batch: Batch, party: str, position: Position | None, facts: Mapping[str, object]) -> int:
    """Append the batch's audit entry and move the position with it; gives the entry's number."""
    seq = audit.append(batch.transaction, party, batch.facts(position, facts))
    batch.advance(position, seq)
    return seq


def outage(staging: PartyStaging, party: str, facts: Mapping[str, object]) -> int:
    """Record that the party was not followed for a while: a fact that no batch tells of. Gives the entry's number."""
    with staging.batch(EntryKind.OUTAGE, Read(None)) as batch:
        return record(batch, party, None, facts)


@contextmanager
def act(staging: PartyStaging, party: str, facts: Mapping[str, object]) -> Iterator[Batch]:
    """A batch without rows: a state changes, and the audit log says so. `facts` names the `act`."""
    with staging.batch(EntryKind.CONTROL, Read(None)) as batch:
        yield batch
        record(batch, party, None, facts)
