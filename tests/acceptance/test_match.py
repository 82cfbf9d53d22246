"""A party holds its receipt against its own views, with its mapping file and nothing of KPU's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from workbench import Workbench

import connector.audit.verifier as single_file
from connector.embedded import Server
from connector.ops import evidence
from tests.conftest import drop_database, new_database
from tests.fixtures.evidence import ORIGIN, key_file, signer

Make = Callable[..., Workbench]
VKEY = str(signer().verifier())


@pytest.fixture
def scratch(staging_server: Server, staging_template: str) -> Iterator[str]:
    """What `match` maps in: a server of its own would do too, and takes longer to make."""
    name = new_database(staging_server, "scratch", staging_template)
    yield staging_server.dsn(name)
    drop_database(staging_server, name)


@pytest.fixture
def bench(make_workbench: Make) -> Workbench:
    bench = make_workbench("uji", people=60)
    key_file(bench.folder / "audit.key")
    line = f"audit: {{key: '${{file:audit.key}}', origin: {ORIGIN}, anchor: anchor/last}}\n"
    bench.config_path.write_text(line + bench.config_path.read_text(encoding="utf-8"), encoding="utf-8")
    return bench


def drained(bench: Workbench) -> Path:
    """Everything is staged and signed; the party's receipt with its rows."""
    done = bench.connector("run", "--once")
    assert done.returncode == 0, done.stderr
    path = bench.folder / "receipt.json"
    told = bench.connector("audit", "receipt", "uji", "--rows", "--out", str(path), "--json")
    assert told.returncode == 0, told.stdout + told.stderr
    return path


def match(bench: Workbench, path: Path, *more: str) -> Any:
    """As the party runs it: in its own folder, without a configuration."""
    own = bench.folder / "party"
    own.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "connector", "audit", "match", str(path), "--log", VKEY,
        "--mapping", str(bench.folder / "uji.yaml"), "--dsn", bench.parties["uji"].dsn, "--json", *more,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=own)
    return json.loads(done.stdout)


def rows(told: Any, entity: str) -> dict[str, int]:
    """The counts that are not zero."""
    (found,) = (one["rows"] for one in told["result"]["entities"] if one["entity"] == entity)
    return {kind: count for kind, count in found.items() if count}


def test_a_party_finds_what_kpu_has_differently_lacks_or_kept(bench: Workbench, scratch: str) -> None:
    party = bench.parties["uji"]
    party.run("update public.orang set kel_kode = '99' where orang_id = 7")
    first = drained(bench)
    told = match(bench, first, "--scratch", scratch)
    assert told["ok"], told
    assert rows(told, "anggota") == {"same": 59, "refused": 1}
    assert rows(told, "pengurus") == {"same": 6}

    party.run("update public.orang set nama = 'SITI LAIN' where orang_id = 3")
    assert rows(match(bench, drained(bench), "--scratch", scratch), "anggota") == {"same": 59, "refused": 1}
    party.run("update public.orang set nama = 'SITI LAGI' where orang_id = 3")
    party.run("update public.orang set status = 'mundur' where orang_id = 5")
    party.run(
        "insert into public.orang select 1000, nik, no_kta, nama, jk, tgl_lahir, kerja_id, alamat, kel_kode, status"
        " from public.orang where orang_id = 9"
    )
    told = match(bench, bench.folder / "receipt.json", "--scratch", scratch)
    assert told["error"]["kind"] == "not_the_same"
    assert rows(told, "anggota") == {"same": 57, "refused": 1, "different": 1, "lacking": 1, "left": 1}
    (found,) = (one["keys"] for one in told["result"]["entities"] if one["entity"] == "anggota")
    assert found == [["3", "different"], ["1000", "lacking"], ["5", "left"]]
    # A receipt of before the first change says so too, and that nothing earlier is missing from it.
    assert told["result"]["whole"]


def test_a_server_of_its_own_does_for_scratch_and_changed_rows_are_refused(bench: Workbench) -> None:
    path = drained(bench)
    told = match(bench, path)
    assert told["ok"], told
    assert rows(told, "anggota") == {"same": 60}
    receipt = json.loads(path.read_text(encoding="utf-8"))
    page = receipt["rows"][0]["pages"][0]
    page["digests"] = "00" + page["digests"][2:] if page["digests"][:2] != "00" else "11" + page["digests"][2:]
    path.write_text(json.dumps(receipt), encoding="utf-8")
    told = match(bench, path)
    assert told["error"]["kind"] == "receipt_wrong"
    assert "not those that its entry commits to" in told["error"]["message"]
    alone = bench.folder / "verify.py"
    alone.write_text(Path(str(single_file.__file__)).read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(alone), "receipt", str(path), "--key", VKEY], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "commits to" in done.stdout) == (1, True)
    with bench.staging() as conn:
        whole = evidence.receipt(conn, "uji")
        spans = (evidence.Span(0, 2), evidence.Span(2, whole.last))
        parts = [evidence.receipt(conn, "uji", span) for span in spans]
    assert [(part.first, part.last) for part in parts] == [(1, 2), (3, whole.last)]
