"""A compare under a log: both are heard, at the log's positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from connector.capture.polling.net import NetSource
from connector.capture.polling.ports import Found
from connector.capture.signals import KeySet, Signals
from connector.events import Position, SourceIdentity


def key(name: str) -> dict[str, KeySet]:
    found = KeySet(10)
    found.add(name)
    return {"v": found}


@dataclass
class Log:
    """Says what it was given; `busy` never runs out."""

    given: list[int] = field(default_factory=list)
    busy: bool = False
    identity: SourceIdentity = field(default_factory=lambda: SourceIdentity("mariadb", 0, "stream"))
    start: Position = field(default_factory=lambda: Position(10, "10"))
    closed: bool = False
    number: int = 10

    def read(self, timeout_s: float) -> Signals | None:  # noqa: ARG002
        if not self.busy and not self.given:
            return None
        self.number = self.given.pop(0) if self.given else self.number + 1
        position = Position(self.number, str(self.number))
        return Signals(position, key("log"), {}, frozenset(), (), 1, None, None)

    def confirm(self, position: Position) -> None: ...
    def lag_bytes(self) -> int:
        return 0

    def give_up(self) -> None: ...
    def close(self) -> None:
        self.closed = True


@dataclass
class Net:
    every_s: float = 0.0
    learned: int = 0
    closed: bool = False

    def learn(self) -> None:
        self.learned += 1

    def resume(self, handed: int) -> None: ...
    def round(self) -> Iterator[Found]:
        yield Found(key("compare"))

    def applied(self, handed: int) -> None: ...
    def close(self) -> None:
        self.closed = True


class Memory:
    def close(self) -> None: ...


def made(log: Log, net: Net, *, begins: bool = False) -> NetSource:
    return NetSource(log, net, Memory(), begins=begins)  # type: ignore[arg-type]


def said(signals: Signals | None) -> tuple[int, str] | None:
    if signals is None:
        return None
    return signals.position.ordinal, next(iter(next(signals.keys["v"].slices(1))))


def test_what_a_compare_finds_comes_at_the_logs_position() -> None:
    source = made(Log([11, 12]), Net())
    found = [said(source.read(0.0)) for _ in range(8)]
    assert [one for one in found if one is not None][:4] == [(11, "log"), (11, "compare"), (12, "log"), (12, "compare")]


def test_a_log_that_never_rests_does_not_keep_a_compare_from_its_turn() -> None:
    source = made(Log(busy=True), Net())
    words = [one[1] for _ in range(12) if (one := said(source.read(0.0))) is not None]
    assert words.count("compare") >= 3
    assert words.count("log") >= 3


def test_before_its_time_a_compare_says_nothing_and_a_history_begins_by_learning() -> None:
    log, net = Log([11]), Net(every_s=3_600.0)
    source = made(log, net, begins=True)
    assert [said(source.read(0.0)) for _ in range(3)] == [(11, "log"), None, None]
    assert net.learned == 1
    source.close()
    assert (log.closed, net.closed) == (True, True)
