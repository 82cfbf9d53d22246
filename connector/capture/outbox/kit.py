"""The outbox kit: a change table and triggers that note key columns, as SQL that a party's DBA reviews and runs. Pure.

First, do no harm. On PostgreSQL a note that cannot be written is a warning and the party's statement goes on. MariaDB
and SQLite look the change table up before a trigger runs: there it must never be dropped before its triggers, and the
script says so. What no trigger sees (MariaDB's foreign-key cascades and TRUNCATE, statements on one partition) the
scheduled diff finds. While KPU is away the change table grows to a limit and no further: what is not noted then is
remembered as lost, and KPU reads the views whole.
"""

from __future__ import annotations

from connector.capture.outbox import kit_mysql, kit_postgres, kit_sqlite
from connector.capture.outbox.request import OutboxRequest, OutboxTable, refuse
from connector.capture.polling.reader import my_ending
from connector.capture.sqltext import MYSQLS, Step, script

__all__ = ["OutboxRequest", "OutboxTable", "Step", "heading", "kit_steps", "removal_steps", "script"]


def kit_steps(request: OutboxRequest) -> tuple[Step, ...]:
    """What installs the kit; running it again changes nothing.

    Raises:
        UsageError: a name cannot be used.
    """
    refuse(request)
    match request.engine:
        case "postgresql":
            return tuple(kit_postgres.steps(request))
        case "sqlite":
            return tuple(kit_sqlite.steps(request))
        case _:
            return tuple(kit_mysql.steps(request))


def removal_steps(request: OutboxRequest) -> tuple[Step, ...]:
    """What takes the kit away again, triggers first."""
    refuse(request)
    match request.engine:
        case "postgresql":
            return tuple(kit_postgres.removal(request))
        case "sqlite":
            return tuple(kit_sqlite.removal(request))
        case _:
            return tuple(kit_mysql.removal(request))


def heading(request: OutboxRequest, *, remove: bool) -> str:
    """What the script is, for the person who is to run it."""
    if remove:
        return f"Sipol connector: takes back the outbox kit of party {request.party}: triggers, change table, logins."
    lines = [
        f"Sipol connector: kit for party {request.party}, mode outbox on {request.engine}.",
        f"For the DBA to read, then to run. `connector kit {request.party} --mode outbox --remove` takes it back.",
        "WHAT THIS GIVES AWAY: the rows of the views named below, and which keys of the base tables change, and when.",
        "It makes triggers on the base tables named below. They note key columns, never names or addresses, and keep",
        f"at most about {request.notes_max} notes while KPU is away.",
    ]
    if request.engine in MYSQLS:
        lines.append(my_ending(request.reader))
    elif request.engine == "postgresql":
        lines.append(f"NEXT, by hand, because a password belongs into no file:  \\password {request.reader}")
    else:
        lines.append("KPU's account needs to read and write this file: it removes the notes that it has applied.")
    if request.engine != "postgresql":
        lines.append("Never drop the change table before its triggers: your own writes would fail. Use --remove.")
    return "\n".join(lines)
