"""The kits of engines that Debezium follows without a slot. PostgreSQL's is proved on servers, these are read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connector.capture.debezium.kit import PASSWORD, DebeziumRequest, kit_text, removal_text, told
from connector.capture.debezium.properties import Endpoint, Engine, Followed
from connector.errors import UsageError

TABLES = (Followed("dbo", "orang", ("orang_id", "kerja")), Followed("dbo", "kerja", ()))


def request(engine: Engine) -> DebeziumRequest:
    endpoint = Endpoint("db.partai.example", 1, "", "", "partai")
    return DebeziumRequest("alfa", engine, "sipol_ro", endpoint, TABLES, (("ekspor", "v_anggota"),))


ENGINES: tuple[Engine, ...] = ("mariadb", "mysql", "mssql", "oracle")


@pytest.mark.parametrize("engine", ENGINES)
def test_every_statement_has_its_reason_and_the_properties_stand_below(engine: Engine) -> None:
    lines = kit_text(request(engine)).splitlines()
    statements = [at for at, line in enumerate(lines) if line and not line.startswith("--") and line != "go"]
    assert statements
    assert all(lines[at - 1].startswith("-- ") for at in statements)
    assert any(line.startswith("-- WHAT THIS GIVES AWAY") for line in lines)
    assert f"--   database.password={PASSWORD}" in lines
    assert "--   snapshot.mode=no_data" in lines


@pytest.mark.parametrize(
    ("engine", "columns"),
    [
        ("mariadb", "grant select (`orang_id`, `kerja`) on `dbo`.`orang`"),
        ("mssql", "@captured_column_list = N'[orang_id], [kerja]'"),
        ("oracle", '("orang_id", "kerja") always'),
    ],
)
def test_only_key_columns_are_captured(engine: Engine, columns: str) -> None:
    text = kit_text(request(engine))
    assert columns in text
    assert ("all columns, since" in text) == (engine == "mssql"), "what gives more away says so"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_removal_takes_back_what_the_kit_made(engine: Engine) -> None:
    made, removed = kit_text(request(engine)), removal_text(request(engine))
    for thing in ("SIPOL_", "sipol_0", "sipol_1", "capture_instance"):
        assert (thing in made) == (thing in removed) or thing == "capture_instance"
    assert "drop user" in removed
    assert "sipol_ro" in removed


def test_a_party_s_server_id_is_its_own_and_stays() -> None:
    first = told(request("mariadb"))["database.server.id"]
    assert told(request("mariadb"))["database.server.id"] == first
    assert told(replace(request("mariadb"), party="beta"))["database.server.id"] != first


@pytest.mark.parametrize("name", ["a\nb", "", "x$kit$"])
def test_a_name_that_would_not_survive_a_review_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        kit_text(replace(request("mssql"), tables=(Followed("dbo", name, ("id",)),)))


def test_a_quote_in_a_name_ends_nothing() -> None:
    tables = (Followed("d'o", "o]rang", ("o'id",)),)
    text = kit_text(replace(request("mssql"), tables=tables))
    assert "@source_schema = N'd''o', @source_name = N'o]rang'" in text
    assert "N'[o''id]'" in text
    assert '"o""x"' in kit_text(replace(request("oracle"), tables=(Followed("s", 'o"x', ("id",)),)))
