"""Applying a batch is applying it key by key: against a dictionary, on a real server, in any slices."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from staged import Staged, block

from connector.embedded import Server
from connector.events import EntryKind, Outcome
from tests.conftest import drop_database, new_database

Cells = tuple[str | None, str | None]

# Few of each, so that keys and values meet again: a change, no change, a return from the dead.
KEY_PARTS = st.sampled_from(["1", "2", "3", "a|b", "a\\", "", "\\N", "é", "'x'", "a\tb"])
OWNERS = st.sampled_from(["a", "b", "b", None])
NUMBERS = st.sampled_from(["n", "n", "m", "", None, "buruk", "periksa"])
# What the view says of a key now: no row, one, or more than it should.
ROWS = st.lists(st.tuples(OWNERS, NUMBERS), max_size=3).map(lambda rows: rows if len(rows) != 2 else rows[:1])


@dataclass
class Model:
    """What staging must come to, key by key."""

    live: dict[str, Cells] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    refused: dict[str, tuple[list[str], int]] = field(default_factory=dict)

    def apply(self, key: str, rows: list[Cells]) -> str:
        """One key; says what it turned out to be."""
        reason = self._reason(rows)
        if reason is not None:
            self.refused[key] = ([reason], len(rows))
            return "quarantined"
        self.refused.pop(key, None)
        if not rows:
            if self.live.pop(key, None) is None:
                return "absent"
            self.gone.add(key)
            return "deleted"
        before = self.live.get(key)
        self.live[key] = rows[0]
        if before is not None:
            return "unchanged" if before == rows[0] else "updated"
        if key in self.gone:
            self.gone.discard(key)
            return "updated"
        return "inserted"

    def _reason(self, rows: list[Cells]) -> str | None:
        if len(rows) > 1:
            return "DUPLICATE_KEY"
        for owner, number in rows:
            if owner is None:
                return "REQUIRED"
            if number == "buruk":
                return "CODE_UNKNOWN"
        return None


@pytest.fixture(scope="module")
def parties(staging_server: Server, staging_template: str) -> Iterator[dict[int, Staged]]:
    """A party for each width of key; every example begins with its tables emptied."""
    name = new_database(staging_server, "apply", staging_template)
    made = {width: Staged(staging_server.dsn(name), width) for width in (1, 2)}
    for staged in made.values():
        staged.attach()
    yield made
    for staged in made.values():
        staged.close()
    drop_database(staging_server, name)


def emptied(staged: Staged) -> Staged:
    partition = f"staging.dokumen_p{staged.parpol_id}"
    staged.conn.execute(f"truncate {partition}".encode())
    staged.conn.execute("delete from staging.karantina where parpol_id = %s", (staged.parpol_id,))
    staged.conn.execute("update connector.entity set live_rows = 0 where party = %s", (staged.party,))
    return staged


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[list[tuple[tuple[str, ...], list[Cells]]]]]:
    width = draw(st.integers(1, 2))
    key = st.tuples(*[KEY_PARTS] * width)
    batches = st.lists(
        st.dictionaries(key, ROWS, min_size=1, max_size=8).map(lambda batch: list(batch.items())), max_size=4
    )
    return width, draw(batches)


def apply(staged: Staged, batch: list[tuple[tuple[str, ...], list[Cells]]], cuts: list[int]) -> Outcome:
    edges = [0, *sorted(cut % (len(batch) + 1) for cut in cuts), len(batch)]
    with staged.batch() as opened:
        for start, stop in itertools.pairwise(edges):
            part = batch[start:stop]
            rows = [(*key, *cells) for key, found in part for cells in found]
            opened.apply(staged.plan, [block(rows, staged.plan.key_width)], [staged.key(key) for key, _ in part])
        (outcome,) = opened.outcomes()
    return outcome


@settings(max_examples=30, deadline=None)
@given(histories(), st.lists(st.integers(0, 8), max_size=2))
def test_a_batch_in_any_slices_is_the_same_as_its_keys_one_by_one(
    parties: dict[int, Staged], history: tuple[int, list[list[tuple[tuple[str, ...], list[Cells]]]]], cuts: list[int]
) -> None:
    width, batches = history
    staged, model = emptied(parties[width]), Model()
    for batch in batches:
        before = staged.versions()
        expected = {staged.key(key): model.apply(staged.key(key), rows) for key, rows in batch}
        outcome = apply(staged, batch, cuts)
        assert_counted(outcome, expected)
        assert staged.live() == model.live
        assert staged.quarantine() == model.refused
        assert_written(staged, before, expected)
    assert staged.entity()["live_rows"] == len(model.live)


def assert_counted(outcome: Outcome, expected: dict[str, str]) -> None:
    kinds = Counter(expected.values())
    assert outcome.signalled == len(expected)
    assert outcome.read == len(expected) - kinds["absent"] - kinds["deleted"]
    for kind in ("inserted", "updated", "unchanged", "quarantined", "deleted", "absent"):
        assert getattr(outcome, kind) == kinds[kind]


def assert_written(staged: Staged, before: dict[str, tuple[str, ...]], expected: dict[str, str]) -> None:
    """Rows and journal were written for what changed, and for nothing else."""
    changed = {key for key, kind in expected.items() if kind in ("inserted", "updated", "deleted")}
    after = staged.versions()
    assert {key for key in after if after[key] != before.get(key)} == changed
    last = staged.batches()[-1]["id"]
    journal = staged.query("select keys, ops from connector.journal where batch_id = %(batch)s", batch=last)
    fed = {key: op for keys, ops in journal for key, op in zip(keys, ops, strict=True)}
    assert fed == {key: "D" if expected[key] == "deleted" else "U" for key in changed}


# Bytes that no staging takes: the row is known by its key alone, and comes behind all good ones of its chunk.
BROKEN = b"\xff"


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(KEY_PARTS, st.lists(st.sampled_from(["n", "m", "buruk", BROKEN]), min_size=1, max_size=3)))
def test_a_first_copy_refuses_what_a_batch_would_refuse(
    parties: dict[int, Staged], view: dict[str, list[str | bytes]]
) -> None:
    """Its chunks come in key order, which saves it work; that may not change what comes of a row."""
    copied, signalled = Staged(parties[1].dsn), emptied(parties[1])
    rows = [(key, "a", number) for key in sorted(view) for number in view[key]]
    with copied.batch(EntryKind.COPY) as batch:
        assert copied.staging.begin_copy(batch, copied.plan)
    with copied.batch(EntryKind.COPY) as batch:
        batch.apply(copied.plan, [block(rows)], fresh=True)
        copied.staging.attach(batch, copied.plan)
    signalled.signal(rows)
    assert copied.live() == signalled.live()
    assert copied.quarantine() == signalled.quarantine()
    assert copied.entity()["live_rows"] == len(copied.live())
    copied.close()
