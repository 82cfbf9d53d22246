"""Regions: a party's code or names to Kemendagri codes, through staging's reference tables.

A region is looked up, never computed: what is not in the list is refused, and a name that means two regions is refused too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from connector.mapping import rules
from connector.mapping.cells import Cell, Fault, without_blank
from connector.mapping.checks import Checked
from connector.mapping.rules import Rule
from connector.mapping.sheet import Sheet

# The provinces that were cut out of another: a party that writes the old one still means a region that exists once.
SPLIT_PROVINCES = {"91": ("91", "93", "94", "95"), "92": ("92", "96")}


@dataclass(frozen=True, slots=True)
class Place:
    """SQL names of a resolved region's codes (null where not resolved), and of what was found on the way."""

    province: str
    regency: str
    district: str
    village: str
    source: str  # as the party sent it; null when nothing was sent
    level: str  # 1 to 4: how deep what was sent reaches
    ambiguous: str
    former: str  # the code sent is no longer in force


def place(sheet: Sheet, rule: Rule, made: Cell, inputs: Mapping[str, str]) -> Place:
    """Resolve a rule's region; `made` is its cell after the text steps."""
    if isinstance(rule.source, rules.Names):
        return _by_names(sheet, rule.source, rule.column, inputs)
    text = sheet.let(f"c_{rule.column}", made.text)
    if any(isinstance(step, rules.Region) and step.system == "bps" for step in rule.steps):
        alias = f"bps_{rule.column}"
        found = f"p_{rule.column}"
        sheet.join("staging.ref_wilayah_bps", alias, f"{alias}.kode_bps = {text}", [(found, f"{alias}.kode")])
        return _by_code(sheet, rule.column, text, found)
    return _by_code(sheet, rule.column, text, text)


def member_columns(found: Place) -> tuple[tuple[str, str, tuple[Fault, ...]], ...]:
    """The columns a member's region fills, each with its value and faults."""
    unknown = f"{found.district} is null"
    regency_faults = (
        (f"{found.source} is null", "REQUIRED"),
        (f"{unknown} and {found.ambiguous}", "REGION_AMBIGUOUS"),
        (f"{unknown} and {found.regency} is null", "REGION_UNKNOWN"),
    )
    district_faults = (
        (f"{unknown} and {found.regency} is not null and {found.level} < 3", "REGION_LEVEL"),
        (f"{unknown} and {found.regency} is not null", "REGION_UNKNOWN"),
    )
    return (
        ("kode_kabkota", found.regency, regency_faults),
        ("kode_kecamatan", found.district, district_faults),
        ("kode_kelurahan", found.village, ()),
        ("kode_wilayah_sumber", found.source, ()),
    )


def member_notes(found: Place) -> tuple[Fault, ...]:
    return (
        (f"{found.village} is null and {found.level} = 4 and {found.district} is not null", "KELURAHAN_TIDAK_DIKENAL"),
        (found.former, "WILAYAH_LAMA"),
    )


def of_level(sheet: Sheet, found: Place, column: str, tingkat: str) -> Checked:
    """`kode_wilayah`: the code at the level that `tingkat` says; none for PUSAT."""
    arms = (
        f"when 'PROVINSI' then {found.province} when 'KABKOTA' then {found.regency} when 'KECAMATAN' then {found.district}"
    )
    value = sheet.let(f"v_{column}", f"case {tingkat} {arms} end")
    depth = f"case {tingkat} when 'PROVINSI' then 1 when 'KABKOTA' then 2 when 'KECAMATAN' then 3 end"
    below = f"{tingkat} <> 'PUSAT'"
    missing = f"{below} and {value} is null"
    faults = (
        (f"{missing} and {found.source} is null", "REQUIRED"),
        (f"{missing} and {found.ambiguous}", "REGION_AMBIGUOUS"),
        (f"{missing} and {found.province} is not null and {found.level} < {depth}", "REGION_LEVEL"),
        (missing, "REGION_UNKNOWN"),
        (f"{below} and {found.level} > {depth}", "REGION_LEVEL") if found.level.startswith("g_") else ("false", "REGION_LEVEL"),
    )
    return Checked(value, "false", faults, ((f"{below} and {found.former}", "WILAYAH_LAMA"),))


def village(sheet: Sheet, found: Place, column: str) -> Checked:
    """`kode_kelurahan` of an office: a village or nothing; an unknown one is a finding."""
    value = sheet.let(f"v_{column}", found.village)
    notes = (
        (f"{value} is null and {found.source} is not null", "KELURAHAN_TIDAK_DIKENAL"),
        (found.former, "WILAYAH_LAMA"),
    )
    return Checked(value, f"{value} is null", (), notes)


