"""Paths by definition: what each form of a view gives, in each dialect, and that no table is ever left out."""

from __future__ import annotations

import pytest

from connector.capture.lineage.catalogue import BaseTable, Catalogue, Column, ViewText
from connector.capture.lineage.paths import Derived, derive
from connector.capture.signals import Route, Touched, touched


def table(*identity: str, **columns: str) -> BaseTable:
    return BaseTable({name: Column(kind) for name, kind in columns.items()}, identity)


TABLES = {
    ("p", "orang"): table("id", id="int", nama="text", kerja_id="int", status="text", kode="character(5)"),
    ("p", "kerja"): table("kerja_id", kerja_id="int", nama="text", aktif="bool", nomor="text"),
    ("p", "papan"): table("papan_id", "orang_id", papan_id="int", orang_id="int", jabatan="text"),
    ("p", "wilayah"): table("kode", kode="character(5)", nama="text"),
    ("p", "gelar"): table("gelar_id", gelar_id="int", orang_id="int", gelar="text"),
    ("p", "ringkas"): BaseTable({"id": Column("int")}, (), "a materialized view: a refresh is not in the log"),
}
VIEW = ("e", "v")


def derived(text: str, *key: str, dialect: str = "postgres", **others: str) -> Derived:
    views = {("e", name): ViewText(other) for name, other in others.items()}
    return derive(Catalogue(dialect, TABLES, {VIEW: ViewText(text), **views}), VIEW, key or ("id",))


def said(found: Derived) -> str:
    """`orang id=id; kerja ?kerja_id=kerja_id; papan *`: key, match, whole."""
    marks = {"key": "", "match": "?", "whole": "*"}
    return "; ".join(
        f"{path.table[1]} {marks[path.kind]}" + ",".join(f"{shown}={column}" for shown, column in path.pairs)
        + ("!" if path.stays else "")
        for path in found.paths
    )  # fmt: skip


