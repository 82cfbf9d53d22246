"""What the kit's text holds, without a server."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.capture.outbox import kit as outbox_kit
from connector.capture.outbox.request import OutboxRequest, OutboxTable
from connector.capture.postgres import kit_relay
from connector.capture.postgres.kit import KitRequest, KitTable, kit_remove_sql, kit_sql, peek_body
from connector.capture.postgres.quoting import quoted, remark, text
from connector.errors import UsageError
from connector.mapping.reasons import REASONS

REQUEST = KitRequest(
    party="alfa",
    mode="pull",
    slot="sipol_alfa",
    publication="sipol_alfa",
    reader="sipol_ro",
    tables=(KitTable("public", "kader", ("kader_id",)),),
    views=(("ekspor", "v_anggota"),),
)


def outside_bodies(script: str) -> str:
    """The script without what stands between dollar quotes."""
    return "".join(script.split("$kit$")[::2])


def test_a_statement_never_comes_without_a_comment_before_it() -> None:
    """Each paragraph that has SQL in it says why, before the SQL."""
    for script in (kit_sql(REQUEST), kit_remove_sql(REQUEST)):
        for paragraph in outside_bodies(script).split("\n\n"):
            lines = [line for line in paragraph.strip().splitlines() if line]
            if lines and lines != ["commit;"]:
                assert lines[0].startswith("--"), paragraph


def test_the_kit_writes_no_password() -> None:
    script = kit_sql(REQUEST).lower()
    assert "password null" in script
    assert "password '" not in script


def test_a_pull_kit_gives_the_reader_no_replication_and_no_table() -> None:
    script = kit_sql(REQUEST)
    assert 'create role "sipol_ro" login password null noreplication' in script
    assert [line for line in script.splitlines() if line.strip().startswith("grant")] == [
        'grant usage on schema "sipol" to "sipol_ro";',
        'grant execute on function "sipol"."sipol_alfa_peek"(pg_lsn, integer) to "sipol_ro";',
        'grant execute on function "sipol"."sipol_alfa_confirm"(pg_lsn) to "sipol_ro";',
        'grant execute on function "sipol"."sipol_alfa_release"() to "sipol_ro";',
        'grant usage on schema "ekspor" to "sipol_ro";',
        'grant select on "ekspor"."v_anggota" to "sipol_ro";',
    ]


def test_the_kit_is_the_same_text_each_time() -> None:
    assert kit_sql(REQUEST) == kit_sql(REQUEST)


def test_a_table_behind_two_views_is_listed_once_with_the_keys_of_both() -> None:
    tables = (KitTable("public", "kader", ("kader_id",)), KitTable("public", "kader", ("kerja_id", "kader_id")))
    script = kit_sql(replace(REQUEST, tables=tables))
    assert script.count("('public', 'kader', array['kader_id', 'kerja_id']::text[])") == 1


@pytest.mark.parametrize("slot", ["", "Sipol", "sipol-alfa", "sipol alfa", "x" * 56, "a';--", "sipol\n"])
def test_a_slot_name_that_postgresql_or_our_suffixes_do_not_allow_is_refused(slot: str) -> None:
    with pytest.raises(UsageError, match="slot name"):
        kit_sql(replace(REQUEST, slot=slot))


@pytest.mark.parametrize("name", ["", "a\0b", "a\nselect 1;", "x" * 64, "é" * 32, "a\u202eb"])
@pytest.mark.parametrize("make", [kit_sql, kit_remove_sql])
def test_a_name_that_would_not_survive_a_review_is_refused(name: str, make: object) -> None:
    assert callable(make)
    for request in (
        replace(REQUEST, reader=name),
        replace(REQUEST, publication=name),
        replace(REQUEST, schema=name),
        replace(REQUEST, views=(("ekspor", name),)),
        replace(REQUEST, tables=(KitTable(name, "kader"),)),
        replace(REQUEST, tables=(KitTable("public", "kader", (name,)),)),
    ):
        with pytest.raises(UsageError, match="cannot be a name"):
            make(request)


def test_a_kit_without_a_table_or_a_view_is_refused() -> None:
    with pytest.raises(UsageError, match="no base table"):
        kit_sql(replace(REQUEST, tables=()))
    with pytest.raises(UsageError, match="no view"):
        kit_sql(replace(REQUEST, views=()))


def test_a_line_break_in_a_party_name_does_not_end_its_comment() -> None:
    script = kit_sql(replace(REQUEST, party="alfa\ndrop table kader; --\r\u2028x"))
    assert "\ndrop table" not in script
    assert remark("a\r\n\x1b[31m\u2028b") == "a???[31m?b"


@given(st.text().filter(lambda value: "\0" not in value))
def test_a_quoted_text_ends_where_it_should(value: str) -> None:
    """Read back by PostgreSQL's rules for '' and E'', the text is the value."""
    written = text(value)
    escaped = written.startswith("E")
    inner = written[2 if escaped else 1 : -1]
    assert "'" not in inner.replace("''", "")
    assert escaped == ("\\" in value)
    read = inner.replace("''", "'")
    assert (read.replace("\\\\", "\\") if escaped else read) == value


