"""A session at the staging database, and the translation of its errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from connector import pg
from connector.errors import ConnectorError, SourceUnavailable, StagingError, StagingIncompatible, StagingUnavailable

# Conflicts and shortages that pass: the whole batch is repeated.
RETRY_CLASSES = ("08", "28", "40", "53", "57", "58")
RETRY_STATES = frozenset({"55P03", "25P03", "XX000"})
LOCK_TIMEOUT_S = 30.0
NEVER = 1 << 31

# What a mapping program wants. The list of regions as a hash table takes 7 MB; a plan used once is not worth compiling;
# and of tables without statistics, as a batch's are, the planner would sort the whole batch to merge it. A commit is to
# be on disk when it returns, or the source would be told of one that a crash takes back; what waits for longer is left.
SETTINGS = """
select set_config('work_mem', '64MB', false), set_config('jit', 'off', false),
       set_config('enable_mergejoin', 'off', false),
       set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), false)
"""


def connect(dsn: str, application: str = "connector") -> psycopg.Connection:
    """Open an autocommit session at staging.

    Raises:
        StagingUnavailable: no connection.
    """
    try:
        conn = pg.connect(dsn, application=application, lock_timeout_s=LOCK_TIMEOUT_S)
    except SourceUnavailable as error:
        raise StagingUnavailable(f"staging: {error.message}", hint=error.hint) from None
    # Only what asks for it is prepared: planning a large batch anew follows its real size.
    conn.prepare_threshold = NEVER
    with translated("opening a session"):
        conn.execute(SETTINGS)
    return conn


def translate(error: psycopg.Error, doing: str) -> ConnectorError:
    """The class of ours for a staging error, by SQLSTATE; its text may hold a row and is dropped."""
    state = error.sqlstate
    if state is None or state[:2] in RETRY_CLASSES or state in RETRY_STATES:
        return StagingUnavailable(
            f"{doing}: staging could not ({state or 'connection lost'})", hint="will be tried again"
        )
    if state in ("42501", "42P01", "42703", "3F000", "42883"):
        return StagingIncompatible(
            f"{doing}: staging refused ({state})", hint="run `connector migrate`; is the role allowed to write there?"
        )
    where = error.diag.table_name or ""
    rule = error.diag.constraint_name or error.diag.column_name or ""
    return StagingError(
        f"{doing}: staging refused ({state} {where} {rule})".rstrip(" )") + ")", hint="this is a fault of ours"
    )


@contextmanager
def translated(doing: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, doing) from None
