"""The tree's arithmetic, held against RFC 6962's own definition and against published vectors."""

from __future__ import annotations

import hashlib
import random

import pytest

from connector.audit import merkle
from connector.audit.entry import leaf_hash
from connector.audit.merkle import Frontier
from connector.audit.tiles import TileNodes, bundle, subtrees, tiles_of, unbundle

# Leaves and roots of certificate transparency's reference tests.
CT_LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
CT_ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def hashes(count: int) -> list[bytes]:
    return [leaf_hash(str(place).encode()) for place in range(count)]


def by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it is written there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return hashlib.sha256(b"\x01" + by_definition(leaves[:half]) + by_definition(leaves[half:])).digest()


def node_over(leaves: list[bytes]) -> merkle.Node:
    return lambda level, index: by_definition(leaves[index << level : (index + 1) << level])


def test_roots_are_those_of_the_reference_tests() -> None:
    frontier = Frontier()
    assert frontier.root() == merkle.EMPTY_ROOT
    for leaf, root in zip(CT_LEAVES, CT_ROOTS, strict=True):
        frontier.append(leaf_hash(leaf))
        assert frontier.root().hex() == root


@pytest.mark.parametrize("size", range(1, 20))
def test_every_leaf_is_proved_and_nothing_else_is(size: int) -> None:
    leaves = hashes(size)
    root = by_definition(leaves)
    assert merkle.root(size, node_over(leaves)) == root
    for index, leaf in enumerate(leaves):
        proof = merkle.inclusion(index, size, node_over(leaves))
        assert merkle.includes(leaf, index, size, proof, root)
        assert not merkle.includes(leaf_hash(b"other"), index, size, proof, root)
        assert not merkle.includes(leaf, (index + 1) % size, size, proof, root) or size == 1
        assert not merkle.includes(leaf, index, size, [*proof, root], root)
        assert not merkle.includes(leaf, size, size, proof, root)
        if proof:
            assert not merkle.includes(leaf, index, size, proof[:-1], root)


@pytest.mark.parametrize("new", range(1, 20))
def test_every_beginning_is_proved_and_nothing_else_is(new: int) -> None:
    leaves = hashes(new)
    root = by_definition(leaves)
    for old in range(new + 1):
        proof = merkle.consistency(old, new, node_over(leaves))
        old_root = by_definition(leaves[:old])
        assert merkle.extends(old, old_root, new, root, proof)
        assert not merkle.extends(old, leaf_hash(b"x"), new, root, proof)
        assert not merkle.extends(old, old_root, new, leaf_hash(b"x"), proof) or old == 0
        assert not merkle.extends(old, old_root, new, root, [*proof, root])
        if proof:
            assert not merkle.extends(old, old_root, new, root, proof[:-1])
    assert not merkle.extends(new + 1, root, new, root, [])


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="no leaf 3"):
        merkle.inclusion(3, 3, node_over(hashes(3)))
    with pytest.raises(ValueError, match="no beginning"):
        merkle.consistency(4, 3, node_over(hashes(3)))


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 512, 65_536, 65_793])
def test_tiles_give_the_same_roots_and_proofs_as_the_leaves(size: int) -> None:
    leaves = hashes(size)
    kept: dict[tuple[int, int], bytes] = {}
    frontier = Frontier()
    for leaf in leaves:
        completed = frontier.append(leaf)
        kept |= {(level, index): root for level, index, root in subtrees(frontier.size, completed)}

    def fetch(level: int, index: int) -> bytes:
        if level == 0:
            return b"".join(leaves[index * 256 : (index + 1) * 256])
        return b"".join(kept[level, place] for place in range(index * 256, (index + 1) * 256) if (level, place) in kept)

    nodes = TileNodes(fetch)
    assert merkle.root(size, nodes) == frontier.root()
    assert Frontier.load(size, nodes).root() == frontier.root()
    for index in {0, size // 2, size - 1, random.randrange(size)}:
        assert merkle.includes(leaves[index], index, size, merkle.inclusion(index, size, nodes), frontier.root())
    for old in {1, size // 3 + 1, size - 1}:
        proof = merkle.consistency(old, size, nodes)
        assert merkle.extends(old, merkle.root(old, nodes), size, frontier.root(), proof)
    widths = {(tile.level, tile.index): tile.width for tile in tiles_of(size)}
    assert all(len(fetch(*place)) == 32 * width for place, width in widths.items())
    with pytest.raises(LookupError, match="has no hash"):
        nodes(0, size)


def test_a_tree_of_70000_has_the_tiles_that_the_specification_names() -> None:
    tiles = list(tiles_of(70_000))
    full = [tile for tile in tiles if tile.width == 256]
    assert [(tile.level, tile.width) for tile in tiles if tile.width < 256] == [(0, 112), (1, 17), (2, 1)]
    assert [sum(tile.level == level for tile in full) for level in (0, 1, 2)] == [273, 1, 0]
    assert (tiles[0].path, tiles[273].path) == ("tile/0/000", "tile/0/273.p/112")
    assert tiles[273].entries_path == "tile/entries/273.p/112"
    assert [tile.path for tile in tiles_of(70_000, after=69_999)] == [
        "tile/0/273.p/112",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ]
    assert next(iter(tiles_of(1_234_067 * 256 + 256, after=1_234_067 * 256))).path == "tile/0/x001/x234/067"


def test_a_bundle_comes_apart_again_and_a_cut_one_is_refused() -> None:
    entries = [b"", b"a", b"\0" * 65_535]
    assert list(unbundle(bundle(entries))) == entries
    for cut in (1, 3, 10):
        with pytest.raises(ValueError, match="ends within"):
            list(unbundle(bundle(entries)[:-cut]))
    with pytest.raises(ValueError, match="ends within"):
        list(unbundle(b"\0"))
