"""`connector mapping`: problems, tests and real rows, told to people and to programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from connector import cli

MAPPING = """\
party: uji
version: 7
entities:
  anggota:
    view: ekspor.v_anggota
    key: [id]
    columns:
      nik:            nik
      nomor_kta:      kta
      nama:           nama
      jenis_kelamin:  {from: jk, codes: {L: L, P: P}}
      tanggal_lahir:  {from: lahir, date: YYYY-MM-DD}
      pekerjaan:      kerja
      alamat:         alamat
      kode_kelurahan: {from: kel, region: kemendagri}
    tests:
      - name: separators are dropped
        row:   {id: 1, nik: "32.73.01-551295-0007"}
        gives: {nik: "3273015512950007"}
"""
VIEW = """
create schema ekspor;
create table ekspor.v_anggota (
  id text, nik text, kta text, nama text, jk text, lahir text, kerja text, alamat text, kel text);
insert into ekspor.v_anggota
select g::text, '327301551295' || lpad(g::text, 4, '0'), 'K' || g, 'SITI RAHASIA', 'P', '1995-12-15', 'PETANI',
       'Jl. Rahasia', '3273011001' from generate_series(1, 100) g;
update ekspor.v_anggota set jk = 'W' where id in ('5', '6', '7');
update ekspor.v_anggota set jk = 'X' where id = '8';
update ekspor.v_anggota set nik = '3.27301E+15' where id in ('10', '11');
update ekspor.v_anggota set kel = '9999999999' where id = '12';
update ekspor.v_anggota set kerja = 'PNS' where id = '13';
update ekspor.v_anggota set id = null where id = '14';
"""
CONFIG = """
staging: {{dsn: "{staging}"}}
parties:
  uji:
    parpol_id: 3
    mapping: uji.yaml
    source: {{engine: postgresql, dsn: "{source}", capture: pull}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "uji.yaml").write_text(MAPPING, encoding="utf-8")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_lint_says_what_is_in_a_good_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "mapping", "lint", folder / "uji.yaml", "--json")
    envelope = json.loads(out)
    assert (code, envelope["ok"], envelope["command"]) == (0, True, "mapping lint")
    (entity,) = envelope["result"]
    assert (entity["entity"], entity["columns"], entity["tests"], entity["version"]) == ("anggota", 8, 1, "7")


def test_lint_tells_the_problems_of_all_files_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = folder / "bad.yaml"
    bad.write_text(MAPPING.replace("codes:", "kodes:").replace("version: 7\n", ""), encoding="utf-8")
    code, out, err = told(capsys, "mapping", "lint", folder / "uji.yaml", bad)
    assert (code, out) == (2, "")
    assert f"{bad}:10:34: unknown key `kodes`; did you mean `codes`?" in err
    assert f"{bad}:1:1: `version` is missing" in err


def test_sql_prints_the_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "mapping", "sql", folder / "uji.yaml", "anggota")
    assert code == 0
    assert out.startswith("-- anggota from ekspor.v_anggota, key id; mapping version 7, digest ")
    assert "as source_key" in out
    code, _, err = told(capsys, "mapping", "sql", folder / "uji.yaml", "kantor")
    assert (code, "no entity `kantor`" in err) == (2, True)


def test_test_runs_the_files_examples_on_a_server_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "mapping", "test", folder / "uji.yaml")
    assert (code, "1 of 1 tests passed" in out) == (0, True)


@pytest.fixture
def config(folder: Path, staging_dsn: str, source_dsn: str) -> Path:
    with psycopg.connect(source_dsn) as conn:
        conn.execute(VIEW)
    path = folder / "connector.yaml"
    path.write_text(CONFIG.format(staging=staging_dsn, source=source_dsn), encoding="utf-8")
    return path


def test_a_test_that_fails_says_what_came_instead(
    folder: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = MAPPING.replace('gives: {nik: "3273015512950007"}', 'gives: {nik: "1"}\n        findings: [NAMA_ANGKA]')
    (folder / "uji.yaml").write_text(wrong, encoding="utf-8")
    arguments = ("--config", config, "mapping", "test", folder / "uji.yaml", "--on-staging", "--json")
    code, out, _ = told(capsys, *arguments)
    envelope = json.loads(out)
    assert (code, envelope["ok"]) == (1, False)
    (verdict,) = envelope["result"]
    assert verdict["line"] == 17
    assert verdict["problems"] == ["nik: wanted `1`, got `3273015512950007`", "wanted the finding NAMA_ANGKA, got none"]


def counts(conn: psycopg.Connection[tuple[Any, ...]]) -> Iterator[int]:
    for table in ("staging.anggota", "staging.karantina", "staging.sync_batch"):
        row = conn.execute(f"select count(*) from {table}".encode()).fetchone()
        yield row[0] if row else -1


def test_dry_run_counts_what_would_pass_and_stages_nothing(
    config: Path, staging_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = told(capsys, "--config", config, "mapping", "dry-run", "uji", "--rows", "1000", "--json")
    envelope = json.loads(out)
    assert (code, envelope["ok"]) == (0, True)
    (trial,) = envelope["result"]
    assert (trial["read"], trial["passed"], trial["refused"]) == (100, 92, 8)
    seen = {(one["reason"], one["column"]): (one["rows"], one["keys"]) for one in trial["reasons"]}
    assert seen == {
        ("CODE_UNKNOWN", "jenis_kelamin"): (4, ["5", "6", "7", "8"]),
        ("NIK_FORMAT", "nik"): (2, ["10", "11"]),
        ("REGION_UNKNOWN", "kode_kabkota"): (1, ["12"]),
        ("NULL_KEY", ""): (1, [""]),
    }
    assert trial["codes"] == [
        {"column": "jenis_kelamin", "code": "W", "rows": 3},
        {"column": "jenis_kelamin", "code": "X", "rows": 1},
    ]
    assert trial["places"] == [["9999999999", 1]]
    assert trial["findings"] == {"INDIKASI_PEKERJAAN": 1}
    with psycopg.connect(staging_dsn) as conn:
        assert list(counts(conn)) == [0, 0, 0]


def test_dry_run_shows_no_cell_but_codes_and_regions(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, "--config", config, "mapping", "dry-run", "uji", "anggota", "--rows", "1000")
    assert code == 0
    assert "92 of 100 rows would be staged; nothing was" in out
    for secret in ("RAHASIA", "Rahasia", "32730155", "3.27301E", "1995-12-15"):
        assert secret not in out + err


def test_dry_run_of_an_unknown_entity_or_view_is_told(
    folder: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = told(capsys, "--config", config, "mapping", "dry-run", "uji", "kantor")
    assert (code, "has no entity kantor" in err) == (2, True)
    (folder / "uji.yaml").write_text(MAPPING.replace("v_anggota", "v_lain"), encoding="utf-8")
    code, _, err = told(capsys, "--config", config, "mapping", "dry-run", "uji")
    assert (code, "there is no view ekspor.v_lain" in err) == (1, True)


def test_a_row_that_the_byte_check_refuses_is_counted_like_any_other(
    config: Path, source_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(source_dsn, autocommit=True) as conn:
        conn.execute("update ekspor.v_anggota set alamat = repeat('x', 2000000) where id = '20'")
    code, out, _ = told(capsys, "--config", config, "mapping", "dry-run", "uji", "--json")
    assert code == 0
    (trial,) = json.loads(out)["result"]
    assert ("CELL_TOO_LARGE", 1) in [(one["reason"], one["rows"]) for one in trial["reasons"]]