FORMS = {
    "a renamed column": ("select id as nomor from p.orang where status = 'aktif'::text", "nomor", "orang nomor=id"),
    "a left join stays": (
        "select o.id, o.kerja_id, k.nama from p.orang o left join p.kerja k on k.kerja_id = o.kerja_id and k.aktif",
        "id", "orang id=id; kerja ?kerja_id=kerja_id!",
    ),
    "the other side's column does not tell a row of NULLs": (
        "select o.id, k.kerja_id from p.orang o left join p.kerja k on k.kerja_id = o.kerja_id",
        "id", "orang id=id; kerja *",
    ),
    "what a left join goes by decides no rows": (
        ("select p.papan_id, p.orang_id, o.id, k.nama from p.papan p join p.orang o on o.id = p.orang_id"
        " left join p.kerja k using (kerja_id)"),
        "papan_id,orang_id", "papan papan_id=papan_id,orang_id=orang_id; orang ?orang_id=id; kerja *",
    ),
    "but a condition on what it found does": (
        ("select p.papan_id, p.orang_id, k.nama from p.papan p join p.orang o on o.id = p.orang_id"
        " left join p.kerja k using (kerja_id) where k.aktif is not true"),
        "papan_id,orang_id", "papan papan_id=papan_id,orang_id=orang_id; orang *; kerja *",
    ),
    "an inner join may take rows away": (
        "select o.id, k.kerja_id from p.orang o join p.kerja k using (kerja_id)",
        "id", "orang id=id; kerja ?kerja_id=kerja_id",
    ),
    "a right join is a left join": (
        "select o.id, o.kerja_id from p.kerja k right join p.orang o using (kerja_id)",
        "id", "orang id=id; kerja ?kerja_id=kerja_id!",
    ),
    "a condition on the joined table": (
        "select o.id, o.kerja_id from p.orang o join p.kerja k using (kerja_id) where k.aktif",
        "id", "orang id=id; kerja *",
    ),
    "a look-up that is not shown": (
        "select o.id, k.nama from p.orang o join p.kerja k using (kerja_id)", "id", "orang id=id; kerja *"
    ),
    "a key of two tables' columns": (
        "select p.papan_id, o.id from p.papan p join p.orang o on o.id = p.orang_id",
        "papan_id,id", "papan papan_id=papan_id,id=orang_id; orang ?id=id",
    ),
    "EXISTS, NOT EXISTS and IN": (
        ("select o.id from p.orang o where exists (select 1 from p.papan q where q.orang_id = o.id)"
        " and not exists (select from p.gelar g where g.orang_id = o.id) and o.id in (select gelar_id from p.gelar)"),
        "id", "orang id=id; papan id=orang_id; gelar id=orang_id; gelar id=gelar_id",
    ),
    "NOT IN": ("select id from p.orang where id not in (select gelar_id from p.gelar)", "id", "orang id=id; gelar *"),
    "a scalar subquery": (
        "select o.id, o.kerja_id, (select max(k.nama) from p.kerja k where k.kerja_id = o.kerja_id) from p.orang o",
        "id", "orang id=id; kerja ?kerja_id=kerja_id!",
    ),
    "groups": (
        "select orang_id as o, count(*) from p.papan group by orang_id having count(*) > 1", "o", "papan o=orang_id"
    ),
    "groups by a number": ("select orang_id as id, max(jabatan) from p.papan group by 1", "id", "papan id=orang_id"),
    "an aggregate of everything": ("select max(id) as id from p.orang", "id", "orang *"),
    "UNION ALL": (
        "select id from p.orang union all select papan_id from p.papan", "id", "orang id=id; papan id=papan_id"
    ),
    "WITH": (
        ("with q as (select * from p.orang), r(a, b) as (select id, kerja_id from q) select a as id, b from r"
        " left join p.kerja k on k.kerja_id = b"),
        "id", "orang id=id; kerja ?b=kerja_id!",
    ),
    "LATERAL": (
        ("select o.id, g.gelar from p.orang o left join lateral (select gelar from p.gelar g where g.orang_id = o.id"
        " order by 1 limit 1) g on true"),
        "id", "orang id=id; gelar id=orang_id",
    ),
    "a recursive query": (
        ("with recursive q as (select id from p.orang union all select orang_id from p.papan join q on q.id = papan_id)"
        " select id from q"),
        "id", "orang *; papan *",
    ),
    "DISTINCT ON": ("select distinct on (orang_id) orang_id as id, gelar from p.gelar", "id", "gelar id=orang_id"),
    "a limit": ("select id from p.orang limit 10", "id", "orang *"),
    "a window": ("select id, row_number() over (order by nama) from p.orang", "id", "orang *"),
    "a full join": ("select o.id from p.orang o full join p.gelar g on g.orang_id = o.id", "id", "orang *; gelar *"),
    "a table sample": ("select id from p.orang tablesample system (5)", "id", "orang *"),
    "equal values of two texts": (
        "select o.id, o.kode from p.orang o left join p.wilayah w on w.kode = o.kode",
        "id", "orang id=id; wilayah ?kode=kode!",
    ),
    "equal values of two texts are no key": (
        "select o.kode from p.orang o join p.wilayah w on w.kode = o.kode",
        "kode", "orang kode=kode; wilayah ?kode=kode",
    ),
    "values of two types": (
        "select o.id, o.kerja_id from p.orang o left join p.kerja k on k.nomor = o.kerja_id::text",
        "id", "orang id=id; kerja ?kerja_id=nomor!",
    ),
    "an anti-join": (
        "select o.id, o.kerja_id from p.orang o left join p.kerja k using (kerja_id) where k.kerja_id is null",
        "id", "orang id=id; kerja *",
    ),
    "a key that a row of NULLs changes": (
        "select o.id, o.kerja_id, coalesce(k.kerja_id, 0) as k from p.orang o left join p.kerja k using (kerja_id)",
        "id,k", "orang *; kerja *",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_view_gives_its_paths(form: str) -> None:
    text, key, paths = FORMS[form]
    assert said(derived(text, *key.split(","))) == paths


def test_a_view_over_views_is_followed_to_the_tables() -> None:
    found = derived(
        "select w.nomor as id, w.kerja_id from e.w left join e.k on k.kerja_id = w.kerja_id", "id",
        w="select o.id as nomor, o.kerja_id from p.orang o", k="select * from p.kerja where aktif",
    )  # fmt: skip
    assert said(found) == "orang id=id; kerja ?kerja_id=kerja_id!"


MARIA = (
    "select `p`.`orang`.`id` AS `id`,`p`.`orang`.`kerja_id` AS `kerja_id` from ((`p`.`orang` left join `p`.`kerja` `k`"
    " on(`k`.`kerja_id` = `p`.`orang`.`kerja_id`)) join `p`.`gelar` on(`p`.`gelar`.`orang_id` = `p`.`orang`.`id`))"
)
DIALECTS = {
    "mysql": MARIA,
    "sqlite": 'create view "v"(ID, kerja_id) as select o.id, o.kerja_id from orang o left join Kerja k'
    " using (kerja_id), gelar g where g.orang_id = o.id",
    "tsql": "create view e.v as select o.[id], o.kerja_id from p.orang o left outer join p.kerja as k"
    " on k.kerja_id = o.kerja_id cross apply (select top 1 g.gelar from p.gelar g where g.orang_id = o.id) g",
    "postgres": "select o.id, o.kerja_id from p.orang o left join p.kerja k using (kerja_id)"
    " join p.gelar g on g.orang_id = o.id",
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect_is_read(dialect: str) -> None:
    views = {VIEW: ViewText(DIALECTS[dialect])}
    found = derive(Catalogue(dialect, TABLES, views, schema="p" if dialect == "sqlite" else ""), VIEW, ("id",))
    assert said(found) == "orang id=id; kerja ?kerja_id=kerja_id!; gelar id=orang_id"


@pytest.mark.parametrize("text", [")( p.orang", "", "select * from p.orang match_recognize (x)"])
def test_a_text_that_cannot_be_read_has_its_tables_looked_at_whole(text: str) -> None:
    views = {VIEW: ViewText(text, reads=(("p", "orang"), ("p", "kerja")))}
    assert said(derive(Catalogue("postgres", TABLES, views), VIEW, ("id",))) == "orang *; kerja *"


def test_a_text_that_cannot_be_read_and_that_no_catalogue_explains_is_told() -> None:
    found = derived(")( p.orang")
    assert said(found) == "orang *", "the word is a table's name"
    assert [remark.what for remark in found.remarks] == ["e.v"]
    assert derived("").paths == ()


def test_what_the_catalogue_knows_beyond_the_text_is_looked_at_whole() -> None:
    views = {VIEW: ViewText("select id from p.orang", reads=(("p", "orang"), ("p", "gelar")))}
    assert said(derive(Catalogue("postgres", TABLES, views), VIEW, ("id",))) == "orang id=id; gelar *"


def test_hidden_reads_are_told() -> None:
    views = {VIEW: ViewText("select id from p.ringkas", functions=("p.hitung",))}
    found = derive(Catalogue("postgres", TABLES, views), VIEW, ("id",))
    assert [remark.what for remark in found.remarks] == ["p.hitung", "p.ringkas"]
    found = derived("select `p`.`hitung`(`o`.`id`) AS `id` from `p`.`orang` `o`", dialect="mysql")
    assert [remark.what for remark in found.remarks] == ["p.hitung"]


def test_tables_whose_columns_nobody_shows_keep_the_paths_that_need_none() -> None:
    catalogue = Catalogue("mysql", {}, {VIEW: ViewText(MARIA)})
    found = derive(catalogue, VIEW, ("id",))
    assert said(found) == "orang id=id; kerja *; gelar *", "of equality without types nothing is known"
    assert {remark.what for remark in found.remarks} == {"p.orang", "p.kerja", "p.gelar"}


def test_a_column_that_the_log_does_not_carry_is_no_path() -> None:
    tables = {
        **TABLES,
        ("p", "gelar"): BaseTable({"orang_id": Column("int", carried=False), "id": Column("int")}, ("id",)),
    }
    views = {
        VIEW: ViewText("select o.id from p.orang o where exists (select 1 from p.gelar g where g.orang_id = o.id)")
    }
    assert said(derive(Catalogue("postgres", tables, views), VIEW, ("id",))) == "orang id=id; gelar *"


def test_views_that_double_at_each_step_end() -> None:
    views = {
        ("e", f"v{n}"): ViewText(f"select * from e.v{n - 1} union all select * from e.v{n - 1}") for n in range(1, 40)
    }
    views[VIEW] = ViewText("select id from e.v39")
    views["e", "v0"] = ViewText("select id from p.orang")
    assert said(derive(Catalogue("postgres", TABLES, views), VIEW, ("id",))) == "orang *"


def test_views_that_read_each_other_end() -> None:
    found = derived("select id from e.w union all select id from p.orang", w="select id from e.v")
    assert "orang" in said(found)


def test_a_changed_row_touches_by_its_values_before_and_after() -> None:
    key, match = Route("e", key=(("id", "n"),)), Route("e", match=(("k", "n"),))
    stays = Route("e", match=(("k", "n"),), stays=True)
    old, new = {"n": "1", "x": "a"}, {"n": "2", "x": "a"}
    assert touched(key, old, new) == Touched(keys=frozenset({("1",), ("2",)}))
    assert touched(match, None, new) == Touched(values=frozenset({("2",)}))
    assert touched(match, old, {**old, "x": "b"}) == Touched(values=frozenset({("1",)}))
    assert touched(match, old, new).whole
    assert touched(match, old, None).whole
    assert not touched(stays, old, None).whole
    assert touched(key, {"n": None}, None) == touched(match, {"n": None}, None) == Touched()
    assert touched(Route("e"), None, new).whole
