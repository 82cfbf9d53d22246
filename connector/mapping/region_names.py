"""Regions by name: from the top down, each distinct name of a batch looked up once.

A name means something only under its parent. What is not in the list is refused, and so is a name that means two
regions. Pure text, as all of the mapping stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from connector.mapping import rules
from connector.mapping.sheet import Sheet

# The provinces that were cut out of another: a party that writes the old one still means a region that exists once.
SPLIT_PROVINCES = {"91": ("91", "93", "94", "95"), "92": ("92", "96")}


@dataclass(frozen=True, slots=True)
class Place:
    """SQL of a resolved region's codes (null where not resolved), and of what was found on the way.

    `has_` are conditions: cheaper than to work a code out and compare it with null.
    """

    province: str
    regency: str
    district: str
    village: str
    has_regency: str
    has_district: str
    has_village: str
    source: str  # as the party sent it
    unsent: str  # condition: nothing was sent
    level: str  # 1 to 4: how deep what was sent reaches
    ambiguous: str
    by_name: bool
    former: str  # the code sent is no longer in force


def by_names(sheet: Sheet, names: rules.Names, column: str, inputs: Mapping[str, str]) -> Place:
    """Resolve names to codes: each distinct combination of a batch once, then joined to its rows.

    A level at a time: a regency's name is looked up once for a batch, not once for each village in it, and so is a
    district's, whatever spellings of its regency stand beside it.
    """
    given = [inputs[name] for name in (names.province, names.city, names.district, names.village) if name is not None]
    # A missing name is an empty one: it finds nothing, and an equality can still join on it.
    cells = [f"coalesce({cell}, '')" for cell in given]
    base = f"tempat_{column}"
    read = ", ".join(f"{cell} as {part}" for cell, part in zip(cells, _PARTS, strict=False))
    last = sheet.table(base, f"select distinct {read}\nfrom inbox")
    for level in _LEVELS[: len(cells)]:
        sheet.table(f"{base}_{level.code}", level.look_up.format(below=last, base=base))
        last = sheet.table(f"{last}_", level.carry.format(below=last, base=base))
    keys = " and ".join(f"{base}_j.{part} = {cell}" for part, cell in zip(_PARTS, cells, strict=False))
    found = [f"v{depth}_{column}" for depth in range(1, len(cells) + 1)]
    columns = {name: f"{base}_j.{level.code}" for name, level in zip(found, _LEVELS, strict=False)}
    columns[f"ambigu_{column}"] = f"{base}_j.ambigu" if len(cells) > 1 else "false"
    sheet.join(last, f"{base}_j", keys, columns, early=True)
    province, regency, district, village = (*found, *("null::text" for _ in range(4 - len(found))))
    return Place(
        province=province,
        regency=regency,
        district=district,
        village=village,
        has_regency=f"{regency} is not null",
        has_district=f"{district} is not null",
        has_village=f"{village} is not null",
        source=sheet.let(f"sent_{column}", f"nullif(concat_ws(' / ', {', '.join(given)}), '')"),
        unsent=f"coalesce({', '.join(given)}) is null",
        level=str(len(cells)),
        ambiguous=f"ambigu_{column}",
        by_name=True,
        former="false",
    )


_PARTS = ("a", "b", "c", "d")


@dataclass(frozen=True, slots=True)
class _Level:
    """How a level is looked up, and how its code is carried to the combinations of names.

    `{below}` stands for the table of combinations so far, `{base}` for the name that all tables begin with. The joins
    are left joins although each finds its row: these tables have no statistics, of inner joins the planner expects one
    row and then loops, and expecting too many rows is the cheaper error.
    """

    code: str
    look_up: str
    carry: str


# `staging.nama_wilayah` brings a name to one spelling and takes the type word of its level off. Most names need no more
# than upper case, which can be told at a quarter of its cost; `u` is the name in upper case.
_TYPE_WORDS = {
    1: ("PROVINSI", "PROPINSI", "PROV"),
    2: ("KABUPATEN", "KAB", "KOTAMADYA", "KOTA", "KODYA"),
    3: ("KECAMATAN", "KEC", "DISTRIK"),
    4: ("KELURAHAN", "KEL", "DESA"),
}


def _spelled(name: str, level: int) -> str:
    typed = " or ".join(f"u >= '{word} ' and u < '{word}!'" for word in _TYPE_WORDS[level])
    odd = f"(' ' || u || ' ') ~ '[^A-Z ]|  ' or {typed}"
    # Back to the default collation: an index of another one would not be used.
    return f'case when {odd} then staging.nama_wilayah({name}, {level}) else u end collate "default" as nama'


def _alias(length: int, under: str) -> str:
    """A name without a match is sought among the aliases: former names and short forms."""
    return (
        "(select case when count(*) = 1 then min(l.kode) end from staging.ref_wilayah_alias l"
        f" where l.nama_norm = n.nama and octet_length(l.kode) = {length}{under})"
    )


def _under(parent: str, name: str, code: str, level: int) -> _Level:
    """A level whose names are looked up under their parent's code."""
    length = {3: 8, 4: 13}[level]
    alias = _alias(length, f" and left(l.kode, {length - (3 if level == 3 else 5)}) = n.{parent}")
    look_up = f"""
select n.{parent}, n.{name}, coalesce(w.kode, {alias}) as {code}
from (select {parent}, {name}, {_spelled(name, level)}
      from (select {parent}, {name}, upper({name} collate "C") as u
            from (select distinct {parent}, {name} from {{below}}) x offset 0) y offset 0) n
left join staging.ref_wilayah w on w.induk = n.{parent} and w.nama_norm = n.nama and w.nama_tunggal"""
    carry = f"""
select s.*, t.{code}
from {{below}} s left join {{base}}_{code} t on t.{parent} = s.{parent} and t.{name} = s.{name}"""
    return _Level(code, look_up.strip(), carry.strip())


