"""An answer on paper or in a spreadsheet: a printable HTML page, or CSV that no spreadsheet runs.

The page has no script and loads nothing; charts are SVG in the page.
"""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from dataclasses import dataclass
from html import escape
from pathlib import Path

from connector.errors import EnvironmentMissing

BAR_HEIGHT, BAR_WIDTH, LABEL_WIDTH = 14, 480, 180
# A spreadsheet keeps fifteen digits of a number, and drops leading zeros.
DIGITS_MAX = 15

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
body{font:13px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#1a1a1a}
h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}
table{border-collapse:collapse;width:100%}tr{break-inside:avoid}
td,th{padding:.2rem .5rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top;overflow-wrap:anywhere}
td.n{text-align:right;font-variant-numeric:tabular-nums}
footer,p.fact{color:#444}svg text{font:10px system-ui,sans-serif}
@media print{body{margin:0;max-width:none}}
"""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table of an answer. Cells are texts, numbers, times or None."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


@dataclass(frozen=True, slots=True)
class Bars:
    """A chart: a bar for each label."""

    title: str
    bars: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Paper:
    """An answer: what was asked, what is said, tables and charts."""

    title: str
    said: str
    sheets: tuple[Sheet, ...]
    charts: tuple[Bars, ...] = ()
    note: str = ""


def harmless(cell: object) -> str:
    """A cell as a spreadsheet shows it: nothing that it would run, nor a number of which it would drop digits."""
    text = "" if cell is None else str(cell)
    # One line: a spreadsheet that splits at a line feed would begin a cell behind it.
    text = "".join(" " if letter in "\r\n\t\v\f\u0085\u2028\u2029" else letter for letter in text)
    if isinstance(cell, int | float):
        return text
    bare = "".join(letter for letter in text if unicodedata.category(letter) not in ("Cf", "Cc", "Zs", "Zl", "Zp"))
    first = unicodedata.normalize("NFKC", bare[:1])
    digits = bare.isdigit() and (len(bare) > DIGITS_MAX or (bare[0] == "0" and len(bare) > 1))
    return f"'{text}" if first in ("=", "+", "-", "@", "|", "%") or digits else text


def as_csv(paper: Paper) -> str:
    """All tables, one after the other; each with its title and its head."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    for sheet in paper.sheets:
        writer.writerow([harmless(sheet.title)])
        writer.writerow(map(harmless, sheet.columns))
        writer.writerows([harmless(cell) for cell in row] for row in sheet.rows)
    return out.getvalue()


def as_html(paper: Paper) -> str:
    """The page."""
    parts = [f"<h1>{_text(paper.title)}</h1>", f'<p class="fact">{_text(paper.said)}</p>']
    parts += [f"<h2>{_text(one.title)}</h2>{_chart(one)}" for one in paper.charts if one.bars]
    parts += [f"<h2>{_text(one.title)}</h2>{_table(one)}" for one in paper.sheets]
    if paper.note:
        parts.append(f"<footer><p>{_text(paper.note)}</p></footer>")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(paper.title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><style>{_STYLE}</style></head><body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _text(value: object) -> str:
    """Escaped; controls and letters that turn the reading order are shown as their numbers."""
    text = "-" if value is None else str(value)
    safe = "".join(f"[U+{ord(c):04X}]" if unicodedata.category(c) in ("Cc", "Cf") and c != "\n" else c for c in text)
    return escape(safe).replace("\n", "<br>")


def _table(sheet: Sheet) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in sheet.columns)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in sheet.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(cell: object) -> str:
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"<td class=n>{cell:,}</td>"
    return f"<td>{_text(cell)}</td>"


def _chart(chart: Bars) -> str:
    longest = max((count for _, count in chart.bars), default=0) or 1
    height = BAR_HEIGHT * len(chart.bars) + 4
    bars = "".join(_bar(label, count, longest, place * BAR_HEIGHT) for place, (label, count) in enumerate(chart.bars))
    width = LABEL_WIDTH + BAR_WIDTH + 90
    return (
        f'<svg role="img" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' xmlns="http://www.w3.org/2000/svg"><title>{_text(chart.title)}</title>{bars}</svg>'
    )


def _bar(label: str, count: int, longest: int, y: int) -> str:
    long = BAR_WIDTH * count / longest
    return (
        f'<text x="{LABEL_WIDTH - 4}" y="{y + 11}" text-anchor="end">{_text(label)}</text>'
        f'<rect x="{LABEL_WIDTH}" y="{y + 2}" width="{long:.1f}" height="{BAR_HEIGHT - 4}" fill="#2f5d8a"/>'
        f'<text x="{LABEL_WIDTH + long + 4:.1f}" y="{y + 11}">{count:,}</text>'
    )


def write(path: Path, text: str) -> None:
    """Write a file that its owner alone may read: keys may be persons' numbers.

    Raises:
        EnvironmentMissing: it cannot be written.
    """
    # A spreadsheet takes a CSV file for UTF-8 only where it begins with the mark.
    encoding = "utf-8-sig" if path.suffix == ".csv" else "utf-8"
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(number, "w", encoding=encoding, newline="") as file:
            file.write(text)
    except OSError as exc:
        said = os.strerror(exc.errno or 0)
        raise EnvironmentMissing(f"the file cannot be written ({said})", place=str(path)) from None
