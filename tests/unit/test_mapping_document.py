"""A mapping file is refused with every problem it has, each at its place, before any database is asked."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from connector.errors import MappingError
from connector.mapping import rules
from connector.mapping.document import SIZE_BYTES_MAX, load, loads
from connector.resources import schema_path

GOOD = """\
party: uji
version: 1
entities:
  kantor:
    view: ekspor.v_kantor
    key: [kantor_id]
    columns:
      tingkat:       {from: tingkat, codes: {0: PUSAT, 01: PROVINSI, no: KABKOTA}}
      kode_wilayah:  {from: wil, region: kemendagri}
      alamat:        alamat
      status_kantor: {const: SEWA}
"""


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(MappingError) as caught:
        loads(text.encode(), "uji.yaml")
    assert caught.value.place == "uji.yaml"
    return caught.value.problems


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_good_file_becomes_plain_values() -> None:
    document = loads(GOOD.encode(), "uji.yaml")
    office = document.entities["kantor"]
    assert (document.party, document.version) == ("uji", "1")
    assert (office.view, office.key) == (("ekspor", "v_kantor"), ("kantor_id",))
    assert [rule.column for rule in office.rules] == ["tingkat", "kode_wilayah", "alamat", "status_kantor"]
    assert office.rule("alamat") == rules.Rule("alamat", rules.From("alamat"))
    assert office.rule("status_kantor") == rules.Rule("status_kantor", rules.Const("SEWA"))


def test_scalars_are_text_also_where_yaml_has_another_idea() -> None:
    office = loads(GOOD.encode(), "uji.yaml").entities["kantor"]
    level = office.rule("tingkat")
    assert level is not None
    (codes,) = level.steps
    assert isinstance(codes, rules.Codes)
    assert codes.pairs == (("0", "PUSAT"), ("01", "PROVINSI"), ("no", "KABKOTA"))
    split = loads(
        changed("alamat:        alamat", "alamat: {from: a, split: {on: no, take: before}}").encode(), "uji.yaml"
    )
    rule = split.entities["kantor"].rule("alamat")
    assert rule is not None
    assert rule.steps == (rules.Split("no", last=False, before=True, whole=False),)


def test_the_files_that_ship_are_good() -> None:
    for path in sorted(schema_path("parties").glob("*.yaml")):
        assert load(path).party == path.stem


# What is changed in the good file, and where the first problem stands with what it says.
PLACED: tuple[tuple[str, str, str], ...] = (
    ("party: uji", "party: Uji!", "1:8: `party` may hold only letters, digits and a few signs"),
    ("party: uji", "partai: uji", "1:1: unknown key `partai`; did you mean `party`?"),
    ("version: 1\n", "", "1:1: `version` is missing"),
    ("kantor:", "kantoor:", "4:3: the staging contract has no entity `kantoor`; did you mean `kantor`?"),
    ("ekspor.v_kantor", "v_kantor", "5:11: `view` must be written as schema.view"),
    ("ekspor.v_kantor", "db.ekspor.v_kantor", "5:11: `view` must be written as schema.view"),
    ("[kantor_id]", "kantor_id", "6:10: `key` must be a list; write it as [key]"),
    ("[kantor_id]", "[]", "6:5: `key` is empty"),
    ("[kantor_id]", "[a, a]", "6:5: a key column is named twice"),
    ("[kantor_id]", '["a\\nb"]', "6:5: `a\\nb` cannot be the name of a column or table"),
    ("alamat:        alamat", "alamt: alamat", "10:7: `kantor` has no column `alamt`; did you mean `alamat`?"),
    ("alamat:        alamat", "alamat: {form: a}", "10:16: unknown key `form`; did you mean `from`?"),
    ("alamat:        alamat", "alamat: {from: a, const: b}", "10:25: `from` already says where the value comes from"),
    ("alamat:        alamat", "alamat: {trim: true}", "10:7: where does the value come from?"),
    ("alamat:        alamat", "alamat: {from: a, trim: yes}", "10:31: `trim` must be True"),
    ("alamat:        alamat", "alamat: {from: a, case: title}", "10:31: `case` must be 'upper' or 'lower'"),
    ("alamat:        alamat", "alamat: {from: a, pad: 0}", "10:30: `width` is out of range"),
    ("alamat:        alamat", "alamat: {from: a, pad: x}", "10:30: `width` must be a whole number"),
    ("alamat:        alamat", "alamat: {from: a, date: YYYY-MM-DD}", "10:25: `date` is for date columns"),
    ("alamat:        alamat", "alamat: {from: a, region: kemendagri}", "10:25: `region` is for region columns"),
    ("alamat:        alamat", "alamat: {from: a, rtrw: rt}", "10:25: `rtrw` is for `rt` and `rw`"),
    ("alamat:        alamat", "alamat: {from: a, from_nik: true}", "10:25: `from_nik` is for `jenis_kelamin`"),
    ("alamat:        alamat", "alamat: {from: a, with: ','}", "10:25: `with` belongs to `join`"),
    ("alamat:        alamat", "alamat: {from: a, unknown: null}", "10:25: `unknown` belongs to `codes`"),
    ("alamat:        alamat", "alamat: {from: a, province: b}", "10:25: `province` belongs to `region: names`"),
    ("alamat:        alamat", "alamat: {from: a, on_invalid: default}", "10:25: `on_invalid: default` needs `default`"),
    ("alamat:        alamat", "alamat: {from: a, on_invalid: null}", "10:37: `alamat` is required and cannot be left"),
    ("alamat:        alamat", "alamat: {from: a, default: ''}", "10:34: not a value of `alamat`"),
    ("alamat:        alamat", "alamat: {const: ' '}", "10:23: not a value of `alamat`"),
    ("{const: SEWA}", "{const: KOST}", "11:30: not a value of `status_kantor`; one of: MILIK_SENDIRI"),
    ("{const: SEWA}", "{from: a, default: KOST}", "11:41: not a value of `status_kantor`"),
    ("01: PROVINSI", "01: PROVINS", "8:60: not a value of `tingkat`"),
    ("{from: wil, region: kemendagri}", "wil", "9:7: `kode_wilayah` needs `region`"),
    ("{from: wil, region: kemendagri}", "{from: wil, region: kemendagri, on_invalid: null}", "9:54: what has no"),
    ("{from: wil, region: kemendagri}", "{from: wil, region: kemendagri, default: 32}", "9:54: a default for"),
    ("      kode_wilayah:  {from: wil, region: kemendagri}\n", "", "7:5: `kode_wilayah` is required unless"),
    ("{from: wil, region: kemendagri}", "{from: wil, region: bps}", "9:34: `region: bps` needs `bridge`"),
    ("{from: wil, region: kemendagri}", "{region: names, city: b}", "9:23: `region: names` needs `province`"),
    ("{from: wil, region: kemendagri}", "{region: names, province: a, district: c}", "9:51: `district` needs `city`"),
    ("{from: wil, region: kemendagri}", "{from: a, region: names, province: b}", "9:23: `region: names` takes no"),
    ("      status_kantor: {const: SEWA}\n", "", "7:5: required columns without a rule: status_kantor"),
)  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), PLACED)
def test_a_problem_is_told_with_its_place(old: str, new: str, said: str) -> None:
    found = problems(changed(old, new))
    assert any(problem.startswith(f"uji.yaml:{said}") for problem in found), found


DATED: tuple[tuple[str, str], ...] = (
    ("tanggal_surat: tgl", "`tanggal_surat` needs `date`"),
    ("tanggal_surat: {from: tgl, date: DD.MM.YYYY}", "`format` must be 'YYYY-MM-DD', 'DD/MM/YYYY'"),
    (
        "tanggal_surat: {from: tgl, date: {format: YYYY-MM-DD, unknown: 1900}}",
        "a date that means unknown is written YYYY",
    ),
    ("tanggal_surat: {from: tgl, date: YYYY-MM-DD, pad: 10}", "`pad` would invent digits here"),
    ("tanggal_surat: {const: 2024-02-30}", "not a value of `tanggal_surat`; a date written YYYY-MM-DD"),
)


@pytest.mark.parametrize(("rule", "said"), DATED)
def test_dates_must_say_how_they_are_written(rule: str, said: str) -> None:
    assert any(said in problem for problem in problems(f"{GOOD}      {rule}\n"))


FRAMES: tuple[tuple[str, str], ...] = (
    ("when:\n  - {column: a, in: [1], reason: WEIL}", "`WEIL` is no reason for `when`; known here: IDENTITY_KIND"),
    ("when:\n  - {column: a, in: []}", "`in` is empty"),
    ("lineage:\n  - {table: kantor}", "`table` must be written as schema.table"),
    ("lineage:\n  - {table: p.k, key: {kantor_id: a}, match: {b: c}}", "`key` and `match` exclude each other"),
    ("lineage:\n  - {table: p.k, key: {other: a}}", "`key` must name each key column of the view; the key"),
    ("tests:\n  - {name: a, row: {x: 1}, gives: {alamat: b}}", "no rule reads the view column `x`"),
    ("tests:\n  - {name: a, row: {alamat: 1}, gives: {kode_pos: b}}", "`kode_pos` is not mapped"),
    ("tests:\n  - {name: a, row: {alamat: 1}, rejects: [NIK_FORMA]}", "no such reason: `NIK_FORMA`; did you mean"),
    ("tests:\n  - {name: a, row: {alamat: 1}, findings: [REQUIRED]}", "no such finding: `REQUIRED`"),
    ("tests:\n  - {name: a, row: {alamat: 1}}", "a test needs `gives`, `rejects` or `findings`"),
)  # fmt: skip


@pytest.mark.parametrize(("extra", "said"), FRAMES)
def test_conditions_lineage_and_tests_are_checked_too(extra: str, said: str) -> None:
    indented = "".join(f"    {line}\n" for line in extra.splitlines())
    assert any(said in problem for problem in problems(GOOD + indented))


MEMBER = """\
party: uji
version: 1
entities:
  anggota:
    view: ekspor.v
    key: [id]
    columns:
      nik: nik
      nomor_kta: kta
      nama: nama
      jenis_kelamin: jk
      tanggal_lahir: {from: lahir, date: YYYY-MM-DD}
      pekerjaan: kerja
      alamat: alamat
      kode_kelurahan: {from: kel, region: kemendagri}