# ------------------------------------------------------------------------------------------------- by code


def _by_code(sheet: Sheet, column: str, sent: str, code: str) -> Place:
    """A code of 2, 4, 6 or 10 digits, with its dots or without any."""
    plain = sheet.let(
        f"r_{column}",
        f"case octet_length({code}) when 10 then {code} when 6 then {code} when 4 then {code} when 2 then {code}"
        f" when 13 then case when {code} like '__.__.__.____' then replace({code}, '.', '') end"
        f" when 8 then case when {code} like '__.__.__' then replace({code}, '.', '') end"
        f" when 5 then case when {code} like '__.__' then replace({code}, '.', '') end end",
    )
    alias = f"ref_{column}"
    exact, parent, level, other = f"ek_{column}", f"ei_{column}", f"el_{column}", f"f_{column}"
    # What follows the join runs only for a code that is not in the list: a former one, or a village the list does not know.
    dotted = f"regexp_replace({plain}, '^(..)(..)?(..)?(....)?$', '\\1.\\2.\\3.\\4')"
    former = f"(select lama.kode_baru from staging.ref_wilayah_lama lama where lama.kode_lama = rtrim({dotted}, '.'))"
    above = (
        f"(select atas.kode from staging.ref_wilayah atas where atas.kode_polos = left({plain}, 6)),"
        f" (select lama.kode_baru from staging.ref_wilayah_lama lama"
        f" where lama.kode_lama = left({plain}, 2) || '.' || substr({plain}, 3, 2) || '.' || substr({plain}, 5, 2))"
    )
    seek = f"case when octet_length({plain}) = 10 then coalesce({former}, {above}) else {former} end"
    sheet.join(
        "staging.ref_wilayah",
        alias,
        f"{alias}.kode_polos = {plain}",
        [
            (exact, f"{alias}.kode"),
            (parent, f"{alias}.induk"),
            (level, f"{alias}.tingkat"),
            (other, f"case when {alias}.kode is null and {plain} is not null then {seek} end"),
        ],
    )
    length = f"octet_length({other})"
    deep = f"when 13 then left({other}, 8) when 8 then {other}"
    regency = (
        f"case {level} when 4 then left({parent}, 5) when 3 then left({exact}, 5) when 2 then {exact}"
        f" else case when {length} >= 5 then left({other}, 5) end end"
    )
    return Place(
        province=sheet.let(f"v1_{column}", f"left(coalesce({exact}, {other}), 2)"),
        regency=sheet.let(f"v2_{column}", regency),
        district=sheet.let(
            f"v3_{column}", f"case {level} when 4 then {parent} when 3 then {exact} else case {length} {deep} end end"
        ),
        village=sheet.let(f"v4_{column}", f"case {level} when 4 then {exact} else case {length} when 13 then {other} end end"),
        source=sheet.let(f"sent_{column}", f"case when {exact} is not null then {sent} else {without_blank(sent)} end"),
        level=sheet.let(f"g_{column}", f"case octet_length({plain}) when 10 then 4 when 6 then 3 when 4 then 2 when 2 then 1 end"),
        ambiguous="false",
        former=f"{other} is not null and left(replace({other}, '.', ''), 6) <> left({plain}, 6)",
    )


# ------------------------------------------------------------------------------------------------- by names


