"""The outbox as a leg of a polled source: take what is noted, hand it over, and remove it once it is applied.

There is no cursor, so no order of commits can hide a note: what commits late is simply still there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TypeVar

import structlog

from connector.capture.outbox.ports import ChangeTable, Row, State
from connector.capture.outbox.request import GONE
from connector.capture.polling.ports import Found
from connector.capture.signals import KeySet, Match, Route, Routes
from connector.errors import PositionLost, SourceMisconfigured, SourceProtocolError
from connector.events import short_parts, source_key

# Keys taken at a time, about. A larger transaction arrives in parts, which re-reading makes harmless.
ROWS_MAX = 20_000


class OutboxLeg:
    """One party's change table."""

    def __init__(self, table: ChangeTable, routes: Routes, *, every_s: float, keys_in_memory: int) -> None:
        self.every_s = every_s
        self._table = table
        self._routes = routes
        self._keys_in_memory = keys_in_memory
        self._ids: Sequence[int] = ()
        self._mending = False
        self._log = structlog.get_logger()

    def close(self) -> None:
        self._table.close()

    def learn(self) -> None:
        """A history begins: hand-overs are counted anew. Notes that are there stay, and cost a second look."""
        state = self._exists()
        if state.lost and not state.reopened:
            self._table.reopen()
        self._table.remove((), 0, mended=True)

    def _exists(self) -> State:
        state = self._table.state()
        if state is None:
            raise SourceMisconfigured(
                "there is no change table", hint="the party's DBA runs the kit's SQL: `connector kit PARTY`"
            )
        return state

    def resume(self, handed: int) -> None:
        """Compare with what staging has.

        Raises:
            PositionLost: notes were removed after a hand-over that staging does not know of.
            SourceMisconfigured: there is no change table.
        """
        removed = self._exists().handed
        if removed > handed:
            raise PositionLost(
                "position_ahead", f"notes were removed after hand-over {removed}, staging has {handed}",
                hint="staging was restored from a backup: `connector resync PARTY`",
            )  # fmt: skip

    def round(self) -> Iterator[Found]:
        state = self._exists()
        if state.lost:
            yield self._lost(state)
        while (notes := self._table.rows(ROWS_MAX)).rows:
            find = _Touched(self._keys_in_memory)
            for row in notes.rows:
                find.add(row, self._routes.get(row.table, ()))
            self._ids = [row.id for row in notes.rows]
            yield find.found()
            if notes.whole:
                return

    def _lost(self, state: State) -> Found:
        """Notes were left out: make room first, so that from here on all is noted, then look at everything."""
        if not state.reopened:
            self._table.reopen()
        self._mending = True
        self._log.warning(
            "notes_lost",
            hint="the change table was full while we were away: every view is read whole; see notes_max in the kit",
        )
        return Found(whole=frozenset(route.entity for routes in self._routes.values() for route in routes))

    def applied(self, handed: int) -> None:
        """What was last handed over is in staging."""
        if self._ids or self._mending:
            self._table.remove(self._ids, handed, mended=self._mending)
            self._ids, self._mending = (), False


_Of = TypeVar("_Of", str, Match)


class _Touched:
    """Gathers what the notes of one hand-over touch."""

    def __init__(self, keys_in_memory: int) -> None:
        self._keys_in_memory = keys_in_memory
        self._keys: dict[str, KeySet] = {}
        self._matches: dict[Match, KeySet] = {}
        self._whole: set[str] = set()

    def add(self, row: Row, routes: Sequence[Route]) -> None:
        for route in routes:
            columns = route.key or route.match
            noted = row.keys[0] if row.keys else None
            if noted is None or not columns or any(column not in noted for _, column in columns):
                # A truncate, a table without a key path, or a kit older than the mapping: look at all of it.
                self._whole.add(route.entity)
                continue
            for values in row.keys or ():
                self._add_key(route, [values[column] for _, column in columns], gone=values.get(GONE) is not None)

    def _add_key(self, route: Route, texts: Sequence[str | None], *, gone: bool) -> None:
        parts = tuple(text for text in texts if text is not None)
        if len(parts) < len(texts):
            return  # a NULL: such a row is never staged, nor joined
        if gone and route.match and not route.stays:
            # Rows that left the view with it cannot be found by a value that they no longer show.
            self._whole.add(route.entity)
        if route.key:
            self._set(self._keys, route.entity).add(source_key(short_parts(parts)))
        else:
            match = Match(route.entity, tuple(name for name, _ in route.match))
            self._set(self._matches, match).add(source_key(parts))

    def _set(self, sets: dict[_Of, KeySet], of: _Of) -> KeySet:
        if of not in sets:
            sets[of] = KeySet(self._keys_in_memory)
        return sets[of]

    def found(self) -> Found:
        return Found(self._keys, (), self._matches, frozenset(self._whole))


def parse(number: object, table: object, values: object) -> Row:
    """A row of the change table, as any engine gives it.

    Raises:
        SourceProtocolError: it is not what the kit's triggers write.
    """
    try:
        schema, _, name = _text(table).partition(".")
        found = None if values is None else json.loads(_text(values))
        return Row(int(_text(number)), (schema, name), None if found is None else _keys(found))
    except (ValueError, AttributeError):
        raise SourceProtocolError(
            "the change table holds a row that the kit's triggers did not write",
            hint="the party's DBA removes it, or removes the kit and installs it again",
        ) from None


def _keys(found: dict[str, object]) -> tuple[dict[str, str | None], ...]:
    """A note's keys: a text for each column, or for each column a list of as many texts as there are keys."""
    columns = [value if isinstance(value, list) else [value] for value in found.values()]
    if not columns or not all(text is None or isinstance(text, str) for column in columns for text in column):
        raise ValueError
    return tuple(dict(zip(found, texts, strict=True)) for texts in zip(*columns, strict=True))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
