"""Signals: which keys of which entities may have changed, gathered until the pipeline takes them.

No sockets, no clock. Keys past a limit go to a temporary file that has no name, so that a transaction of
millions of changes stays in bounded memory.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO

from connector.events import Note, Position


class KeySet:
    """Distinct keys in the order they came; beyond `memory_max` they are kept on disk.

    A key that came again after its first mention went to disk is given twice. That costs a second look,
    nothing else.
    """

    def __init__(self, memory_max: int) -> None:
        self._memory_max = memory_max
        self._keys: dict[str, None] = {}
        self._file: IO[bytes] | None = None
        self._spilled = 0

    def add(self, key: str) -> None:
        self._keys[key] = None
        if len(self._keys) >= self._memory_max:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            # Lives as long as the set does; it has no name, so nobody else can open it.
            self._file = tempfile.TemporaryFile(prefix="sipol-keys-")  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        self._file.seek(0, os.SEEK_END)  # a walk that was given up may have left it anywhere
        self._file.writelines(key.encode().hex().encode() + b"\n" for key in self._keys)
        self._spilled += len(self._keys)
        self._keys = {}

    def __len__(self) -> int:
        return self._spilled + len(self._keys)

    def slices(self, rows_max: int) -> Iterator[list[str]]:
        """All keys, at most `rows_max` at a time, none twice in one slice; may be walked again."""
        part: dict[str, None] = {}
        for key in self._all():
            part[key] = None
            if len(part) >= rows_max:
                yield list(part)
                part = {}
        if part:
            yield list(part)

    def _all(self) -> Iterator[str]:
        if self._file is not None:
            self._file.seek(0)
            for line in self._file:
                yield bytes.fromhex(line.decode().strip()).decode()
        yield from self._keys


@dataclass(frozen=True, slots=True)
class Match:
    """Values of a joined table's columns that changed: the view's rows with them in `columns` are touched."""

    entity: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Signals:
    """What the pipeline takes: whole transactions, up to and including `position`.

    `whole` names entities of which every row may have changed. `xids` are the transactions (32-bit ids as
    the log has them) that a re-read must see. The commit times are the party's clock.
    """

    position: Position
    keys: Mapping[str, KeySet]
    matches: Mapping[Match, KeySet]
    whole: frozenset[str]
    xids: tuple[int, ...]
    transactions: int
    committed_first: datetime | None
    committed_last: datetime | None
    read_s: float = 0.0
    # What a source without a log has seen; remembered when these signals are applied, and not before.
    notes: tuple[Note, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.keys and not self.matches and not self.whole and not self.notes


class SignalBuffer:
    """Gathers what transactions touch; `take` hands it over and begins anew."""

    def __init__(self, keys_in_memory: int) -> None:
        self._keys_in_memory = keys_in_memory
        self._clear()

    def _clear(self) -> None:
        self._keys: dict[str, KeySet] = {}
        self._matches: dict[Match, KeySet] = {}
        self._whole: set[str] = set()
        self._xids: list[int] = []
        self._first_us = 0
        self._last_us = 0

    def keys(self, entity: str) -> KeySet:
        """The set to add an entity's touched keys to."""
        if entity not in self._keys:
            self._keys[entity] = KeySet(self._keys_in_memory)
        return self._keys[entity]

    def matches(self, match: Match) -> KeySet:
        """The set to add a joined table's changed values to (as `source_key` texts)."""
        if match not in self._matches:
            self._matches[match] = KeySet(self._keys_in_memory)
        return self._matches[match]

    def whole(self, entity: str) -> None:
        self._whole.add(entity)

    def committed(self, xid: int, at_us: int) -> None:
        """A whole transaction is in; `at_us` is its commit time in microseconds since 2000-01-01 UTC."""
        self._xids.append(xid)
        self._first_us = self._first_us or at_us
        self._last_us = at_us

    @property
    def transactions(self) -> int:
        return len(self._xids)

    def take(self, position: Position, *, read_s: float = 0.0) -> Signals:
        """Everything gathered, as covered by `position`; `read_s` is how long reading it took."""
        taken = Signals(
            position, self._keys, self._matches, frozenset(self._whole), tuple(self._xids), len(self._xids),
            _time(self._first_us), _time(self._last_us), read_s,
        )  # fmt: skip
        self._clear()
        return taken


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def _time(microseconds: int) -> datetime | None:
    if not microseconds:
        return None
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:  # a clock out of its mind must not stop the party
        return None


@dataclass(frozen=True, slots=True)
class Route:
    """How a base table's change touches one entity.

    `key` maps each key column of the view to the table's column; or `match` maps view columns to the
    table's columns (a joined table without the view's key); neither: every row may be touched. `stays`: no row
    leaves the view with a row of the table, so what `match` finds in the view is all that was touched.
    """

    entity: str
    key: tuple[tuple[str, str], ...] = ()
    match: tuple[tuple[str, str], ...] = ()
    stays: bool = False


# Schema and name of a base table -> what its changes touch.
Routes = Mapping[tuple[str, str], tuple[Route, ...]]


Image = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Touched:
    """What one changed row touches: view keys, values to look for in the view, or all of it."""

    keys: frozenset[tuple[str, ...]] = frozenset()
    values: frozenset[tuple[str, ...]] = frozenset()
    whole: bool = False


def touched(route: Route, before: Image | None, after: Image | None) -> Touched:
    """What a row's change touches by one route; None where the row was not there before, or is not any more."""
    if not route.key and not route.match:
        return Touched(whole=True)
    columns = [column for _, column in route.key or route.match]
    old, new = (None if row is None else tuple(row[column] for column in columns) for row in (before, after))
    # A NULL joins nothing, and no row of a view is staged under one.
    found = frozenset(
        tuple(value for value in one if value is not None) for one in (old, new) if one is not None and None not in one
    )
    if route.key:
        return Touched(keys=found)
    # Rows that are gone from the view cannot be found by what they showed.
    return Touched(values=found, whole=old is not None and None not in old and old != new and not route.stays)
