"""A driver's values become the text that PostgreSQL's COPY would show, and key texts become values again."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.sqldb import cells
from connector.sqldb.cells import RawText
from connector.view import blocks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (RawText(b"caf\xe9"), b"caf\xe9"),
        ("siti", b"siti"),
        (b"\x00\xff", rb"\x00ff"),
        (True, b"t"),
        (3273015512950007, b"3273015512950007"),
        (3273015512950008.0, b"3273015512950008"),
        (0.1, b"0.1"),
        (float("-inf"), b"-Infinity"),
        (float("nan"), b"NaN"),
        (Decimal("1E+3"), b"1000"),
        (Decimal("12.50"), b"12.50"),
        (date(44, 3, 15), b"0044-03-15"),
        (datetime(2026, 1, 2, 3, 4, 5), b"2026-01-02 03:04:05"),  # noqa: DTZ001 - columns without a zone are common
        (datetime(2026, 1, 2, 3, 4, 5, 60, UTC), b"2026-01-02 03:04:05.000060+00:00"),
        (time(3, 4), b"03:04:00"),
        (timedelta(hours=-838, minutes=-59, seconds=-59), b"-838:59:59"),
        (UUID(int=1), b"00000000-0000-0000-0000-000000000001"),
        ("\udce9", b"\xe9"),
    ],
)
def test_a_value_has_one_text(value: object, text: bytes | None) -> None:
    assert cells.cell(value) == text


Bytes = st.binary(max_size=20)
Row = st.lists(
    st.none() | Bytes | st.sampled_from([b"", rb"\N", b"\t", b"a\tb", b"\\", b"\r\n"]), min_size=1, max_size=5
)


@given(Row)
def test_a_row_of_copy_text_gives_its_cells_back(row: list[bytes | None]) -> None:
    text = cells.copy_row(row)
    assert text.endswith(b"\n")
    back = [None if part == rb"\N" else blocks.unescape(part) for part in text[:-1].split(b"\t")]
    assert back == row
    # The byte check takes it as COPY text, whatever it thinks of the bytes.
    block = blocks.check([text], len(row), 1, 1_000)
    assert block.count == 1
    assert block.rows == (b"\0" not in text and _is_text(text))


def _is_text(row: bytes) -> bool:
    try:
        row.decode()
    except UnicodeDecodeError:
        return False
    return True


Value = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=10),
    st.floats(allow_nan=False),
    st.binary(max_size=8),
    st.binary(max_size=8).map(RawText).filter(lambda raw: not _is_text(raw)),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.dates(),
    st.datetimes(),
    st.uuids(),
)


@given(Value)
def test_a_place_keeps_its_type(value: object) -> None:
    back = cells.untyped(cells.typed(value))
    assert back == value
    assert type(back) is type(value)


@given(
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.binary(max_size=8), st.text(max_size=8))
)
def test_a_loose_key_includes_the_value_it_came_from(value: object) -> None:
    text = cells.cell(value)
    assert text is not None
    found = cells.loose(text.decode())
    assert any(type(one) is type(value) and one == value for one in found)
    assert all(cells.cell(one) == text for one in found), "no other key's value"
