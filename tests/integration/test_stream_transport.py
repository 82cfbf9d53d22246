"""The walsender transport against real servers: what arrives, what is acknowledged, and how it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import psycopg
import pytest

from connector.capture.postgres.protocol import (
    Begin,
    Commit,
    Delete,
    Insert,
    Keepalive,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    Truncate,
    Update,
    XLogData,
    decode,
    lsn_int,
    lsn_text,
)
from connector.capture.postgres.row_keys import KeyExtractor, relation_tag
from connector.capture.postgres.stream import (
    Delivery,
    Idle,
    ReplicationConnection,
    StreamLimits,
    StreamSlot,
    WalReader,
)
from connector.embedded import Server
from connector.errors import ConfigError, PositionLost, SourceMisconfigured, SourceUnavailable
from connector.events import Position, SourceIdentity

SLOT = "sipol_alfa"
PUBLICATION = 'sipol "alfa\'s"'  # quoting is part of the test
DEADLINE_S = 30.0
SMALL = StreamLimits(buffer_bytes=400_000, part_bytes=100_000)


@dataclass(frozen=True, slots=True)
class Party:
    """A party database with a table, a publication of its key and a slot of its own name."""

    dsn: str
    slot: str
    system: str = ""

    def run(self, *statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement)

    def ask(self, query: str) -> str | None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            row = conn.execute(query).fetchone()
        return None if row is None or row[0] is None else str(row[0])

    def lsn(self) -> int:
        return lsn_int(self.ask("select pg_current_wal_lsn()") or "")

    def confirmed(self) -> int:
        return lsn_int(
            self.ask(f"select confirmed_flush_lsn from pg_replication_slots where slot_name = '{self.slot}'") or ""
        )

    def walsender(self) -> int | None:
        pid = self.ask(f"select active_pid from pg_replication_slots where slot_name = '{self.slot}'")
        return None if pid is None else int(pid)

    def stream(self, **other: str) -> StreamSlot:
        return replace(StreamSlot(self.dsn, self.slot, PUBLICATION), **other)

    def identity(self) -> SourceIdentity:
        return SourceIdentity(self.system, 1, self.slot)

    def connect(self, after: int | None = None, *, messages: bool = False) -> ReplicationConnection:
        return ReplicationConnection.connect(self.stream(), at(after), self.identity(), messages=messages)

    def open(self, after: int | None = None, limits: StreamLimits | None = None) -> WalReader:
        return WalReader.open(self.stream(), at(after), self.identity(), limits)


def at(lsn: int | None) -> Position | None:
    return None if lsn is None else Position(lsn, lsn_text(lsn))


def prepare(dsn: str, slot: str) -> Party:
    party = Party(dsn, slot)
    quoted = PUBLICATION.replace('"', '""')
    party.run(
        "create table kader (id bigint primary key, nama text)",
        f'create publication "{quoted}" for table kader (id)',
        f"select pg_create_logical_replication_slot('{slot}', 'pgoutput')",
    )
    return replace(party, system=party.ask("select system_identifier from pg_control_system()") or "")


@pytest.fixture
def party(source_dsn: str) -> Party:
    database = psycopg.conninfo.conninfo_to_dict(source_dsn)["dbname"]
    return prepare(source_dsn, f"slot_{database}")


def until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not fact():
        assert time.monotonic() < deadline, "the expected state never came"
        time.sleep(0.02)


def taken(reader: WalReader, commits: int) -> list[Delivery]:
    """Deliveries until `commits` transactions are complete."""
    deliveries: list[Delivery] = []
    deadline = time.monotonic() + DEADLINE_S
    while sum(payload[:1] == b"C" for delivery in deliveries for payload in delivery.payloads) < commits:
        assert time.monotonic() < deadline, "the transactions never came"
        got = reader.take(0.5)
        if isinstance(got, Delivery):
            deliveries.append(got)
    return deliveries


def messages(deliveries: list[Delivery]) -> list[Message]:
    return [decode(payload) for delivery in deliveries for payload in delivery.payloads]


def idle(reader: WalReader) -> Idle:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        got = reader.take(0.2)
        if isinstance(got, Idle):
            return got
    raise AssertionError("the stream never stood idle")


def fails(reader: WalReader) -> None:
    """Take until the conversation ends; raises what it ended with."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        reader.take(0.2)
    raise AssertionError("the conversation went on")


