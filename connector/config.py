"""connector.yaml, read and checked whole: after `load` nobody re-validates.

All problems are reported at once, each with `file:line:column`. Secrets stay outside: a `Secret` holds the name of a
variable or file, never the text, and looks it up each time it is used (so a rotated password needs no restart).
pydantic stays inside this module. No sockets, no logging.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, assert_never

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from connector import schedule, tls
from connector.audit.note import Algorithm, NoteError, Verifier
from connector.errors import ConfigError
from connector.yamlpos import Node, Place, Problem, Table, closest, in_order, place_at, plain, read, shown, walk

# Which ways to follow each engine this version has.
CAPTURES: Mapping[str, tuple[str, ...]] = {
    "postgresql": ("pull", "stream", "outbox", "cursor", "diff", "debezium"),
    "mariadb": ("stream", "outbox", "cursor", "diff", "debezium"),
    "mysql": ("stream", "outbox", "cursor", "diff", "debezium"),
    "sqlite": ("outbox", "cursor", "diff"),
    # Kits only: there is no server to prove these on, and `run` says so.
    "mssql": ("debezium",),
    "oracle": ("debezium",),
}

# Captures that compare views on a schedule; `stream` of MariaDB and MySQL does too.
COMPARING = ("diff", "outbox")
# How often a party's views are compared where the configuration does not say.
DIFF_EVERY_S = 300.0
# Beside an outbox or a binary log a diff is the net under what no trigger and no log sees; not every five minutes.
NET_DIFF_EVERY_S = 3_600.0
# A transaction longer than this many seconds may commit behind a cursor; the next diff finds its rows.
CURSOR_OVERLAP = 60.0

# The heavy ones at night, one after the other, when no party's staff enter anything.
JOB_SCHEDULES: Mapping[str, str] = {
    "reconcile": "15 2 * * *", "retention": "45 3 * * *", "upkeep": "15 4 * * *", "verify": "30 1 * * *",
    "reference": "0 5 * * *",
}  # fmt: skip

PARTY_NAME = r"[a-z][a-z0-9_]{0,30}"
SLOT_NAME = r"[a-z0-9_]{1,63}"  # what PostgreSQL allows for a replication slot

# A dsn or a PEM key; a larger file is not a secret but a mistake.
SECRET_BYTES_MAX = 65_536

_REFERENCE = re.compile(r"\$\{(env|file):([^{}]+)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# `password=`, `sslpassword=` and their like in any of the three spellings of a dsn, and `user:password@`.
_PASSWORD = re.compile(r"(?:password|passwd|pwd)\s*=|://[^@]*:[^@]+@", re.IGNORECASE)


# ------------------------------------------------------------------------------------------------- values


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A reference to a text that must not be shown. `reveal` is the only way to the text.

    `engine`: it is a dsn of this engine, and says how its server is verified where the text does not (`tls.pinned`).
    """

    kind: Literal["env", "file", "literal"]
    name: str
    engine: str = field(default="", compare=False)

    @classmethod
    def literal(cls, text: str) -> Secret:
        """A text that needs no hiding place: a dsn without a password, or what a test or the demo made itself."""
        return cls("literal", text)

    @property
    def reference(self) -> str:
        """What may be shown: `${env:NAME}`, `${file:PATH}` or a mask."""
        return "(hidden)" if self.kind == "literal" else f"${{{self.kind}:{self.name}}}"

    def reveal(self) -> str:
        """The text, as it is now.

        Raises:
            ConfigError: the variable or file is gone, empty, or open to others.
        """
        found = _look_up(self)
        if isinstance(found, _Refusal):
            raise ConfigError(found.message, hint=found.hint, place=self.reference)
        return tls.pinned(self.engine, found) if self.engine else found

    def __repr__(self) -> str:
        return f"Secret({self.reference})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)


@dataclass(frozen=True, slots=True)
class Staging:
    """Our own database: exactly one of the two is set."""

    dsn: Secret | None = None
    embedded: Path | None = None
    allow_plaintext: bool = False


@dataclass(frozen=True, slots=True)
class Audit:
    """How the log is signed, and who watches it.

    `key` signs checkpoints (Ed25519); `previous_key` signs too while one replaces the other; `trusted` are public keys
    of the log that sign no more. `anchor` is the last checkpoint's file, outside staging. So many of `witnesses` must
    have cosigned for a checkpoint to count as anchored. Older than `alarm_h` is an alarm; older than `stop_h` stops
    every party (None: never).
    """

    key: Secret | None = None
    previous_key: Secret | None = None
    origin: str = "sipol-connector/audit"
    anchor: Path | None = None
    trusted: tuple[Verifier, ...] = ()
    witnesses: tuple[Verifier, ...] = ()
    witnesses_needed: int = 0
    alarm_h: float = 24.0
    stop_h: float | None = None


