"""Refused rows: read again, given up, too many. Runs inside somebody's transaction; writes no row of the contract.

A refused row's cells are nowhere here: its key and reasons are, and reading the view again tells the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

# Keys that no key of the view equals: none at all, cut because they were too long, or bytes shown as escapes. Read
# again by such a text a row would seem gone, and its entry with it.
_READABLE = r"""
k.source_key <> '' and not 'NUL_CHARACTER' = any (k.reasons)
and not (k.reasons && array['INVALID_UTF8', 'CELL_TOO_LARGE'] and k.source_key ~ '\\x[0-9a-f]{2}|\.\.\.[0-9a-f]{16}')
"""

_PARK = f"""
with wanted as (
  select k.source_key, {_READABLE} as readable
    from staging.karantina k join connector.party p using (parpol_id)
   where p.party = %(party)s and k.entity = %(entity)s
     and (%(reason)s::text is null or %(reason)s::text = any (k.reasons))
     and (%(older_days)s::float8 is null or k.last_seen < now() - make_interval(secs => %(older_days)s::float8 * 86400))
), parked as (
  insert into connector.parked (party, entity, source_key)
  select %(party)s, %(entity)s, source_key from wanted where readable
  on conflict do nothing)
select count(*) filter (where readable), count(*) filter (where not readable) from wanted
"""

_DISCARD = """
delete from staging.karantina k using connector.party p
 where p.parpol_id = k.parpol_id and p.party = %(party)s and k.entity = %(entity)s and k.source_key = %(key)s
returning k.reasons
"""

# Stops counting where the answer is known.
_OVER = """
select count(*) from (
  select from staging.karantina where parpol_id = %s and entity = %s limit %s) k
"""


@dataclass(frozen=True, slots=True)
class Parked:
    """How many refused keys are to be read again, and how many no key can ask for: only a copy meets those."""

    keys: int
    unreadable: int


def park(
    conn: psycopg.Connection, party: str, entity: str, *, reason: str | None = None, older_days: float | None = None
) -> Parked:
    """Have refused keys read again: all, those with a reason, or those not looked at for so many days."""
    values = {"party": party, "entity": entity, "reason": reason, "older_days": older_days}
    row = conn.execute(_PARK.encode(), values).fetchone()
    assert row is not None
    return Parked(*row)


def discard(conn: psycopg.Connection, party: str, entity: str, key: str) -> tuple[str, ...] | None:
    """Take one entry out; gives its reasons, None where there is no such entry."""
    row = conn.execute(_DISCARD, {"party": party, "entity": entity, "key": key}).fetchone()
    return None if row is None else tuple(row[0])


def is_over(conn: psycopg.Connection, parpol_id: int, entity: str, rows_max: int) -> bool:
    """Whether more than `rows_max` of an entity's keys are refused."""
    row = conn.execute(_OVER, (parpol_id, entity, rows_max + 1)).fetchone()
    assert row is not None
    return int(row[0]) > rows_max
