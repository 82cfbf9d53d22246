"""YAML is read as text, every place is known, and nothing a file holds raises."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector import yamlpos
from connector.yamlpos import Leaf, Place, Problem, Reading, Series, Table, parse, place_at, plain


def messages(text: str | bytes) -> list[str]:
    content = text.encode() if isinstance(text, str) else text
    return [str(problem) for problem in parse(content, "f.yaml").problems]


def root(text: str) -> Table:
    reading = parse(text.encode(), "f.yaml")
    assert reading.problems == ()
    assert isinstance(reading.root, Table)
    return reading.root


def test_every_scalar_is_text() -> None:
    text = "a: no\nb: 08\nc: 1e3\nd: ~\ne: 2024-01-01\nf: [yes, null, '']\ng:\n"
    assert plain(root(text)) == {
        "a": "no",
        "b": "08",
        "c": "1e3",
        "d": "~",
        "e": "2024-01-01",
        "f": ["yes", "null", ""],
        "g": "",
    }


def test_nothing_behind_a_key_differs_from_an_empty_text() -> None:
    table = root("a:\nb: ''\n")
    nothing, empty = table.get("a"), table.get("b")
    assert isinstance(nothing, Leaf) and nothing.empty  # noqa: PT018 - one fact
    assert isinstance(empty, Leaf) and not empty.empty  # noqa: PT018 - one fact


def test_places_count_from_one_and_belong_to_values_or_keys() -> None:
    table = root("# first\na:\n  b:\n    - x\n    - c: d\n")
    assert place_at(table, ("a", "b", 1, "c")) == Place("f.yaml", 5, 10)
    assert place_at(table, ("a", "b", 1, "c"), key=True) == Place("f.yaml", 5, 7)
    assert place_at(table, ("a", "b"), key=True) == Place("f.yaml", 3, 3)


def test_a_path_that_leads_nowhere_ends_at_the_nearest_parent() -> None:
    table = root("a:\n  b: 1\n")
    assert place_at(table, ("a", "zz", 3)) == Place("f.yaml", 2, 3) or place_at(table, ("a", "zz", 3)).line == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &x 1\n", "f.yaml:1:4: an anchor"),
        ("a: 1\nb: *x\n", "f.yaml:2:4: an alias"),
        ("a: !!int 1\n", "f.yaml:1:4: a tag"),
        ("a: ! x\n", "f.yaml:1:4: a tag"),
        ("<<: {a: 1}\n", "f.yaml:1:1: a merge key"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: the key `a` stands here twice (first on line 1)"),
        ("? [a]\n: 1\n", "f.yaml:1:3: a key must be text"),
        ("a: 1\n---\nb: 1\n", "f.yaml:2:1: a second document"),
        ("a: [\n", "f.yaml:2:1: not YAML"),
        ("a: b: c\n", "f.yaml:1:5: not YAML"),
        ('a: "\\ud800"\n', "f.yaml:1:4: half of a surrogate pair"),
        ('a: "\\UFFFFFFFF"\n', "f.yaml: an escape in a quoted text names no character"),
        ("", "f.yaml: empty file"),
        ("# nothing\n", "f.yaml: empty file"),
        (b"a: 1\nb: \xff\n", "f.yaml:2:4: not UTF-8"),
        (b"a: \x07\n", "f.yaml:1:4: a character that YAML does not allow"),
    ],
)
def test_what_is_refused_is_refused_with_its_place(text: str | bytes, expected: str) -> None:
    assert any(message.startswith(expected) for message in messages(text)), messages(text)


def test_all_problems_come_at_once() -> None:
    assert len(messages("a: 1\na: 2\nb: *x\nc: !t 1\n")) == 3


def test_depth_size_and_count_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nested deeper" in messages("[" * 5_000)[0]
    monkeypatch.setattr(yamlpos, "NODES_MAX", 10)
    assert "more than 10 values" in messages("[" + "a," * 50 + "]")[0]
    monkeypatch.setattr(yamlpos, "SIZE_BYTES_MAX", 10)
    assert "larger than 10 bytes" in messages("a: 0123456789")[0]


def test_a_flood_of_problems_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlpos, "PROBLEMS_MAX", 5)
    found = messages("".join(f"k{n}: *x\n" for n in range(1_000)))
    assert len(found) < 10
    assert "the rest was not read" in found[-1]


def test_a_file_that_cannot_be_read_is_a_problem_too(tmp_path: Path) -> None:
    assert yamlpos.read(tmp_path / "none.yaml").problems[0].message == "there is no such file"
    assert yamlpos.read(tmp_path).problems[0].message == "this is a folder, not a file"


def test_problems_are_ordered_by_place_and_the_first_of_a_place_stays() -> None:
    late, early = Place("f", 9, 1), Place("f", 2, 1)
    found = yamlpos.in_order([Problem(late, "c"), Problem(early, "a"), Problem(early, "b")])
    assert [problem.message for problem in found] == ["a", "c"]


def test_a_hint_names_the_closest_word_or_all_of_them() -> None:
    assert yamlpos.closest("bach_rows", ["batch_rows", "poll_s"]) == "did you mean `batch_rows`?"
    assert yamlpos.closest("zzz", ["b", "a"]) == "known here: a, b"
    assert yamlpos.closest("zzz", []) == ""


def test_what_is_shown_of_a_name_cannot_move_the_cursor() -> None:
    assert yamlpos.shown("a\x1b[2J\n") == "a\\x1b[2J\\n"
    assert len(yamlpos.shown("x" * 500)) == yamlpos.SHOWN_MAX


@given(st.text(max_size=200))
def test_any_text_gives_a_reading(text: str) -> None:
    content = text.encode("utf-8", "surrogatepass")
    reading = parse(content, "f.yaml")
    assert isinstance(reading, Reading)
    assert (reading.root is not None) or reading.problems


NAMES = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
TREES = st.recursive(
    st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(TREES)
def test_reading_a_quoted_tree_gives_the_tree_back(tree: yamlpos.Plain) -> None:
    reading = parse(_written(tree).encode("utf-8", "surrogatepass"), "f.yaml")
    assert reading.problems == ()
    assert isinstance(reading.root, Leaf | Series | Table)
    assert plain(reading.root) == tree


def _written(tree: yamlpos.Plain) -> str:
    if isinstance(tree, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in tree) + '"'
    if isinstance(tree, list):
        return "[" + ", ".join(_written(item) for item in tree) + "]"
    return "{" + ", ".join(f"{key}: {_written(value)}" for key, value in tree.items()) + "}"
