"""Whatever bytes a party's cells hold: good rows arrive byte for byte, bad ones are told by key, none is lost."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from connector.errors import SourceProtocolError
from connector.events import KEY_BYTES_MAX, source_key
from connector.view.blocks import BadRow, Block, check, place_parts, unescape

CELL_BYTES_MAX = 60
LARGE = 1_000_000

# What CopyAttributeOutText of the server writes, on the test's side.
ESCAPES = {
    0x08: b"\\b", 0x09: b"\\t", 0x0A: b"\\n", 0x0B: b"\\v", 0x0C: b"\\f", 0x0D: b"\\r", 0x5C: b"\\\\",
}  # fmt: skip


def written(cell: bytes | None) -> bytes:
    if cell is None:
        return b"\\N"
    return b"".join(ESCAPES.get(byte, bytes((byte,))) for byte in cell)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8).map(str.encode)
TRICKS = st.sampled_from(
    [b"\\", b"\\.", b"\\N", b"N", b"\t", b"\n", b"\r", b"\r\n", b"|", b"\x1f", b"x" * 70, b"\xff", b"\0"]
)
CELLS = st.one_of(st.none(), TEXTS, TRICKS, st.binary(max_size=8))
LONG_KEYS = st.integers(KEY_BYTES_MAX - 2, KEY_BYTES_MAX + 2).map(lambda size: b"k" * size)


@dataclass(frozen=True, slots=True)
class Sheet:
    """Rows of cells; the first `key_width` of each are the key."""

    rows: list[list[bytes | None]]
    width: int
    key_width: int
    cell_bytes_max: int

    def lines(self) -> list[bytes]:
        return [b"\t".join(written(cell) for cell in row) + b"\n" for row in self.rows]

    def check(self, lines: list[bytes]) -> Block:
        return check(lines, self.width, self.key_width, self.cell_bytes_max)


@st.composite
def sheets(draw: st.DrawFn) -> Sheet:
    width = draw(st.integers(1, 4))
    key_width = draw(st.integers(1, width))
    key = st.lists(CELLS | LONG_KEYS, min_size=key_width, max_size=key_width)
    rest = st.lists(CELLS, min_size=width - key_width, max_size=width - key_width)
    rows = draw(st.lists(st.tuples(key, rest).map(lambda row: [*row[0], *row[1]]), max_size=8))
    return Sheet(rows, width, key_width, draw(st.sampled_from([CELL_BYTES_MAX, LARGE])))


def is_good(sheet: Sheet, row: list[bytes | None]) -> bool:
    """Said in another way than the code says it: on the values, not on the line."""
    cells = [cell for cell in row if cell is not None]
    try:
        texts = [cell.decode() for cell in cells]
    except UnicodeDecodeError:
        return False
    key_bytes = sum(len(written(cell)) for cell in row[: sheet.key_width])
    long = any(len(written(cell)) > sheet.cell_bytes_max for cell in cells)
    return not long and key_bytes <= KEY_BYTES_MAX and not any("\0" in text for text in texts)


@given(sheets())
def test_every_row_arrives_whole_or_is_reported_with_its_key(sheet: Sheet) -> None:
    lines = sheet.lines()
    block = sheet.check(lines)
    good = [line for line, row in zip(lines, sheet.rows, strict=True) if is_good(sheet, row)]
    bad = [row for row in sheet.rows if not is_good(sheet, row)]
    assert block.data == b"".join(good)
    assert (block.rows, len(block.bad), block.count) == (len(good), len(bad), len(lines))
    for reported, row in zip(block.bad, bad, strict=True):
        assert_is_key(reported, row[: sheet.key_width])


def assert_is_key(reported: BadRow, key: list[bytes | None]) -> None:
    assert [part is None for part in reported.key] == [part is None for part in key]
    shown = [part.encode() for part in reported.key if part is not None]
    assert sum(map(len, shown)) <= KEY_BYTES_MAX
    for text, part in zip(shown, (part for part in key if part is not None), strict=True):
        whole = part.replace(b"\0", b"").decode(errors="backslashreplace").encode()
        assert text == whole or (len(whole) > len(text) and whole.startswith(text.rpartition(b"...")[0]))


@given(sheets(), st.data())
def test_how_rows_are_grouped_changes_nothing(sheet: Sheet, data: st.DataObject) -> None:
    lines = sheet.lines()
    cut = data.draw(st.integers(0, len(lines)))
    whole, first, second = sheet.check(lines), sheet.check(lines[:cut]), sheet.check(lines[cut:])
    assert whole.data == first.data + second.data
    assert whole.bad == first.bad + second.bad


@given(sheets())
def test_a_copy_can_go_on_from_the_last_row_of_any_block(sheet: Sheet) -> None:
    block = sheet.check(sheet.lines())
    if not sheet.rows:
        return
    key = sheet.rows[-1][: sheet.key_width]
    if None in key:
        assert block.last_key is None
    else:
        assert block.last_key is not None
        assert place_parts(block.last_key, sheet.key_width) == tuple(key)


@given(st.binary(max_size=30))
def test_a_cell_comes_back_as_it_was(cell: bytes) -> None:
    assert unescape(written(cell)) == cell


@given(st.lists(st.binary(max_size=30), max_size=6), st.integers(1, 3))
def test_garbage_gives_one_error_class_and_no_half_result(lines: list[bytes], width: int) -> None:
    block = None
    with suppress(SourceProtocolError):
        block = check(lines, width, 1, CELL_BYTES_MAX)
    assert block is None or block.count == len(lines)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=2, max_size=3))
def test_a_place_that_is_text_is_the_staging_key(parts: list[str]) -> None:
    if any("\0" in part for part in parts) or parts[0].startswith("\x1f"):
        return
    line = b"\t".join(written(part.encode()) for part in parts) + b"\n"
    assert check([line], len(parts), len(parts), CELL_BYTES_MAX).last_key == source_key(parts)
