"""A workbench per test: a migrated staging database, parties on shared clusters, daemons that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from workbench import MEMBERS, Layout, UjiParty, Workbench, drop_party, new_name

from connector.embedded import Server


@pytest.fixture
def make_workbench(
    tmp_path: Path, staging_dsn: str, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Workbench]]:
    """`make_workbench("alfa", "beta", people=300, capture="pull", server=...)`: parties with the kit installed.

    `staging_via`, `source_via`: folders of the sockets that daemons use instead of the servers' own (a proxy's).
    """
    made: list[UjiParty] = []
    benches: list[Workbench] = []

    def make(
        *names: str,
        people: int = 300,
        capture: str = "pull",
        server: Server | None = None,
        limits: dict[str, object] | None = None,
        layout: Layout = MEMBERS,
        source_via: str = "",
        staging_via: str = "",
    ) -> Workbench:
        host = server or request.getfixturevalue("pg18")
        parties = []
        for place, name in enumerate(names or ("uji",)):
            database = new_name(host, name)
            party = UjiParty(
                name, place + 1, host, database, capture, limits or {}, layout=layout, via=source_via
            )  # fmt: skip
            made.append(party)
            party.install(people)
            parties.append(party)
        bench = Workbench(tmp_path, staging_dsn, parties, via=staging_via)
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        bench.close()
    for party in made:
        drop_party(party)
