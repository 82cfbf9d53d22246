"""The way of deploy/BACKUP.md: a backup under load, a restore, and a party that is copied again because it must be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from workbench import Workbench

from connector.embedded import Server
from tests.conftest import drop_database

Make = Callable[..., Workbench]
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def script(name: str, server: Server, *arguments: str, database: str = "postgres") -> str:
    where = conninfo_to_dict(server.dsn(database))
    environment = {
        **os.environ, "PATH": f"{server.binaries}:{os.environ['PATH']}", "PGHOST": str(where["host"]),
        "PGUSER": str(where["user"]), "PGDATABASE": database,
    }  # fmt: skip
    done = subprocess.run(
        [str(DEPLOY / name), *arguments], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_restored_staging_says_what_it_misses_and_is_whole_again_after_a_resync(
    make_workbench: Make, staging_server: Server, tmp_path: Path
) -> None:
    bench = make_workbench("uji", people=80)
    bench.start()
    bench.await_state("uji", "streaming")
    bench.check("uji")
    taken = str(conninfo_to_dict(bench.staging_dsn)["dbname"])
    file = script("backup.sh", staging_server, str(tmp_path), database=taken)
    assert Path(file).stat().st_mode & 0o077 == 0
    # What happens after the backup, and is confirmed to the party.
    bench.parties["uji"].run("delete from public.orang where orang_id <= 3")
    bench.check("uji")
    after = len(bench.entries("uji"))
    bench.daemons[-1].stop()
    new = f"{taken}_restored"
    script("restore.sh", staging_server, file, new)
    try:
        bench.use_staging(staging_server.dsn(new))
        assert bench.connector("audit", "verify").returncode == 0
        assert len(bench.entries("uji")) < after
        bench.start()
        bench.await_worker("uji", "needs_resync")
        bench.ask("resync", "uji")
        bench.await_state("uji", "streaming")
        bench.check("uji")
    finally:
        bench.close()
        drop_database(staging_server, new)


def test_a_damaged_backup_is_refused_before_anything_is_made(
    staging_server: Server, staging_dsn: str, tmp_path: Path
) -> None:
    taken = str(conninfo_to_dict(staging_dsn)["dbname"])
    file = Path(script("backup.sh", staging_server, str(tmp_path), database=taken))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    environment = {**os.environ, "PATH": f"{staging_server.binaries}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(DEPLOY / "restore.sh"), str(file), "never_made"], capture_output=True, text=True, env=environment
    )
    assert done.returncode != 0
    with psycopg.connect(staging_server.dsn()) as conn:
        query = sql.SQL("select count(*) from pg_database where datname = 'never_made'")
        assert conn.execute(query).fetchall() == [(0,)]
