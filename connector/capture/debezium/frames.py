"""What passes between a source and its child: JSON behind a length. No threads, no clock.

From the child, in the order of the log:

    ["ready", java]          the JVM runs
    ["events", [...]]        what happened; empty: nothing, and the engine lives
    ["missing", what]        the child cannot work here
    ["ended", causes, state] the engine stopped: classes of the errors, and the SQLSTATE where there is one

To the child: its configuration, once; then positions, each of which may be forgotten.
"""

from __future__ import annotations

import json
from typing import IO, Any, Final

# A frame carries one batch of the engine, keys only. A length beyond this is no frame.
FRAME_BYTES_MAX: Final = 1 << 28
LENGTH_BYTES: Final = 4

# The first word of an event. Parts of a key are text, None (NULL) or `UNKNOWN`.
KEYS = "k"  # table, keys: rows that are there now
OLD = "o"  # table, keys: what rows were called that go by another key since
GONE = "d"  # table, keys: rows that were deleted
WHOLE = "w"  # table: any row may have changed
END = "e"  # position, transaction id, commit time (microseconds since 2000-01-01 UTC): a transaction is complete
MARK = "m"  # position: everything up to here was given, and no transaction is under way

UNKNOWN: Final = 0


def pack(value: object) -> bytes:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def parse(body: bytes) -> Any:
    """The value of a frame's body.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(body)


class Splitter:
    """Cuts a stream of bytes into the bodies of frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, part: bytes) -> list[bytes]:
        """The bodies that are complete now.

        Raises:
            ValueError: this is no stream of frames.
        """
        self._held += part
        found, at = [], 0
        while len(self._held) - at >= LENGTH_BYTES:
            size = int.from_bytes(self._held[at : at + LENGTH_BYTES], "big")
            if size > FRAME_BYTES_MAX:
                raise ValueError("a frame of an impossible length")
            end = at + LENGTH_BYTES + size
            if len(self._held) < end:
                break
            found.append(bytes(self._held[at + LENGTH_BYTES : end]))
            at = end
        del self._held[:at]
        return found


def receive(stream: IO[bytes]) -> Any:
    """The next frame of a blocking stream; None where it ends.

    Raises:
        ValueError: this is no stream of frames.
    """
    head = stream.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    size = int.from_bytes(head, "big")
    if size > FRAME_BYTES_MAX:
        raise ValueError("a frame of an impossible length")
    body = stream.read(size)
    return parse(body) if len(body) == size else None
