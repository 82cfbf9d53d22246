"""One tree of errors, a class per reaction.

An error carries facts as attributes and a `hint` an operator can act on. Messages are built from
names, codes and counts of our own, never from a driver's text: a driver's DETAIL carries cell values.
`runtime/policy.py` turns a class into retry or halt.
"""

from __future__ import annotations


class ConnectorError(Exception):
    """Base of all. `hint` says what to do; `place` says where (`file:line:column`, party, entity)."""

    def __init__(self, message: str, *, hint: str = "", place: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.place = place

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class UsageError(ConnectorError):
    """The command line, configuration or mapping is wrong: exit code 2."""


class ConfigError(UsageError):
    """connector.yaml, or a file or variable it names, cannot be used; `problems` lists them all."""

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), hint: str = "", place: str = "") -> None:
        super().__init__(message, hint=hint, place=place)
        self.problems = problems


class MappingError(UsageError):
    """A mapping file has problems; `problems` lists them all."""

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), hint: str = "", place: str = "") -> None:
        super().__init__(message, hint=hint, place=place)
        self.problems = problems


class EnvironmentMissing(ConnectorError):
    """No server, no permission, no program: exit code 3."""


class SourceError(ConnectorError):
    """Something at the party's side."""


class SourceUnavailable(SourceError):
    """The party cannot be reached or cut us off; retry with back-off."""


class SourceBusy(SourceError):
    """A time limit or lock limit was hit at the party; retry with less work at a time."""


class SourceProtocolError(SourceError):
    """The party's server broke its own protocol: halt this party."""


class SourceMisconfigured(SourceError):
    """The party's side is set up so that changes would be missed (publication, grants): wait for its DBA."""


class PositionLost(SourceError):
    """The stored position can no longer be trusted: `needs_resync`, never "continue from now".

    `reason` is stable: position_ahead, position_lost, slot_missing, slot_lost, slot_given_up, diverged,
    identity_changed.
    """

    def __init__(self, reason: str, message: str, *, hint: str = "", place: str = "") -> None:
        super().__init__(message, hint=hint, place=place)
        self.reason = reason


class EntityHeld(ConnectorError):
    """One entity cannot go on (view gone, column gone, permission revoked, brake); the others can.

    `reason` is stable: view_missing, view_changed, view_failed, permission_denied, delete_brake, mapping_failed,
    quarantine_budget, stage_closed.
    """

    def __init__(self, entity: str, reason: str, message: str, *, hint: str = "", deletes: int = 0) -> None:
        super().__init__(message, hint=hint, place=entity)
        self.entity = entity
        self.reason = reason
        self.deletes = deletes


class StagingError(ConnectorError):
    """Something at our own database."""


class StagingUnavailable(StagingError):
    """Staging cannot be reached, is full, or asked us to repeat; retry with back-off."""


class StagingIncompatible(StagingError):
    """Staging has another schema version than this program, or a role lacks rights."""


class Fenced(StagingError):
    """Another daemon has taken this party over: stop at once, write nothing."""


class StaleRead(StagingError):
    """A read older than one already applied; read again."""


class Unanchored(StagingError):
    """The audit log has been without an anchor for longer than the policy allows: nothing is taken from a party."""


class AuditBroken(ConnectorError):
    """The audit log does not verify; `party` and `seq` name the first broken entry."""

    def __init__(self, party: str, seq: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, place=f"{party}#{seq}")
        self.party = party
        self.seq = seq
