"""Deliveries end where transactions end, in order, and nothing is held that could have been handed over."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.capture.postgres.assembler import PAYLOAD_OVERHEAD_BYTES, Assembler, Delivery, Idle
from connector.capture.postgres.handshake import would_be_standby
from connector.errors import SourceProtocolError

LARGE = 1_000_000
ROW = b"I\0\0\x40\x01N\0\x01t\0\0\0\x011"


def begin(final: int) -> bytes:
    return b"B" + struct.pack(">QqI", final, 0, 7)


def commit(start: int, end: int) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, start, end, 0)


def transaction(start: int, end: int, rows: int = 1) -> list[bytes]:
    return [begin(start), *[ROW] * rows, commit(start, end)]


def emptied(assembler: Assembler) -> list[Delivery]:
    deliveries = []
    while (delivery := assembler.pop()) is not None:
        deliveries.append(delivery)
    return deliveries


def test_small_transactions_leave_together_with_the_last_ones_end() -> None:
    assembler = Assembler(0, LARGE)
    first, second = transaction(10, 20), transaction(20, 30)
    assembler.feed(first + second)
    assert emptied(assembler) == [Delivery((*first, *second), 30)]
    assert assembler.size_bytes == 0


def test_an_unfinished_transaction_is_kept_back() -> None:
    assembler = Assembler(0, LARGE)
    assembler.feed([*transaction(10, 20), begin(30), ROW])
    assert [delivery.commit_end for delivery in emptied(assembler)] == [20]
    assembler.feed([commit(30, 40)])
    assert emptied(assembler) == [Delivery((begin(30), ROW, commit(30, 40)), 40)]


def test_a_large_transaction_leaves_in_parts_that_mix_with_no_other() -> None:
    assembler = Assembler(0, 3 * (len(ROW) + PAYLOAD_OVERHEAD_BYTES))
    before, large = transaction(10, 20, 0), transaction(30, 40, 7)
    assembler.feed(before + large)
    deliveries = emptied(assembler)
    assert deliveries[0] == Delivery(tuple(before), 20)
    assert [delivery.commit_end for delivery in deliveries[1:]] == [None, None, 40]
    assert [payload for delivery in deliveries[1:] for payload in delivery.payloads] == large


def test_an_idle_position_is_given_once_and_only_when_nothing_is_held() -> None:
    assembler = Assembler(5, LARGE)
    assembler.idle(5)
    assert assembler.pop_idle() is None
    assembler.idle(9)
    assembler.feed(transaction(10, 20))
    assembler.idle(25)
    assert assembler.pop_idle() is None
    emptied(assembler)
    assert assembler.pop_idle() == Idle(25)
    assert assembler.pop_idle() is None


def test_a_keepalive_inside_a_transaction_moves_nothing() -> None:
    assembler = Assembler(0, LARGE)
    assembler.feed([begin(10), ROW])
    assembler.idle(99)
    assembler.feed([commit(10, 20)])
    emptied(assembler)
    assert assembler.pop_idle() is None


def test_a_message_outside_transactions_is_left_out() -> None:
    assembler = Assembler(0, LARGE)
    assembler.feed([b"M\0" + struct.pack(">Q", 1) + b"p\0\0\0\0\0", *transaction(10, 20)])
    assert emptied(assembler) == [Delivery(tuple(transaction(10, 20)), 20)]


@pytest.mark.parametrize(
    "payloads",
    [
        [ROW],
        [commit(1, 2)],
        [b"\0"],
        [begin(10), begin(11)],
        [begin(10), commit(11, 12)],
        [begin(10), commit(10, 10)],
        [begin(2), commit(2, 5)],  # at what was covered before
        [*transaction(10, 20), *transaction(10, 20)],
        [b"M\1" + struct.pack(">Q", 1) + b"p\0\0\0\0\0"],
    ],
)
def test_messages_out_of_order_are_the_servers_fault(payloads: list[bytes]) -> None:
    with pytest.raises(SourceProtocolError):
        Assembler(5, LARGE).feed(payloads)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), max_size=12),
    part_bytes=st.integers(100, 3000),
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=20),
)
def test_deliveries_are_the_stream_cut_at_commits(sizes: list[int], part_bytes: int, cuts: list[int]) -> None:
    """However the bytes arrive and whenever the consumer takes: nothing is lost, reordered or cut open."""
    stream = [m for at, rows in enumerate(sizes, 1) for m in transaction(at * 10, at * 10 + 5, rows)]
    assembler = Assembler(0, part_bytes)
    deliveries: list[Delivery] = []
    at = turn = 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        assembler.feed(stream[at : at + step])
        at, turn = at + step, turn + 1
        if turn % 3 == 0:
            deliveries += emptied(assembler)
            assert assembler.size_bytes < part_bytes
    deliveries += emptied(assembler)
    assert [payload for delivery in deliveries for payload in delivery.payloads] == stream
    assert assembler.size_bytes == 0
    for delivery in deliveries:
        last = delivery.payloads[-1]
        assert (delivery.commit_end is not None) == (last[:1] == b"C")
        if delivery.commit_end is None:
            assert not any(payload[:1] == b"C" for payload in delivery.payloads)
        else:
            assert last == commit(delivery.commit_end - 5, delivery.commit_end)


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        ("", False),
        ("*", True),
        ("FIRST 1 (a, *)", True),
        ('ANY 1 ("Sipol_Connector", b)', True),
        ("sipol_connector", True),
        ("replika_1, replika_2", False),
        ('FIRST 2 ("sipol_connector_x", replika)', False),
    ],
)
def test_whether_synchronous_standby_names_takes_us_for_a_standby(names: str, counts: bool) -> None:
    assert would_be_standby(names, "sipol_connector") is counts