@dataclass(frozen=True, slots=True)
class Web:
    """Where metrics and probes are served, and after how long a position that does not move is a stall.

    Off where the configuration does not name it: a port is the operator's to open, and several daemons share machines.
    """

    host: str
    port: int
    stall_s: float

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port


@dataclass(frozen=True, slots=True)
class Jobs:
    """When the periodic work is done, by job; one that is off is not in `schedules`."""

    timezone: str = "Asia/Jakarta"
    schedules: Mapping[str, str] = field(default_factory=lambda: dict(JOB_SCHEDULES))


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many days things are kept that are no evidence."""

    record_days: int = 180  # obeyed wishes, compares, findings that ended


@dataclass(frozen=True, slots=True)
class Digest:
    """`key` keys the row digests and nik_hmac; KPU alone holds it."""

    key: Secret | None = None


@dataclass(frozen=True, slots=True)
class Rising:
    """The column that `capture: cursor` follows, and how far each look goes back (its units; seconds for times)."""

    column: str
    overlap: float


@dataclass(frozen=True, slots=True)
class Source:
    """How a party's database is reached and followed."""

    engine: str
    dsn: Secret
    capture: str
    slot: str
    publication: str
    diff_every_s: float = DIFF_EVERY_S
    cursor: Rising | None = None
    # The operator has accepted a server that is not verified, in writing; `check` goes on naming it.
    allow_plaintext: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for one party, so that it cannot exhaust us and we cannot harm it."""

    batch_rows: int = 20_000  # keys per staging transaction: about a second of upserts on two cores
    poll_s: float = 1.0
    lag_warn_mb: int = 1_024
    lag_drop_mb: int = 8_192  # past this our slot is dropped rather than the party's disk filled
    delete_share_max: float = 0.10
    copy_rows: int = 50_000
    cell_bytes_max: int = 1_048_576
    keys_in_memory: int = 250_000
    window_mb: int = 32  # half a second of decoding where it was measured
    statement_timeout_s: float = 60.0
    quarantine_rows_max: int = 50_000  # a tenth of a large party's members: more is a broken view, not broken rows
    jvm_heap_mb: int = 256  # `capture: debezium`: the JVM takes about 150 MB beside it
    memory_mb: int = 1_024  # of one worker; its peak was 80 MB where it was measured, and chunks read ahead are bounded
    quarantine_days: float = 30.0  # a refused row is looked at again after so long, whether or not it was signalled


@dataclass(frozen=True, slots=True)
class Party:
    """One political party and its database."""

    name: str
    parpol_id: int
    mapping: Path
    source: Source
    jenis: str = "NASIONAL"
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, checked configuration."""

    path: Path
    staging: Staging
    audit: Audit
    digest: Digest
    parties: Mapping[str, Party]
    web: Web | None = None
    jobs: Jobs = Jobs()
    retention: Retention = Retention()

    def party(self, name: str) -> Party:
        """The party called `name`.

        Raises:
            ConfigError: there is none.
        """
        if name in self.parties:
            return self.parties[name]
        raise ConfigError(f"no party `{shown(name)}` in {self.path}", hint=closest(name, self.parties))


# ------------------------------------------------------------------------------------------------- shape


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class _Staging(_Model):
    dsn: str | None = None
    embedded: str | None = None
    allow_plaintext: bool = False


class _Key(_Model):
    key: str | None = None


class _Audit(_Model):
    key: str | None = None
    previous_key: str | None = None
    origin: Annotated[str, Field(min_length=1, max_length=200)] = Audit().origin
    anchor: Annotated[str, Field(min_length=1)] | None = None
    trusted: dict[str, str] = Field(default_factory=dict)
    witnesses: dict[str, str] = Field(default_factory=dict)
    witnesses_needed: Annotated[int, Field(ge=0, le=100)] = Audit().witnesses_needed
    alarm_h: Annotated[float, Field(gt=0, le=8_760)] = Audit().alarm_h
    stop_h: Annotated[float, Field(gt=0, le=8_760)] | None = None


class _Web(_Model):
    # HOST:PORT; an IPv6 address in brackets.
    listen: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")]
    # A large transaction of a million keys took half a minute, an index build on the same machine two.
    stall_s: Annotated[float, Field(ge=1, le=86_400)] = 180.0


