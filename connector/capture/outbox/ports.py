"""What the outbox's leg asks of a party's change table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Row:
    """A note: the base table, and its key columns' text for each row that changed; None where all of it did."""

    id: int
    table: tuple[str, str]
    keys: tuple[Mapping[str, str | None], ...] | None


@dataclass(frozen=True, slots=True)
class Notes:
    """The oldest notes; `whole` where no more are there."""

    rows: Sequence[Row]
    whole: bool


@dataclass(frozen=True, slots=True)
class State:
    """The hand-over after which notes were last removed, and whether any were left out since because of no room.

    `reopened` says that there is room again; the loss stays until it is mended.
    """

    handed: int
    lost: bool = False
    reopened: bool = False


class ChangeTable(Protocol):
    """The change table of one party, made by the kit."""

    def state(self) -> State | None:
        """How it stands; None where there is no change table.

        Raises `SourceMisconfigured` where it may not be read.
        """

    def rows(self, limit: int) -> Notes:
        """Notes that are visible now, oldest first, of about `limit` keys."""

    def remove(self, ids: Sequence[int], handed: int, *, mended: bool = False) -> None:
        """Remove exactly these notes, and write down after which hand-over; `mended`: what was lost is in staging."""

    def reopen(self) -> None:
        """Make room for notes again; writes down that some were lost."""

    def close(self) -> None: ...
