"""What polling asks of the party's database and of staging. Pure: protocols and plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from connector.capture.signals import KeySet, Match
from connector.events import Bucket, Note


@dataclass(frozen=True, slots=True)
class PolledView:
    """A view as the mapping names it: schema and name, key columns, columns to read (key first)."""

    entity: str
    name: tuple[str, str]
    key: tuple[str, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Total:
    """How many rows a stretch has, and their digests folded by exclusive or."""

    rows: int
    digest: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A row: its staging key (None where it has no text) and the digest of all its cells, 128 bits."""

    key: str | None
    digest: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows in key order, and the place of the last one; `whole` says nothing follows up to the end asked for."""

    rows: Sequence[Seen]
    last: str
    whole: bool


class Digests(Protocol):
    """Reads a view as digests. A place is text in the engine's own words; None is the beginning or the end."""

    def look(self, view: PolledView) -> bool:
        """Look the view up again; False where it cannot be read as the mapping needs it."""

    def total(self, view: PolledView, after: str | None, upto: str | None) -> Total:
        """Of the rows with a key in (after, upto]. Raises `EntityHeld` where the view went meanwhile."""

    def stretch(self, view: PolledView, after: str | None, upto: str | None, rows: int) -> Stretch:
        """The first `rows` rows with a key in (after, upto]."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in the order of a column: staging key, the column's value, a digest of all cells; the place of the last."""

    rows: Sequence[tuple[str | None, str, int]]
    last: str
    whole: bool


class Rising(Protocol):
    """Reads a view along a column that rises with every change. A value is text in the engine's own words."""

    def look(self, view: PolledView) -> bool: ...

    def has(self, view: PolledView, column: str) -> bool:
        """Whether the view has the column; after `look`."""

    def highest(self, view: PolledView, column: str) -> str | None:
        """The column's largest value; None where it has none."""

    def since(self, view: PolledView, column: str, value: str | None, overlap: float, *, rows: int) -> Page:
        """The first rows whose value is no smaller than `value` less `overlap` (in its units; seconds for times)."""

    def next_page(self, view: PolledView, column: str, last: str, *, rows: int) -> Page:
        """The rows behind a page."""

    def close(self) -> None: ...


class Memory(Protocol):
    """What was last seen, as staging has it."""

    def buckets(self, entity: str) -> Sequence[Bucket]: ...
    def marks(self, entity: str, ordinal: Decimal) -> tuple[Sequence[str], bytes]: ...
    def cursor(self, entity: str) -> str | None: ...
    def begin(self, entity: str, buckets: Iterable[Bucket]) -> None: ...
    def begin_cursor(self, entity: str, value: str | None) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Found:
    """Part of a round's work: keys that may have changed, and what to remember with them."""

    keys: Mapping[str, KeySet] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    matches: Mapping[Match, KeySet] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()


class Leg(Protocol):
    """One thing to look at again and again."""

    @property
    def every_s(self) -> float: ...

    def learn(self) -> None:
        """Remember how things are now. Only before a history begins: a copy of everything follows."""

    def resume(self, handed: int) -> None:
        """Go on after hand-over `handed`. Raises `PositionLost` where that cannot be."""

    def round(self) -> Iterator[Found]:
        """Look once. What is found must be applied before the iterator is asked for more."""

    def applied(self, handed: int) -> None:
        """What was last found is in staging, as hand-over `handed`."""

    def close(self) -> None: ...
