"""`connector status` says where everything stands from staging's tables alone, and what a person should look at."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from connector.audit import log
from connector.cli import status as cli_status
from connector.staging import session
from tests.fixtures.commandline import CommandLine
from tests.fixtures.entries import facts

MEGABYTE = 1 << 20


@pytest.fixture
def conn(staging_dsn: str) -> Iterator[psycopg.Connection]:
    with session.connect(staging_dsn) as opened:
        yield opened


@pytest.fixture
def connector(tmp_path: Path, staging_dsn: str, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, staging_dsn, capsys)


@pytest.fixture
def running(conn: psycopg.Connection) -> psycopg.Connection:
    """Two parties that are followed, a second after everything went well."""
    for parpol_id, party in enumerate(("alfa", "beta"), 1):
        conn.execute("insert into connector.party (party, parpol_id) values (%s, %s)", (party, parpol_id))
        conn.execute(
            "insert into connector.source_offset (party, position_ordinal, position_text, moved_at)"
            " values (%s, 77, '0/4D', now() - interval '2 seconds')",
            (party,),
        )
        conn.execute(
            "insert into connector.worker (party, state, daemon, lag_bytes, heartbeat_at)"
            " values (%s, 'streaming', 'host:1', 2048, now() - interval '1 second')",
            (party,),
        )
        for entity in ("anggota", "kantor"):
            conn.execute(
                "insert into connector.entity"
                "       (party, entity, state, live_rows, signalled, read, inserted, last_batch_at)"
                " values (%s, %s, 'streaming', 1000, 1200, 1150, 1100, now() - interval '3 seconds')",
                (party, entity),
            )
        with conn.transaction():
            log.append(conn, party, facts(1))
    return conn


def status(connector: CommandLine, *party: str) -> dict[str, Any]:
    result = connector.json("status", *party)["result"]
    assert isinstance(result, dict)
    return result


def attention(connector: CommandLine) -> list[tuple[str, str]]:
    found = status(connector)["attention"]
    assert all(one["hint"] for one in found)
    return [(one["place"], one["what"]) for one in found]


BATCH = """
insert into staging.sync_batch (party, parpol_id, entity, kind, started_at, ended_at, committed_first, committed_last)
select 'alfa', 1, 'anggota', %(kind)s, now(), now(), now() - make_interval(secs => s), now()
  from unnest(%(seconds)s::float8[]) with ordinality as one (s, n) order by n
