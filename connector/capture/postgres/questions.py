"""How the preflight asks: rows as dictionaries, catalogue queries with our parameters in them, failures as findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import psycopg
from psycopg.rows import DictRow

from connector.capture.finding import Finding, error, warning

Connection = psycopg.Connection[DictRow]
PARAMETERS = ("tables", "views", "publication", "pairs", "schema", "name")


def one(conn: Connection, query: str, params: Mapping[str, object] | None = None) -> DictRow:
    """The only row of a query that always has one."""
    row = conn.execute(query.encode(), params).fetchone()
    assert row is not None
    return row


def rendered(query: str) -> bytes:
    """A catalogue query with our parameters in it: its own percent signs (of format and LIKE) are doubled."""
    text = query.replace("%", "%%")
    for name in PARAMETERS:
        text = text.replace(f"%%({name})s", f"%({name})s")
    return text.encode()


def judged(rows: Iterable[DictRow]) -> Iterator[Finding]:
    """The rows of a catalogue judgement as findings."""
    for row in rows:
        yield Finding(row["level"], row["code"], row["subject"], row["message"], row["remedy"])


def failed(subject: str, exc: psycopg.Error) -> Finding:
    """A question that had no answer. The server's text stays out of it: it may carry cell values."""
    if exc.sqlstate == "57014":
        said = "the question took too long and was given up"
        return warning("TIMED_OUT", subject, said, "ask again when the server is less busy")
    said = f"the question could not be answered ({exc.sqlstate or 'connection lost'})"
    return error("NOT_EXAMINED", subject, said, "see the server's log at this time")
