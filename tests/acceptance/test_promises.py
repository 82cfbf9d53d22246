"""The promises that the README makes, each a test named like it.

A promise with a test elsewhere has it under its name there: `grep -rn "def test_p[0-9]" tests`.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pytest
from workbench import UjiParty, Workbench

from connector.embedded import Server

Make = Callable[..., Workbench]

PEOPLE = 200
LONGER = "update public.orang set alamat = alamat || ' *' where orang_id = %s"
MIB = 1 << 20


def ends_with_a_star(bench: Workbench, member: int) -> bool:
    return str(bench.staged("baik", "anggota", "alamat", str(member))).endswith("*")


def test_p7_a_party_that_floods_stalls_sleeps_or_sends_rubbish_delays_no_other(make_workbench: Make) -> None:
    bench = make_workbench("baik", "banjir", "macet", "tidur", "rusak", people=PEOPLE)
    daemon = bench.start()
    for name in bench.parties:
        bench.await_caught_up(name)
    good = bench.parties["baik"]
    bench.parties["banjir"].run("update public.orang set alamat = repeat('x', 100000) || orang_id")
    bench.parties["rusak"].run("update public.orang set nik = repeat(e'\\x01', 50000), nama = repeat(' ', 5000)")
    os.kill(daemon.worker_pid("tidur"), signal.SIGSTOP)
    with ExitStack() as stack:
        stack.callback(os.kill, daemon.worker_pid("tidur"), signal.SIGCONT)
        lock = stack.enter_context(bench.parties["macet"].connect())
        lock.execute("begin")
        lock.execute("lock table public.orang in access exclusive mode")
        for name in ("macet", "tidur"):
            bench.parties[name].run("update public.papan_orang set jabatan = 'KETUA'")
        for member in range(1, 11):
            good.run(LONGER, (member,))
            arrived = partial(ends_with_a_star, bench, member)
            bench.wait_until(arrived, "a change of the good party arrives")
        for name in ("macet", "tidur"):
            assert bench.staged(name, "pengurus", "jabatan", "2|1") == "ANGGOTA", "they still stand"
        assert not daemon.named("session_ended", "baik")
    for name in ("baik", "macet", "tidur"):
        bench.check(name)


def test_p9_no_personal_value_is_in_logs_errors_states_or_the_audit_log(make_workbench: Make) -> None:
    """Whatever goes wrong on the way: a row refused, a view that fails, a staging that refuses, a crash."""
    bench = make_workbench("uji", people=PEOPLE)
    party = bench.parties["uji"]
    daemon = bench.start()
    bench.await_caught_up("uji")
    with bench.staging() as conn:
        conn.execute("alter table staging.anggota_p1 add constraint rahasia check (nama <> 'RAHASIA SEKALI')")
    party.run("update public.orang set nama = 'RAHASIA SEKALI' where orang_id = 5")
    bench.wait_until(lambda: not daemon.alive, "staging refuses the row: the party is halted, and no other is there")
    with bench.staging() as conn:
        conn.execute("alter table staging.anggota_p1 drop constraint rahasia")
    bench.start()
    party.run("update public.orang set nik = nik || 'X', nama = 'TIDAK BOLEH' where orang_id = 6")
    party.run("create or replace view ekspor.v_pengurus as select p.papan_id, p.orang_id, p.jabatan, o.nama,"
              " (o.nik || 'x')::bigint::text as jk"
              " from public.papan_orang p join public.orang o using (orang_id)")  # fmt: skip
    bench.await_reason("uji", "pengurus", "held", "view_changed")
    bench.daemons[-1].kill_worker("uji")
    bench.wait_until(
        lambda: bench.staged("uji", "anggota", "nama", "5") == "RAHASIA SEKALI", "the row is there at last"
    )
    told = "".join(one.log.read_text(encoding="utf-8") for one in bench.daemons)
    for verb in (("status",), ("audit", "log"), ("quarantine", "list"), ("quarantine", "show", "uji/anggota", "6")):
        done = bench.connector(*verb, "--json")
        told += done.stdout + done.stderr
    told += json.dumps(bench.query("select convert_from(body, 'UTF8') from audit.entry"))
    told += json.dumps(
        bench.query("select message, hint from (select error, hint from connector.worker) w(message, hint)")
    )
    secrets = {value for row in party.ask("select nik, nama from public.orang where length(nik) > 5") for value in row}
    assert len(secrets) > PEOPLE
    assert not {secret for secret in secrets if secret in told}


def big_transactions(party: UjiParty, mebibytes: int) -> None:
    party.run("create table if not exists public.lain (t text)")
    party.run("alter table public.lain alter column t set storage external")
    for _ in range(mebibytes):
        party.run("insert into public.lain select repeat('x', 4000) from generate_series(1, 250)")


@pytest.mark.parametrize("capture", ["pull", "stream"])
def test_p10_the_slot_is_watched_and_given_up_before_the_partys_disk_fills(
    make_workbench: Make, lone_server: Callable[..., Server], capture: str
) -> None:
    """A transaction that stays open keeps the server's log: told first, then copies stop, then our slot goes."""
    bench = make_workbench(
        "uji", people=PEOPLE, capture=capture, server=lone_server(), limits={"lag_warn_mb": 4, "lag_drop_mb": 24}
    )
    party = bench.parties["uji"]
    daemon = bench.start()
    bench.await_caught_up("uji")
    with party.connect() as conn:
        conn.execute("begin")
        conn.execute("update public.orang set nama = 'TERBUKA' where orang_id = 1")
        big_transactions(party, 6)
        bench.wait_until(lambda: bool(daemon.named("source_log_kept")), "the kept log is told")
        assert not daemon.named("source_log_kept")[0]["copies_stopped"]
        big_transactions(party, 10)
        bench.wait_until(lambda: any(line["copies_stopped"] for line in daemon.named("source_log_kept")), "copies stop")
        bench.ask("resync", "uji", "anggota")
        bench.await_obeyed("uji")
        assert bench.reason("uji", "anggota")[0] == "copying"
        big_transactions(party, 12)
        bench.await_reason("uji", "anggota", "needs_resync", "slot_given_up")
        assert party.ask("select count(*) from pg_replication_slots") == [(0,)]
        assert "position_lost" in bench.acts("uji")
    party.install_kit()
    bench.ask("resync", "uji")
    bench.wait_until(lambda: set(bench.states("uji").values()) == {"streaming"}, "the party is resynced", 180)
    bench.check("uji")
