"""The demo's order of events: build, first copy, live changes, rest, comparison, figures."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
from psycopg import sql

from connector import config
from connector.app import compile_party
from connector.audit import log as audit_log
from connector.audit import verify as audit_verify
from connector.capture.postgres.kit import kit_sql
from connector.demo import measure, oracle, people, territory
from connector.demo import party as parties
from connector.demo import site as sites
from connector.demo.alfa import Alfa
from connector.demo.beta import Beta
from connector.demo.measure import Latency
from connector.demo.oracle import Difference
from connector.demo.screen import Screen
from connector.demo.site import Daemon, PartySite, Site
from connector.demo.writer import Pace, Writer, Written, writing
from connector.errors import ConnectorError
from connector.mapping import document
from connector.mapping.program import Program
from connector.ops.kit import kit_request

Connection = psycopg.Connection[tuple[Any, ...]]

# About 6 % of a party's people are not active, and its view shows the active ones: this gives over 50,000 in the view.
MEMBERS = 55_000
SEED = 20_220_914
EVERYBODY = ""
LOOK_EVERY_S = 0.2
# So long nothing may move in staging before we say that the daemon does not get on.
STILL_SECONDS_MAX = 90.0


@dataclass(frozen=True, slots=True)
class Options:
    """`regencies` None is a territory that meets the law's shares; fewer make a quick run."""

    seconds: float = 30.0
    members: int = MEMBERS
    per_second: float = 100.0
    flood_rows: int = 5_000
    regencies: int | None = None
    seed: int = SEED


@dataclass(frozen=True, slots=True)
class EntityResult:
    """One entity of one party: the daemon's counts over the whole run, and what the comparison found."""

    signalled: int
    read: int
    inserted: int
    updated: int
    unchanged: int
    deleted: int
    quarantined: int
    latency_ms: Latency
    rows_per_s: float | None
    view_rows: int
    difference: Difference


@dataclass(frozen=True, slots=True)
class PartyResult:
    """One party: its server, what it committed while it was followed, and its entities."""

    server: int
    transactions: int
    moves: Mapping[str, int]
    flood_rows: int
    copy_s: float
    entities: Mapping[str, EntityResult]
    quarantine: Mapping[str, int]
    audit_entries: int


@dataclass(frozen=True, slots=True)
class Result:
    """The run. `rows_per_s` is the first copies of all parties together, from the first batch of any to the last."""

    parties: Mapping[str, PartyResult]
    differing_rows: int
    audit_verified: bool
    latency_ms: Latency
    rows_per_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Player:
    """A party in play: where it is, who it is, how it is mapped."""

    site: PartySite
    party: parties.Party
    programs: Mapping[str, Program]


def play(options: Options, screen: Screen) -> Result:
    """Run the whole demo.

    Raises:
        EnvironmentMissing: a server or package is missing.
        ConnectorError: the daemon ended, stopped an entity or did not get on.
    """
    begun = time.monotonic()
    screen.step("starting three PostgreSQL servers: staging, Partai Alfa, Partai Beta")
    with sites.opened() as site:
        players = _cast(site, options, screen)
        with psycopg.connect(site.staging_dsn, autocommit=True) as staging:
            with sites.running(site) as daemon:
                copied = _first_copy(staging, players, daemon, screen)
                copy_s = _copy_s(staging)
                written = _live(staging, players, daemon, options, screen)
                screen.step("the parties are silent; waiting until all of it is in staging")
                _rest(staging, players, daemon)
                if (code := daemon.stop()) != 0:
                    raise ConnectorError(f"the daemon did not end well (exit code {code})", hint=daemon.last_words())
            screen.step("comparing every row of every view with staging")
            waits = {player.site.name: _waits(staging, player, written) for player in players}
            found = {
                name: _party_result(staging, player, written[name], waits[name], copy_s[name])
                for player in players
                for name in (player.site.name,)
            }
            screen.step("verifying the audit log")
            verdict = audit_verify.verify(audit_log.read(staging), audit_log.heads(staging))
    return Result(
        parties=found,
        differing_rows=sum(entity.difference.total for one in found.values() for entity in one.entities.values()),
        audit_verified=not verdict.breaches and all(one.audit_entries for one in found.values()),
        latency_ms=Latency.of(value for one in waits.values() for values in one.values() for value in values),
        rows_per_s=round(copied / copy_s[EVERYBODY], 1),
        seconds=round(time.monotonic() - begun, 1),
    )


# ------------------------------------------------------------------------------------------------- build


