"""Partai Gamma: a SQLite file with SQL Server's shapes; coded cells, a person apart from the membership, BPS regions.

See `parties/gamma.sql` for its tables. No bridge from BPS to Kemendagri is published: `bridge` invents one for the
demo, whose codes mean nothing outside of it. Shares that no source gives are ours and named below.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Sequence
from datetime import date

from connector.demo.party import Keys, Move
from connector.demo.people import People, Person, broken_niks
from connector.demo.territory import Territory, Village

Connection = sqlite3.Connection
Member = tuple[int, int]  # membership, person

BROKEN_NIK_SHARE = 312 / 50_000
OTHER_CARD_SHARE = 0.015  # a driving licence or a passport is no NIK
SEX_UNKNOWN_SHARE = 0.02
BIRTH_UNKNOWN_SHARE = 0.002
NO_ADDRESS_SHARE = 0.005
UNKNOWN_VILLAGE_SHARE = 0.003
LEFT_SHARE = 0.06
OCCUPATIONS = {5: "A1", 6: "A2", 7: "A2", 88: "W1", 9: "P1", 2: "R1", 15: "S1", 11: "N1", 65: "G1"}
MARRIED = ("K0", "K1", "K2", "K3")
MARITAL = {1: ("TK",), 2: MARRIED, 3: ("D",), 4: ("J",)}


def bridge(villages: Sequence[Village]) -> dict[str, str]:
    """An invented bridge: a code of BPS's shape for each village -> its Kemendagri code.

    As real ones do, the codes look like Kemendagri codes of other places.
    """
    seen: Counter[str] = Counter()
    made = {}
    for village in villages:
        district = village.plain[:6]
        seen[district] += 1
        made[f"{district[:4]}{10 * int(district[4:]):03}{seen[district]:03}"] = village.code
    return made


class Gamma:
    """The party's own program: it knows its tables and the keys in them."""

    name = "gamma"

    def __init__(self, rng: random.Random, territory: Territory, people: People, today: date) -> None:
        self._rng = rng
        self._people = people
        self._today = today
        self._bps = {code: bps for bps, code in bridge(territory.villages).items()}
        self._active = Keys(rng)
        self._left = Keys(rng)
        self._last_membership = 9_000
        self._last_person = 0

    # --- filling ---

    def fill(self, conn: Connection, persons: Sequence[Person]) -> None:
        for person in persons:
            member = self._insert(conn, person)
            if self._rng.random() < LEFT_SHARE:
                self._active.take_last()
                self._end(conn, member)

    def _insert(self, conn: Connection, person: Person) -> Member:
        rng = self._rng
        self._last_person += 1
        key = self._last_person
        names = person.name.split(" ")
        middle = " ".join(names[1:-1]) or rng.choice((None, ""))
        conn.execute(
            "insert into TblPerson values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key, self._nik(person.nik), rng.choice((2, 4)) if rng.random() < OTHER_CARD_SHARE else 1,
                names[0], middle, names[-1] if len(names) > 1 else None,
                9 if rng.random() < SEX_UNKNOWN_SHARE else {"L": 1, "P": 2}[person.sex],
                "1900-01-01 00:00:00" if rng.random() < BIRTH_UNKNOWN_SHARE else f"{person.birth} 00:00:00",
                OCCUPATIONS.get(person.job, "L1"), rng.choice(MARITAL[person.marital]),
            ),
        )  # fmt: skip
        if rng.random() >= NO_ADDRESS_SHARE:
            conn.execute("insert into TblAlamat values (?, 'K', ?, ?, ?)", (key, *self._address(person)))
        return self._enrol(conn, key)

    def _enrol(self, conn: Connection, person: int) -> Member:
        self._last_membership += 1
        member = (self._last_membership, person)
        conn.execute(
            "insert into TblMembership values (?, ?, ?, ?, null, 1)",
            (*member, f"G-{self._last_membership:06}", f"{self._today} 00:00:00"),
        )
        self._active.add(member)
        return member

    def _nik(self, nik: str) -> str | None:
        return self._rng.choice(tuple(broken_niks(nik))) if self._rng.random() < BROKEN_NIK_SHARE else nik

    def _address(self, person: Person) -> tuple[str, str, str]:
        code = self._bps[person.village.code]
        if self._rng.random() < UNKNOWN_VILLAGE_SHARE:
            code = code[:7] + "999"
        return person.street, self._rtrw(person.rt, person.rw), code

    def _rtrw(self, rt: int, rw: int) -> str:
        return self._rng.choice((f"{rt:03}/{rw:03}", f"{rt}-{rw}", f"{rt:03}{rw:03}"))

    # --- living ---

    def moves(self) -> tuple[Move[Connection], ...]:
        return (
            Move("member_joined", "anggota", 18, self._join),
            Move("address_changed", "anggota", 26, self._change_address),
            Move("name_corrected", "anggota", 8, self._correct_name),
            Move("nik_corrected", "anggota", 5, self._correct_nik),
            Move("nik_broken", "anggota", 2, self._break_nik),
            Move("nothing_visible_changed", "", 4, self._touch),
            Move("member_left", "anggota", 8, self._leave),
            Move("member_rejoined", "anggota", 5, self._rejoin),
            Move("member_deleted", "anggota", 4, self._delete),
            Move("person_erased", "anggota", 1, self._erase),
            Move("address_lost", "anggota", 1, self._lose_address),
            Move("key_changed", "anggota", 2, self._change_key),
            Move("joined_and_deleted_at_once", "", 1, self._blink),
            Move("transaction_rolled_back", "", 1, self._roll_back),
            Move("occupation_renamed", "anggota", 0.3, self._rename_occupation),
        )

    def flood(self, conn: Connection, rows: int) -> int:
        chosen = self._active.some(rows)
        new = self._rtrw(self._rng.randint(1, 12), self._rng.randint(1, 15))
        return conn.executemany(
            "update TblAlamat set RTRW = ? where PersonId = ?", [(new, person) for _, person in chosen]
        ).rowcount

    def _join(self, conn: Connection) -> None:
        self._insert(conn, self._people.fresh())

    def _change_address(self, conn: Connection) -> None:
        conn.execute(
            "update TblAlamat set Jalan = ?, RTRW = ?, KdDesaBPS = ? where PersonId = ?",
            (*self._address(self._people.fresh()), self._active.draw()[1]),
        )

    def _correct_name(self, conn: Connection) -> None:
        conn.execute(
            "update TblPerson set NamaDepan = ?, NamaTengah = null where PersonId = ?",
            (self._people.fresh().first, self._active.draw()[1]),
        )

    def _correct_nik(self, conn: Connection) -> None:
        person = self._people.fresh()
        conn.execute(
            "update TblPerson set NoIdentitas = ?, JenisId = 1, Sex = ?, TglLahir = ? where PersonId = ?",
            (person.nik, {"L": 1, "P": 2}[person.sex], f"{person.birth} 00:00:00", self._active.draw()[1]),
        )

    def _break_nik(self, conn: Connection) -> None:
        broken = self._rng.choice(tuple(broken_niks(self._people.fresh().nik)))
        conn.execute("update TblPerson set NoIdentitas = ? where PersonId = ?", (broken, self._active.draw()[1]))

    def _touch(self, conn: Connection) -> None:
        day = f"{self._today} 00:00:{self._rng.randint(0, 59):02}"
        conn.execute("update TblMembership set TglMasuk = ? where MembershipId = ?", (day, self._active.draw()[0]))

    def _leave(self, conn: Connection) -> None:
        self._end(conn, self._active.take())

    def _end(self, conn: Connection, member: Member) -> None:
        self._left.add(member)
        conn.execute(
            "update TblMembership set IsActive = 0, TglKeluar = ? where MembershipId = ?",
            (f"{self._today} 00:00:00", member[0]),
        )

    def _rejoin(self, conn: Connection) -> None:
        """A second membership of the same person: two rows with one NIK, one of them ended."""
        if len(self._left):
            self._enrol(conn, self._left.take()[1])

    def _delete(self, conn: Connection) -> None:
        membership, person = self._active.take()
        conn.execute("delete from TblMembership where MembershipId = ?", (membership,))
        conn.execute("delete from TblAlamat where PersonId = ?", (person,))

    def _erase(self, conn: Connection) -> None:
        conn.execute("delete from TblPerson where PersonId = ?", (self._active.take()[1],))

    def _lose_address(self, conn: Connection) -> None:
        conn.execute("delete from TblAlamat where PersonId = ?", (self._active.draw()[1],))

    def _change_key(self, conn: Connection) -> None:
        old, person = self._active.take()
        self._last_membership += 1
        self._active.add((self._last_membership, person))
        conn.execute("update TblMembership set MembershipId = ? where MembershipId = ?", (self._last_membership, old))

    def _blink(self, conn: Connection) -> None:
        self._join(conn)
        membership, _ = self._active.take_last()
        conn.execute("delete from TblMembership where MembershipId = ?", (membership,))

    def _roll_back(self, conn: Connection) -> None:
        chosen = [(membership,) for membership, _ in self._active.some(50)]
        conn.executemany("update TblMembership set IsActive = 0 where MembershipId = ?", chosen)
        conn.rollback()

    def _rename_occupation(self, conn: Connection) -> None:
        name = self._rng.choice(("NELAYAN", "NELAYAN/PERIKANAN", "NELAYAN KECIL"))
        conn.execute("update RefPekerjaan set Nama = ? where Kd = 'N1'", (name,))
