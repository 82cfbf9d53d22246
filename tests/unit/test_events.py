"""The shared words: positions are ordered by place alone, and a key's text stands for one key only."""

from __future__ import annotations

import re

import pytest

from connector.events import EntityState, Outcome, Position, key_parts, source_key
from connector.resources import schema_path


def test_positions_are_ordered_by_place_not_by_how_they_are_written() -> None:
    early, late = Position(0x9_FFFFFFFF, "9/FFFFFFFF"), Position(0xA_00000000, "A/0")
    assert early < late
    assert early.text > "10/0", "as text the order would be another"
    assert Position(1, "0/1") == Position(1, "00000000/00000001")


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        (("42",), "42"),
        ((r"a|b\c",), r"a|b\c"),
        (("",), ""),
        (("1", "2"), "1|2"),
        (("a|b", "c"), r"a\|b|c"),
        (("a\\", "b"), r"a\\|b"),
        (("", ""), "|"),
        (("a", "|b"), r"a|\|b"),
        (("\\|", "|\\", ""), r"\\\||\|\\|"),
    ],
)
def test_a_key_is_its_columns_text_and_comes_apart_again(parts: tuple[str, ...], key: str) -> None:
    assert source_key(parts) == key
    assert key_parts(key, len(parts)) == parts


def test_no_two_composite_keys_share_a_text() -> None:
    alike = [("a|b", "c"), ("a", "b|c"), ("a\\|b", "c"), ("a\\", "b|c"), ("a", "b\\|c"), ("a|b|c", "")]
    assert len({source_key(parts) for parts in alike}) == len(alike)


def test_a_text_that_no_key_has_still_comes_apart_without_an_error() -> None:
    assert key_parts("a\\", 2) == ("a",)
    assert key_parts("a|b|c", 2) == ("a", "b", "c")


def test_staging_knows_every_state_of_an_entity() -> None:
    ddl = schema_path("migrations", "0001_connector.sql").read_text(encoding="utf-8")
    found = re.search(r"check \(state in \((.*?)\)\)", ddl)
    assert found is not None
    assert {state.value for state in EntityState} == set(re.findall(r"'(\w+)'", found[1]))


def test_outcomes_do_not_share_their_reasons() -> None:
    one, other = Outcome("anggota"), Outcome("anggota")
    assert one == other
    assert one.reasons is not other.reasons
