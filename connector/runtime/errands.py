"""Wishes about single keys: read refused rows again, or give one up. Each runs inside its wish's own batch.

A key can be a person's number, and the audit log is for good: an entry names a key by its keyed digest only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from connector.staging import quarantine, retention, subjects
from connector.staging.batch import Batch
from connector.staging.plan import DigestKeys, EntityPlan


def replay(batch: Batch, entity: str, args: Mapping[str, object]) -> str:
    """Park an entity's refused keys; what reads parked keys reads them in key order, with the mapping as it is now."""
    reason = args.get("reason")
    parked = quarantine.park(batch.transaction, batch.party, entity, reason=reason if isinstance(reason, str) else None)
    left = f", {parked.unreadable} without a readable key wait for a resync" if parked.unreadable else ""
    if not parked.keys:
        return f"nothing to do, no refused row can be read again{left}"
    return f"{parked.keys} refused rows are read again{left}: done"


def discard(batch: Batch, entity: str, args: Mapping[str, object]) -> str:
    """Take one entry out of quarantine. The row is refused anew if it is read again and is no better."""
    reasons = quarantine.discard(batch.transaction, batch.party, entity, str(args.get("key", "")))
    return "nothing to do, no such row is refused" if reasons is None else f"{', '.join(reasons)}: done"


_REPAIR = """
insert into connector.parked (party, entity, source_key)
select r.party, r.entity, k.source_key
  from connector.reconcile r join connector.reconcile_key k on k.run = r.id
 where r.id = %s and r.party = %s and r.entity = %s
on conflict do nothing
"""


def reconciled(batch: Batch, entity: str, args: Mapping[str, object]) -> str:
    """Take note of a compare; where a repair was asked for, have the keys that differ read again, under the brake."""
    if not args.get("repair"):
        return "noted: done"
    keys = batch.transaction.execute(_REPAIR, (args.get("run"), batch.party, entity)).rowcount
    return f"{keys} keys are read again: done"


def erase(batch: Batch, plan: EntityPlan, args: Mapping[str, object]) -> str:
    """Take a person's rows out of staging for good."""
    keys = args.get("keys")
    assert isinstance(keys, list)
    live, tombstones = subjects.erase(batch, plan, [str(key) for key in keys], str(args.get("nik", "")))
    return f"{live} staged and {tombstones} deleted rows are erased: done"


def prune(batch: Batch, plan: EntityPlan, args: Mapping[str, object]) -> str:
    """Forget the history of an entity's rows beyond some days."""
    days = args.get("keep_days")
    assert isinstance(days, int)
    done = retention.prune(batch, plan, days)
    return f"the history of {done.batches} batches is forgotten, {done.rows} rows are committed to anew: done"


def noted(batch: Batch, entity: str, args: Mapping[str, object]) -> str:  # noqa: ARG001 - as the other errands
    """Only the audit entry is wanted."""
    return "noted: done"


# What a wish's verb does to one entity, whatever its state; gives the outcome.
ERRANDS: Mapping[str, Callable[[Batch, str, Mapping[str, object]], str]] = {
    "replay": replay, "discard": discard, "reconcile": reconciled, "export": noted,
}  # fmt: skip


def public(args: Mapping[str, object], entity: str | None, keys: DigestKeys) -> dict[str, object]:
    """A wish's arguments as they may stand in the log and stay in staging: a key as its digest, of a person nothing."""
    found = {name: value for name, value in args.items() if name not in ("key", "keys", "nik")}
    if "key" in args:
        found["key_digest"] = keys.key_digest(entity or "", str(args["key"])).hex()
    if isinstance(args.get("keys"), list):
        found["rows"] = len(cast("list[object]", args["keys"]))
    return found