@pytest.mark.parametrize("source_server", [15, 16, 18], indirect=True)
def test_every_kind_of_change_arrives_in_whole_transactions(party: Party) -> None:
    with party.open() as reader:
        party.run(
            "insert into kader values (1, 'a'), (2, 'b')",
            "update kader set nama = 'c' where id = 1",
            "update kader set id = 3 where id = 2",
            "delete from kader where id = 3",
            "truncate kader",
        )
        deliveries = taken(reader, 5)
    # When a relation is described again is the server's business.
    kinds = [type(message) for message in messages(deliveries) if not isinstance(message, Relation)]
    assert kinds == [
        *(Begin, Insert, Insert, Commit),
        *(Begin, Update, Commit),
        *(Begin, Update, Commit),
        *(Begin, Delete, Commit),
        *(Begin, Truncate, Commit),
    ]
    assert deliveries[-1].commit_end is not None
    ends = [message.end_lsn for message in messages(deliveries) if isinstance(message, Commit)]
    assert ends == sorted(ends)
    assert deliveries[-1].commit_end == ends[-1] <= party.lsn()


def test_keys_are_extracted_from_what_the_server_sends(party: Party) -> None:
    with party.open() as reader:
        party.run("insert into kader values (1, 'a')", "update kader set id = 2", "delete from kader")
        payloads = [payload for delivery in taken(reader, 3) for payload in delivery.payloads]
    relation = next(m for m in map(decode, payloads) if isinstance(m, Relation))
    assert [column.name for column in relation.columns] == ["id"]
    extract = KeyExtractor(relation, (0,))
    tag = relation_tag(relation.relation_id)
    touched = [extract(payload) for payload in payloads if payload[:1] in (b"I", b"U", b"D") and payload[1:5] == tag]
    assert touched == [(None, (b"1",)), ((b"1",), (b"2",)), ((b"2",), None)]


@pytest.mark.parametrize("source_server", [15, 18], indirect=True)
def test_a_transaction_from_elsewhere_names_its_origin(party: Party) -> None:
    node = f"node_{party.slot}"
    with party.open() as reader:
        party.run(
            f"select pg_replication_origin_create('{node}')",
            f"select pg_replication_origin_session_setup('{node}')",
            "insert into kader values (1, 'a')",
        )
        seen = messages(taken(reader, 1))
    party.run(f"select pg_replication_origin_drop('{node}')")
    assert [message.name for message in seen if isinstance(message, Origin)] == [node]


@pytest.mark.parametrize("source_server", [15, 18], indirect=True)
def test_logical_messages_arrive_when_asked_for(party: Party) -> None:
    connection = party.connect(messages=True)
    try:
        party.run("select pg_logical_emit_message(true, 'sipol', 'detak')")
        seen: list[Message] = []
        deadline = time.monotonic() + DEADLINE_S
        while not any(isinstance(message, Commit) for message in seen) and time.monotonic() < deadline:
            frame = connection.receive(1.0)
            if isinstance(frame, XLogData):
                seen.append(decode(frame.payload))
    finally:
        connection.close()
    assert [(m.prefix, m.content, m.transactional) for m in seen if isinstance(m, LogicalMessage)] == [
        ("sipol", b"detak", True)
    ]


def test_a_silent_stream_gives_nothing_after_the_time_asked_for(party: Party) -> None:
    connection = party.connect()
    try:
        frames = []
        while (frame := connection.receive(0.2)) is not None:
            frames.append(frame)
    finally:
        connection.close()
    assert all(isinstance(frame, Keepalive) for frame in frames)


@pytest.mark.parametrize("source_server", [15, 16, 18], indirect=True)
def test_nothing_is_acknowledged_but_what_was_told(party: Party) -> None:
    start = party.confirmed()
    flushed = (
        f"select coalesce(flush_lsn, '0/0') from pg_stat_replication join pg_replication_slots s on s.active_pid = pid "
        f"where s.slot_name = '{party.slot}'"
    )
    with party.open(start, StreamLimits(status_s=0.1)) as reader:
        party.run("insert into kader values (1, 'a')", "insert into kader values (2, 'b')")
        deliveries = taken(reader, 2)
        ends = [message.end_lsn for message in messages(deliveries) if isinstance(message, Commit)]
        # Several status updates later than the receipt: the server has heard nothing but the start.
        since = party.ask("select clock_timestamp()")
        until(lambda: party.ask(f"select reply_time > '{since}' from pg_stat_replication r join pg_replication_slots s "
                                f"on s.active_pid = r.pid where s.slot_name = '{party.slot}'") == "True")  # fmt: skip
        assert party.confirmed() == start
        assert lsn_int(party.ask(flushed) or "0/0") <= start
        reader.acknowledge(ends[0])
        until(lambda: party.confirmed() == ends[0])
        assert lsn_int(party.ask(flushed) or "") == ends[0]
    until(lambda: party.walsender() is None)
    assert party.confirmed() == ends[0]


