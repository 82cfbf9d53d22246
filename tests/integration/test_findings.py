"""Findings over sets on a real staging: what they say, that they follow changes, and that nobody sees another party."""

from __future__ import annotations

import random
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from connector.staging import findings, session

Member = tuple[int, str, str | None, str, str, str, str, str]
Found = set[tuple[str, int, str]]


@pytest.fixture
def conn(staging_dsn: str) -> Iterator[psycopg.Connection]:
    """Staging with two national parties (1, 2) and two local ones of Aceh (3, 4), all empty."""
    with session.connect(staging_dsn) as opened:
        for parpol_id, jenis in enumerate(("NASIONAL", "NASIONAL", "LOKAL_ACEH", "LOKAL_ACEH"), 1):
            opened.execute(
                "insert into connector.party (party, parpol_id, jenis) values (%s, %s, %s)",
                (f"p{parpol_id}", parpol_id, jenis),
            )
            for entity in ("anggota", "kepengurusan"):
                opened.execute(
                    "insert into connector.entity (party, entity, state) values (%s, %s, 'streaming')",
                    (f"p{parpol_id}", entity),
                )
                opened.execute(
                    sql.SQL("create table {} partition of {} for values in ({})").format(
                        sql.Identifier("staging", f"{entity}_p{parpol_id}"), sql.Identifier("staging", entity),
                        sql.Literal(parpol_id),
                    )
                )  # fmt: skip
        settle(opened)
        yield opened


def settle(conn: psycopg.Connection) -> None:
    findings.settle(conn)


def put(conn: psycopg.Connection, *members: Member) -> None:
    """Stage members as one batch does: (party, key, NIK, name, birth date, sex, card, regency)."""
    with conn.transaction():
        for parpol_id, key, nik, nama, lahir, kelamin, kta, kabkota in members:
            conn.execute(
                PUT,
                {"p": parpol_id, "key": key, "nik": nik, "nama": nama, "lahir": lahir, "kelamin": kelamin, "kta": kta,
                 "kab": kabkota},
            )  # fmt: skip
            note(conn, parpol_id, "anggota", key)


def drop(conn: psycopg.Connection, parpol_id: int, key: str) -> None:
    with conn.transaction():
        conn.execute(
            "update staging.anggota set dihapus_pada = now() where parpol_id = %s and source_key = %s", (parpol_id, key)
        )
        note(conn, parpol_id, "anggota", key)


def note(conn: psycopg.Connection, parpol_id: int, entity: str, key: str) -> None:
    conn.execute(
        "insert into connector.journal (batch_id, parpol_id, entity, keys, ops)"
        " values (nextval(pg_get_serial_sequence('staging.sync_batch', 'id')), %s, %s, array[%s], 'U')",
        (parpol_id, entity, key),
    )


PUT = """
insert into staging.anggota (parpol_id, source_key, nik, nomor_kta, nama, jenis_kelamin, tanggal_lahir, pekerjaan,
       alamat, kode_kabkota, kode_kecamatan, kode_wilayah_sumber, nik_hmac, row_hash, mapping_version, sync_batch_id,
       read_position, staged_at)
values (%(p)s, %(key)s, %(nik)s::text, %(kta)s, %(nama)s, %(kelamin)s, %(lahir)s, 'GURU', 'JL', %(kab)s::text,
       %(kab)s::text || '.01', '', sha256(convert_to(%(nik)s::text, 'UTF8')), '', '1', 1, 1, now())
on conflict (parpol_id, source_key) do update
   set nik = excluded.nik, nomor_kta = excluded.nomor_kta, nama = excluded.nama, nik_hmac = excluded.nik_hmac,
       jenis_kelamin = excluded.jenis_kelamin, tanggal_lahir = excluded.tanggal_lahir, dihapus_pada = null,
       kode_kabkota = excluded.kode_kabkota, kode_kecamatan = excluded.kode_kecamatan
"""

NIK_A, NIK_B = "3273015512950007", "3273015512950008"
SITI: tuple[str, str, str] = ("SITI RAHMA", "1995-12-15", "P")


def member(parpol_id: int, key: str, nik: str | None, *person: str, kta: str = "", kab: str = "32.73") -> Member:
    nama, lahir, kelamin = person or SITI
    return parpol_id, key, nik, nama, lahir, kelamin, kta or f"K{parpol_id}-{key}", kab


def found(conn: psycopg.Connection) -> Found:
    return set(
        conn.execute("select jenis, parpol_id, source_key from staging.temuan where resolved_at is null").fetchall()
    )


