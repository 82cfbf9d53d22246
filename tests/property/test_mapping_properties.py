"""Whatever text stands in a view, the program maps it or says why not; the statement itself never fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mapped import MEMBER_RULES, program
from psycopg import sql

from connector.embedded import Server
from connector.events import source_key
from connector.mapping.document import load
from connector.mapping.program import Program, ProgramOptions, compile_entity
from connector.mapping.reasons import FINDINGS, REJECTING
from connector.resources import schema_path
from connector.staging import session

Connection = psycopg.Connection[tuple[Any, ...]]

FILES = (
    *sorted(schema_path("parties").glob("*.yaml")),
    Path(__file__).parents[1] / "fixtures" / "mappings" / "everything.yaml",
)


DOCUMENTS = [load(path) for path in FILES]
PROGRAMS = {
    f"{document.party}-{entity}": compile_entity(document, entity, ProgramOptions(1))
    for document in DOCUMENTS
    for entity in document.entities
}
# Rows of the files' own tests, as cells in the program's order: what is near a good row gets through to the table.
ROWS: dict[str, list[tuple[str | None, ...]]] = {
    f"{document.party}-{mapping.name}": [
        tuple(example.row.get(column) for column in PROGRAMS[f"{document.party}-{mapping.name}"].inputs)
        for example in mapping.examples
    ]
    for document in DOCUMENTS
    for mapping in document.entities.values()
}


@pytest.fixture(scope="module")
def conn(staging_server: Server, staging_template: str) -> Iterator[Connection]:
    name = "mapping_properties"
    with psycopg.connect(staging_server.dsn(), autocommit=True) as admin:
        admin.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(staging_template))
        )
    with session.connect(staging_server.dsn(name)) as opened:
        yield opened


def mapped(conn: Connection, compiled: Program, rows: list[tuple[str | None, ...]]) -> list[dict[str, Any]]:
    """The rows after mapping; they come in no order."""
    names = [f"i{place}" for place in range(len(compiled.inputs))]
    arrays = ", ".join(f"%(c{place})s::text[]" for place in range(len(names)))
    cells = {f"c{place}": [row[place] for row in rows] for place in range(len(names))}
    query = (
        f"with inbox as materialized (select *, null::text as edge from unnest({arrays}) t({', '.join(names)}))"
        f" select to_jsonb(m) from ({compiled.select}) m"
    )
    return [row for (row,) in conn.execute(query.encode(), {**compiled.params, **cells})]


# Text that looks like what is expected finds more than text that does not.
DIGITS = st.text("0123456789", min_size=1, max_size=20)
LOOKALIKE = st.one_of(
    DIGITS,
    st.from_regex(r"[0-9 +_xXeE.\-]{8,17}", fullmatch=True),
    st.from_regex(r"[0-9+_ ]{2}[/-][0-9_ ]{2}[/-][0-9_ ]{4}( [0-9:.]{5,12})?", fullmatch=True),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}( BC)?", fullmatch=True),
    st.from_regex(r"[1-9][0-9]{5}[0-7][0-9][01][0-9]{7}", fullmatch=True),
    st.from_regex(r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}(\.[0-9]{4})?", fullmatch=True),
    st.from_regex(r"[0-9]{1,4}[/. -][0-9]{1,4}", fullmatch=True),
    st.sampled_from([
        "infinity", "-infinity", "now", "today", "epoch", "NaN", "0x1F", "1_0", "9999-12-31", "99999-01-01",
        "0001-01-01", "3.27301E+15", "Jawa Barat", "Bogor", "Kab. Bogor", "Kota", "KAB ", "L", "P", "t", "true",
        "PUSAT", "KABKOTA", "anggota", "KTA", "AKTIF", "\\", "\\x", "%s", "%(p0)s", "'; drop table x; --", '"', "$1",
        "|", "\\|", ",", ", ", " ", "\t", "\u00a0", "\u2028", "\ufeff", "é", "\U0001f600", "ẞ", "ı", "\x01", "\x7f",
        "TNI (purn)", "32", "3273",
    ]),
)  # fmt: skip
ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
# Cells that some column of the mappings takes.
GOOD = (
    "1", "2", "L", "P", "ya", "t", "y", "male", "national", "PUSAT", "KABKOTA", "3273011001", "32.73", "32", "3273",
    "2024-02-29", "20240229", "29/02/2024", "29-02-2024", "Bogor, 1990-08-15", "Bogor, 08/15/1990", "Bogor, 15/08/1990",
    "3273011508900001", "3273015512950007", "Jawa Barat", "Kota Bogor", "Bogor Utara", "NASIONAL", "AKTIF",
    "KTA", "KTP", "anggota", "BUDI", "a/b", "aé1", "ab" * 32,
)  # fmt: skip
CELL = st.one_of(st.none(), LOOKALIKE, ANY_TEXT)


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_text_makes_a_program_fail(conn: Connection, name: str) -> None:
    compiled = PROGRAMS[name]
    width = len(compiled.inputs)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(*[CELL] * width), min_size=1, max_size=40))
    @example([("x" * 1_000_000,) * width])
    @example([("\u00a0" * 10_000,) * width])
    def check(rows: list[tuple[str | None, ...]]) -> None:
        found = mapped(conn, compiled, rows)
        assert len(found) == len(rows), "one row in, one row out"
        keys = [row[: len(compiled.key)] for row in rows]
        expected = [None if None in key else source_key(part for part in key if part is not None) for key in keys]
        assert sorted(row["source_key"] or "" for row in found) == sorted(key or "" for key in expected)
        for row in found:
            reasons, columns = row["alasan"] or [], row["alasan_kolom"] or []
            assert set(reasons) <= REJECTING
            assert len(reasons) == len(columns)
            assert set(columns) <= {*compiled.columns, ""}
            assert set(row["indikasi"] or []) <= set(FINDINGS)
            assert row["alasan"] != []
            assert row["indikasi"] != []

    check()


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_not_refused_can_be_staged(conn: Connection, name: str) -> None:
    """The staging table's own types and constraints are the last net: what the program lets pass never ends there."""
    compiled = PROGRAMS[name]
    width = len(compiled.inputs)
    names = [f"i{place}" for place in range(width)]
    arrays = ", ".join(f"%(c{place})s::text[]" for place in range(width))
    columns = ", ".join(compiled.columns)
    insert = (
        f"with inbox as materialized (select *, null::text as edge from unnest({arrays}) t({', '.join(names)}))"
        f" insert into staging.{compiled.entity}_p9 (parpol_id, source_key, {columns}, indikasi, row_hash,"
        " mapping_version, sync_batch_id, read_position, staged_at)"
        f" select 9, source_key || '/' || row_number() over (), {columns}, indikasi, '', '', 0, 0, now()"
        f" from ({compiled.select}) m where alasan is null"
    )
    near = st.sampled_from(ROWS[name] or [(None,) * width]).flatmap(
        lambda row: st.tuples(*[st.one_of(st.just(cell), st.just(cell), st.sampled_from(GOOD), CELL) for cell in row])
    )

    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(near, min_size=1, max_size=40))
    def check(rows: list[tuple[str | None, ...]]) -> None:
        cells = {f"c{place}": [row[place] for row in rows] for place in range(width)}
        with conn.transaction(force_rollback=True):
            conn.execute(
                f"create table staging.{compiled.entity}_p9"
                f" partition of staging.{compiled.entity} for values in (9)".encode()
            )
            conn.execute(insert.encode(), {**compiled.params, **cells})

    check()


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    prefixes=st.lists(st.integers(110000, 979999).map(str), min_size=1, max_size=30),
    day=st.integers(1, 28), month=st.integers(1, 12), year=st.integers(0, 99), serial=st.integers(1, 9999),
    woman=st.booleans(),
)  # fmt: skip
def test_a_nik_of_any_place_survives_as_the_same_text(
    conn: Connection, prefixes: list[str], day: int, month: int, year: int, serial: int, woman: bool
) -> None:
    compiled = program("anggota", MEMBER_RULES)
    place = compiled.inputs.index("nik")
    niks = [f"{prefix}{day + 40 * woman:02}{month:02}{year:02}{serial:04}" for prefix in prefixes]
    rows = []
    for number, nik in enumerate(niks):
        row: list[str | None] = [None] * len(compiled.inputs)
        row[0], row[place] = str(number), nik
        rows.append(tuple(row))
    found = {row["source_key"]: row for row in mapped(conn, compiled, rows)}
    for number, nik in enumerate(niks):
        assert found[str(number)]["nik"] == nik
        assert "nik" not in (found[str(number)]["alasan_kolom"] or [])


