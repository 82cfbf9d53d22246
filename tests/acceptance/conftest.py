"""A workbench per test: a migrated staging database, parties on shared clusters, daemons that end with the test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from workbench import MEMBERS, Layout, UjiParty, Workbench, drop_party, new_name

from connector.embedded import Server

_numbers = itertools.count()


@pytest.fixture
def lone_servers() -> Iterator[list[Server]]:
    """What `lone_server` started; gone with the test."""
    started: list[Server] = []
    yield started
    for server in started:
        server.destroy()


@pytest.fixture
def lone_server(start_server: Callable[..., Server], lone_servers: list[Server]) -> Callable[..., Server]:
    """`lone_server({"max_wal_size": "32MB"})`: a cluster for this test alone, to be configured, stopped or crashed."""

    def start(settings: dict[str, str] | None = None, major: int = 18) -> Server:
        server = start_server(major, f"sendiri-{os.getpid()}-{next(_numbers)}", settings)
        lone_servers.append(server)
        return server

    return start


@pytest.fixture
def make_workbench(
    tmp_path: Path, staging_dsn: str, lone_servers: list[Server], request: pytest.FixtureRequest
) -> Iterator[Callable[..., Workbench]]:
    """`make_workbench("alfa", "beta", people=300, capture="pull", server=...)`: parties with the kit installed.

    `servers` and `captures`: where parties by name live and how they are followed, if not all alike. `staging_via`,
    `source_via`: folders of the sockets that daemons use instead of the servers' own (a proxy's).
    """
    made: list[UjiParty] = []
    benches: list[Workbench] = []

    def make(
        *names: str,
        people: int = 300,
        capture: str = "pull",
        captures: Mapping[str, str] | None = None,
        server: Server | None = None,
        servers: Mapping[str, Server] | None = None,
        limits: dict[str, object] | None = None,
        layout: Layout = MEMBERS,
        encoding: str = "UTF8",
        source_via: str = "",
        staging_via: str = "",
    ) -> Workbench:
        parties = []
        for place, name in enumerate(names or ("uji",)):
            host = (servers or {}).get(name) or server or request.getfixturevalue("pg18")
            database = new_name(host, name, encoding)
            way = (captures or {}).get(name, capture)
            made.append(UjiParty(name, place + 1, host, database, way, limits or {}, layout=layout, via=source_via))
            made[-1].install(people)
            parties.append(made[-1])
        bench = Workbench(tmp_path, staging_dsn, parties, via=staging_via)
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        bench.close()
    for party in made:
        if party.server not in lone_servers:
            drop_party(party)
