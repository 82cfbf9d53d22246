"""The composition root: the only place that names concrete classes for a configuration.

`roster` says what a daemon is to run; `run` runs it; `open_party` builds one party.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg

from connector import logs
from connector import settings as configured
from connector.capture.debezium.source import DebeziumSource, JvmSettings
from connector.capture.mysql.stream_source import BinlogSettings, BinlogSource
from connector.capture.outbox.leg import OutboxLeg
from connector.capture.outbox.tables import PgChangeTable, SqlChangeTable
from connector.capture.polling.cursor import CursorLeg, Followed
from connector.capture.polling.diff import Diff
from connector.capture.polling.net import NetSource
from connector.capture.polling.pg_digests import PgDigests
from connector.capture.polling.ports import Digests, Leg, PolledView
from connector.capture.polling.source import PollSource
from connector.capture.polling.sql_digests import SqlDigests
from connector.capture.postgres.pull import DirectCalls, KitCalls, PullSource, SlotSettings
from connector.capture.postgres.stream_source import StreamSource
from connector.capture.signals import Routes
from connector.credentials import Secret
from connector.errors import ConfigError, ConnectorError, SourceMisconfigured, UsageError
from connector.events import Position, SourceIdentity
from connector.mapping import document as mapping_document
from connector.mapping.program import Program, ProgramOptions, compile_entity
from connector.ops import audit as audit_ops
from connector.ops import evidence, upkeep
from connector.ops import reconcile as comparing
from connector.ops.lineage import Mapped, Routing
from connector.runtime import confine
from connector.runtime.findings import Findings
from connector.runtime.notary import Notary, Watchers
from connector.runtime.ports import Limits, Source, ViewName
from connector.runtime.scheduler import Job, JobFailed, Scheduler
from connector.runtime.supervisor import Roster, Supervisor, Target
from connector.runtime.worker import Worker
from connector.settings import Config
from connector.sqldb.engines import Options
from connector.staging import offsets, session
from connector.staging.leases import Leases
from connector.staging.memory import PartyMemory
from connector.staging.party import PartyStaging, Report, write_report
from connector.staging.plan import DigestKeys, EntityPlan
from connector.view.postgres import PostgresView
from connector.view.sql import SqlView
from connector.web.process import Web

# The schema that the kit makes its functions in.
KIT_SCHEMA = "sipol"
# Ways to follow PostgreSQL that a replication slot keeps log for.
BY_SLOT = ("pull", "stream", "debezium")
# A signalled change is in staging by then, unless a large batch is under way.
SETTLE_S = 5.0


@dataclass(frozen=True)
class ConfiguredParty:
    """One party as a worker needs it: the only place where an engine and a way of capture become classes."""

    name: str
    parpol_id: int
    jenis: str
    staging_dsn: str
    source: configured.Source
    settings: configured.Limits
    plans: Mapping[str, tuple[EntityPlan, ViewName]]
    routing: Routing
    digest_keys: DigestKeys
    # The audit log's policy, the same for every party (audit.stop_h).
    unanchored_s_max: float | None = None
    # Digests of what it was configured with, by part: what `connector reload` compares.
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def source_dsn(self) -> str:
        """As it is now: a rotated password is taken at the next connect."""
        try:
            return self.source.dsn.reveal()
        except ConfigError as error:
            # While a file is being replaced it may be away; the party waits, and says so.
            raise SourceMisconfigured(error.message, hint=error.hint, place=error.place) from None

    @property
    def limits(self) -> Limits:
        given = self.settings
        return Limits(
            given.batch_rows, given.copy_rows, given.keys_in_memory, given.poll_s, given.delete_share_max,
            given.lag_warn_mb << 20, given.lag_drop_mb << 20, given.quarantine_rows_max, given.quarantine_days,
            self.unanchored_s_max,
        )  # fmt: skip

    @property
    def ordered(self) -> bool:
        """Positions of the source and of the view's snapshots are numbers of one kind."""
        return self.source.engine == "postgresql" and self.source.capture in BY_SLOT

    @property
    def notices_within_s(self) -> float:
        """How long a change in the party's database may take to be in staging, when all is well."""
        every_s = 0.0 if self.ordered else self.settings.poll_s
        if self.source.cursor is not None or self.source.capture == "diff":
            every_s = self.source.diff_every_s
        return every_s + SETTLE_S

    def open_staging(self) -> PartyStaging:
        staging = PartyStaging(self.staging_dsn, self.name, self.parpol_id, self.jenis, self.digest_keys)
        staging.note_settings(self.parts)
        return staging

    def report(self, report: Report) -> None:
        """Say how the worker fares, through a session of its own: it may have no other."""
        conn = session.connect(self.staging_dsn, f"connector {self.name}")
        with closing(conn), session.translated("reporting"):
            offsets.register(conn, self.name, self.parpol_id, self.jenis)
            offsets.note_settings(conn, self.name, self.parts)
            write_report(conn, self.name, report)

    def guard_disk(self) -> None:
        """Give our slot up where the party's server keeps too much log for us; for when no session runs."""
        if not self.ordered:
            return  # MariaDB and MySQL keep their log for as long as their DBA says, whoever reads it
        with suppress(ConnectorError), closing(self._open_guard()) as source:
            if source.lag_bytes() > self.limits.lag_drop_bytes:
                source.give_up()

    @property
    def _application(self) -> str:
        return f"sipol connector {self.name}"

    @property
    def _options(self) -> Options:
        return Options(self._application, self.settings.statement_timeout_s)

    def open_view(self) -> PostgresView | SqlView:
        return _view_of(self.source.engine, self.source_dsn, self.settings, self._application)

    def open_source(
        self, stored: Position | None, identity: SourceIdentity | None, wait: Callable[[float], bool]
    ) -> Source:
        source, limits = self.source, self.settings
        match (source.engine, source.capture):
            case ("postgresql", "pull"):
                settings = self._slot_settings(self.routing.now(self.source_dsn))
                return PullSource(settings, KitCalls(KIT_SCHEMA, source.slot), stored, identity, wait)
            case ("postgresql", "stream"):
                settings = self._slot_settings(self.routing.now(self.source_dsn))
                return StreamSource(settings, stored, identity, wait)
            case ("postgresql", "debezium"):
                settings = self._slot_settings(self.routing.now(self.source_dsn))
                return DebeziumSource(settings, JvmSettings(limits.jvm_heap_mb), stored, identity, wait)
            case (_, "stream"):
                return self._open_binlog(stored, identity, wait)
            case (engine, "debezium"):
                raise UsageError(
                    f"`capture: debezium` of {engine} has a kit, and is not run by this version", place=self.name,
                    hint="mariadb and mysql have `stream`; other engines wait for a server to prove them on",
                )  # fmt: skip
            case _:
                return self._open_poll(stored, identity, wait)

    def rerouted(self) -> bool:
        """Whether the views' definitions give other routes than the ones that the open source follows."""
        return self.routing.changed(self.source_dsn)

    def _slot_settings(self, routes: Routes) -> SlotSettings:
        source, limits = self.source, self.settings
        return SlotSettings(
            self.source_dsn, self._application, source.slot, source.publication, routes,
            limits.keys_in_memory, limits.poll_s, limits.statement_timeout_s, limits.window_mb << 20,
        )  # fmt: skip

    def _open_guard(self) -> Source:
        """A session that can look at our slot, and drop it: no walsender and no JVM is started for that."""
        source, settings = self.source, self._slot_settings({})
        if source.capture == "pull":
            return PullSource(settings, KitCalls(KIT_SCHEMA, source.slot), None, None, lambda _: True)
        return PullSource(settings, DirectCalls(source.slot, source.publication), None, None, lambda _: True)

    def _open_binlog(
        self, stored: Position | None, identity: SourceIdentity | None, wait: Callable[[float], bool]
    ) -> Source:
        views = {entity: view.name for entity, (_, view) in self.plans.items()}
        routes = self.routing.now(self.source_dsn)
        settings = BinlogSettings(self.source_dsn, self._options, routes, views, self.settings.keys_in_memory)
        # A compare under the log: what a foreign key's CASCADE changes is in no binary log.
        with ExitStack() as opened:
            log = opened.enter_context(closing(BinlogSource(settings, stored, identity, wait)))
            memory = opened.enter_context(closing(PartyMemory(self.staging_dsn, self.name)))
            net = self._diff(self._open_reader(), memory, wait)
            opened.pop_all()
        return NetSource(log, net, memory, begins=stored is None)

    def _open_poll(
        self, stored: Position | None, identity: SourceIdentity | None, wait: Callable[[float], bool]
    ) -> Source:
        memory = PartyMemory(self.staging_dsn, self.name)
        reader = self._open_reader()
        legs: list[Leg] = [self._diff(reader, memory, wait)]
        if self.source.cursor is not None:
            followed = Followed(self.source.cursor.column, self.source.cursor.overlap, self.settings.poll_s)
            legs.insert(0, CursorLeg(self._polled, reader, memory, followed, self.settings.keys_in_memory))
        if self.source.capture == "outbox":
            limits = self.settings
            routes = self.routing.now(self.source_dsn)
            notes = OutboxLeg(self._open_changes(), routes, every_s=limits.poll_s, keys_in_memory=limits.keys_in_memory)
            legs.insert(0, notes)
        now = SourceIdentity(self.source.engine, 0, self.source.capture)
        return PollSource(legs, memory, now, stored, identity, wait)

    def _open_reader(self) -> PgDigests | SqlDigests:
        if self.source.engine != "postgresql":
            return SqlDigests(self.source_dsn, self._options)
        limit_s = self.settings.statement_timeout_s
        return PgDigests(self.source_dsn, application=self._application, statement_timeout_s=limit_s)

    def _open_changes(self) -> PgChangeTable | SqlChangeTable:
        """The change table: in the kit's schema, or where the party's views are."""
        if self.source.engine == "postgresql":
            limit_s = self.settings.statement_timeout_s
            return PgChangeTable(
                self.source_dsn, KIT_SCHEMA, self.source.slot, application=self._application,
                statement_timeout_s=limit_s,
            )  # fmt: skip
        schema = next(view.name[0] for _, view in self.plans.values())
        return SqlChangeTable(self.source_dsn, schema, self.source.slot, self._options)

    def _diff(self, reader: Digests, memory: PartyMemory, wait: Callable[[float], bool]) -> Diff:
        return Diff(
            self._polled, reader, memory, every_s=self.source.diff_every_s,
            keys_in_memory=self.settings.keys_in_memory, stopping=lambda: wait(0),
        )  # fmt: skip

    @property
    def _polled(self) -> tuple[PolledView, ...]:
        return tuple(PolledView(entity, view.name, view.key, view.inputs) for entity, (_, view) in self.plans.items())


