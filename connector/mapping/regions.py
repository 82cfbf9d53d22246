"""Regions: a party's code or names to Kemendagri codes, through staging's reference tables.

A region is looked up, never computed: what is not in the list is refused, and so is a name that means two regions.
"""

from __future__ import annotations

from collections.abc import Mapping

from connector.mapping import rules
from connector.mapping.cells import Cell, Fault, without_blank
from connector.mapping.checks import Checked
from connector.mapping.region_names import Place, by_names
from connector.mapping.rules import Rule
from connector.mapping.sheet import Sheet


def place(sheet: Sheet, rule: Rule, made: Cell, inputs: Mapping[str, str]) -> Place:
    """Resolve a rule's region; `made` is its cell after the text steps."""
    if isinstance(rule.source, rules.Names):
        return by_names(sheet, rule.source, rule.column, inputs)
    text = sheet.let(f"c_{rule.column}", made.text)
    if any(isinstance(step, rules.Region) and step.system == "bps" for step in rule.steps):
        alias = f"bps_{rule.column}"
        found = f"p_{rule.column}"
        sheet.join("staging.ref_wilayah_bps", alias, f"{alias}.kode_bps = {text}", {found: f"{alias}.kode"})
        return _by_code(sheet, rule.column, text, found)
    return _by_code(sheet, rule.column, text, text)


def member_columns(found: Place) -> tuple[tuple[str, str, tuple[Fault, ...]], ...]:
    """The columns a member's region fills, each with its value and faults."""
    unknown = f"not {found.has_district}"
    regency_faults = (
        (found.unsent, "REQUIRED"),
        (f"{unknown} and {found.ambiguous}", "REGION_AMBIGUOUS") if found.ambiguous != "false" else ("false", ""),
        (f"{unknown} and not {found.has_regency}", "REGION_UNKNOWN"),
    )
    district_faults = (
        (f"{unknown} and {found.has_regency} and {found.level} < 3", "REGION_LEVEL"),
        (f"{unknown} and {found.has_regency}", "REGION_UNKNOWN"),
    )
    return (
        ("kode_kabkota", found.regency, regency_faults),
        ("kode_kecamatan", found.district, district_faults),
        ("kode_kelurahan", found.village, ()),
        ("kode_wilayah_sumber", found.source, ()),
    )


def member_notes(found: Place) -> tuple[Fault, ...]:
    return (
        (f"not {found.has_village} and {found.level} = 4 and {found.has_district}", "KELURAHAN_TIDAK_DIKENAL"),
        (found.former, "WILAYAH_LAMA"),
    )


def of_level(sheet: Sheet, found: Place, column: str, tingkat: str) -> Checked:
    """`kode_wilayah`: the code at the level that `tingkat` says; none for PUSAT."""
    codes = {"PROVINSI": found.province, "KABKOTA": found.regency, "KECAMATAN": found.district}
    arms = " ".join(f"when '{level}' then {code}" for level, code in codes.items())
    value = sheet.let(f"v_{column}", f"case {tingkat} {arms} end")
    depth = f"case {tingkat} when 'PROVINSI' then 1 when 'KABKOTA' then 2 when 'KECAMATAN' then 3 end"
    below = f"{tingkat} <> 'PUSAT'"
    missing = f"{below} and {value} is null"
    faults = (
        (f"{missing} and {found.unsent}", "REQUIRED"),
        (f"{missing} and {found.ambiguous}", "REGION_AMBIGUOUS"),
        (f"{missing} and {found.province} is not null and {found.level} < {depth}", "REGION_LEVEL"),
        (missing, "REGION_UNKNOWN"),
        # A code that reaches deeper than its level is another region's; names below a level are only an address.
        (f"{below} and {found.level} > {depth}", "REGION_LEVEL") if not found.by_name else ("false", ""),
    )
    return Checked(value, "false", faults, ((f"{below} and {found.former}", "WILAYAH_LAMA"),))


def village(sheet: Sheet, found: Place, column: str) -> Checked:
    """`kode_kelurahan` of an office: a village or nothing; an unknown one is a finding."""
    value = sheet.let(f"v_{column}", found.village)
    notes = (
        (f"{value} is null and not ({found.unsent})", "KELURAHAN_TIDAK_DIKENAL"),
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
    # The look-ups below run only for a code that is not in the list: a former one, or an unknown village.
    dotted = f"regexp_replace({plain}, '^(..)(..)?(..)?(....)?$', '\\1.\\2.\\3.\\4')"
    former = f"(select lama.kode_baru from staging.ref_wilayah_lama lama where lama.kode_lama = rtrim({dotted}, '.'))"
    above = (
        f"(select atas.kode from staging.ref_wilayah atas where atas.kode_polos = left({plain}, 6)),"
        f" (select lama.kode_baru from staging.ref_wilayah_lama lama"
        f" where lama.kode_lama = left({plain}, 2) || '.' || substr({plain}, 3, 2) || '.' || substr({plain}, 5, 2))"
    )
    seek = f"case when octet_length({plain}) = 10 then coalesce({former}, {above}) else {former} end"
    columns = {
        exact: f"{alias}.kode",
        parent: f"{alias}.induk",
        level: f"{alias}.tingkat",
        other: f"case when {alias}.kode is null and {plain} is not null then {seek} end",
    }
    sheet.join("staging.ref_wilayah", alias, f"{alias}.kode_polos = {plain}", columns)
    length = f"octet_length({other})"
    deep = f"when 13 then left({other}, 8) when 8 then {other}"
    regency = (
        f"case {level} when 4 then left({parent}, 5) when 3 then left({exact}, 5) when 2 then {exact}"
        f" else case when {length} >= 5 then left({other}, 5) end end"
    )
    district = f"case {level} when 4 then {parent} when 3 then {exact} else case {length} {deep} end end"
    village = f"case {level} when 4 then {exact} else case {length} when 13 then {other} end end"
    sent_level = f"case octet_length({plain}) when 10 then 4 when 6 then 3 when 4 then 2 when 2 then 1 end"
    return Place(
        province=f"left(coalesce({exact}, {other}), 2)",
        regency=regency,
        district=district,
        village=village,
        has_regency=f"(coalesce({level} >= 2, false) or coalesce({length} >= 5, false))",
        has_district=f"(coalesce({level} >= 3, false) or coalesce({length} >= 8, false))",
        has_village=f"(coalesce({level} = 4, false) or coalesce({length} = 13, false))",
        source=f"case when {exact} is not null then {sent} else {without_blank(sent)} end",
        unsent=f"{exact} is null and ({without_blank(sent)}) is null",
        level=f"({sent_level})",
        ambiguous="false",
        by_name=False,
        former=f"{other} is not null and left(replace({other}, '.', ''), 6) <> left({plain}, 6)",
    )
