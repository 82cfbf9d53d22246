"""`connector top`: who needs somebody stands first, and rates are those between two looks."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from connector.cli import top
from connector.ops.status import Attention, Entity
from tests.fixtures.commandline import CommandLine
from tests.unit.test_health import AT, party, status

ENTITY = Entity(
    "streaming", None, None, AT, 100, 0, 0, 10, 20, 0, 5, 0, 0, 3, 2, 0, None, None, AT, 1.0, None, "1"
)  # fmt: skip


def test_rates_are_those_between_two_looks() -> None:
    before = status(alfa=replace(party(), entities={"anggota": ENTITY}))
    later = replace(ENTITY, inserted=30, deleted=15)
    now = replace(status(alfa=replace(party(), entities={"anggota": later})), at=AT + timedelta(seconds=10))
    (line,) = top.lines(before, now)
    assert (line.rows_s, line.rows, line.refused, line.parked) == (3.0, 100, 3, 2)
    assert top.lines(None, now)[0].rows_s is None


def test_who_needs_somebody_stands_first_then_who_is_behind() -> None:
    found = status(alfa=party(), beta=party(lag_s=9), gamma=party())
    found = replace(found, attention=(Attention("gamma/anggota", "held", "mend it"),))
    assert [line.party for line in top.lines(None, found)] == ["gamma", "beta", "alfa"]


def test_the_screen_shows_each_party_on_one_line_and_what_to_do() -> None:
    found = status(**{f"partai{n}": replace(party(), entities={"anggota": ENTITY}) for n in range(40)})
    found = replace(found, attention=tuple(Attention(f"partai{n}", "held", "mend it") for n in range(15)))
    console = Console(width=160, no_color=True)
    with console.capture() as captured:
        console.print(top.screen(found, top.lines(None, found)))
    shown = captured.get().splitlines()
    assert sum(line.startswith("partai") and "->" not in line for line in shown) == 40
    assert shown[-1].strip() == "and 3 more: connector status"


def test_without_a_terminal_it_looks_once(tmp_path: Path, staging_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    connector = CommandLine(tmp_path, staging_dsn, capsys)
    with psycopg.connect(staging_dsn, autocommit=True) as conn:
        conn.execute("insert into connector.party (party, parpol_id) values ('alfa', 1)")
    told = connector("top")
    assert told.code == 0, told
    assert "alfa" in told.out
    assert "was never started" in told.out
    assert set(connector.json("top")["result"]) == {"alfa", "beta"}


def test_on_a_terminal_it_looks_again_until_it_is_interrupted(tmp_path: Path, staging_dsn: str) -> None:
    with psycopg.connect(staging_dsn, autocommit=True) as conn:
        conn.execute("insert into connector.party (party, parpol_id) values ('alfa', 1)")
    config = tmp_path / "connector.yaml"
    config.write_text(f"staging: {{dsn: '{staging_dsn}'}}\n", encoding="utf-8")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "connector", "--config", str(config), "top", "--every", "0.5"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ) as top:
        os.close(theirs)
        shown = b""
        while shown.count(b"alfa") < 2:
            shown += os.read(ours, 65_536)
        top.send_signal(signal.SIGINT)
        with suppress(OSError):
            while os.read(ours, 65_536):
                pass
        assert top.wait(20) == 0
    os.close(ours)
    assert b"\x1b[?1049h" in shown, "it has a screen of its own, and leaves the terminal as it was"