# ------------------------------------------------------------------------------------------------- what is found


def test_identical_members_of_a_party_are_one_set_and_one_of_them_counts(conn: psycopg.Connection) -> None:
    put(
        conn,
        member(1, "a", NIK_A),
        member(1, "b", NIK_A, "Hj. Siti  Rahma, S.Pd", *SITI[1:]),
        member(1, "c", NIK_B, "X", *SITI[1:]),
    )
    settle(conn)
    assert found(conn) == {("GANDA_IDENTIK", 1, "a"), ("GANDA_IDENTIK", 1, "b")}
    assert conn.execute("select anggota, bersih, identik from staging.hitungan").fetchall() == [(3, 2, 1)]
    drop(conn, 1, "a")
    settle(conn)
    assert found(conn) == set()
    assert conn.execute("select anggota, bersih, identik from staging.hitungan").fetchall() == [(2, 2, 0)]


def test_one_nik_with_two_names_and_one_person_with_two_niks_may_be_duplicates(conn: psycopg.Connection) -> None:
    put(conn, member(1, "a", NIK_A), member(1, "b", NIK_A, "DEWI LESTARI", *SITI[1:]))
    put(conn, member(2, "c", NIK_B), member(2, "d", "3273015512950009"))
    settle(conn)
    assert found(conn) == {
        ("GANDA_POTENSI", 1, "a"),
        ("GANDA_POTENSI", 1, "b"),
        ("GANDA_POTENSI", 2, "c"),
        ("GANDA_POTENSI", 2, "d"),
    }


def test_another_national_party_s_member_is_external_and_an_aceh_party_s_is_not(conn: psycopg.Connection) -> None:
    put(conn, member(1, "a", NIK_A), member(3, "x", NIK_A))
    settle(conn)
    assert found(conn) == set()
    put(conn, member(2, "b", NIK_A))
    settle(conn)
    assert found(conn) == {("GANDA_EKSTERNAL", 1, "a"), ("GANDA_EKSTERNAL", 2, "b")}
    put(conn, member(4, "y", NIK_A))
    settle(conn)
    assert found(conn) >= {("GANDA_EKSTERNAL", 3, "x"), ("GANDA_EKSTERNAL", 4, "y")}
    drop(conn, 2, "b")
    drop(conn, 4, "y")
    settle(conn)
    assert found(conn) == set()


def test_one_card_for_two_persons_is_found_and_for_one_is_not(conn: psycopg.Connection) -> None:
    put(
        conn,
        member(1, "a", NIK_A, kta="7"),
        member(1, "b", NIK_B, "X", *SITI[1:], kta="7"),
        member(2, "c", NIK_B, "X", *SITI[1:], kta="7"),
    )
    settle(conn)
    assert {one for one in found(conn) if one[0] == "KTA_GANDA"} == {("KTA_GANDA", 1, "a"), ("KTA_GANDA", 1, "b")}


def test_members_without_a_nik_are_compared_by_nothing_that_needs_one(conn: psycopg.Connection) -> None:
    put(conn, member(3, "a", None), member(3, "b", None))
    settle(conn)
    assert found(conn) == set()


def test_two_active_boards_of_one_region_are_found(conn: psycopg.Connection) -> None:
    def board(key: str, status: str) -> None:
        conn.execute(
            "insert into staging.kepengurusan (parpol_id, source_key, tingkat, kode_wilayah, nomor_sk, tanggal_sk,"
            "       status, row_hash, mapping_version, sync_batch_id, read_position, staged_at)"
            " values (1, %s, 'KABKOTA', '32.73', 'SK', '2025-01-01', %s, '', '1', 1, 1, now())"
            " on conflict (parpol_id, source_key) do update set status = excluded.status",
            (key, status),
        )
        note(conn, 1, "kepengurusan", key)
        settle(conn)

    board("a", "AKTIF")
    board("b", "BERAKHIR")
    assert found(conn) == set()
    board("b", "AKTIF")
    assert found(conn) == {("DUALISME", 1, "a"), ("DUALISME", 1, "b")}
    board("a", "BERAKHIR")
    assert found(conn) == set()


