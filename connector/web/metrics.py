"""Prometheus metrics from what was seen. Labels are party, entity and words of ours: never a cell or an error text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from connector import __version__
from connector.events import EntityState
from connector.ops.figures import Figures
from connector.ops.status import HEARTBEAT_S_MAX, Entity, Party
from connector.ops.wishes import BRAKE
from connector.settings import Config
from connector.web.seen import Seen

MEGABYTE = 1 << 20
PARTY, ENTITY = ("party",), ("party", "entity")
AUDIT_STATES = ("running", "refusing", "failing", "never started")
OUTCOMES = ("inserted", "updated", "unchanged", "deleted", "absent", "quarantined")


def text(seen: Seen, config: Config, now_s: float) -> bytes:
    """The whole page, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Page(seen, config, now_s))
    return generate_latest(registry)


class _Page(Collector):
    def __init__(self, seen: Seen, config: Config, now_s: float) -> None:
        self._seen = seen
        self._config = config
        self._now_s = now_s

    def collect(self) -> Iterator[Metric]:
        seen = self._seen
        yield _gauge("build_info", "Always 1; the version is a label.", ("version",), [((__version__,), 1)])
        up = seen.fresh(self._now_s)
        yield _one("staging_up", "Whether staging could be read lately.", float(up))
        yield from _certificates(seen.certificates)
        if seen.figures is None or seen.verdict is None:
            return
        yield _one("look_age_seconds", "How old these figures are.", self._now_s - seen.at_s)
        stalled = (((name,), float(name in seen.verdict.stalled)) for name in self._config.parties)
        yield _gauge("party_stalled", "1 where the position does not move though there is work.", PARTY, stalled)
        yield from _parties(seen.figures, self._config)
        yield from _entities(seen.figures)
        yield from _audit(seen.figures)


# ------------------------------------------------------------------------------------------------- families

# Values of a metric by the values of its labels. What nobody knows is None, and is left out: a figure that is not there
# is better than a zero that is not true.
Series = Iterable[tuple[tuple[str, ...], float | None]]


def _gauge(name: str, says: str, labels: tuple[str, ...], series: Series) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"connector_{name}", says, labels=labels)
    for at, value in series:
        if value is not None:
            family.add_metric(at, value)
    return family


def _counter(name: str, says: str, labels: tuple[str, ...], series: Series) -> CounterMetricFamily:
    family = CounterMetricFamily(f"connector_{name}", says, labels=labels)
    for at, value in series:
        if value is not None:
            family.add_metric(at, value)
    return family


def _one(name: str, says: str, value: float) -> GaugeMetricFamily:
    return _gauge(name, says, (), [((), value)])


