"""What a process of ours gives up: dumps, since its memory holds members' rows, and more than its share of memory."""

from __future__ import annotations

import ctypes
import resource
import sys

# prctl(2), <linux/prctl.h>.
_PR_SET_DUMPABLE = 4
# A worker holds about ten sockets and pipes, and a spool for each of a large transaction's entities.
FILES_MAX = 256


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


def bound(memory_bytes: int) -> None:
    """This process may hold so much memory of its own and no more: a party's flood is its own worker's trouble.

    What does not fit is a MemoryError here, and not the kernel's choice of whom to end. Code and what is shared with
    other workers does not count (RLIMIT_DATA).
    """
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = FILES_MAX if most == resource.RLIM_INFINITY else min(FILES_MAX, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