class _Jobs(_Model):
    timezone: Annotated[str, Field(min_length=1, max_length=64)] = Jobs().timezone
    reconcile: str = JOB_SCHEDULES["reconcile"]
    retention: str = JOB_SCHEDULES["retention"]
    upkeep: str = JOB_SCHEDULES["upkeep"]
    verify: str = JOB_SCHEDULES["verify"]
    reference: str = JOB_SCHEDULES["reference"]


class _Retention(_Model):
    record_days: Annotated[int, Field(ge=1, le=36_500)] = Retention().record_days


class _Rising(_Model):
    column: Annotated[str, Field(min_length=1, max_length=128)]
    diff_every_s: Annotated[float, Field(ge=0.05, le=604_800)]
    overlap: Annotated[float, Field(ge=0, le=1_000_000_000)] = CURSOR_OVERLAP


class _Source(_Model):
    engine: Literal["postgresql", "mariadb", "mysql", "sqlite", "mssql", "oracle"]
    dsn: str
    capture: Literal["pull", "stream", "outbox", "cursor", "diff", "debezium"]
    slot: Annotated[str, Field(pattern=f"^{SLOT_NAME}$")] | None = None
    publication: Annotated[str, Field(pattern=f"^{SLOT_NAME}$")] | None = None
    diff_every_s: Annotated[float, Field(ge=0.05, le=604_800)] | None = None
    cursor: _Rising | None = None
    allow_plaintext: bool = False


class _Limits(_Model):
    batch_rows: Annotated[int, Field(ge=1, le=1_000_000)] = Limits().batch_rows
    poll_s: Annotated[float, Field(ge=0.01, le=3_600)] = Limits().poll_s
    lag_warn_mb: Annotated[int, Field(ge=1, le=10_000_000)] = Limits().lag_warn_mb
    lag_drop_mb: Annotated[int, Field(ge=1, le=10_000_000)] = Limits().lag_drop_mb
    delete_share_max: Annotated[float, Field(ge=0, le=1)] = Limits().delete_share_max
    copy_rows: Annotated[int, Field(ge=1, le=10_000_000)] = Limits().copy_rows
    cell_bytes_max: Annotated[int, Field(ge=64, le=268_435_456)] = Limits().cell_bytes_max
    keys_in_memory: Annotated[int, Field(ge=1, le=100_000_000)] = Limits().keys_in_memory
    window_mb: Annotated[int, Field(ge=1, le=4_096)] = Limits().window_mb
    statement_timeout_s: Annotated[float, Field(ge=0.1, le=86_400)] = Limits().statement_timeout_s
    quarantine_rows_max: Annotated[int, Field(ge=0, le=100_000_000)] = Limits().quarantine_rows_max
    jvm_heap_mb: Annotated[int, Field(ge=64, le=65_536)] = Limits().jvm_heap_mb
    quarantine_days: Annotated[float, Field(ge=0.01, le=3_650)] = Limits().quarantine_days
    memory_mb: Annotated[int, Field(ge=256, le=1_048_576)] = Limits().memory_mb


class _Party(_Model):
    parpol_id: Annotated[int, Field(ge=1, le=32_767)]
    mapping: Annotated[str, Field(min_length=1)]
    source: _Source
    jenis: Literal["NASIONAL", "LOKAL_ACEH"] = "NASIONAL"
    limits: _Limits = _Limits()


class _Config(_Model):
    staging: _Staging
    audit: _Audit = _Audit()
    digest: _Key = _Key()
    web: _Web | None = None
    jobs: _Jobs = _Jobs()
    retention: _Retention = _Retention()
    parties: dict[str, _Party] = Field(default_factory=dict)


# ------------------------------------------------------------------------------------------------- load


def load(path: Path, *, check_secrets: bool = True, check_mappings: bool = True) -> Config:
    """Read and check a configuration.

    Args:
        path: connector.yaml; files it names are relative to its folder.
        check_secrets: also look up every variable and file that is named for a secret. False for work that needs
            no secret, such as printing a kit.
        check_mappings: the mapping files must be there. False for who is about to write one.

    Raises:
        ConfigError: with every problem found, as `file:line:column: message; what to do`.
    """
    reading = read(path)
    problems = list(reading.problems)
    if isinstance(reading.root, Table):
        built = _build(path, reading.root, (check_secrets, check_mappings), problems)
        if built is not None and not problems:
            return built
    elif reading.root is not None:
        problems.append(Problem(reading.root.place, "the configuration must be a table of keys"))
    found = in_order(problems)
    assert found, "neither a configuration nor a problem"
    if reading.root is None and not found[0].place.line:
        raise ConfigError(found[0].message, place=str(path), hint=_HINT_NO_FILE)
    count = "one problem" if len(found) == 1 else f"{len(found)} problems"
    raise ConfigError(f"{count} in the configuration", place=str(path), problems=_texts(found))


