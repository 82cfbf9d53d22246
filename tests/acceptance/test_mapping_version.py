"""A mapping that changes: the new version is noticed at the start, and rows move to it beside live ones."""

from __future__ import annotations

from collections.abc import Callable

from workbench import Workbench

Make = Callable[..., Workbench]


def test_a_new_mapping_version_reaches_every_row_while_the_old_rows_stay_readable(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    first = bench.start()
    bench.await_caught_up("uji")
    assert first.stop() == 0
    mapping = bench.folder / "uji.yaml"
    text = mapping.read_text(encoding="utf-8")
    mapping.write_text(
        text.replace("version: 1", "version: 2").replace("pekerjaan: nama_kerja", "pekerjaan: {const: BELUM BEKERJA}"),
        encoding="utf-8",
    )
    bench.start()
    rows = (
        "select count(*), count(*) filter (where mapping_version = '2') from staging.anggota where dihapus_pada is null"
    )
    seen: set[int] = set()

    def moved() -> bool:
        ((live, new),) = bench.query(rows)
        seen.add(live)
        return bool(new == 300)

    bench.wait_until(moved, "every row is of the new version")
    assert seen == {300}, "no row was away meanwhile"
    assert bench.query("select distinct pekerjaan from sipol.anggota") == [("BELUM BEKERJA",)]
    noticed = [entry for entry in bench.entries("uji") if entry.get("why") == "the mapping changed"]
    assert {(entry["entity"], entry["mapping_version"]) for entry in noticed} == {("anggota", "2"), ("pengurus", "2")}
    assert len({entry["mapping_digest"] for entry in noticed}) == 1
    bench.check("uji")
