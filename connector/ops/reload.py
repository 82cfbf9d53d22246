"""What a changed configuration would start again, and telling the daemon of this machine to take it.

The daemon reads its files again by itself when it gets SIGHUP; nothing of them passes through here.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from connector.errors import ConnectorError
from connector.ops.status import HEARTBEAT_S_MAX
from connector.staging.session import translated

Settings = Mapping[str, Mapping[str, str]]


class NotReloaded(ConnectorError):
    """No daemon of this machine could be told, or it did not take the new configuration in time."""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a party: start, restart, stop or none; `parts` of its configuration differ."""

    party: str
    change: str
    parts: tuple[str, ...] = ()


def plan(running: Settings, wanted: Settings) -> tuple[Change, ...]:
    """Compare what parties run with and what they are to run with, both as digests by part. Pure."""
    return tuple(sorted(_changes(running, wanted), key=lambda change: change.party))


def _changes(running: Settings, wanted: Settings) -> Iterator[Change]:
    for party in running.keys() - wanted.keys():
        yield Change(party, "stop")
    for party, parts in wanted.items():
        if party not in running:
            yield Change(party, "start")
        else:
            before = running[party]
            differ = tuple(part for part in parts if before.get(part) != parts[part])
            yield Change(party, "restart" if differ else "none", differ)


def running(conn: psycopg.Connection) -> dict[str, Mapping[str, str]]:
    """What each party that a daemon answers for was last started with."""
    with translated("reading the settings"):
        rows = conn.execute(_RUNNING, (HEARTBEAT_S_MAX,)).fetchall()
    return {party: settings or {} for party, settings in rows}


_RUNNING = """
select p.party, p.settings from connector.party p join connector.worker w using (party)
 where w.heartbeat_at > now() - make_interval(secs => %s) or w.state <> 'streaming'
"""


def daemons(conn: psycopg.Connection) -> tuple[str, ...]:
    """The daemons, as host:pid, that workers named last."""
    with translated("reading the daemons"):
        rows = conn.execute("select distinct daemon from connector.worker order by daemon").fetchall()
    return tuple(row[0] for row in rows)


def tell(names: tuple[str, ...]) -> tuple[str, ...]:
    """Send SIGHUP to those of the daemons that run on this machine; gives which."""
    told = []
    for name in names:
        host, _, pid = name.rpartition(":")
        if host == os.uname().nodename and pid.isdecimal() and _is_daemon(int(pid)):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(pid), signal.SIGHUP)
                told.append(name)
    return tuple(told)


def _is_daemon(pid: int) -> bool:
    """Whether a process is a connector's: the number of one that is gone may be somebody else's now."""
    with suppress(OSError):
        words = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
        return b"run" in words and any(b"connector" in word for word in words)
    return False