_HINT_NO_FILE = "name a configuration with --config or CONNECTOR_CONFIG"


def _texts(problems: tuple[Problem, ...]) -> tuple[str, ...]:
    return tuple(str(problem) for problem in problems)


def _build(path: Path, root: Table, checks: tuple[bool, bool], problems: list[Problem]) -> Config | None:
    """The configuration, or None; what is wrong is added to `problems`. `checks`: secrets, mapping files."""
    check_secrets, check_mappings = checks
    problems += _character_problems(root)
    problems += _reference_problems(root)
    model: _Config | None = None
    try:
        model = _Config.model_validate(plain(root))
    except ValidationError as exc:
        problems += [_problem_of(details, root) for details in exc.errors(include_url=False, include_input=False)]
    problems += _name_problems(root)
    secrets = _Secrets(root, path.parent, problems)
    staging_dsn = secrets.take(("staging", "dsn"), literal=True)
    audit_key = secrets.take(("audit", "key"), literal=False)
    previous_key = secrets.take(("audit", "previous_key"), literal=False)
    digest_key = secrets.take(("digest", "key"), literal=False)
    party_dsns = {name: secrets.take(("parties", name, "source", "dsn"), literal=True) for name in _party_names(root)}
    if check_secrets:
        secrets.check()
    if model is None:
        return None
    problems += _rule_problems(model, root)
    staging_dsn = staging_dsn and _secured(staging_dsn, "postgresql", model.staging.allow_plaintext)
    parties: dict[str, Party] = {}
    for name, party in model.parties.items():
        dsn = party_dsns.get(name)
        if dsn is not None:
            secured = _secured(dsn, party.source.engine, party.source.allow_plaintext)
            parties[name] = _party(name, party, secured, path.parent)
    problems += _plaintext_problems(staging_dsn, parties, root, secrets)
    if check_mappings:
        problems += _file_problems(parties, root)
    problems += _same_source_problems(parties, root, secrets)
    embedded = None if model.staging.embedded is None else path.parent / model.staging.embedded
    audit = _audit(model.audit, (audit_key, previous_key), path.parent, root, problems)
    web = _web(model.web, root, problems)
    jobs = _jobs(model.jobs, root, problems)
    retention = Retention(**model.retention.model_dump())
    return Config(
        path, Staging(staging_dsn, embedded, model.staging.allow_plaintext), audit, Digest(digest_key), parties, web,
        jobs, retention,
    )  # fmt: skip


def _jobs(given: _Jobs, root: Table, problems: list[Problem]) -> Jobs:
    schedules = {name: text for name, text in given if name != "timezone"}
    if given.model_fields_set:  # the defaults need no look
        if schedule.problem(JOB_SCHEDULES["reconcile"], given.timezone) is not None:
            hint = "Asia/Jakarta, Asia/Makassar, Asia/Jayapura"
            problems.append(Problem(place_at(root, ("jobs", "timezone")), "there is no such time zone", hint))
        for name, text in schedules.items():
            if (said := schedule.problem(text)) is not None:
                problems.append(Problem(place_at(root, ("jobs", name)), f"`{name}` {said}", schedule.HINT))
    return Jobs(given.timezone, {name: text for name, text in schedules.items() if text != schedule.OFF})


def _web(given: _Web | None, root: Table, problems: list[Problem]) -> Web | None:
    if given is None:
        return None
    host, _, port = given.listen.rpartition(":")
    if int(port) > 65_535:
        problems.append(Problem(place_at(root, ("web", "listen")), "`listen` has no such port", "127.0.0.1:9187"))
    return Web(host.strip("[]"), int(port), given.stall_s)