def open_party(config: Config, name: str, staging_dsn: str) -> ConfiguredParty:
    """Build one party from the configuration and its mapping.

    Raises:
        UsageError: no such party, or its mapping has problems.
    """
    if name not in config.parties:
        raise UsageError(f"there is no party {name}", hint=f"the configuration has: {', '.join(config.parties)}")
    party = config.parties[name]
    return _open(party, compile_party(party), _Rules.of(config), staging_dsn)


@dataclass(frozen=True, slots=True)
class _Rules:
    """What the configuration says for every party alike."""

    digest_key: Secret | None
    stop_h: float | None

    @classmethod
    def of(cls, config: Config) -> _Rules:
        return cls(config.digest.key, config.audit.stop_h)


def _open(party: configured.Party, programs: Mapping[str, Program], rules: _Rules, staging_dsn: str) -> ConfiguredParty:
    name = party.name
    plans = {entity: (_plan(name, party.parpol_id, program), _view(program)) for entity, program in programs.items()}
    return ConfiguredParty(
        name, party.parpol_id, party.jenis, staging_dsn, party.source, party.limits, plans,
        Routing(party.source, [_mapped(program) for program in programs.values()], f"sipol connector {name}"),
        _derived(rules.digest_key), rules.stop_h and rules.stop_h * 3600, parts(party, programs, rules),
    )  # fmt: skip


