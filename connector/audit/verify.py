"""Check an audit log: pure, over entries in order. Names the first entry of each party that is wrong.

What it can find stands on the heads. Whoever rewrites a log from some entry on, its head included, leaves a log that
is whole in itself; only an anchor kept elsewhere (a noted head, a signed checkpoint) tells the two apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from connector.audit.entry import GENESIS, VERSION, Json, StoredEntry, chain_hash, decode, timestamp

# Only this act may set a party's positions anew; any other entry goes on where the one before ended.
NEW_HISTORY = "history_begun"
_READ_AS = ("inserted", "updated", "unchanged", "quarantined")
_SIGNALLED_AS = ("read", "deleted", "absent", "parked")


@dataclass(frozen=True, slots=True)
class Anchor:
    """What is known of an entry from somewhere else: that it exists, and perhaps its hash."""

    party: str
    seq: int
    hash: bytes | None
    source: str


@dataclass(frozen=True, slots=True)
class Breach:
    """The first thing wrong with one party's log."""

    party: str
    seq: int
    what: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found: entries read per party, and the first breach of each broken one."""

    entries: Mapping[str, int]
    breaches: tuple[Breach, ...]


def verify(
    entries: Iterable[StoredEntry], heads: Mapping[str, tuple[int, bytes]], anchors: Iterable[Anchor] = ()
) -> Verdict:
    """Verify the chains of all parties.

    Args:
        entries: by number within each party; in a single pass, and none is kept.
        heads: each party's last number and hash, as its head row has them. Of the same snapshot as the entries.
        anchors: what is known from elsewhere; each must be found in the log.
    """
    known: dict[str, dict[int, Anchor]] = {party: {} for party in heads}
    for anchor in anchors:
        # One with a hash says more than one without.
        if anchor.hash is not None or anchor.seq not in known.setdefault(anchor.party, {}):
            known[anchor.party][anchor.seq] = anchor
    walks = {party: _Walk(party, heads.get(party), told) for party, told in known.items()}
    for entry in entries:
        if entry.party not in walks:
            walks[entry.party] = _Walk(entry.party, None, {})
        walks[entry.party].take(entry)
    found = [walks[party] for party in sorted(walks)]
    breaches = (walk.breach or walk.end() for walk in found)
    return Verdict(
        {walk.party: walk.count for walk in found if walk.count}, tuple(breach for breach in breaches if breach)
    )


@dataclass(slots=True)
class _Walk:
    """One party's chain as far as it has been read and found right."""

    party: str
    head: tuple[int, bytes] | None
    anchors: Mapping[int, Anchor]
    count: int = 0
    seq: int = 0
    hash: bytes = GENESIS
    position: str = ""
    breach: Breach | None = field(default=None)

    def take(self, entry: StoredEntry) -> None:
        """Take one more entry; behind a breach entries are only counted."""
        self.count += 1
        if self.breach is not None:
            return
        if entry.seq > self.seq + 1:
            self.breach = Breach(self.party, self.seq + 1, "the entry is missing")
        elif what := self._wrong(entry):
            self.breach = Breach(self.party, entry.seq, what)
        else:
            self.seq, self.hash = entry.seq, entry.hash

    def _wrong(self, entry: StoredEntry) -> str:
        if entry.seq != self.seq + 1:
            return f"its number does not follow {self.seq}"
        if entry.prev_hash != self.hash:
            return "its link to the entry before does not match"
        if chain_hash(self.hash, entry.body) != entry.hash:
            return "its content does not match its hash"
        anchor = self.anchors.get(entry.seq)
        if anchor is not None and anchor.hash is not None and anchor.hash != entry.hash:
            return f"its hash is not the one in {anchor.source}: the log was written anew up to here or before"
        if self.head is not None and entry.seq > self.head[0]:
            return f"it stands behind the log's head ({self.head[0]}): it was not appended by the connector"
        return self._wrong_content(entry)

    def _wrong_content(self, entry: StoredEntry) -> str:
        """What only a writer other than ours would have hashed."""
        try:
            body = decode(entry.body)
        except ValueError:
            return "its content is not an entry's"
        own = (
            ("at", timestamp(entry.at)), ("party", self.party), ("prev", self.hash.hex()), ("seq", entry.seq),
            ("v", VERSION),
        )  # fmt: skip
        for name, value in own:
            if body.get(name) != value:
                return f"its `{name}` is not that of its row"
        return unbalanced(body) or self._wrong_position(body)

    def _wrong_position(self, body: Mapping[str, Json]) -> str:
        start, end = body.get("position_from"), body.get("position_to")
        if start is None and end is None:
            return ""
        if not isinstance(start, str) or not isinstance(end, str):
            return "its positions are not texts"
        if self.position and start != self.position and body.get("act") != NEW_HISTORY:
            return f"its positions begin at {start}, the entry before ended at {self.position}"
        self.position = end
        return ""

    def end(self) -> Breach | None:
        """The log is read: is its end the one that is known?"""
        if self.head is None and self.count:
            return Breach(self.party, self.seq, "the log has entries and no head")
        last, digest = self.head or (0, GENESIS)
        if self.seq < last:
            return Breach(self.party, self.seq + 1, f"the entry is missing: the head says {last}, the log was cut off")
        if self.hash != digest:
            return Breach(self.party, last, "its hash is not the one in the log's head: the log was written anew")
        for seq in sorted(self.anchors):
            if seq > last:
                source = self.anchors[seq].source
                return Breach(self.party, last + 1, f"the entry is missing: {source} knows {seq}, the log was cut off")
        return None


def unbalanced(body: Mapping[str, Json]) -> str:
    """Say which count of an entry does not add up, or nothing."""
    entities = body.get("entities", [])
    if not isinstance(entities, list):
        return "its counts are not a list"
    for counts in entities:
        if not isinstance(counts, dict):
            return "its counts are not a list of entities"
        name = counts.get("entity")
        if not _adds_up(counts, "read", _READ_AS):
            return f"rows read of {name} do not balance"
        if body.get("kind") == "signals" and not _adds_up(counts, "signalled", _SIGNALLED_AS):
            return f"keys signalled of {name} do not balance"
    return ""


def _adds_up(counts: Mapping[str, Json], whole: str, parts: tuple[str, ...]) -> bool:
    total = 0
    for name in parts:
        value = counts.get(name)
        if not isinstance(value, int) or value < 0:
            return False
        total += value
    return counts.get(whole) == total
