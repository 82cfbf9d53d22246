"""Run an iterator in a thread of its own, a few items ahead of who consumes it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_END = object()


class Ahead(Generic[T]):
    """An iterator whose source runs in a thread. Close it, or exhaust it: the thread ends with either."""

    def __init__(self, source: Iterator[T], depth: int = 1) -> None:
        self._source = source
        self._queue: queue.Queue[object] = queue.Queue(depth)
        self._closed = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            try:
                for item in self._source:
                    if not self._put(item):
                        break
            finally:
                close = getattr(self._source, "close", None)
                if close is not None:
                    close()
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
            self._error = error
        self._put(_END)

    def _put(self, item: object) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        item = self._queue.get()
        if item is _END:
            self._queue.put(_END)
            if self._error is not None:
                raise self._error
            raise StopIteration
        return item  # type: ignore[return-value]

    def close(self) -> None:
        """Stop the thread and wait for it; from then on the iterator is exhausted."""
        self._closed.set()
        self._empty()
        self._thread.join()
        self._empty()
        self._error = None
        self._queue.put(_END)

    def _empty(self) -> None:
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return
