"""What a mapping document must make sense of beyond its shape: known columns, right kinds, usable constants.

Pure. Yields every problem with the path to where it stands; `document` turns paths into lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date

from connector.mapping import rules
from connector.mapping.contract import ENTITIES, MEMBER_PLACE, Column, Entity, Kind
from connector.mapping.reasons import DECLARABLE, FINDINGS, REJECTING
from connector.mapping.rules import Document, EntityMapping, Policy, Rule
from connector.yamlpos import closest, shown

# A name in PostgreSQL has 63 bytes, in SQL Server and Oracle up to 128 characters.
IDENTIFIER_MAX = 128
# Each entry takes two parameters or two places in an array; a longer list belongs in reference data.
CODES_MAX = 2_000
REGION_CODE = re.compile(r"\d{2}(\.?\d{2}(\.?\d{2}(\.?\d{4})?)?)?")
SHA256 = re.compile(r"(\\x)?[0-9a-fA-F]{64}")

# Path in the file, message, hint, and whether the place is that of the key rather than of its value.
Finding = tuple[tuple[str | int, ...], str, str, bool]

MEMBER_RULE_COLUMNS = MEMBER_PLACE[:3]


def problems(document: Document, named: Mapping[str, frozenset[str]]) -> Iterator[Finding]:
    """Everything wrong with `document`; `named` are the columns the file names per entity, also the unreadable ones."""
    for name, mapping in document.entities.items():
        at: tuple[str | int, ...] = ("entities", name)
        contract = ENTITIES.get(name)
        if contract is None:
            yield at, f"the staging contract has no entity `{shown(name)}`", closest(name, ENTITIES), True
            continue
        yield from _frame(mapping, at)
        yield from _columns(mapping, contract, named.get(name, frozenset()), at)
        yield from _examples(mapping, at)


def inputs(mapping: EntityMapping) -> tuple[str, ...]:
    """The view columns to read, key columns first, each once."""
    conditions = (condition.column for condition in mapping.when)
    cells = (name for rule in mapping.rules for name in rule.view_columns())
    return tuple(dict.fromkeys((*mapping.key, *conditions, *cells)))


# ------------------------------------------------------------------------------------------------- the frame


def _frame(mapping: EntityMapping, at: tuple[str | int, ...]) -> Iterator[Finding]:
    if not mapping.view[0] or not mapping.view[1] or "." in mapping.view[1]:
        yield (*at, "view"), "`view` must be written as schema.view", "the schema stands in the kit's grants too", False
    if len(set(mapping.key)) < len(mapping.key):
        yield (*at, "key"), "a key column is named twice", "remove one", False
    for place, name in _identifiers(mapping):
        if not name.isprintable() or not name.strip() or len(name) > IDENTIFIER_MAX:
            yield (
                (*at, *place),
                f"`{shown(name)}` cannot be the name of a column or table",
                "copy it from the view",
                False,
            )
    for index, condition in enumerate(mapping.when):
        if condition.reason not in DECLARABLE:
            hint = closest(condition.reason, DECLARABLE)
            yield (*at, "when", index, "reason"), f"`{shown(condition.reason)}` is no reason for `when`", hint, False
    for index, lineage in enumerate(mapping.lineage):
        yield from _lineage(mapping, lineage, (*at, "lineage", index))


def _identifiers(mapping: EntityMapping) -> Iterator[tuple[tuple[str | int, ...], str]]:
    yield ("view",), ".".join(mapping.view)
    yield from ((("key",), name) for name in mapping.key)
    yield from ((("when", index), condition.column) for index, condition in enumerate(mapping.when))
    for rule in mapping.rules:
        yield from ((("columns", rule.column), name) for name in rule.view_columns())
    for index, lineage in enumerate(mapping.lineage):
        pairs = (*lineage.key.items(), *lineage.match.items())
        yield from ((("lineage", index), name) for pair in pairs for name in pair)


def _lineage(mapping: EntityMapping, lineage: rules.Lineage, at: tuple[str | int, ...]) -> Iterator[Finding]:
    if not lineage.table[0] or not lineage.table[1]:
        yield (*at, "table"), "`table` must be written as schema.table", "the log names tables that way", False
    if lineage.key and lineage.match:
        yield (
            (*at, "match"),
            "`key` and `match` exclude each other",
            "key: gives view keys; match: needs a look-up",
            True,
        )
    if lineage.key and set(lineage.key) != set(mapping.key):
        hint = f"the key of this entity is [{', '.join(map(shown, mapping.key))}]"
        yield (*at, "key"), "`key` must name each key column of the view", hint, True


# ------------------------------------------------------------------------------------------------- columns


def _columns(
    mapping: EntityMapping, contract: Entity, named: frozenset[str], at: tuple[str | int, ...]
) -> Iterator[Finding]:
    for rule in mapping.rules:
        place = (*at, "columns", rule.column)
        column = contract.column(rule.column)
        if column is None:
            hint = closest(rule.column, (column.name for column in contract.columns))
            yield place, f"`{contract.name}` has no column `{shown(rule.column)}`", hint, True
        elif rule.column == "kode_wilayah_sumber":
            yield place, "`kode_wilayah_sumber` is filled by the region rule", "remove it", True
        else:
            yield from _rule(rule, column, contract, place)
    missing = [
        column.name for column in contract.columns if _must_be_named(column, contract) and column.name not in named
    ]
    if missing:
        yield (*at, "columns"), f"required columns without a rule: {', '.join(missing)}", "add a rule for each", True
    if contract.placed:
        yield from _member_place(mapping, named, at)
    if contract.column("kode_wilayah") and "kode_wilayah" not in named and not _only_central(mapping):
        yield (*at, "columns"), "`kode_wilayah` is required unless `tingkat` is PUSAT in every row", "add a rule", True


def _must_be_named(column: Column, contract: Entity) -> bool:
    # A local party of Aceh may go without NIK; which kind a party is stands in the configuration, so
    # `compile_entity` asks for it.
    return column.required and column.name not in contract.placed and column.kind is not Kind.NIK


def _only_central(mapping: EntityMapping) -> bool:
    level = mapping.rule("tingkat")
    return level is not None and level.source == rules.Const("PUSAT") and not level.steps


def _member_place(mapping: EntityMapping, named: frozenset[str], at: tuple[str | int, ...]) -> Iterator[Finding]:
    places = [rule.column for rule in mapping.rules if rule.column in MEMBER_RULE_COLUMNS]
    if not places and not named.intersection(MEMBER_RULE_COLUMNS):
        hint = "kode_kelurahan: {from: COLUMN, region: kemendagri}"
        yield (*at, "columns"), "a member needs a region", hint, True
    for extra in places[1:]:
        message = f"`{places[0]}` already gives the region; it fills {', '.join(MEMBER_PLACE)}"
        yield (*at, "columns", extra), message, "keep one of them", True


def _rule(rule: Rule, column: Column, contract: Entity, at: tuple[str | int, ...]) -> Iterator[Finding]:
    yield from _fitting_steps(rule, column, at)
    yield from _policies(rule, column, contract, at)
    yield from _values(rule, column, at)
    if isinstance(rule.source, rules.Names):
        yield from _depth(rule.source, column, contract, at)


def _fitting_steps(rule: Rule, column: Column, at: tuple[str | int, ...]) -> Iterator[Finding]:
    kinds = {type(step) for step in rule.steps}
    constant = isinstance(rule.source, rules.Const)
    if constant and column.kind is Kind.NIK:
        yield (*at, "const"), "a NIK cannot be a constant", "name its view column with `from`", True
    wrong = {
        rules.DateFormat: (column.kind is Kind.DATE, "date", "is for date columns"),
        rules.Region: (column.kind is Kind.REGION, "region", "is for region columns"),
        rules.RtRw: (column.name in ("rt", "rw"), "rtrw", "is for `rt` and `rw`"),
        rules.SexFromNik: (column.name == "jenis_kelamin", "from_nik", "is for `jenis_kelamin`"),
        rules.Codes: (column.kind is not Kind.NIK, "codes", "is not for a NIK"),
        rules.Pad: (column.kind not in (Kind.NIK, Kind.DATE), "pad", "would invent digits here"),
    }
    for step, (fits, key, why) in wrong.items():
        if step in kinds and not fits:
            yield (*at, key), f"`{key}` {why}", "remove it", True
    if column.kind is Kind.DATE and rules.DateFormat not in kinds and not constant:
        yield at, f"`{column.name}` needs `date`", "say how it is written, such as date: YYYY-MM-DD", True
    if column.kind is Kind.REGION and rules.Region not in kinds:
        yield at, f"`{column.name}` needs `region`", "region: kemendagri, bps or names", True
    for step_ in rule.steps:
        if isinstance(step_, rules.DateFormat):
            for text in step_.blanks:
                if _date(text) is None:
                    yield (*at, "date", "unknown"), "a date that means unknown is written YYYY-MM-DD", "", False


def _policies(rule: Rule, column: Column, contract: Entity, at: tuple[str | int, ...]) -> Iterator[Finding]:
    needed = column.required or rule.required
    if rule.required and rule.default is not None:
        yield (*at, "required"), "`required` has no effect beside `default`", "keep one of them", True
    if needed and rule.on_invalid is Policy.NULL:
        hint = "quarantine, or default with a value"
        yield (*at, "on_invalid"), f"`{column.name}` is required and cannot be left empty", hint, False
    from_nik = any(isinstance(step, rules.SexFromNik) for step in rule.steps)
    for step in rule.steps:
        if isinstance(step, rules.Codes) and needed and step.unknown is Policy.NULL and not from_nik:
            hint = "quarantine, or default with a value"
            yield (*at, "unknown"), f"`{column.name}` is required and cannot be left empty", hint, False
    if rule.default is not None and column.name in ("nik", "kode_wilayah", *contract.placed):
        yield (*at, "default"), f"a default for `{column.name}` would invent what nobody sent", "remove it", True
    if rule.on_invalid is not Policy.QUARANTINE and column.name in ("kode_wilayah", *contract.placed):
        yield (*at, "on_invalid"), f"what has no `{column.name}` cannot be counted", "remove it", True


def _values(rule: Rule, column: Column, at: tuple[str | int, ...]) -> Iterator[Finding]:
    """Constants, defaults and code targets must be values the column takes."""
    coded = next((step for step in rule.steps if isinstance(step, rules.Codes)), None)
    if isinstance(rule.source, rules.Const) and not rule.steps:
        yield from _fits(rule.source.text, column, (*at, "const"))
    if rule.default is not None:
        yield from _fits(rule.default, column, (*at, "default"))
    if coded is not None:
        if len(coded.pairs) > CODES_MAX:
            yield (*at, "codes"), f"more than {CODES_MAX} codes", "ask KPU to load them as reference data", True
        if column.kind in (Kind.CHOICE, Kind.TRUTH, Kind.TEXT, Kind.NAME, Kind.NUMBER):
            for code, target in coded.pairs:
                yield from _fits(target, column, (*at, "codes", code))


def _fits(text: str, column: Column, at: tuple[str | int, ...]) -> Iterator[Finding]:
    message = f"not a value of `{column.name}`"
    match column.kind:
        case Kind.CHOICE if text not in column.choices:
            yield at, message, f"one of: {', '.join(column.choices)}", False
        case Kind.TRUTH if text not in ("true", "false"):
            yield at, message, "true or false", False
        case Kind.DATE if _date(text) is None:
            yield at, message, "a date written YYYY-MM-DD", False
        case Kind.NUMBER if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > column.number_max:
            yield at, message, f"a whole number up to {column.number_max}", False
        case Kind.REGION if not REGION_CODE.fullmatch(text):
            yield at, message, "a Kemendagri code such as 32.73", False
        case Kind.DIGEST if not SHA256.fullmatch(text):
            yield at, message, "64 hexadecimal digits", False
        case Kind.TEXT | Kind.NAME if not text.strip() or "\0" in text:
            yield at, message, "an empty text is no value; leave the key out", False
        case Kind.TEXT | Kind.NAME if 0 < column.length_max < len(text):
            yield at, message, f"at most {column.length_max} characters", False
        case _:
            return


def _date(text: str) -> date | None:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _depth(names: rules.Names, column: Column, contract: Entity, at: tuple[str | int, ...]) -> Iterator[Finding]:
    if column.name in contract.placed and names.district is None:
        yield (*at, "region"), "a member's region must reach down to the district", "add `city` and `district`", True
    if column.name == "kode_kelurahan" and not contract.placed and names.village is None:
        yield (*at, "region"), "`kode_kelurahan` needs `village`", "name its column", True


# ------------------------------------------------------------------------------------------------- tests


def _examples(mapping: EntityMapping, at: tuple[str | int, ...]) -> Iterator[Finding]:
    known = inputs(mapping)
    targets = {rule.column for rule in mapping.rules}
    if targets.intersection(MEMBER_RULE_COLUMNS) and mapping.name == "anggota":
        targets.update(MEMBER_PLACE)
    for index, example in enumerate(mapping.examples):
        place = (*at, "tests", index)
        if example.gives is None and example.rejects is None and example.findings is None:
            yield place, "a test needs `gives`, `rejects` or `findings`", "say what the row must lead to", True
        for name in example.row:
            if name not in known:
                hint = closest(name, map(shown, known))
                yield (*place, "row", name), f"no rule reads the view column `{shown(name)}`", hint, True
        for name in example.gives or ():
            if name not in targets:
                yield (
                    (*place, "gives", name),
                    f"`{shown(name)}` is not mapped",
                    closest(name, map(shown, targets)),
                    True,
                )
        for code in example.rejects or ():
            if code not in REJECTING:
                yield (*place, "rejects"), f"no such reason: `{shown(code)}`", closest(code, REJECTING), False
        for code in example.findings or ():
            if code not in FINDINGS:
                yield (*place, "findings"), f"no such finding: `{shown(code)}`", closest(code, FINDINGS), False
