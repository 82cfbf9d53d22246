"""Whatever is done to a log, and wherever, it is found there; and nothing makes the check itself fall over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.audit.entry import INTEGER_MAX, StoredEntry, canonical, decode
from connector.audit.verify import Breach, verify
from connector.ops import audit as ops
from tests.fixtures.entries import chain, heads, rehashed

LENGTH = 6
LOG = chain("alfa", LENGTH)
OTHER = chain("beta", LENGTH)

places = st.integers(0, LENGTH - 1)
keys = st.text(st.characters(codec="ascii"), max_size=6)
scalars = st.none() | st.booleans() | st.integers(-INTEGER_MAX, INTEGER_MAX) | st.text(max_size=8)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))
bodies = st.dictionaries(keys, values, max_size=5)


def first_breach(*logs: Sequence[StoredEntry]) -> Breach | None:
    """The first breach in changed logs, held against the heads of the unchanged ones."""
    found = verify([entry for log in logs for entry in log], heads(LOG, OTHER)).breaches
    return found[0] if found else None


@given(bodies)
def test_reading_back_what_was_written_changes_nothing(body: dict[str, object]) -> None:
    encoded = canonical(body)
    assert decode(encoded) == body
    assert canonical(decode(encoded)) == encoded


@given(bodies)
def test_the_order_of_keys_leaves_no_trace(body: dict[str, object]) -> None:
    assert canonical(dict(reversed(body.items()))) == canonical(body)


@given(bodies)
def test_every_json_reader_reads_the_same(body: dict[str, object]) -> None:
    assert json.loads(canonical(body)) == body


@given(st.binary(max_size=200) | bodies.map(lambda body: json.dumps(body).encode()))
def test_bytes_are_an_entry_in_its_one_encoding_or_a_value_error(data: bytes) -> None:
    try:
        read = decode(data)
    except ValueError:
        return
    assert canonical(read) == data


@given(places, st.data())
def test_a_flipped_bit_of_any_body_is_found_at_that_entry(place: int, data: st.DataObject) -> None:
    body = bytearray(LOG[place].body)
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    found = first_breach([*LOG[:place], replace(LOG[place], body=bytes(body)), *LOG[place + 1 :]], OTHER)
    assert found is not None
    assert (found.party, found.seq) == ("alfa", place + 1)


@given(places, st.booleans(), st.integers(0, 31), st.integers(0, 7))
def test_a_flipped_bit_of_any_hash_is_found_at_that_entry(place: int, link: bool, index: int, bit: int) -> None:
    entry = LOG[place]
    value = bytearray(entry.prev_hash if link else entry.hash)
    value[index] ^= 1 << bit
    changed = replace(entry, prev_hash=bytes(value)) if link else replace(entry, hash=bytes(value))
    found = first_breach([*LOG[:place], changed, *LOG[place + 1 :]], OTHER)
    assert found is not None
    assert (found.party, found.seq) == ("alfa", place + 1)


@given(places, st.data())
def test_a_body_rehashed_to_the_end_is_found_there_or_before(place: int, data: st.DataObject) -> None:
    """The forger mends every hash behind his change, but not the head."""
    body = LOG[place].fields() | {"transactions": data.draw(st.integers(2, 99))}
    changed = [*LOG[:place], replace(LOG[place], body=canonical(body)), *LOG[place + 1 :]]
    found = first_breach(rehashed(changed, place), OTHER)
    assert found is not None
    assert found.party == "alfa"
    assert place + 1 <= found.seq <= LENGTH


@given(st.permutations(range(LENGTH)))
def test_reordered_bodies_are_found_at_the_first_that_moved(order: list[int]) -> None:
    moved = [replace(LOG[place], body=LOG[source].body) for place, source in enumerate(order)]
    found = first_breach(moved, OTHER)
    first = next((place for place, source in enumerate(order) if place != source), None)
    assert (found.seq - 1 if found else None) == first


@given(st.sets(places, min_size=1))
def test_removed_entries_are_found_at_the_first_of_them(removed: set[int]) -> None:
    found = first_breach([entry for place, entry in enumerate(LOG) if place not in removed], OTHER)
    assert found is not None
    assert found.seq - 1 == min(removed)


@given(places)
def test_entries_of_two_parties_exchanged_are_found_at_both(place: int) -> None:
    alfa, beta = list(LOG), list(OTHER)
    alfa[place], beta[place] = replace(beta[place], party="alfa"), replace(alfa[place], party="beta")
    found = verify([*alfa, *beta], heads(LOG, OTHER)).breaches
    assert [(one.party, one.seq) for one in found] == [("alfa", place + 1), ("beta", place + 1)]


garbage = st.builds(
    StoredEntry,
    party=st.sampled_from(["alfa", "beta", ""]),
    seq=st.integers(-1, 4),
    body=st.binary(max_size=30) | bodies.map(canonical),
    prev_hash=st.binary(max_size=32) | st.just(bytes(32)),
    hash=st.binary(max_size=32),
    at=st.datetimes(timezones=st.just(UTC)),
)


@given(st.lists(garbage, max_size=5))
def test_verification_of_garbage_is_a_verdict(entries: list[StoredEntry]) -> None:
    verdict = verify(entries, {})
    assert bool(verdict.breaches) is bool(entries)
    assert sum(verdict.entries.values()) == len(entries)


@given(st.lists(bodies, min_size=1, max_size=4))
def test_verification_of_well_hashed_nonsense_is_a_verdict_and_has_a_line(told: list[dict[str, object]]) -> None:
    """Canonical bodies that are no entries, chained as they should be."""
    log = rehashed(
        [StoredEntry("alfa", seq, canonical(one), b"", b"", datetime(2026, 1, 1, tzinfo=UTC))
         for seq, one in enumerate(told, 1)], 0,
    )  # fmt: skip
    (found,) = verify(log, heads(log)).breaches
    assert found.seq == 1
    assert [ops.line(entry).seq for entry in log] == [entry.seq for entry in log]


def test_the_log_that_the_properties_change_is_whole() -> None:
    assert first_breach(LOG, OTHER) is None


@pytest.mark.parametrize("place", range(LENGTH))
def test_every_byte_of_a_body_counts(place: int) -> None:
    """Not at random: each byte of each body, turned over."""
    for index in range(len(LOG[place].body)):
        body = bytearray(LOG[place].body)
        body[index] ^= 0xFF
        found = first_breach([*LOG[:place], replace(LOG[place], body=bytes(body)), *LOG[place + 1 :]], OTHER)
        assert found is not None
        assert found.seq == place + 1
