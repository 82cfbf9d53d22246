"""Which daemon works for which party: leases by staging's clock, shared evenly among the daemons that are alive.

A lease decides who tries. Who may write is decided by the session lock and the epoch of `offsets`, so a daemon that
slept, or whose lease was given away while it could not reach staging, writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from connector.errors import ConnectorError
from connector.staging import session

# A daemon that was not seen for so long is taken for dead. With a look each second, its parties are worked for again
# well within ten seconds; a staging that stands still for this long costs a change of hands, and nothing else.
DEAD_S = 5.0
# One whose session is gone too need not be waited for that long: it was killed. A look later than this one would have
# connected again.
GONE_S = 1.5


@dataclass(frozen=True, slots=True)
class Peer:
    """A live daemon: the parties it is configured for."""

    name: str
    parties: frozenset[str]


def fair_share(name: str, peers: Sequence[Peer]) -> int:
    """How many parties `name` should work for: each party counts as a part for each daemon that could serve it."""
    mine = next(peer for peer in peers if peer.name == name).parties
    parts = (1 / sum(party in peer.parties for peer in peers) for party in mine)
    return math.ceil(sum(parts) - 1e-9)


def choose(name: str, peers: Sequence[Peer], leases: Mapping[str, str]) -> tuple[frozenset[str], frozenset[str]]:
    """What `name` keeps and takes now, and what of it nobody had.

    A party is given up only for a peer that has less than its share, and taken beyond the own share only where no
    such peer could take it: no party is left without a daemon, and what is shared evenly stays where it is.

    Args:
        peers: the live daemons, `name` among them.
        leases: party -> live daemon that has it.
    """
    served = next(peer for peer in peers if peer.name == name).parties
    share = fair_share(name, peers)
    room = {peer.name: fair_share(peer.name, peers) - list(leases.values()).count(peer.name) for peer in peers}

    def taker(party: str) -> str | None:
        """A peer with room that could work for the party."""
        return next((p.name for p in peers if p.name != name and party in p.parties and room[p.name] > 0), None)

    mine = sorted(party for party in served if leases.get(party) == name)
    for party in tuple(mine):
        other = taker(party)
        if len(mine) > share and other is not None:
            mine.remove(party)
            room[other] -= 1
    taken: list[str] = []
    # Those that the fewest could serve come first.
    for party in sorted(served - leases.keys(), key=lambda one: (sum(one in peer.parties for peer in peers), one)):
        if len(mine) + len(taken) < share or taker(party) is None:
            taken.append(party)
    return frozenset((*mine, *taken)), frozenset(taken)


class Leases:
    """One daemon's share of the parties. Used by one thread."""

    def __init__(self, dsn: Callable[[], str], daemon: str) -> None:
        self._dsn = dsn
        self._daemon = daemon
        self._conn: psycopg.Connection | None = None

    def look(self, parties: Collection[str], running: Collection[str]) -> frozenset[str]:
        """Say that this daemon lives, and learn for which of `parties` it is to work now.

        Args:
            running: parties with a worker here; one that is no longer to be worked for is free to others only when
                its worker has ended.

        Raises:
            StagingUnavailable: nobody can say; who works goes on, the epoch keeps it safe.
        """
        try:
            if self._conn is None:
                self._conn = session.connect(self._dsn(), "connector leases")
            with session.translated("sharing the parties"), self._conn.transaction():
                return self._look(self._conn, parties, running)
        except ConnectorError:
            self.forget()
            raise

    def _look(self, conn: psycopg.Connection, parties: Collection[str], running: Collection[str]) -> frozenset[str]:
        # One daemon at a time: what is chosen below must still be true when it is written.
        conn.execute("select pg_advisory_xact_lock(hashtextextended('connector leases', 0))")
        conn.execute(_SEEN, (self._daemon, sorted(parties)))
        conn.execute(_MISSED, (DEAD_S, GONE_S))
        peers = [
            Peer(row[0], frozenset(row[1])) for row in conn.execute("select daemon, parties from connector.daemon")
        ]
        leases: dict[str, str] = dict(conn.execute("select party, daemon from connector.lease").fetchall())
        mine, taken = choose(self._daemon, peers, leases)
        for party in sorted(taken):
            conn.execute("insert into connector.lease (party, daemon) values (%s, %s)", (party, self._daemon))
            conn.execute(_HANG_UP, (party,))
        given = [party for party, daemon in leases.items() if daemon == self._daemon and party not in mine]
        done = [party for party in given if party not in running]
        conn.execute("delete from connector.lease where daemon = %s and party = any (%s)", (self._daemon, done))
        return mine

    def end(self) -> None:
        """This daemon is about to end, its workers have: others need not wait until it is missed."""
        with suppress(ConnectorError):
            if self._conn is not None:
                with session.translated("giving the parties up"):
                    self._conn.execute("delete from connector.daemon where daemon = %s", (self._daemon,))
        self.forget()

    def forget(self) -> None:
        """Drop the connection; the next look makes another."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None


_SEEN = """
insert into connector.daemon (daemon, parties, backend) values (%s, %s, pg_backend_pid())
on conflict (daemon) do update
   set parties = excluded.parties, backend = excluded.backend, seen_at = clock_timestamp()
"""

_MISSED = """
delete from connector.daemon d
 where seen_at < clock_timestamp() - %s * interval '1 s'
    or (seen_at < clock_timestamp() - %s * interval '1 s'
        and not exists (select from pg_stat_activity a where a.pid = d.backend))
"""

# Sessions of a daemon that stopped without closing them (SIGSTOP, a network cut) keep the party's lock for hours.
_HANG_UP = """
with held as (select hashtextextended('connector party ' || %s, 0) as number)
select pg_terminate_backend(l.pid)
  from held, pg_locks l join pg_stat_activity a on a.pid = l.pid and a.usename = current_user
 where l.locktype = 'advisory' and l.granted and l.objsubid = 1 and l.pid <> pg_backend_pid()
   and l.database = (select oid from pg_database where datname = current_database())
   and (l.classid::bigint << 32 | l.objid::bigint) = number
"""