"""


# ------------------------------------------------------------------------------------------------- facts


def test_before_the_first_start_every_party_is_told_to_be_started(connector: CommandLine) -> None:
    told = connector.json("status")
    assert told["result"]["parties"]["alfa"]["worker"] is None
    assert attention(connector) == [("alfa", "was never started"), ("beta", "was never started")]
    assert "0 entities: never started" in told["summary"]


def test_a_party_shows_position_lag_heartbeat_and_audit_entries(
    running: psycopg.Connection, connector: CommandLine
) -> None:
    party = status(connector, "alfa")["parties"]["alfa"]
    assert (party["position"], party["lag_bytes"], party["audit_seq"], party["parpol_id"]) == ("0/4D", 2048, 1, 1)
    assert party["worker"]["state"] == "streaming"
    assert 1 <= party["worker"]["heartbeat_age_s"] < 60
    assert 2 <= party["lag_s"] < 60, "the worker gave no figure: at most since the position moved"
    running.execute("update connector.worker set lag_s = 0.25")
    assert status(connector)["parties"]["alfa"]["lag_s"] == 0.25


def test_an_entity_shows_its_counts(running: psycopg.Connection, connector: CommandLine) -> None:
    running.execute("insert into connector.parked select 'alfa', 'anggota', n::text from generate_series(1, 5) n")
    running.execute(
        "insert into staging.karantina (parpol_id, entity, source_key, sync_batch_id, reasons)"
        " select 1, 'anggota', n::text, 1, '{NIK_FORMAT}' from generate_series(1, 3) n"
    )
    found = status(connector)["parties"]["alfa"]["entities"]
    assert set(found) == {"anggota", "kantor"}
    members = found["anggota"]
    assert (members["state"], members["live_rows"], members["signalled"], members["inserted"]) == (
        "streaming", 1000, 1200, 1100,
    )  # fmt: skip
    assert (members["parked"], members["quarantined_now"]) == (5, 3)
    assert (found["kantor"]["parked"], found["kantor"]["quarantined_now"]) == (0, 0)
    assert 3 <= members["last_batch_age_s"] < 60
    assert (members["latency"], members["copy"]) == (None, None)


def test_latency_is_that_of_the_last_hundred_batches_of_signals(
    running: psycopg.Connection, connector: CommandLine
) -> None:
    running.execute(BATCH, {"kind": "signals", "seconds": [500.0] * 10 + [float(n) for n in range(1, 101)]})
    latency = status(connector)["parties"]["alfa"]["entities"]["anggota"]["latency"]
    assert latency == {"batches": 100, "p50_s": 50.5, "p95_s": 95.05, "most_s": 100.0}
    running.execute(BATCH, {"kind": "copy", "seconds": [900.0] * 40})
    latency = status(connector)["parties"]["alfa"]["entities"]["anggota"]["latency"]
    assert (latency["batches"], latency["most_s"]) == (60, 100.0)


@pytest.mark.parametrize(
    ("columns", "copy", "cell"),
    [
        (
            "bulk = true, copy_rows = 700, live_rows = 700",
            {"rows": 700, "first": True, "share": None},
            "copying, 700 rows",
        ),
        ("bulk = false, copy_rows = 250", {"rows": 250, "first": False, "share": 0.25}, "copying 25%"),
        ("bulk = false, copy_rows = 1500", {"rows": 1500, "first": False, "share": 1.0}, "copying 100%"),
    ],
)
def test_a_copy_shows_how_far_it_is(
    running: psycopg.Connection, connector: CommandLine, columns: str, copy: dict[str, object], cell: str
) -> None:
    running.execute(
        f"update connector.entity set state = 'copying', copying = true, {columns}"
        " where party = 'alfa' and entity = 'anggota'".encode()
    )
    assert status(connector)["parties"]["alfa"]["entities"]["anggota"]["copy"] == copy
    assert cell in connector("status").out


def test_one_party_alone(running: psycopg.Connection, connector: CommandLine) -> None:
    assert list(status(connector)["parties"]) == ["alfa", "beta"]
    assert list(status(connector, "beta")["parties"]) == ["beta"]
    assert connector.json("status", "alpha", code=2)["error"]["hint"] == "did you mean `alfa`?"
    running.execute("insert into connector.party (party, parpol_id) values ('lama', 9)")
    assert list(status(connector, "lama")["parties"]) == ["lama"]


# ------------------------------------------------------------------------------------------------- attention


@pytest.mark.usefixtures("running")
def test_where_all_is_well_nothing_needs_attention(connector: CommandLine) -> None:
    told = connector.json("status")
    assert told["summary"] == "2 parties, 4 entities: 4 streaming; nothing needs attention"
    assert told["result"]["attention"] == []


WORKER, ENTITY = "update connector.worker set ", "update connector.entity set "
NEEDS = [
    (WORKER + "heartbeat_at = now() - interval '300 s' where party = 'alfa'", "alfa", "no heartbeat for 300 s"),
    (WORKER + "state = 'retrying', error = 'no answer' where party = 'beta'", "beta", "retrying: no answer"),
    (WORKER + "state = 'failed', error = 'unforeseen' where party = 'beta'", "beta", "failed: unforeseen"),
    (
        WORKER + f"lag_bytes = {11 * MEGABYTE} where party = 'alfa'",
        "alfa", "the party's server keeps 11 MB of log for us",
    ),
    (
        ENTITY + "state = 'held', reason = 'delete_brake', hint = 'x' where party = 'beta' and entity = 'kantor'",
        "beta/kantor", "held (delete_brake)",
    ),
    (ENTITY + "state = 'paused', reason = 'asked for' where party = 'alfa'", "alfa", "paused (asked for)"),
    (ENTITY + "state = 'needs_resync', reason = 'gap' where party = 'alfa'", "alfa", "needs_resync (gap)"),
    (
        "insert into connector.wish (party, verb, asked_at) values ('alfa', 'pause', now() - interval '100 s')",
        "alfa", "1 wishes not obeyed, the oldest for 100 s",
    ),
    (
        "insert into connector.party (party, parpol_id) values ('lama', 9)",
        "lama", "is in staging and not in the configuration",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "place", "what"), NEEDS, ids=[what for _, _, what in NEEDS])
def test_what_stands_still_needs_attention(
    running: psycopg.Connection, connector: CommandLine, statement: str, place: str, what: str
) -> None:
    running.execute(statement.encode())
    ((found_place, found_what),) = attention(connector)
    assert found_place == place
    assert found_what.split(" for ")[0] == what.split(" for ")[0]
    told = connector("status")
    assert told.code == 0
    assert f"needs attention: {found_place}: " in told.out


def test_a_worker_that_waits_between_two_tries_is_not_called_dead(
    running: psycopg.Connection, connector: CommandLine
) -> None:
    running.execute(
        "update connector.worker set state = 'retrying', error = 'no', heartbeat_at = now() - interval '5 min'"
    )
    assert attention(connector) == [("alfa", "retrying: no"), ("beta", "retrying: no")]


def test_a_hint_of_the_daemon_s_is_passed_on(running: psycopg.Connection, connector: CommandLine) -> None:
    running.execute(
        "update connector.worker set state = 'retrying', error = 'no answer', hint = 'is it up?' where party = 'alfa'"
    )
    running.execute(
        "update connector.entity set state = 'held', reason = 'view_missing', hint = 'create it again'"
        " where party = 'beta' and entity = 'kantor'"
    )
    assert [one["hint"] for one in status(connector)["attention"]] == ["is it up?", "create it again"]


# ------------------------------------------------------------------------------------------------- for people


@pytest.mark.usefixtures("running")
def test_people_get_a_table_of_parties_and_one_of_entities(connector: CommandLine) -> None:
    lines = connector("status").out.splitlines()
    assert lines[0].split("  ")[0] == "party"
    assert lines[1].split()[:2] == ["alfa", "streaming"]
    assert "2 kB" in lines[1]
    assert [line.split()[:3] for line in lines[4:8]] == [
        ["alfa", "anggota", "streaming"],
        ["alfa", "kantor", "streaming"],
        ["beta", "anggota", "streaming"],
        ["beta", "kantor", "streaming"],
    ]


def test_a_staging_of_another_schema_version_is_told(conn: psycopg.Connection, connector: CommandLine) -> None:
    conn.execute("delete from connector.migration where version = (select max(version) from connector.migration)")
    assert connector.json("status", code=1)["error"]["hint"] == "Run: connector migrate"


@pytest.mark.usefixtures("running")
def test_times_are_told_with_their_zone(connector: CommandLine) -> None:
    assert datetime.fromisoformat(status(connector)["at"]).tzinfo is not None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, None), (0.4, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7200, "2 h ago"), (172_800, "2 d ago")],
)
def test_a_duration_is_told_in_a_unit_of_its_size(seconds: float | None, text: str | None) -> None:
    assert cli_status.ago(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(None, None), (0, "0 kB"), (2048, "2 kB"), (3 * MEGABYTE, "3.0 MB"), (5 << 30, "5.0 GB")]
)
def test_a_size_is_told_in_a_unit_of_its_size(size: int | None, text: str | None) -> None:
    assert cli_status.size(size) == text
