"""`connector quarantine` on a real staging: what is refused and why, read again, given up."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from connector.audit import log
from connector.mapping.reasons import REASONS
from connector.runtime.wishes import obey
from connector.staging import session
from connector.staging.party import PartyStaging
from connector.staging.plan import DigestKeys
from tests.fixtures.commandline import CommandLine

KEYS = DigestKeys.derive(b"key")

REFUSED = """
insert into staging.karantina
       (parpol_id, entity, source_key, sync_batch_id, reasons, columns, rows_seen, mapping_version, first_seen,
        last_seen)
select p.parpol_id, r.entity, r.key, 7, r.reasons, r.columns, r.rows_seen, '3', now() - r.age, now() - r.age
  from connector.party p join (values
    ('alfa', 'anggota', '11', array['NIK_FORMAT'], array['nik'], 1, interval '3 days'),
    ('alfa', 'anggota', '12', array['NIK_FORMAT', 'DATE_FORMAT'], array['nik', 'tanggal_lahir'], 1, interval '2 hours'),
    ('alfa', 'anggota', '3273015512950007', array['DUPLICATE_KEY'], array[''], 2, interval '40 days'),
    ('alfa', 'anggota', '', array['NULL_KEY'], array[''], 9, interval '1 day'),
    ('alfa', 'anggota', 'caf\\xe9', array['INVALID_UTF8'], array[''], 1, interval '1 day'),
    ('alfa', 'anggota', '13', array['INVALID_UTF8'], array[''], 1, interval '1 day'),
    ('alfa', 'kantor', '1', array['REQUIRED'], array['alamat'], 1, interval '1 day'),
    ('beta', 'anggota', '11', array['NIK_FORMAT'], array['nik'], 1, interval '1 day'))
    as r (party, entity, key, reasons, columns, rows_seen, age) using (party)
