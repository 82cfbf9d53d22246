"""Faults of keys and rows: odd keys, every type, bad rows, keys that move, reads that are older than what was applied.

Rows 9 to 12, 41, 82, 88 and 89 of the fault matrix. Where nothing else is said, one party is pulled and one streamed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest
from layouts import ODD, ODD_ENTITIES, TEXTS, TYPED, TYPES, cards
from workbench import UjiParty, Workbench
from writers import Anything

from connector import app, config
from connector.embedded import Server
from connector.errors import StaleRead
from connector.events import EntryKind
from connector.staging.batch import Read

Make = Callable[..., Workbench]

LONGER = "update public.orang set alamat = alamat || ' *' where orang_id = %s"


def pair(make_workbench: Make, **options: object) -> Workbench:
    return make_workbench("tarik", "alir", captures={"alir": "stream"}, **options)


def check_all(bench: Workbench) -> None:
    for name in bench.parties:
        bench.check(name)


def test_keys_of_any_type_are_copied_followed_and_deleted(make_workbench: Make, pg15: Server) -> None:
    """Row 11: text under a locale and with every letter that anybody escapes, NaN, infinities, composite keys under a
    collation that calls different texts equal, keys that are NULL at times; chunks of three rows."""
    bench = pair(make_workbench, server=pg15, layout=ODD, limits={"copy_rows": 3})
    bench.start()
    check_all(bench)
    for name, party in bench.parties.items():
        for entity, rows in ODD_ENTITIES.items():
            live = bench.query(f"select count(*) from sipol.{entity} where parpol_id = %s", (party.parpol_id,))
            assert live == [(rows,)], (name, entity)
    for change in (ODD_CHANGES, ODD_DELETES):
        for party in bench.parties.values():
            party.run(change)
        check_all(bench)
    for name in bench.parties:
        for entity in ODD_ENTITIES:
            counted = bench.totals(name, entity)
            assert counted["updated"] > 0, (name, entity)
            assert counted["deleted"] > 0, (name, entity)
        # Each key was met by its own change: none was taken for another's.
        assert bench.totals(name, "parpol")["updated"] == ODD_ENTITIES["parpol"]


ODD_CHANGES = """
update public.teks set nilai = nilai || '*';
update public.angka set nilai = nilai || '*';
update public.desimal set nilai = nilai || '*';
update public.waktu set nilai = nilai || '*';
update public.gabung set nilai = nilai || '*';
update public.gabung set a = 'AB1' where a = 'ab1' and b = 0;
update public.kosong set nilai = nilai || '*';
update public.kosong set tampil = not tampil where id in (3, 4)
"""
ODD_DELETES = """
delete from public.teks where kunci in ('a', 'Á', E'a\\tb', '\\N', '', 'ss', '😀', E'e\\u0301');
delete from public.angka where kunci in ('NaN', '-Infinity', 0.1);
delete from public.desimal where kunci in ('NaN', 'Infinity', 1e-40);
delete from public.waktu where kunci in ('infinity', '0044-03-15 12:00:00+00 BC');
delete from public.gabung where c = 'k';
delete from public.kosong where id < 6
"""


def test_every_type_arrives_alike_by_copy_by_stream_and_by_resync(make_workbench: Make) -> None:
    """Row 12: whatever the DBA has set for the reader's dates, zones, numbers and bytes."""
    bench = pair(make_workbench, layout=TYPED)
    for party in bench.parties.values():
        for setting in READER_SETTINGS:
            party.run(f"alter role {party.reader} set {setting}")
        insert_types(party, 1)
    bench.start()
    check_all(bench)
    for party in bench.parties.values():
        insert_types(party, 101)
    check_all(bench)
    for party in bench.parties.values():
        insert_types(party, 201)
        party.run("update public.tipe set isi = isi || '*'")
    check_all(bench)
    for name in bench.parties:
        bench.ask("resync", name)
        bench.await_obeyed(name)
    check_all(bench)
    found = bench.query(
        "select source_key::int % 100, count(*), array_agg(distinct surel), array_agg(distinct situs)"
        " from sipol.parpol group by 1 order by 1"
    )
    assert [(row, count) for row, count, *_ in found] == [(1, 6), (2, 6), (3, 6)]
    for _, _, *texts in found:
        assert [len(distinct) for distinct in texts] == [1, 1], "copied, followed, resynced, pulled and streamed alike"
    assert "9171015505900001.0000000001" in found[0][2][0]
    assert "infinity" in found[0][2][0]
    # The rows did not change between the ways they came.
    for name in bench.parties:
        assert bench.totals(name, "parpol", "copy")["updated"] == 0


READER_SETTINGS = (
    "datestyle = 'SQL, DMY'", "timezone = 'Asia/Jakarta'", "intervalstyle = 'postgres_verbose'",
    "bytea_output = 'escape'", "extra_float_digits = 0", "lc_monetary = 'C'", "statement_timeout = '1min'",
    "search_path = 'public'", "xmloption = 'document'",
)  # fmt: skip