def _audit(
    given: _Audit, keys: tuple[Secret | None, Secret | None], folder: Path, root: Table, problems: list[Problem]
) -> Audit:
    if re.search(r"[\s+]", given.origin):
        message = "`origin` is a name without blanks and plus signs"
        problems.append(Problem(place_at(root, ("audit", "origin")), message, "kpu.example/sipol-audit, for instance"))
    trusted = _verifiers("trusted", given.trusted, Algorithm.ED25519, root, problems)
    witnesses = _verifiers("witnesses", given.witnesses, Algorithm.COSIGNATURE, root, problems)
    if given.witnesses_needed > len(witnesses):
        message = f"`witnesses_needed` is {given.witnesses_needed}, and `witnesses` has {len(witnesses)}"
        problems.append(Problem(place_at(root, ("audit", "witnesses_needed")), message))
    if given.stop_h is not None and given.stop_h <= given.alarm_h:
        message = f"`stop_h` ({given.stop_h:g}) must exceed `alarm_h` ({given.alarm_h:g})"
        problems.append(Problem(place_at(root, ("audit", "stop_h"), key=True), message))
    if given.stop_h is not None and given.anchor is None and not given.witnesses_needed:
        message = "`stop_h` needs an `anchor` or witnesses: nothing would ever count as anchored"
        problems.append(Problem(place_at(root, ("audit", "stop_h"), key=True), message))
    return Audit(
        *keys, given.origin, None if given.anchor is None else folder / Path(given.anchor).expanduser(), trusted,
        witnesses, given.witnesses_needed, given.alarm_h, given.stop_h,
    )  # fmt: skip


def _verifiers(
    table: str, given: Mapping[str, str], algorithm: Algorithm, root: Table, problems: list[Problem]
) -> tuple[Verifier, ...]:
    """The public keys of a table; names in it are for people."""
    found: list[Verifier] = []
    for name, text in given.items():
        place = place_at(root, ("audit", table, name))
        try:
            verifier = Verifier.parse(text)
        except NoteError as exc:
            problems.append(Problem(place, f"`{shown(name)}`: {exc}", "connector audit keygen prints such a key"))
            continue
        if verifier.algorithm is not algorithm:
            message = f"`{shown(name)}`: a key of another kind is needed here"
            problems.append(Problem(place, message, "a witness's key is of type 4, the log's own of type 1"))
        found.append(verifier)
    return tuple(found)


def _party(name: str, model: _Party, dsn: Secret, folder: Path) -> Party:
    source = Source(
        engine=model.source.engine,
        dsn=dsn,
        capture=model.source.capture,
        slot=model.source.slot or f"sipol_{name}",
        publication=model.source.publication or f"sipol_{name}",
        diff_every_s=_diff_every_s(model.source),
        cursor=Rising(model.source.cursor.column, model.source.cursor.overlap) if model.source.cursor else None,
        allow_plaintext=model.source.allow_plaintext,
    )
    limits = Limits(**model.limits.model_dump())
    return Party(name, model.parpol_id, folder / model.mapping, source, model.jenis, limits)


def _diff_every_s(source: _Source) -> float:
    if source.cursor is not None:
        return source.cursor.diff_every_s
    return source.diff_every_s or (DIFF_EVERY_S if source.capture == "diff" else NET_DIFF_EVERY_S)


def _compares(source: _Source) -> bool:
    return source.capture in COMPARING or (source.capture == "stream" and source.engine in ("mariadb", "mysql"))


def _party_names(root: Table) -> tuple[str, ...]:
    parties = root.get("parties")
    return parties.keys() if isinstance(parties, Table) else ()


# ------------------------------------------------------------------------------------------------- problems


def _character_problems(root: Table) -> Iterator[Problem]:
    for leaf in walk(root):
        if not leaf.text.isprintable():
            yield Problem(leaf.place, "a control character in a value", "write the value on one line")


def _reference_problems(root: Table) -> Iterator[Problem]:
    """A `${...}` where none is looked up would be taken as the text itself."""
    allowed = {place_at(root, path) for path in _secret_paths(root)}
    for leaf in walk(root):
        if "${" in leaf.text and leaf.place not in allowed:
            yield Problem(leaf.place, "`${...}` is looked up for a dsn or a key only", "write the value itself")


def _secret_paths(root: Table) -> Iterator[tuple[str, ...]]:
    yield from (("staging", "dsn"), ("audit", "key"), ("audit", "previous_key"), ("digest", "key"))
    yield from (("parties", name, "source", "dsn") for name in _party_names(root))


def _name_problems(root: Table) -> Iterator[Problem]:
    for name in _party_names(root):
        if not re.fullmatch(PARTY_NAME, name):
            place = place_at(root, ("parties", name), key=True)
            hint = "a small letter, then up to 30 small letters, digits or _"
            yield Problem(place, f"`{shown(name)}` cannot be a party's name", hint)


