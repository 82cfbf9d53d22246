"""Keys gathered for the pipeline: each once, in order, in bounded memory, and as often as one asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.capture.signals import KeySet, Match, SignalBuffer
from connector.events import Position

LARGE = 1_000
AT = Position(16, "0/10")


def keyset(keys: Iterable[str], memory_max: int = LARGE) -> KeySet:
    gathered = KeySet(memory_max)
    for key in keys:
        gathered.add(key)
    return gathered


def flat(keys: KeySet, rows_max: int = LARGE) -> list[str]:
    return [key for part in keys.slices(rows_max) for key in part]


def test_keys_come_once_and_in_the_order_of_their_first_mention() -> None:
    assert flat(keyset(["b", "a", "b", "c", "a"])) == ["b", "a", "c"]


def test_an_empty_set_has_no_slices() -> None:
    assert list(KeySet(LARGE).slices(10)) == []
    assert len(KeySet(LARGE)) == 0


def test_slices_are_full_but_for_the_last() -> None:
    keys = keyset(map(str, range(7)))
    assert [len(part) for part in keys.slices(3)] == [3, 3, 1]
    assert [len(part) for part in keyset("abc").slices(3)] == [3]


def test_keys_beyond_the_limit_are_on_disk_and_none_is_lost() -> None:
    keys = keyset(map(str, range(1_000)), memory_max=64)
    assert len(keys._keys) < 64
    assert len(keys) == 1_000
    assert flat(keys) == [str(number) for number in range(1_000)]


@pytest.mark.parametrize("key", ["", "\n", "a\nb", "\\", "|", "é😀", "\x1f", " "])
def test_a_key_on_disk_keeps_its_text(key: str) -> None:
    assert flat(keyset([key, "x", "y"], memory_max=2)) == [key, "x", "y"]


def test_a_slice_never_has_a_key_twice_although_the_set_may() -> None:
    # `a` comes again after it went to disk: a batch that was signalled a key twice would not balance.
    keys = keyset(["a", "b", "c", "a", "d"], memory_max=3)
    parts = list(keys.slices(10))
    assert parts == [["a", "b", "c", "d"]]
    assert all(len(set(part)) == len(part) for part in keys.slices(2))


def test_a_set_may_be_walked_again_and_after_a_walk_that_was_given_up() -> None:
    keys = keyset(map(str, range(10)), memory_max=4)
    next(keys.slices(2))
    assert flat(keys) == [str(number) for number in range(10)]
    assert flat(keys) == [str(number) for number in range(10)]


def test_a_key_added_after_a_walk_that_was_given_up_overwrites_nothing() -> None:
    # The pipeline walks the set, an entity is held in the middle, and the next try adds what a join touches.
    keys = keyset((f"key-{number:04}" for number in range(2_000)), memory_max=100)
    next(keys.slices(2))
    for number in range(2_000, 2_200):
        keys.add(f"key-{number:04}")
    assert flat(keys, 10_000) == [f"key-{number:04}" for number in range(2_200)]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=3)), st.integers(1, 8), st.integers(1, 8))
def test_spilling_and_slicing_change_nothing_but_a_second_look(keys: list[str], memory_max: int, rows: int) -> None:
    gathered = keyset(keys, memory_max)
    parts = list(gathered.slices(rows))
    assert list(dict.fromkeys(key for part in parts for key in part)) == list(dict.fromkeys(keys))
    assert all(1 <= len(part) <= rows and len(set(part)) == len(part) for part in parts)


def test_a_buffer_hands_over_what_it_has_and_begins_anew() -> None:
    buffer = SignalBuffer(LARGE)
    buffer.keys("anggota").add("1")
    buffer.matches(Match("anggota", ("kerja_id",))).add("3")
    buffer.whole("pengurus")
    buffer.committed(700, 1_000_000)
    buffer.committed(701, 3_000_000)
    taken = buffer.take(AT)
    assert taken.position is AT
    assert flat(taken.keys["anggota"]) == ["1"]
    assert flat(taken.matches[Match("anggota", ("kerja_id",))]) == ["3"]
    assert taken.whole == {"pengurus"}
    assert (taken.xids, taken.transactions) == ((700, 701), 2)
    assert taken.committed_first == datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=1)
    assert taken.committed_last == datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=3)
    assert not taken.empty
    again = buffer.take(AT)
    assert again.empty
    assert (again.keys, again.matches, again.whole, again.xids, again.committed_last) == ({}, {}, frozenset(), (), None)
    assert flat(taken.keys["anggota"]) == ["1"], "what was taken is not touched by what comes after"


def test_a_transaction_that_touches_nothing_of_ours_counts_and_is_empty() -> None:
    buffer = SignalBuffer(LARGE)
    buffer.committed(700, 1)
    assert buffer.transactions == 1
    assert buffer.take(AT).empty


def test_a_whole_entity_alone_is_not_empty() -> None:
    buffer = SignalBuffer(LARGE)
    buffer.whole("anggota")
    assert not buffer.take(AT).empty


@pytest.mark.parametrize("at_us", [2**63 - 1, -(2**63)])
def test_a_clock_out_of_its_mind_does_not_stop_a_party(at_us: int) -> None:
    buffer = SignalBuffer(LARGE)
    buffer.committed(700, at_us)
    assert buffer.take(AT).committed_last is None
