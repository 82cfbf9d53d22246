"""schemas/README.md says what the program does: its examples are run, its codes and columns are the contract's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from mapped import Mapper
from psycopg import sql

from connector.embedded import Server
from connector.mapping.contract import ENTITIES
from connector.mapping.reasons import REASONS
from connector.resources import schema_path
from connector.staging import session

TEXT = schema_path("README.md").read_text(encoding="utf-8")
FUNCTIONS = ("split", "slice", "trim", "case", "digits", "pad", "codes", "date", "rtrw", "join", "from_nik")


@dataclass(frozen=True, slots=True)
class Shown:
    """One line of an example's table."""

    entity: str
    column: str
    rule: str
    cells: dict[str, str | None]
    results: dict[str, str | None]
    reason: str | None
    finding: str | None


def shown() -> Iterator[Shown]:
    blocks = re.findall(r"```yaml\n(\w+): (.*)\n```\n((?:\|.*\n)+)", TEXT)
    for column, rule, table in blocks:
        rule_text, _, entity = rule.partition(" # ")
        head, _, *lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
        for line in lines:
            yield _shown(entity.strip() or "anggota", column, rule_text.strip(), dict(zip(head, line, strict=True)))


def _shown(entity: str, column: str, rule: str, line: dict[str, str]) -> Shown:
    results = {name: text for name, text in line.items() if name.startswith("→")}
    words = [text for text in results.values() if re.fullmatch(r"[A-Z_]{4,}", text)]
    return Shown(
        entity=entity,
        column=column,
        rule=rule,
        cells={name: _cell(text) for name, text in line.items() if not name.startswith("→") and name != "finding"},
        results={name[1:].strip() or column: _cell(text) for name, text in results.items() if text.startswith("`")},
        reason=words[0] if words else None,
        finding=line.get("finding") or None,
    )


def _cell(text: str) -> str | None:
    assert text[0] == text[-1] == "`", text
    bare = text[1:-1]
    return None if bare == "NULL" else bare.strip('"')


@pytest.fixture(scope="module")
def mapper(staging_server: Server, staging_template: str) -> Iterator[Mapper]:
    name = "mapping_readme"
    with psycopg.connect(staging_server.dsn(), autocommit=True) as admin:
        admin.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(staging_template))
        )
    with session.connect(staging_server.dsn(name)) as conn:
        yield Mapper(conn)


@pytest.mark.parametrize("example", list(shown()), ids=lambda example: f"{example.column}-{example.cells}")
def test_an_example_of_the_reference_comes_out_as_it_says(mapper: Mapper, example: Shown) -> None:
    ask = {"anggota": mapper.member, "kantor": mapper.office}[example.entity]
    mapped = ask({example.column: example.rule}, example.cells)
    if example.reason is not None:
        assert [reason for reason, _ in mapped.reasons] == [example.reason]
    else:
        assert mapped.reasons == ()
        assert {name: mapped.values[name] for name in example.results} == example.results
    # The usual row's birth date and sex belong to another NIK than some examples'.
    found = set(mapped.findings) - {"NIK_TANGGAL", "NIK_KELAMIN"}
    if example.reason is None:
        assert found == ({example.finding} if example.finding else set())


def test_every_function_has_an_example() -> None:
    rules = " ".join(example.rule for example in shown())
    assert [name for name in FUNCTIONS if f"{name}:" not in rules] == []
    for system in ("kemendagri", "bps", "names"):
        assert f"region: {system}" in rules


def test_the_reference_lists_every_code_with_its_sentences_and_no_other() -> None:
    listed = re.findall(r"^\| `([A-Z0-9_]+)` \| ([TIN]) \| (.*) \| (.*) \|$", TEXT, re.MULTILINE)
    assert listed == [
        (reason.code, reason.severity.value, reason.indonesian, reason.english) for reason in REASONS.values()
    ]


def test_the_reference_lists_every_column_of_the_contract_and_no_other() -> None:
    section = TEXT.split("## The staging contract")[1].split("\n## ")[0]
    lines = dict(re.findall(r"^\| `([a-z]+)` \| (`.*) \|$", section, re.MULTILINE))
    assert lines.keys() == ENTITIES.keys()
    for name, entity in ENTITIES.items():
        columns = re.findall(r"`(\w+)`(!?)", lines[name])
        assert columns == [(column.name, "!" if column.required else "") for column in entity.columns]