"""

MEMBERS: tuple[tuple[str, str, str], ...] = (
    ("      kode_kelurahan: {from: kel, region: kemendagri}\n", "", "a member needs a region"),
    ("alamat: alamat", "alamat: a\n      kode_kecamatan: {from: kec, region: kemendagri}", "already gives the region"),
    ("alamat: alamat", "alamat: alamat\n      kode_wilayah_sumber: x", "is filled by the region rule"),
    ("alamat: alamat", "alamat: alamat\n      nik_hmac: x", "`anggota` has no column `nik_hmac`"),
    ("nik: nik", "nik: {from: nik, default: '3273015512950007'}", "a default for `nik` would invent what nobody sent"),
    ("nik: nik", "nik: {from: nik, pad: 16}", "`pad` would invent digits here"),
    ("nik: nik", "nik: {from: nik, codes: {a: b}}", "`codes` is not for a NIK"),
    ("nik: nik", "nik: {const: '3273015512950007'}", "a NIK cannot be a constant"),
    ("kel, region: kemendagri", "kel, region: kemendagri, on_invalid: null", "cannot be counted"),
    ("{from: kel, region: kemendagri}", "{region: names, province: a, city: b}", "must reach down to the district"),
)  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), MEMBERS)
def test_a_members_data_cannot_be_invented(old: str, new: str, said: str) -> None:
    assert old in MEMBER
    assert any(said in problem for problem in problems(MEMBER.replace(old, new)))


def test_all_problems_come_at_once_whatever_their_kind() -> None:
    text = (
        GOOD.replace("ekspor.v_kantor", "v_kantor")
        .replace("{const: SEWA}", "{const: KOST, colour: red}")
        .replace("alamat:        alamat", "alamat: {from: a, date: YYYY-MM-DD}")
        .replace("region: kemendagri", "region: bps")
    )
    assert len(problems(text)) == 4


def test_a_part_of_wrong_shape_does_not_hide_what_is_wrong_elsewhere() -> None:
    text = (
        GOOD.replace("[kantor_id]", "kantor_id").replace("{const: SEWA}", "{const: KOST}")
        + "    lineage: 3\n    tests: [7]\n"
    )
    found = problems(text)
    assert len(found) == 4
    assert any("not a value of `status_kantor`" in problem for problem in found)
    assert any(
        "`view` must be written" in problem
        for problem in problems(changed("ekspor.v_kantor\n    key: [kantor_id]", "v"))
    )


def test_two_problems_at_one_place_are_both_told() -> None:
    found = problems("party: uji\nversion: 1\nentities:\n  anggota: {view: a.b, key: [id], columns: {nik: nik}}\n")
    assert any("required columns without a rule" in problem for problem in found)
    assert any("a member needs a region" in problem for problem in found)


def test_problems_come_in_the_files_order() -> None:
    text = GOOD.replace("ekspor.v_kantor", "v_kantor").replace("{const: SEWA}", "{const: KOST}")
    lines = [int(problem.split(":")[1]) for problem in problems(text)]
    assert lines == sorted(lines)


HOSTILE: tuple[tuple[str, str], ...] = (
    ("party: !!python/object/apply:os.system [id]", "a tag (`!name`) is not allowed here"),
    ("party: &a uji", "an anchor (`&name`) is not allowed here"),
    ("party: uji\nversion: *a", "an alias (`*name`) is not allowed here"),
    ("party: uji\nparty: lain", "the key `party` stands here twice"),
    ("<<: {party: uji}", "a merge key (`<<`) is not allowed here"),
    ("party: uji\n---\nparty: lain", "a second document"),
    ("- party", "a mapping must be a table of keys"),
    ("", "empty file"),
    ("party: [", "not YAML"),
)


@pytest.mark.parametrize(("text", "said"), HOSTILE)
def test_what_is_not_plain_yaml_is_refused(text: str, said: str) -> None:
    assert any(said in problem for problem in problems(text))


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    started = time.monotonic()
    assert any("an alias" in problem for problem in problems("\n".join(lines)))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_ten_thousand_levels_are_refused_and_not_descended(opening: str) -> None:
    assert any(
        "nested deeper" in problem or "not YAML" in problem for problem in problems("party: " + opening * 10_000)
    )


def test_a_file_larger_than_a_person_writes_is_refused() -> None:
    assert problems("#" * (SIZE_BYTES_MAX + 1)) == (f"uji.yaml: larger than {SIZE_BYTES_MAX // 1024} KiB",)


def test_a_file_that_is_not_there_is_a_mapping_error(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="cannot be read"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(MappingError, match="cannot be read"):
        load(tmp_path)


def test_the_digest_is_that_of_the_content_without_layout_and_tests() -> None:
    digest = loads(GOOD.encode(), "uji.yaml").digest
    commented = GOOD.replace("party: uji", "# a comment\nparty:   uji")
    tested = GOOD + "    tests:\n      - {name: a, row: {alamat: b}, gives: {alamat: b}}\n"
    assert loads(commented.encode(), "other.yaml").digest == digest
    assert loads(tested.encode(), "uji.yaml").digest == digest
    assert loads(changed("SEWA", "LAINNYA").encode(), "uji.yaml").digest != digest
    assert loads(changed("version: 1", "version: 2").encode(), "uji.yaml").digest != digest


def test_a_problem_never_quotes_a_long_or_unprintable_name() -> None:
    for problem in problems(changed("alamat:        alamat", f'"al\\u0007amat{"x" * 500}": a')):
        assert problem.isprintable()
        assert len(problem) < 500
