"""Refused rows as a CSV file for a party's staff, who open it in a spreadsheet: keys and advice, never a cell.

A key is the party's own text, and a spreadsheet runs what begins like a formula: such a cell gets an apostrophe.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from connector.errors import EnvironmentMissing
from connector.mapping.reasons import REASONS
from connector.ops.quarantine import Listing

HEAD = ("partai", "entitas", "kunci", "alasan", "kolom", "yang harus dilakukan", "pertama", "terakhir")
# What a spreadsheet takes for the beginning of a formula, also behind blanks (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")


def write(path: Path, found: Listing) -> int:
    """Write a line for each reason of each row; gives how many. Only the owner may read the file.

    Raises:
        EnvironmentMissing: the file cannot be written.
    """
    try:
        with open(path, "w", encoding="utf-8-sig", newline="", opener=_private) as file:
            lines = list(_lines(found))
            csv.writer(file).writerows([HEAD, *lines])
    except OSError as error:
        raise EnvironmentMissing(
            f"the file cannot be written ({os.strerror(error.errno or 0)})",
            place=str(path),
            hint="name a folder that is there and that you may write to",
        ) from None
    return len(lines)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _lines(found: Listing) -> Iterator[tuple[str, ...]]:
    for row in found.rows:
        for reason, column in zip(row.reasons, row.columns, strict=False):
            known = REASONS.get(reason)
            cells = (
                row.party, row.entity, row.key, reason, column, known.indonesian if known else "",
                f"{row.first_seen:%Y-%m-%d %H:%M}", f"{row.last_seen:%Y-%m-%d %H:%M}",
            )  # fmt: skip
            yield tuple(map(harmless, cells))


def harmless(cell: str) -> str:
    """The cell as a spreadsheet shows it and does not run it."""
    return f"'{cell}" if cell.lstrip(" \n\u00a0").startswith(_FORMULA) else cell
