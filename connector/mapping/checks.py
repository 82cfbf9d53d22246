"""What the contract asks of a value, as SQL: the typed value, and the conditions under which it is none.

Pure. Integers are compared rather than texts, because that is many times cheaper and every row passes here.
"""

from __future__ import annotations

from dataclasses import dataclass

from connector.mapping import rules
from connector.mapping.cells import Cell, Fault, given, solid, squeezed
from connector.mapping.contract import Column, Kind
from connector.mapping.rules import Rule
from connector.mapping.sheet import Sheet

TODAY = "(select current_date)"
# Who is born later is not seventeen: on the day the stage calendar gives for members, and today.
SEVENTEEN = "(select (staging.tanggal_acuan('anggota') - interval '17 years')::date)"
SEVENTEEN_TODAY = "(select (current_date - interval '17 years')::date)"
# The least number of sixteen digits that a province's code (11 and up) can begin.
NIK_MIN = 1_100_000_000_000_000
# KPU compares names with the KTP-el; since 2022 a name has at most 60 letters (Permendagri 73/2022).
NAME_LETTERS = 60


@dataclass(frozen=True, slots=True)
class Checked:
    """SQL of a column's value in its type (null: none), with the conditions that refuse or remark on it.

    `absent` is the condition under which there is nothing; it is judged after the faults.
    """

    value: str
    absent: str
    faults: tuple[Fault, ...] = ()
    notes: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class _DateParts:
    """SQL of a date's year, month and day as integers."""

    year: str
    month: str
    day: str


def checked(sheet: Sheet, rule: Rule, column: Column, made: Cell, *, born: bool = False) -> Checked:
    """Judge a cell by its column's kind. Regions are not handled here.

    Args:
        born: a birth date was judged before, and a NIK can be compared with it.
    """
    match column.kind:
        case Kind.TEXT:
            return _text(sheet, column, made, solid(sheet, made, column.name))
        case Kind.NAME:
            return _name(sheet, column, made)
        case Kind.CHOICE:
            return _choice(sheet, rule, column, made)
        case Kind.DATE:
            return _date(sheet, rule, column, made)
        case Kind.NIK:
            return _nik(sheet, made, born)
        case Kind.NUMBER:
            return _number(sheet, column, made)
        case Kind.TRUTH:
            return _truth(sheet, column, made)
        case Kind.DIGEST:
            return _digest(sheet, column, made)
        case Kind.REGION:
            raise AssertionError(column.name)


def _text(sheet: Sheet, column: Column, made: Cell, text: str) -> Checked:
    value = sheet.let(f"v_{column.name}", text)
    faults = list(made.faults)
    if column.length_max:
        limit = column.length_max
        faults.append((f"octet_length({value}) > {limit} and char_length({value}) > {limit}", "TOO_LONG"))
    return Checked(value, f"{value} is null", tuple(faults), made.notes)


def _name(sheet: Sheet, column: Column, made: Cell) -> Checked:
    text = sheet.let(f"c_{column.name}", made.text)
    # One regular expression finds both what needs collapsing and digits; a second look only where it matched.
    odd = sheet.let(f"o_{column.name}", f"(' ' || {text} || ' ') collate \"C\" ~ '[0-9\\t-\\r\\u00a0]|  '")
    value = f"case when {odd} then {squeezed(text)} else {text} end"
    judged = _text(sheet, column, made, value)
    if column.name != "nama":
        return judged
    letters = NAME_LETTERS
    notes = (
        (f"octet_length({judged.value}) > {letters} and char_length({judged.value}) > {letters}", "NAMA_PANJANG"),
        (f"{odd} and {judged.value} ~ '[0-9]'", "NAMA_ANGKA"),
    )
    return Checked(judged.value, judged.absent, judged.faults, (*judged.notes, *notes))


def _choice(sheet: Sheet, rule: Rule, column: Column, made: Cell) -> Checked:
    if any(isinstance(step, rules.Codes) for step in rule.steps):
        value = sheet.let(f"v_{column.name}", made.text)
        return Checked(value, f"{value} is null", made.faults, made.notes)
    text = solid(sheet, made, column.name)
    words = ", ".join(f"'{word}'" for word in column.choices)
    value = sheet.let(f"v_{column.name}", f"case when {text} in ({words}) then {text} end")
    fault = (f"{value} is null and {text} is not null", "CODE_UNKNOWN")
    return Checked(value, f"{value} is null", (*made.faults, fault), made.notes)


