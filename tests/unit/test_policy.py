"""Every class of error has one reaction; what nobody foresaw halts its party."""

from __future__ import annotations

import inspect
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector import errors
from connector.errors import ConnectorError
from connector.runtime.policy import TABLE, Policy, Reaction, delay_s, policy_for

HALT, RETRY, RESYNC = Reaction.HALT, Reaction.RETRY, Reaction.RESYNC_NEEDED

# Written down anew here: a class that changes its reaction must be changed in two places.
EXPECTED: dict[type[ConnectorError], Reaction] = {
    errors.ConnectorError: HALT,
    errors.UsageError: HALT,
    errors.ConfigError: HALT,
    errors.MappingError: HALT,
    errors.EnvironmentMissing: HALT,
    errors.SourceError: HALT,
    errors.SourceUnavailable: RETRY,
    errors.SourceBusy: RETRY,
    errors.SourceProtocolError: RETRY,
    errors.SourceMisconfigured: RETRY,
    errors.PositionLost: RESYNC,
    errors.EntityHeld: HALT,
    errors.StagingError: HALT,
    errors.StagingUnavailable: RETRY,
    errors.StagingIncompatible: RETRY,
    errors.Fenced: RETRY,
    errors.StaleRead: RETRY,
    errors.Unanchored: RETRY,
    errors.AuditBroken: HALT,
}


def an(kind: type[ConnectorError]) -> ConnectorError:
    if kind is errors.PositionLost:
        return errors.PositionLost("slot_lost", "")
    if kind is errors.EntityHeld:
        return errors.EntityHeld("anggota", "view_missing", "")
    if kind is errors.AuditBroken:
        return errors.AuditBroken("alfa", 1, "")
    return kind("")


def test_every_class_of_error_is_accounted_for() -> None:
    classes = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ConnectorError)}
    assert classes == EXPECTED.keys()


@pytest.mark.parametrize(("kind", "reaction"), EXPECTED.items(), ids=lambda value: getattr(value, "__name__", None))
def test_each_class_has_its_reaction(kind: type[ConnectorError], reaction: Reaction) -> None:
    assert policy_for(an(kind)).reaction is reaction


def test_what_is_unknown_halts_its_party() -> None:
    class Unheard(ConnectorError):
        pass

    assert policy_for(Unheard("")) == Policy(HALT)


def test_no_line_of_the_table_hides_one_below_it() -> None:
    for (above, _), (below, _) in itertools.combinations(TABLE, 2):
        assert not issubclass(below, above)


def test_a_subclass_inherits_the_reaction() -> None:
    class SlotTaken(errors.SourceUnavailable):
        pass

    assert policy_for(SlotTaken("")).reaction is RETRY


@pytest.mark.parametrize("policy", [policy for _, policy in TABLE if policy.reaction is RETRY], ids=str)
def test_waits_double_up_to_their_limit(policy: Policy) -> None:
    waits = [delay_s(policy, attempt, 0.0) for attempt in range(1, 40)]
    assert waits[0] == policy.first_s
    assert waits == sorted(waits)
    assert all(later in (min(2 * wait, policy.most_s), wait) for wait, later in itertools.pairwise(waits))
    assert policy.first_s == 0 or waits[-1] == policy.most_s


@given(st.integers(1, 10**9), st.floats(0, 1), st.sampled_from([policy for _, policy in TABLE]))
def test_a_wait_is_never_longer_than_a_quarter_over_its_limit(attempt: int, jitter: float, policy: Policy) -> None:
    assert 0 <= delay_s(policy, attempt, jitter) <= policy.most_s * 1.25


def test_jitter_keeps_parties_apart() -> None:
    policy = Policy(RETRY, 1.0, 30.0)
    assert delay_s(policy, 1, 0.0) == 1.0
    assert delay_s(policy, 1, 1.0) == 1.25


def test_an_error_tells_its_place_and_keeps_its_hint_apart() -> None:
    error = ConnectorError("salah", hint="perbaiki", place="alfa/anggota")
    assert str(error) == "alfa/anggota: salah"
    assert str(ConnectorError("salah")) == "salah"
    assert error.hint == "perbaiki"
    assert str(errors.AuditBroken("alfa", 7, "rusak")) == "alfa#7: rusak"
    held = errors.EntityHeld("anggota", "view_missing", "hilang")
    assert (held.entity, held.reason, str(held)) == ("anggota", "view_missing", "anggota: hilang")
