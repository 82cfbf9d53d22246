"""Looks at a party's MariaDB, MySQL or SQLite from our side and tells everything at once, each finding with its remedy.

It changes nothing: its session cannot write. What it reads of rows are counts, one key, and what one key's re-read
costs; what it says are names and numbers. PostgreSQL has its own (`capture.postgres.preflight`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from connector.capture import verdicts
from connector.capture.finding import Finding, error, ok, warning
from connector.capture.polling import preflight_mysql, preflight_sqlite
from connector.capture.polling.questions import Asked, number
from connector.capture.postgres.expectations import Expectations, ExpectedView
from connector.errors import SourceBusy, SourceError, SourceProtocolError, SourceUnavailable
from connector.sqldb import ranges
from connector.sqldb.engines import Options
from connector.sqldb.session import SqlSession

Question = Callable[[Asked], Iterator[Finding]]


def examine(url: str, expected: Expectations) -> tuple[Finding, ...]:
    """Ask everything, and answer in one pass; a question that fails is a finding, not an exception.

    Raises:
        UsageError: not a URL, or a dialect without its driver.
    """
    options = Options("sipol-connector check", expected.count_timeout_s, expected.statement_timeout_s)
    try:
        session = SqlSession(url, options)
    except SourceError as exc:
        return (error("UNREACHABLE", "server", exc.message, exc.hint),)
    with closing(session):
        engine = preflight_sqlite if session.dialect == "sqlite" else preflight_mysql
        asked = Asked(session, expected, sa.make_url(url), engine.VIEWS)
        return tuple(_examine(asked, (*engine.QUESTIONS, _views, _followed)))


def _examine(asked: Asked, questions: Sequence[Question]) -> Iterator[Finding]:
    for question in questions:
        subject = question.__name__.strip("_")
        try:
            with asked.session.translated(f"asking about {subject}"):
                yield from question(asked)
        except SourceError as exc:
            yield failed(subject, exc)
            if isinstance(exc, SourceUnavailable):
                return


def failed(subject: str, exc: SourceError) -> Finding:
    """A question that had no answer."""
    if isinstance(exc, SourceBusy):
        said = "the question took too long and was given up"
        return warning("TIMED_OUT", subject, said, "ask again when the server is less busy")
    return error("NOT_EXAMINED", subject, exc.message, exc.hint or "see the server's log at this time")


# ---------------------------------------------------------------------------------------------------- views


def _views(asked: Asked) -> Iterator[Finding]:
    for view in asked.expected.views:
        try:
            with asked.session.translated(f"reading {view.place}"):
                yield from _view(asked, view)
        except SourceProtocolError:
            yield error(
                "VIEW_REFUSED",
                view.place,
                "it is there, and yet reading it is refused",
                "its definer must exist and be able to read the base tables; does it name a table or column that is "
                "gone?",
            )
        except SourceBusy as exc:
            yield failed(view.place, exc)


def _view(asked: Asked, view: ExpectedView) -> Iterator[Finding]:
    types = asked.session.columns(view.schema, view.name).types
    if not types:
        yield error(
            "VIEW_MISSING",
            view.place,
            "there is no such view that we may read",
            "create it, correct its name in the mapping, or run the kit: it grants us SELECT",
        )
        return
    wanted = tuple(dict.fromkeys(view.key + view.columns))
    absent = [column for column in wanted if column not in types]
    if absent:
        yield verdicts.lacking(view.place, view.entity, absent)
    else:
        said = ", ".join(f"{column} {types[column] or '(no type)'}" for column in wanted)
        yield ok("COLUMNS", view.place, f"entity {view.entity} finds its columns: {said}")
    yield from asked.engine.view(asked, view, types)
    if all(column in types for column in view.key):
        yield from _keys(asked, view)
        yield from _plan(asked, view, types)


def _keys(asked: Asked, view: ExpectedView) -> Iterator[Finding]:
    """Counts only, and never past COUNT_MAX."""
    place = asked.place(view.schema, view.name)
    # As bytes: what a collation calls equal are two keys.
    columns = ", ".join(asked.engine.as_bytes(asked.quote(column)) for column in view.key)
    empty = " or ".join(f"{asked.quote(column)} is null" for column in view.key)
    most = verdicts.COUNT_MAX
    try:
        with asked.session.translated("counting keys"):
            doubled, nulls = asked.one(
                f"select (select count(*) from (select 1 as n from {place} group by {columns} having count(*) > 1"
                f" limit {most}) d), (select count(*) from (select 1 as n from {place} where {empty} limit {most}) e)"
            )
    except SourceBusy:
        yield verdicts.keys_unproven(view.place, view.key, asked.expected.count_timeout_s)
        return
    yield from verdicts.keys(view.place, view.key, number(doubled), number(nulls))


def _plan(asked: Asked, view: ExpectedView, types: Any) -> Iterator[Finding]:
    """Read one key again, as the daemon will thousands of times, and see what that looked at."""
    table = ranges.view(view.schema, view.name, tuple(types))
    columns: list[sa.ColumnElement[Any]] = [table.c[column] for column in view.key]
    sample = next(iter(_rows(asked, sa.select(*columns).where(ranges.present(columns)).limit(1))), None)
    if sample is None:
        yield ok("VIEW_EMPTY", view.place, "has no row yet")
        return
    engine = asked.session.engine
    values = [
        [engine.place_value(engine.place(value, types[column]), types[column])]
        for value, column in zip(sample, view.key, strict=True)
    ]
    wanted = [table.c[column] for column in dict.fromkeys(view.key + view.columns) if column in types]
    statement = sa.select(*wanted).where(ranges.one_of(columns, [values]))
    cost = asked.engine.cost(asked, view, statement)
    if cost is None:
        yield verdicts.scans_nothing(view.place)
    else:
        yield verdicts.scans(view.place, cost, _index(asked, view))


def _rows(asked: Asked, statement: sa.Select[Any]) -> list[Sequence[object]]:
    return [row for group in asked.session.rows(statement) for row in group]


def _index(asked: Asked, view: ExpectedView) -> str:
    """The index that would mend it, where the lineage says which columns give the key."""
    found = [
        f"create index ... on {asked.place(table.schema, table.name)} ({', '.join(asked.quote(b) for _, b in pairs)})"
        for table in view.lineage
        if (pairs := table.key or table.match)
    ]
    also = "DISTINCT, GROUP BY and UNION keep a view from using an index"
    return f"{'; '.join(found)}; {also}" if found else f"index the key's column in its base table; {also}"


# -------------------------------------------------------------------------------------------------- polling


def _followed(asked: Asked) -> Iterator[Finding]:
    """The schedule of compares, and the column that mode `cursor` follows."""
    yield verdicts.schedule(asked.expected.diff_every_s, asked.expected.mode)
    column = asked.expected.cursor
    if column is None:
        return
    found = []
    for view in asked.expected.views:
        types = asked.session.columns(view.schema, view.name).types
        if column in types:
            name, most = asked.quote(column), verdicts.COUNT_MAX
            (empty,) = asked.one(
                "select count(*) from"
                f" (select 1 as n from {asked.place(view.schema, view.name)} where {name} is null limit {most}) e"
            )
            found.append((view.place, types[column] or "(no type)", number(empty)))
    yield from verdicts.cursor(column, found, [asked.engine.rises(kind) for _, kind, _ in found])
