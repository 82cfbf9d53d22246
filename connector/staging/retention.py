"""Forget the history of rows beyond a number of days: digests, the way back, and salts. The audit log stays as it is.

A row that is live keeps its commitment: it is committed to anew, under the salt of the batch that prunes. The change
feed's keys are not touched.
"""

from __future__ import annotations

from dataclasses import dataclass

from connector.staging.batch import Batch
from connector.staging.plan import EntityPlan

# A history of fewer days could not answer a question about this stage of a registration.
KEEP_DAYS_MIN = 30


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many batches have no history any more, and how many live rows were committed to anew."""

    batches: int
    rows: int


def prune(batch: Batch, plan: EntityPlan, keep_days: int) -> Pruned:
    """Prune one entity's history, inside the batch whose entry says so."""
    conn = batch.transaction
    values = {"party": batch.party, "entity": plan.entity, "days": max(keep_days, KEEP_DAYS_MIN)}
    old = [row[0] for row in conn.execute(_OLD, values)]
    if not old:
        return Pruned(0, 0)
    rows = batch.commit_again(plan, old)
    for statement in _FORGET:
        conn.execute(statement, {"batches": old})
    return Pruned(len(old), rows)


_OLD = """
select b.id from staging.sync_batch b
 where b.party = %(party)s and b.entity = %(entity)s
   and b.ended_at < clock_timestamp() - make_interval(days => %(days)s)
   and (exists (select from connector.journal j where j.batch_id = b.id and j.digests is not null)
        or exists (select from audit.committed c where c.batch_id = b.id))
"""

_FORGET = (
    "update connector.journal set digests = null, priors = null where batch_id = any (%(batches)s)",
    "delete from audit.committed where batch_id = any (%(batches)s)",
    "delete from audit.salt where batch_id = any (%(batches)s)",
)
