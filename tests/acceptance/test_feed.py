"""The change feed over a first copy: a consumer that polls all the while ends with every row."""

from __future__ import annotations

from collections.abc import Callable

from workbench import Workbench

Make = Callable[..., Workbench]

FEED = """
select cursor, entity, source_key from sipol.perubahan(%s, 1000)
"""
LIVE = "select count(*) from sipol.anggota where source_key = any(%s)"


def test_a_key_the_feed_names_can_be_read_when_it_is_named(make_workbench: Make) -> None:
    """A first copy's rows become visible at its end; the feed must not name them before."""
    bench = make_workbench("uji", people=2_000, limits={"copy_rows": 100})
    bench.start()
    cursor: str | None = None
    named: set[str] = set()

    def poll() -> bool:
        nonlocal cursor
        for place, entity, key in bench.query(FEED, (cursor,)):
            cursor = place
            if entity == "anggota":
                named.add(key)
        visible = bench.query(LIVE, (list(named),))[0][0]
        assert visible == len(named)
        return len(named) == 2_000

    bench.wait_until(poll, "the feed has named every member")
