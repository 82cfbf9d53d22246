"""Others' signatures under our checkpoints: taken in from files, checked, counted.

A witness signs only what extends the last checkpoint that it has seen; `cosign` is that rule, for who runs it without
other software. Nothing here trusts a line because of where it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import psycopg

from connector.audit import merkle, note
from connector.audit.note import Checkpoint, Note, NoteError, Signer, Verifier


def cosign(
    current: str, previous: str | None, proof: Sequence[bytes], log: Sequence[Verifier], witness: Signer, at: int
) -> Note:
    """A witness's work: check that a checkpoint is the log's and extends the last one seen, then sign it. Pure.

    Args:
        current: the checkpoint to sign.
        previous: the last one this witness saw; None for its first.
        proof: that the one is the beginning of the other.
        at: POSIX time.

    Raises:
        NoteError: it is not so. Keep both checkpoints: two that do not fit together are the proof of a fork.
    """
    signed, checkpoint = note.opened(current, log)
    if previous is not None:
        last = note.opened(previous, log, checkpoint.origin)[1]
        if not merkle.extends(last.size, last.root, checkpoint.size, checkpoint.root, proof):
            raise NoteError(
                f"the checkpoint of {checkpoint.size} entries does not extend the one of {last.size} seen before"
            )
    return signed.adding([witness.cosign(signed.text, at)])


def take(conn: psycopg.Connection, text: str, witnesses: Sequence[Verifier]) -> tuple[int, tuple[str, ...]]:
    """Keep the witnesses' lines of a cosigned checkpoint; gives its size and whose lines there are.

    Raises:
        NoteError: it is none of our checkpoints, or no witness of ours signed it.
    """
    given = note.parse(text)
    checkpoint = Checkpoint.parse(given.text)
    row = conn.execute("select note from audit.checkpoint where size = %s", (checkpoint.size,)).fetchone()
    if row is None or note.parse(row[0]).text != given.text:
        raise NoteError(
            f"this log never signed that checkpoint of {checkpoint.size} entries: keep it, it may prove a fork"
        )
    who = given.signed_by(witnesses)
    if not who:
        raise NoteError("no witness of the configuration signed it")
    ids = {(one.name, one.key_id) for one in who}
    for line in given.signatures:
        if (line.name, line.key_id) in ids:
            conn.execute(
                "insert into audit.cosignature (size, witness, line) values (%s, %s, %s) on conflict do nothing",
                (checkpoint.size, line.name, str(line)),
            )
    return checkpoint.size, tuple(one.name for one in who)


def cosigned(conn: psycopg.Connection, witnesses: Iterable[Verifier], needed: int) -> int:
    """The size of the largest checkpoint under which so many witnesses' signatures stand; 0 where there is none."""
    known = tuple(witnesses)
    rows = conn.execute(
        """
        select p.note, array_agg(c.line) from audit.checkpoint p join audit.cosignature c using (size)
         group by p.size, p.note having count(distinct c.witness) >= %s order by p.size desc limit 20
        """,
        (needed,),
    ).fetchall()
    for text, lines in rows:
        signed = note.parse(text).adding(lines)
        try:
            count = len({one.name for one in signed.signed_by(known)})
        except NoteError:
            continue
        if count >= needed:
            return Checkpoint.parse(signed.text).size
    return 0
