"""Faults of the party's views and grants: replaced, dropped, renamed, forbidden, slow, failing.

Rows 84 to 86 of the fault matrix.
"""

from __future__ import annotations

from collections.abc import Callable

from workbench import DDL, UjiParty, Workbench

from connector.capture.postgres.kit import peek_body

Make = Callable[..., Workbench]

PEOPLE = 300
LONGER = "update public.orang set alamat = alamat || ' *' where orang_id = %s"
VIEW = DDL[DDL.index("create view ekspor.v_anggota") : DDL.index("create view ekspor.v_pengurus")].strip().rstrip(";")


def streaming(make_workbench: Make, **options: object) -> Workbench:
    bench = make_workbench("uji", people=PEOPLE, **options)
    bench.start()
    bench.await_caught_up("uji")
    return bench


def grant(party: UjiParty) -> None:
    party.run(f"grant select on ekspor.v_anggota to {party.reader}")


def test_a_view_with_another_filter_is_read_whole(make_workbench: Make) -> None:
    """Row 84: nothing in the log says that its rows changed."""
    bench = streaming(make_workbench)
    party = bench.parties["uji"]
    replace = VIEW.replace("create view", "create or replace view")
    for noticed, statement in enumerate((f"{replace} and o.orang_id > 10", replace), start=1):
        party.run(statement)
        bench.wait_until(lambda: bench.acts("uji").count("noticed") == noticed, "the view's change is noticed")  # noqa: B023
        bench.check("uji")
        live = bench.query("select count(*) from sipol.anggota")
        assert live == [(PEOPLE - 10 if noticed == 1 else PEOPLE,)]


def test_a_dropped_view_holds_its_entity_and_nothing_else(make_workbench: Make) -> None:
    """Row 84: the log and the other entity go on, through a restart too, and no row is harmed. Made again it needs its
    grant, and what was missed is read."""
    bench = streaming(make_workbench)
    party = bench.parties["uji"]
    party.run("drop view ekspor.v_anggota")
    party.run(LONGER, (1,))
    bench.await_reason("uji", "anggota", "held", "view_missing")
    # A table that joins into the view changes too: whom it touches cannot be asked now.
    party.run("update public.kerja set nama_kerja = 'NELAYAN' where kerja_id = 1")
    party.run("update public.papan_orang set jabatan = 'KETUA' where orang_id = 1")
    bench.await_caught_up("uji")
    assert bench.staged("uji", "pengurus", "jabatan", "2|1") == "KETUA"
    assert bench.acts("uji").count("held") == 1
    assert bench.query("select count(*) from sipol.anggota") == [(PEOPLE,)]
    bench.daemons[-1].stop()
    party.run(LONGER, (2,))
    daemon = bench.start()
    bench.await_caught_up("uji")
    assert bench.reason("uji", "anggota") == ("held", "view_missing")
    party.run(VIEW)
    bench.await_reason("uji", "anggota", "held", "permission_denied")
    hint = bench.query("select hint from connector.entity where entity = 'anggota'")[0][0]
    assert "grant" in hint.lower()
    grant(party)
    bench.await_reason("uji", "anggota", "streaming")
    bench.check("uji")
    assert not daemon.named("session_ended")


def test_a_dropped_view_and_a_held_brake_lose_no_signal(make_workbench: Make) -> None:
    """Row 84, beside the brake: what is signalled while the view is away and the brake is pulled is read in the end."""
    bench = streaming(make_workbench)
    party = bench.parties["uji"]
    party.run("update public.orang set status = 'mundur' where orang_id <= 100")
    bench.await_reason("uji", "anggota", "held", "delete_brake")
    bench.daemons[-1].stop()
    party.run("drop view ekspor.v_anggota")
    party.run(LONGER, (200,))
    bench.start()
    bench.await_caught_up("uji")
    party.run(VIEW)
    grant(party)
    bench.ask("approve", "uji", "anggota")
    bench.await_reason("uji", "anggota", "streaming")
    bench.check("uji")


def test_a_renamed_column_holds_until_it_is_back(make_workbench: Make) -> None:
    """Row 84: no row is read without a column that is mapped."""
    bench = streaming(make_workbench)
    party = bench.parties["uji"]
    party.run("alter view ekspor.v_anggota rename column alamat to alamat_baru")
    party.run(LONGER, (1,))
    bench.await_reason("uji", "anggota", "held", "view_changed")
    hint = bench.query("select hint from connector.entity where entity = 'anggota'")[0][0]
    assert "column" in hint
    assert bench.query("select count(*) from sipol.anggota where alamat is not null") == [(PEOPLE,)]
    party.run("alter view ekspor.v_anggota rename column alamat_baru to alamat")
    bench.await_reason("uji", "anggota", "streaming")
    bench.check("uji")


