"""The kit of the modes `cursor` and `diff`: a login that reads the views, as SQL that a party's DBA reviews. Pure.

It follows nothing: no trigger, no log, no setting. What it cannot promise, it says in its heading.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from connector.capture.polling import reader
from connector.capture.sqltext import MYSQLS, Engine, Step, refuse_bad_names
from connector.errors import UsageError

PolledMode = Literal["cursor", "diff"]


@dataclass(frozen=True, slots=True)
class PolledRequest:
    """`reader` is a login (MariaDB: `user@host`); `views` are schema and name."""

    party: str
    engine: Engine
    mode: PolledMode
    reader: str
    views: tuple[tuple[str, str], ...]


def kit_steps(request: PolledRequest) -> tuple[Step, ...]:
    """What lets the reader in; running it again changes nothing.

    Raises:
        UsageError: a name cannot be used, or there is no view.
    """
    _refuse(request)
    if request.engine == "sqlite":
        return (reader.lite_check_views(request.views),)
    return tuple(_postgres(request) if request.engine == "postgresql" else _mysql(request))


def removal_steps(request: PolledRequest) -> tuple[Step, ...]:
    """What takes it back."""
    _refuse(request)
    if request.engine == "sqlite":
        return (reader.lite_check_views(request.views),)
    if request.engine in MYSQLS:
        return (*reader.my_beginning(), *reader.my_reader_removed(request.reader, request.views))
    return (
        *reader.pg_beginning(),
        # Of no schema of its own: the views' are named with them.
        reader.pg_roles_removed((request.reader,), request.views[0][0], request.views),
        Step("all of it", "commit"),
        reader.pg_leftovers((request.reader,)),
    )


def heading(request: PolledRequest, *, remove: bool) -> str:
    """What the script is, for the person who is to run it."""
    if remove:
        return f"Sipol connector: takes back the kit of party {request.party}, mode {request.mode}."
    sees = (
        "Deletes and what a join changes are seen by the scheduled compare only."
        if request.mode == "cursor"
        else "Every change is seen, when the next compare comes round."
    )
    lines = [
        f"Sipol connector: kit for party {request.party}, mode {request.mode} on {request.engine}.",
        f"For the DBA to read, then to run. `connector kit {request.party} --remove` takes it back.",
        "WHAT THIS GIVES AWAY: the rows of the views named below, and nothing else. KPU reads them again and again.",
        f"It makes no trigger and changes no setting, no table and no view. {sees}",
    ]
    if request.engine in MYSQLS:
        lines.append(reader.my_ending(request.reader))
    elif request.engine == "postgresql":
        lines.append(f"NEXT, by hand, because a password belongs into no file:  \\password {request.reader}")
    else:
        lines.append("Give KPU's account read access to the file (and to its -wal and -shm beside it), and no more.")
    return "\n".join(lines)


def _refuse(request: PolledRequest) -> None:
    refuse_bad_names((request.reader, *(part for view in request.views for part in view)))
    if not request.views:
        raise UsageError("no view to read", hint="the mapping names one for each entity", place=request.party)


def _postgres(request: PolledRequest) -> Iterator[Step]:
    yield from reader.pg_beginning()
    yield reader.pg_refusal(request.reader, request.views)
    yield from reader.pg_reader(request.reader, request.views)
    yield Step("all of it", "commit")
    yield reader.pg_check_views(request.reader, request.views)


def _mysql(request: PolledRequest) -> Iterator[Step]:
    yield from reader.my_beginning()
    yield from reader.my_reader(request.reader, request.views)