def parts(party: configured.Party, programs: Mapping[str, Program], rules: _Rules) -> dict[str, str]:
    """Digests of what a party runs with, by part of the configuration. A secret counts as its reference."""
    said: Mapping[str, object] = {
        "party": (party.parpol_id, party.jenis),
        "mapping": sorted(
            (name, program.mapping_digest, program.mapping_version) for name, program in programs.items()
        ),
        "source": (party.source, party.source.dsn.kind, party.source.dsn.name),
        "limits": party.limits,
        "daemon": rules,
    }
    return {name: hashlib.sha256(repr(value).encode()).hexdigest()[:16] for name, value in said.items()}


def open_view(party: configured.Party, application: str) -> PostgresView | SqlView:
    """A reading session at a party, for who needs nothing else of it: neither its mapping nor our keys."""
    return _view_of(party.source.engine, party.source.dsn.reveal(), party.limits, application)


def _view_of(engine: str, dsn: str, limits: configured.Limits, application: str) -> PostgresView | SqlView:
    if engine != "postgresql":
        return SqlView(dsn, Options(application, limits.statement_timeout_s), limits.cell_bytes_max)
    return PostgresView(
        dsn, application=application, statement_timeout_s=limits.statement_timeout_s,
        cell_bytes_max=limits.cell_bytes_max,
    )  # fmt: skip


