"""Each party's own kit, run as its DBA would run it: what lets the connector in, and nothing more."""

from __future__ import annotations

from contextlib import closing
from typing import assert_never

import psycopg

from connector.capture.mysql import kit as binlog
from connector.capture.polling import kit as polling
from connector.capture.postgres.kit import kit_sql
from connector.capture.sqltext import account
from connector.demo.homes import LiteHome, MariaHome, PostgresHome
from connector.mapping import document
from connector.ops.kit import binlog_request, kit_request, polled_request
from connector.settings import Party

READER = "sipol_ro"
# On a socket nobody comes from elsewhere.
MARIA_READER = f"{READER}@localhost"


def let_in(home: PostgresHome | LiteHome | MariaHome, settings: Party) -> None:
    """Run the kit of the party's way of capture in its filled database."""
    mapping = document.load(settings.mapping)
    match home:
        case PostgresHome():
            with psycopg.connect(home.dsn, autocommit=True) as owner:
                owner.execute("vacuum analyze")
                owner.execute(kit_sql(kit_request(settings, mapping, "pull")).encode())
        case MariaHome():
            steps = binlog.kit_steps(binlog_request(settings, mapping, reader=MARIA_READER))
            with closing(home.connect()) as conn, conn.cursor() as cursor:
                for step in steps:
                    cursor.execute(step.sql)
                # By hand, says the kit: the account it makes is locked and has no password.
                cursor.execute(f"alter user {account(MARIA_READER)} identified by '' account unlock")
        case LiteHome():
            with closing(home.connect()) as lite:
                for step in polling.kit_steps(polled_request(settings, mapping, "diff")):
                    lite.execute(step.sql)
                lite.execute("analyze")
                lite.commit()
        case never:
            assert_never(never)
