"""What a checked configuration says: plain values, and the defaults with where each number came from.

Made by `config.load`; after it nobody re-validates. No reading, no pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from connector.audit.note import Verifier
from connector.credentials import Secret
from connector.errors import ConfigError
from connector.yamlpos import closest, shown

# Which ways to follow each engine this version has.
CAPTURES: Mapping[str, tuple[str, ...]] = {
    "postgresql": ("pull", "stream", "outbox", "cursor", "diff", "debezium"),
    "mariadb": ("stream", "outbox", "cursor", "diff", "debezium"),
    "mysql": ("stream", "outbox", "cursor", "diff", "debezium"),
    "sqlite": ("outbox", "cursor", "diff"),
    # Kits only: there is no server to prove these on, and `run` says so.
    "mssql": ("debezium",),
    "oracle": ("debezium",),
}

# Captures that compare views on a schedule; `stream` of MariaDB and MySQL does too.
COMPARING = ("diff", "outbox")
# How often a party's views are compared where the configuration does not say.
DIFF_EVERY_S = 300.0
# Beside an outbox or a binary log a diff is the net under what no trigger and no log sees; not every five minutes.
NET_DIFF_EVERY_S = 3_600.0
# A transaction longer than this many seconds may commit behind a cursor; the next diff finds its rows.
CURSOR_OVERLAP = 60.0

# The heavy ones at night, one after the other, when no party's staff enter anything.
JOB_SCHEDULES: Mapping[str, str] = {
    "reconcile": "15 2 * * *", "retention": "45 3 * * *", "upkeep": "15 4 * * *", "verify": "30 1 * * *",
    "reference": "0 5 * * *",
}  # fmt: skip

PARTY_NAME = r"[a-z][a-z0-9_]{0,30}"
SLOT_NAME = r"[a-z0-9_]{1,63}"  # what PostgreSQL allows for a replication slot


@dataclass(frozen=True, slots=True)
class Staging:
    """Our own database: exactly one of the two is set."""

    dsn: Secret | None = None
    embedded: Path | None = None
    allow_plaintext: bool = False


@dataclass(frozen=True, slots=True)
class Audit:
    """How the log is signed, and who watches it.

    `key` signs checkpoints (Ed25519); `previous_key` signs too while one replaces the other; `trusted` are public keys
    of the log that sign no more. `anchor` is the last checkpoint's file, outside staging. So many of `witnesses` must
    have cosigned for a checkpoint to count as anchored. Older than `alarm_h` is an alarm; older than `stop_h` stops
    every party (None: never).
    """

    key: Secret | None = None
    previous_key: Secret | None = None
    origin: str = "sipol-connector/audit"
    anchor: Path | None = None
    trusted: tuple[Verifier, ...] = ()
    witnesses: tuple[Verifier, ...] = ()
    witnesses_needed: int = 0
    alarm_h: float = 24.0
    stop_h: float | None = None


@dataclass(frozen=True, slots=True)
class Web:
    """Where metrics and probes are served, and after how long a position that does not move is a stall.

    Off where the configuration does not name it: a port is the operator's to open, and several daemons share machines.
    """

    host: str
    port: int
    stall_s: float

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port


@dataclass(frozen=True, slots=True)
class Jobs:
    """When the periodic work is done, by job; one that is off is not in `schedules`."""

    timezone: str = "Asia/Jakarta"
    schedules: Mapping[str, str] = field(default_factory=lambda: dict(JOB_SCHEDULES))


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many days things are kept that are no evidence."""

    record_days: int = 180  # obeyed wishes, compares, findings that ended


@dataclass(frozen=True, slots=True)
class Digest:
    """`key` keys the row digests and nik_hmac; KPU alone holds it."""

    key: Secret | None = None


@dataclass(frozen=True, slots=True)
class Rising:
    """The column that `capture: cursor` follows, and how far each look goes back (its units; seconds for times)."""

    column: str
    overlap: float


@dataclass(frozen=True, slots=True)
class Source:
    """How a party's database is reached and followed."""

    engine: str
    dsn: Secret
    capture: str
    slot: str
    publication: str
    diff_every_s: float = DIFF_EVERY_S
    cursor: Rising | None = None
    # The operator has accepted a server that is not verified, in writing; `check` goes on naming it.
    allow_plaintext: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for one party, so that it cannot exhaust us and we cannot harm it."""

    batch_rows: int = 20_000  # keys per staging transaction: about a second of upserts on two cores
    poll_s: float = 1.0
    lag_warn_mb: int = 1_024
    lag_drop_mb: int = 8_192  # past this our slot is dropped rather than the party's disk filled
    delete_share_max: float = 0.10
    copy_rows: int = 50_000
    cell_bytes_max: int = 1_048_576
    keys_in_memory: int = 250_000
    window_mb: int = 32  # half a second of decoding where it was measured
    statement_timeout_s: float = 60.0
    quarantine_rows_max: int = 50_000  # a tenth of a large party's members: more is a broken view, not broken rows
    jvm_heap_mb: int = 256  # `capture: debezium`: the JVM takes about 150 MB beside it
    memory_mb: int = 1_024  # of one worker; its peak was 80 MB where it was measured, and chunks read ahead are bounded
    quarantine_days: float = 30.0  # a refused row is looked at again after so long, whether or not it was signalled


@dataclass(frozen=True, slots=True)
class Party:
    """One political party and its database."""

    name: str
    parpol_id: int
    mapping: Path
    source: Source
    jenis: str = "NASIONAL"
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, checked configuration."""

    path: Path
    staging: Staging
    audit: Audit
    digest: Digest
    parties: Mapping[str, Party]
    web: Web | None = None
    jobs: Jobs = Jobs()
    retention: Retention = Retention()

    def party(self, name: str) -> Party:
        """The party called `name`.

        Raises:
            ConfigError: there is none.
        """
        if name in self.parties:
            return self.parties[name]
        raise ConfigError(f"no party `{shown(name)}` in {self.path}", hint=closest(name, self.parties))