def _cast(site: Site, options: Options, screen: Screen) -> list[Player]:
    """Fill both parties and run each one's kit, as its DBA would."""
    configured = config.load(site.config)
    rng = random.Random(options.seed)
    land = territory.choose(options.seed, options.regencies)
    lists = people.words(options.seed)
    today = date.today()  # noqa: DTZ011 - ages of invented people
    players: list[Player] = []
    abroad: Sequence[people.Person] = ()
    kinds: tuple[Callable[..., parties.Party], ...] = (Alfa, Beta)
    for place, kind in zip(site.parties, kinds, strict=True):
        screen.step(f"{place.name}: inventing {options.members} members in {len(land.regencies)} regencies")
        source = people.People(rng, lists, land.villages, today, abroad)
        party = kind(rng, land, source, today)
        persons = source.draw(options.members)
        abroad = persons
        with sites.connect_owner(place) as owner:
            party.fill(owner, persons)
        settings = configured.party(place.name)
        request = kit_request(settings, document.load(settings.mapping), "pull")
        with sites.connect_owner(place, autocommit=True) as owner:
            owner.execute("vacuum analyze")
            owner.execute(kit_sql(request).encode())
        players.append(Player(place, party, compile_party(settings)))
    return players


# ------------------------------------------------------------------------------------------------- follow


def _first_copy(staging: Connection, players: Sequence[Player], daemon: Daemon, screen: Screen) -> int:
    """Watch the first copy to its end; give its rows."""
    totals = {player.site.name: sum(_view_rows(player).values()) for player in players}
    screen.step(f"first copy: {sum(totals.values())} rows")
    begun = dict.fromkeys(totals, time.monotonic())

    def look() -> Look:
        rows: dict[str, int] = dict(
            staging.execute("select party, sum(copy_rows)::bigint from connector.entity group by party").fetchall()
        )
        now = time.monotonic()
        for name, total in totals.items():
            copied = rows.get(name, 0)
            if not copied:
                begun[name] = now  # the daemon is still starting
            screen.bar(
                f"{name} first copy", copied, total, f"{copied / max(now - begun[name], LOOK_EVERY_S):,.0f} rows/s"
            )
        return Look(_streaming(staging, players), rows)

    _until(look, staging, daemon, "the first copy")
    return sum(totals.values())


def _live(
    staging: Connection, players: Sequence[Player], daemon: Daemon, options: Options, screen: Screen
) -> dict[str, Written]:
    """Let both parties work while the daemon follows."""
    screen.step(f"live changes for {options.seconds:g} s, about {options.per_second:g} transactions/s at each party")
    pace = Pace(options.per_second, options.seconds, options.flood_rows)
    writers = [
        Writer(player.site.owner_dsn, player.party, random.Random(options.seed + player.site.parpol_id), pace)
        for player in players
    ]
    begun = time.monotonic()

    def look() -> Look:
        elapsed = min(time.monotonic() - begun, options.seconds)
        for writer in writers:
            screen.bar(
                f"{writer.party} live", int(elapsed), int(options.seconds), f"{writer.transactions} transactions"
            )
        return Look(not any(writer.running for writer in writers), [writer.transactions for writer in writers])

    with writing(writers):
        _until(look, staging, daemon, "the live changes")
        return {writer.party: writer.join() for writer in writers}


def _rest(staging: Connection, players: Sequence[Player], daemon: Daemon) -> None:
    """Wait until staging covers everything that the parties committed."""
    marks = {player.site.name: _mark(player) for player in players}

    def look() -> Look:
        places: dict[str, int] = dict(
            staging.execute("select party, coalesce(position_ordinal, 0) from connector.source_offset").fetchall()
        )
        covered = all(places.get(name, 0) > mark for name, mark in marks.items())
        streaming = _streaming(staging, players)
        # Asked last: a rescan that ends parks what it did not meet and is streaming again, in one transaction.
        parked = staging.execute("select exists (select from connector.parked)").fetchone()
        return Look(covered and streaming and parked == (False,), places)

    _until(look, staging, daemon, "the rest of the changes")


def _mark(player: Player) -> int:
    """A place in the party's log before one last transaction: a position past it covers all that came before."""
    with sites.connect_owner(player.site) as owner:
        row = owner.execute("select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::text").fetchone()
        next(move for move in player.party.moves() if move.name == "nothing_visible_changed").run(owner)
    assert row is not None
    return int(row[0])


