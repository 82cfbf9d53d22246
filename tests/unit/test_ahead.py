"""An iterator that runs ahead in a thread: the same items, the same error, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from connector.runtime.ahead import Ahead

WAIT_S = 30.0


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_items_come_whole_and_in_order() -> None:
    assert list(Ahead(iter(range(100)))) == list(range(100))


def test_an_empty_source_ends_at_once() -> None:
    ahead: Ahead[int] = Ahead(iter(()))
    assert list(ahead) == []
    assert list(ahead) == [], "and stays at its end"


def test_items_may_be_none() -> None:
    assert list(Ahead(iter([None, None]))) == [None, None]


def test_the_sources_error_is_raised_where_items_are_taken_and_after_those_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("salah")

    ahead = Ahead(source())
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="salah"):
            next(ahead)


def test_an_error_in_closing_the_source_is_raised_too() -> None:
    class Stubborn:
        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            raise StopIteration

        def close(self) -> None:
            raise ValueError("macet")

    with pytest.raises(ValueError, match="macet"):
        next(Ahead(Stubborn()))


def test_the_source_runs_in_a_thread_of_its_own() -> None:
    def source() -> Iterator[str]:
        yield threading.current_thread().name

    assert list(Ahead(source())) == ["ahead"]


def test_it_runs_no_further_ahead_than_asked() -> None:
    begun: list[int] = []
    third = threading.Event()

    def source() -> Iterator[int]:
        for number in range(10):
            begun.append(number)
            if number == 2:
                third.set()
            yield number

    with closing(Ahead(source(), depth=1)) as ahead:
        assert next(ahead) == 0
        assert third.wait(WAIT_S), "one waits in the queue, the next one is ready to follow it"
        assert begun == [0, 1, 2]


def test_closing_ends_a_thread_that_waits_for_room() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            assert threading.current_thread().name == "ahead", "a session is closed by the thread that uses it"
            closed.set()

    ahead = Ahead(source())
    next(ahead)
    ahead.close()
    assert closed.is_set()
    assert not threads()


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_closed_one_is_exhausted(taken: int) -> None:
    ahead = Ahead(iter(range(5)))
    for _ in range(taken):
        next(ahead)
    ahead.close()
    ahead.close()
    assert list(ahead) == []


def test_closing_forgets_an_error_that_nobody_came_to_see() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError

    ahead = Ahead(source())
    ahead.close()
    assert list(ahead) == []
    assert not threads()