def test_a_revoked_select_holds_the_entity_and_ends_with_the_grant(make_workbench: Make) -> None:
    """Row 85."""
    bench = streaming(make_workbench)
    party = bench.parties["uji"]
    party.run(f"revoke select on ekspor.v_anggota from {party.reader}")
    party.run(LONGER, (1,))
    bench.await_reason("uji", "anggota", "held", "permission_denied")
    assert "grant" in bench.query("select hint from connector.entity where entity = 'anggota'")[0][0].lower()
    party.run("delete from public.orang where orang_id = 2")
    bench.await_caught_up("uji")
    assert bench.query("select count(*) from sipol.anggota") == [(PEOPLE,)]
    grant(party)
    bench.await_reason("uji", "anggota", "streaming")
    bench.check("uji")
    assert bench.acts("uji").count("history_begun") == 1


def test_a_revoked_execute_stops_the_party_and_ends_with_the_grant(make_workbench: Make) -> None:
    """Row 85: the stored position stays, and the stream goes on from it."""
    bench = streaming(make_workbench)
    party = bench.parties["uji"]
    functions = f"function sipol.{party.slot}_peek(pg_lsn, int), sipol.{party.slot}_confirm(pg_lsn)"
    party.run(f"revoke execute on {functions} from {party.reader}")
    party.run(LONGER, (1,))
    bench.await_worker("uji", "retrying")
    assert "EXECUTE" in bench.worker("uji")["hint"]
    assert set(bench.states("uji").values()) == {"streaming"}
    party.run(f"grant execute on {functions} to {party.reader}")
    bench.check("uji")
    assert bench.totals("uji", "anggota")["updated"] == 1
    assert bench.acts("uji").count("history_begun") == 1


SLOW = """
create function public.pelan(t text) returns text language plpgsql stable as
  $$ begin perform pg_sleep(0.004); return t; end $$;
"""


def test_time_limits_at_the_party_are_met_with_less_work_at_a_time(make_workbench: Make) -> None:
    """Row 86: a view so slow that neither the copy's chunk nor a batch's re-read ends in time; both shrink, and no row
    is skipped."""
    bench = make_workbench("uji", people=PEOPLE, limits={"statement_timeout_s": 1, "copy_rows": 500, "batch_rows": 500})
    party = bench.parties["uji"]
    party.run(SLOW)
    # Not a barrier: behind one, each chunk would compute the whole view before its first row.
    slow = VIEW.replace("create view", "create or replace view").replace(" with (security_barrier)", "")
    party.run(slow.replace("o.alamat,", "public.pelan(o.alamat) as alamat,"))
    daemon = bench.start()
    bench.await_caught_up("uji")
    assert {line["error"] for line in daemon.named("session_ended")} == {"SourceBusy"}
    copied = len(daemon.named("session_ended"))
    party.run("update public.orang set alamat = alamat || ' *'")
    bench.check("uji")
    assert bench.totals("uji", "anggota")["updated"] == PEOPLE
    assert copied <= len(daemon.named("session_ended")) < copied + 10, "no storm of tries"


SLOW_PEEK = """
create or replace function sipol.{slot}_peek(upto pg_lsn, max_changes integer)
  returns table (lsn pg_lsn, xid xid, data bytea)
  language sql volatile security definer set search_path = pg_catalog, pg_temp
as $body$
  select pg_sleep(greatest(0, (upto - confirmed_flush_lsn) / 3e6)) from pg_replication_slots where slot_name = '{slot}';
  {peek}
$body$
"""


def test_a_time_limit_in_the_peek_is_met_with_a_smaller_window(make_workbench: Make) -> None:
    """Row 86: the log of megabytes is taken in smaller pieces."""
    bench = make_workbench("uji", people=PEOPLE, limits={"statement_timeout_s": 1})
    party = bench.parties["uji"]
    bench.start()
    bench.await_caught_up("uji")
    bench.daemons[-1].stop()
    party.run("create table public.lain (t text)")
    for member in range(1, 13):
        party.run("insert into public.lain select repeat('x', 1000) from generate_series(1, 1000)")
        party.run(LONGER, (member,))
    # A third of a second for a megabyte: a peek at all of it takes longer than a second.
    party.run(SLOW_PEEK.format(slot=party.slot, peek=peek_body(party.slot, party.slot)))
    bench.start()
    bench.check("uji")
    assert bench.totals("uji", "anggota")["updated"] == 12


def test_a_view_that_fails_for_one_row_holds_its_entity_alone(make_workbench: Make) -> None:
    """Row 84, in the view's own words: a division by zero is not a reason to stop the party."""
    bench = streaming(make_workbench)
    party = bench.parties["uji"]
    party.run(
        VIEW.replace("create view", "create or replace view").replace(
            "o.alamat,", "o.alamat || case when 1 / (o.orang_id - 7) > 1000 then '!' else '' end as alamat,"
        )
    )
    party.run(LONGER, (7,))
    bench.await_reason("uji", "anggota", "held", "view_failed")
    party.run("update public.papan_orang set jabatan = 'KETUA' where orang_id = 1")
    bench.await_caught_up("uji")
    assert bench.staged("uji", "pengurus", "jabatan", "2|1") == "KETUA"
    party.run("update public.orang set orang_id = 7000 where orang_id = 7")
    bench.await_reason("uji", "anggota", "streaming")
    bench.check("uji")
