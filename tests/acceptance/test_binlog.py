"""A MariaDB party followed by its binary log: a daemon that is killed, a log that is purged, a key that cascades."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import EngineBench, mysql_party
from mariadb import MariaDb

CASCADE = """
create table papan (papan_id int primary key);
insert into papan select distinct papan_id from papan_orang;
alter table papan_orang add foreign key (papan_id) references papan (papan_id) on delete cascade;
"""


@pytest.fixture
def bench(tmp_path: Path, staging_dsn: str, mariadb: MariaDb, maria_database: str) -> Iterator[EngineBench]:
    party = mysql_party(lambda: mariadb.connect(maria_database), mariadb.url(maria_database), maria_database)
    party.source = {"capture": "stream", "diff_every_s": 600}
    party.install(120)
    made = EngineBench(tmp_path, staging_dsn, party)
    yield made
    made.close()


def test_a_killed_daemon_goes_on_by_gtid_and_a_purged_log_needs_a_resync(bench: EngineBench) -> None:
    daemon = bench.start()
    bench.await_equal()
    bench.party.run("update orang set nama = 'SEBELUM' where orang_id between 10 and 30")
    daemon.kill()
    bench.party.run(
        "update orang set nama = 'SELAMA' where orang_id between 20 and 40;\ndelete from orang where orang_id = 5"
    )
    daemon = bench.start()
    bench.await_equal()
    assert bench.acts("uji").count("history_begun") == 1
    assert bench.query("select position_text ~ '^0-1-[0-9]+.* at binlog' from connector.source_offset") == [(True,)]
    assert daemon.stop() == 0
    # Away for longer than the party keeps its log.
    bench.party.run("update orang set nama = 'TERHAPUS' where orang_id = 50;\nflush binary logs")
    bench.wait_until(lambda: purged(bench), "the log is purged: no dump of ours holds a file any more")
    bench.start()
    bench.await_worker("uji", "needs_resync")
    assert bench.worker("uji")["error"].startswith("the server's binary log does not lead on"), bench.worker("uji")
    assert len(bench.live()["anggota"]) == 119, "nothing is taken away while nobody knows"
    bench.ask("resync", "uji")
    bench.await_equal()
    assert bench.acts("uji").count("history_begun") == 2


def purged(bench: EngineBench) -> bool:
    """Purge all but the newest file; a file that a dump still reads stays."""
    files = [row[0] for row in bench.party.read("show binary logs")]
    bench.party.run(f"purge binary logs to '{files[-1]}'")
    return len(bench.party.read("show binary logs")) == 1


def test_what_a_foreign_key_deletes_is_in_no_log_and_found_by_the_compare(bench: EngineBench) -> None:
    bench.party.source = {"capture": "stream", "diff_every_s": 2}
    bench.write_config()
    bench.party.run(CASCADE)
    bench.start()
    bench.await_equal()
    assert bench.query("select count(*) > 0 from sipol.pengurus where source_key like '3|%%'") == [(True,)]
    bench.party.run("delete from papan where papan_id = 3")
    bench.await_equal()
    assert bench.query("select count(*) from sipol.pengurus where source_key like '3|%%'") == [(0,)]
