"""Synthetic people for the demo's parties: names from Faker's id_ID lists, NIKs that agree with birth, sex and region.

No person of this world: every part is drawn at random from a seed, so a run can be repeated. No database, no clock.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from connector.demo.territory import Village
from connector.errors import EnvironmentMissing

# What Sipol's machine flagged among 6,681 members of 24 parties in one city in 2022 (KPU Bukittinggi): rows that stand
# in an identical group 1,721, potentially duplicate 32, also in another party 598, NIK findings 1,279, occupation 2.
IDENTICAL_SHARE = 1721 / 6681
POTENTIAL_SHARE = 32 / 6681
EXTERNAL_SHARE = 598 / 6681
NIK_FINDING_SHARE = 1279 / 6681
BARRED_JOB_SHARE = 2 / 6681

# Old regency codes stand in NIKs for life; 91.16 left the list when Papua was divided.
OLD_DISTRICT = "911603"
ONE_WORD_SHARE = 0.12
POOL_DRAWS = 4000
ADULT_DAYS = 17 * 366
OLDEST_DAYS = 78 * 365
# SIAK codes with the weight of each among members; the barred ones (5 civil servant, 6 army, 7 police) come apart.
JOBS = {88: 22, 9: 20, 2: 18, 15: 14, 84: 6, 3: 5, 11: 4, 19: 4, 1: 3, 65: 2, 81: 2, 35: 1, 26: 1, 30: 1, 72: 1, 67: 1}
BARRED_JOBS = (5, 6, 7)
UNUSUAL_NAMES = ("NUR’AINI", "MA’RUF", "JOSÉ", "ANDRÉ", "RENÉ", "ZAKIYYAH Č")
UNUSUAL_SHARE = 0.003


@dataclass(frozen=True, slots=True)
class Person:
    """One member as the world knows them; what a party's database makes of it is the party's affair."""

    nik: str
    first: str
    last: str | None
    sex: str  # L or P
    birth: date
    birthplace: str
    marital: int  # SIAK: 1 single, 2 married, 3 divorced, 4 widowed
    job: int  # SIAK code
    street: str
    rt: int
    rw: int
    village: Village

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}" if self.last else self.first


@dataclass(frozen=True, slots=True)
class Words:
    """Lists to draw from, made once: Faker gives thousands of names a second, and we need them faster."""

    first: dict[str, tuple[str, ...]]
    last: dict[str, tuple[str, ...]]
    streets: tuple[str, ...]
    cities: tuple[str, ...]


def words(seed: int) -> Words:
    """Draw the lists from Faker.

    Raises:
        EnvironmentMissing: the package Faker is not installed.
    """
    try:
        from faker import Faker
    except ImportError as exc:
        raise EnvironmentMissing("the demo needs the package Faker", hint="pip install faker") from exc
    fake = Faker("id_ID")
    fake.seed_instance(seed)

    def pool(draw: object) -> tuple[str, ...]:
        assert callable(draw)
        return tuple(sorted({str(draw()) for _ in range(POOL_DRAWS)}))

    return Words(
        first={"L": pool(fake.first_name_male), "P": pool(fake.first_name_female)},
        last={"L": pool(fake.last_name_male), "P": pool(fake.last_name_female)},
        streets=pool(fake.street_name),
        cities=pool(fake.city_name),
    )


def make_nik(district: str, birth: date, sex: str, serial: int) -> str:
    """16 digits: six of the district of first issue, day (women + 40), month, year, serial."""
    day = birth.day + (40 if sex == "P" else 0)
    return f"{district}{day:02}{birth.month:02}{birth.year % 100:02}{serial:04}"


class People:
    """An endless source of persons of one party, with the duplicates that real parties send.

    `abroad` are persons of another party, some of whom joined this one too.
    """

    def __init__(
        self, rng: random.Random, lists: Words, villages: Sequence[Village], today: date, abroad: Sequence[Person] = ()
    ) -> None:
        self._rng = rng
        self._words = lists
        self._villages = villages
        self._today = today
        self._abroad = abroad
        self._jobs = rng.choices(tuple(JOBS), weights=tuple(JOBS.values()), k=10_000)
        self._used: set[str] = set()

    def fresh(self) -> Person:
        """A person of whom this party has no row yet."""
        rng = self._rng
        sex = "P" if rng.random() < 0.46 else "L"
        birth = self._today - timedelta(days=ADULT_DAYS + int(rng.random() * (OLDEST_DAYS - ADULT_DAYS)))
        village = rng.choice(self._villages)
        first, last = self._name(sex)
        return Person(
            nik=self._nik(village, birth, sex),
            first=first,
            last=last,
            sex=sex,
            birth=birth,
            birthplace=rng.choice(self._words.cities),
            marital=1 if (self._today - birth).days < 25 * 365 else rng.choices((1, 2, 3, 4), (12, 80, 3, 5))[0],
            job=rng.choice(BARRED_JOBS) if rng.random() < BARRED_JOB_SHARE else rng.choice(self._jobs),
            street=f"{rng.choice(self._words.streets)} No. {rng.randint(1, 250)}",
            rt=rng.randint(1, 12),
            rw=rng.randint(1, 15),
            village=village,
        )

    def draw(self, count: int) -> list[Person]:
        """`count` rows of a membership list: fresh persons, identical and near copies, members of another party."""
        rng = self._rng
        rows: list[Person] = []
        originals: list[Person] = []
        # A copy puts two rows into an identical group, itself and its original, so it needs half the share.
        identical = IDENTICAL_SHARE / 2
        while len(rows) < count:
            luck = rng.random()
            if originals and luck < identical:
                rows.append(originals.pop(rng.randrange(len(originals))))
                continue
            if originals and luck < identical + POTENTIAL_SHARE:
                person = self._near_copy(rng.choice(originals))
            elif self._abroad and luck < identical + POTENTIAL_SHARE + EXTERNAL_SHARE:
                person = rng.choice(self._abroad)
            else:
                person = self.fresh()
                originals.append(person)
            rows.append(person)
        return rows

    def _name(self, sex: str) -> tuple[str, str | None]:
        rng = self._rng
        first = rng.choice(self._words.first[sex]).upper()
        if rng.random() < ONE_WORD_SHARE:
            return first, None
        if rng.random() < UNUSUAL_SHARE:
            return first, rng.choice(UNUSUAL_NAMES)
        if rng.random() < 0.3:
            first = f"{first} {rng.choice(self._words.first[sex]).upper()}"
        return first, rng.choice(self._words.last[sex]).upper()

    def _nik(self, village: Village, birth: date, sex: str) -> str:
        """Right in structure always; in NIK_FINDING_SHARE of cases it disagrees with birth, sex or today's regions."""
        rng = self._rng
        district = village.plain[:6]
        luck = rng.random()
        if luck < NIK_FINDING_SHARE / 3:
            birth = birth - timedelta(days=rng.randint(1, 700))
        elif luck < NIK_FINDING_SHARE * 2 / 3:
            sex = "L" if sex == "P" else "P"
        elif luck < NIK_FINDING_SHARE:
            district = OLD_DISTRICT
        elif luck > 0.9:  # moved since the first issue: normal, no finding
            district = rng.choice(self._villages).plain[:6]
        while True:
            nik = make_nik(district, birth, sex, rng.randint(1, 9999))
            if nik not in self._used:
                self._used.add(nik)
                return nik

    def _near_copy(self, person: Person) -> Person:
        if self._rng.random() < 0.5:
            return replace(person, birth=person.birth + timedelta(days=1))
        return replace(person, nik=self._nik(person.village, person.birth, person.sex))


def broken_niks(nik: str) -> Iterator[str | None]:
    """What happens to a NIK on its way, worst first: a spreadsheet, a lost digit, serial 0000, month 13, nothing."""
    mantissa = int(nik[:6]) / 100_000
    yield f"{mantissa:.5f}E+15"
    yield nik[:-1]
    yield nik[:12] + "0000"
    yield nik[:8] + "13" + nik[10:]
    yield None
