"""Where every party and entity stands, from staging's tables alone: it works whether a daemon runs or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import DictRow, dict_row

from connector import settings
from connector.audit import sequencer
from connector.audit.sequencer import SequencerState
from connector.settings import Config
from connector.staging.session import translated

# A worker reports every 5 s; a large batch or an index build can keep it from it for half a minute.
HEARTBEAT_S_MAX = 60.0
# Between two tries it says nothing: the longest pause of runtime/policy.py with its jitter.
RETRYING_S_MAX = 400.0
# A daemon looks for wishes every second.
WISH_S_MAX = 60.0
# How many batches of an entity the latency is taken over.
LATENCY_BATCHES = 100
MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Worker:
    """What a party's worker said of itself last, and how long ago."""

    state: str
    daemon: str
    heartbeat_at: datetime
    heartbeat_age_s: float
    attempt: int
    error: str | None
    hint: str | None


@dataclass(frozen=True, slots=True)
class Latency:
    """From a commit at the party (by its clock) until it was in staging, over the last batches."""

    batches: int
    p50_s: float
    p95_s: float
    most_s: float


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy under way. `share` is None in a first copy: nobody knows how many rows there are."""

    rows: int
    first: bool
    share: float | None


@dataclass(frozen=True, slots=True)
class Entity:
    """One entity of a party. Counts are keys since the party's first start."""

    state: str
    reason: str | None
    hint: str | None
    since: datetime
    live_rows: int
    signalled: int
    read: int
    inserted: int
    updated: int
    unchanged: int
    deleted: int
    absent: int
    quarantined: int
    quarantined_now: int
    parked: int
    pending_deletes: int
    copy: Copy | None
    rescan_since: datetime | None
    last_batch_at: datetime | None
    last_batch_age_s: float | None
    latency: Latency | None
    mapping_version: str | None


@dataclass(frozen=True, slots=True)
class Party:
    """One party. `lag_s` is the worker's figure; without one, seconds since the position moved: at most so much."""

    parpol_id: int | None
    configured: bool
    worker: Worker | None
    position: str | None
    position_moved_at: datetime | None
    lag_bytes: int | None
    lag_s: float | None
    audit_seq: int
    wishes_open: int
    oldest_wish_age_s: float | None
    entities: Mapping[str, Entity]
    # The daemon that has the party, and how much more log its server may keep before our slot is given up.
    lease: str | None = None
    headroom_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """The last time that somebody verified the whole audit log."""

    at: datetime
    good: bool
    entries: int


@dataclass(frozen=True, slots=True)
class Attention:
    """Something a person should look at, and what to do about it."""

    place: str
    what: str
    hint: str


@dataclass(frozen=True, slots=True)
class Status:
    """Everything, as of one moment."""

    at: datetime
    parties: Mapping[str, Party]
    audit: SequencerState
    attention: tuple[Attention, ...]
    verification: Verification | None = None


def status(conn: psycopg.Connection, config: Config, only: str | None = None) -> Status:
    """Read the state of one party, or of all that are configured or known to staging.

    Raises:
        ConfigError: there is no such party.
    """
    with translated("reading the status"), conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        row = conn.execute("select now()").fetchone()
        assert row is not None
        found = _parties(conn, config, row[0])
        audit = sequencer.state(conn)
        checked = conn.execute("select at, good, entries from connector.verification").fetchone()
    wanted = tuple(config.parties) if only is None else (only,)
    unknown = {name: _unknown(config.party(name).parpol_id) for name in wanted if name not in found}
    parties = {name: party for name, party in sorted((found | unknown).items()) if only in (None, name)}
    verification = None if checked is None else Verification(*checked)
    attention = (*_attention(parties, config), *_of_audit(audit, config), *_of_verification(verification))
    return Status(row[0], parties, audit, attention, verification)


# ------------------------------------------------------------------------------------------------- read

_PARTIES = """
select p.party, p.parpol_id, w.state, w.daemon, w.heartbeat_at, w.attempt, w.error, w.hint, w.lag_bytes, w.lag_s,
       o.position_text as position, o.moved_at as position_moved_at, coalesce(h.seq, 0) as audit_seq,
       q.wishes_open, q.oldest_wish_at, e.daemon as lease
  from connector.party p
  left join connector.lease e using (party)
  left join connector.worker w using (party)
  left join connector.source_offset o using (party)
  left join audit.head h using (party)
 cross join lateral (
       select count(*) as wishes_open, min(asked_at) as oldest_wish_at
         from connector.wish open where open.party = p.party and open.obeyed_at is null) q
"""

