"""From a view's cell to the text a check judges: the steps of a rule as SQL.

Every expression here is total: any text gives a text or null, and nothing is ever raised. Where a function could raise
(a cast, a negative length) a CASE stands before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from connector.mapping import rules
from connector.mapping.rules import Policy, Rule
from connector.mapping.sheet import Sheet

# What counts as blank at the ends of a cell: space, tab, line ends, no-break space.
BLANKS = r"E' \t\r\n\u00a0'"
# A CASE compares one code after the other; past this a hash join is quicker.
CASE_CODES_MAX = 12

Fault = tuple[str, str]  # condition, reason code


@dataclass(frozen=True, slots=True)
class Cell:
    """SQL of a text (null: empty), what made it unusable, and what was done to it.

    `solid` says that a text of blanks only has become null already. `notes` are conditions of findings.
    """

    text: str
    solid: bool = False
    faults: tuple[Fault, ...] = ()
    notes: tuple[Fault, ...] = ()


def cell(sheet: Sheet, rule: Rule, inputs: Mapping[str, str], *, collapse: bool = True) -> Cell:
    """The text of a rule after its text steps.

    Args:
        inputs: the names of the view columns in the inbox.
        collapse: squeeze the blanks of a join; not needed where the column's kind does it.
    """
    made = _source(rule, inputs, sheet, collapse)
    for step in rule.steps:
        made = _step(sheet, rule, step, made)
    return made


def solid(sheet: Sheet, made: Cell, column: str) -> str:
    """The cell's text with blanks only as null."""
    if made.solid:
        return made.text
    text = sheet.let(f"c_{column}", made.text)
    return sheet.let(f"b_{column}", without_blank(text))


def without_blank(text: str) -> str:
    # One comparison of the first byte settles nearly every cell; trimming each would cost three times as much.
    return f"case when {text} collate \"C\" >= '!' or btrim({text}, {BLANKS}) <> '' then {text} end"


def given(made: Cell, text: str) -> str:
    """The cell holds something; asked only where its value came out as null, so it may be slow."""
    return f"{text} is not null" if made.solid else f"btrim({text}, {BLANKS}) <> ''"


def collapsed(sheet: Sheet, text: str, column: str) -> str:
    """Blanks at the ends dropped, runs of blanks made one; a text of blanks only is null."""
    text = sheet.let(f"c_{column}", text)
    return (
        f"case when (' ' || {text} || ' ') collate \"C\" ~ '[\\t-\\r\\u00a0]|  ' then {squeezed(text)} else {text} end"
    )


def squeezed(text: str) -> str:
    return f"nullif(btrim(regexp_replace({text}, '[ \\t-\\r\\u00a0]+', ' ', 'g')), '')"


def key_text(names: tuple[str, ...]) -> str:
    """The same text as `events.source_key`: null when a part is null."""
    if len(names) == 1:
        return names[0]
    return " || '|' || ".join(rf"replace(replace({name}, '\', '\\'), '|', '\|')" for name in names)


def _source(rule: Rule, inputs: Mapping[str, str], sheet: Sheet, collapse: bool) -> Cell:
    match rule.source:
        case rules.From(column):
            return Cell(inputs[column])
        case rules.Const(text):
            return Cell(sheet.param(text), solid=True)
        case rules.KeyOf(columns):
            return Cell(key_text(tuple(inputs[column] for column in columns)))
        case rules.Join(columns, between):
            if not collapse:
                return Cell(f"concat_ws({sheet.param(between)}, {', '.join(inputs[column] for column in columns)})")
            parts = ", ".join(without_blank(inputs[column]) for column in columns)
            return Cell(collapsed(sheet, f"concat_ws({sheet.param(between)}, {parts})", rule.column), solid=True)
        case rules.Names() | rules.Nothing():
            return Cell("null::text", solid=True)
        case _:
            assert_never(rule.source)


def _step(sheet: Sheet, rule: Rule, step: rules.Step, made: Cell) -> Cell:
    match step:
        case rules.Split():
            return replace(made, text=_split(sheet, rule, step, made.text), solid=True)
        case rules.Slice(start, length):
            end = f", {length}" if length else ""
            return replace(made, text=f"substr({made.text}, {start}{end})", solid=False)
        case rules.Trim():
            return replace(made, text=f"nullif(btrim({made.text}, {BLANKS}), '')", solid=True)
        case rules.Case(upper):
            return replace(made, text=f"{'upper' if upper else 'lower'}({made.text})")
        case rules.Digits():
            return made if rule.column == "nik" else _digits(sheet, rule, made)
        case rules.Pad(width, filler):
            return replace(made, text=_padded(sheet, rule, made, width, filler), solid=True)
        case rules.Codes():
            return _codes(sheet, rule, step, made)
        case rules.RtRw(rw):
            return _rtrw(sheet, rule, rw, made)
        case rules.DateFormat() | rules.Region() | rules.SexFromNik():
            return made  # these need the column's kind: checks.py, regions.py
        case _:
            assert_never(step)


