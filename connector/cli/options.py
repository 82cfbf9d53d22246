"""What every verb is given: the global options, the configuration, a way to staging."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from connector.config import load
from connector.embedded import Server, wheel_binaries
from connector.settings import Config

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of text.")]

EMBEDDED_MAJOR = 16


class LogFormat(Enum):
    CONSOLE = "console"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Globals:
    """The global options of this command line."""

    config: Path
    log_format: LogFormat

    def load(self, *, check_secrets: bool = True, check_mappings: bool = True) -> Config:
        """The configuration. Raises ConfigError."""
        return load(self.config, check_secrets=check_secrets, check_mappings=check_mappings)


def given(ctx: typer.Context) -> Globals:
    """The global options, from any verb's context."""
    found = ctx.find_root().obj
    assert isinstance(found, Globals)
    return found


@contextmanager
def staging_dsn(config: Config) -> Iterator[str]:
    """A dsn of staging that works inside the block.

    An embedded staging that nobody runs (no daemon is up) is started for the block and stopped after it.

    Raises:
        ConfigError: the secret is gone.
        EnvironmentMissing: the embedded server could not be started.
    """
    if config.staging.dsn is not None:
        yield config.staging.dsn.reveal()
        return
    assert config.staging.embedded is not None, "config.load lets one of the two through"
    folder = config.staging.embedded.resolve()
    running = _running(folder)
    if running is not None:
        yield running
        return
    server = Server.start(folder, wheel_binaries(EMBEDDED_MAJOR))
    try:
        yield server.dsn()
    finally:
        server.stop()


def _running(folder: Path) -> str | None:
    """The dsn of a server that is already up in this data folder. Lines of postmaster.pid: PostgreSQL, miscadmin.h."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (folder / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        alive = (Path("/proc") / str(int(lines[0]))).exists()
        if alive and lines[7].strip() == "ready":
            return f"host={lines[4].strip()} user=postgres dbname=postgres"
    return None