_ENTITIES = f"""
select e.party, e.entity, e.state, e.reason, e.hint, e.since, e.live_rows, e.signalled, e.read, e.inserted, e.updated,
       e.unchanged, e.deleted, e.absent, e.quarantined, e.pending_deletes, e.copying, e.copy_rows, e.bulk,
       e.rescan_since, e.last_batch_at, e.mapping_version, l.batches, l.p50_s, l.p95_s, l.most_s
  from connector.entity e
 cross join lateral (
       select count(*) as batches, max(s) as most_s,
              percentile_cont(0.5) within group (order by s) as p50_s,
              percentile_cont(0.95) within group (order by s) as p95_s
         from (select extract(epoch from ended_at - committed_first)::float8 as s
                 from (select * from staging.sync_batch b where b.party = e.party and b.entity = e.entity
                        order by b.id desc limit {LATENCY_BATCHES}) newest
                where kind = 'signals' and committed_first is not null) taken) l
 order by e.party, e.entity
"""

_PARKED = "select party, entity, count(*) from connector.parked group by party, entity"
_QUARANTINED = """
select p.party, k.entity, count(*) from staging.karantina k join connector.party p using (parpol_id)
 group by p.party, k.entity
"""

# Columns that are fields of `Entity` under the same name.
_PLAIN = (
    "state", "reason", "hint", "since", "live_rows", "signalled", "read", "inserted", "updated", "unchanged", "deleted",
    "absent", "quarantined", "pending_deletes", "rescan_since", "last_batch_at", "mapping_version",
)  # fmt: skip


def _parties(conn: psycopg.Connection, config: Config, at: datetime) -> dict[str, Party]:
    entities = _entities(conn, at)
    with conn.cursor(row_factory=dict_row) as cursor:
        return {
            row["party"]: Party(
                parpol_id=row["parpol_id"],
                configured=row["party"] in config.parties,
                worker=_worker(row, at),
                position=row["position"],
                position_moved_at=row["position_moved_at"],
                lag_bytes=row["lag_bytes"],
                lag_s=_age_s(at, row["position_moved_at"]) if row["lag_s"] is None else row["lag_s"],
                audit_seq=row["audit_seq"],
                wishes_open=row["wishes_open"],
                oldest_wish_age_s=_age_s(at, row["oldest_wish_at"]),
                entities=entities.get(row["party"], {}),
                lease=row["lease"],
                headroom_bytes=_headroom(row["lag_bytes"], config.parties.get(row["party"])),
            )
            for row in cursor.execute(_PARTIES)
        }


def _headroom(lag_bytes: int | None, party: settings.Party | None) -> int | None:
    return None if lag_bytes is None or party is None else party.limits.lag_drop_mb * MEGABYTE - lag_bytes


def _unknown(parpol_id: int) -> Party:
    """A party of the configuration that staging has never heard of."""
    return Party(parpol_id, True, None, None, None, None, None, 0, 0, None, {})


def _worker(row: DictRow, at: datetime) -> Worker | None:
    if row["state"] is None:
        return None
    age_s = max(0.0, (at - row["heartbeat_at"]).total_seconds())
    return Worker(row["state"], row["daemon"], row["heartbeat_at"], age_s, row["attempt"], row["error"], row["hint"])


def _entities(conn: psycopg.Connection, at: datetime) -> dict[str, dict[str, Entity]]:
    parked, quarantined = _counts(conn, _PARKED), _counts(conn, _QUARANTINED)
    found: dict[str, dict[str, Entity]] = {}
    with conn.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(_ENTITIES.encode()):
            party, entity = row["party"], row["entity"]
            found.setdefault(party, {})[entity] = Entity(
                **{name: row[name] for name in _PLAIN},
                quarantined_now=quarantined.get((party, entity), 0),
                parked=parked.get((party, entity), 0),
                copy=_copy(row),
                last_batch_age_s=_age_s(at, row["last_batch_at"]),
                latency=_latency(row),
            )
    return found


def _counts(conn: psycopg.Connection, query: str) -> dict[tuple[str, str], int]:
    return {(row[0], row[1]): row[2] for row in conn.execute(query.encode())}


def _latency(row: DictRow) -> Latency | None:
    if not row["batches"]:
        return None
    return Latency(row["batches"], *(round(row[name], 3) for name in ("p50_s", "p95_s", "most_s")))


