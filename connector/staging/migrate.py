"""Brings the staging database to this program's schema: forward only, one file and one transaction at a time.

Refuses a database that is newer than the program, and one whose applied files are not ours.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.pq import TransactionStatus

from connector.errors import StagingIncompatible
from connector.resources import schema_path
from connector.staging import reference, session

# pg_input_is_valid, on which the mapping program stands, came with 16.
SERVER_VERSION_MIN = 160000

# Any fixed number will do; it only has to differ from the other advisory locks of the connector.
ADVISORY_LOCK = 0x5369506F6C01

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")

_APPLIED = "select version, name, sha256 from connector.migration order by version"
_EXISTS = "select to_regclass('connector.migration') is not null"
_RECORD = "insert into connector.migration (version, name, sha256) values (%s, %s, %s)"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of schemas/migrations."""

    version: int
    name: str
    text: bytes

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.text).digest()


@dataclass(frozen=True, slots=True)
class Applied:
    """One file that was run, or (version 0) one reference table that was loaded."""

    version: int
    name: str


def known(folder: Path | None = None) -> tuple[Migration, ...]:
    """The migrations this program carries, in order; versions are 1, 2, 3 ... without a gap."""
    paths = sorted((folder or schema_path("migrations")).glob("*.sql"))
    migrations = tuple(_migration(path) for path in paths)
    assert [m.version for m in migrations] == list(range(1, len(migrations) + 1)), "a migration number is missing"
    return migrations


def expected() -> int:
    """The schema version this program works with."""
    return len(known())


def version(conn: psycopg.Connection) -> int:
    """The schema version of the database; 0 when it has none."""
    return len(_applied(conn))


def require(conn: psycopg.Connection) -> None:
    """Raise StagingIncompatible unless the database has exactly this program's schema."""
    migrations = known()
    with session.translated("reading the schema version"), conn.transaction():
        _check_server(conn)
        pending = _pending(migrations, _applied(conn))
    if pending:
        raise StagingIncompatible(
            f"staging schema is at version {pending[0].version - 1}, this program needs {len(migrations)}",
            hint="Run: connector migrate",
        )


def apply(conn: psycopg.Connection, migrations: Sequence[Migration] | None = None) -> list[Applied]:
    """Apply what is missing, then load the reference data that has changed.

    `conn` must not be inside a transaction: each file gets its own. Several programs may call
    this at once; an advisory lock lets one file through at a time, and each looks again.

    Raises:
        StagingIncompatible: the database is newer than this program, an applied file was changed,
            the server is too old, or the role may not create what a file creates.
        StagingUnavailable: the connection was lost, or another program held the lock too long;
            run it again and it goes on.
    """
    assert conn.info.transaction_status == TransactionStatus.IDLE, "migrate needs a connection outside a transaction"
    ours = known() if migrations is None else tuple(migrations)
    done: list[Applied] = []
    try:
        while (one := _apply_next(conn, ours)) is not None:
            done.append(Applied(one.version, one.name))
        done.extend(Applied(0, name) for name in _grant(conn))
        done.extend(Applied(0, name) for name in _load_reference(conn))
    except psycopg.errors.InsufficientPrivilege as exc:
        raise StagingIncompatible(
            "the staging role may not create the schema",
            hint="Run `connector migrate` as the owner of the staging database, with the right to create schemas; "
            "the roles of schemas/roles.sql must exist already, or the owner needs CREATEROLE.",
        ) from exc
    except psycopg.Error as exc:
        raise session.translate(exc, "migrating") from exc
    return done


def _migration(path: Path) -> Migration:
    match = _FILE_NAME.fullmatch(path.name)
    assert match is not None, f"{path.name} is not named NNNN_words.sql"
    return Migration(int(match[1]), match[2], path.read_bytes())


def _apply_next(conn: psycopg.Connection, migrations: tuple[Migration, ...]) -> Migration | None:
    with conn.transaction():
        _check_server(conn)
        conn.execute("select pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
        pending = _pending(migrations, _applied(conn))
        if not pending:
            return None
        conn.execute(pending[0].text)
        conn.execute(_RECORD, (pending[0].version, pending[0].name, pending[0].sha256))
        return pending[0]


def _grant(conn: psycopg.Connection) -> tuple[str, ...]:
    """Run schemas/roles.sql where tables are new or it is; an older schema of a test has no place to note it."""
    text = schema_path("roles.sql").read_bytes()
    digest = hashlib.sha256(text).digest()
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
        row = conn.execute("select to_regclass('connector.grants') is not null").fetchone()
        assert row is not None
        if not row[0]:
            return ()
        version = len(_applied(conn))
        if conn.execute(
            "select 1 from connector.grants where (sha256, version) = (%s, %s)", (digest, version)
        ).fetchone():
            return ()
        conn.execute(text)
        conn.execute(_GRANTED, (digest, version))
    return ("grants",)


_GRANTED = """
insert into connector.grants (sha256, version) values (%s, %s)
on conflict (only_row) do update set sha256 = excluded.sha256, version = excluded.version, granted_at = now()
"""


def _load_reference(conn: psycopg.Connection) -> tuple[str, ...]:
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
        return reference.load(conn)


def _check_server(conn: psycopg.Connection) -> None:
    if conn.info.server_version < SERVER_VERSION_MIN:
        raise StagingIncompatible(
            f"staging runs PostgreSQL {conn.info.server_version // 10000}",
            hint=f"Staging needs PostgreSQL {SERVER_VERSION_MIN // 10000} or newer. A party's database may be older.",
        )


def _applied(conn: psycopg.Connection) -> list[tuple[int, str, bytes]]:
    row = conn.execute(_EXISTS).fetchone()
    assert row is not None
    return conn.execute(_APPLIED).fetchall() if row[0] else []


def _pending(migrations: tuple[Migration, ...], applied: list[tuple[int, str, bytes]]) -> tuple[Migration, ...]:
    """What is still to be applied; raises when what was applied is not a beginning of what we know."""
    if len(applied) > len(migrations):
        raise StagingIncompatible(
            f"staging schema is at version {applied[-1][0]}, this program knows only {len(migrations)}",
            hint="The database was migrated by a newer connector: install that version or a later one.",
        )
    for ours, (number, name, sha256) in zip(migrations, applied, strict=False):
        if (ours.version, ours.sha256) != (number, bytes(sha256)):
            raise StagingIncompatible(
                f"migration {number:04d}_{name} differs from the file that was applied",
                hint="Applied migrations are never edited: use the connector that made this database, "
                "or add a new migration.",
            )
    return migrations[len(applied) :]
