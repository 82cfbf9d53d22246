"""A second session at staging on which a first copy's chunk is mapped and loaded before its turn.

Chunks are worked on side by side, since the server gives one session one processor, and are committed in
order: each takes the party's lock only when the chunk before it is durable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from connector.events import EntryKind
from connector.staging import session
from connector.staging.batch import Batch, Block, Read
from connector.staging.plan import DigestKeys, EntityPlan


class Lane:
    """One session and one thread. `begin` starts the work, `turn` waits for it and ends it."""

    def __init__(self, dsn: str, party: str, keys: DigestKeys, epoch: int) -> None:
        self._party = party
        self._keys = keys
        self._epoch = epoch
        self._conn = session.connect(dsn, f"connector {party} copy")
        # A net: what is loaded and not committed holds back the change feed of every party.
        self._conn.execute("set idle_in_transaction_session_timeout = '120s'")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="copy-lane")
        self._work: Future[Batch] | None = None

    def begin(self, plan: EntityPlan, blocks: Iterable[Block], read: Read) -> None:
        """Start mapping and loading a chunk into a partition that holds none of its keys."""
        assert self._work is None, "a lane does one chunk at a time"
        self._work = self._pool.submit(self._load, plan, blocks, read)

    def _load(self, plan: EntityPlan, blocks: Iterable[Block], read: Read) -> Batch:
        with session.translated(f"loading {plan.entity}"):
            for statement in plan.temporary_tables:
                self._conn.execute(statement)
            self._conn.execute("begin")
            batch = Batch(self._conn, self._party, self._keys, EntryKind.COPY, read)
            batch.apply(plan, blocks, fresh=True)
        return batch

    @contextmanager
    def turn(self) -> Iterator[Batch]:
        """The loaded chunk's batch, now under the party's lock; commits when the block ends.

        Raises:
            Fenced: somebody else claimed the party since; nothing of the chunk stays.
        """
        assert self._work is not None, "begin() comes first"
        work, self._work = self._work, None
        try:
            batch = work.result()
            with session.translated("committing a chunk"):
                batch.lock(self._epoch)
                yield batch
                self._conn.execute("commit")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if not self._conn.closed:
            self._conn.rollback()

    def close(self) -> None:
        """Give up what is under way and end the session."""
        self._pool.shutdown(wait=True)
        self._conn.close()
