"""The tree over all entries: RFC 6962, section 2.1. Hashes, roots, proofs and their checks.

Pure. Knows no storage: whoever needs a proof hands in a reader of complete subtrees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

# The root of the complete subtree over leaves [index << level, (index + 1) << level).
Node = Callable[[int, int], bytes]


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes of one level."""
    assert len(hashes).bit_count() == 1, "not a complete subtree"
    level = list(hashes)
    while len(level) > 1:
        level = [node_hash(level[place], level[place + 1]) for place in range(0, len(level), 2)]
    return level[0]


class Frontier:
    """A tree that only grows, kept as the roots of its complete subtrees: what a root needs and no more."""

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        """`peaks`: the roots of the complete subtrees, the largest first: one for each bit of `size`."""
        assert len(peaks) == size.bit_count()
        self.size = size
        self._peaks = list(peaks)

    @classmethod
    def load(cls, size: int, node: Node) -> Frontier:
        """The frontier of a tree that is stored."""
        return cls(size, [node(level, index) for level, index in _complete(0, size)])

    def append(self, leaf: bytes) -> list[bytes]:
        """Add a leaf's hash; gives the roots of the subtrees that it completes, by level, itself first."""
        completed = [leaf]
        rest = self.size
        while rest & 1:
            completed.append(node_hash(self._peaks.pop(), completed[-1]))
            rest >>= 1
        self._peaks.append(completed[-1])
        self.size += 1
        return completed

    def root(self) -> bytes:
        return fold(self._peaks)


def fold(peaks: Sequence[bytes]) -> bytes:
    """The root over complete subtrees, the largest first."""
    if not peaks:
        return EMPTY_ROOT
    found = peaks[-1]
    for peak in reversed(peaks[:-1]):
        found = node_hash(peak, found)
    return found


def root(size: int, node: Node) -> bytes:
    """The root of the first `size` leaves."""
    return _range_root(0, size, node) if size else EMPTY_ROOT


def inclusion(index: int, size: int, node: Node) -> list[bytes]:
    """The proof that leaf `index` is in the tree of `size` leaves, from the leaf's sibling up.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    return [_range_root(start, end, node) for start, end in _beside(index, 0, size)]


def consistency(old: int, new: int, node: Node) -> list[bytes]:
    """The proof that the tree of `old` leaves is the beginning of the tree of `new`; empty where it is trivial.

    Raises:
        ValueError: `old` is not from 0 to `new`.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {old} is no beginning of a tree of {new}")
    if old in (0, new):
        return []
    return [_range_root(start, end, node) for start, end in _since(old, 0, new, whole=True)]


def includes(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> bool:
    """Check an inclusion proof (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for beside in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node_hash(beside, found)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, beside)
        place, last = place >> 1, last >> 1
    return last == 0 and found == expected


def extends(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Check a consistency proof (RFC 9162, section 2.1.4.2). Everything extends the empty tree."""
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    if old >= new:
        return old == new and not proof and old_root == new_root
    steps = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not steps:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    found_old = found_new = steps[0]
    for beside in steps[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            found_old, found_new = node_hash(beside, found_old), node_hash(beside, found_new)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            found_new = node_hash(found_new, beside)
        place, last = place >> 1, last >> 1
    return last == 0 and found_old == old_root and found_new == new_root


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return int(1 << ((count - 1).bit_length() - 1))


def _beside(index: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The subtrees beside the path to a leaf, the lowest first (PATH of RFC 6962, section 2.1.1)."""
    if end - start == 1:
        return
    middle = start + _split(end - start)
    if index < middle:
        yield from _beside(index, start, middle)
        yield middle, end
    else:
        yield from _beside(index, middle, end)
        yield start, middle


def _since(old: int, start: int, end: int, *, whole: bool) -> Iterator[tuple[int, int]]:
    """SUBPROOF of RFC 6962, section 2.1.2; `whole` says that [start, old) is the old tree itself."""
    if old == end:
        if not whole:
            yield start, end
        return
    middle = start + _split(end - start)
    if old <= middle:
        yield from _since(old, start, middle, whole=whole)
        yield middle, end
    else:
        yield from _since(old, middle, end, whole=False)
        yield start, middle


def _range_root(start: int, end: int, node: Node) -> bytes:
    """The root over leaves [start, end), which begin where a subtree of their size may."""
    return fold([node(level, index) for level, index in _complete(start, end)])


def _complete(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The complete subtrees that leaves [start, end) fall into, the largest first."""
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level
