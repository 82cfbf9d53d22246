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


# ------------------------------------------------------------------------------------------------- diff, init


def changed(folder: Path, *replacements: tuple[str, str]) -> Path:
    text = MAPPING.replace("version: 7", "version: 8")
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path = folder / "baru.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def differing(config: Path, folder: Path, new: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code, out, _ = told(capsys, "--config", config, "mapping", "diff", folder / "uji.yaml", new, "--json")
    envelope = json.loads(out)
    assert (code, envelope["ok"]) == (0, True), out
    result = envelope["result"]
    assert isinstance(result, dict)
    return result


def test_diff_counts_rows_by_column_and_reason_and_stages_nothing(
    folder: Path, config: Path, staging_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    new = changed(
        folder,
        ("codes: {L: L, P: P}", "codes: {L: L, P: P, W: P}"),
        ("nomor_kta:      kta", "nomor_kta:      {from: kta, slice: {start: 2}}"),
        ("pekerjaan:      kerja", "pekerjaan:      {const: GURU}"),
    )
    result = differing(config, folder, new, capsys)
    (entity,) = result["entities"]
    assert (entity["read"], entity["changed"], entity["released"], entity["refused"]) == (99, 92, 3, 0)
    assert (entity["still_refused"], entity["same"], entity["uncounted"]) == (4, 0, 0)
    assert {one["what"]: one["rows"] for one in entity["columns"]} == {"nomor_kta": 92, "pekerjaan": 92}
    assert entity["columns"][0]["keys"] == ["1", "100", "13", "15", "16"]
    assert [(one["what"], one["rows"], one["keys"]) for one in entity["reasons"]] == [
        ("-CODE_UNKNOWN", 3, ["5", "6", "7"])
    ]
    assert [(one["what"], one["keys"]) for one in entity["findings"]] == [("-INDIKASI_PEKERJAAN", ["13"])]
    assert result["moved"] == 95
    with psycopg.connect(staging_dsn) as conn:
        assert list(counts(conn)) == [0, 0, 0]


def test_diff_of_equal_mappings_finds_nothing(folder: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (entity,) = differing(config, folder, changed(folder), capsys)["entities"]
    assert (entity["same"], entity["still_refused"], entity["changed"], entity["columns"]) == (92, 7, 0, [])


def test_diff_sees_another_view_and_doubled_keys(
    folder: Path, config: Path, source_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(source_dsn, autocommit=True) as conn:
        conn.execute(
            "create view ekspor.v_lain as select * from ekspor.v_anggota where id <> '1'"
            " union all select * from ekspor.v_anggota where id in ('2', '3')"
        )
    (entity,) = differing(config, folder, changed(folder, ("v_anggota", "v_lain")), capsys)["entities"]
    assert (entity["gone"], entity["new"], entity["uncounted"], entity["same"]) == (1, 0, 4, 89)


def test_diff_shows_keys_and_no_cell(folder: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = changed(
        folder, ("alamat:         alamat", "alamat:         nama"), ("nama:           nama", "nama:           alamat")
    )
    code, out, err = told(capsys, "--config", config, "mapping", "diff", folder / "uji.yaml", new)
    assert (code, "92 of 99 rows would be staged otherwise" in out) == (0, True)
    for secret in ("RAHASIA", "Rahasia", "32730155", "1995-12-15"):
        assert secret not in out + err


def test_diff_wants_one_party_s_mappings(folder: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = changed(folder, ("party: uji", "party: lain"))
    code, _, err = told(capsys, "--config", config, "mapping", "diff", folder / "uji.yaml", new)
    assert (code, "compare one party's mappings" in err) == (2, True)


def drafted(config: Path, capsys: pytest.CaptureFixture[str], *entities: str) -> str:
    asked = [word for entity in entities for word in ("--entity", entity)]
    code, out, _ = told(capsys, "--config", config, "mapping", "init", "uji", *asked)
    assert code == 0
    return out


def test_init_takes_over_equal_names_and_leaves_every_choice_open(
    folder: Path, config: Path, source_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "uji.yaml").unlink()
    with psycopg.connect(source_dsn, autocommit=True) as conn:
        conn.execute(
            "create view ekspor.v_draf as select id, nik, nama, jk as jenis_kelamin, lahir as tanggal_lahir, alamat,"
            " kel as kode_kelurahan, to_char(lahir::date, 'DD/MM/YYYY') as tempat_lahir, kta as \"No KTA\""
            " from ekspor.v_anggota"
        )
    lines = [line.strip() for line in drafted(config, capsys, "anggota=ekspor.v_draf").splitlines()]
    found = {line.split("  #")[0] for line in lines}
    assert {
        "view: ekspor.v_draf", "key: []", "nik: {from: nik, digits: true}", "nama: nama", "alamat: alamat",
        "tanggal_lahir: {from: tanggal_lahir, date: YYYY-MM-DD}",
    } <= found  # fmt: skip
    (sex,) = [line for line in lines if "jenis_kelamin:" in line]
    assert sex.startswith("# jenis_kelamin: {from: jenis_kelamin, codes: {...}}  # 4 rows hold other words than L/P")
    assert any(line.startswith("# kode_kelurahan: {from: kode_kelurahan, region: ...}") for line in lines)
    assert any(line.startswith("# nomor_kta: required;") for line in lines)
    assert any(line.startswith('#   "No KTA": text') for line in lines)
    assert any('unique and never empty: "No KTA"' in line for line in lines), lines


def test_init_without_an_entity_lists_the_views(
    config: Path, source_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(source_dsn, autocommit=True) as conn:
        conn.execute("create view ekspor.v_dua as select 1 as a")
    text = drafted(config, capsys)
    assert "entities: {}" in text
    assert "#   ekspor.v_dua" in text
    code, _, err = told(capsys, "--config", config, "mapping", "init", "uji", "--entity", "angota=ekspor.v_dua")
    assert (code, "did you mean `anggota`" in err) == (2, True)


def test_init_shows_shapes_that_many_share_and_no_cell(
    config: Path, source_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(source_dsn, autocommit=True) as conn:
        conn.execute("update ekspor.v_anggota set nik = '32.73.01-551295-0007' where id = '30'")
    text = drafted(config, capsys, "anggota=ekspor.v_anggota")
    assert "9999999999999999 97 %" in text
    assert "99.99.99-999999-9999" not in text, "one row's shape is not told"
    for secret in ("RAHASIA", "Rahasia", "32730155", "1995-12-15", "3273"):
        assert secret not in text


def test_a_finished_draft_is_a_good_mapping(folder: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = drafted(config, capsys, "anggota=ekspor.v_anggota")
    (folder / "draf.yaml").write_text(text, encoding="utf-8")
    code, _, err = told(capsys, "mapping", "lint", folder / "draf.yaml")
    assert code == 2
    assert "`key`" in err
    finished = text.replace("key: []", "key: [id]").replace(
        "    columns:\n",
        "    columns:\n      nomor_kta: kta\n      jenis_kelamin: {from: jk, codes: {L: L, P: P}}\n"
        "      tanggal_lahir: {from: lahir, date: YYYY-MM-DD}\n      pekerjaan: kerja\n"
        "      kode_kelurahan: {from: kel, region: kemendagri}\n",
    )
    (folder / "draf.yaml").write_text(finished, encoding="utf-8")
    code, _, err = told(capsys, "mapping", "lint", folder / "draf.yaml")
    assert (code, err) == (0, "")