def test_the_reader_s_view_has_set_findings_and_row_findings_under_one_name(conn: psycopg.Connection) -> None:
    put(conn, member(1, "a", NIK_A), member(1, "b", NIK_A))
    conn.execute("update staging.anggota set indikasi = '{INDIKASI_USIA}' where source_key = 'a'")
    settle(conn)
    seen = conn.execute("select parpol_id, entity, source_key, jenis from sipol.temuan order by 3, 4").fetchall()
    assert seen == [
        (1, "anggota", "a", "GANDA_IDENTIK"),
        (1, "anggota", "a", "INDIKASI_USIA"),
        (1, "anggota", "b", "GANDA_IDENTIK"),
    ]
    conn.execute("set role sipol_reader")
    assert len(conn.execute("select from sipol.temuan").fetchall()) == 3
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("select from staging.temuan")


def test_no_table_has_a_column_for_a_verdict(conn: psycopg.Connection) -> None:
    """MS, BMS and TMS are acts of KPU."""
    names = conn.execute(
        "select lower(column_name) from information_schema.columns where table_schema in ('staging', 'sipol')"
    ).fetchall()
    assert not {"ms", "bms", "tms", "status_verifikasi"} & {name for (name,) in names}


# ------------------------------------------------------------------------------------------------- kept current


def test_what_is_kept_step_by_step_is_what_reading_all_of_it_gives(conn: psycopg.Connection) -> None:
    chance = random.Random(7)
    names = [("SITI", "1990-01-01", "P"), ("BUDI", "1990-01-01", "L"), ("SITI", "1991-01-01", "P")]
    for _ in range(25):
        for _ in range(chance.randint(1, 6)):
            parpol_id, key = chance.randint(1, 4), str(chance.randint(1, 8))
            if chance.random() < 0.25:
                drop(conn, parpol_id, key)
            else:
                nik = chance.choice([NIK_A, NIK_B, "3273015512950009", None if parpol_id > 2 else NIK_A])
                put(
                    conn,
                    member(
                        parpol_id,
                        key,
                        nik,
                        *chance.choice(names),
                        kta=chance.choice("123"),
                        kab=chance.choice(["32.73", "11.01"]),
                    ),
                )
        settle(conn)
    kept = (found(conn), counted(conn))
    conn.execute("truncate staging.temuan, staging.hitungan, connector.sosok")
    conn.execute("update connector.temuan_cursor set place = null")
    settle(conn)
    assert (found(conn), counted(conn)) == kept


def counted(conn: psycopg.Connection) -> list[tuple[object, ...]]:
    return conn.execute(
        "select parpol_id, kode_kabkota, anggota, bersih, identik, potensi, eksternal, kta from staging.hitungan"
        " where anggota > 0 order by 1, 2"
    ).fetchall()


def test_a_party_in_its_first_copy_is_read_whole_when_it_is_through(conn: psycopg.Connection) -> None:
    conn.execute("update connector.entity set state = 'copying', copying = true, bulk = true where party = 'p1'")
    put(conn, member(1, "a", NIK_A), member(1, "b", NIK_A), member(2, "c", NIK_A))
    settle(conn)
    assert found(conn) == set()
    conn.execute("update connector.entity set state = 'streaming', copying = false where party = 'p1'")
    settle(conn)
    assert {jenis for jenis, _, _ in found(conn)} == {"GANDA_IDENTIK", "GANDA_EKSTERNAL"}


def test_a_feed_that_was_pruned_past_our_place_is_no_gap(conn: psycopg.Connection) -> None:
    put(conn, member(1, "a", NIK_A), member(1, "b", NIK_A))
    conn.execute(
        "with gone as (delete from connector.journal returning xid, batch_id)"
        " update connector.journal_floor set (xid, batch_id, ordinal) ="
        " (select xid, batch_id, 1 from gone order by 1 desc, 2 desc limit 1)"
    )
    settle(conn)
    assert found(conn) == {("GANDA_IDENTIK", 1, "a"), ("GANDA_IDENTIK", 1, "b")}


def test_a_finding_that_comes_back_is_a_new_one(conn: psycopg.Connection) -> None:
    put(conn, member(1, "a", NIK_A), member(1, "b", NIK_A))
    settle(conn)
    query = "select first_seen, resolved_at from staging.temuan where source_key = 'a'"
    (first,) = conn.execute(query).fetchall()
    drop(conn, 1, "b")
    settle(conn)
    (gone,) = conn.execute(query).fetchall()
    assert (gone[0], gone[1] is not None) == (first[0], True)
    put(conn, member(1, "b", NIK_A))
    settle(conn)
    (again,) = conn.execute(query).fetchall()
    assert again[0] > first[0]
    assert again[1] is None