_PROVINCE = _Level(
    "prov",
    f"""
select n.a, coalesce(w.kode, {_alias(2, "")}) as prov
from (select a, {_spelled("a", 1)}
      from (select a, upper(a collate "C") as u from (select distinct a from {{below}}) x offset 0) y offset 0) n
left join staging.ref_wilayah w on w.induk is null and w.nama_norm = n.nama and w.nama_tunggal
""".strip(),
    "select s.*, t.prov\nfrom {below} s left join {base}_prov t on t.a = s.a",
)

_split = " ".join(
    f"when '{old}' then array[{', '.join(repr(code) for code in new)}]" for old, new in SPLIT_PROVINCES.items()
)

# A bare name that a kabupaten and a kota share counts two.
_REGENCY = _Level(
    "kab",
    f"""
select n.prov, n.b, w.banyak > 1 as ambigu,
       case w.banyak when 1 then w.kab when 0 then {_alias(5, " and left(l.kode, 2) = n.prov")} end as kab
from (select prov, b, {_spelled("b", 2)}, staging.jenis_kabkota(b) as jenis
      from (select prov, b, upper(b collate "C") as u
            from (select distinct prov, b from {{below}}) x offset 0) y offset 0) n
left join lateral (
  select min(r.kode) as kab, count(*) as banyak
  from staging.ref_wilayah r
  where r.induk = any (case n.prov {_split} else array[n.prov] end)
    and r.nama_norm = n.nama and (n.jenis is null or r.jenis = n.jenis)
) w on true
""".strip(),
    "select s.*, t.kab, coalesce(t.ambigu, false) as ambigu\n"
    "from {below} s left join {base}_kab t on t.prov = s.prov and t.b = s.b",
)

_LEVELS = (_PROVINCE, _REGENCY, _under("kab", "c", "kec", 3), _under("kec", "d", "kel", 4))
