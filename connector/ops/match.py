"""Is what KPU recorded what our view says? Run by a party, with its receipts and its mapping file, on its own machine.

Reads the party's view and a scratch database; nothing of KPU's. Names the party's own keys, and no other cell.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psycopg

from connector.audit import verifier
from connector.errors import ConnectorError, UsageError
from connector.staging.commitment import commitment
from connector.staging.matching import KINDS, WRONG, Matching, Page
from connector.staging.plan import EntityPlan
from connector.view.blocks import Block
from connector.view.shape import ViewShape

__all__ = ["KINDS", "Matched", "Receipts", "match", "read"]

CHUNK_ROWS = 50_000
KEYS_MAX = 10_000
_NOTHING = commitment(()).hex()


class ReceiptWrong(ConnectorError):
    """A receipt does not verify."""


class View(Protocol):
    """What a match asks of a party."""

    def begin(self) -> object: ...
    def end(self) -> None: ...
    def chunk(self, shape: ViewShape, after: str | None, rows: int) -> Iterator[Block]: ...


@dataclass(frozen=True, slots=True)
class Receipts:
    """Verified receipts of one party that follow each other. `whole`: they begin with its first entry."""

    party: str
    first: int
    last: int
    pages: dict[str, tuple[Page, ...]]

    @property
    def whole(self) -> bool:
        return self.first == 1


@dataclass(frozen=True, slots=True)
class Matched:
    """One entity held against the receipts: rows by kind, and the keys of those that are not as they should be."""

    entity: str
    rows: dict[str, int]
    keys: tuple[tuple[str, str], ...]

    @property
    def wrong(self) -> int:
        return sum(self.rows[kind] for kind in WRONG)


def read(paths: Sequence[Path], keys: Sequence[str]) -> Receipts:
    """Verify receipts (`audit receipt --rows`) and take what they say of rows.

    Args:
        keys: the log's public keys; a receipt that none of them signed says nothing.

    Raises:
        ReceiptWrong: one does not verify. UsageError: they are of different parties, have no rows, or leave a gap.
    """
    loaded = sorted((_load(path, keys) for path in paths), key=lambda one: int(one["entries"][0]["seq"]))
    party, last = str(loaded[0]["party"]), int(loaded[0]["entries"][0]["seq"]) - 1
    pages: dict[str, list[Page]] = {}
    for one in loaded:
        if one["party"] != party:
            raise UsageError("the receipts are of different parties", hint="one party at a time")
        if int(one["entries"][0]["seq"]) != last + 1:
            raise UsageError(f"the receipts leave a gap after entry {last}", hint="connector audit receipt --since")
        last = int(one["entries"][-1]["seq"])
        for entity, page in _pages(one):
            pages.setdefault(entity, []).append(page)
    first = int(loaded[0]["entries"][0]["seq"])
    return Receipts(party, first, last, {entity: tuple(found) for entity, found in pages.items()})


def _load(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    options = argparse.Namespace(file=path, party=None, key=list(keys), witness=[], needed=0)
    try:
        verifier.verify_receipt(options)
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except verifier.Wrong as wrong:
        raise ReceiptWrong(str(wrong), place=str(path), hint="keep the file: it is evidence as it is") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ReceiptWrong("not of the form of a receipt", place=str(path)) from None
    if "rows" not in loaded:
        raise UsageError("the receipt has no rows", place=str(path), hint="ask for one made with --rows")
    return loaded


def _pages(receipt: dict[str, Any]) -> Iterator[tuple[str, Page]]:
    mappings = {
        told["batch"]: (told["entity"], told["mapping_digest"])
        for one in receipt["entries"]
        for told in json.loads(one["body"])["entities"]
        if told.get("commitment", _NOTHING) != _NOTHING
    }
    for batch in receipt["rows"]:
        entity, mapping = mappings[batch["batch"]]
        salt = bytes.fromhex(batch["salt"]) if batch["salt"] else None
        for page in batch["pages"]:
            yield entity, Page(tuple(page["keys"]), page["ops"], bytes.fromhex(page["digests"]), salt, mapping)


def match(conn: psycopg.Connection, view: View, plan: EntityPlan, shape: ViewShape, pages: Iterable[Page]) -> Matched:
    """Hold one entity's view against what the receipts say of it. `conn`: a migrated scratch database."""
    matching = Matching(conn, plan)
    matching.told(pages)
    after: str | None = None
    while True:
        view.begin()
        try:
            blocks = list(view.chunk(shape, after, CHUNK_ROWS))
        finally:
            view.end()
        matching.meet(blocks)
        if sum(block.count for block in blocks) < CHUNK_ROWS:
            break
        after = blocks[-1].last_key
    matching.left()
    return Matched(plan.entity, matching.counts(), tuple(matching.keys(KEYS_MAX)))
