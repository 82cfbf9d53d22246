"""The demo's order of events: build, first copy, live changes, rest, comparison, figures."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg

from connector import config
from connector.app import compile_party
from connector.audit import log as audit_log
from connector.audit import verify as audit_verify
from connector.demo import gamma, kit, measure, oracle, people, territory
from connector.demo import party as parties
from connector.demo import site as sites
from connector.demo.alfa import Alfa
from connector.demo.beta import Beta
from connector.demo.delta import Delta
from connector.demo.gamma import Gamma
from connector.demo.measure import Latency
from connector.demo.oracle import Difference
from connector.demo.screen import Screen
from connector.demo.site import Daemon, PartySite, Site
from connector.demo.writer import Pace, Writer, Written, writing
from connector.errors import ConnectorError
from connector.mapping.program import Program

Connection = psycopg.Connection[tuple[Any, ...]]

# About 6 % of a party's people are not active, and its view shows the active ones: this gives over 50,000 in the view.
MEMBERS = 55_000
# Parties on other engines are smaller and quieter: they are here to be right, and share the machine's two cores.
SMALL_MEMBERS = 20_000
QUIET = 0.25
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

    server: str
    capture: str
    transactions: int
    moves: Mapping[str, int]
    flood_rows: int
    copy_s: float
    entities: Mapping[str, EntityResult]
    quarantine: Mapping[str, int]
    audit_entries: int


@dataclass(frozen=True, slots=True)
class Result:
    """The run. `rows_per_s` is the first copies of all parties together, from the first batch of any to the last.

    `latency_ms` is of parties whose log is followed: where views are compared it is by the schedule, and stands with
    the party. `skipped` says why a party did not play.
    """

    parties: Mapping[str, PartyResult]
    differing_rows: int
    audit_verified: bool
    latency_ms: Latency
    rows_per_s: float
    seconds: float
    skipped: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Player:
    """A party in play: where it is, who it is, how it is mapped."""

    site: PartySite
    party: parties.PartyOn[Any]
    programs: Mapping[str, Program]


def play(options: Options, screen: Screen) -> Result:
    """Run the whole demo.

    Raises:
        EnvironmentMissing: a server or package is missing.
        ConnectorError: the daemon ended, stopped an entity or did not get on.
    """
    begun = time.monotonic()
    screen.step("starting three PostgreSQL servers (staging, alfa, beta), a SQLite file (gamma), MariaDB (delta)")
    with sites.opened() as site:
        for name, why in site.skipped.items():
            screen.step(f"{name} does not play: {why}")
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
        latency_ms=Latency.of(
            value
            for player in players
            if player.site.capture != "diff"
            for values in waits[player.site.name].values()
            for value in values
        ),
        rows_per_s=round(copied / copy_s[EVERYBODY], 1),
        seconds=round(time.monotonic() - begun, 1),
        skipped=site.skipped,
    )


# ------------------------------------------------------------------------------------------------- build


KINDS: Mapping[str, Callable[..., parties.PartyOn[Any]]] = {
    "alfa": Alfa, "beta": Beta, "gamma": Gamma, "delta": Delta,
}  # fmt: skip


def _cast(site: Site, options: Options, screen: Screen) -> list[Player]:
    """Fill the parties and run each one's kit, as its DBA would."""
    configured = config.load(site.config)
    rng = random.Random(options.seed)
    land = territory.choose(options.seed, options.regencies)
    lists = people.words(options.seed)
    today = date.today()  # noqa: DTZ011 - ages of invented people
    players: list[Player] = []
    abroad: Sequence[people.Person] = ()
    for place in site.parties:
        members = options.members if place.capture == "pull" else min(options.members, SMALL_MEMBERS)
        screen.step(f"{place.name}: inventing {members} members in {len(land.regencies)} regencies")
        source = people.People(rng, lists, land.villages, today, abroad)
        party = KINDS[place.name](rng, land, source, today)
        persons = source.draw(members)
        abroad = persons
        with contextlib.closing(place.home.connect()) as owner:
            party.fill(owner, persons)
            owner.commit()
        settings = configured.party(place.name)
        kit.let_in(place.home, settings)
        players.append(Player(place, party, compile_party(settings)))
    screen.step("gamma: its BPS codes lead to regions through a bridge that the demo invents; nobody publishes one")
    _load_bridge(site, land)
    return players


