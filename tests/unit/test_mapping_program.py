"""The compiled program is text and parameters: nothing of a mapping file stands in its SQL."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mapped import MEMBER_RULES, OFFICE_RULES, document, program

from connector.errors import MappingError
from connector.mapping.contract import ENTITIES, Kind
from connector.mapping.document import load, schema_text
from connector.mapping.program import ProgramOptions, compile_entity, source_key_sql
from connector.mapping.reasons import DECLARABLE, REASONS, Severity
from connector.mapping.sheet import Sheet
from connector.ops.program_text import program_text
from connector.resources import schema_path

EVERYTHING = Path(__file__).parents[1] / "fixtures" / "mappings" / "everything.yaml"


def test_the_key_is_read_first_and_each_column_once() -> None:
    compiled = program("kantor", {**OFFICE_RULES, "telepon": "alamat"}, key="[b, a]")
    assert compiled.inputs == ("b", "a", "tingkat", "wil", "alamat", "status")
    assert compiled.key == ("b", "a")


def test_a_members_region_gives_four_columns_in_contract_order() -> None:
    compiled = program("anggota", MEMBER_RULES)
    order = [column.name for column in ENTITIES["anggota"].columns]
    assert list(compiled.columns) == sorted(compiled.columns, key=order.index)
    assert compiled.columns[-4:] == ("kode_kabkota", "kode_kecamatan", "kode_kelurahan", "kode_wilayah_sumber")


def test_nothing_that_a_file_says_stands_in_the_sql() -> None:
    """Names and values of the file travel beside the statement, however they are written."""
    evil = "x'); drop table staging.anggota; --"
    quoted = '"' + evil.replace('"', '\\"') + '"'
    rules = {
        **MEMBER_RULES,
        "nama": quoted,
        "tempat_lahir": f"{{from: {quoted}, default: {quoted}}}",
        "alamat": f'{{join: [a, {quoted}], with: {quoted[:20]}"}}',
        "jenis_kelamin": f"{{from: jk, codes: {{{quoted}: L}}}}",
        "rt": '{from: a, pad: {width: 3, with: "\'"}}',
    }
    compiled = program("anggota", rules)
    assert "drop" not in compiled.select
    assert evil in compiled.inputs
    assert evil in compiled.params.values()


def test_every_parameter_has_its_type_and_the_sql_has_no_other_percent_sign() -> None:
    for path in (*schema_path("parties").glob("*.yaml"), EVERYTHING):
        loaded = load(path)
        for entity in loaded.entities:
            compiled = compile_entity(loaded, entity, ProgramOptions(1))
            named = re.findall(r"%\((\w+)\)s(::\w+(?:\[\])?)?", compiled.select)
            assert all(cast for _, cast in named)
            assert {name for name, _ in named} == set(compiled.params)
            assert "%" not in re.sub(r"%\(\w+\)s", "", compiled.select)
            assert compiled.select.isprintable() or "\n" in compiled.select


def test_a_program_is_the_same_whatever_the_order_in_the_file() -> None:
    turned = program("anggota", dict(reversed(list(MEMBER_RULES.items()))))
    straight = program("anggota", MEMBER_RULES)
    assert turned.columns == straight.columns
    assert sorted(turned.inputs) == sorted(straight.inputs)
    assert program("anggota", MEMBER_RULES) == straight


def test_an_entity_that_is_not_mapped_is_said_so() -> None:
    with pytest.raises(MappingError, match="has no entity `kantor`"):
        compile_entity(document("anggota", MEMBER_RULES), "kantor", ProgramOptions(1))


def test_a_key_of_one_column_is_its_text() -> None:
    assert source_key_sql(("i0",)) == "i0"
    assert source_key_sql(("i0", "i1")).count("replace") == 4


def test_the_printed_sql_names_its_inputs_and_has_its_values_in_it() -> None:
    compiled = program("kantor", {**OFFICE_RULES, "status_kantor": "{from: s, codes: {it's: SEWA}}"}, key="[a]")
    text = program_text(compiled)
    assert "--   i0   a" in text
    assert "'it''s'" in text
    assert "%(" not in text


def test_the_json_schema_that_ships_is_the_models() -> None:
    shipped = schema_path("mapping.schema.json").read_text(encoding="utf-8")
    assert shipped == schema_text(), "connector mapping schema > schemas/mapping.schema.json"


def test_the_contract_is_the_staging_schemas() -> None:
    """Names, types and order of columns are those of the migrations; `nik_hmac` is the apply step's."""
    ddl = "\n".join(path.read_text(encoding="utf-8") for path in sorted(schema_path("migrations").glob("*.sql")))
    for name, entity in ENTITIES.items():
        found = re.search(rf"create table staging\.{name} \((.*?)\n\) partition by", ddl, re.DOTALL)
        assert found is not None, name
        lines = re.findall(r"^    (\w+) +(\w+(?:\(\d+\))?)(.*)$", found[1], re.MULTILINE)
        names = [line[0] for line in lines]
        kept = [line for line in lines[2 : names.index("indikasi")] if line[0] != "nik_hmac"]
        assert [(line[0], line[1]) for line in kept] == [(column.name, column.sql_type) for column in entity.columns]
        for (column, _, rest), said in zip(kept, entity.columns, strict=True):
            optional_nik = said.kind is Kind.NIK and name == "anggota"
            assert ("not null" in rest) is (said.required and not optional_nik), (name, column)


def test_codes_are_stable_words_and_their_sentences_differ() -> None:
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]{3,30}", code) for code in REASONS)
    for language in ("indonesian", "english"):
        sentences = [getattr(reason, language) for reason in REASONS.values()]
        assert len(set(sentences)) == len(sentences)
        assert all(sentence.endswith(".") for sentence in sentences)
    assert all(REASONS[code].severity is Severity.REJECTED for code in DECLARABLE)


# ------------------------------------------------------------------------------------------------- the sheet


def test_an_expression_is_computed_once_and_as_late_as_it_can_be() -> None:
    sheet = Sheet("inbox", ("i0", "i1"))
    first = sheet.let("a", "f(i0)")
    second = sheet.let("b", f"g({first}, {first})")
    assert sheet.let("c", "f(i0)") == first, "the same expression has one name"
    assert sheet.let("d", "i1") == "i1", "a name needs no name"
    text = sheet.select((("x", second), ("y", f"h({second}, {first}, i1)")))
    assert text.count("f(i0)") == 1
    assert text.count("g(a, a)") == 1
    assert text.count("offset 0") == 3


def test_what_nobody_asks_for_is_not_computed() -> None:
    sheet = Sheet("inbox", ("i0",))
    sheet.let("a", "f(i0)")
    assert "f(i0)" not in sheet.select((("x", "i0"),))


def test_a_word_in_a_quoted_text_is_no_name() -> None:
    sheet = Sheet("inbox", ("i0",))
    sheet.let("a", "f(i0)")
    assert "f(i0)" not in sheet.select((("x", "case when i0 = 'a' then 'it''s a' end"),))


def test_a_value_is_sent_once_for_each_type() -> None:
    sheet = Sheet("inbox", ())
    assert sheet.param("1") == sheet.param("1") == "%(p0)s::text"
    assert sheet.param(1, "integer") == "%(p1)s::integer"
    assert sheet.params == {"p0": "1", "p1": 1}
