"""The refused rows, for people: which, why, since when, and what to do about each.

Read from staging alone. It shows the party's own keys and never a cell: none is stored. A key with a NIK in it is
shown masked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from connector.errors import ConnectorError, UsageError
from connector.mapping.reasons import REASONS
from connector.settings import Config
from connector.staging.session import translated
from connector.yamlpos import closest, shown

_NIK = re.compile(r"(?<!\d)(\d{4})\d{8}(\d{4})(?!\d)")
_SPAN = re.compile(r"(\d{1,6})(min|h|d)")
_SPANS = {"min": "minutes", "h": "hours", "d": "days"}


class NotRefused(ConnectorError):
    """There is no such row in quarantine."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which refused rows to list; None: all."""

    party: str | None = None
    entity: str | None = None
    reason: str | None = None
    since: datetime | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Refused:
    """One refused key. `columns` are parallel to `reasons`: the staging column, empty for the row as a whole."""

    party: str
    entity: str
    key: str
    reasons: Sequence[str]
    columns: Sequence[str]
    rows_seen: int
    first_seen: datetime
    last_seen: datetime
    mapping_version: str | None
    batch: int


@dataclass(frozen=True, slots=True)
class ByReason:
    """How often a reason was given, and what it asks of the party."""

    party: str
    entity: str
    reason: str
    rows: int
    first_seen: datetime
    last_seen: datetime
    indonesian: str
    english: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What a query found: the newest rows up to its limit, and counts over all of them."""

    total: int
    reasons: tuple[ByReason, ...]
    rows: tuple[Refused, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """A reason of one row, in words."""

    reason: str
    column: str
    indonesian: str
    english: str


@dataclass(frozen=True, slots=True)
class Detail:
    """One refused row whole. `staged_at` tells of an earlier, good version that still stands in staging."""

    row: Refused
    why: tuple[Explained, ...]
    audit_seq: int | None
    position: str | None
    staged_at: datetime | None


def masked(key: str) -> str:
    """A key as it may be shown: sixteen digits in a row may be a person's number."""
    return _NIK.sub(r"\1********\2", key)


def since(text: str, now: datetime) -> datetime:
    """Read a point in time (UTC where no zone is given), or an age such as `24h`.

    Raises:
        UsageError: it is neither.
    """
    age = _SPAN.fullmatch(text)
    if age:
        return now - timedelta(**{_SPANS[age[2]]: int(age[1])})
    try:
        point = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"`{shown(text)}` is no point in time", hint="2026-11-30, 2026-11-30T08:00+07:00, or an age: 30min, 24h, 7d"
        ) from None
    return point if point.tzinfo else point.replace(tzinfo=UTC)


def check(config: Config, query: Query) -> None:
    """Refuse a query for what there cannot be.

    Raises:
        ConfigError, UsageError: no such party; no such reason.
    """
    if query.party is not None:
        config.party(query.party)
    if query.reason is not None and query.reason not in REASONS:
        raise UsageError(f"there is no reason `{shown(query.reason)}`", hint=closest(query.reason, REASONS))


def listing(conn: psycopg.Connection, query: Query) -> Listing:
    """The refused rows of a query, those refused last first."""
    values = asdict(query)
    with translated("reading the quarantine"), conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        total = conn.execute(f"select count(*) {_FROM}".encode(), values).fetchone()
        counted = conn.execute(_BY_REASON.encode(), values).fetchall()
        with conn.cursor(row_factory=class_row(Refused)) as cursor:
            rows = cursor.execute(_ROWS.encode(), values).fetchall()
    assert total is not None
    reasons = tuple(
        ByReason(party, entity, reason, rows, first, last, *_words(reason))
        for party, entity, reason, rows, first, last in counted
    )
    return Listing(total[0], reasons, tuple(_shown(row) for row in rows))


def detail(conn: psycopg.Connection, party: str, entity: str, key: str) -> Detail:
    """One refused row.

    Raises:
        NotRefused: it is not in quarantine.
    """
    values = {"party": party, "entity": entity, "key": key}
    with translated("reading the quarantine"), conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        with conn.cursor(row_factory=class_row(Refused)) as cursor:
            row = cursor.execute(_ROW.encode(), values).fetchone()
        if row is None:
            raise NotRefused(
                "no such row is refused",
                place=f"{party}/{entity}",
                hint="connector quarantine list shows those that are",
            )
        batch = conn.execute(_BATCH, {"batch": row.batch}).fetchone()
        staged = conn.execute(_STAGED.format(sql.Identifier("staging", entity)), values).fetchone()
    why = tuple(
        Explained(reason, column, *_words(reason)) for reason, column in zip(row.reasons, row.columns, strict=False)
    )
    found = batch or (None, None)
    return Detail(_shown(row), why, found[0], found[1], staged[0] if staged else None)


def _words(reason: str) -> tuple[str, str]:
    known = REASONS.get(reason)
    return (known.indonesian, known.english) if known else ("", "")


def _shown(row: Refused) -> Refused:
    return replace(row, key=masked(row.key))


_COLUMNS = """
p.party, k.entity, k.source_key as key, k.reasons, coalesce(k.columns, '{}') as columns, k.rows_seen, k.first_seen,
k.last_seen, k.mapping_version, k.sync_batch_id as batch
"""

_FROM = """
  from staging.karantina k join connector.party p using (parpol_id)
 where (%(party)s::text is null or p.party = %(party)s)
   and (%(entity)s::text is null or k.entity = %(entity)s)
   and (%(reason)s::text is null or %(reason)s::text = any (k.reasons))
   and (%(since)s::timestamptz is null or k.last_seen >= %(since)s)
"""

_ROWS = f"select {_COLUMNS} {_FROM} order by k.last_seen desc, p.party, k.entity, k.source_key limit %(limit)s"

# A row may give one reason for several columns: it counts once.
_BY_REASON = f"""
select party, entity, reason, count(*), min(first_seen), max(last_seen)
  from (select distinct p.party, k.entity, k.source_key, k.first_seen, k.last_seen, unnest(k.reasons) as reason
        {_FROM}) r
 where %(reason)s::text is null or reason = %(reason)s
 group by party, entity, reason order by count(*) desc, party, entity, reason
"""

_ROW = f"""
select {_COLUMNS} from staging.karantina k join connector.party p using (parpol_id)
 where p.party = %(party)s and k.entity = %(entity)s and k.source_key = %(key)s
"""

_BATCH = "select audit_seq, position_to from staging.sync_batch where id = %(batch)s"

_STAGED = sql.SQL("""
select t.staged_at from {} t join connector.party p using (parpol_id)
 where p.party = %(party)s and t.source_key = %(key)s and t.dihapus_pada is null
""")
