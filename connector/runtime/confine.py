"""What a process of ours gives up: its memory holds members' rows, and must not reach a disk."""

from __future__ import annotations

import ctypes
import resource
import sys

# prctl(2), <linux/prctl.h>.
_PR_SET_DUMPABLE = 4


def no_core_files() -> None:
    """This process and its children write no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def undumpable() -> None:
    """No core dump at all, nor a debugger of the same user.

    The limit of 0 does not bind a kernel that pipes core dumps to a program (systemd-coredump, apport); this does. It
    does not survive an exec: each worker calls it.
    """
    no_core_files()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