def _by_names(sheet: Sheet, names: rules.Names, column: str, inputs: Mapping[str, str]) -> Place:
    """Names from the top down. Each distinct combination of a batch is resolved once, then joined to its rows.

    Four tables, a level each: a regency's name is looked up once per batch, not once per village in it.
    """
    given = [name for name in (names.province, names.city, names.district, names.village) if name is not None]
    cells = [inputs[name] for name in given]
    parts = ("a", "b", "c", "d")[: len(cells)]
    base = f"tempat_{column}"
    # A missing name is an empty one: it finds nothing, and an equality can still join on it.
    cells = [f"coalesce({cell}, '')" for cell in cells]
    read = ", ".join(f"{cell} as {part}" for cell, part in zip(cells, parts, strict=True))
    sheet.table(base, f"select distinct {read}\nfrom inbox")
    sheet.table(f"{base}_1", _PROVINCES.format(base=base))
    last = f"{base}_1"
    for depth, query in ((2, _REGENCIES), (3, _DISTRICTS), (4, _VILLAGES)):
        if depth <= len(cells):
            last = sheet.table(f"{base}_{depth}", query.format(base=base))
    keys = " and ".join(f"{base}_j.{part} = {cell}" for part, cell in zip(parts, cells, strict=True))
    found = [f"v{depth}_{column}" for depth in range(1, 5)]
    codes = ["prov", "kab", "kec", "kel"]
    columns = [(found[depth], f"{base}_j.{codes[depth]}") for depth in range(len(cells))]
    columns.append((f"ambigu_{column}", f"{base}_j.ambigu" if len(cells) > 1 else "false"))
    sheet.join(last, f"{base}_j", keys, columns)
    sent = f"nullif(concat_ws(' / ', {', '.join(inputs[name] for name in given)}), '')"
    resolved = found[: len(cells)] + ["null::text"] * (4 - len(cells))
    return Place(*resolved, source=sheet.let(f"sent_{column}", sent), level=str(len(cells)), ambiguous=f"ambigu_{column}", former="false")


# `staging.nama_wilayah` brings a name to one spelling and takes the type word of its level off. Most names need no more than upper
# case, which can be told at a quarter of its cost; `u` is the name in upper case.
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


def _upper(name: str) -> str:
    return f'upper({name} collate "C") as u'


def _alias(length: int, under: str) -> str:
    """A name without a match is sought among the aliases: former names and short forms."""
    return (
        f"(select case when count(*) = 1 then min(l.kode) end from staging.ref_wilayah_alias l"
        f" where l.nama_norm = n.nama and octet_length(l.kode) = {length}{under})"
    )


_PROVINCES = f"""
select n.a, coalesce(w.kode, {_alias(2, "")}) as prov
from (select a, {_spelled("a", 1)}
      from (select a, {_upper("a")} from (select distinct a from {{base}}) x offset 0) y offset 0) n
left join staging.ref_wilayah w on w.tingkat = 1 and w.nama_norm = n.nama and w.nama_tunggal
""".strip()

_split = " ".join(
    f"when '{old}' then array[{', '.join(repr(code) for code in new)}]" for old, new in SPLIT_PROVINCES.items()
)

# A bare name that a kabupaten and a kota share counts two.
_REGENCIES = f"""
select n.a, n.b, n.prov, w.banyak > 1 as ambigu,
       case w.banyak when 1 then w.kab when 0 then {_alias(5, " and left(l.kode, 2) = n.prov")} end as kab
from (select a, b, prov, {_spelled("b", 2)}, staging.jenis_kabkota(b) as jenis
      from (select x.a, x.b, p.prov, {_upper("x.b")}
            from (select distinct a, b from {{base}}) x join {{base}}_1 p on p.a = x.a offset 0) y offset 0) n
left join lateral (
  select min(r.kode) as kab, count(*) as banyak
  from staging.ref_wilayah r
  where r.induk = any (case n.prov {_split} else array[n.prov] end)
    and r.nama_norm = n.nama and (n.jenis is null or r.jenis = n.jenis)
) w on true
""".strip()

_DISTRICTS = f"""
select n.a, n.b, n.c, n.prov, n.kab, n.ambigu, coalesce(w.kode, {_alias(8, " and left(l.kode, 5) = n.kab")}) as kec
from (select a, b, c, prov, kab, ambigu, {_spelled("c", 3)}
      from (select x.a, x.b, x.c, k.prov, k.kab, k.ambigu, {_upper("x.c")}
            from (select distinct a, b, c from {{base}}) x join {{base}}_2 k on k.a = x.a and k.b = x.b offset 0) y offset 0) n
left join staging.ref_wilayah w on w.induk = n.kab and w.nama_norm = n.nama and w.nama_tunggal
""".strip()

_VILLAGES = f"""
select n.a, n.b, n.c, n.d, n.prov, n.kab, n.ambigu, n.kec,
       coalesce(w.kode, {_alias(13, " and left(l.kode, 8) = n.kec")}) as kel
from (select a, b, c, d, prov, kab, ambigu, kec, {_spelled("d", 4)}
      from (select x.a, x.b, x.c, x.d, k.prov, k.kab, k.ambigu, k.kec, {_upper("x.d")}
            from {{base}} x join {{base}}_3 k on k.a = x.a and k.b = x.b and k.c = x.c offset 0) y offset 0) n
left join staging.ref_wilayah w on w.induk = n.kec and w.nama_norm = n.nama and w.nama_tunggal
""".strip()
