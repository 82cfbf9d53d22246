"""A batch commits to its rows: the digests can be made again by who has the salt, and by nobody once it is deleted."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from staged import COLUMNS, Staged, block

from connector.audit import log as audit_log
from connector.embedded import Server
from connector.events import EntryKind
from connector.mapping import document
from connector.mapping.program import ProgramOptions, compile_entity
from connector.runtime.acts import record
from connector.staging import history, retention, subjects
from connector.staging.batch import Read
from connector.staging.commitment import DIGEST_BYTES, TYPES, commitment, page_digest, row_digest
from connector.staging.plan import JOURNAL_KEYS
from tests.conftest import drop_database, new_database

EVERYTHING = Path(__file__).parents[1] / "fixtures" / "mappings" / "everything.yaml"


@pytest.fixture(scope="module")
def shared_dsn(staging_server: Server, staging_template: str) -> Iterator[str]:
    name = new_database(staging_server, "commitments", staging_template)
    yield staging_server.dsn(name)
    drop_database(staging_server, name)


@pytest.fixture
def staged(shared_dsn: str) -> Iterator[Staged]:
    with closing(Staged(shared_dsn, parpol_id=next(_PARTIES))) as staged:
        staged.attach()
        yield staged


_PARTIES = itertools.count(1)


def pages(staged: Staged, batch: int) -> list[tuple[list[str], bytes, bytes | None]]:
    """Keys, digests and priors of a batch's pages, in order."""
    return staged.query(
        "select keys, digests, priors from (select first_ordinal, keys, digests, priors from connector.journal"
        " where batch_id = %(batch)s and digests is not null union all"
        " select first_ordinal, keys, digests, null from audit.committed where batch_id = %(batch)s) p order by 1",
        batch=batch,
    )  # fmt: skip


def salt(staged: Staged, batch: int) -> bytes | None:
    rows = staged.query("select salt from audit.salt where batch_id = %(batch)s", batch=batch)
    return bytes(rows[0][0]) if rows else None


def entity(staged: Staged) -> dict[str, Any]:
    """What the newest entry says of the entity."""
    (entry,) = audit_log.newest(staged.conn, staged.party, 1)
    return entry.fields()["entities"][0]  # type: ignore[index, return-value]


def digests(staged: Staged, batch: int) -> dict[str, bytes]:
    found = {}
    for keys, page, _ in pages(staged, batch):
        found.update({key: page[n * DIGEST_BYTES : (n + 1) * DIGEST_BYTES] for n, key in enumerate(keys)})
    return found


def expected(used: bytes, key: str, owner: str, number: str | None) -> bytes:
    cells = (("text", "SK"), ("text", "anggota"), ("text", owner), ("text", number), ("boolean", True))
    return row_digest(used, key, cells)


def committed(staged: Staged, batch: int) -> str:
    return commitment(page_digest(page) for _, page, _ in pages(staged, batch)).hex()


def test_who_has_the_salt_can_make_every_digest_and_the_entry_is_bound_to_them(staged: Staged) -> None:
    staged.signal([("1", "a", "n"), ("2", "é☃", None), ("9", "a", "buruk")])
    first = entity(staged)
    used = salt(staged, first["batch"])
    assert used is not None
    assert digests(staged, first["batch"]) == {"1": expected(used, "1", "a", "n"), "2": expected(used, "2", "é☃", None)}
    assert first["commitment"] == committed(staged, first["batch"])

    staged.signal([("1", "a", "n"), ("2", "b", "periksa")], "7")
    second = entity(staged)
    again = salt(staged, second["batch"])
    assert again is not None
    assert again != used
    # Nothing is said of what did not change; a finding is KPU's and no part of the row.
    assert digests(staged, second["batch"]) == {"2": expected(again, "2", "b", "periksa")}
    staged.signal([], "2")
    third = entity(staged)
    last = salt(staged, third["batch"])
    assert last is not None
    assert digests(staged, third["batch"]) == {"2": row_digest(last, "2", None)}
    (page,) = pages(staged, third["batch"])
    assert struct.unpack(">q", page[2] or b"") == (second["batch"],)


def test_pages_are_committed_to_in_their_order_over_every_slice(staged: Staged) -> None:
    rows = [(str(number), "a", "n") for number in range(JOURNAL_KEYS + 5)]
    with staged.batch() as batch:
        batch.apply(staged.plan, [block(rows)], [row[0] for row in rows])
        batch.apply(staged.plan, [block([("x", "a", "n")])], ["x"])
    found = entity(staged)
    assert [len(keys) for keys, _, _ in pages(staged, found["batch"])] == [JOURNAL_KEYS, 5, 1]
    assert found["commitment"] == committed(staged, found["batch"])


