"""An auditor's questions about a party that was followed, changed, paused and held: one command each."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from workbench import Workbench

from connector import cli
from connector.ops.questions import _outages
from tests.fixtures.evidence import ORIGIN, key_file

Make = Callable[..., Workbench]
NIK = "3273011301900041"


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """A verb, run in this process."""

    def told(bench: Workbench, *arguments: str, code: int = 0) -> Any:
        capsys.readouterr()
        ended = cli.run(["--config", str(bench.config_path), "audit", *arguments, "--json"])
        out, err = capsys.readouterr()
        assert ended == code, out + err
        assert NIK not in out + err
        return json.loads(out)

    return told


def drained(bench: Workbench) -> None:
    done = bench.connector("run", "--once")
    assert done.returncode == 0, done.stderr


def test_every_question_has_an_answer(make_workbench: Make, told: Callable[..., Any]) -> None:
    bench = make_workbench("uji", people=60)
    key_file(bench.folder / "audit.key")
    line = f"audit: {{key: '${{file:audit.key}}', origin: {ORIGIN}, anchor: anchor/last}}\n"
    bench.config_path.write_text(line + bench.config_path.read_text(encoding="utf-8"), encoding="utf-8")
    party = bench.parties["uji"]
    drained(bench)
    (old,) = (one[0] for one in bench.query("select max(size) from audit.checkpoint"))
    party.run("update public.orang set nama = 'BARU' where orang_id = 40")
    drained(bench)
    party.run("update public.orang set nama = 'LAGI' where orang_id = 40")
    party.run("update public.orang set status = 'mundur' where orang_id = 41")
    bench.connector("pause", "uji/pengurus")
    drained(bench)
    bench.connector("resume", "uji/pengurus")
    drained(bench)

    (row,) = told(bench, "history", "uji/anggota/40")["result"]["rows"]
    assert (row["state"], row["whole"], len(row["steps"])) == ("staged", True, 3)
    assert [step["gone"] for step in row["steps"]] == [False, False, False]
    assert len({step["digest"] for step in row["steps"]}) == 3
    (row,) = told(bench, "history", "uji/anggota/41")["result"]["rows"]
    assert (row["state"], [step["gone"] for step in row["steps"]]) == ("deleted", [True, False])
    (row,) = told(bench, "history", "uji/anggota/9999")["result"]["rows"]
    assert (row["state"], row["steps"]) == ("none", [])
    rows = told(bench, "history", "--nik", NIK)["result"]["rows"]
    assert {(one["entity"], one["key"]) for one in rows} == {("anggota", "40")}

    found = told(bench, "sent", "uji", "--from", "2020-01-01")["result"]
    counted = {one["entity"]: (one["inserted"], one["updated"], one["deleted"]) for one in found["entities"]}
    assert counted == {"anggota": (60, 2, 1), "pengurus": (6, 0, 0)}
    assert told(bench, "sent", "uji", "--to", "2020-01-01")["result"]["entities"] == []
    assert told(bench, "mapping", "uji", "1", "--keys", "1000")["result"]["changed"] == 69
    assert ["anggota", "41", "gone"] in told(bench, "mapping", "uji", "1", "--keys", "1000")["result"]["rows"]

    acts = told(bench, "acts")["result"]["acts"]
    assert [(one["act"], one["entity"]) for one in acts] == [("pause", "pengurus"), ("resume", "pengurus")]
    assert all(one["asked_by"] for one in acts)
    assert len(told(bench, "acts", "--all")["result"]["acts"]) > len(acts)
    (outage,) = told(bench, "outages")["result"]["outages"]
    assert (outage["entity"], outage["reason"], outage["until"] is not None) == ("pengurus", "pause", True)

    between = told(bench, "between", str(old), str(bench.query("select max(size) from audit.checkpoint")[0][0]))
    assert "nothing was removed" in between["summary"]
    assert between["result"]["signed"]
    note = bench.query("select note from audit.checkpoint order by size desc limit 1")[0][0]
    forged = bench.folder / "forged"
    forged.write_text(note.replace("\n", "\n", 1), encoding="utf-8")
    assert told(bench, "between", str(old), str(forged))["ok"]

    page, sheet = bench.folder / "acts.html", bench.folder / "acts.csv"
    told(bench, "acts", "--html", str(page), "--csv", str(sheet))
    assert "<svg" in page.read_text(encoding="utf-8")
    assert "pause" in sheet.read_text(encoding="utf-8-sig")


def test_what_began_is_paired_with_what_ended_it() -> None:
    entries: list[tuple[str, int, dict[str, Any]]] = [
        ("alfa", 1, {"act": "held", "entity": "kantor", "reason": "view_missing", "at": "1"}),
        ("alfa", 2, {"act": "position_lost", "reason": "slot_lost", "at": "2"}),
        ("beta", 1, {"act": "released", "entity": "kantor", "at": "3"}),
        ("alfa", 3, {"act": "released", "entity": "kantor", "at": "4"}),
        ("alfa", 4, {"kind": "outage", "act": "source_lost", "at": "6", "outage_from": "5", "outage_to": "6"}),
        ("alfa", 5, {"act": "history_begun", "at": "7"}),
        ("beta", 2, {"act": "pause", "entity": "*", "at": "8"}),
    ]
    found = [(one.party, one.entity, one.since, one.until, one.reason) for one in _outages(iter(entries))]
    assert found == [
        ("alfa", "kantor", "1", "4", "view_missing"), ("alfa", "*", "5", "6", "source_lost"),
        ("alfa", "*", "2", "7", "slot_lost"), ("beta", "*", "8", None, "pause"),
    ]  # fmt: skip


def test_a_party_that_refuses_us_for_a_while_leaves_an_outage_in_the_log(
    make_workbench: Make, told: Callable[..., Any]
) -> None:
    bench = make_workbench("uji", people=10)
    daemon = bench.start()
    bench.await_caught_up("uji")
    party = bench.parties["uji"]
    party.run(f"alter role {party.reader} nologin")
    party.run("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", (party.reader,))

    def long_enough() -> bool:
        first = daemon.named("session_ended", "uji")[:1]
        return bool(first) and datetime.now(UTC) - datetime.fromisoformat(first[0]["timestamp"]) > timedelta(seconds=6)

    bench.wait_until(long_enough, "the party was away for six seconds")
    party.run(f"alter role {party.reader} login")
    bench.wait_until(lambda: bool(daemon.named("outage_recorded")), "the outage is recorded")
    (outage,) = told(bench, "outages")["result"]["outages"]
    assert (outage["party"], outage["entity"]) == ("uji", "*")
    assert outage["since"] < outage["until"]
    bench.check("uji")