def _padded(sheet: Sheet, rule: Rule, made: Cell, width: int, filler: str) -> str:
    text = sheet.let(f"p_{rule.column}", made.text)
    full = f"octet_length({text}) >= {width} and char_length({text}) >= {width}"
    whole = text if made.solid else without_blank(text)
    filled = "" if made.solid else f" or btrim({text}, {BLANKS}) <> ''"
    given_ = f"{text} is not null" if made.solid else f"{text} collate \"C\" >= '!'{filled}"
    return f"case when {full} then {whole} when {given_} then lpad({text}, {width}, {sheet.param(filler)}) end"


def _split(sheet: Sheet, rule: Rule, step: rules.Split, text: str) -> str:
    text = sheet.let(f"s_{rule.column}", text)
    on = sheet.param(step.on)
    absent = text if step.whole else "null"
    if step.last:
        tail = sheet.let(f"e_{rule.column}", f"split_part({text}, {on}, -1)")
        found = f"octet_length({tail}) < octet_length({text})"
        # left() with a negative count drops that many characters at the end.
        part = f"left({text}, -{len(step.on)} - char_length({tail}))" if step.before else tail
    else:
        found = f"strpos({text}, {on}) > 0"
        after = f"substr({text}, strpos({text}, {on}) + {len(step.on)})"
        part = f"split_part({text}, {on}, 1)" if step.before else after
    return f"nullif(btrim(case when {found} then {part} else {absent} end, {BLANKS}), '')"


def _digits(sheet: Sheet, rule: Rule, made: Cell) -> Cell:
    text = sheet.let(f"u_{rule.column}", made.text)
    # 3.27E+15 is a rounded number: its digits would look like another one.
    destroyed = f"{text} ~ '[0-9][eE][+-]?[0-9]'"
    clean = f"translate({text}, '0123456789', '') = ''"
    digits = f"nullif(case when {clean} then {text} else regexp_replace({text}, '[^0-9]+', '', 'g') end, '')"
    value = sheet.let(f"g_{rule.column}", digits)
    fault = (f"octet_length({value}) < octet_length({text}) and {destroyed}", "NUMBER_DESTROYED")
    return replace(made, text=value, solid=True, faults=(*made.faults, fault))


def _codes(sheet: Sheet, rule: Rule, step: rules.Codes, made: Cell) -> Cell:
    text = sheet.let(f"k_{rule.column}", made.text)
    if len(step.pairs) <= CASE_CODES_MAX:
        arms = " ".join(f"when {sheet.param(code)} then {sheet.param(target)}" for code, target in step.pairs)
        value = sheet.let(f"j_{rule.column}", f"case {text} {arms} end")
    else:
        codes = sheet.param([code for code, _ in step.pairs], "text[]")
        targets = sheet.param([target for _, target in step.pairs], "text[]")
        alias = f"kode_{rule.column}"
        value = f"j_{rule.column}"
        table, on = f"unnest({codes}, {targets})", f"{alias}.code = {text}"
        sheet.join(table, f"{alias} (code, target)", on, {value: f"{alias}.target"})
    missing = f"{value} is null and {given(made, text)}"
    from_nik = any(isinstance(other, rules.SexFromNik) for other in rule.steps)
    if from_nik:
        return replace(made, text=value, solid=True)
    match step.unknown:
        case Policy.QUARANTINE:
            return replace(made, text=value, solid=True, faults=(*made.faults, (missing, "CODE_UNKNOWN")))
        case Policy.NULL:
            return replace(made, text=value, solid=True, notes=(*made.notes, (missing, "NILAI_DIKOSONGKAN")))
        case Policy.DEFAULT:
            return replace(made, text=value, solid=True, notes=(*made.notes, (missing, "NILAI_DIGANTI")))
        case _:
            assert_never(step.unknown)


def _rtrw(sheet: Sheet, rule: Rule, rw: bool, made: Cell) -> Cell:
    text = solid(sheet, made, f"{rule.column}_w")
    # Six digits are two threes; else two numbers of up to three digits with one sign between them.
    pattern = r"^ *(?:RT)?[ .:]*([0-9]{1,3}) *[-/., ] *(?:RW)?[ .:]*([0-9]{1,3}) *$|^ *([0-9]{3})([0-9]{3}) *$"
    parts = sheet.let(f"r_{rule.column}", f"regexp_match(upper({text}), '{pattern}')")
    place = (2, 4) if rw else (1, 3)
    value = f"lpad(coalesce({parts}[{place[0]}], {parts}[{place[1]}]), 3, '0')"
    fault = (f"{parts} is null and {text} is not null", "RTRW_FORMAT")
    return replace(made, text=value, solid=True, faults=(*made.faults, fault))