def _rule_problems(model: _Config, root: Table) -> Iterator[Problem]:
    """What no single value shows."""
    if (model.staging.dsn is None) == (model.staging.embedded is None):
        yield Problem(place_at(root, ("staging",), key=True), "`staging` needs either `dsn` or `embedded`")
    owners: dict[int, str] = {}
    for name, party in model.parties.items():
        first = owners.setdefault(party.parpol_id, name)
        if first != name:
            message = f"`parpol_id` {party.parpol_id} is taken by the party `{shown(first)}`"
            yield Problem(place_at(root, ("parties", name, "parpol_id")), message, "each party has its own")
        yield from _source_rules(name, party, root)


def _source_rules(name: str, party: _Party, root: Table) -> Iterator[Problem]:
    engine, capture = party.source.engine, party.source.capture
    at = ("parties", name, "source")
    if engine not in CAPTURES:
        hint = f"it can follow: {', '.join(CAPTURES)}"
        yield Problem(place_at(root, (*at, "engine")), f"this version cannot follow `{engine}` yet", hint)
    elif capture not in CAPTURES[engine]:
        hint = f"for {engine} there is: {', '.join(CAPTURES[engine])}"
        yield Problem(place_at(root, (*at, "capture")), f"this version has no `{capture}` for {engine} yet", hint)
    if (party.source.cursor is not None) != (capture == "cursor"):
        needs = "needs" if capture == "cursor" else "does not take"
        hint = "cursor: {column: updated_at, diff_every_s: 600}; deletes are seen by the diff only"
        yield Problem(place_at(root, (*at, "capture")), f"`{capture}` {needs} `cursor`", hint)
    if party.source.diff_every_s is not None and not _compares(party.source):
        place = place_at(root, (*at, "diff_every_s"), key=True)
        yield Problem(
            place,
            f"`{capture}` compares nothing",
            f"`diff_every_s` is for {', '.join(COMPARING)}, and `stream` of mariadb",
        )
    if party.limits.lag_drop_mb <= party.limits.lag_warn_mb:
        place = place_at(root, ("parties", name, "limits", "lag_drop_mb"), key=True)
        message = f"`lag_drop_mb` ({party.limits.lag_drop_mb}) must exceed `lag_warn_mb` ({party.limits.lag_warn_mb})"
        yield Problem(place, message)


def _file_problems(parties: Mapping[str, Party], root: Table) -> Iterator[Problem]:
    for name, party in parties.items():
        if not party.mapping.is_file():
            hint = "the path is relative to the configuration's folder"
            yield Problem(place_at(root, ("parties", name, "mapping")), "there is no such mapping file", hint)


def _same_source_problems(parties: Mapping[str, Party], root: Table, secrets: _Secrets) -> Iterator[Problem]:
    """Two parties on one slot would take each other's signals away. Slot names are unique per server, not database."""
    seen: dict[tuple[str, ...], str] = {}
    for name, party in parties.items():
        found = secrets.text(party.source.dsn)
        if found is None:
            continue
        if party.source.engine != "postgresql":
            yield from _url_problems(name, party, found, root)
            continue
        place = place_at(root, ("parties", name, "source", "dsn"))
        try:
            parts = conninfo_to_dict(found)
        except psycopg.ProgrammingError:  # its message quotes the dsn
            hint = "postgresql://user@host:5432/database, or host=... dbname=... user=..."
            yield Problem(place, f"{party.source.dsn.reference} is not a PostgreSQL connection string", hint)
            continue
        server = tuple(str(parts.get(word, "")) for word in ("service", "host", "hostaddr"))
        first = seen.setdefault((*server, str(parts.get("port", "5432")), party.source.slot), name)
        if first != name:
            message = f"the slot `{party.source.slot}` on this server is already the party `{shown(first)}`'s"
            yield Problem(place, message, "each party has its own slot")


def _secured(dsn: Secret, engine: str, allow_plaintext: bool) -> Secret:
    return dsn if allow_plaintext else replace(dsn, engine=engine)