"""


@pytest.fixture
def conn(staging_dsn: str) -> Iterator[psycopg.Connection]:
    """Staging where eight rows of two parties are refused."""
    with session.connect(staging_dsn) as opened:
        for parpol_id, party in enumerate(("alfa", "beta"), 1):
            opened.execute("insert into connector.party (party, parpol_id) values (%s, %s)", (party, parpol_id))
            opened.execute("insert into connector.source_offset (party) values (%s)", (party,))
            for entity in ("anggota", "kantor"):
                opened.execute(
                    "insert into connector.entity (party, entity, state) values (%s, %s, 'streaming')", (party, entity)
                )
        opened.execute(REFUSED)
        yield opened


@pytest.fixture
def connector(tmp_path: Path, staging_dsn: str, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, staging_dsn, capsys)


@pytest.fixture
def staging(conn: psycopg.Connection, staging_dsn: str) -> Iterator[PartyStaging]:  # noqa: ARG001 - the rows come first
    with closing(PartyStaging(staging_dsn, "alfa", 1, "NASIONAL", KEYS)) as opened:
        yield opened


def obey_all(staging: PartyStaging) -> None:
    for wish in staging.wishes():
        obey(wish, "alfa", staging, {})


def keys(connector: CommandLine, *arguments: str) -> list[tuple[str, str]]:
    rows = connector.json("quarantine", "list", *arguments)["result"]["rows"]
    return sorted((row["party"], row["key"]) for row in rows)


def parked(conn: psycopg.Connection) -> list[tuple[str, str]]:
    return conn.execute("select entity, source_key from connector.parked order by 1, 2").fetchall()


# ------------------------------------------------------------------------------------------------- list, show


@pytest.mark.usefixtures("conn")
def test_the_list_can_be_narrowed(connector: CommandLine) -> None:
    assert len(keys(connector)) == 8
    assert keys(connector, "beta") == [("beta", "11")]
    assert keys(connector, "--reason", "NIK_FORMAT") == [("alfa", "11"), ("alfa", "12"), ("beta", "11")]
    assert keys(connector, "alfa", "--entity", "kantor") == [("alfa", "1")]
    assert keys(connector, "--since", "24h", "--reason", "DATE_FORMAT") == [("alfa", "12")]
    assert keys(connector, "--since", "3h") == [("alfa", "12")]
    assert len(keys(connector, "--limit", "2")) == 2


@pytest.mark.usefixtures("conn")
def test_reasons_are_counted_over_all_rows_with_a_sentence_each(connector: CommandLine) -> None:
    found = connector.json("quarantine", "list", "alfa", "--entity", "anggota", "--limit", "1")["result"]
    assert found["total"] == 6
    counts = {one["reason"]: one["rows"] for one in found["reasons"]}
    assert counts == {"NIK_FORMAT": 2, "INVALID_UTF8": 2, "DATE_FORMAT": 1, "DUPLICATE_KEY": 1, "NULL_KEY": 1}
    assert all(one["indonesian"] and one["english"] for one in found["reasons"])


@pytest.mark.usefixtures("conn")
def test_a_key_that_holds_a_nik_is_masked_wherever_it_is_shown(connector: CommandLine) -> None:
    assert ("alfa", "3273********0007") in keys(connector)
    told = connector("quarantine", "show", "alfa/anggota", "3273015512950007")
    assert told.code == 0
    assert "3273********0007" in told.out
    assert "3273015512950007" not in connector("quarantine", "list").out + told.out + told.err


@pytest.mark.usefixtures("conn")
def test_show_explains_each_reason(connector: CommandLine) -> None:
    found = connector.json("quarantine", "show", "alfa/anggota", "12")["result"]
    assert [(one["reason"], one["column"]) for one in found["why"]] == [
        ("NIK_FORMAT", "nik"),
        ("DATE_FORMAT", "tanggal_lahir"),
    ]
    assert found["why"][0]["english"].startswith("The NIK is not 16 digits")
    assert found["staged_at"] is None


@pytest.mark.usefixtures("conn")
@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (("list", "alpha"), 2, "config_error"),
        (("list", "--reason", "NIK_FORMT"), 2, "usage_error"),
        (("list", "--since", "yesterday"), 2, "usage_error"),
        (("show", "alfa", "11"), 2, "usage_error"),
        (("show", "alfa/anggota", "404"), 1, "not_refused"),
        (("discard", "alfa/anggota", "404", "--reason", "gone"), 1, "not_refused"),
        (("discard", "alfa/anggota", "11", "--reason", " "), 2, "usage_error"),
    ],
)
def test_what_is_not_there_is_said(connector: CommandLine, arguments: tuple[str, ...], code: int, kind: str) -> None:
    error = connector.json("quarantine", *arguments, code=code)["error"]
    assert error["kind"] == kind
    assert error["hint"]


# ------------------------------------------------------------------------------------------------- replay, discard


def test_replay_parks_the_keys_that_can_be_read_again(
    conn: psycopg.Connection, connector: CommandLine, staging: PartyStaging
) -> None:
    connector.json("quarantine", "replay", "alfa/anggota")
    obey_all(staging)
    # A row without a key, and one whose key is no text, are met by a copy only.
    assert parked(conn) == [("anggota", "11"), ("anggota", "12"), ("anggota", "13"), ("anggota", "3273015512950007")]
    (outcome,) = conn.execute("select outcome from connector.wish").fetchall()
    assert outcome[0] == "anggota: 4 refused rows are read again, 2 without a readable key wait for a resync: done"


def test_replay_of_one_reason(conn: psycopg.Connection, connector: CommandLine, staging: PartyStaging) -> None:
    connector.json("quarantine", "replay", "alfa", "--reason", "NIK_FORMAT")
    connector.json("quarantine", "replay", "alfa", "--reason", "REQUIRED")
    obey_all(staging)
    assert parked(conn) == [("anggota", "11"), ("anggota", "12"), ("kantor", "1")]


def test_replay_where_nothing_is_refused_says_so(
    conn: psycopg.Connection, connector: CommandLine, staging: PartyStaging
) -> None:
    conn.execute("delete from staging.karantina where entity = 'kantor'")
    connector.json("quarantine", "replay", "alfa/kantor")
    obey_all(staging)
    assert conn.execute("select outcome from connector.wish").fetchall() == [
        ("kantor: nothing to do, no refused row can be read again",)
    ]


def test_discard_leaves_an_audit_entry_without_the_key(
    conn: psycopg.Connection, connector: CommandLine, staging: PartyStaging
) -> None:
    key = "3273015512950007"
    connector.json("quarantine", "discard", "alfa/anggota", key, "--reason", "letter 12/2026")
    connector.json("quarantine", "discard", "alfa/anggota", "11", "--reason", "letter 13/2026")
    obey_all(staging)
    assert [key for _, key in keys(connector, "alfa")] == ["", "1", "12", "13", "caf\\xe9"]
    entries = [entry.fields() for entry in log.read(conn, "alfa")]
    assert [(entry["act"], entry["entity"], entry["outcome"]) for entry in entries] == [
        ("discard", "anggota", "anggota: DUPLICATE_KEY: done"),
        ("discard", "anggota", "anggota: NIK_FORMAT: done"),
    ]
    digest = KEYS.key_digest("anggota", key).hex()
    assert entries[0]["args"] == {"reason": "letter 12/2026", "key_digest": digest}
    everything = conn.execute("select string_agg(args::text, '') from connector.wish").fetchall()
    assert key not in str(everything)


def test_rows_nobody_has_looked_at_for_long_are_read_again(conn: psycopg.Connection, staging: PartyStaging) -> None:
    assert staging.park_refused(30) == 1
    assert parked(conn) == [("anggota", "3273015512950007")]


@pytest.mark.usefixtures("conn")
def test_a_sheet_for_the_party_s_staff_runs_nothing_and_is_the_owner_s(
    conn: psycopg.Connection, connector: CommandLine, tmp_path: Path
) -> None:
    conn.execute(
        "insert into staging.karantina (parpol_id, entity, source_key, sync_batch_id, reasons, columns) values"
        " (1, 'anggota', '=HYPERLINK(\"http://x\")', 7, '{NIK_FORMAT}', '{nik}'),"
        " (1, 'anggota', '-1', 7, '{REQUIRED}', '{alamat}')"
    )
    path = tmp_path / "alfa.csv"
    told = connector.json("quarantine", "list", "alfa", "--csv", str(path))
    assert f"lines to {path}" in told["summary"]
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    keys = {line["kunci"] for line in lines}
    assert {'\'=HYPERLINK("http://x")', "'-1", "12", "3273********0007"} <= keys
    assert not [cell for line in lines for cell in line.values() if cell.startswith(("=", "+", "-", "@"))]
    assert {line["yang harus dilakukan"] for line in lines if line["alasan"] == "NIK_FORMAT"} == {
        REASONS["NIK_FORMAT"].indonesian
    }
    refused = connector.json("quarantine", "list", "alfa", "--csv", "/nowhere/alfa.csv", code=3)
    assert refused["error"]["hint"]
