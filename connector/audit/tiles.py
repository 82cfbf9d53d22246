"""The tree in tiles: which hashes are kept, which files they make (C2SP tlog-tiles), and how entries are bundled.

Pure. A tile is 256 hashes of one level; the hashes between its levels are computed from them. A proof over ten
million entries needs six tiles at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from connector.audit.merkle import HASH_BYTES, complete_root

HEIGHT = 8
WIDTH = 1 << HEIGHT

# The hashes of tile `n` of a level, as many as there are, without a gap between them.
Fetch = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile's place, and how many hashes it has: fewer than 256 at the tree's right edge only."""

    level: int
    index: int
    width: int

    @property
    def path(self) -> str:
        return f"tile/{self.level}/{_number(self.index)}{self._partial}"

    @property
    def entries_path(self) -> str:
        """Where the entries under a tile of level 0 are."""
        return f"tile/entries/{_number(self.index)}{self._partial}"

    @property
    def _partial(self) -> str:
        return f".p/{self.width}" if self.width < WIDTH else ""


def _number(index: int) -> str:
    digits = f"{index:03d}"
    digits = digits.rjust((len(digits) + 2) // 3 * 3, "0")
    groups = [digits[place : place + 3] for place in range(0, len(digits), 3)]
    return "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])


def tiles_of(size: int, *, after: int = 0) -> Iterator[Tile]:
    """The tiles of a tree, lowest level first; `after`: only those that a tree of that many leaves had not whole."""
    level = 0
    while size >> (HEIGHT * level):
        hashes = size >> (HEIGHT * level)
        first = (after >> (HEIGHT * level)) // WIDTH
        for index in range(first, (hashes + WIDTH - 1) // WIDTH):
            yield Tile(level, index, min(WIDTH, hashes - index * WIDTH))
        level += 1


def bundle(entries: Iterable[bytes]) -> bytes:
    """Entries one after the other, each behind its length in two bytes."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unbundle(data: bytes) -> Iterator[bytes]:
    """The entries of a bundle.

    Raises:
        ValueError: it ends within an entry.
    """
    place = 0
    while place < len(data):
        start = place + 2
        place = start + int.from_bytes(data[place:start], "big")
        if start > len(data) or place > len(data):
            raise ValueError("an entry bundle ends within an entry")
        yield data[start:place]


def hashes_in(data: bytes) -> list[bytes]:
    """The hashes of a tile."""
    return [data[place : place + HASH_BYTES] for place in range(0, len(data), HASH_BYTES)]


class TileNodes:
    """A reader of complete subtrees (`merkle.Node`) over tiles; each tile is fetched once."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """The root of a complete subtree.

        Raises:
            LookupError: the tile does not hold it: the tree is smaller, or its storage was damaged.
        """
        height, within = divmod(level, HEIGHT)
        first = index << within
        place = (height, first // WIDTH)
        if place not in self._tiles:
            self._tiles[place] = hashes_in(self._fetch(*place))
        start = first % WIDTH
        hashes = self._tiles[place][start : start + (1 << within)]
        if len(hashes) != 1 << within:
            raise LookupError(f"tile {height}/{place[1]} has no hash {start + len(hashes)}")
        return complete_root(hashes)


def subtrees(size: int, completed: Sequence[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Which of the subtrees that leaf number `size` completed (`Frontier.append`) a tile keeps: level, index, root."""
    for level in range(1, (len(completed) - 1) // HEIGHT + 1):
        yield level, (size >> (HEIGHT * level)) - 1, completed[HEIGHT * level]