def _plaintext_problems(
    staging: Secret | None, parties: Mapping[str, Party], root: Table, secrets: _Secrets
) -> Iterator[Problem]:
    """A server over a network is verified, unless somebody has said that it need not be."""
    places = [("staging", "dsn"), *(("parties", name, "source", "dsn") for name in parties)]
    for path, dsn in zip(places, [staging, *(party.source.dsn for party in parties.values())], strict=True):
        found = dsn and secrets.text(dsn)
        weak = tls.weakness(dsn.engine, found) if dsn and found else ""
        if dsn and weak:
            message = f"{dsn.reference}: {weak} does not verify the server, and its host is not this machine"
            hint = (
                "sslmode=verify-full with sslrootcert=FILE (PostgreSQL) or ssl_ca=FILE (MariaDB); or, where the risk is"
            )
            yield Problem(place_at(root, path), message, f"{hint} accepted in writing, `allow_plaintext: true`")


def _url_problems(name: str, party: Party, dsn: str, root: Table) -> Iterator[Problem]:
    """Every engine but PostgreSQL is reached by a SQLAlchemy URL; it must be this engine's."""
    backend = dsn.partition(":")[0].partition("+")[0]
    if backend not in _BACKENDS.get(party.source.engine, ()):
        place = place_at(root, ("parties", name, "source", "dsn"))
        message = f"{party.source.dsn.reference} is not a URL of {party.source.engine}"
        yield Problem(place, message, "sqlite:////folder/file.db, mariadb://user@host:3306/database")


