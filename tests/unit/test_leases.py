"""How daemons share the parties, as a function."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connector.staging.leases import Peer, choose, fair_share

ALL = frozenset(f"partai{number}" for number in range(8))


def peers(**parties: frozenset[str]) -> list[Peer]:
    return [Peer(name, served) for name, served in parties.items()]


def test_one_daemon_works_for_all_parties() -> None:
    assert choose("satu", peers(satu=ALL), {}) == (ALL, ALL)


def test_a_second_daemon_takes_what_the_first_gives_up_and_no_more() -> None:
    both = peers(satu=ALL, dua=ALL)
    leases = dict.fromkeys(ALL, "satu")
    assert choose("dua", both, leases) == (frozenset(), frozenset())
    kept, taken = choose("satu", both, leases)
    assert len(kept) == 4
    assert not taken
    left = dict.fromkeys(kept, "satu")
    assert choose("dua", both, left) == (ALL - kept, ALL - kept)


def test_a_party_that_only_one_daemon_is_configured_for_counts_whole() -> None:
    both = peers(satu=ALL, dua=frozenset({"partai0", "partai1"}))
    assert fair_share("satu", both) == 7
    assert fair_share("dua", both) == 1


@given(st.dictionaries(st.sampled_from("abcd"), st.frozensets(st.sampled_from(sorted(ALL)), min_size=1), min_size=1))
def test_looks_in_turn_end_with_every_party_worked_for_and_then_nothing_moves(
    served: dict[str, frozenset[str]],
) -> None:
    daemons = [Peer(name, parties) for name, parties in sorted(served.items())]
    leases: dict[str, str] = {}
    before: dict[str, str] = {}
    for _ in range(12):
        before = dict(leases)
        for peer in daemons:
            mine, _ = choose(peer.name, daemons, leases)
            leases = {party: name for party, name in leases.items() if name != peer.name}
            leases |= dict.fromkeys(mine, peer.name)
    assert leases.keys() == frozenset().union(*served.values())
    assert leases == before