def _streaming(staging: Connection, players: Sequence[Player]) -> bool:
    """Whether every mapped entity is followed live.

    Raises:
        ConnectorError: one was stopped and waits for an operator, whom the demo does not have.
    """
    states = {
        (party, entity): (state, reason, hint)
        for party, entity, state, reason, hint in staging.execute(
            "select party, entity, case when rescan_since is null then state else 'rescan' end, reason, hint"
            "  from connector.entity"
        )
    }
    for (party, entity), (state, reason, hint) in states.items():
        if state in ("held", "paused", "needs_resync"):
            raise ConnectorError(f"the entity is {state}: {reason}", hint=hint or "", place=f"{party}/{entity}")
    wanted = [(player.site.name, entity) for player in players for entity in player.programs]
    return all(states.get(one, ("",))[0] == "streaming" for one in wanted)


@dataclass(frozen=True, slots=True)
class Look:
    """Whether it is done, and how far it is: anything that changes while the daemon gets on."""

    done: bool
    progress: object


def _until(look: Callable[[], Look], staging: Connection, daemon: Daemon, what: str) -> None:
    """Look again and again until it is done.

    Raises:
        ConnectorError: the daemon ended, gave a party up, or nothing moved for STILL_SECONDS_MAX.
    """
    pause = threading.Event()
    before: object = None
    moved = time.monotonic()
    while not (seen := look()).done:
        daemon.check()
        trouble = {party: (state, error or "") for party, state, error in staging.execute(_TROUBLE)}
        for party, (state, error) in trouble.items():
            if state == "failed":
                raise ConnectorError(f"the daemon gave up: {error}", hint=daemon.last_words(), place=party)
        if seen.progress != before:
            before, moved = seen.progress, time.monotonic()
        if time.monotonic() - moved > STILL_SECONDS_MAX:
            said = "; ".join(f"{party} {state}: {error}" for party, (state, error) in trouble.items())
            raise ConnectorError(
                f"nothing has moved for {STILL_SECONDS_MAX:g} s in {what}", hint=said or daemon.last_words()
            )
        pause.wait(LOOK_EVERY_S)


_TROUBLE = "select party, state, error from connector.worker where state in ('failed', 'retrying', 'needs_resync')"


# ------------------------------------------------------------------------------------------------- account


def _view_rows(player: Player) -> dict[str, int]:
    with sites.connect_owner(player.site) as owner:
        counts = {}
        for name, program in player.programs.items():
            query = sql.SQL("select count(*) from {}").format(sql.Identifier(*program.view))
            row = owner.execute(query).fetchone()
            assert row is not None
            counts[name] = int(row[0])
    return counts


def _waits(staging: Connection, player: Player, written: Mapping[str, Written]) -> dict[str, list[float]]:
    """How long the party's commits took to be in staging, by entity."""
    name = player.site.name
    return measure.latencies_ms(written[name].commits, measure.batches(staging, name))


def _party_result(
    staging: Connection, player: Player, written: Written, waits: Mapping[str, Sequence[float]], copy_s: float
) -> PartyResult:
    name = player.site.name
    view_rows = _view_rows(player)
    entities = {}
    with psycopg.connect(player.site.reader_dsn, autocommit=True) as reader:
        for entity, counted in measure.counted(staging, name).items():
            entities[entity] = EntityResult(
                **counted.counts,
                latency_ms=Latency.of(waits.get(entity, ())),
                rows_per_s=counted.rows_per_s,
                view_rows=view_rows[entity],
                difference=oracle.differing_rows(staging, reader, player.programs[entity], player.site.parpol_id),
            )
    return PartyResult(
        server=player.site.major,
        transactions=written.transactions,
        moves=written.moves,
        flood_rows=written.flood_rows,
        copy_s=copy_s,
        entities=entities,
        quarantine=_quarantine(staging, player.site.parpol_id),
        audit_entries=_audit_entries(staging, name),
    )


def _copy_s(staging: Connection) -> dict[str, float]:
    """Seconds from the first batch of a first copy to the last, by party, and of all together. Only copies so far."""
    rows = staging.execute(
        "select coalesce(party, %s), extract(epoch from max(ended_at) - min(started_at))::float8"
        "  from staging.sync_batch where kind = 'copy' group by rollup (party)",
        (EVERYBODY,),
    )
    return {party: round(seconds, 2) for party, seconds in rows}


def _quarantine(staging: Connection, parpol_id: int) -> dict[str, int]:
    """Refused rows by entity and reason, the most frequent first."""
    rows = staging.execute(
        "select entity || ' ' || reason, count(*) from staging.karantina, unnest(reasons) as reason"
        " where parpol_id = %s group by 1 order by 2 desc, 1",
        (parpol_id,),
    )
    return dict(rows.fetchall())


def _audit_entries(staging: Connection, party: str) -> int:
    row = staging.execute("select count(*) from audit.entry where party = %s", (party,)).fetchone()
    assert row is not None
    return int(row[0])
