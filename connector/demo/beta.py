"""Partai Beta: a web application's database, English-worded, everything text, regions by name.

See `parties/beta.sql` for its tables. Rates of bad cells that no source gives are ours and named below.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

from connector.demo.party import Connection, Keys, Move, copy_rows, insert_row
from connector.demo.people import BARRED_JOBS, People, Person, broken_niks
from connector.demo.territory import Region, Territory

BROKEN_NIK_SHARE = 312 / 50_000  # 312 rows came back from a spreadsheet as '3.27301E+15'
UNKNOWN_SEX_SHARE = 0.005
MISSING_SHARE = 0.002
AMERICAN_DATE_SHARE = 0.01  # mm/dd/yyyy among dd/mm/yyyy
BARE_CITY_SHARE = 0.08  # 'Bogor': there is a regency and a city of this name
MOJIBAKE_SHARE = 0.003
TWO_CHAPTERS_SHARE = 0.0005
SOFT_DELETED_SHARE = 0.04
IMPORTED_SHARE = 0.2  # rows whose updated_at is null
CORE, SMALL, LARGE = 3, 6, 10  # people on a district, city and higher board
LEVELS = ("national", "province", "city", "district")
MARITAL = {1: ("single",), 2: ("married", "married", "Kawin"), 3: ("divorced",), 4: ("widowed",)}
OCCUPATIONS = (
    "wiraswasta/pedagang", "wiraswasta", "petani", "ibu rumah tangga", "karyawan swasta", "pedagang", "buruh harian",
    "nelayan", "sopir", "pelajar/mahasiswa", "guru honorer", "TNI (purn)", "pensiunan PNS", "mekanik", "tukang kayu",
)  # fmt: skip
BARRED = {5: "PNS guru", 6: "TNI AD", 7: "Polri"}
POSITIONS = (
    "Chairperson", "Secretary", "Treasurer", "Deputy Chairperson", "Deputy Secretary", "Deputy Treasurer",
    "Head of Organisation", "Head of Training", "Head of Women", "Head of Youth",
)  # fmt: skip
EPOCH = datetime(2020, 1, 1)  # noqa: DTZ001 - the application's columns have no zone
BANKS = ("Bank Rakyat Indonesia", "Bank Mandiri", "BNI", "BCA", "Bank Syariah Indonesia")

BRANCH = (
    "id", "branch_code", "level", "province", "city", "district", "address", "postcode", "phone", "email", "ownership",
    "letter_no", "letter_date", "lease_until",
)  # fmt: skip
BOARD = ("id", "branch_id", "name", "decree_no", "decree_date", "decree_until", "is_active")
OFFICER = ("board_id", "member_id", "full_name", "id_number", "gender", "position", "sort")
ACCOUNT = ("branch_id", "bank", "account_no", "holder")
MEMBER = (
    "id", "id_number", "card_no", "first_name", "last_name", "gender", "birth", "marital", "occupation", "address",
    "village", "district", "city", "province", "created_at", "updated_at", "deleted_at",
)  # fmt: skip


class Beta:
    """The party's own application: it knows its tables and the keys in them."""

    name = "beta"

    def __init__(self, rng: random.Random, territory: Territory, people: People, today: date) -> None:
        self._rng = rng
        self._territory = territory
        self._people = people
        self._today = today
        self._next_member = 1
        self._next_card = 1
        self._members = Keys(rng)
        self._soft_deleted = Keys(rng)
        self._doubled = Keys(rng)
        self._branches = Keys(rng)
        self._chapters = Keys(rng)
        self._boards = Keys(rng)

    # --- filling ---

    def fill(self, conn: Connection, persons: Sequence[Person]) -> None:
        copy_rows(conn, "settings", ("name", "value"), self._settings())
        branches = [self._branch(number, *place) for number, place in enumerate(self._places(), start=1)]
        copy_rows(conn, "branches", BRANCH, branches)
        cities = [(row[0], str(row[4])) for row in branches if row[2] == "city"]
        copy_rows(conn, "chapters", ("id", "branch_id", "name"), [self._chapter(*city) for city in cities])
        rows = [self._row(person) for person in persons]
        copy_rows(conn, "members", MEMBER, rows)
        copy_rows(conn, "chapter_member", ("chapter_id", "member_id"), self._chapter_members([row[0] for row in rows]))
        copy_rows(conn, "boards", BOARD, [self._board(row) for row in branches])
        copy_rows(conn, "officers", OFFICER, self._officers(branches))
        copy_rows(conn, "accounts", ACCOUNT, [self._account(row) for row in branches if row[2] != "district"])
        for table in ("branches", "chapters", "members", "boards"):
            # COPY wrote ids of ours; the application's next row must not meet them.
            next_id = f"select setval(pg_get_serial_sequence('public.{table}', 'id'), max(id)) from public.{table}"
            conn.execute(next_id.encode())

    def _settings(self) -> list[tuple[str, str]]:
        return [
            ("app_name", "Beta Members"), ("party_code", "beta"), ("party_name", "PARTAI BETA"),
            ("party_short", "BETA"), ("ministry_no", "M.HH-21.AH.11.01"), ("ministry_date", "09/02/2014"),
            ("email", "office@beta.example"), ("website", "https://beta.example"), ("theme", "blue"),
        ]  # fmt: skip

    def _places(self) -> Iterator[tuple[str, str | None, str | None, str | None]]:
        """Level, province, city, district of each branch."""

        def names(level: str, region: Region) -> tuple[str, str | None, str | None, str | None]:
            line: list[str | None] = [*reversed(region.above), region.name]
            province, city, district = [*line, None, None][:3]
            return level, province, city, district

        yield "national", None, None, None
        for level, regions in zip(
            LEVELS[1:], (self._territory.provinces, self._territory.regencies, self._territory.districts), strict=True
        ):
            for region in regions:
                yield names(level, region)

    def _branch(
        self, number: int, level: str, province: str | None, city: str | None, district: str | None
    ) -> tuple[object, ...]:
        rng = self._rng
        self._branches.add(number)
        signed = self._today - timedelta(days=rng.randint(30, 900))
        owned = rng.choices(("owned", "rented", "borrowed", "other"), (15, 55, 28, 2))[0]
        until = "" if owned == "owned" else _dmy(signed + timedelta(days=rng.choice((365, 1826))))
        address = None if level == "district" else f"Jl. Sudirman No. {rng.randint(1, 400)}"
        return (number, f"BR-{number:05}", level, province, city, district, address, f"{rng.randint(10000, 99999)}",
                f"0{rng.randint(21, 999)} {rng.randint(100000, 999999)}", f"branch{number}@beta.example", owned,
                f"L/{number}/{signed.year}", _dmy(signed), until)  # fmt: skip

    def _chapter(self, branch: object, city: str) -> tuple[object, ...]:
        self._chapters.add(branch)  # a chapter has its branch's number
        return branch, branch, f"Chapter {city}"

    def _row(self, person: Person) -> tuple[object, ...]:
        rng = self._rng
        key = self._next_member
        self._next_member += 1
        deleted = rng.random() < SOFT_DELETED_SHARE
        (self._soft_deleted if deleted else self._members).add(key)
        made = EPOCH + timedelta(seconds=rng.randrange(150_000_000))
        return (
            key,
            self._nik(person.nik),
            self._card(),
            self._garble(person.first),
            self._garble(person.last),
            self._gender(person),
            self._birth(person),
            rng.choice(MARITAL[person.marital]),
            BARRED[person.job] if person.job in BARRED_JOBS else rng.choice(OCCUPATIONS),
            f"{person.street} RT {person.rt:03}/RW {person.rw:03}",
            person.village.name,
            person.village.district,
            self._city(person.village.regency),
            person.village.province,
            made,
            None if rng.random() < IMPORTED_SHARE else made,
            made if deleted else None,
        )

    def _nik(self, nik: str) -> str | None:
        luck = self._rng.random()
        if luck < BROKEN_NIK_SHARE:
            return next(broken_niks(nik))
        return None if luck < BROKEN_NIK_SHARE + MISSING_SHARE else nik

    def _card(self) -> int | None:
        self._next_card += 1
        return None if self._rng.random() < MISSING_SHARE else self._next_card - 1

    def _garble(self, name: str | None) -> str | None:
        """UTF-8 bytes read as latin1's Windows cousin: what a latin1 table makes of a name like NUR’AINI."""
        if name is None or name.isascii():
            return name if name is None or self._rng.random() >= MOJIBAKE_SHARE else name + "Â\u00a0"
        return name.encode().decode("cp1252", errors="replace")

    def _gender(self, person: Person) -> str:
        if self._rng.random() < UNKNOWN_SEX_SHARE:
            return "unknown"
        return "male" if person.sex == "L" else "female"

    def _birth(self, person: Person) -> str | None:
        luck = self._rng.random()
        if luck < MISSING_SHARE:
            return person.birthplace
        day = person.birth.strftime("%m/%d/%Y") if luck > 1 - AMERICAN_DATE_SHARE else _dmy(person.birth)
        place = "Jakarta, DKI" if luck > 0.98 else person.birthplace  # the date stands after the last comma
        return f"{place}, {day}"

    def _city(self, name: str) -> str:
        luck = self._rng.random()
        kind, _, bare = name.partition(" ")
        if luck < BARE_CITY_SHARE:
            return bare
        if luck < 0.3:
            return name.upper()
        if luck < 0.4:
            return name + " "
        return f"Kab. {bare}" if luck < 0.6 and kind == "Kabupaten" else name

    def _chapter_members(self, members: Sequence[object]) -> Iterator[tuple[object, object]]:
        for member in members:
            chapter = self._chapters.draw()
            yield chapter, member
            if self._rng.random() < TWO_CHAPTERS_SHARE:
                self._doubled.add(member)
                yield self._chapters.draw(), member

    def _board(self, branch: tuple[object, ...]) -> tuple[object, ...]:
        number, level = branch[0], branch[2]
        self._boards.add(number)  # a board has its branch's number
        signed = self._today - timedelta(days=self._rng.randint(30, 1500))
        place = next((str(name) for name in (branch[5], branch[4], branch[3]) if name), "")
        return (number, number, f"Board {place}".strip(), f"D-{number}/{str(level).upper()}/{signed.year}",
                _dmy(signed), _dmy(signed + timedelta(days=1826)), self._rng.random() > 0.02)  # fmt: skip

    def _officers(self, branches: Sequence[tuple[object, ...]]) -> Iterator[tuple[object, ...]]:
        for branch in branches:
            size = {"district": CORE, "city": SMALL}.get(str(branch[2]), LARGE)
            for sort, member in enumerate(self._members.some(size), start=1):
                yield self._officer(branch[0], member, sort)

    def _officer(self, board: object, member: object, sort: int) -> tuple[object, ...]:
        person = self._people.fresh()
        return (board, member, person.name, self._nik(person.nik), "male" if person.sex == "L" else "female",
                POSITIONS[sort - 1], sort)  # fmt: skip

    def _account(self, branch: tuple[object, ...]) -> tuple[object, ...]:
        place = branch[4] or branch[3] or "PUSAT"
        return branch[0], self._rng.choice(BANKS), f"{self._rng.randint(0, 10**12):013}", f"PARTAI BETA {place}"

    # --- living ---

    def moves(self) -> tuple[Move[Connection], ...]:
        return (
            Move("member_joined", "anggota", 18, self._join),
            Move("address_changed", "anggota", 26, self._change_address),
            Move("name_corrected", "anggota", 8, self._correct_name),
            Move("nik_corrected", "anggota", 5, self._correct_nik),
            Move("nik_broken", "anggota", 2, self._break_nik),
            Move("nothing_visible_changed", "anggota", 4, self._touch),
            Move("member_soft_deleted", "anggota", 7, self._soft_delete),
            Move("member_restored", "anggota", 4, self._restore),
            Move("member_deleted", "anggota", 4, self._delete),
            Move("key_changed", "anggota", 2, self._change_key),
            Move("joined_and_deleted_at_once", "anggota", 1, self._blink),
            Move("savepoint_rolled_back", "anggota", 1, self._savepoint),
            Move("second_chapter_joined", "anggota", 0.5, self._double),
            Move("second_chapter_left", "anggota", 0.5, self._undouble),
            Move("chapter_changed", "anggota", 2, self._change_chapter),
            Move("officer_replaced", "pengurus", 4, self._replace_officer),
            Move("branch_founded", "kepengurusan", 0.5, self._found_branch),
            Move("branch_moved", "kantor", 2, self._move_branch),
            Move("branch_relabelled", "kantor", 0.3, self._relabel_branch),
            Move("board_ended_or_revived", "kepengurusan", 0.5, self._end_board),
            Move("account_replaced", "rekening", 1, self._replace_account),
            Move("chapter_renamed", "anggota", 0.3, self._rename_chapter),
            Move("setting_changed", "", 0.3, self._change_setting),
        )

    def flood(self, conn: Connection, rows: int) -> int:
        done = conn.execute(
            "update public.members set address = address || '.', updated_at = now() where id = any(%s)",
            (self._members.some(rows),),
        )
        return done.rowcount

    def _insert(self, conn: Connection) -> int:
        row = (*self._row(self._people.fresh())[:-1], None)
        insert_row(conn, "members", MEMBER, row)
        self._enter_chapter(conn, int(str(row[0])))
        return int(str(row[0]))

    def _enter_chapter(self, conn: Connection, member: int) -> None:
        conn.execute(
            "insert into public.chapter_member (chapter_id, member_id) select %s, id from public.members where id = %s",
            (self._chapters.draw(), member),
        )

    def _join(self, conn: Connection) -> None:
        self._insert(conn)

    def _change_address(self, conn: Connection) -> None:
        person = self._people.fresh()
        village = person.village
        conn.execute(
            "update public.members set address = %s, village = %s, district = %s, city = %s, province = %s,"
            " updated_at = now() where id = %s",
            (person.street, village.name, village.district, self._city(village.regency), village.province,
             self._members.draw()),
        )  # fmt: skip

    def _correct_name(self, conn: Connection) -> None:
        person = self._people.fresh()
        conn.execute(
            "update public.members set first_name = %s, last_name = %s, updated_at = now() where id = %s",
            (person.first, person.last, self._members.draw()),
        )

    def _correct_nik(self, conn: Connection) -> None:
        person = self._people.fresh()
        conn.execute(
            "update public.members set id_number = %s, gender = %s, birth = %s where id = %s",
            (person.nik, self._gender(person), self._birth(person), self._members.draw()),
        )

    def _break_nik(self, conn: Connection) -> None:
        broken = next(broken_niks(self._people.fresh().nik))
        conn.execute("update public.members set id_number = %s where id = %s", (broken, self._members.draw()))

    def _touch(self, conn: Connection) -> None:
        conn.execute("update public.members set updated_at = now() where id = %s", (self._members.draw(),))

    def _soft_delete(self, conn: Connection) -> None:
        key = self._members.take()
        self._soft_deleted.add(key)
        conn.execute("update public.members set deleted_at = now() where id = %s", (key,))

    def _restore(self, conn: Connection) -> None:
        if not len(self._soft_deleted):
            return
        key = self._soft_deleted.take()
        self._members.add(key)
        conn.execute("update public.members set deleted_at = null where id = %s", (key,))

    def _delete(self, conn: Connection) -> None:
        conn.execute("delete from public.members where id = %s", (self._members.take(),))

    def _change_key(self, conn: Connection) -> None:
        old, new = self._members.take(), self._next_member
        self._next_member += 1
        self._members.add(new)
        conn.execute("update public.members set id = %s where id = %s", (new, old))

    def _blink(self, conn: Connection) -> None:
        conn.execute("delete from public.members where id = %s", (self._insert(conn),))

    def _savepoint(self, conn: Connection) -> None:
        self._change_address(conn)
        conn.execute("savepoint regret")
        conn.execute("delete from public.members where id = any(%s)", (self._members.some(50),))
        conn.execute("rollback to savepoint regret")
        self._correct_name(conn)

    def _double(self, conn: Connection) -> None:
        member = self._members.draw()
        self._doubled.add(member)
        self._enter_chapter(conn, member)

    def _undouble(self, conn: Connection) -> None:
        if not len(self._doubled):
            return
        conn.execute(
            "delete from public.chapter_member where member_id = %s and id >"
            " (select min(id) from public.chapter_member where member_id = %s)",
            [self._doubled.take()] * 2,
        )

    def _change_chapter(self, conn: Connection) -> None:
        conn.execute(
            "update public.chapter_member set chapter_id = %s where member_id = %s",
            (self._chapters.draw(), self._members.draw()),
        )

    def _replace_officer(self, conn: Connection) -> None:
        board, sort = self._boards.draw(), self._rng.randint(1, 3)
        conn.execute("delete from public.officers where board_id = %s and sort = %s", (board, sort))
        member = self._members.draw()
        exists = conn.execute("select 1 from public.members where id = %s", (member,)).fetchone()
        insert_row(conn, "officers", OFFICER, self._officer(board, member if exists else None, sort))

    def _found_branch(self, conn: Connection) -> None:
        region = self._rng.choice(self._territory.regencies)
        number = conn.execute("select nextval(pg_get_serial_sequence('public.branches', 'id'))").fetchone()
        assert number is not None
        row = self._branch(int(number[0]), "city", region.above[0], region.name, None)
        insert_row(conn, "branches", BRANCH, row)
        insert_row(conn, "boards", BOARD, self._board(row))
        insert_row(conn, "accounts", ACCOUNT, self._account(row))

    def _move_branch(self, conn: Connection) -> None:
        conn.execute(
            "update public.branches set address = %s, postcode = %s where id = %s and level <> 'district'",
            (f"Jl. Diponegoro No. {self._rng.randint(1, 400)}", f"{self._rng.randint(10000, 99999)}",
             self._branches.draw()),
        )  # fmt: skip

    def _relabel_branch(self, conn: Connection) -> None:
        """Somebody writes the city's name in another way, or wrongly: board, office and account all hang on it."""
        region = self._rng.choice(self._territory.regencies)
        conn.execute(
            "update public.branches set province = %s, city = %s where id = %s and level = 'city'",
            (region.above[0], self._city(region.name), self._chapters.draw()),
        )

    def _end_board(self, conn: Connection) -> None:
        conn.execute("update public.boards set is_active = not is_active where id = %s", (self._boards.draw(),))

    def _replace_account(self, conn: Connection) -> None:
        branch = self._chapters.draw()
        conn.execute("delete from public.accounts where branch_id = %s", (branch,))
        conn.execute(
            "insert into public.accounts (branch_id, bank, account_no, holder)"
            " select id, %s, %s, 'PARTAI BETA ' || city from public.branches where id = %s",
            (self._rng.choice(BANKS), f"{self._rng.randint(0, 10**12):013}", branch),
        )

    def _rename_chapter(self, conn: Connection) -> None:
        conn.execute(
            "update public.chapters set name = name || %s where id = %s",
            (self._rng.choice((" A", " B")), self._chapters.draw()),
        )

    def _change_setting(self, conn: Connection) -> None:
        conn.execute(
            "update public.settings set value = %s where name = %s",
            (f"office{self._rng.randint(1, 9)}@beta.example", self._rng.choice(("email", "theme"))),
        )


def _dmy(day: date) -> str:
    return day.strftime("%d/%m/%Y")
