"""A relay cluster from its three scripts: made, green, followed, and gone again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from catalogues import POSTGRES
from workbench import new_name, wait_until

from connector.capture.postgres import kit_relay
from connector.capture.postgres.expectations import Expectations, ExpectedTable, ExpectedView
from connector.capture.postgres.kit_request import KitRequest, KitTable
from connector.capture.postgres.preflight import examine
from connector.embedded import Server

TABLES = """
create schema dalam; create schema ekspor;
create table public.kerja (kerja_id int primary key, nama_kerja text not null, rahasia text);
create table dalam.kader (
  kader_id uuid primary key default gen_random_uuid(), nik text collate "C", nama varchar(80), kerja_id int, pin text,
  status text not null default 'aktif');
create index kader_kerja on dalam.kader (kerja_id);
create index kader_pin on dalam.kader (pin);
create table public.alamat (
  alamat_id int, kader_id uuid not null, jalan text, catatan text, primary key (alamat_id))
  partition by range (alamat_id);
create table public.alamat_1 partition of public.alamat default;
create view dalam.v_aktif as select kader_id, nik, nama, kerja_id from dalam.kader where status = 'aktif';
create view ekspor.v_anggota with (security_barrier) as
  select a.kader_id, a.nik, a.nama, a.kerja_id, k.nama_kerja
    from dalam.v_aktif a left join public.kerja k using (kerja_id);
create view ekspor.v_alamat as select alamat_id, jalan from public.alamat;
insert into public.kerja values (1, 'PETANI', 'r');
insert into dalam.kader (nik, nama, kerja_id, pin)
  values ('3273015512950007', 'SITI RAHMA', 1, '1234'), ('2', 'B', null, '');