def test_a_first_copys_rows_are_committed_to_and_are_no_news_before_they_can_be_seen(shared_dsn: str) -> None:
    with closing(Staged(shared_dsn, parpol_id=next(_PARTIES))) as staged:
        with staged.batch(EntryKind.COPY) as batch:
            assert staged.staging.begin_copy(batch, staged.plan)
        with staged.batch(EntryKind.COPY) as batch:
            batch.apply(staged.plan, [block([("1", "a", "n"), ("2", "b", "n")])], fresh=True)
        chunk = entity(staged)
        used = salt(staged, chunk["batch"])
        assert used is not None
        assert digests(staged, chunk["batch"])["2"] == expected(used, "2", "b", "n")
        assert chunk["commitment"] == committed(staged, chunk["batch"])
        assert staged.feed() == []
        with staged.batch(EntryKind.COPY) as batch:
            staged.staging.attach(batch, staged.plan)
        assert staged.feed() == [("1", "upsert"), ("2", "upsert")]


def test_a_batch_that_changes_nothing_leaves_no_salt(staged: Staged) -> None:
    staged.signal([("1", "a", "n")])
    staged.signal([("1", "a", "n")])
    found = entity(staged)
    assert salt(staged, found["batch"]) is None
    assert found["commitment"] == commitment(()).hex()


def test_erasing_a_row_makes_its_commitments_meaningless_and_leaves_the_others_provable(staged: Staged) -> None:
    staged.signal([("1", "a", "n"), ("2", "b", "n"), ("3", "c", "n")])
    wrote = entity(staged)
    staged.signal([("1", "aa", "n")])
    changed = entity(staged)
    staged.signal([("3", "cc", "n")])
    other = entity(staged)
    with staged.staging.batch(EntryKind.CONTROL, Read(None)) as batch:
        assert subjects.erase(batch, staged.plan, ["1"], "3273011301900041") == (1, 0)
        record(batch, staged.party, None, {"act": "erase"})
    erased = entity(staged)
    assert salt(staged, wrote["batch"]) is None
    assert salt(staged, changed["batch"]) is None
    assert salt(staged, other["batch"]) is not None
    used = salt(staged, erased["batch"])
    assert used is not None
    found = digests(staged, erased["batch"])
    # The rows that shared a salt with the erased one are committed to as they are now.
    assert {key: found[key] for key in ("2", "3")} == {
        "2": expected(used, "2", "b", "n"), "3": expected(used, "3", "cc", "n"),
    }  # fmt: skip
    assert found["1"] != row_digest(used, "1", None)
    # And every entry still fits the pages that it commits to.
    for told in (wrote, changed, other, erased):
        assert told["commitment"] == committed(staged, told["batch"])


def test_history_beyond_its_days_is_forgotten_and_live_rows_stay_provable(staged: Staged) -> None:
    staged.signal([("1", "a", "n"), ("2", "b", "n")])
    old = entity(staged)
    staged.query(
        "update staging.sync_batch set ended_at = now() - interval '100 days' where party = %(party)s returning 1"
    )
    staged.signal([("2", "bb", "n")])
    recent = entity(staged)
    before = len(list(audit_log.read(staged.conn, staged.party)))
    with staged.staging.batch(EntryKind.CONTROL, Read(None)) as batch:
        done = retention.prune(batch, staged.plan, 90)
        record(batch, staged.party, None, {"act": "prune"})
    assert (done.batches, done.rows) == (1, 2)
    pruned = entity(staged)
    assert (salt(staged, old["batch"]), pages(staged, old["batch"])) == (None, [])
    assert salt(staged, recent["batch"]) is not None
    used = salt(staged, pruned["batch"])
    assert used is not None
    assert digests(staged, pruned["batch"])["1"] == expected(used, "1", "a", "n")
    assert pruned["commitment"] == committed(staged, pruned["batch"])
    assert len(list(audit_log.read(staged.conn, staged.party))) == before + 1
    assert sorted(key for key, _ in staged.feed()) == ["1", "2", "2"]
    with staged.conn.transaction():
        found = history.of_key(staged.conn, (staged.party, staged.parpol_id), "dokumen", "2")
    assert ([step.batch for step in found.steps], found.whole) == ([recent["batch"]], False)


def test_every_column_of_the_contract_has_a_type_that_the_specification_names(shared_dsn: str) -> None:
    """A digest is over types too: a program that gave `varchar` for `text` would fit no commitment made before."""
    loaded = document.load(EVERYTHING)
    with psycopg.connect(shared_dsn) as conn:
        seen = set()
        for name in loaded.entities:
            program = compile_entity(loaded, name, ProgramOptions(1, "NASIONAL"))
            cells = ", ".join(f"i{place} text" for place in range(len(program.inputs)))
            conn.execute(f"create temp table inbox ({cells}, edge text) on commit drop".encode())
            cursor = conn.execute(
                sql.SQL("select {} from ({}) m limit 0").format(
                    sql.SQL(", ").join(map(sql.Identifier, program.columns)), sql.SQL(program.select)
                ),
                program.params,
            )
            assert cursor.description is not None
            seen |= {column.type_code for column in cursor.description}
            conn.execute("drop table inbox")
        assert seen <= set(TYPES.values())
    assert COLUMNS
