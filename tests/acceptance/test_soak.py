"""A bad night: faults of every kind at random under live writes, and in the morning everything balances."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from proxy import Proxy
from weather import Stubborn, Weather, settle
from workbench import Workbench

from connector.embedded import Server
from connector.staging import migrate

Make = Callable[..., Workbench]

PEOPLE = 2_000
MEMORY_KB_MAX = 250 * 1024


def peak_kb(pid: int) -> int:
    """The most memory a process has ever had in use; 0 where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def soak(make_workbench: Make, lone_server: Callable[..., Server], seconds: float, seed: int) -> None:
    source, staging = lone_server(), lone_server(major=16)
    with psycopg.connect(staging.dsn()) as conn:
        migrate.apply(conn)
    with Proxy(staging) as to_staging, Proxy(source) as to_source:
        bench = make_workbench(
            "tarik", "alir", people=PEOPLE, server=source, captures={"tarik": "pull", "alir": "stream"},
            limits={"copy_rows": 500, "delete_share_max": 0.9, "statement_timeout_s": 10},
            staging_via=to_staging.folder, source_via=to_source.folder,
        )  # fmt: skip
        bench.use_staging(staging.dsn())
        weather = Weather(bench, staging, source, to_staging, to_source)
        for name in bench.parties:
            bench.await_state(name, "streaming")
        first, second = (Stubborn(party, seed, PEOPLE, pause_s=0.03) for party in bench.parties.values())
        with first, second:
            weather.rage(seconds, seed)
        for name in bench.parties:
            settle(bench, name)
            bench.check(name)
        assert len(weather.happened) > 5, weather.happened
        pids = [weather.daemon.process.pid, *(weather.daemon.worker_pid(name) for name in bench.parties)]
        assert max(peak_kb(pid) for pid in pids) < MEMORY_KB_MAX


def test_a_bad_minute_ends_balanced(make_workbench: Make, lone_server: Callable[..., Server]) -> None:
    soak(make_workbench, lone_server, seconds=25, seed=20261130)


@pytest.mark.chaos
@pytest.mark.timeout(3_600)
def test_thirty_bad_minutes_end_balanced_in_flat_memory(
    make_workbench: Make, lone_server: Callable[..., Server]
) -> None:
    """CONNECTOR_SOAK_S makes it shorter or longer."""
    soak(make_workbench, lone_server, seconds=float(os.environ.get("CONNECTOR_SOAK_S", "1800")), seed=1)