def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(party: Party) -> None:
    with party.open() as reader:
        party.run("insert into kader values (1, 'a')", "insert into kader values (2, 'b')")
        ends = [message.end_lsn for message in messages(taken(reader, 2)) if isinstance(message, Commit)]
        reader.acknowledge(ends[0])
    until(lambda: party.walsender() is None)
    with party.open(ends[0]) as reader:
        again = messages(taken(reader, 1))
    assert [message.end_lsn for message in again if isinstance(message, Commit)] == [ends[1]]


def test_an_idle_stream_moves_past_changes_of_other_tables(party: Party) -> None:
    with party.open() as reader:
        party.run("create table lain (x int)", "insert into lain select generate_series(1, 1000)")
        target = party.lsn()
        while (position := idle(reader).position) < target:
            pass
        reader.acknowledge(position)
        until(lambda: party.confirmed() == position)
        party.run("insert into kader values (1, 'a')")
        (delivery,) = taken(reader, 1)
        assert delivery.commit_end is not None
        assert delivery.commit_end > position


def test_an_open_transaction_is_not_lost_by_acknowledging_an_idle_position(party: Party) -> None:
    with party.open() as reader, psycopg.connect(party.dsn) as writer:
        writer.execute("insert into kader values (1, 'a')")
        party.run("create table lain (x int)", "insert into lain values (1)")
        target = party.lsn()
        while (position := idle(reader).position) < target:
            pass
        reader.acknowledge(position)
        until(lambda: party.confirmed() == position)
        reader.close()
        until(lambda: party.walsender() is None)
        writer.commit()
        with party.open(position) as second:
            kinds = [type(message) for message in messages(taken(second, 1))]
    assert kinds == [Begin, Relation, Insert, Commit]


def test_a_slow_consumer_keeps_its_connection(party: Party) -> None:
    """The buffer is full, keepalives are stuck behind data, and the server's patience is 2 s: still no cut."""
    with psycopg.connect(party.dsn) as conn:
        database = conn.info.dbname
    party.run(f"alter database {database} set wal_sender_timeout = '2s'")
    with party.open(limits=SMALL) as reader:
        party.run("insert into kader select i, 'x' from generate_series(1, 200000) i")
        until(lambda: reader.paused)
        pid = party.walsender()
        assert pid is not None
        threading.Event().wait(5)  # the consumer is elsewhere
        assert party.walsender() == pid
        inserts = sum(payload[:1] == b"I" for delivery in taken(reader, 1) for payload in delivery.payloads)
        assert inserts == 200_000
        assert party.walsender() == pid


def test_a_consumer_that_never_comes_back_is_hung_up_on(party: Party) -> None:
    """Else a server that shuts down would wait for us for ever."""
    limits = StreamLimits(buffer_bytes=400_000, part_bytes=100_000, status_s=0.1, stalled_s_max=0.3)
    with party.open(limits=limits) as reader:
        party.run("insert into kader select i, 'x' from generate_series(1, 100000) i")
        until(lambda: reader.paused)
        until(lambda: party.walsender() is None)
        with pytest.raises(SourceUnavailable, match="hung up"):
            fails(reader)


def test_an_idle_stream_costs_almost_nothing(party: Party) -> None:
    with party.open() as reader:
        party.run("create table lain (x int)")
        idle(reader)
        began = time.process_time()
        reader.take(1.0)
        assert time.process_time() - began < 0.5


def test_a_server_that_hangs_is_left(party: Party) -> None:
    limits = StreamLimits(status_s=0.1, silence_s_max=0.5)
    with party.open(limits=limits) as reader:
        party.run("create table lain (x int)")
        idle(reader)
        pid = party.walsender()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(SourceUnavailable, match="silent"):
                fails(reader)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_quiet_server_is_asked_for_a_sign_of_life(party: Party) -> None:
    """With wal_sender_timeout off it would say nothing by itself for hours."""
    with psycopg.connect(party.dsn) as conn:
        database = conn.info.dbname
    party.run(f"alter database {database} set wal_sender_timeout = 0")
    limits = StreamLimits(status_s=0.1, silence_s_max=0.6)
    with party.open(limits=limits) as reader:
        party.run("create table lain (x int)")
        idle(reader)
        pid = party.walsender()
        threading.Event().wait(2.0)
        assert party.walsender() == pid
        party.run("insert into kader values (1, 'a')")
        taken(reader, 1)