def _number(sheet: Sheet, column: Column, made: Cell) -> Checked:
    text = sheet.let(f"c_{column.name}", made.text)
    digits = f"octet_length({text}) between 1 and 18 and translate({text}, '0123456789', '') = ''"
    number = sheet.let(f"n_{column.name}", f"case when {digits} then {text}::bigint end")
    value = sheet.let(
        f"v_{column.name}", f"case when {number} <= {column.number_max} then {number}::{column.sql_type} end"
    )
    fault = (f"{value} is null and {given(made, text)}", "NUMBER_FORMAT")
    return Checked(value, f"{value} is null", (*made.faults, fault), made.notes)


def _truth(sheet: Sheet, column: Column, made: Cell) -> Checked:
    text = solid(sheet, made, column.name)
    arms = "when 't' then true when 'f' then false when 'true' then true when 'false' then false"
    value = sheet.let(f"v_{column.name}", f"case {text} {arms} end")
    fault = (f"{value} is null and {text} is not null", "CODE_UNKNOWN")
    return Checked(value, f"{value} is null", (*made.faults, fault), made.notes)


def _digest(sheet: Sheet, column: Column, made: Cell) -> Checked:
    text = solid(sheet, made, column.name)
    hexadecimal = sheet.let(
        f"h_{column.name}", rf"case when left({text}, 2) = '\x' then substr({text}, 3) else {text} end"
    )
    good = f"octet_length({hexadecimal}) = 64 and {hexadecimal} ~ '^[0-9a-fA-F]+$'"
    value = sheet.let(f"v_{column.name}", f"case when {good} then decode({hexadecimal}, 'hex') end")
    fault = (f"{value} is null and {text} is not null", "DIGEST_FORMAT")
    return Checked(value, f"{value} is null", (*made.faults, fault), made.notes)


# ------------------------------------------------------------------------------------------------- NIK


def _nik(sheet: Sheet, made: Cell, born: bool) -> Checked:
    text = sheet.let("c_nik", made.text)
    bare = f"replace(replace(replace({text}, '-', ''), '.', ''), ' ', '')"
    value = sheet.let("v_nik", f"case when octet_length({text}) = 16 then {text} else nullif({bare}, '') end")
    # Sixteen characters that read as a number of sixteen digits are all digits: a sign, blank or underscore would leave
    # fewer. Only hexadecimal can be longer, and that begins with 0.
    whole = f"octet_length({value}) = 16 and {value} collate \"C\" >= '1' and pg_input_is_valid({value}, 'bigint')"
    number = sheet.let("n_nik", f"case when {whole} then {value}::bigint end")
    birth = sheet.let("t_nik", f"mod({number} / 10000, 1000000)::integer")
    blank = f"{value} is null or btrim({value}) = ''"
    faults = (
        (f"({number} is null or {number} < {NIK_MIN}) and not ({blank})", "NIK_FORMAT"),
        (_impossible_in_nik(birth, born), "NIK_DATE"),
        (f"mod({number}, 10000) = 0", "NIK_SERIAL"),
    )
    return Checked(value, blank, (*made.faults, *faults), made.notes)


def _impossible_in_nik(birth: str, born: bool) -> str:
    """DDMMYY that is in no calendar; the year's century is open, so 29 February needs a two-digit year that leaps."""
    day, month, year = f"mod({birth} / 10000, 40)", f"mod({birth} / 100, 100)", f"mod({birth}, 100)"
    late = f"{day} > 28 and ({_no_such_end(day, month)} or {month} = 2 and (mod({year}, 4) <> 0 or {day} > 29))"
    wrong = f"{birth} >= 720000 or {day} not between 1 and 31 or {month} not between 1 and 12 or {late}"
    return f"case when {NIK_AGREES} then false else {wrong} end" if born else wrong


def _no_such_end(day: str, month: str) -> str:
    return f"{day} = 31 and {month} in (4, 6, 9, 11)"


# A woman's day stands 40 higher.
NIK_IS_WOMAN = "t_nik > 400000"

# The NIK's DDMMYY is the birth date's. True for most rows, and a date that agrees needs no look at the calendar.
NIK_AGREES = "w_tanggal_lahir is not null and t_nik in (dmy_tanggal_lahir, dmy_tanggal_lahir + 400000)"


# ------------------------------------------------------------------------------------------------- dates


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a format's text becomes eight digits, and where year, month and day stand in them."""

    pattern: str
    sign: str
    year: str
    month: str
    day: str