def open_own(mapping: Path, name: str, source: configured.Source, jenis: str) -> ConfiguredParty:
    """A party as its own DBA sees it: its mapping file and its views, without configuration, staging or KPU's keys.

    Raises:
        ConfigError, MappingError: see `compile_party`.
    """
    party = configured.Party(name, 1, mapping, source, jenis)
    return _open(party, compile_party(party), _Rules(Secret.literal("-"), None), "")


def party_plans(config: Config, name: str) -> tuple[EntityPlan, ...]:
    """The statements of each of a party's entities; needs no secret of the party's."""
    party = config.parties[name]
    return tuple(_plan(name, party.parpol_id, program) for program in compile_party(party).values())


def compile_party(party: configured.Party) -> dict[str, Program]:
    """The party's mapping file as programs, by entity, in the file's order."""
    document = mapping_document.load(party.mapping)
    if document.party != party.name:
        raise ConfigError(
            f"the mapping is for party {document.party}", place=str(party.mapping),
            hint=f"parties.{party.name}.mapping names the wrong file, or its `party:` is wrong",
        )  # fmt: skip
    options = ProgramOptions(parpol_id=party.parpol_id, jenis=party.jenis)
    return {entity: compile_entity(document, entity, options) for entity in document.entities}


def _plan(party: str, parpol_id: int, program: Program) -> EntityPlan:
    return EntityPlan(
        party, parpol_id, program.entity, len(program.inputs), len(program.key), program.columns, program.select,
        program.params, program.mapping_version, program.mapping_digest,
    )  # fmt: skip


def _view(program: Program) -> ViewName:
    return ViewName(program.view, program.key, program.inputs)


def _mapped(program: Program) -> Mapped:
    return Mapped(program.entity, program.view, program.key, program.lineage)


def digest_keys(config: Config) -> DigestKeys:
    return _derived(config.digest.key)


def _derived(key: Secret | None) -> DigestKeys:
    if key is None:
        raise ConfigError("digest.key is missing", hint="`connector digest keygen` makes one; KPU keeps it")
    return DigestKeys.derive(key.reveal().encode())