def test_every_province_of_now_and_then_may_begin_a_nik(conn: Connection) -> None:
    compiled = program("anggota", MEMBER_RULES)
    place = compiled.inputs.index("nik")
    provinces = [
        *range(11, 20),
        21,
        *range(31, 37),
        *range(51, 55),
        *range(61, 66),
        *range(71, 77),
        81,
        82,
        *range(91, 98),
    ]
    rows = []
    for province in provinces:
        row: list[str | None] = [None] * len(compiled.inputs)
        row[0], row[place] = str(province), f"{province}01014107880005"
        rows.append(tuple(row))
    for mapped_row in mapped(conn, compiled, rows):
        assert mapped_row["nik"].startswith(mapped_row["source_key"])
        assert "nik" not in mapped_row["alasan_kolom"]


LETTERS = st.text(alphabet=st.sampled_from("aé|\\%'\"1 "), max_size=6)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(LETTERS, LETTERS, LETTERS), min_size=1, max_size=30))
def test_a_composite_key_in_sql_is_the_key_of_the_shared_words(
    conn: Connection, parts: list[tuple[str, str, str]]
) -> None:
    compiled = PROGRAMS["semua-pengurus"]
    rest = (None,) * (len(compiled.inputs) - 3)
    found = mapped(conn, compiled, [(*part, *rest) for part in parts])
    assert sorted(row["source_key"] for row in found) == sorted(source_key(part) for part in parts)
