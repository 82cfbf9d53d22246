"""The whole connector at work on one machine, on invented parties, ending with a proof.

Promise: what the last table says was measured; a row that differs from the party's view fails the run; and whatever
ends the run, no server, process or folder of it stays behind.

`territory` and `people` invent; `alfa` and `beta` (PostgreSQL), `gamma` (SQLite) and `delta` (MariaDB, where it is
installed: `maria`) are the parties' own databases, `homes` the ways into them, `kit` lets the connector in, `writer`
keeps them busy, `site` is the servers and the daemon, `oracle` compares, `play` is the order of events.
"""
