"""Several daemons share the parties of one staging database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from workbench import Workbench

Make = Callable[..., Workbench]

LONGER = "update public.orang set alamat = alamat || ' *' where orang_id = %s"
NAMES = ("satu", "dua", "tiga", "empat")


def owners(bench: Workbench) -> Counter[str]:
    """How many parties each daemon works for: those whose worker reported from there last."""
    return Counter(owner for (owner,) in bench.query("select daemon from connector.worker"))


def shared(bench: Workbench, *counts: int) -> None:
    bench.wait_until(
        lambda: sorted(owners(bench).values()) == sorted(counts),
        lambda: f"the parties are shared {counts}; they are {dict(owners(bench))}",
    )


def test_parties_are_shared_evenly_and_taken_over_from_a_killed_daemon(make_workbench: Make) -> None:
    """Work moves when a daemon comes, goes in order, or is killed; nothing is lost or done twice on the way."""
    bench = make_workbench(*NAMES, people=50)
    first = bench.start()
    for name in NAMES:
        bench.await_caught_up(name)
    second = bench.start()
    shared(bench, 2, 2)
    for name in NAMES:
        bench.parties[name].run(LONGER, (1,))
        bench.check(name)
    second.kill()
    for name in NAMES:
        bench.parties[name].run(LONGER, (2,))
        bench.check(name)
    assert sorted(owners(bench).values()) == [4]
    third = bench.start()
    shared(bench, 2, 2)
    assert first.stop() == 0
    for name in NAMES:
        bench.parties[name].run(LONGER, (3,))
        bench.check(name)
        assert bench.totals(name, "anggota")["updated"] == 3
    assert sorted(owners(bench).values()) == [4]
    assert third.alive