def _copy(row: DictRow) -> Copy | None:
    """Rows that are there already are what a later copy can be measured by."""
    if not row["copying"]:
        return None
    known = 0 if row["bulk"] else row["live_rows"]
    return Copy(row["copy_rows"], row["bulk"], min(1.0, row["copy_rows"] / known) if known else None)


def _age_s(at: datetime, then: datetime | None) -> float | None:
    """Seconds since; a row written after our snapshot's time was taken is 0 old."""
    return None if then is None else max(0.0, (at - then).total_seconds())


# ------------------------------------------------------------------------------------------------- judge


def _attention(parties: Mapping[str, Party], config: Config) -> Iterator[Attention]:
    for name, party in parties.items():
        yield from _of_party(name, party, config)
        yield from _of_entities(name, party)


def _of_audit(audit: SequencerState, config: Config) -> Iterator[Attention]:
    if audit.state in ("refusing", "failing"):
        said = f"{audit.state}: {audit.message}" if audit.message else audit.state
        yield Attention("audit log", said, audit.hint or "see the daemon's log")
    watched = config.audit.anchor is not None or config.audit.witnesses_needed
    if watched and audit.unanchored_s is not None and audit.unanchored_s > config.audit.alarm_h * 3600:
        hours = audit.unanchored_s / 3600
        stop = f"; at {config.audit.stop_h:g} h every party stops" if config.audit.stop_h else ""
        hint = "can the anchor be written, do the witnesses sign? connector audit checkpoint, connector audit take"
        yield Attention("audit log", f"entries have had no anchor for {hours:.0f} h{stop}", hint)


def _of_verification(checked: Verification | None) -> Iterator[Attention]:
    if checked is not None and not checked.good:
        said = f"its verification of {checked.at:%Y-%m-%d %H:%M} found a breach, or a guard that is off"
        yield Attention("audit log", said, "change nothing: deploy/RUNBOOK.md, ConnectorAuditBroken")


def _of_party(name: str, party: Party, config: Config) -> Iterator[Attention]:
    worker = party.worker
    if not party.configured:
        yield Attention(name, "is in staging and not in the configuration", "add it again, or erase its rows")
    elif worker is None:
        yield Attention(name, "was never started", "connector check, then connector run")
    if worker is not None and party.configured:
        if worker.error or worker.state not in ("streaming", "needs_resync"):
            said = f"{worker.state}: {worker.error}" if worker.error else worker.state
            yield Attention(name, said, worker.hint or "see the daemon's log")
        if worker.state in _REPORTING and worker.heartbeat_age_s > _REPORTING[worker.state]:
            yield Attention(name, f"no heartbeat for {worker.heartbeat_age_s:.0f} s", "is the daemon up? connector run")
    limits = config.parties[name].limits if party.configured else None
    if limits and party.lag_bytes is not None and party.lag_bytes > limits.lag_warn_mb * MEGABYTE:
        said = f"the party's server keeps {party.lag_bytes / MEGABYTE:,.0f} MB of log for us"
        yield Attention(name, said, f"at {limits.lag_drop_mb:,} MB our slot is given up: what keeps us from reading?")
    if party.oldest_wish_age_s is not None and party.oldest_wish_age_s > WISH_S_MAX:
        said = f"{party.wishes_open} wishes not obeyed, the oldest for {party.oldest_wish_age_s:.0f} s"
        yield Attention(name, said, "a daemon obeys them: is one up, and can it reach the party?")


# How old a heartbeat may be, by the worker's state; a worker that halted or waits for a resync reports no more.
_REPORTING = {"streaming": HEARTBEAT_S_MAX, "retrying": RETRYING_S_MAX}


def _of_entities(name: str, party: Party) -> Iterator[Attention]:
    """Entities that stand still; what concerns all of them alike is said once."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for entity, one in party.entities.items():
        if one.state in _STANDING:
            groups.setdefault((one.state, one.reason or "", one.hint or ""), []).append(entity)
    for (state, reason, hint), entities in groups.items():
        whole = len(entities) == len(party.entities)
        place = name if whole else f"{name}/{','.join(entities)}"
        said = f"{state} ({reason})" if reason else state
        remedy = _STANDING[state].format(_target(name, entities, whole))
        yield Attention(place, said, f"{hint}; {remedy}" if hint and state != "held" else hint or remedy)


def _target(name: str, entities: Iterable[str], whole: bool) -> str:
    return name if whole else f"{name}/{next(iter(entities))}"


_STANDING = {
    "held": "mend what the reason says; connector check",
    "paused": "connector resume {}",
    "needs_resync": "connector resync {}",
}
