"""Tells systemd how the daemon fares (sd_notify(3)): one datagram to a socket, no library.

The watchdog's sign of life comes from the supervisor's own loop. A party that stalls is not a reason to end the
others, so it does not stop the sign: `/readyz`, `status` and the alerts tell of that.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time


class Systemd:
    """A way to the service manager; without one, every call does nothing."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        # systemd writes an abstract socket's address with a leading @.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        # Half the deadline, as sd_watchdog_enabled(3) advises.
        self._every_s = watchdog_s / 2
        self._due_s = 0.0

    @classmethod
    def from_environment(cls) -> Systemd:
        """As systemd told this process, and not to its children: they would answer for the daemon."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        interval, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", str(os.getpid()))
        watched = interval.isdecimal() and pid == str(os.getpid())
        return cls(address, int(interval) / 1e6 if watched else 0.0)

    def ready(self, status: str) -> None:
        self._tell(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """Call often; the sign is sent when it is due."""
        now = time.monotonic()
        if self._every_s and now >= self._due_s:
            self._due_s = now + self._every_s
            self._tell("WATCHDOG=1")

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        # A manager that does not listen must not stop the daemon: its own deadline will tell.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            to.sendto(state.encode(), self._address)
