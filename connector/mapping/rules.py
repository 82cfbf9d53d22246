"""A checked mapping document as plain values: where each staging column comes from and what is done on the way.

Made by `document.load` only. Nothing here is validated again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Policy(Enum):
    """What becomes of a value that cannot be used."""

    QUARANTINE = "quarantine"  # the row is not staged
    NULL = "null"  # the cell is left empty, and a finding says so
    DEFAULT = "default"  # the rule's `default` takes its place, and a finding says so


# ------------------------------------------------------------------------------------------------- where from


@dataclass(frozen=True, slots=True)
class From:
    """One view column."""

    column: str


@dataclass(frozen=True, slots=True)
class Const:
    """The same text in every row."""

    text: str


@dataclass(frozen=True, slots=True)
class Join:
    """Several view columns with `between` them; empty ones are left out and blanks collapsed."""

    columns: tuple[str, ...]
    between: str


@dataclass(frozen=True, slots=True)
class KeyOf:
    """The source key that another entity makes from these view columns."""

    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """A region as names, from the top down."""

    province: str
    city: str | None
    district: str | None
    village: str | None


@dataclass(frozen=True, slots=True)
class Nothing:
    """No cell of its own: the value is derived."""


Source = From | Const | Join | KeyOf | Names | Nothing


# ------------------------------------------------------------------------------------------------- what is done


@dataclass(frozen=True, slots=True)
class Split:
    """What stands before or after the first or last `on`. Without one: nothing, or (`whole`) the cell itself."""

    on: str
    last: bool
    before: bool
    whole: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """`length` characters (0: to the end) from the character `start`, counted from 1."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Trim:
    """No blanks at either end."""


@dataclass(frozen=True, slots=True)
class Case:
    """All letters upper or lower."""

    upper: bool


@dataclass(frozen=True, slots=True)
class Digits:
    """Digits only; a number that a spreadsheet rounded is refused."""


@dataclass(frozen=True, slots=True)
class Pad:
    """Filled up on the left to `width` characters."""

    width: int
    filler: str


@dataclass(frozen=True, slots=True)
class Codes:
    """The party's code to the contract's; what has none follows `unknown`."""

    pairs: tuple[tuple[str, str], ...]
    unknown: Policy


@dataclass(frozen=True, slots=True)
class DateFormat:
    """How a date is written. `blanks` are dates that mean "not known"; with `time` a time of day may follow."""

    format: str
    time: bool
    blanks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RtRw:
    """One half of a combined RT/RW cell."""

    rw: bool


@dataclass(frozen=True, slots=True)
class Region:
    """A region code: `kemendagri`, `bps` (through the bridge table), or `names`."""

    system: str


@dataclass(frozen=True, slots=True)
class SexFromNik:
    """Where the cell gives no sex, the NIK does."""


Step = Split | Slice | Trim | Case | Digits | Pad | Codes | DateFormat | RtRw | Region | SexFromNik


@dataclass(frozen=True, slots=True)
class Rule:
    """One staging column: where from, the steps in the order they are done, and what an unusable value becomes."""

    column: str
    source: Source
    steps: tuple[Step, ...] = ()
    required: bool = False
    default: str | None = None
    on_invalid: Policy = Policy.QUARANTINE

    def view_columns(self) -> tuple[str, ...]:
        """The view columns this rule reads."""
        match self.source:
            case From(column):
                return (column,)
            case Join(columns) | KeyOf(columns):
                return columns
            case Names(province, city, district, village):
                return tuple(name for name in (province, city, district, village) if name is not None)
            case _:
                return ()


# ------------------------------------------------------------------------------------------------- the document


@dataclass(frozen=True, slots=True)
class Condition:
    """A row goes on only when the view column holds one of these texts; else it is quarantined with `reason`."""

    column: str
    texts: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """How a change in a base table finds view keys. Neither `key` nor `match`: the entity is scanned again."""

    table: tuple[str, str]
    key: Mapping[str, str]
    match: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """A row of the file's `tests:`. `gives`, `rejects` and `findings` are what it must lead to; `line` is its place."""

    name: str
    row: Mapping[str, str | None]
    gives: Mapping[str, str | None] | None
    rejects: tuple[str, ...] | None
    findings: tuple[str, ...] | None
    line: int = 0


@dataclass(frozen=True, slots=True)
class EntityMapping:
    """One staging entity of a party."""

    name: str
    view: tuple[str, str]
    key: tuple[str, ...]
    when: tuple[Condition, ...]
    rules: tuple[Rule, ...]
    lineage: tuple[Lineage, ...] = ()
    examples: tuple[Example, ...] = ()

    def rule(self, column: str) -> Rule | None:
        return next((rule for rule in self.rules if rule.column == column), None)


@dataclass(frozen=True, slots=True)
class Document:
    """A whole, checked mapping file. `digest` is SHA-256 over its content without tests, layout and comments."""

    party: str
    version: str
    entities: Mapping[str, EntityMapping]
    digest: str
