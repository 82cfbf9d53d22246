"""What the runtime asks of the stages and of whoever puts them together. Pure: protocols and plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from connector.capture.signals import Signals
from connector.events import Position, SourceIdentity
from connector.staging.party import PartyStaging, Report
from connector.staging.plan import EntityPlan
from connector.view.postgres import PostgresView

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
    def open_view(self) -> PostgresView: ...
    def open_source(self, stored: Position | None, identity: SourceIdentity | None, wait: Wait) -> Source: ...