def insert_types(party: UjiParty, first: int) -> None:
    names = ", ".join(TYPES)
    for row in range(3):
        values = [first + row, "ISI", *(texts[row] for _, texts in TYPES.values())]
        places = ", ".join(f"%s::{kind}" for kind, _ in TYPES.values())
        party.run(f"insert into public.tipe (id, isi, {names}) values (%s, %s, {places})", values)


# Reason -> what makes a row bad. Each value holds the word that no log may show.
BAD: dict[str, dict[str, str | None]] = {
    "NIK_FORMAT": {"nik": "RAHASIA123"},
    "NIK_DATE": {"nik": "3273013202900001"},
    "NIK_SERIAL": {"nik": "3273010101900000"},
    "REQUIRED": {"kerja": None},
    "TOO_LONG": {"no_kta": "RAHASIA" * 10},
    "CODE_UNKNOWN": {"jk": "RAHASIA"},
    "DATE_FORMAT": {"tgl": "31/02/RAHASIA"},
    "DATE_RANGE": {"tgl": "1850-01-01"},
    "REGION_UNKNOWN": {"kel": "9999RAHASIA"},
    "DUPLICATE_KEY": {"ganda": "true"},
    "CELL_TOO_LARGE": {"alamat": "RAHASIA" * 1000},
    "INVALID_UTF8": {"nama": "RAHASIA \udcff"},
    "NULL_KEY": {"tanpa_kunci": "true"},
}


def insert_bad(party: UjiParty, first: int, reasons: tuple[str, ...]) -> None:
    """One row of each class among 500 good ones, in one transaction."""
    with party.connect() as conn, conn.transaction():
        conn.execute(
            "insert into public.baris select g, '3273010101900001', 'K' || g, 'ORANG', 'L', '1990-01-01', 'GURU', 'JL',"
            " '3273011001' from generate_series(%s::int, %s::int) g",
            (first, first + 499 + len(reasons)),
        )
        conn.execute("set local client_encoding = 'SQL_ASCII'")
        for number, reason in enumerate(reasons):
            for column, text in BAD[reason].items():
                raw = None if text is None else text.encode("utf-8", "surrogateescape")
                cast = "boolean" if text == "true" else "text"
                statement = f"update public.baris set {column} = convert_from(%b, 'SQL_ASCII')::{cast} where id = %s"
                conn.execute(statement.encode(), (raw, first + number * 7))


def test_p5_every_batch_balances_and_a_bad_row_of_each_class_costs_one_row(make_workbench: Make) -> None:
    """Row 41: in the copy and in the stream, with its reason, no word of it in any log; mended, it is staged."""
    bench = make_workbench("uji", layout=TEXTS, limits={"cell_bytes_max": 4096, "copy_rows": 100}, encoding="SQL_ASCII")
    party = bench.parties["uji"]
    copied = tuple(BAD)
    # A row without a key has no key that could be signalled: a copy reports it.
    streamed = tuple(reason for reason in BAD if reason != "NULL_KEY")
    insert_bad(party, 1, copied)
    daemon = bench.start()
    bench.await_caught_up("uji")
    assert refused(bench) == sorted(copied)
    insert_bad(party, 10_001, streamed)
    bench.await_caught_up("uji")
    assert refused(bench) == sorted(copied + streamed)
    assert bench.query("select count(*) from sipol.anggota") == [(1000,)]
    bench.check_evidence("uji")
    assert "RAHASIA" not in daemon.log.read_text(encoding="utf-8", errors="replace")
    party.run(MEND)
    bench.await_caught_up("uji")
    assert refused(bench) == ["NULL_KEY"]
    assert bench.query("select count(*) from sipol.anggota") == [(1000 + len(copied) + len(streamed),)]
    bench.ask("resync", "uji")
    bench.await_obeyed("uji")
    bench.check("uji")
    assert not daemon.named("session_ended")


MEND = """
update public.baris set nik = '3273010101900001', no_kta = 'K', nama = 'ORANG', jk = 'L', tgl = '1990-01-01',
       kerja = 'GURU', alamat = 'JL', kel = '3273011001', ganda = false, tanpa_kunci = false
 where id in (select id from public.baris except select id from public.baris where nik = '3273010101900001'
    and kerja is not null and length(no_kta) < 20 and jk = 'L' and tgl = '1990-01-01' and kel = '3273011001'
    and not ganda and not tanpa_kunci and length(alamat) < 100 and nama = 'ORANG')
"""


def refused(bench: Workbench) -> list[str]:
    return sorted(reason for (reasons,) in bench.query("select reasons from staging.karantina") for reason in reasons)


