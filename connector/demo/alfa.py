"""Partai Alfa: an Indonesian-worded PostgreSQL database with clean codes; a status filter makes rows vanish.

See `parties/alfa.sql` for its tables. Rates of bad cells that no source gives are ours and named below.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Sequence
from datetime import date, timedelta

from connector.demo.party import Connection, Keys, Move, copy_rows, insert_row
from connector.demo.people import People, Person, broken_niks
from connector.demo.territory import Region, Territory

BROKEN_NIK_SHARE = 312 / 50_000  # as many as Beta's spreadsheet destroyed, per list of this size
SEPARATED_NIK_SHARE = 0.35
TRAILING_SPACE_SHARE = 0.05
OLD_FORM_SHARE = 0.10  # of women: 'W'
MISSING_SHARE = 0.002
UNKNOWN_VILLAGE_SHARE = 0.003
STATUSES = ("aktif", "mundur", "wafat", "pindah")
STATUS_WEIGHTS = (94, 3, 1, 2)
TITLES_BEFORE = ("Hj.", "H.", "Drs.", "Dr.", "Ir.")
TITLES_AFTER = ("S.E.", "S.H.", "S.Pd.", "M.Si.", "S.T.")
# Occupations few members have: renaming one re-reads tens of rows, not thousands.
RARE_JOBS = (26, 30, 35, 65, 67, 72, 81)
LEVELS = ("DPP", "DPD", "DPC", "PAC")
CORE, SMALL, LARGE = 3, 6, 10  # people on a district, regency and higher board

PARTAI = (
    "partai_id", "nama", "singkatan", "no_berita", "tgl_berita", "no_ad_art", "tgl_ad_art", "no_sk_menkum",
    "tgl_sk_menkum", "surel", "telepon", "situs",
)  # fmt: skip
KADER = (
    "kader_id", "nik", "no_kta", "gelar_depan", "nama", "gelar_belakang", "jk", "tmp_lahir", "tgl_lahir", "kawin",
    "kerja_id", "alamat", "rt", "rw", "kel_kode", "status",
)  # fmt: skip
SK = ("sk_id", "no_sk", "tgl_sk", "berlaku_sampai", "tingkat", "wil_kode", "nama_unit", "status")
PENGURUS = ("sk_id", "kader_id", "jabatan_id", "urutan")
KANTOR = (
    "kantor_id", "tingkat", "wil_kode", "alamat", "kode_pos", "kel_kode", "telepon", "surel", "milik", "no_surat",
    "tgl_surat", "berlaku_sampai",
)  # fmt: skip
REKENING = ("bank_kode", "no_rek", "tingkat", "wil_kode", "atas_nama")


class Alfa:
    """The party's own program: it knows its tables and the keys in them."""

    name = "alfa"

    def __init__(self, rng: random.Random, territory: Territory, people: People, today: date) -> None:
        self._rng = rng
        self._territory = territory
        self._people = people
        self._today = today
        self._cards = 0
        self._active = Keys(rng)
        self._left = Keys(rng)
        self._decrees = Keys(rng)
        self._ended = Keys(rng)
        self._offices = Keys(rng)
        self._accounts = Keys(rng)
        self._next_decree = 1
        self._next_office = 1

    # --- filling ---

    def fill(self, conn: Connection, persons: Sequence[Person]) -> None:
        copy_rows(conn, "partai", PARTAI, [self._profile()])
        copy_rows(conn, "kader", KADER, [self._row(person) for person in persons])
        boards = [self._board(level, region) for level, region in self._regions()]
        copy_rows(conn, "sk", SK, boards)
        copy_rows(conn, "pengurus", PENGURUS, self._officers(boards))
        seats = [(level, region) for level, region in self._regions() if level < len(LEVELS) - 1]
        copy_rows(conn, "kantor", KANTOR, [self._office(level, region) for level, region in seats])
        copy_rows(conn, "rekening", REKENING, [self._account(level, region) for level, region in seats])

    def _profile(self) -> tuple[object, ...]:
        founded = date(2011, 5, 20)
        return (1, "PARTAI ALFA", "ALFA", "BN-17/2012", date(2012, 2, 28), "AD-ART/01/2011", founded,
                "M.HH-09.AH.11.01", date(2012, 1, 9), "sekretariat@alfa.example", "+62 21 5550101",
                "https://alfa.example")  # fmt: skip

    def _regions(self) -> Iterator[tuple[int, Region | None]]:
        yield 0, None
        for level, regions in enumerate(
            (self._territory.provinces, self._territory.regencies, self._territory.districts), start=1
        ):
            for region in regions:
                yield level, region

    def _row(self, person: Person) -> tuple[object, ...]:
        rng = self._rng
        key = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        status = rng.choices(STATUSES, STATUS_WEIGHTS)[0]
        (self._active if status == "aktif" else self._left).add(key)
        return (
            key,
            self._nik(person.nik),
            self._card(person),
            rng.choice(TITLES_BEFORE) if rng.random() < 0.04 else None,
            person.name,
            rng.choice(TITLES_AFTER) if rng.random() < 0.06 else None,
            "W" if person.sex == "P" and rng.random() < OLD_FORM_SHARE else person.sex,
            person.birthplace,
            None if rng.random() < MISSING_SHARE else person.birth,
            person.marital,
            person.job,
            person.street,
            person.rt,
            person.rw,
            self._village(person),
            status,
        )

    def _nik(self, nik: str) -> str | None:
        luck = self._rng.random()
        if luck < BROKEN_NIK_SHARE:
            return self._rng.choice(tuple(broken_niks(nik)))
        if luck < BROKEN_NIK_SHARE + SEPARATED_NIK_SHARE:
            return f"{nik[:2]}.{nik[2:4]}.{nik[4:6]}-{nik[6:12]}-{nik[12:]}"
        return nik + " " if luck > 1 - TRAILING_SPACE_SHARE else nik

    def _card(self, person: Person) -> str | None:
        self._cards += 1
        if self._rng.random() < MISSING_SHARE:
            return None
        return f"{person.village.plain[:4]}.{self._cards:06}"

    def _village(self, person: Person) -> str | None:
        code = person.village.plain
        if code.startswith("9301"):  # Merauke, whose members kept the code of before the division
            return "9101" + code[4:]
        luck = self._rng.random()
        if luck < UNKNOWN_VILLAGE_SHARE:
            return code[:6] + "2999"
        return None if luck < UNKNOWN_VILLAGE_SHARE + MISSING_SHARE else code

    def _board(self, level: int, region: Region | None, status: str = "aktif") -> tuple[object, ...]:
        key = self._next_decree
        self._next_decree += 1
        self._decrees.add(key)
        unit = LEVELS[level]
        signed = self._today - timedelta(days=self._rng.randint(30, 1500))
        return (key, f"SK-{key:05}/{unit}/ALFA/{signed.year}", signed, signed + timedelta(days=1826), level,
                region.plain if region else None, f"{unit} {region.name}" if region else unit, status)  # fmt: skip

    def _officers(self, boards: Sequence[tuple[object, ...]]) -> Iterator[tuple[object, ...]]:
        for board in boards:
            size = {3: CORE, 2: SMALL}.get(int(str(board[4])), LARGE)
            for place, kader in enumerate(self._active.some(size), start=1):
                yield board[0], kader, place, place

    def _office(self, level: int, region: Region | None) -> tuple[object, ...]:
        rng = self._rng
        key = self._next_office
        self._next_office += 1
        self._offices.add(key)
        owned = rng.choices("MSPL", (15, 55, 28, 2))[0]
        seat = rng.choice(self._territory.villages).plain
        signed = self._today - timedelta(days=rng.randint(30, 900))
        return (key, level, region.plain if region else None, f"Jl. Merdeka No. {rng.randint(1, 400)}",
                f"{rng.randint(10000, 99999)}", seat, f"0{rng.randint(21, 999)}-{rng.randint(100000, 999999)}",
                f"kantor{key}@alfa.example", owned, f"SKD/{key}/{signed.year}", signed,
                None if owned == "M" else signed + timedelta(days=rng.choice((365, 1826))))  # fmt: skip

    def _account(self, level: int, region: Region | None) -> tuple[object, ...]:
        bank = self._rng.choice(("002", "008", "009", "014", "200", "451"))
        number = f"{self._rng.randint(0, 10**12):013}"
        self._accounts.add((bank, number))
        holder = "PARTAI ALFA" if self._rng.random() < 0.95 else "BENDAHARA"
        return bank, number, level, region.plain if region else None, f"{holder} {region.name if region else 'PUSAT'}"

    # --- living ---

    def moves(self) -> tuple[Move[Connection], ...]:
        return (
            Move("member_joined", "anggota", 18, self._join),
            Move("address_changed", "anggota", 26, self._change_address),
            Move("name_corrected", "anggota", 8, self._correct_name),
            Move("nik_corrected", "anggota", 5, self._correct_nik),
            Move("nik_broken", "anggota", 2, self._break_nik),
            Move("nothing_visible_changed", "anggota", 4, self._touch),
            Move("member_left", "anggota", 8, self._leave),
            Move("member_came_back", "anggota", 5, self._come_back),
            Move("member_deleted", "anggota", 4, self._delete),
            Move("key_changed", "anggota", 2, self._change_key),
            Move("joined_and_deleted_at_once", "anggota", 1, self._blink),
            Move("savepoint_rolled_back", "anggota", 1, self._savepoint),
            Move("transaction_rolled_back", "", 1, self._roll_back),
            Move("officer_replaced", "pengurus", 4, self._replace_officer),
            Move("board_founded", "kepengurusan", 1, self._found_board),
            Move("board_ended_or_revived", "kepengurusan", 0.1, self._end_board),
            Move("office_moved", "kantor", 3, self._move_office),
            Move("account_opened", "rekening", 1, self._open_account),
            Move("account_closed", "rekening", 0.5, self._close_account),
            Move("account_renumbered", "rekening", 0.5, self._renumber_account),
            Move("occupation_renamed", "anggota", 0.3, self._rename_occupation),
            Move("position_renamed", "pengurus", 0.1, self._rename_position),
            Move("bank_renamed", "rekening", 0.2, self._rename_bank),
            Move("profile_changed", "parpol", 0.2, self._change_profile),
        )

    def flood(self, conn: Connection, rows: int) -> int:
        done = conn.execute(
            "update public.kader set rw = coalesce(rw, 0) %% 15 + 1 where kader_id = any(%s::uuid[])",
            (self._active.some(rows),),
        )
        return done.rowcount

    def _insert(self, conn: Connection) -> str:
        row = self._row(self._people.fresh())
        insert_row(conn, "kader", KADER, row)
        return str(row[0])

    def _join(self, conn: Connection) -> None:
        self._insert(conn)

    def _change_address(self, conn: Connection) -> None:
        person = self._people.fresh()
        conn.execute(
            "update public.kader set alamat = %s, rt = %s, rw = %s, kel_kode = %s where kader_id = %s",
            (person.street, person.rt, person.rw, self._village(person), self._active.draw()),
        )

    def _correct_name(self, conn: Connection) -> None:
        conn.execute(
            "update public.kader set nama = %s, gelar_belakang = %s where kader_id = %s",
            (self._people.fresh().name, self._rng.choice((None, *TITLES_AFTER)), self._active.draw()),
        )

    def _correct_nik(self, conn: Connection) -> None:
        person = self._people.fresh()
        conn.execute(
            "update public.kader set nik = %s, jk = %s, tgl_lahir = %s where kader_id = %s",
            (person.nik, person.sex, person.birth, self._active.draw()),
        )

    def _break_nik(self, conn: Connection) -> None:
        broken = self._rng.choice(tuple(broken_niks(self._people.fresh().nik)))
        conn.execute("update public.kader set nik = %s where kader_id = %s", (broken, self._active.draw()))

    def _touch(self, conn: Connection) -> None:
        conn.execute("update public.kader set diubah = now() where kader_id = %s", (self._active.draw(),))

    def _leave(self, conn: Connection) -> None:
        key = self._active.take()
        self._left.add(key)
        status = self._rng.choices(STATUSES[1:], STATUS_WEIGHTS[1:])[0]
        conn.execute("update public.kader set status = %s where kader_id = %s", (status, key))

    def _come_back(self, conn: Connection) -> None:
        if not len(self._left):
            return
        key = self._left.take()
        self._active.add(key)
        conn.execute("update public.kader set status = 'aktif' where kader_id = %s", (key,))

    def _delete(self, conn: Connection) -> None:
        conn.execute("delete from public.kader where kader_id = %s", (self._active.take(),))

    def _change_key(self, conn: Connection) -> None:
        old = self._active.take()
        new = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        self._active.add(new)
        conn.execute("update public.kader set kader_id = %s where kader_id = %s", (new, old))

    def _blink(self, conn: Connection) -> None:
        conn.execute("delete from public.kader where kader_id = %s", (self._insert(conn),))

    def _savepoint(self, conn: Connection) -> None:
        self._change_address(conn)
        conn.execute("savepoint regret")
        conn.execute("delete from public.kader where kader_id = any(%s::uuid[])", (self._active.some(50),))
        conn.execute("rollback to savepoint regret")
        self._correct_name(conn)

    def _roll_back(self, conn: Connection) -> None:
        keys = self._active.some(50)
        conn.execute("update public.kader set status = 'mundur' where kader_id = any(%s::uuid[])", (keys,))
        conn.rollback()

    def _replace_officer(self, conn: Connection) -> None:
        board = self._decrees.draw()
        conn.execute(
            "delete from public.pengurus where ctid in (select ctid from public.pengurus where sk_id = %s limit 1)",
            (board,),
        )
        self._seat(conn, board, self._active.draw(), self._rng.randint(1, 10))

    def _seat(self, conn: Connection, board: int, kader: str, position: int) -> None:
        # The kader may have been deleted in a transaction that we only think was rolled back, or sit there already.
        conn.execute(
            "insert into public.pengurus (sk_id, kader_id, jabatan_id, urutan)"
            " select %s, kader_id, %s, %s from public.kader where kader_id = %s on conflict do nothing",
            (board, position, position, kader),
        )

    def _found_board(self, conn: Connection) -> None:
        region = self._rng.choice(self._territory.regencies)
        board = self._board(2, region)
        insert_row(conn, "sk", SK, board)
        for position, kader in enumerate(self._active.some(CORE), start=1):
            self._seat(conn, int(str(board[0])), kader, position)
        insert_row(conn, "kantor", KANTOR, self._office(2, region))
        insert_row(conn, "rekening", REKENING, self._account(2, region))

    def _end_board(self, conn: Connection) -> None:
        if len(self._ended) > 3:
            board, status = self._ended.take(), "aktif"
            self._decrees.add(board)
        else:
            board, status = self._decrees.take(), "berakhir"
            self._ended.add(board)
        conn.execute("update public.sk set status = %s where sk_id = %s", (status, board))

    def _move_office(self, conn: Connection) -> None:
        conn.execute(
            "update public.kantor set alamat = %s, kode_pos = %s where kantor_id = %s",
            (f"Jl. Pemuda No. {self._rng.randint(1, 400)}", f"{self._rng.randint(10000, 99999)}", self._offices.draw()),
        )

    def _open_account(self, conn: Connection) -> None:
        insert_row(conn, "rekening", REKENING, self._account(2, self._rng.choice(self._territory.regencies)))

    def _close_account(self, conn: Connection) -> None:
        conn.execute("delete from public.rekening where bank_kode = %s and no_rek = %s", self._accounts.take())

    def _renumber_account(self, conn: Connection) -> None:
        bank, old = self._accounts.take()
        new = f"{self._rng.randint(0, 10**12):013}"
        self._accounts.add((bank, new))
        conn.execute("update public.rekening set no_rek = %s where bank_kode = %s and no_rek = %s", (new, bank, old))

    def _rename_occupation(self, conn: Connection) -> None:
        conn.execute(
            "update public.m_kerja set nama_kerja = split_part(nama_kerja, ' (', 1) || %s where kerja_id = %s",
            (self._rng.choice(("", " (LAMA)", " (BARU)")), self._rng.choice(RARE_JOBS)),
        )

    def _rename_position(self, conn: Connection) -> None:
        conn.execute(
            "update public.m_jabatan set nama_jabatan = %s where jabatan_id = 10",
            (self._rng.choice(("Ketua Bidang Pemuda", "Ketua Bidang Kepemudaan")),),
        )

    def _rename_bank(self, conn: Connection) -> None:
        conn.execute(
            "update public.m_bank set nama_bank = %s where bank_kode = '451'",
            (self._rng.choice(("Bank Syariah Indonesia", "BSI", "PT Bank Syariah Indonesia Tbk")),),
        )

    def _change_profile(self, conn: Connection) -> None:
        conn.execute("update public.partai set telepon = %s", (f"+62 21 {self._rng.randint(5550000, 5559999)}",))