insert into public.alamat select 1, kader_id, 'JL MAWAR', 'c' from dalam.kader limit 1;
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """A main server with a party on it, and an empty relay."""

    main: Server
    database: str
    relay: Server
    request: KitRequest
    folder: Path

    def connect_main(self) -> psycopg.Connection:
        return psycopg.connect(self.main.dsn(self.database), autocommit=True, options="-c synchronous_commit=on")

    def connect_relay(self) -> psycopg.Connection:
        return psycopg.connect(self.relay.dsn(), autocommit=True)

    def psql(self, server: Server, database: str | None, script: str, **environment: str) -> str:
        path = self.folder / "script.sql"
        path.write_text(script, encoding="utf-8")
        dsn = server.dsn(database) if database else server.dsn()
        done = subprocess.run(
            [str(server.binaries / "psql"), "-X", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-f", str(path)],
            capture_output=True, text=True, check=False, env={**os.environ, **environment},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def make(self) -> str:
        """The three steps; what the publisher's script printed."""
        printed = self.psql(self.main, self.database, kit_relay.publisher_sql(self.request))
        self.psql(self.relay, None, printed)
        self.subscribe()
        return printed

    def subscribe(self) -> str:
        main = f"{self.main.dsn(self.database, kit_relay.relay_name(self.request))}"
        return self.psql(self.relay, None, kit_relay.subscriber_sql(self.request), SIPOL_UTAMA=main)

    def remove(self) -> None:
        self.psql(self.relay, None, kit_relay.subscriber_remove_sql(self.request))
        self.psql(self.main, self.database, kit_relay.publisher_remove_sql(self.request))

    def snapshots(self) -> tuple[list[str], list[str]]:
        with self.connect_main() as main, self.connect_relay() as relay:
            # Other tests' slots come and go on the shared server.
            keep = [row[0] for row in main.execute(POSTGRES.encode()).fetchall() if not row[0].startswith("slot ")]
            return keep, [row[0] for row in relay.execute(POSTGRES.encode()).fetchall()]


SETTINGS = {"max_slot_wal_keep_size": "16GB", "wal_retrieve_retry_interval": "100ms"}


@pytest.fixture(params=[16, 15])
def pair(request: pytest.FixtureRequest, start_server: Callable[..., Server], tmp_path: Path) -> Iterator[Pair]:
    main: Server = request.getfixturevalue(f"pg{request.param}")
    database = new_name(main, "party")
    relay = start_server(18, f"relay-{database}", SETTINGS)
    tables = (
        KitTable("dalam", "kader", ("kader_id",)), KitTable("public", "kerja", ("kerja_id",)),
        KitTable("public", "alamat", ("alamat_id",)),
    )  # fmt: skip
    slot = f"sipol_{database}"
    # The servers here are older than the minor versions that the kit asks for.
    asked = KitRequest(
        "alfa", "stream", slot, slot, f"{database}_ro", tables, (("ekspor", "v_anggota"), ("ekspor", "v_alamat")),
        accept_risk=True,
    )  # fmt: skip
    made = Pair(main, database, relay, asked, tmp_path)
    with made.connect_main() as conn:
        conn.execute(TABLES.encode())
    yield made
    relay.destroy()
    with psycopg.connect(main.dsn(), autocommit=True) as conn:
        conn.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s", (database,)
        )
        conn.execute(f"drop database {database} with (force)".encode())
        conn.execute(f"drop role if exists {kit_relay.relay_name(asked)}".encode())


def expected_of(pair: Pair) -> Expectations:
    views = (
        ExpectedView(
            "anggota", "ekspor", "v_anggota", ("kader_id",), ("kader_id", "nik", "nama", "kerja_id", "nama_kerja"),
            (ExpectedTable("dalam", "kader", key=(("kader_id", "kader_id"),)),
             ExpectedTable("public", "kerja", match=(("kerja_id", "kerja_id"),))),
        ),
        ExpectedView(
            "alamat", "ekspor", "v_alamat", ("alamat_id",), ("alamat_id", "jalan"),
            (ExpectedTable("public", "alamat", key=(("alamat_id", "alamat_id"),)),),
        ),
    )  # fmt: skip
    return Expectations("stream", pair.request.slot, pair.request.publication, views)


def rows_of(conn: psycopg.Connection) -> list[list[tuple[object, ...]]]:
    return [
        conn.execute(query.encode()).fetchall()
        for query in ("select * from ekspor.v_anggota order by nik", "select * from ekspor.v_alamat order by 1")
    ]


def test_a_relay_is_made_and_green_and_follows_and_goes_away(pair: Pair) -> None:
    before = pair.snapshots()
    printed = pair.make()
    assert "pin" not in printed.split()
    assert "rahasia" not in printed
    with pair.connect_main() as main, pair.connect_relay() as relay:
        wait_until(lambda: rows_of(relay) == rows_of(main), "the relay holds what the views say")
        main.execute("update dalam.kader set nama = 'BARU' where nik = '2'; update kerja set nama_kerja = 'GURU'")
        main.execute(
            "delete from alamat; insert into alamat (alamat_id, kader_id, jalan) values (9, gen_random_uuid(), 'X')"
        )
        wait_until(lambda: rows_of(relay) == rows_of(main), "the relay follows")
        columns = "select attname::text from pg_attribute where attrelid = 'dalam.kader'::regclass and attnum > 0"
        assert {row[0] for row in relay.execute(columns)} == {"kader_id", "nik", "nama", "kerja_id", "status"}
    found = examine(pair.relay.dsn("postgres", pair.request.reader), expected_of(pair))
    assert {f.code for f in found if f.level != "ok"} == {"CVE_2026_6471"}, "the servers here are older minor versions"
    # Once more, after the mapping changed: nothing is lost, nothing is doubled.
    pair.psql(pair.main, pair.database, kit_relay.publisher_sql(pair.request))
    pair.subscribe()
    pair.remove()
    assert pair.snapshots() == before
    pair.remove()
    with pair.connect_main() as main:
        main.execute("update dalam.kader set nama = 'LAGI'; delete from alamat")


@pytest.mark.parametrize("pair", [16], indirect=True)
def test_the_relay_s_role_reads_the_shared_columns_and_a_password_in_the_subscription_is_refused(pair: Pair) -> None:
    pair.psql(pair.main, pair.database, kit_relay.publisher_sql(pair.request))
    with psycopg.connect(pair.main.dsn(pair.database, kit_relay.relay_name(pair.request)), autocommit=True) as conn:
        assert conn.execute("select count(kader_id) from dalam.kader").fetchone() == (2,)
        for refused in ("select pin from dalam.kader", "select rahasia from kerja", "update dalam.kader set nama = ''"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(refused.encode())
    before = pair.snapshots()
    pair.psql(pair.relay, None, kit_relay.subscriber_sql(pair.request), SIPOL_UTAMA="host=x password=y")
    assert pair.snapshots() == before


@pytest.mark.parametrize("pair", [16], indirect=True)
@pytest.mark.parametrize(
    ("ddl", "code"),
    [
        (("create table tanpa_kunci (a int); create or replace view ekspor.v_alamat as"
         " select alamat_id, jalan from alamat where alamat_id not in (select a from tanpa_kunci)"), "NO_IDENTITY"),
        (("alter table alamat add hitung text generated always as (jalan || '!') stored; create or replace view"
         " ekspor.v_alamat as select alamat_id, jalan, hitung from alamat"), "RELAY_GENERATED"),
        (("create materialized view mv as select 1 as a; create or replace view ekspor.v_alamat as"
         " select alamat_id, jalan from alamat where alamat_id in (select a from mv)"), "RELAY_KIND"),
    ],
)  # fmt: skip
def test_what_would_harm_the_party_or_cannot_be_relayed_is_refused(pair: Pair, ddl: str, code: str) -> None:
    with pair.connect_main() as main:
        main.execute(ddl.encode())
    before = pair.snapshots()
    with pytest.raises(AssertionError, match=code):
        pair.psql(pair.main, pair.database, kit_relay.publisher_sql(replace(pair.request)))
    assert pair.snapshots() == before