def _epoch(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


# ------------------------------------------------------------------------------------------------- parties


def _parties(figures: Figures, config: Config) -> Iterator[Metric]:
    parties = {name: party for name, party in figures.status.parties.items() if party.configured}
    for name, says, values in (
        ("party_up", "1 where a worker follows the party's changes.", {n: _up(p) for n, p in parties.items()}),
        ("lease_held", "1 where a daemon has the party.", {n: float(p.lease is not None) for n, p in parties.items()}),
        ("lag_seconds", "From the last commit read to now, by the worker; 0 when idle.",
         {n: p.lag_s for n, p in parties.items()}),
        ("lag_bytes", "Log that the party's server keeps for us.", {n: p.lag_bytes for n, p in parties.items()}),
        ("slot_headroom_bytes", "How much more log may be kept before our slot is given up.",
         {n: p.headroom_bytes for n, p in parties.items()}),
        ("lag_warn_bytes", "From where `status` warns (limits.lag_warn_mb).",
         {n: config.parties[n].limits.lag_warn_mb * MEGABYTE for n in parties}),
        ("last_progress_timestamp_seconds", "When the party's position last moved.",
         {n: _epoch(p.position_moved_at) for n, p in parties.items()}),
        ("heartbeat_age_seconds", "Since the worker's last sign of life.",
         {n: p.worker.heartbeat_age_s if p.worker else None for n, p in parties.items()}),
        ("retry_attempt", "Tries in a row that failed.", {n: p.worker.attempt if p.worker else None
                                                          for n, p in parties.items()}),
        ("wishes_open", "Wishes that no daemon has obeyed yet.", {n: p.wishes_open for n, p in parties.items()}),
        ("oldest_wish_age_seconds", "Age of the oldest of them.", {n: p.oldest_wish_age_s for n, p in parties.items()}),
        ("audit_entries", "Entries of the party in the audit log.", {n: p.audit_seq for n, p in parties.items()}),
    ):  # fmt: skip
        yield _gauge(name, says, PARTY, (((n,), value) for n, value in values.items()))
    states = (((n, _state(p)), 1.0) for n, p in parties.items())
    yield _gauge(
        "party_state", "1 for the state the party's worker is in; the others are not there.", (*PARTY, "state"), states
    )
    yield from _stages(figures.stages, parties)


def _stages(stages: Mapping[str, Mapping[str, float]], parties: Mapping[str, Party]) -> Iterator[Metric]:
    ours = {name: seconds for name, seconds in stages.items() if name in parties}
    by_stage = {(n, stage): s for n, seconds in ours.items() for stage, s in seconds.items() if stage != "batches"}
    says = "Seconds that batches took, by stage, since the worker started."
    yield _counter("batch_seconds", says, (*PARTY, "stage"), by_stage.items())
    counts = (((name,), seconds.get("batches")) for name, seconds in ours.items())
    yield _counter("batches", "Batches since the worker started.", PARTY, counts)


def _state(party: Party) -> str:
    return "never_started" if party.worker is None else party.worker.state


def _up(party: Party) -> float:
    worker = party.worker
    return float(worker is not None and worker.state == "streaming" and worker.heartbeat_age_s <= HEARTBEAT_S_MAX)


# ------------------------------------------------------------------------------------------------- entities


def _entities(figures: Figures) -> Iterator[Metric]:
    entities = {
        (party_name, name): entity
        for party_name, party in figures.status.parties.items()
        if party.configured
        for name, entity in party.entities.items()
    }
    rows = {(*at, outcome): float(getattr(e, outcome)) for at, e in entities.items() for outcome in OUTCOMES}
    says = "Keys handled since the party's first start, by what became of them."
    yield _counter("rows", says, (*ENTITY, "outcome"), rows.items())
    for name, says, values in (
        ("live_rows", "Rows that Sipol sees.", {at: e.live_rows for at, e in entities.items()}),
        ("quarantine_rows", "Rows refused now.", {at: e.quarantined_now for at, e in entities.items()}),
        ("parked_keys", "Keys that wait for a held or paused entity.", {at: e.parked for at, e in entities.items()}),
        ("brake_pulled", "1 where deletes wait for an approval.", {at: _braked(e) for at, e in entities.items()}),
        ("pending_deletes", "Deletes that wait for an approval.",
         {at: e.pending_deletes if _braked(e) else 0 for at, e in entities.items()}),
        ("last_batch_timestamp_seconds", "When the entity's last batch ended.",
         {at: _epoch(e.last_batch_at) for at, e in entities.items()}),
        ("copy_rows", "Rows of the copy that is under way.", {at: e.copy.rows if e.copy else None
                                                              for at, e in entities.items()}),
    ):  # fmt: skip
        yield _gauge(name, says, ENTITY, values.items())
    # One line and not six for each of hundreds of entities.
    states = (((*at, e.state), 1.0) for at, e in entities.items())
    yield _gauge(
        "entity_state", "1 for the state the entity is in; the others are not there.", (*ENTITY, "state"), states
    )
    quantiles = (((*at, q), seconds) for at, e in entities.items() for q, seconds in _quantiles(e))
    says = "Commit at the party to durable in staging, over the last batches."
    yield _gauge("latency_seconds", says, (*ENTITY, "quantile"), quantiles)


def _braked(entity: Entity) -> float:
    return float(entity.state == EntityState.HELD.value and entity.reason == BRAKE)


def _quantiles(entity: Entity) -> Iterator[tuple[str, float]]:
    if entity.latency is not None:
        yield from (("0.5", entity.latency.p50_s), ("0.95", entity.latency.p95_s), ("1", entity.latency.most_s))


# ------------------------------------------------------------------------------------------------- audit, TLS


def _audit(figures: Figures) -> Iterator[Metric]:
    audit, checked = figures.status.audit, figures.status.verification
    yield _one("audit_leaves", "Entries in the log's tree.", audit.size)
    yield _one("audit_signed_leaves", "Entries under the newest signed checkpoint.", audit.signed)
    yield _one("audit_anchored_leaves", "Entries under a checkpoint that is safe outside staging.", audit.anchored)
    yield _one("audit_waiting_entries", "Entries committed and not yet in the tree.", audit.waiting)
    if audit.unanchored_s is not None:
        says = "Age of the oldest entry that nothing outside staging covers; absent where all are covered."
        yield _one("audit_unanchored_seconds", says, audit.unanchored_s)
    if audit.heartbeat_age_s is not None:
        yield _one("audit_heartbeat_age_seconds", "Since the sequencer's last sign of life.", audit.heartbeat_age_s)
    states = (((state,), float(audit.state == state)) for state in AUDIT_STATES)
    yield _gauge("audit_state", "1 for the state of the sequencer.", ("state",), states)
    if checked is not None:
        says = "When the whole audit log was last verified."
        yield _one("audit_verified_timestamp_seconds", says, checked.at.timestamp())
        yield _one("audit_verified_good", "1 where that found no breach and every guard on.", float(checked.good))


def _certificates(ends: Mapping[str, float]) -> Iterator[Metric]:
    says = "When the certificate of a party's server ends."
    series = (((name,), end) for name, end in ends.items() if name)
    yield _gauge("certificate_end_timestamp_seconds", says, PARTY, series)
    if "" in ends:
        says = "When the certificate of the staging server ends."
        yield _one("staging_certificate_end_timestamp_seconds", says, ends[""])
