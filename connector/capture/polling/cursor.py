"""Follow a column that rises with every change: cheap and quick, and blind to deletes (the diff beside it sees them).

Each look goes back a little, so that a transaction that commits late, and rows with the same value, are met. What
was met there before is not signalled again. NULLs, and late commits beyond the overlap, are the diff's as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation

import structlog

from connector.capture.polling.ports import Found, Memory, Page, PolledView, Rising
from connector.capture.signals import KeySet
from connector.errors import EntityHeld, SourceMisconfigured
from connector.events import Cursor, short_key

# Rows read at a time, and handed over at a time.
PAGE_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Followed:
    """Which column, how far each look goes back (its units; seconds for times), and how often to look."""

    column: str
    overlap: float
    every_s: float


class CursorLeg:
    """Follows one column of all of a party's views that have it."""

    def __init__(
        self, views: Sequence[PolledView], reader: Rising, memory: Memory, followed: Followed, keys_in_memory: int
    ) -> None:
        self.every_s = followed.every_s
        self._views = tuple(views)
        self._reader = reader
        self._memory = memory
        self._column = followed.column
        self._overlap = followed.overlap
        self._keys_in_memory = keys_in_memory
        # What was met within the overlap before, by entity: a number for each row as it was.
        self._met: dict[str, frozenset[int]] = {}
        self._log = structlog.get_logger()

    def close(self) -> None:
        self._reader.close()

    def learn(self) -> None:
        """Begin at the highest value there is: a copy of everything follows.

        Raises:
            SourceMisconfigured: no view has the column.
        """
        followed = [view for view in self._views if self._follows(view)]
        if self._views and not followed:
            raise SourceMisconfigured(
                f"no view has a column `{self._column}` to follow",
                hint="name the column under `cursor:`, or let the party's DBA show it in the views",
            )
        for view in followed:
            value = self._reader.highest(view, self._column)
            self._memory.begin_cursor(view.entity, value)

    def _follows(self, view: PolledView) -> bool:
        return self._reader.look(view) and self._reader.has(view, self._column)

    def resume(self, handed: int) -> None:
        """What was seen is in staging, whatever the number."""

    def applied(self, handed: int) -> None:
        """What was seen moved with the batch."""

    def round(self) -> Iterator[Found]:
        """Look once at every view that has the column; the others are left to the diff."""
        for view in self._views:
            try:
                if self._follows(view):
                    yield from self._follow(view)
            except EntityHeld as held:
                # Whoever watches the views holds the entity, with the same reason.
                self._log.info("view_not_followed", entity=view.entity, reason=held.reason)

    def _follow(self, view: PolledView) -> Iterator[Found]:
        known = self._memory.cursor(view.entity)
        met = self._met.get(view.entity, frozenset())
        now: set[int] = set()
        highest = known
        page = self._reader.since(view, self._column, known, self._overlap, rows=PAGE_ROWS)
        while True:
            keys = self._unmet(view, page, met, now)
            highest = page.rows[-1][1] if page.rows else highest
            # Only the last page's value is the highest: one before it may lie behind what is remembered.
            notes = (Cursor(view.entity, highest),) if page.whole and highest and highest != known else ()
            if len(keys) or notes:
                yield Found({view.entity: keys} if len(keys) else {}, notes)
            if page.whole:
                self._met[view.entity] = frozenset(now)
                return
            page = self._reader.next_page(view, self._column, page.last, rows=PAGE_ROWS)

    def _unmet(self, view: PolledView, page: Page, met: frozenset[int], now: set[int]) -> KeySet:
        keys = KeySet(self._keys_in_memory)
        for row in page.rows:
            # With its digest: a second change may leave the value as it was (seconds are coarse).
            key, mark = row[0], hash(row)
            now.add(mark)
            if mark not in met and key is not None:
                keys.add(short_key(key, len(view.key)))
        return keys


def earlier(value: object, overlap: float) -> object:
    """A value less `overlap`: a number's units, a time's seconds. What is neither stays as it is."""
    match value:
        case bool():
            return value
        case int():
            return value - int(overlap)
        case float():
            return value - overlap
        case Decimal():
            return value - _decimal(overlap)
        case datetime():
            return value - timedelta(seconds=overlap)
        case bytes():
            return max(0, int.from_bytes(value, "big") - int(overlap)).to_bytes(len(value), "big")
        case str():
            return _earlier_text(value, overlap)
    return value


def _earlier_text(text: str, overlap: float) -> str:
    try:
        return format(Decimal(text) - _decimal(overlap), "f") if text.strip() == text else text
    except InvalidOperation:
        pass
    try:
        moment = datetime.fromisoformat(text) - timedelta(seconds=overlap)
    except (ValueError, OverflowError):
        return text
    return moment.isoformat("T" if "T" in text else " ")


def _decimal(number: float) -> Decimal:
    return Decimal(int(number)) if number.is_integer() else Decimal(str(number))
