"""sipol.perubahan: a consumer that keeps the last cursor and comes back misses nothing and sees nothing twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import psycopg
import pytest

from connector.embedded import Server
from tests.conftest import drop_database, new_database

DEADLINE_S = 60

JOURNAL = """
insert into connector.journal (batch_id, first_ordinal, parpol_id, entity, keys, ops)
values (%(batch)s, %(first)s, 1, 'anggota', %(keys)s, %(ops)s)
"""
_batches = count(1)


@dataclass(frozen=True, slots=True)
class Change:
    cursor: str
    parpol_id: int
    entity: str
    source_key: str
    operation: str
    batch_id: int


@pytest.fixture
def conn(staging_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(staging_dsn, autocommit=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(staging_server: Server, staging_template: str) -> Iterator[psycopg.Connection]:
    """For tests that write nothing."""
    name = new_database(staging_server, "feed", staging_template)
    with psycopg.connect(staging_server.dsn(name), autocommit=True) as opened:
        yield opened
    drop_database(staging_server, name)


def write(conn: psycopg.Connection, *keys: str, ops: str = "", first: int = 1, batch: int = 0) -> int:
    batch = batch or next(_batches)
    conn.execute(JOURNAL, {"batch": batch, "first": first, "keys": list(keys), "ops": ops or "U" * len(keys)})
    return batch


def feed(conn: psycopg.Connection, since: str | None = None, max_rows: int = 1000) -> list[Change]:
    return [Change(*row) for row in conn.execute("select * from sipol.perubahan(%s, %s)", (since, max_rows))]


def keys(changes: list[Change]) -> list[str]:
    return [change.source_key for change in changes]


class Consumer:
    """Reads a page, keeps the last cursor, comes back."""

    def __init__(self, conn: psycopg.Connection, page: int = 1000) -> None:
        self._conn = conn
        self._page = page
        self.cursor: str | None = None
        self.seen: list[str] = []

    def poll(self) -> int:
        changes = feed(self._conn, self.cursor, self._page)
        if changes:
            self.cursor = changes[-1].cursor
        self.seen.extend(keys(changes))
        return len(changes)

    def drain(self) -> list[str]:
        while self.poll():
            pass
        return self.seen


def test_an_empty_journal_gives_nothing(conn: psycopg.Connection) -> None:
    assert feed(conn) == []
    assert feed(conn, "0.0.0") == []


def test_a_change_says_what_to_do_and_which_batch_did_it(conn: psycopg.Connection) -> None:
    batch = write(conn, "a", "b", ops="UD")
    first, second = feed(conn)
    assert (first.parpol_id, first.entity, first.source_key, first.operation) == (1, "anggota", "a", "upsert")
    assert (second.source_key, second.operation, second.batch_id) == ("b", "hapus", batch)


def test_the_transaction_that_began_first_and_committed_last_is_not_missed(
    conn: psycopg.Connection, staging_dsn: str
) -> None:
    consumer = Consumer(conn)
    with psycopg.connect(staging_dsn) as early, psycopg.connect(staging_dsn) as late:
        write(early, "early")
        write(late, "late")
        late.commit()
        assert consumer.poll() == 0, "what is committed waits for what may still come before it"
        write(conn, "later still")
        assert consumer.poll() == 0
        early.commit()
    assert consumer.drain() == ["early", "late", "later still"]


def test_a_transaction_that_is_rolled_back_holds_nothing_up_afterwards(
    conn: psycopg.Connection, staging_dsn: str
) -> None:
    with psycopg.connect(staging_dsn) as doomed:
        write(doomed, "never")
        write(conn, "kept")
        assert feed(conn) == []
        doomed.rollback()
    assert keys(feed(conn)) == ["kept"]


def test_with_an_unrelated_transaction_open_the_feed_waits_and_does_not_skip(
    conn: psycopg.Connection, staging_dsn: str
) -> None:
    consumer = Consumer(conn)
    write(conn, "before")
    with psycopg.connect(staging_dsn) as unrelated:
        unrelated.execute("create table staging.unrelated (a int)")
        write(conn, "during")
        assert consumer.drain() == ["before"]
        unrelated.rollback()
    write(conn, "after")
    assert consumer.drain() == ["before", "during", "after"]


def test_a_transaction_that_only_reads_delays_nothing(conn: psycopg.Connection, staging_dsn: str) -> None:
    with psycopg.connect(staging_dsn) as reader:
        reader.execute("select * from sipol.anggota")
        write(conn, "a")
        assert keys(feed(conn)) == ["a"]


def test_a_savepoint_does_not_hide_a_change(conn: psycopg.Connection) -> None:
    with conn.transaction():
        write(conn, "a")
        with conn.transaction():
            write(conn, "b")
    assert keys(feed(conn)) == ["a", "b"]


@pytest.mark.parametrize("page", [1, 2, 3, 7, 1000])
def test_a_batch_larger_than_a_page_comes_in_pieces_that_join(conn: psycopg.Connection, page: int) -> None:
    batch = write(conn, *"abcde")
    write(conn, *"fgh", first=6, batch=batch)
    write(conn, *"ij")
    consumer = Consumer(conn, page)
    assert consumer.drain() == list("abcdefghij")


def test_every_cursor_is_a_place_to_go_on_from(conn: psycopg.Connection) -> None:
    batch = write(conn, *"abc")
    write(conn, *"def", first=4, batch=batch)
    write(conn, "g")
    changes = feed(conn)
    for place, change in enumerate(changes):
        assert keys(feed(conn, change.cursor)) == keys(changes[place + 1 :])


@pytest.mark.parametrize(
    "cursor",
    [
        "", "x", "1", "1.2", "1.2.3.4", "-1.2.3", "1.2.x", " 1.2.3", "1.2.3\n",
        "99999999999999999999.1.1", "1.9999999999999999999.1",
    ],
)  # fmt: skip
def test_a_text_that_is_no_cursor_is_refused(shared: psycopg.Connection, cursor: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="not a cursor"):
        feed(shared, cursor)


@pytest.mark.parametrize("rows", [0, -1, 100_001, None])
def test_a_page_has_a_size(shared: psycopg.Connection, rows: int | None) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="max_rows"):
        shared.execute("select * from sipol.perubahan(null, %s::integer)", (rows,))


def test_a_cursor_from_another_cluster_is_refused(conn: psycopg.Connection) -> None:
    """After a restore into a new cluster transaction ids begin again; going on would skip whatever comes."""
    write(conn, "a")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="does not belong"):
        feed(conn, "4000000000.1.1")


def test_a_consumer_that_begins_with_the_views_misses_nothing_in_between(
    conn: psycopg.Connection, staging_dsn: str
) -> None:
    write(conn, "in the views already")
    with psycopg.connect(staging_dsn) as slow:
        write(slow, "slow")
        began = conn.execute("select sipol.perubahan_kini()").fetchone()
        assert began is not None
        slow.commit()
    write(conn, "after")
    assert keys(feed(conn, began[0])) == ["slow", "after"]


def test_a_cursor_older_than_the_pruned_feed_is_refused_and_a_younger_one_goes_on(conn: psycopg.Connection) -> None:
    for key, age in (("a", "9 days"), ("b", "8 days"), ("c", "1 hour")):
        batch = write(conn, key)
        conn.execute(
            """
            insert into staging.sync_batch (id, party, parpol_id, entity, kind, started_at, ended_at)
            overriding system value values (%s, 'alfa', 1, 'anggota', 'copy', now(), now() - %s::interval)
            """,
            (batch, age),
        )
    a, b, _ = feed(conn)
    assert conn.execute("select connector.prune_journal('7 days')").fetchone() == (2,)
    assert keys(feed(conn)) == ["c"]
    assert keys(feed(conn, b.cursor)) == ["c"], "who had read all that was pruned has missed nothing"
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="older than the feed"):
        feed(conn, a.cursor)
    assert conn.execute("select connector.prune_journal('7 days')").fetchone() == (0,)


def test_many_writers_and_a_reader_between_them(staging_dsn: str) -> None:
    """Writers commit in any order, some roll back; the reader polls all the while and sees each change once."""
    writers, rounds = 4, 40
    committed: list[str] = []

    def run(number: int) -> None:
        rng = random.Random(number)
        with psycopg.connect(staging_dsn) as own:
            for turn in range(rounds):
                own.execute("select pg_current_xact_id()")
                own.execute("select pg_sleep(%s)", (rng.random() / 200,))
                wanted = [f"{number}-{turn}-{n}" for n in range(rng.randint(1, 5))]
                write(own, *wanted, batch=number * 1000 + turn + 1)
                if rng.random() < 0.2:
                    own.rollback()
                else:
                    own.commit()
                    committed.extend(wanted)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    with psycopg.connect(staging_dsn, autocommit=True) as own:
        consumer = Consumer(own, page=3)
        deadline = time.monotonic() + DEADLINE_S
        while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
            consumer.poll()
        for thread in threads:
            thread.join()
        consumer.drain()
    assert sorted(consumer.seen) == sorted(committed)


def test_a_large_batch_is_paged_without_unpacking_it_whole(conn: psycopg.Connection) -> None:
    """200,000 keys in rows of 4,096: the last page touches two rows of the journal, not forty-nine."""
    conn.execute(
        """
        insert into connector.journal (batch_id, first_ordinal, parpol_id, entity, keys, ops)
        select 1, min(n), 1, 'anggota', array_agg(md5(n::text) order by n), repeat('U', count(*)::int)
        from generate_series(1, 200000) n group by (n - 1) / 4096
        """
    )
    consumer = Consumer(conn, page=100_000)
    assert len(consumer.drain()) == len(set(consumer.seen)) == 200_000
    near_the_end = f"{consumer.cursor.rsplit('.', 1)[0]}.199000" if consumer.cursor else ""
    before = _toast_reads(conn)
    assert len(feed(conn, near_the_end)) == 1000
    assert _toast_reads(conn) - before < 150  # of some 3,000 chunks


def _toast_reads(conn: psycopg.Connection) -> int:
    conn.execute("select pg_stat_force_next_flush()")
    row = conn.execute(
        "select coalesce(idx_tup_fetch, 0) from pg_stat_all_tables"
        " where relid = (select reltoastrelid from pg_class where oid = 'connector.journal'::regclass)"
    ).fetchone()
    assert row is not None
    return int(row[0])
