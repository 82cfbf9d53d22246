"""Ctrl-C and SIGTERM end the demo between steps, never inside one that would leave a process behind.

For the main thread of a program; elsewhere signals cannot be taken, and nothing here does anything.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM is a Ctrl-C inside the block: context managers get to clean up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold interrupts back until the block is through, then raise one if any came.

    Raises:
        KeyboardInterrupt: at the end of the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            # Also where the block failed: a Ctrl-C reaches a child of ours too, and its failure is no news then.
            raise KeyboardInterrupt
