"""A keyed, chunked compare: one digest a bucket, and only a bucket that differs is looked at key by key.

Finds what was inserted, changed and deleted, whatever the view is made of. Holds one bucket in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext

import structlog

from connector.capture.polling.ports import Digests, Found, Memory, PolledView, Stretch
from connector.capture.signals import KeySet
from connector.errors import EntityHeld
from connector.events import Bucket, Note, short_key

# Rows of a bucket when it is made; it is split at twice that. An unchanged million costs 122 aggregates.
BUCKET_ROWS = 8_192
# Found and not handed over yet, at most: keys that changed, and keys remembered.
CHANGED_MAX, REMEMBERED_MAX = 20_000, 65_536
# Digits of an ordinal: each split of a gap costs one.
_DIGITS = 4_000
_MASK = (1 << 64) - 1


@dataclass(slots=True)
class _Find:
    """What a round has found and not handed over yet."""

    keys_in_memory: int
    keys: dict[str, KeySet] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    remembered: int = 0

    def changed(self, entity: str, key: str) -> None:
        if entity not in self.keys:
            self.keys[entity] = KeySet(self.keys_in_memory)
        self.keys[entity].add(key)

    def remember(self, bucket: Bucket) -> None:
        self.notes.append(bucket)
        self.remembered += len(bucket.keys)

    @property
    def full(self) -> bool:
        return self.remembered >= REMEMBERED_MAX or sum(map(len, self.keys.values())) >= CHANGED_MAX

    def take(self) -> Found:
        found = Found(self.keys, tuple(self.notes))
        self.keys, self.notes, self.remembered = {}, [], 0
        return found


class Diff:
    """Compares a party's views with what was seen of them last."""

    def __init__(
        self, views: Sequence[PolledView], digests: Digests, memory: Memory, *, every_s: float, keys_in_memory: int,
        stopping: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.every_s = every_s
        self._views = tuple(views)
        self._digests = digests
        self._memory = memory
        self._keys_in_memory = keys_in_memory
        self._stopping = stopping
        self._log = structlog.get_logger()

    def close(self) -> None:
        self._digests.close()

    def learn(self) -> None:
        """Remember the views as they are. Of one that cannot be read nothing is known: later all of it is new."""
        for view in self._views:
            try:
                pieces = self._pieces(view) if self._digests.look(view) else iter(())
                self._memory.begin(view.entity, pieces)
            except EntityHeld:
                self._memory.begin(view.entity, ())

    def _pieces(self, view: PolledView) -> Iterator[Bucket]:
        after: str | None = None
        ordinal = Decimal(0)
        while True:
            stretch = self._digests.stretch(view, after, None, BUCKET_ROWS)
            ordinal += 1
            if stretch.rows:
                yield _bucket(view, ordinal, stretch)
            if stretch.whole:
                return
            after = stretch.last

    def resume(self, handed: int) -> None:
        """What was seen is in staging, whatever the number."""

    def applied(self, handed: int) -> None:
        """What was seen moved with the batch."""

    def round(self) -> Iterator[Found]:
        """Compare every view once. What is yielded must be applied before more is asked for."""
        for view in self._views:
            find = _Find(self._keys_in_memory)
            try:
                if self._digests.look(view):
                    for _ in self._compare(view, find):
                        if self._stopping():
                            return
                        if find.full:
                            yield find.take()
            except EntityHeld as held:
                # Whoever watches the views holds the entity, with the same reason.
                self._log.info("view_not_compared", entity=view.entity, reason=held.reason)
            if find.keys or find.notes:
                yield find.take()

    def _compare(self, view: PolledView, find: _Find) -> Iterator[None]:
        """Walk the buckets; yields between them and between pieces of one that grew."""
        buckets = self._memory.buckets(view.entity) or [Bucket(view.entity, Decimal(1), "", 0, bytes(16), (), b"")]
        after: str | None = None
        before = Decimal(0)
        for place, bucket in enumerate(buckets):
            is_last = place == len(buckets) - 1
            upto = None if is_last else bucket.upto
            total = self._digests.total(view, after, upto)
            if (total.rows, total.digest) != (bucket.rows, int.from_bytes(bucket.digest, "big")):
                yield from self._look_into(view, find, _Gap(before, bucket.ordinal, is_last), (after, upto))
            else:
                yield
            after, before = upto, bucket.ordinal

    def _look_into(
        self, view: PolledView, find: _Find, gap: _Gap, bounds: tuple[str | None, str | None]
    ) -> Iterator[None]:
        """Compare one bucket key by key, and write it anew, in pieces where it grew."""
        keys, marks = self._memory.marks(view.entity, gap.ordinal)
        known = {key: marks[8 * place : 8 * place + 8] for place, key in enumerate(keys)}
        after, upto = bounds
        while True:
            stretch = self._digests.stretch(view, after, upto, 2 * BUCKET_ROWS)
            if not stretch.whole:
                stretch = self._digests.stretch(view, after, upto, BUCKET_ROWS)
            bucket = _bucket(view, gap.next(final=stretch.whole), stretch)
            for place, key in enumerate(bucket.keys):
                if known.pop(key, None) != bucket.marks[8 * place : 8 * place + 8]:
                    find.changed(view.entity, key)
            if stretch.whole:
                for key in known:
                    find.changed(view.entity, key)
            find.remember(bucket)
            yield
            if stretch.whole:
                return
            after = stretch.last


@dataclass(slots=True)
class _Gap:
    """Gives ordinals to the pieces of one bucket: between the one before it and its own, or behind the last."""

    before: Decimal
    ordinal: Decimal
    is_last: bool

    def next(self, *, final: bool) -> Decimal:
        if self.is_last:
            given, self.ordinal = self.ordinal, self.ordinal + 1
            return given
        if final:
            return self.ordinal
        with localcontext() as context:
            context.prec = _DIGITS
            self.before = (self.before + self.ordinal) / 2
        return self.before


def _bucket(view: PolledView, ordinal: Decimal, stretch: Stretch) -> Bucket:
    digest = 0
    marks: dict[str, int] = {}
    width = len(view.key)
    for seen in stretch.rows:
        digest ^= seen.digest
        if seen.key is not None:
            key = short_key(seen.key, width)
            # A key that the view has twice: the sum does not depend on which comes first.
            marks[key] = (marks.get(key, 0) + (seen.digest >> 64)) & _MASK
    return Bucket(
        view.entity, ordinal, stretch.last, len(stretch.rows), digest.to_bytes(16, "big"), tuple(marks),
        b"".join(mark.to_bytes(8, "big") for mark in marks.values()),
    )  # fmt: skip