def test_a_large_transaction_leaves_in_parts_through_a_small_buffer(party: Party) -> None:
    with party.open(limits=SMALL) as reader:
        party.run("insert into kader select i, 'x' from generate_series(1, 300000) i")
        parts: list[int | None] = []
        rows = held = 0
        deadline = time.monotonic() + DEADLINE_S
        while (not parts or parts[-1] is None) and time.monotonic() < deadline:
            got = reader.take(0.5)
            held = max(held, reader.buffered_bytes)
            if isinstance(got, Delivery):
                parts.append(got.commit_end)
                rows += sum(payload[:1] == b"I" for payload in got.payloads)
    assert rows == 300_000
    assert len(parts) > 100
    assert set(parts[:-1]) == {None}
    assert parts[-1] is not None
    # The limit, and what one read may bring on top.
    assert held <= SMALL.buffer_bytes + 2 * 1_048_576


def test_a_missing_slot_is_a_lost_position(party: Party) -> None:
    """At the very first start it is a kit that has not run."""
    with pytest.raises(PositionLost) as caught:
        ReplicationConnection.connect(party.stream(name="no_such_slot"), at(party.lsn()), party.identity())
    assert caught.value.reason == "slot_missing"
    assert caught.value.hint
    with pytest.raises(SourceMisconfigured):
        ReplicationConnection.connect(party.stream(name="no_such_slot"))


def test_a_name_that_no_slot_can_have_is_a_configuration_error(party: Party) -> None:
    with pytest.raises(ConfigError):
        ReplicationConnection.connect(party.stream(name='x" LOGICAL 0/0; --'))


@pytest.mark.parametrize("source_server", [15], indirect=True)  # the wheel has no second plugin
def test_a_slot_of_another_plugin_is_not_ours(party: Party) -> None:
    name = f"{party.slot}_test"
    party.run(f"select pg_create_logical_replication_slot('{name}', 'test_decoding')")
    with pytest.raises(SourceMisconfigured, match="not a pgoutput slot"):
        ReplicationConnection.connect(party.stream(name=name))


def test_a_missing_publication_is_named(party: Party) -> None:
    with pytest.raises(SourceMisconfigured, match="nowhere"):
        ReplicationConnection.connect(party.stream(publication="nowhere"))


def test_we_do_not_become_a_synchronous_standby(start_server: Callable[..., Server]) -> None:
    """The party's commits would wait for our staging."""
    server = start_server(15, "stream-standby", {"synchronous_standby_names": "ANY 1 (*)"})
    with pytest.raises(SourceMisconfigured, match="wait for us"):
        prepare(server.dsn(), "sipol_alfa").connect()


def test_a_publication_dropped_under_the_stream_ends_it_with_a_hint(party: Party) -> None:
    quoted = PUBLICATION.replace('"', '""')
    with party.open() as reader:
        party.run(f'drop publication "{quoted}"', "insert into kader values (1, 'a')")
        with pytest.raises(SourceMisconfigured, match="publication"):
            fails(reader)


def test_a_slot_in_use_is_unavailable_with_a_hint(party: Party) -> None:
    with party.open():
        with pytest.raises(SourceUnavailable, match="in use") as caught:
            party.connect()
        assert "pg_stat_replication" in caught.value.hint


def test_a_slot_that_moved_past_our_position_is_a_gap(party: Party) -> None:
    stored = party.confirmed()
    party.run("insert into kader values (1, 'a')")

    def moved() -> bool:
        party.run(f"select pg_replication_slot_advance('{party.slot}', pg_current_wal_flush_lsn())")
        return party.confirmed() > stored

    until(moved)
    with pytest.raises(PositionLost) as caught:
        party.connect(stored)
    assert caught.value.reason == "position_ahead"


def test_a_log_that_ends_before_our_position_is_another_history(party: Party) -> None:
    with pytest.raises(PositionLost) as caught:
        party.connect(party.lsn() + 2**30)
    assert caught.value.reason == "diverged"


def test_another_cluster_is_not_continued_from(party: Party) -> None:
    with pytest.raises(PositionLost) as caught:
        ReplicationConnection.connect(party.stream(), at(party.confirmed()), SourceIdentity("1", 1, party.slot))
    assert caught.value.reason == "identity_changed"