def roster(config: Config, staging_dsn: str, parties: Sequence[str], log_format: str = "console") -> Roster:
    """What a daemon is to run for these parties. Everything that can be wrong without a database is found here.

    Raises:
        ConfigError, MappingError: with every problem.
    """
    digest_keys(config)
    rules = _Rules.of(config)
    workers = {
        name: _Start(config.parties[name], compile_party(config.parties[name]), rules, staging_dsn, log_format)
        for name in parties
    }
    beside: dict[str, Target] = {
        "audit tree": _Notary(replace(config, parties={}), staging_dsn, log_format),
        "set findings": _Findings(staging_dsn, log_format),
    }
    if config.jobs.schedules:
        beside["jobs"] = _Jobs(
            replace(config, parties={name: config.parties[name] for name in parties}), staging_dsn, log_format
        )
    if config.web is not None:
        beside["web"] = _Web(config, staging_dsn, log_format)
    return Roster(workers, beside)


def reconcile(
    conn: psycopg.Connection, party: ConfiguredParty, entity: str | None, asking: comparing.Options
) -> tuple[list[comparing.Run], dict[str, str]]:
    """Compare a party's entities, or one of them, with staging; gives the runs, and what was not compared and why."""
    unready = comparing.comparable(conn, party.name)
    skipped = {name: why for name, why in unready.items() if entity in (None, name)}
    runs = []
    with closing(party.open_view()) as view:
        for name, (plan, seen) in party.plans.items():
            if entity in (None, name) and name not in skipped:
                shape = view.shape(name, seen.name, seen.key, seen.inputs)
                runs.append(comparing.compare(conn, view, comparing.Subject(plan, shape, party.digest_keys), asking))
    return runs, skipped


def jobs(config: Config, staging_dsn: str) -> tuple[Job, ...]:
    """The periodic work that the configuration has."""
    work: dict[str, Callable[[psycopg.Connection], str]] = {
        "reconcile": lambda conn: _reconcile_all(conn, config, staging_dsn),
        "retention": lambda conn: upkeep.retain(conn, config.retention),
        "upkeep": upkeep.tend,
        "verify": lambda conn: verified(audit_ops.verify_log(conn, signing=evidence.signing(config)), conn),
        "reference": upkeep.check_reference,
    }

    def with_session(name: str) -> Callable[[], str]:
        def do() -> str:
            with closing(session.connect(staging_dsn, f"connector job {name}")) as conn:
                return work[name](conn)

        return do

    return tuple(Job(name, when, with_session(name)) for name, when in config.jobs.schedules.items())


def verified(found: audit_ops.Verified, conn: psycopg.Connection) -> str:
    """Note a verification of the whole log; raises what is wrong with it."""
    audit_ops.note_verified(conn, found)
    error = audit_ops.error_of(found)
    if error is not None:
        raise error
    return f"{found.verdict.entries:,} audit entries are whole"


def _reconcile_all(conn: psycopg.Connection, config: Config, staging_dsn: str) -> str:
    """Compare every party's views with staging, one after the other, and have what differs read again.

    Raises:
        JobFailed: a party could not be compared; the others were.
    """
    said, failed = [], []
    for name in config.parties:
        try:
            party = open_party(config, name, staging_dsn)
            asking = comparing.Options(party.notices_within_s, upkeep.ASKED_BY, party.ordered)
            runs, skipped = reconcile(conn, party, None, asking)
        except ConnectorError as error:
            failed.append(f"{name}: {type(error).__name__}")
            continue
        for run in runs:
            comparing.record(conn, name, run, upkeep.ASKED_BY, repair=True)
        left = f", {', '.join(skipped)} not compared" if skipped else ""
        said.append(
            f"{name}: {sum(run.total for run in runs)} of {sum(run.view_rows for run in runs)} keys differ{left}"
        )
    text = "; ".join([*said, *failed]) or "no party"
    if failed:
        raise JobFailed(text, hint="is the party's database up? connector check PARTY")
    return text


