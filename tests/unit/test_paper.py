"""What leaves for a spreadsheet or a printer is inert there."""

from __future__ import annotations

import csv
import io
import re

import pytest

from connector.ops.paper import Bars, Paper, Sheet, as_csv, as_html, harmless

HOSTILE = [
    "=cmd|' /C calc'!A0", " =1+1", "\u00a0=1+1", "a\n=1", "+62812345678", "-1+1", "@SUM(A1)", "\t=1", "\r=1",
    "\uff1d1+1", "\u200b=1", "\u202e=1", "|x", "%0A=1",
]  # fmt: skip


@pytest.mark.parametrize("cell", HOSTILE)
def test_no_cell_begins_a_formula(cell: str) -> None:
    ((shown,),) = list(csv.reader(io.StringIO(as_csv(Paper("t", "", (Sheet("", ("k",), ((cell,),)),))))))[2:]
    assert "\n" not in shown
    assert "\r" not in shown
    assert not re.match(r"[\s\u00a0\u200b\u202e]*[=+\-@|%\uff1d]", shown)


def test_a_nik_keeps_its_digits_and_a_number_stays_one() -> None:
    assert harmless("9171015505900001") == "'9171015505900001"
    assert harmless("007") == "'007"
    assert (harmless(-5), harmless(1_234), harmless("12"), harmless(None)) == ("-5", "1234", "12", "")


def test_a_page_loads_nothing_and_runs_nothing() -> None:
    hostile = "<script>alert(1)</script>\u202e\x1b[31m"
    sheet = Sheet(hostile, (hostile,), ((hostile, 3, None),))
    page = as_html(Paper(hostile, hostile, (sheet,), (Bars("b", ((hostile, 7),)),)))
    assert "<script" not in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)""", page)
    assert "<svg" in page
