"""What mapping a batch costs: microseconds of the staging server per row, for alfa's codes and beta's names.

`python tests/bench/mapping.py [--rows N]`. One table of rows, one SELECT, no write. Next to it the same rows through a
plain SELECT of a few functions, so that figures of two machines can be compared.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from connector.embedded import Server, wheel_binaries
from connector.mapping.document import load
from connector.mapping.program import Program, ProgramOptions, compile_entity
from connector.resources import schema_path
from connector.staging import migrate, session

ROWS = 200_000
SETTINGS = {"shared_buffers": "512MB", "temp_buffers": "256MB", "fsync": "off"}
ROUNDS = 5
# As many villages as the demo's parties have members in.
VILLAGES = 11_000

PEOPLE = f"""
create table public.orang as
with v as (select row_number() over (order by md5(d.kode)) as n, d.kode_polos,
                  d.nama as kel, c.nama as kec, k.nama as kab, p.nama as prov
             from staging.ref_wilayah d join staging.ref_wilayah c on c.kode = d.induk
             join staging.ref_wilayah k on k.kode = c.induk join staging.ref_wilayah p on p.kode = k.induk
            where d.tingkat = 4),
     g as (select g, 1 + g * 7919 % {VILLAGES} as place, date '1950-01-01' + g * 31 % 20000 as born, g % 3 = 0 as woman
             from generate_series(1, %(rows)s::int) g)
select g, born, woman, v.*, left(kode_polos, 6) || lpad((extract(day from born)::int + 40 * woman::int)::text, 2, '0')
       || to_char(born, 'MMYY') || lpad((1 + g % 9999)::text, 4, '0') as nik
  from g join v on v.n = g.place
""".replace(" % ", " %% ")

# By view column of the mapping; what is not named is NULL.
CELLS = {
    "alfa": {
        "kader_id": "gen_random_uuid()::text",
        "nik": "substr(nik,1,2)||'.'||substr(nik,3,2)||'.'||substr(nik,5,2)||'-'||substr(nik,7,6)||'-'||substr(nik,13)",
        "no_kta": "left(kode_polos, 4) || '.' || lpad(g::text, 6, '0')",
        "nama_lengkap": "case when g % 7 = 0 then 'Hj. ' else '' end || 'SITI RAHMA WULANDARI'",
        "jk": "case when woman then 'P' else 'L' end",
        "tmp_lahir": "kab",
        "tgl_lahir": "born::text",
        "kawin": "(1 + g % 4)::text",
        "nama_kerja": "(array['PETANI/PEKEBUN','WIRASWASTA','KARYAWAN SWASTA','PEDAGANG','GURU'])[1 + g % 5]",
        "kerja_id": "(8 + g % 77)::text",
        "alamat": "'Jl. Merdeka Raya No. ' || g || ' Blok C'",
        "rt": "(1 + g % 15)::text",
        "rw": "(1 + g % 12)::text",
        "kel_kode": "kode_polos",
    },
    "beta": {
        "id": "g::text",
        "id_number": "nik",
        "card_no": "g::text",
        "first_name": "'BUDI'",
        "last_name": "case when g % 4 > 0 then 'SANTOSO' end",
        "gender": "case when woman then 'female' else 'male' end",
        "birth": "'Surabaya, ' || to_char(born, 'DD/MM/YYYY')",
        "marital": "(array['single','married','widowed','divorced','Kawin'])[1 + g % 5]",
        "occupation": "(array['petani','wiraswasta/pedagang','guru','TNI (purn)','sopir'])[1 + g % 5]",
        "address": "'Jl. Merdeka Raya No. ' || g",
        "village": "kel",
        "district": "kec",
        "city": "case g % 3 when 0 then kab when 1 then replace(kab, 'Kabupaten ', 'Kab. ') else upper(kab) end",
        "province": "prov",
    },
}
YARDSTICK = "select md5(i0), md5(i1), md5(i2), md5(i3), replace(i1, '-', ''), i3 ~ '[0-9]' from pg_temp.inbox"


@contextmanager
def staging(rows: int) -> Iterator[psycopg.Connection]:
    folder = Path(tempfile.mkdtemp(prefix="sipol-bench-"))
    folder.chmod(0o755)
    server = Server.start(folder / "staging", wheel_binaries(16), SETTINGS)
    try:
        with session.connect(server.dsn(), "bench") as conn:
            migrate.apply(conn)
            conn.execute("set max_parallel_workers_per_gather = 0")
            conn.execute(PEOPLE.encode(), {"rows": rows})
            conn.execute("vacuum analyze")
            yield conn
    finally:
        server.destroy()
        shutil.rmtree(folder, ignore_errors=True)


def fill(conn: psycopg.Connection, party: str, program: Program) -> None:
    cells = [CELLS[party].get(column, "null") for column in program.inputs]
    columns = ", ".join(f"({cell})::text as i{place}" for place, cell in enumerate(cells))
    conn.execute("drop table if exists pg_temp.inbox")
    conn.execute(f"create temp table inbox as select {columns}, null::text as edge from public.orang".encode())


def cost(conn: psycopg.Connection, query: str, params: dict[str, object], rows: int) -> float:
    """The best of a few rounds, in microseconds of execution per row."""
    times = []
    for _ in range(ROUNDS):
        row = conn.execute(f"explain (analyze, timing off, format json) {query}".encode(), params).fetchone()
        assert row is not None
        times.append(float(row[0][0]["Execution Time"]))
    return min(times) * 1000 / rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    rows = parser.parse_known_args()[0].rows
    with staging(rows) as conn:
        for party in CELLS:
            program = compile_entity(load(schema_path("parties", f"{party}.yaml")), "anggota", ProgramOptions(1))
            fill(conn, party, program)
            mapped = cost(conn, program.select, program.params, rows)
            plain = cost(conn, YARDSTICK, {}, rows)
            print(f"{party}: {mapped:.2f} us/row mapped, {plain:.2f} us/row yardstick, {len(program.columns)} columns")


if __name__ == "__main__":
    main()
