"""What counts as a stall, and what the probes make of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from connector.audit.sequencer import SequencerState
from connector.ops.figures import Figures
from connector.ops.status import Party, Status, Worker
from connector.web import probes
from connector.web.health import GROWTH_BYTES_MIN, Health
from connector.web.seen import Seen

AT = datetime(2026, 11, 30, tzinfo=UTC)
TREE = SequencerState(None, "running", None, None, 0, 0, 0, None, None, None, 0)
STALL_S = 180.0


def party(
    position: str = "0/1", state: str = "streaming", heartbeat_age_s: float = 1.0, lag_bytes: int = 0, lag_s: float = 0
) -> Party:
    worker = Worker(state, "host:1", AT, heartbeat_age_s, 0, None, None)
    return Party(1, True, worker, position, AT, lag_bytes, lag_s, 1, 0, None, {})


def status(**parties: Party) -> Status:
    return Status(AT, parties, TREE, ())


def seen(health: Health, now_s: float, **parties: Party) -> Seen:
    found = status(**parties)
    return Seen("host:1", 5.0, Figures(found, {}), health.look(found, now_s), now_s, "")


def test_a_position_that_stands_while_the_log_grows_is_a_stall() -> None:
    health = Health(STALL_S)
    grown = party(lag_bytes=GROWTH_BYTES_MIN + 1)
    assert not health.look(status(satu=party()), 0).stalled
    assert not health.look(status(satu=grown), STALL_S - 1).stalled, "not for long enough yet"
    assert "log kept for us grows" in health.look(status(satu=grown), STALL_S).stalled["satu"]
    moved = replace(grown, position="0/2")
    assert not health.look(status(satu=moved), STALL_S + 1).stalled


def test_an_idle_party_never_stalls() -> None:
    health = Health(STALL_S)
    for now_s in (0, STALL_S, 100 * STALL_S):
        assert health.look(status(satu=party(lag_bytes=GROWTH_BYTES_MIN // 2)), now_s).moving == ("satu",)


def test_changes_that_wait_are_a_stall_without_any_log() -> None:
    health = Health(STALL_S)
    assert not health.look(status(satu=party(lag_s=90)), 0).stalled
    assert "changes wait" in health.look(status(satu=party(lag_s=90)), STALL_S).stalled["satu"]


def test_a_worker_without_a_sign_of_life_stalls_at_once() -> None:
    assert "no sign of life" in Health(STALL_S).look(status(satu=party(heartbeat_age_s=61)), 0).stalled["satu"]


@pytest.mark.parametrize(
    ("state", "group"), [("retrying", "waiting"), ("needs_resync", "halted"), ("failed", "halted")]
)
def test_a_party_that_cannot_go_on_is_no_stall_of_ours(state: str, group: str) -> None:
    verdict = Health(STALL_S).look(status(satu=party(state=state, heartbeat_age_s=9999)), 0)
    assert (verdict.stalled, getattr(verdict, group)) == ({}, ("satu",))


def test_one_stalled_party_makes_the_daemon_unready_but_not_dead() -> None:
    now = seen(Health(STALL_S), 0, satu=party(heartbeat_age_s=99), dua=party())
    assert not probes.ready(now, 1).good
    assert "satu: stalled: no sign of life for 99 s" in probes.ready(now, 1).text
    assert probes.live(now, 1).good
    assert (probes.ready(now, 1, "dua").good, probes.ready(now, 1, "satu").good) == (True, False)


def test_a_daemon_whose_every_party_stalls_is_dead_and_another_daemons_parties_do_not_count() -> None:
    dead = party(heartbeat_age_s=99)
    assert not probes.live(seen(Health(STALL_S), 0, satu=dead, dua=dead), 1).good
    assert dead.worker is not None
    theirs = replace(dead, worker=replace(dead.worker, daemon="other:1"))
    assert probes.live(seen(Health(STALL_S), 0, satu=party(), dua=theirs), 1).good
    assert not probes.ready(seen(Health(STALL_S), 0, satu=party(), dua=theirs), 1).good


def test_an_outage_of_staging_is_unready_and_no_reason_to_end_the_daemon() -> None:
    old = seen(Health(STALL_S), 0, satu=party())
    assert not probes.ready(old, 60).good
    assert probes.live(old, 60).good
    assert not probes.ready(Seen("host:1", 5.0), 0).good
