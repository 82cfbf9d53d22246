"""connector.yaml, read and checked whole: after `load` nobody re-validates.

All problems are reported at once, each with `file:line:column`. pydantic stays inside this module. No sockets, no
logging.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from connector import schedule, tls
from connector.audit.note import Algorithm, NoteError, Verifier
from connector.credentials import Secret, Secrets
from connector.errors import ConfigError
from connector.settings import (
    CAPTURES,
    COMPARING,
    CURSOR_OVERLAP,
    DIFF_EVERY_S,
    JOB_SCHEDULES,
    NET_DIFF_EVERY_S,
    PARTY_NAME,
    SLOT_NAME,
    Audit,
    Config,
    Digest,
    Jobs,
    Limits,
    Party,
    Retention,
    Rising,
    Source,
    Staging,
    Web,
)
from connector.yamlpos import Problem, Table, closest, in_order, place_at, plain, read, shown, walk

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
    secrets = Secrets(root, path.parent, problems)
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


def _same_source_problems(parties: Mapping[str, Party], root: Table, secrets: Secrets) -> Iterator[Problem]:
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
    staging: Secret | None, parties: Mapping[str, Party], root: Table, secrets: Secrets
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
