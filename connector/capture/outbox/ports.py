"""What the outbox's leg asks of a party's change table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Row:
    """A noted change: the base table, and its key columns' text; None where the whole table changed (TRUNCATE)."""

    id: int
    table: tuple[str, str]
    values: Mapping[str, str | None] | None


class ChangeTable(Protocol):
    """The change table of one party, made by the kit."""

    def handed(self) -> int | None:
        """The hand-over after which notes were last removed; None where there is no change table.

        Raises `SourceMisconfigured` where it may not be read.
        """

    def rows(self, limit: int) -> Sequence[Row]:
        """Notes that are visible now, oldest first."""

    def remove(self, ids: Sequence[int], handed: int) -> None:
        """Remove exactly these notes, and write down after which hand-over: one transaction."""

    def close(self) -> None: ...
