"""Daemons share the parties through a real staging database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from workbench import wait_until

from connector.errors import StagingUnavailable
from connector.staging import offsets, session
from connector.staging.leases import DEAD_S, Leases

ALL = ("alfa", "beta", "gamma", "delta")


@contextmanager
def leases(dsn: str, daemon: str) -> Iterator[Leases]:
    found = Leases(lambda: dsn, daemon)
    try:
        yield found
    finally:
        found.forget()


def miss(dsn: str, daemon: str) -> None:
    """As if the daemon had not been seen for too long."""
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "update connector.daemon set seen_at = seen_at - %s * interval '1 s' where daemon = %s",
            (DEAD_S + 1, daemon),
        )


def test_parties_change_hands_only_when_their_worker_has_ended(staging_dsn: str) -> None:
    with leases(staging_dsn, "satu") as first, leases(staging_dsn, "dua") as second:
        assert first.look(ALL, ()) == frozenset(ALL)
        assert second.look(ALL, ()) == frozenset()
        kept = first.look(ALL, ALL)
        assert len(kept) == 2
        assert second.look(ALL, ()) == frozenset(), "their workers still run there"
        assert first.look(ALL, kept) == kept
        assert second.look(ALL, ()) == frozenset(ALL) - kept


def test_a_daemon_that_ends_gives_its_parties_up_at_once(staging_dsn: str) -> None:
    with leases(staging_dsn, "satu") as first, leases(staging_dsn, "dua") as second:
        first.look(ALL, ())
        second.look(ALL, ())
        first.end()
        assert second.look(ALL, ()) == frozenset(ALL)


def test_a_daemon_that_is_missed_loses_its_parties_and_their_sessions(staging_dsn: str) -> None:
    """It may be stopped with its sessions open: the party's lock is taken from them."""
    with leases(staging_dsn, "satu") as first, leases(staging_dsn, "dua") as second:
        first.look(ALL, ())
        with session.connect(staging_dsn, "connector alfa") as asleep:
            offsets.register(asleep, "alfa", 1, "NASIONAL")
            before = offsets.claim(asleep, "alfa")
            assert second.look(ALL, ()) == frozenset()
            miss(staging_dsn, "satu")
            assert second.look(ALL, ()) == frozenset(ALL)
            with session.connect(staging_dsn, "connector alfa") as awake:
                assert offsets.claim(awake, "alfa").epoch == before.epoch + 1
            with pytest.raises(psycopg.OperationalError):
                asleep.execute("select 1")


def test_a_daemon_whose_session_is_gone_is_missed_sooner(staging_dsn: str) -> None:
    with leases(staging_dsn, "satu") as first, leases(staging_dsn, "dua") as second:
        first.look(ALL, ())
        assert second.look(ALL, ()) == frozenset()
        first.forget()
        wait_until(lambda: second.look(ALL, ()) == frozenset(ALL), "the parties are taken over", DEAD_S - 1)


def test_a_daemon_that_was_missed_and_comes_back_takes_its_share_again(staging_dsn: str) -> None:
    with leases(staging_dsn, "satu") as first, leases(staging_dsn, "dua") as second:
        first.look(ALL, ())
        second.look(ALL, ())
        miss(staging_dsn, "satu")
        assert second.look(ALL, ()) == frozenset(ALL)
        assert first.look(ALL, ALL) == frozenset(), "its workers are to stop"
        kept = second.look(ALL, ALL)
        assert len(kept) == 2
        second.look(ALL, kept)
        assert first.look(ALL, ()) == frozenset(ALL) - kept


def test_nobody_can_say_while_staging_does_not_answer() -> None:
    with leases("host=/nonexistent user=nobody dbname=nothing", "satu") as alone, pytest.raises(StagingUnavailable):
        alone.look(ALL, ())