def _load_bridge(site: Site, land: territory.Territory) -> None:
    into = "copy staging.ref_wilayah_bps (kode_bps, kode) from stdin"
    with psycopg.connect(site.staging_dsn) as staging, staging.cursor().copy(into) as rows:
        for row in gamma.bridge(land.villages).items():
            rows.write_row(row)


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
    """Let the parties work while the daemon follows."""
    screen.step(f"live changes for {options.seconds:g} s, {options.per_second:g} transactions/s at a PostgreSQL party")
    writers = [
        Writer(
            player.site.home, player.party, random.Random(options.seed + player.site.parpol_id), _pace(player, options)
        )
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


def _pace(player: Player, options: Options) -> Pace:
    share = 1.0 if player.site.capture == "pull" else QUIET
    return Pace(share * options.per_second, options.seconds, int(share * options.flood_rows))


def _rest(staging: Connection, players: Sequence[Player], daemon: Daemon) -> None:
    """Wait until staging covers everything that the parties committed."""
    covers = {
        player.site.name: Rounds(player) if player.site.capture == "diff" else Mark.set(player) for player in players
    }

    def look() -> Look:
        places: dict[str, int] = dict(
            staging.execute("select party, coalesce(position_ordinal, 0) from connector.source_offset").fetchall()
        )
        covered = {name: cover.covered(places.get(name, 0)) for name, cover in covers.items()}
        streaming = _streaming(staging, players)
        # Asked last: a rescan that ends parks what it did not meet and is streaming again, in one transaction.
        parked = staging.execute("select exists (select from connector.parked)").fetchone()
        return Look(all(covered.values()) and streaming and parked == (False,), places)

    _until(look, staging, daemon, "the rest of the changes")


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the party's log before one last transaction: a position past it covers all that came before."""

    place: int

    @classmethod
    def set(cls, player: Player) -> Mark:
        with contextlib.closing(player.site.home.connect()) as owner:
            place = player.site.home.place(owner)  # type: ignore[arg-type] # the owner is that home's own
            next(move for move in player.party.moves() if move.name == "nothing_visible_changed").run(owner)
            owner.commit()
        return cls(place)

    def covered(self, position: int) -> bool:
        return position > self.place


class Rounds:
    """Two compares that found something after the last commit: the second one saw every row after it.

    What the first one found may have been seen before. So that each finds something, the party changes a few rows.
    """

    WANTED = 2

    def __init__(self, player: Player) -> None:
        self._player = player
        self._seen: int | None = None
        self._rounds = -1

    def covered(self, position: int) -> bool:
        if self._rounds < self.WANTED and (self._seen is None or position > self._seen):
            self._seen = position
            self._rounds += 1
            with contextlib.closing(self._player.site.home.connect()) as owner:
                if self._rounds < self.WANTED:
                    self._player.party.flood(owner, 10)
                    owner.commit()
        return self._rounds >= self.WANTED


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
    return {name: player.site.home.count(program.view) for name, program in player.programs.items()}


def _waits(staging: Connection, player: Player, written: Mapping[str, Written]) -> dict[str, list[float]]:
    """How long the party's commits took to be in staging, by entity; where views are compared, at most."""
    name, capture = player.site.name, player.site.capture
    waited = measure.compared_ms if capture == "diff" else measure.latencies_ms
    return waited(written[name].commits, measure.batches(staging, name, capture))


def _party_result(
    staging: Connection, player: Player, written: Written, waits: Mapping[str, Sequence[float]], copy_s: float
) -> PartyResult:
    name = player.site.name
    view_rows = _view_rows(player)
    entities = {}
    with player.site.home.reading() as reader:
        for entity, counted in measure.counted(staging, name).items():
            entities[entity] = EntityResult(
                **counted.counts,
                latency_ms=Latency.of(waits.get(entity, ())),
                rows_per_s=counted.rows_per_s,
                view_rows=view_rows[entity],
                difference=oracle.differing_rows(staging, reader, player.programs[entity], player.site.parpol_id),
            )
    return PartyResult(
        server=player.site.server,
        capture=player.site.capture,
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
