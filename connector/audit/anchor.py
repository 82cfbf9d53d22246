"""The last signed checkpoint in a file outside staging: compared and set, so that no restored backup is signed over.

One file, one line of history: whoever signs first replaces what is there, and only if it is what he knows.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connector.audit.note import NOTE_BYTES_MAX
from connector.errors import ConnectorError


class AnchorError(ConnectorError):
    """The anchor cannot be read or written, or somebody else moved it."""


class Anchor:
    """A checkpoint's file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> str | None:
        """The checkpoint that was signed last; None where there is no file.

        Raises:
            AnchorError: it cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                return file.read(NOTE_BYTES_MAX).decode()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise self._unusable(exc) from None

    def replace(self, expected: str | None, note: str) -> None:
        """Put `note` where `expected` is. When this returns, it is on disk.

        Raises:
            AnchorError: something else is there: another daemon signs too. Or it cannot be written.
        """
        try:
            with self._locked():
                if self.read() != expected:
                    raise AnchorError(
                        "the anchor was moved by somebody else", hint="is another daemon signing?", place=str(self.path)
                    )
                self._write(note.encode())
        except OSError as exc:
            raise self._unusable(exc) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The lock has a file of its own: the anchor itself is replaced.
        with self.path.with_name(self.path.name + ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, data: bytes) -> None:
        new = self.path.with_name(self.path.name + ".new")
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _unusable(self, exc: Exception) -> AnchorError:
        said = os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno else "not a text"
        return AnchorError(
            f"the anchor cannot be used ({said})",
            hint="nothing is signed meanwhile; may the daemon write there?",
            place=str(self.path),
        )
