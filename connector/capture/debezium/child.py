"""The child: configuration in on stdin, frames out on stdout, until stdin ends. See `frames`.

What a JVM and its drivers print may hold values: it goes nowhere. Nothing is confirmed to the party before the
parent says so. `python -m connector.capture.debezium.child`
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from typing import Any

from connector.capture.debezium import jvm
from connector.capture.debezium.events import Dialect, EventReader, Table
from connector.capture.debezium.frames import pack, receive


def main() -> None:
    out = os.dup(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    config = receive(sys.stdin.buffer)
    if config is None:
        return
    link = Link(out)
    try:
        version = jvm.start(config["heap_mb"], config["engine"], config["jars"])
    except jvm.Missing as missing:
        link.send(["missing", str(missing)])
        return
    link.send(["ready", version])
    Child(link, config).run()


class Link:
    """Frames to the parent. A parent that does not read makes us wait, and with us the engine and the party."""

    def __init__(self, out: int) -> None:
        self._out = out
        self._lock = threading.Lock()

    def send(self, value: object) -> None:
        rest = memoryview(pack(value))
        with self._lock:
            while rest:
                try:
                    rest = rest[os.write(self._out, rest) :]
                except BrokenPipeError:
                    os._exit(0)


class Child:
    """An engine, its batches as frames, and the places that are confirmed to it."""

    def __init__(self, link: Link, config: dict[str, Any]) -> None:
        self._link = link
        binlog = config["engine"] in ("mysql", "mariadb")
        tables = {topic: Table(number, tuple(columns)) for topic, number, columns in config["tables"]}
        self._events = EventReader(config["prefix"], tables, Dialect())
        self._accessors = jvm.Accessors(places=binlog)
        # Guards what follows: batches come in a thread of the engine's, confirmations in ours.
        self._lock = threading.Lock()
        self._unconfirmed: deque[tuple[int, Any]] = deque()
        self._latest: jvm.Batch | None = None
        self._engine = jvm.Engine(config["properties"], self._handle, self._ended)

    def run(self) -> None:
        threading.Thread(target=self._obey, daemon=True).start()
        self._engine.run()

    def _handle(self, batch: jvm.Batch) -> None:
        try:
            events, last = self._events.batch(batch.read(self._accessors))
            if last >= 0:
                place = ordinal([event for event in events if event[0] in "em"][-1])
                with self._lock:
                    self._unconfirmed.append((place, batch.record(last)))
                    self._latest = batch
            self._link.send(["events", events])
        except BaseException as exc:  # noqa: BLE001 - the engine would log it, and go on without the batch
            self._link.send(["ended", [type(exc).__name__], ""])
            os._exit(1)

    def _obey(self) -> None:
        """Confirm what the parent has stored, until it hangs up."""
        while (confirmed := receive(sys.stdin.buffer)) is not None:
            record = None
            with self._lock:
                while self._unconfirmed and self._unconfirmed[0][0] <= confirmed:
                    record = self._unconfirmed.popleft()[1]
                if record is not None and self._latest is not None:
                    self._latest.done(record)
        os._exit(0)

    def _ended(self, causes: list[str], state: str) -> None:
        self._link.send(["ended", causes, state])
        os._exit(1)


def ordinal(event: list[Any]) -> int:
    """The number that orders the position of an END or MARK; other engines than PostgreSQL give more beside it."""
    place = event[1]
    return int(place[0] if isinstance(place, list) else place)


if __name__ == "__main__":
    main()