# Day-first formats get a leading 1, so that no zero is lost and no sign or blank can take a digit's place.
_YEAR_FIRST = ("{n} / 10000", "mod({n} / 100, 100)", "mod({n}, 100)")
_DAY_FIRST = ("mod({n}, 10000)", "mod({n} / 10000, 100)", "mod({n} / 1000000, 100)")
_MONTH_FIRST = ("mod({n}, 10000)", "mod({n} / 1000000, 100)", "mod({n} / 10000, 100)")
_LAYOUTS = {
    "YYYY-MM-DD": _Layout("____-__-__", "-", *_YEAR_FIRST),
    "YYYYMMDD": _Layout("________", "", *_YEAR_FIRST),
    "DD/MM/YYYY": _Layout("__/__/____", "/", *_DAY_FIRST),
    "DD-MM-YYYY": _Layout("__-__-____", "-", *_DAY_FIRST),
    "MM/DD/YYYY": _Layout("__/__/____", "/", *_MONTH_FIRST),
}
_TIME = r"^[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?( ?(Z|[+-][0-9]{2}(:?[0-9]{2})?))?$"


def _date(sheet: Sheet, rule: Rule, column: Column, made: Cell) -> Checked:
    name = column.name
    step = next((step for step in rule.steps if isinstance(step, rules.DateFormat)), None)
    assert step is not None, name
    layout = _LAYOUTS[step.format]
    text = sheet.let(f"c_{name}", made.text)
    head = _without_time(sheet, name, text, layout) if step.time else text
    digits, least = _eight_digits(sheet, name, head, layout)
    parts = _parts(layout, digits)
    exists = f"{digits} >= {least} and {_in_calendar(parts)}"
    made_date = f"case when {exists} then make_date({parts.year}, {parts.month}, {parts.day}) end"
    found = sheet.let(f"w_{name}", made_date)
    sheet.let(f"dmy_{name}", f"{parts.day} * 10000 + {parts.month} * 100 + mod({parts.year}, 100)")
    value = found
    if step.blanks:
        blanks = sheet.param(list(step.blanks), "date[]")
        value = sheet.let(f"v_{name}", f"case when {found} = any({blanks}) then null else {found} end")
    faults = [*made.faults, (f"{found} is null and {given(made, text)}", "DATE_FORMAT")]
    if name == "tanggal_lahir":
        faults.append((f"{value} < date '1900-01-01' or {value} > {TODAY}", "DATE_RANGE"))
    return Checked(value, f"{value} is null", tuple(faults), made.notes)


def _without_time(sheet: Sheet, name: str, text: str, layout: _Layout) -> str:
    length = len(layout.pattern)
    rest = sheet.let(f"t_{name}", f"substr({text}, {length + 1})")
    plain = f"{rest} in ('', ' 00:00:00', 'T00:00:00', ' 00:00:00.000')"
    return sheet.let(f"a_{name}", f"case when {plain} or {rest} ~ '{_TIME}' then left({text}, {length}) end")


def _eight_digits(sheet: Sheet, name: str, text: str, layout: _Layout) -> tuple[str, int]:
    """The text's digits as a number in the format's order, and the least number that is a date of the format."""
    year_first = layout.year == _YEAR_FIRST[0]
    bare = f"replace({text}, '{layout.sign}', '')" if layout.sign else text
    if not year_first:
        bare = f"'1' || {bare}"
    shape = f"octet_length({text}) = {len(layout.pattern)}"
    if layout.sign:
        shape += f" and {text} like '{layout.pattern}'"
    bare = sheet.let(f"q_{name}", f"case when {shape} then {bare} end")
    length, least = (8, 10_000_000) if year_first else (9, 100_000_000)
    # As with a NIK: so many characters that give a number of so many digits are all digits.
    whole = f"octet_length({bare}) = {length} and {bare} collate \"C\" >= '1' and pg_input_is_valid({bare}, 'integer')"
    return sheet.let(f"n_{name}", f"case when {whole} then {bare}::integer end"), least


def _parts(layout: _Layout, number: str) -> _DateParts:
    return _DateParts(*(part.format(n=number) for part in (layout.year, layout.month, layout.day)))


def _in_calendar(date: _DateParts) -> str:
    year, month, day = date.year, date.month, date.day
    leaps = f"mod({year}, 4) = 0 and (mod({year}, 100) <> 0 or mod({year}, 400) = 0)"
    end = f"not ({_no_such_end(day, month)}) and ({month} <> 2 or {day} = 29 and {leaps})"
    return f"{day} between 1 and 31 and {month} between 1 and 12 and {year} >= 1000 and ({day} <= 28 or {end})"
