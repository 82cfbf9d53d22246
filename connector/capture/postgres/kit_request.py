"""What a kit is asked for, the names it uses, and the limits it keeps. Plain values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from connector.errors import UsageError

Mode = Literal["pull", "stream"]

# PostgreSQL's rule for slot names, less what our suffixes (`_penjaga`, `_confirm`) need of NAMEDATALEN.
SLOT_NAME = re.compile(r"[a-z0-9_]{1,55}")
NAME_BYTES_MAX = 63
# The daemon holds three sessions per party; the rest is for `check` beside it and for ones that the server has not
# yet noticed are gone.
READER_CONNECTIONS_MAX = 8
# A kit that waits for a lock makes the party's writers queue behind it: better to fail and be run again.
LOCK_TIMEOUT_S = 5
# First minors whose `output_plugin_libraries` keeps a REPLICATION login from loading any library (CVE-2026-6471).
REPLICATION_MINOR_MIN = {15: 19, 16: 15, 17: 11, 18: 6}
# Membership in any of these would give the reader more than the views.
POWERFUL_ROLES = (
    "pg_read_all_data",
    "pg_write_all_data",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_execute_server_program",
    "pg_monitor",
    "pg_read_all_settings",
    "pg_read_all_stats",
    "pg_signal_backend",
    "pg_maintain",
    "pg_create_subscription",
)
MARK = "sipol-connector kit"


@dataclass(frozen=True, slots=True)
class KitTable:
    """A base table to follow. Its `key_columns` (lineage's key or match) must reach the log when a row leaves a key."""

    schema: str
    name: str
    key_columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KitRequest:
    """What one party's kit is about. `views` are what the reader may SELECT: schema and name."""

    party: str
    mode: Mode
    slot: str
    publication: str
    reader: str
    tables: tuple[KitTable, ...]
    views: tuple[tuple[str, str], ...]
    schema: str = "sipol"
    accept_risk: bool = field(default=False, kw_only=True)

    @property
    def guardian(self) -> str:
        return guardian_name(self.slot)


def guardian_name(slot: str) -> str:
    """The NOLOGIN role that owns the functions of a slot."""
    return f"{slot}_penjaga"


def peek_name(slot: str) -> str:
    return f"{slot}_peek"


def confirm_name(slot: str) -> str:
    return f"{slot}_confirm"


def release_name(slot: str) -> str:
    return f"{slot}_release"


def refuse_bad_names(request: KitRequest) -> None:
    if not SLOT_NAME.fullmatch(request.slot):
        raise UsageError(
            f"slot name {request.slot!r} cannot be used",
            hint="1 to 55 small letters, digits and underscores",
            place=request.party,
        )
    if request.mode not in ("pull", "stream"):
        raise UsageError(f"there is no kit for mode {request.mode!r}", hint="pull or stream", place=request.party)
    for name in _names(request):
        # A line break is legal in a PostgreSQL name, and has no business in a script that a person is to review.
        if not name or not name.isprintable() or len(name.encode()) > NAME_BYTES_MAX:
            hint = "1 to 63 bytes, no control character"
            raise UsageError(f"{name!r} cannot be a name in a kit", hint=hint, place=request.party)


def _names(request: KitRequest) -> list[str]:
    names = [request.publication, request.reader, request.schema]
    for table in request.tables:
        names += [table.schema, table.name, *table.key_columns]
    for view in request.views:
        names += view
    return names