def test_a_foreign_key_that_moves_changes_the_row_it_left_and_the_row_it_came_to(make_workbench: Make) -> None:
    """Row 82: a child is re-pointed, then deleted; the parents' rows are the ones that change."""
    bench = pair(make_workbench, layout=cards("using index kartu_identitas"))
    bench.start()
    check_all(bench)
    for party in bench.parties.values():
        party.run("update public.kartu set orang_id = 5 where kartu_id = 1")
    check_all(bench)
    for name, party in bench.parties.items():
        counted = bench.totals(name, "dokumen")
        assert counted["updated"] == 2, (name, "the one it left and the one it came to")
        party.run("delete from public.kartu where kartu_id = 1")
        party.run("update public.kartu set nomor = 'LAIN' where kartu_id = 2")
    check_all(bench)
    for name in bench.parties:
        assert bench.totals(name, "dokumen")["updated"] == 4


@pytest.mark.parametrize(("identity", "finding"), [("default", "KEY_NOT_IN_IDENTITY"), ("full", "IDENTITY_FULL")])
def test_the_kit_refuses_an_identity_that_hides_or_shows_too_much(
    make_workbench: Make, identity: str, finding: str
) -> None:
    """Row 82: with the default one the log does not say which parent an orphan had; FULL puts every column into it."""
    with pytest.raises(AssertionError, match=finding):
        make_workbench("uji", layout=cards(identity))


def test_a_copy_and_its_repetition_under_changes_of_the_same_keys_end_equal_to_the_view(make_workbench: Make) -> None:
    """Rows 9 and 10: every chunk has a snapshot of its own, and the sessions that copy are cut off again and again."""
    people = 1_500
    bench = pair(make_workbench, people=people, limits={"copy_rows": 50, "delete_share_max": 0.9})
    tarik, alir = bench.parties.values()
    with Anything(tarik, 9, people), Anything(alir, 10, people):
        bench.start()
        for cuts in range(3):
            for name, party in bench.parties.items():
                bench.wait_until(lambda: "copying" in bench.states(name).values(), f"{name} copies")  # noqa: B023
                if cuts < 2:
                    party.run(
                        "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", (party.reader,)
                    )
                    continue
        for name in bench.parties:
            bench.await_state(name, "streaming")
            bench.ask("resync", name)
            bench.wait_until(lambda: "copying" in bench.states(name).values(), f"{name} copies again")  # noqa: B023
    check_all(bench)
    for name in bench.parties:
        assert bench.acts(name).count("history_begun") == 1


def test_p3_an_older_read_never_overwrites_a_newer_one(make_workbench: Make) -> None:
    """Row 88: two reads of one key, applied in the other order."""
    bench = make_workbench("uji", people=50)
    assert bench.connector("run", "--once").returncode == 0
    source = bench.parties["uji"]
    opened = app.open_party(config.load(bench.config_path), "uji", bench.staging_dsn)
    plan, named = opened.plans["anggota"]
    with closing(opened.open_view()) as view, closing(opened.open_staging()) as staging:
        staging.prepare(plan)
        shape = view.shape("anggota", named.name, named.key, named.inputs)
        reads = []
        for name in ("LAMA", "BARU"):
            source.run("update public.orang set nama = %s where orang_id = 1", (name,))
            snapshot = view.begin()
            reads.append((Read(snapshot.position), tuple(view.fetch(shape, ["1"]))))
            view.end()
        older, newer = reads
        with staging.batch(EntryKind.SIGNALS, newer[0]) as batch:
            batch.apply(plan, newer[1], ["1"])
            batch.advance(None, 0)
        with pytest.raises(StaleRead), staging.batch(EntryKind.SIGNALS, older[0]) as batch:
            batch.apply(plan, older[1], ["1"])
    assert bench.staged("uji", "anggota", "nama", "1") == "BARU"


def test_a_row_that_leaves_and_comes_back_ends_as_the_view_has_it(make_workbench: Make) -> None:
    """Row 89: between signal and re-read nothing happened; after it, a tombstone, then a revival of the same row."""
    bench = make_workbench("uji", people=50)
    party = bench.parties["uji"]
    bench.start(failpoints=bench.armed(["after_read"], "hold"))
    bench.await_caught_up("uji")
    away, back = (f"update public.orang set status = '{status}' where orang_id = 1" for status in ("mundur", "aktif"))
    bench.hold("after_read", "uji", away)
    party.run(back)
    bench.release("after_read", "hold")
    bench.check("uji")
    counted = bench.totals("uji", "anggota")
    assert (counted["deleted"], counted["updated"]) == (0, 0)
    assert counted["signalled"] == counted["unchanged"] == 2
    party.run(away)
    bench.check("uji")
    gone = bench.query("select dihapus_pada is not null, alasan_hapus from staging.anggota where source_key = '1'")
    assert gone == [(True, "HILANG_DARI_VIEW")]
    party.run(back)
    bench.check("uji")
    assert bench.query("select dihapus_pada, alasan_hapus from staging.anggota where source_key = '1'") == [
        (None, None)
    ]
    deeds = bench.query(
        "select operation from sipol.perubahan(null, 1000) where entity = 'anggota' and source_key = '1'"
        " order by sync_batch_id"
    )
    assert [deed for (deed,) in deeds][-2:] == ["hapus", "upsert"]
