"""Requests of a person about his or her data (UU 27/2022): where it stands, a copy of it, its erasure.

The number is never shown, logged or put into the audit log. Erasing is a wish: only the daemon writes a party's rows.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from connector.errors import ConnectorError, EnvironmentMissing, UsageError
from connector.ops.quarantine import masked
from connector.staging import subjects
from connector.staging.session import translated
from connector.staging.subjects import Place


class StillSent(ConnectorError):
    """The party's view still has the person: erased here alone, the row would come back."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a person stands. `audit_entries` hold the number itself: there must be none."""

    places: tuple[Place, ...]
    audit_entries: tuple[tuple[str, int], ...]

    @property
    def shown(self) -> tuple[Place, ...]:
        """The places with keys masked that hold a number."""
        return tuple(Place(one.party, one.entity, masked(one.key), one.kind, one.since) for one in self.places)

    @property
    def by_entity(self) -> dict[tuple[str, str], list[str]]:
        """Keys by party and entity, each once."""
        found: dict[tuple[str, str], list[str]] = {}
        for one in self.places:
            keys = found.setdefault((one.party, one.entity), [])
            if one.key not in keys:
                keys.append(one.key)
        return found

    @property
    def counts(self) -> Counter[str]:
        return Counter(one.kind for one in self.places)


def number(text: str) -> str:
    """A NIK as it is looked for: digits only.

    Raises:
        UsageError: it is no NIK. What was typed is not repeated.
    """
    digits = re.sub(r"[\s.-]", "", text)
    if not re.fullmatch(r"[0-9]{16}", digits):
        raise UsageError("--nik takes the sixteen digits of a NIK", hint="blanks, dots and hyphens may stand in it")
    return digits


def find(conn: psycopg.Connection, nik: str, hmac: bytes) -> Found:
    """Look everywhere."""
    with translated("looking for a person"), conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        return Found(subjects.find(conn, nik, hmac), tuple(subjects.mentions(conn, nik)))


def export(conn: psycopg.Connection, places: Sequence[Place], path: Path) -> int:
    """Write what staging holds into a new file that its owner alone may read; gives how many rows.

    Raises:
        EnvironmentMissing: the file is there already, or cannot be written.
    """
    with translated("reading a person's rows"), conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        rows = subjects.rows_of(conn, places)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2, ensure_ascii=False)
    except OSError as exc:
        raise EnvironmentMissing(
            f"{path} cannot be written ({os.strerror(exc.errno or 0)})", hint="name a file that is not there yet"
        ) from None
    return len(rows)


def check_erasable(found: Found, *, live: bool) -> None:
    """Refuse to erase what would come back.

    Raises:
        StillSent: a party's view has the person.
    """
    sent = sorted({f"{one.party}/{one.entity}" for one in found.places if one.kind == "staged"})
    if sent and not live:
        raise StillSent(
            f"the person is still sent by {', '.join(sent)}",
            hint="the party removes the row first (it is deleted here within seconds), then erase;"
            " --live erases it now, and it comes back when it is read again",
        )
