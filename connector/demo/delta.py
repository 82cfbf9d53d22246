"""Partai Delta: a small web application's MariaDB, followed by its binary log; members and board members.

See `parties/delta.sql` for its tables. Shares that no source gives are ours and named below.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, TypeAlias

import pymysql

from connector.demo.party import Keys, Move
from connector.demo.people import People, Person, broken_niks
from connector.demo.territory import Territory

# The driver's class takes no parameter when it runs.
Connection: TypeAlias = "pymysql.Connection[Any]"

BROKEN_NIK_SHARE = 312 / 50_000
LEFT_SHARE = 0.06
MISSING_SHARE = 0.002
JOBS = frozenset({1, 2, 3, 5, 6, 7, 9, 11, 15, 19, 65, 84, 88})
RARE_JOB = 65
BOARD_SIZE = 5
POSITIONS = ("KETUA", "SEKRETARIS", "BENDAHARA", "WAKIL KETUA", "ANGGOTA")
INSERT = f"insert into tb_anggota values ({', '.join(['%s'] * 15)})"
SEAT = "insert into tb_pengurus values (%s, %s, %s) on duplicate key update jabatan = values(jabatan)"


class Delta:
    """The party's own application: it knows its tables and the keys in them."""

    name = "delta"

    def __init__(self, rng: random.Random, territory: Territory, people: People, today: date) -> None:
        del today  # nothing here has an age
        self._rng = rng
        self._people = people
        self._boards = len(territory.regencies)
        self._active = Keys(rng)
        self._left = Keys(rng)
        self._last = 0

    # --- filling ---

    def fill(self, conn: Connection, persons: Sequence[Person]) -> None:
        rows = [self._row(person, self._rng.random() >= LEFT_SHARE) for person in persons]
        seats = [
            (board, key, POSITIONS[place])
            for board in range(1, self._boards + 1)
            for place, key in enumerate(self._active.some(BOARD_SIZE))
        ]
        with conn.cursor() as cursor:
            cursor.executemany(INSERT, rows)
            cursor.executemany(SEAT, seats)

    def _row(self, person: Person, active: bool = True) -> tuple[object, ...]:
        rng = self._rng
        self._last += 1
        (self._active if active else self._left).add(self._last)
        nik = rng.choice(tuple(broken_niks(person.nik))) if rng.random() < BROKEN_NIK_SHARE else person.nik
        return (
            self._last, nik, f"D{self._last:07}", person.name, person.sex, person.birthplace,
            None if rng.random() < MISSING_SHARE else person.birth, person.job if person.job in JOBS else 88,
            person.marital, person.street, person.rt, person.rw, person.village.plain, int(active), _now(),
        )  # fmt: skip

    # --- living ---

    def moves(self) -> tuple[Move[Connection], ...]:
        return (
            Move("member_joined", "anggota", 18, self._join),
            Move("address_changed", "anggota", 26, self._change_address),
            Move("name_corrected", "anggota", 8, self._correct_name),
            Move("nik_broken", "anggota", 2, self._break_nik),
            Move("nothing_visible_changed", "anggota", 4, self._touch),
            Move("member_left", "anggota", 8, self._leave),
            Move("member_came_back", "anggota", 5, self._come_back),
            Move("member_deleted", "anggota", 4, self._delete),
            Move("key_changed", "anggota", 2, self._change_key),
            Move("joined_and_deleted_at_once", "anggota", 1, self._blink),
            Move("transaction_rolled_back", "", 1, self._roll_back),
            Move("officer_seated", "pengurus", 4, self._seat),
            Move("officer_dismissed", "pengurus", 2, self._dismiss),
            Move("occupation_renamed", "anggota", 0.3, self._rename_occupation),
        )

    def flood(self, conn: Connection, rows: int) -> int:
        with conn.cursor() as cursor:
            # A list of values is written out by the driver; `%%` is its per cent sign.
            return int(
                cursor.execute(
                    "update tb_anggota set rw = rw %% 15 + 1 where id_anggota in %s", (self._active.some(rows),)
                )
            )

    def _join(self, conn: Connection) -> None:
        _run(conn, INSERT, self._row(self._people.fresh()))

    def _change_address(self, conn: Connection) -> None:
        person = self._people.fresh()
        _run(
            conn, "update tb_anggota set alamat = %s, rt = %s, rw = %s, kel_kode = %s where id_anggota = %s",
            (person.street, person.rt, person.rw, person.village.plain, self._active.draw()),
        )  # fmt: skip

    def _correct_name(self, conn: Connection) -> None:
        _run(conn, "update tb_anggota set nama = %s where id_anggota = %s",
             (self._people.fresh().name, self._active.draw()))  # fmt: skip

    def _break_nik(self, conn: Connection) -> None:
        broken = self._rng.choice(tuple(broken_niks(self._people.fresh().nik)))
        _run(conn, "update tb_anggota set no_ktp = %s where id_anggota = %s", (broken, self._active.draw()))

    def _touch(self, conn: Connection) -> None:
        _run(conn, "update tb_anggota set diubah = %s where id_anggota = %s", (_now(), self._active.draw()))

    def _leave(self, conn: Connection) -> None:
        key = self._active.take()
        self._left.add(key)
        _run(conn, "update tb_anggota set aktif = 0 where id_anggota = %s", (key,))

    def _come_back(self, conn: Connection) -> None:
        if not len(self._left):
            return
        key = self._left.take()
        self._active.add(key)
        _run(conn, "update tb_anggota set aktif = 1 where id_anggota = %s", (key,))

    def _delete(self, conn: Connection) -> None:
        key = self._active.take()
        _run(conn, "delete from tb_pengurus where id_anggota = %s", (key,))
        _run(conn, "delete from tb_anggota where id_anggota = %s", (key,))

    def _change_key(self, conn: Connection) -> None:
        old = self._active.take()
        self._last += 1
        self._active.add(self._last)
        _run(conn, "update tb_anggota set id_anggota = %s where id_anggota = %s", (self._last, old))
        _run(conn, "update tb_pengurus set id_anggota = %s where id_anggota = %s", (self._last, old))

    def _blink(self, conn: Connection) -> None:
        self._join(conn)
        _run(conn, "delete from tb_anggota where id_anggota = %s", (self._active.take_last(),))

    def _roll_back(self, conn: Connection) -> None:
        _run(conn, "update tb_anggota set aktif = 0 where id_anggota in %s", (self._active.some(50),))
        conn.rollback()

    def _seat(self, conn: Connection) -> None:
        _run(conn, SEAT, (self._rng.randint(1, self._boards), self._active.draw(), self._rng.choice(POSITIONS)))

    def _dismiss(self, conn: Connection) -> None:
        board = self._rng.randint(1, self._boards)
        _run(conn, "delete from tb_pengurus where id_papan = %s order by id_anggota limit 1", (board,))

    def _rename_occupation(self, conn: Connection) -> None:
        name = self._rng.choice(("DOSEN", "DOSEN/GURU BESAR", "PENGAJAR"))
        _run(conn, "update tb_pekerjaan set nama = %s where kd_kerja = %s", (name, RARE_JOB))


def _run(conn: Connection, statement: str, values: Sequence[object]) -> None:
    with conn.cursor() as cursor:
        cursor.execute(statement, values)


def _now() -> datetime:
    """What the application writes: a time of the server's zone-less kind."""
    return datetime.now(UTC).replace(tzinfo=None)