_BACKENDS: Mapping[str, tuple[str, ...]] = {
    "sqlite": ("sqlite",), "mariadb": ("mariadb", "mysql"), "mysql": ("mysql", "mariadb"), "mssql": ("mssql",),
    "oracle": ("oracle",),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------- secrets


@dataclass(frozen=True, slots=True)
class _Refusal:
    message: str
    hint: str = ""


class _Secrets:
    """Collects the references of one file and checks them in one go."""

    def __init__(self, root: Table, folder: Path, problems: list[Problem]) -> None:
        self._texts: dict[tuple[str, str], str] = {}
        self._root = root
        self._folder = folder
        self._problems = problems
        self._taken: list[tuple[Secret, Place]] = []

    def take(self, path: tuple[str, ...], *, literal: bool) -> Secret | None:
        """The secret at `path`; `literal` allows a dsn that carries no password."""
        text = _text_at(self._root, path)
        if text is None:
            return None
        place = place_at(self._root, path)
        secret = _secret(text, self._folder, literal)
        if isinstance(secret, _Refusal):
            self._problems.append(Problem(place, f"`{path[-1]}`: {secret.message}", secret.hint))
            return None
        self._taken.append((secret, place))
        return secret

    def check(self) -> None:
        """Look each secret up once."""
        for secret, place in self._taken:
            found = _look_up(secret)
            if isinstance(found, _Refusal):
                self._problems.append(Problem(place, found.message, found.hint))
            else:
                self._texts[secret.kind, secret.name] = found

    def text(self, secret: Secret) -> str | None:
        """What was looked up; None where nothing was, or it cannot be."""
        return self._texts.get((secret.kind, secret.name))


def _text_at(root: Table, path: tuple[str, ...]) -> str | None:
    node: Node | None = root
    for step in path:
        node = node.get(step) if isinstance(node, Table) else None
    return None if node is None or isinstance(node, Table) or not hasattr(node, "text") else node.text


def _secret(text: str, folder: Path, literal: bool) -> Secret | _Refusal:
    match = _REFERENCE.fullmatch(text)
    if match and match[1] == "env":
        if _VARIABLE.fullmatch(match[2]):
            return Secret("env", match[2])
        return _Refusal("that is no name of a variable", "${env:NAME}")
    if match:
        return Secret("file", str(folder / Path(match[2]).expanduser()))
    if "${" in text:
        return _Refusal("not a reference I know", "${env:NAME} or ${file:PATH}, and nothing around it")
    if not literal:
        return _Refusal("a key does not belong in this file", "${env:NAME} or ${file:PATH}")
    if not text:
        return _Refusal("empty", "${env:NAME}, ${file:PATH}, or a dsn without a password")
    if _PASSWORD.search(_unescaped(text)):
        return _Refusal("a password does not belong in this file", "move the whole dsn to ${env:NAME} or ${file:PATH}")
    return Secret.literal(text)


def _unescaped(text: str) -> str:
    """Percent signs undone, so that `pass%77ord=` does not slip through."""
    return re.sub(r"%([0-9A-Fa-f]{2})", lambda match: chr(int(match[1], 16)), text)


def _look_up(secret: Secret) -> str | _Refusal:
    match secret.kind:
        case "literal":
            found: str | _Refusal = secret.name
        case "env":
            hint = f"export {secret.name}=..."
            found = os.environ.get(secret.name, _Refusal(f"the variable {secret.name} is not set", hint))
        case "file":
            found = _read_file(Path(secret.name))
        case _:
            assert_never(secret.kind)
    if isinstance(found, str) and not found.strip():
        return _Refusal(f"{secret.reference} is empty")
    return found


def _read_file(path: Path) -> str | _Refusal:
    name = shown(str(path), 160)
    try:
        # Not blocking: opening a pipe that nobody writes to would hang the start.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            refusal = _file_refusal(status, name)
            content = b"" if refusal else file.read(SECRET_BYTES_MAX + 1)
    except FileNotFoundError:
        return _Refusal(f"there is no file {name}", "the path is relative to the configuration's folder")
    except OSError as exc:
        return _Refusal(f"the file {name} cannot be read ({os.strerror(exc.errno or 0)})")
    if refusal:
        return refusal
    if len(content) > SECRET_BYTES_MAX:
        return _Refusal(f"the file {name} is larger than {SECRET_BYTES_MAX} bytes")
    try:
        text = content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        return _Refusal(f"the file {name} is not UTF-8 text")
    return _Refusal(f"the file {name} holds a NUL character") if "\0" in text else text


def _file_refusal(status: os.stat_result, name: str) -> _Refusal | None:
    if not stat.S_ISREG(status.st_mode):
        return _Refusal(f"{name} is not a regular file")
    # Readable by the group is how services are run (root:connector 0640); readable or writable by others is a leak.
    if status.st_mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        return _Refusal(f"the file {name} is open to other users", f"chmod 600 {name}")
    return None


# ------------------------------------------------------------------------------------------------- pydantic's words


def _problem_of(details: ErrorDetails, root: Table) -> Problem:
    """One pydantic error in our words: it names the key, never the value."""
    path = details["loc"]
    key = shown(str(path[-1])) if path else "the configuration"
    context = details.get("ctx", {})
    kind = details["type"]
    if kind == "extra_forbidden":
        place = place_at(root, path, key=True)
        return Problem(place, f"unknown key `{key}`", closest(str(path[-1]), _known_keys(path)))
    if kind == "missing":
        return Problem(place_at(root, path[:-1], key=True), f"`{key}` is missing")
    say = _SAYINGS.get(kind)
    return Problem(place_at(root, path), f"`{key}` {say(context) if say else 'cannot be used (' + kind + ')'}")


def _at_least(context: Mapping[str, object]) -> str:
    return f"must be at least {context.get('ge')}"


def _at_most(context: Mapping[str, object]) -> str:
    return f"must be at most {context.get('le')}"


def _pattern_saying(context: Mapping[str, object]) -> str:
    if ":" in str(context.get("pattern")):
        return "must be HOST:PORT, 127.0.0.1:9187 for instance"
    return "must be 1 to 63 small letters, digits or _"


_SAYINGS: Mapping[str, Callable[[Mapping[str, object]], str]] = {
    "int_parsing": lambda _: "must be a whole number",
    "int_parsing_size": lambda _: "must be a whole number of a usual size",
    "int_from_float": lambda _: "must be a whole number",
    "int_type": lambda _: "must be a whole number",
    "float_parsing": lambda _: "must be a number",
    "float_type": lambda _: "must be a number",
    "bool_parsing": lambda _: "must be true or false",
    "finite_number": lambda _: "must be a number",
    "greater_than_equal": _at_least,
    "less_than_equal": _at_most,
    "string_type": lambda _: "must be text",
    "string_too_short": lambda _: "must not be empty",
    "string_pattern_mismatch": _pattern_saying,
    "literal_error": lambda context: f"must be one of {context.get('expected')}",
    "model_type": lambda _: "must be a table of keys",
    "model_attributes_type": lambda _: "must be a table of keys",
    "dict_type": lambda _: "must be a table of keys",
}


def _known_keys(path: tuple[str | int, ...]) -> tuple[str, ...]:
    """The keys there are beside the last step of `path`."""
    match path[:-1]:
        case ():
            model: type[_Model] = _Config
        case ("staging",):
            model = _Staging
        case ("audit",):
            model = _Audit
        case ("digest",):
            model = _Key
        case ("web",):
            model = _Web
        case ("jobs",):
            model = _Jobs
        case ("retention",):
            model = _Retention
        case ("parties", _):
            model = _Party
        case ("parties", _, "source"):
            model = _Source
        case ("parties", _, "source", "cursor"):
            model = _Rising
        case ("parties", _, "limits"):
            model = _Limits
        case _:
            return ()
    return tuple(model.model_fields)
