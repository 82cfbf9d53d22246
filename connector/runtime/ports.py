"""What the runtime asks of the stages and of whoever puts them together. Pure: protocols and plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from connector.capture.signals import Signals
from connector.events import Position, SourceIdentity
from connector.staging.party import PartyStaging, Report
from connector.staging.plan import EntityPlan
from connector.view.blocks import Block
from connector.view.shape import ViewShape

# Sleeps up to so many seconds and says whether to stop.
Wait = Callable[[float], bool]


class Source(Protocol):
    """A party's change stream, in any capture mode."""

    @property
    def identity(self) -> SourceIdentity:
        """Which cluster, history and slot the positions belong to."""

    @property
    def start(self) -> Position:
        """The position that reading begins after."""

    def read(self, timeout_s: float) -> Signals | None:
        """What was touched next, in whole transactions; None where nothing came within `timeout_s`."""

    def confirm(self, position: Position) -> None:
        """Let the source forget up to `position`. Only after staging has committed it."""

    def lag_bytes(self) -> int:
        """Log the party's server keeps for us."""

    def give_up(self) -> None:
        """Let the party's server forget everything it keeps for us: its disk is in danger. A resync follows."""

    def close(self) -> None: ...


class Snapshot(Protocol):
    """What one read of the party's views sees, from `View.begin` to `View.end`."""

    @property
    def position(self) -> int:
        """Reads with a larger one are never older; 0 where the engine has no such number."""

    def shows(self, xids: Iterable[int]) -> bool:
        """Whether every one of these transactions, as the log has them, is visible."""


class View(Protocol):
    """A reading session at one party. One thread at a time; one snapshot at a time."""

    def shape(self, entity: str, view: tuple[str, str], key: Sequence[str], inputs: Sequence[str]) -> ViewShape:
        """Look the view up; raises `EntityHeld` where it is not what the mapping needs."""

    def begin(self) -> Snapshot:
        """Open the snapshot that everything is read under until `end`."""

    def end(self) -> None: ...

    def fetch(self, shape: ViewShape, keys: Sequence[str]) -> Iterator[Block]:
        """What the view says for these keys; a key it does not have gives no row, and no other key does."""

    def chunk(self, shape: ViewShape, after: str | None, rows: int) -> Iterator[Block]:
        """The next rows in key order after a place, at least `rows` where there are that many; see `Block.last_key`."""

    def null_keys(self, shape: ViewShape, rows: int) -> Iterator[Block]:
        """Up to `rows` rows whose key has a NULL."""

    def matching(self, shape: ViewShape, columns: Sequence[str], values: Sequence[Sequence[str]]) -> Iterator[str]:
        """Keys of the rows whose `columns` have one of these values."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ViewName:
    """Which view an entity is read from: schema and name, key columns, columns to read (key first)."""

    name: tuple[str, str]
    key: tuple[str, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker may take at a time; see the configuration reference for units and reasons."""

    batch_rows: int
    copy_rows: int
    keys_in_memory: int
    poll_s: float
    delete_share_max: float
    lag_warn_bytes: int
    lag_drop_bytes: int
    quarantine_rows_max: int = 50_000
    quarantine_days: float = 30.0
    unanchored_s_max: float | None = None


class Party(Protocol):
    """Opens sessions for one party; made by `app`, the only place that knows the concrete classes."""

    @property
    def name(self) -> str: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def plans(self) -> Mapping[str, tuple[EntityPlan, ViewName]]: ...

    def open_staging(self) -> PartyStaging: ...
    def report(self, report: Report) -> None: ...
    def guard_disk(self) -> None: ...
    def open_view(self) -> View: ...
    def open_source(self, stored: Position | None, identity: SourceIdentity | None, wait: Wait) -> Source: ...

    def rerouted(self) -> bool:
        """Whether the views' definitions give other routes than the open source follows: it is to be opened anew."""