def test_a_refused_login_is_told_from_a_missing_server(source_server: Server, party: Party) -> None:
    with pytest.raises(SourceUnavailable) as caught:
        ReplicationConnection.connect(party.stream(dsn=source_server.dsn("no_such_database")))
    assert "refuses" in caught.value.hint
    with pytest.raises(SourceUnavailable) as caught:
        ReplicationConnection.connect(party.stream(dsn="host=/nonexistent dbname=x"))
    assert "no server" in caught.value.hint
    with pytest.raises(SourceUnavailable) as caught:
        ReplicationConnection.connect(party.stream(dsn="sandi=rahasia"))
    assert "rahasia" not in repr(caught.value) + caught.value.hint
    assert caught.value.__context__ is None


def test_a_login_without_replication_is_refused_with_the_remedy(party: Party) -> None:
    role = f"plain_{party.slot}"
    party.run(f"create role {role} login")
    try:
        with pytest.raises(SourceUnavailable) as caught:
            ReplicationConnection.connect(party.stream(dsn=f"{party.dsn} user={role}"))
        assert "REPLICATION" in caught.value.hint
    finally:
        party.run(f"drop role {role}")


def test_a_terminated_walsender_is_unavailable_and_whole_transactions_before_it_are_kept(party: Party) -> None:
    with party.open() as reader:
        party.run("insert into kader values (1, 'a')")
        (delivery,) = taken(reader, 1)
        assert delivery.commit_end is not None
        party.run(f"select pg_terminate_backend({party.walsender()})")
        with pytest.raises(SourceUnavailable):
            fails(reader)


def test_closing_twice_is_fine_and_a_waiting_consumer_is_let_go(party: Party) -> None:
    reader = party.open()
    ended: list[BaseException] = []

    def consume() -> None:
        try:
            while True:
                reader.take(DEADLINE_S)
        except SourceUnavailable as error:
            ended.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    reader.close()
    reader.close()
    consumer.join(DEADLINE_S)
    assert not consumer.is_alive()
    assert len(ended) == 1
    until(lambda: party.walsender() is None)


@pytest.fixture(params=[15, 18])
def own_server(request: pytest.FixtureRequest, start_server: Callable[..., Server]) -> Iterator[Server]:
    """A server that a test may stop."""
    server = start_server(request.param, f"stream{request.param}-{request.node.originalname}"[:40])
    yield server
    server.destroy()


def test_a_server_that_shuts_down_is_not_held_up_by_a_consumer_that_confirms_nothing(own_server: Server) -> None:
    with psycopg.connect(own_server.dsn(), autocommit=True) as conn:
        conn.execute("create database down")
    party = prepare(own_server.dsn("down"), "sipol_alfa")
    with party.open() as reader:
        party.run("insert into kader values (1, 'a')")
        (delivery,) = taken(reader, 1)
        started = time.monotonic()
        own_server.stop("fast")
        assert time.monotonic() - started < 20  # embedded.STOP_SECONDS_MAX would kill it at 30
        with pytest.raises(SourceUnavailable) as caught:
            fails(reader)
        assert caught.value.hint
    with pytest.raises(SourceUnavailable):
        party.connect()
    own_server.launch()
    with party.open() as reader:
        (again,) = taken(reader, 1)
    assert again.payloads[-1] == delivery.payloads[-1]


def test_a_crashed_server_is_unavailable(own_server: Server) -> None:
    with psycopg.connect(own_server.dsn(), autocommit=True) as conn:
        conn.execute("create database crash")
    party = prepare(own_server.dsn("crash"), "sipol_beta")
    with party.open() as reader:
        own_server.kill()
        with pytest.raises(SourceUnavailable):
            fails(reader)


def test_a_paused_stream_whose_server_has_gone_does_not_spin(own_server: Server) -> None:
    """poll() reports a hang-up whether asked for or not."""
    with psycopg.connect(own_server.dsn(), autocommit=True) as conn:
        conn.execute("create database pause")
    party = prepare(own_server.dsn("pause"), "sipol_gama")
    with party.open(limits=SMALL) as reader:
        party.run("insert into kader select i, 'x' from generate_series(1, 100000) i")
        until(lambda: reader.paused)
        own_server.kill()
        began = time.process_time()
        threading.Event().wait(1.0)
        assert time.process_time() - began < 0.5
        with pytest.raises(SourceUnavailable):
            fails(reader)


def test_a_position_text_of_the_server_is_ours(party: Party) -> None:
    assert lsn_text(party.confirmed()) == party.ask(
        f"select confirmed_flush_lsn from pg_replication_slots where slot_name = '{party.slot}'"
    )