@given(st.text(alphabet="$kit_a'\n", max_size=40))
def test_a_dollar_quoted_body_holds_no_end_tag(body: str) -> None:
    written = quoted(body)
    tag = written[: written.index("$", 1) + 1]
    assert written == f"{tag}{body}{tag}"
    assert written.index(tag, len(tag)) + len(tag) == len(written)


def test_the_publication_is_named_to_the_plugin_as_an_identifier() -> None:
    """pgoutput reads a list of identifiers: without quotes upper case would be folded, and a comma would split."""
    assert '\'publication_names\', \'"Sipol, ""A"""\'' in peek_body("s", 'Sipol, "A"')


# ------------------------------------------------------------------------------------------------- the guides

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"'(?:error|warning)'(?: as level)?,\s+'([A-Z0-9_]+)'")


def kit_codes() -> set[str]:
    table = OutboxTable("public", "kader", ("kader_id",))
    outbox = OutboxRequest("postgresql", "sipol", "sipol_alfa", "sipol_ro", (table,), (("ekspor", "v_anggota"),))
    text = outbox_kit.script(outbox_kit.kit_steps(outbox), "postgresql")
    stream = replace(REQUEST, mode="stream")
    scripts = (kit_sql(REQUEST), kit_sql(stream), kit_relay.publisher_sql(stream), text)
    return {code for script in scripts for code in CODE.findall(script)}


def check_codes() -> set[str]:
    """The codes that the preflight's and staging's questions are written with."""
    found: set[str] = set()
    capture = ROOT / "connector/capture"
    sources = [*capture.glob("*/preflight*.py"), capture / "verdicts.py", ROOT / "connector/ops/check.py"]
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch(r"[A-Z0-9_]{3,}", node.value)
            ):
                found.add(node.value)
    return found


def test_the_dba_s_guide_explains_every_code_of_the_kit() -> None:
    guide = (ROOT / "deploy/PANDUAN-DBA.md").read_text()
    assert len(kit_codes()) > 25
    assert {code for code in kit_codes() if f"`{code}`" not in guide} == set()


def test_the_guides_name_no_code_that_does_not_exist() -> None:
    words = {
        "CONNECT",
        "USAGE",
        "SELECT",
        "PUBLIC",
        "REPLICATION",
        "UPDATE",
        "DELETE",
        "INHERITS",
        "DROP",
        "TRUNCATE",
        "FLOAT",
        "DOUBLE",
        "MIXED",
        "SUPER",
        "FILE",
        "PROCESS",
        "SIPOL_UTAMA",
        "BASE_BACKUP",
        "PARTY",
    }
    for name in ("PANDUAN-DBA.md", "README.md"):
        named = set(re.findall(r"`([A-Z][A-Z0-9_]{3,})`", (ROOT / "deploy" / name).read_text()))
        assert named - words <= kit_codes() | check_codes() | set(REASONS)