def settings(config: Config) -> dict[str, Mapping[str, str]]:
    """With what each party is to run, as `ConfiguredParty.parts`. Raises as `roster` does."""
    digest_keys(config)
    rules = _Rules.of(config)
    return {name: parts(party, compile_party(party), rules) for name, party in config.parties.items()}


def run(
    first: Roster, staging_dsn: Callable[[], str], *, once: bool, reload: Callable[[], Roster] | None = None
) -> bool:
    """Run the daemon. True where every party ended as asked.

    It shares the parties with other daemons, unless it is to drain them `once`. `staging_dsn` is asked at each connect:
    its password may change meanwhile.
    """
    daemon = f"{os.uname().nodename}:{os.getpid()}"
    share = None if once else Leases(staging_dsn, daemon)
    return Supervisor(first, daemon, once=once, reload=reload, share=share).run()


@dataclass(frozen=True, slots=True)
class _Start:
    """What a worker process is given: its own party, checked, so that a file that is being edited stops no restart.

    No secret of the party's is in it; the worker looks them up.
    """

    party: configured.Party
    programs: Mapping[str, Program]
    rules: _Rules
    staging_dsn: str
    log_format: str

    def __call__(self, party: str, daemon: str, once: bool, wait: Callable[[float], bool]) -> bool:
        logs.setup("json" if self.log_format == "json" else "console", party=party)
        if self.party.source.capture != "debezium":
            # A Java machine brings limits of its own, and reserves more than it uses.
            confine.bound(self.party.limits.memory_mb << 20)
        opened = _open(self.party, self.programs, self.rules, self.staging_dsn)
        return Worker(opened, daemon=daemon, wait=wait, once=once).run()


@dataclass(frozen=True, slots=True)
class _Notary:
    """As `_Start`, for the process that keeps the audit log's tree; the configuration without its parties."""

    config: Config
    staging_dsn: str
    log_format: str

    def __call__(self, name: str, daemon: str, once: bool, wait: Callable[[float], bool]) -> bool:  # noqa: ARG002
        logs.setup("json" if self.log_format == "json" else "console", party=name)
        audit = self.config.audit
        watchers = Watchers(audit.witnesses, audit.witnesses_needed)
        Notary(self.staging_dsn, lambda: evidence.signing(self.config), watchers, wait).run()
        return True


@dataclass(frozen=True, slots=True)
class _Findings:
    """As `_Notary`, for the process that keeps findings over sets."""

    staging_dsn: str
    log_format: str

    def __call__(self, name: str, daemon: str, once: bool, wait: Callable[[float], bool]) -> bool:  # noqa: ARG002
        logs.setup("json" if self.log_format == "json" else "console", party=name)
        Findings(self.staging_dsn, wait).run()
        return True


@dataclass(frozen=True, slots=True)
class _Jobs:
    """As `_Notary`, for the process that does the periodic work."""

    config: Config
    staging_dsn: str
    log_format: str

    def __call__(self, name: str, daemon: str, once: bool, wait: Callable[[float], bool]) -> bool:
        logs.setup("json" if self.log_format == "json" else "console", party=name)
        if once:  # a run that ends by itself is no place for a night's work
            while not wait(60.0):
                pass
            return True
        Scheduler(self.staging_dsn, jobs(self.config, self.staging_dsn), self.config.jobs.timezone, daemon, wait).run()
        return True


@dataclass(frozen=True, slots=True)
class _Web:
    """As `_Notary`, for the process that serves metrics and probes."""

    config: Config
    staging_dsn: str
    log_format: str

    def __call__(self, name: str, daemon: str, once: bool, wait: Callable[[float], bool]) -> bool:
        logs.setup("json" if self.log_format == "json" else "console", party=name)
        if not once:
            Web(self.config, self.staging_dsn, daemon, wait).run()
            return True
        # A run that ends by itself is not monitored, and the address may be the daemon's.
        while not wait(60.0):
            pass
        return True
