"""The contract of a source over Debezium: the tests of `test_source_contract` that an engine in between could break.

Each start of a child costs seconds, so those that open many sources, or that stand before the child starts, run here
once or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from jvm import TcpServer

from connector.capture.debezium.source import DebeziumSource, JvmSettings
from connector.capture.postgres.pull import SlotSettings
from connector.events import Position, SourceIdentity
from connector.runtime.ports import Source
from tests.conftest import new_database
from tests.contract.test_source_contract import (
    ROUTES,
    Party,
    drop_slot,
    install,
    test_a_cut_connection_is_unavailable_and_the_next_one_misses_nothing,
    test_a_joined_tables_change_names_its_values_and_its_deletion_the_whole_entity,
    test_a_slot_that_was_moved_past_our_position_is_a_loss,
    test_a_stretch_of_log_without_anything_for_us_is_moved_over,
    test_a_transaction_is_never_split,
    test_every_kind_of_change_names_the_keys_it_touches,
    test_keys_of_any_text_arrive_as_they_are,
    test_nothing_is_told_before_its_commit_and_nothing_of_what_was_rolled_back,
    test_reading_confirms_nothing_and_confirming_confirms_just_that,
    test_rows_of_a_partitioned_table_are_its_roots,
    test_transactions_are_told_with_their_ids_and_times,
    wait,
)

__all__ = [
    "test_a_cut_connection_is_unavailable_and_the_next_one_misses_nothing",
    "test_a_joined_tables_change_names_its_values_and_its_deletion_the_whole_entity",
    "test_a_slot_that_was_moved_past_our_position_is_a_loss",
    "test_a_stretch_of_log_without_anything_for_us_is_moved_over",
    "test_a_transaction_is_never_split",
    "test_every_kind_of_change_names_the_keys_it_touches",
    "test_keys_of_any_text_arrive_as_they_are",
    "test_nothing_is_told_before_its_commit_and_nothing_of_what_was_rolled_back",
    "test_reading_confirms_nothing_and_confirming_confirms_just_that",
    "test_rows_of_a_partitioned_table_are_its_roots",
    "test_transactions_are_told_with_their_ids_and_times",
]


@dataclass
class DebeziumParty(Party):
    """As `Party`; the source reaches the server by TCP."""

    address: str = ""

    def open(
        self, stored: Position | None = None, identity: SourceIdentity | None = None, *, keys_in_memory: int = 10_000
    ) -> Source:
        dsn = TcpServer(self.server, self.address).dsn(self.database)
        settings = SlotSettings(dsn, "uji", self.slot, self.slot, ROUTES, keys_in_memory, 0.02, 60.0)
        source = DebeziumSource(settings, JvmSettings(128), stored, identity, wait)
        self.opened.append(source)
        return source

    def cut(self) -> None:
        self.run("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s", self.slot)


@pytest.fixture(scope="module")
def prepared(pg_tcp: TcpServer) -> Iterator[DebeziumParty]:
    database = new_database(pg_tcp.server, "sumber")
    with install(pg_tcp.server, database) as made:
        yield DebeziumParty(made.server, database, made.reader, made.slot, made.dba, address=pg_tcp.address)


@pytest.fixture
def party(prepared: DebeziumParty) -> Iterator[DebeziumParty]:
    prepared.dba.execute("truncate kader, papan, kerja, wilayah, bagian, lain")
    drop_slot(prepared)
    prepared.ask(f"select pg_create_logical_replication_slot('{prepared.slot}', 'pgoutput')")
    prepared.opened = []
    yield prepared
    prepared.close()
    drop_slot(prepared)


@pytest.fixture
def any_party(party: DebeziumParty) -> DebeziumParty:
    return party
