"""Rows of COPY text are let through as they are or reported with their key; nothing is repaired, nothing is lost."""

from __future__ import annotations

import random

import pytest

from connector.errors import SourceProtocolError
from connector.events import KEY_BYTES_MAX
from connector.view.blocks import (
    CELL_TOO_LARGE,
    INVALID_UTF8,
    NUL_CHARACTER,
    BadRow,
    Block,
    check,
    place_parts,
    unescape,
)

LARGE = 1_000_000


def checked(*rows: bytes, width: int = 2, key_width: int = 1, cell_bytes_max: int = LARGE) -> Block:
    return check(list(rows), width, key_width, cell_bytes_max)


def test_no_rows_make_an_empty_block() -> None:
    assert checked() == Block(b"", 0, None)


def test_good_rows_pass_as_the_bytes_they_came_as() -> None:
    rows = [b"1\tSITI\n", b"2\t\\N\n", b"3\ta\\tb\\\\c\\nd\\re\n", "4\tÑusa 😀\n".encode()]
    block = checked(*rows)
    assert block.data == b"".join(rows)
    assert (block.rows, block.bad, block.last_key) == (4, (), "4")


def test_one_bad_cell_costs_one_row() -> None:
    block = checked(b"1\tbaik\n", b"2\tburuk \xff\n", b"3\tbaik\n")
    assert block.data == b"1\tbaik\n3\tbaik\n"
    assert block.bad == (BadRow(("2",), INVALID_UTF8),)
    assert (block.rows, block.count, block.last_key) == (2, 3, "3")


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (b"\xc3", INVALID_UTF8),
        (b"\xc0\x80", INVALID_UTF8),  # an overlong NUL
        (b"\xed\xa0\x80", INVALID_UTF8),  # half a surrogate pair
        (b"\xf5\x80\x80\x80", INVALID_UTF8),  # beyond U+10FFFF
        (b"a\0b", NUL_CHARACTER),
        (b"x" * 51, CELL_TOO_LARGE),
    ],
)
def test_each_kind_of_bad_cell_has_its_reason(cell: bytes, reason: str) -> None:
    assert checked(b"1\t" + cell + b"\n", cell_bytes_max=50).bad == (BadRow(("1",), reason),)


def test_a_cell_at_the_limit_passes_and_one_byte_more_does_not() -> None:
    assert checked(b"1\t" + b"x" * 50 + b"\n", cell_bytes_max=50).bad == ()
    assert checked(b"1\t" + b"x" * 51 + b"\n", cell_bytes_max=50).rows == 0


def test_a_wide_row_of_short_cells_passes() -> None:
    row = b"\t".join([b"y" * 40] * 100) + b"\n"
    assert checked(row, width=100, cell_bytes_max=50).rows == 1


def test_the_last_row_tells_the_place_even_when_it_is_bad() -> None:
    assert checked(b"1\tx\n", b"9\t\xff\n").last_key == "9"


def test_a_composite_key_is_told_in_parts_and_places_join_them() -> None:
    block = checked(b"a|b\t\\N\tx\xff\n", b"a|b\t7\tx\xff\n", width=3, key_width=2)
    assert block.bad == (BadRow(("a|b", None), INVALID_UTF8), BadRow(("a|b", "7"), INVALID_UTF8))
    assert block.last_key == "a\\|b|7"


def test_a_row_with_a_null_in_its_key_has_no_place() -> None:
    assert checked(b"\\N\tx\n").last_key is None


def test_a_key_of_two_characters_that_look_like_null_is_not_null() -> None:
    # COPY writes a backslash twice: NULL is the one thing it writes as \N.
    block = checked(b"\\\\N\t\xff\n")
    assert block.bad == (BadRow(("\\N",), INVALID_UTF8),)
    assert block.last_key == "\\N"


def test_a_key_that_is_no_text_is_shown_as_escapes_and_its_place_keeps_the_bytes() -> None:
    block = checked(b"caf\xe9\\t1\tx\n")
    assert block.bad == (BadRow(("caf\\xe9\t1",), INVALID_UTF8),)
    assert block.last_key is not None
    assert place_parts(block.last_key, 1) == (b"caf\xe9\t1",)


@pytest.mark.parametrize("parts", [(b"a",), (b"\x1f61",), (b"\x1f", b"b"), (b"a|b\\", b""), (b"\xff", b"\x00\x1f.")])
def test_a_place_gives_the_keys_bytes_back_whatever_they_are(parts: tuple[bytes, ...]) -> None:
    row = b"\t".join(part.replace(b"\\", b"\\\\") for part in parts) + b"\tx\n"
    place = checked(row, width=len(parts) + 1, key_width=len(parts)).last_key
    assert place is not None
    assert place_parts(place, len(parts)) == parts


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_key_too_long_for_an_index_is_refused_and_still_told_apart(width: int) -> None:
    letters = random.Random(width)
    keys = [[letters.randbytes(KEY_BYTES_MAX).hex()[: 1 + KEY_BYTES_MAX // width]] * (width - 1) for _ in range(2)]
    rows = [
        ("\t".join([*key, last * (1 + KEY_BYTES_MAX // width), "cell"]) + "\n").encode()
        for key in keys
        for last in "ab"
    ]
    block = check(rows, width + 1, width, LARGE)
    assert [bad.reason for bad in block.bad] == [CELL_TOO_LARGE] * 4
    shown = [bad.key for bad in block.bad]
    assert len(set(shown)) == (4 if width > 1 else 2)
    for key in shown:
        assert sum(len((part or "").encode()) for part in key) <= KEY_BYTES_MAX


def test_the_place_of_a_key_too_long_is_not_cut() -> None:
    key = b"k" * (3 * KEY_BYTES_MAX)
    assert checked(key + b"\tx\n").last_key == key.decode()


@pytest.mark.parametrize(
    "rows",
    [
        [b"1\n"],
        [b"1\t2\t3\n"],
        [b"1\t2"],
        [b"1\t2\n\n"],
        [b"1\t2\n", b"3\t4"],
        [b"1\ta\rb\n"],
        [b"1\t\\.\n"],
        [b"\\.\n1\t2\t3\n", b"4\t5\n"],
        [b"1\t\\000\n"],
        [b"1\t\\x41\n"],
        [b"1\tx\\\n"],
        [b"1\t\\\\\\.\n"],
    ],
)
def test_what_copy_never_writes_is_the_servers_fault(rows: list[bytes]) -> None:
    with pytest.raises(SourceProtocolError) as caught:
        checked(*rows)
    assert caught.value.__cause__ is None


def test_an_escaped_backslash_before_any_letter_is_no_strange_escape() -> None:
    rows = [b"1\tC:\\\\.\\\\x\\\\0\n", b"2\t\\\\\\n\n", b"3\t\\\\\\\\\n"]
    assert checked(*rows).rows == 3


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (b"plain", b"plain"),
        (b"\\b\\f\\n\\r\\t\\v", b"\b\f\n\r\t\v"),
        (b"\\\\n", b"\\n"),
        (b"a\\\\", b"a\\"),
        (b"\\", b"\\"),
    ],
)
def test_unescape_gives_a_cells_own_bytes(cell: bytes, value: bytes) -> None:
    assert unescape(cell) == value
