"""The preflight's questions that only SQLite answers. A file has no logins: its rights are the file's."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from connector.capture import verdicts
from connector.capture.finding import Finding, error, ok, warning
from connector.capture.outbox.kit_mysql import ROW_EVENTS
from connector.capture.outbox.kit_sqlite import trigger_text
from connector.capture.outbox.request import OutboxRequest
from connector.capture.polling.questions import Asked, number, text
from connector.capture.postgres.expectations import ExpectedView

# json_object is built in since then.
VERSION_MIN = (3, 38)


def server(asked: Asked) -> Iterator[Finding]:
    ((version,),) = asked.texts("select sqlite_version()")
    if tuple(int(part) for part in version.split(".")[:2]) < VERSION_MIN:
        yield error("SERVER_TOO_OLD", "connector", f"our SQLite {version}: no json_object", "use a newer Python")
    else:
        yield ok("SERVER", "server", f"SQLite {version}")
    ((encoding,),), ((journal,),) = asked.texts("pragma encoding"), asked.texts("pragma journal_mode")
    yield ok("CHARSET", "server", f"encoding {encoding}")
    yield ok("JOURNAL", "server", f"journal_mode = {journal}; we read in short statements, so its writer waits little")


def file(asked: Asked) -> Iterator[Finding]:
    path = Path(asked.url.database or "")
    open_to = [
        what
        for what, bit in (("read", stat.S_IROTH), ("write", stat.S_IWOTH))
        if path.stat().st_mode & bit and path.parent.stat().st_mode & stat.S_IXOTH
    ]
    if open_to:
        said = f"everybody on this machine may {' and '.join(open_to)} the file, base tables included"
        yield warning("FILE_OPEN", "file", said, "chmod o-rwx, and a group that KPU's account is in")
    else:
        yield ok("FILE", "file", "not open to everybody; SQLite has no rights within it")
    if asked.expected.mode == "outbox" and not os.access(path, os.W_OK):
        said = "we may not write the file: applied notes could not be removed"
        yield error("OUTBOX_DENIED", "file", said, "let our account's group write the file and its folder")


# --------------------------------------------------------------------------------------------------- outbox


def outbox(asked: Asked) -> Iterator[Finding]:
    request = asked.expected.outbox
    if request is None:
        return
    place = f"{request.schema}.{request.name}"
    notes, mark = asked.quote(request.schema, request.name), asked.quote(request.schema, request.mark)
    if not all(asked.session.columns(request.schema, name).types for name in (request.name, request.mark)):
        yield error("OUTBOX_MISSING", place, "there is no change table", "the party's DBA runs the kit")
        return
    lost, share, since = asked.one(
        f"select m.lost, (coalesce((select max(id) from {notes}), m.pruned) - m.pruned) * 1.0 / m.notes_max,"
        f" (select dicatat from {notes} order by id limit 1) from {mark} m"
    )
    yield from verdicts.outbox_state(
        place, lost=number(lost) > 0, share=float(text(share)), waiting_s=_age(text(since))
    )
    yield from _triggers(asked, request)


def _age(since: str) -> float:
    if not since:
        return 0.0
    return time.time() - datetime.fromisoformat(since).replace(tzinfo=UTC).timestamp()


def _triggers(asked: Asked, request: OutboxRequest) -> Iterator[Finding]:
    there: dict[str, tuple[str, str]] = {}
    for schema in dict.fromkeys(table.schema for table in request.tables):
        found = asked.texts(
            f"select name, tbl_name, sql from {asked.quote(schema)}.sqlite_master where type = 'trigger'"
        )
        there |= {name: (table, body) for name, table, body in found if name.startswith(f"{request.name}_")}
    for table in request.tables:
        wrong = []
        for event, (verb, _) in ROW_EVENTS.items():
            name = request.trigger(table, event)
            state = ""
            if name not in there:
                state = "missing"
            elif _kept(there[name][1]) != _kept(trigger_text(request, table, event)):
                state = "differs"
            there.pop(name, None)
            found_wrong = verdicts.trigger(table.place, verb, state)
            wrong += [found_wrong] if found_wrong is not None else []
        yield from wrong or [ok("TRIGGERS", table.place, "its changes are noted")]
    if there:
        names = ", ".join(sorted({table for table, _ in there.values()}))
        yield warning(
            "TRIGGER_UNUSED", names, "notes changes although no lineage names it", "remove the kit, and run it again"
        )


def _kept(sql: str) -> str:
    """As SQLite keeps a statement: its first words in capitals, its trigger without the schema."""
    head, _, rest = sql.partition(" after ")
    return f"{head.rpartition('.')[2].split()[-1]} {rest}"


# ---------------------------------------------------------------------------------------------------- views


class _Views:
    def view(self, asked: Asked, view: ExpectedView, types: Mapping[str, str]) -> Iterator[Finding]:  # noqa: ARG002
        """A file has no rights, so a table is no worse than a view."""
        yield from ()

    def as_bytes(self, column: str) -> str:
        return f"{column} collate binary"

    def cost(self, asked: Asked, view: ExpectedView, statement: sa.Select[Any]) -> str | None:
        query, values = asked.session.compiled(statement)
        plan = [text(row[-1]) for row in asked.session.execute(f"explain query plan {query}", values)]
        names = [step.split()[1] for step in plan if step.startswith("SCAN") or "AUTOMATIC" in step]
        definition = asked.session.columns(view.schema, view.name).definition
        tables = self._tables(view)
        large = []
        for schema, name in tables:
            if any(_may_be(name, alias, definition) for alias in names) and self._is_large(asked, schema, name):
                large.append(f"{schema}.{name}")
        return f"all of {', '.join(large)}" if large else None

    def _tables(self, view: ExpectedView) -> list[tuple[str, str]]:
        return [(table.schema, table.name) for table in view.lineage] or [(view.schema, view.name)]

    def _is_large(self, asked: Asked, schema: str, name: str) -> bool:
        if not asked.session.columns(schema, name).types:
            return False
        most = verdicts.SCAN_WARN_ROWS + 1
        (count,) = asked.one(f"select count(*) from (select 1 from {asked.place(schema, name)} limit {most}) n")
        return number(count) == most

    def rises(self, kind: str) -> bool:
        """Types bind nothing in SQLite: what has none is looked at all the same."""
        return not re.search(r"bool|json", kind, re.IGNORECASE)


def _may_be(table: str, alias: str, definition: str) -> bool:
    """Whether a plan's `alias` may stand for this table: a plan names tables as the view's text does."""
    named = rf"\b{re.escape(table)}\W+(?:as\W+)?{re.escape(alias)}\b"
    return alias in (table, "(subquery") or re.search(named, definition, re.IGNORECASE) is not None


VIEWS = _Views()
QUESTIONS = (server, file, outbox)
