"""Which transactions a snapshot shows: 32-bit ids from the log against the server's 64-bit ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.view.postgres import Snapshot

EPOCH = 2**32


def snapshot(text: str, position: int = 0) -> Snapshot:
    return Snapshot.parse(position, text)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("100:100:", Snapshot(7, 100, 100, frozenset())),
        ("100:105:100,103", Snapshot(7, 100, 105, frozenset({100, 103}))),
        (f"{EPOCH}:{EPOCH + 1}:{EPOCH}", Snapshot(7, EPOCH, EPOCH + 1, frozenset({EPOCH}))),
    ],
)
def test_a_snapshot_is_read_as_the_server_writes_it(text: str, parsed: Snapshot) -> None:
    assert snapshot(text, 7) == parsed


def test_what_ended_before_everything_that_runs_is_shown() -> None:
    assert snapshot("100:105:100,103").shows([99, 3, 98])


def test_what_runs_in_the_snapshots_eyes_is_not_shown() -> None:
    # Decoded and not yet visible: the session still waits for its standby.
    assert not snapshot("100:105:100,103").shows([103])
    assert not snapshot("100:105:100,103").shows([99, 100])


def test_what_ended_while_an_older_one_runs_is_shown() -> None:
    assert snapshot("100:105:100,103").shows([101, 102, 104])


def test_what_began_after_the_snapshot_is_not_shown() -> None:
    assert not snapshot("100:105:100,103").shows([105])
    assert not snapshot("100:105:").shows([200])


def test_no_transactions_at_all_are_shown() -> None:
    assert snapshot("100:100:").shows([])


@pytest.mark.parametrize("xmax", [10, EPOCH - 3, EPOCH, EPOCH + 5, 7 * EPOCH + 2, 7 * EPOCH + 2**31])
@pytest.mark.parametrize("distance", [-(2**31) + 1, -(10**6), -3, -1, 0, 1, 10**6, 2**31 - 1])
def test_a_short_id_is_the_nearest_of_its_long_ones(xmax: int, distance: int) -> None:
    wide = xmax + distance
    if wide >= 0:
        assert snapshot(f"{xmax}:{xmax}:").widen(wide % EPOCH) == wide


@given(st.integers(0, 2**40), st.integers(-(2**31) + 1, 2**31 - 1))
def test_widening_is_right_within_half_the_circle(xmax: int, distance: int) -> None:
    wide = max(0, xmax + distance)
    assert snapshot(f"{xmax}:{xmax}:").widen(wide % EPOCH) == wide


def test_the_gate_holds_across_a_wraparound_of_the_short_ids() -> None:
    # The log says 4294967295 and 0; the server's counter has just passed 2**32.
    near = snapshot(f"{EPOCH - 1}:{EPOCH + 1}:{EPOCH - 1}")
    assert near.shows([0, EPOCH - 2])
    assert not near.shows([EPOCH - 1])
    assert not near.shows([1])


@given(
    st.integers(3, 2**34).flatmap(lambda xmin: st.tuples(st.just(xmin), st.integers(0, 50))),
    st.sets(st.integers(0, 49)),
    st.lists(st.integers(-1000, 1000), max_size=5),
)
def test_the_gate_is_the_servers_own_rule(bounds: tuple[int, int], running: set[int], seen: list[int]) -> None:
    xmin, size = bounds
    in_progress = {xmin + place for place in running if place < size}
    shot = Snapshot(0, xmin, xmin + size, frozenset(in_progress))
    xids = [max(3, xmin + distance) for distance in seen]
    visible = all(xid < xmin or (xid < xmin + size and xid not in in_progress) for xid in xids)
    assert shot.shows(xid % EPOCH for xid in xids) == visible
