"""What `capture: debezium` needs on our side, before a child is started: the extra, a Java, an address.

What it needs at the party's is what a stream needs (`capture/postgres/preflight.py`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from connector.capture.debezium import process
from connector.capture.debezium.jvm import JAVA_MIN
from connector.capture.finding import Finding, error, ok
from connector.errors import EnvironmentMissing

ANSWER_S = 30.0
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


def examine(dsn: str) -> tuple[Finding, ...]:
    """Every finding in one pass; no session is opened and no JVM stays."""
    return (*_extra(), *_java(), *_address(dsn))


def _extra() -> Iterator[Finding]:
    try:
        process.require()
    except EnvironmentMissing as missing:
        yield error("DEBEZIUM_MISSING", "debezium", missing.message, missing.hint)


def _java() -> Iterator[Finding]:
    version = java_version()
    if version is None:
        yield error("JAVA_MISSING", "java", "there is none", process.HINT)
    elif version < JAVA_MIN:
        yield error("JAVA_TOO_OLD", "java", f"is of version {version}, Debezium needs {JAVA_MIN}", process.HINT)
    else:
        yield ok("JAVA", "java", f"is of version {version}")


def java_version() -> int | None:
    """The major version of the Java that a child would use; None where there is none."""
    home = os.environ.get("JAVA_HOME")
    at_home = Path(home) / "bin" / "java" if home else None
    program = str(at_home) if at_home is not None and at_home.exists() else shutil.which("java")
    if program is None:
        return None
    try:
        said = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(said.stderr)
    return int(found[1]) if found else None


def _address(dsn: str) -> Iterator[Finding]:
    try:
        host = str(conninfo_to_dict(dsn).get("host") or "")
    except psycopg.ProgrammingError:
        return  # the examination of the server says what is wrong with it
    if host.startswith("/"):
        said = "names a socket, and Debezium reaches a server by TCP only"
        yield error("NEEDS_TCP", "dsn", said, "write host and port into the dsn")
