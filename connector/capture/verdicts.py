"""Findings that every engine's preflight can come to, in the same words. Pure: facts in, findings out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from connector.capture.finding import Finding, error, ok, warning

# More than "many" need not be counted.
COUNT_MAX = 1000
# A clock this far off makes lag and entries hard to read; positions do not depend on it.
CLOCK_SKEW_WARN_S = 60.0
# A compare that comes less often shows a delete more than a day late.
DIFF_WARN_S = 86_400.0
# Rows that one key's re-read may look at before it is worth an index.
SCAN_WARN_ROWS = 10_000


def clock(skew_s: float) -> Finding:
    """`skew_s`: the server's clock less ours."""
    if abs(skew_s) > CLOCK_SKEW_WARN_S:
        said = f"its clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} ours"
        return warning("CLOCK_SKEW", "server", said, "let NTP set both clocks; nothing is lost, but lag is told wrong")
    return ok("CLOCK", "server", f"its clock is within {CLOCK_SKEW_WARN_S:.0f} s of ours")


def is_local(host: str, address: str = "") -> bool:
    """Whether a server is on this machine: a socket, or a loopback address."""
    if host.startswith(("/", "@")) or host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(address or host).is_loopback
    except ValueError:
        return False


def transport(*, local: bool, encrypted: bool, verified: bool, how: str) -> Finding:
    """`how`: what to put into the dsn so that the server is verified."""
    if local:
        return ok("TRANSPORT", "server", "on this machine")
    if not encrypted:
        return error("NO_TLS", "server", "the connection is not encrypted", f"put {how} into the dsn")
    if not verified:
        said = "encrypted, but whom we talk to is not verified"
        return warning("TLS_UNVERIFIED", "server", said, f"put {how} into the dsn")
    return ok("TRANSPORT", "server", "TLS, verified")


def lacking(place: str, entity: str, columns: Sequence[str]) -> Finding:
    return error(
        "COLUMN_MISSING",
        place,
        f"entity {entity} is mapped from columns that are not there: {', '.join(columns)}",
        "add them to the view, or correct the mapping",
    )


def keys(place: str, key: Sequence[str], doubled: int, empty: int) -> Iterator[Finding]:
    """`doubled`: values that occur more than once, `empty`: rows with a NULL in the key; both counted to COUNT_MAX."""
    named = ", ".join(key)
    if doubled:
        yield error(
            "KEY_NOT_UNIQUE",
            place,
            f"{many(doubled)} values of its key ({named}) occur more than once",
            "choose a key in the mapping that is unique in the view; such rows go to quarantine",
        )
    if empty:
        yield error(
            "KEY_NULL",
            place,
            f"{many(empty)} rows have NULL in the key ({named})",
            "choose a key in the mapping that is never NULL; such rows go to quarantine",
        )
    if not doubled and not empty:
        yield ok("KEY", place, f"its key ({named}) is unique and never NULL")


def keys_unproven(place: str, key: Sequence[str], limit_s: float) -> Finding:
    named = ", ".join(key)
    return warning(
        "KEY_UNPROVEN",
        place,
        f"counting its keys took longer than {limit_s:.0f} s",
        f"the party's DBA counts: select {named} from ... group by {named} having count(*) > 1",
    )


def many(count: int) -> str:
    return f"{count} or more" if count >= COUNT_MAX else str(count)


def scans(place: str, what: str, remedy: str) -> Finding:
    return warning("PLAN_SCANS", place, f"looking up one key reads {what}", remedy)


def scans_nothing(place: str) -> Finding:
    return ok("PLAN", place, "one key is found without reading a large table")


def schedule(every_s: float, mode: str) -> Finding:
    """What the compare beside the other modes is for: each has something that only a compare sees."""
    if every_s > DIFF_WARN_S:
        return warning(
            "DIFF_RARE",
            "schedule",
            f"views are compared every {every_s / 3600:.0f} h: what mode {mode} does not see comes that late",
            "lower `diff_every_s`",
        )
    return ok("DIFF", "schedule", f"views are compared every {every_s:.0f} s")


def cursor(column: str, found: Sequence[tuple[str, str, int]], rising: Sequence[bool]) -> Iterator[Finding]:
    """`found`: place of a view that has the column, its type, its NULLs (to COUNT_MAX); `rising`: can the type rise."""
    if not found:
        yield error(
            "CURSOR_MISSING",
            column,
            "no view has a column of this name to follow",
            "name the column under `cursor:`, or let the party's DBA show it in the views",
        )
    for (place, kind, empty), rises in zip(found, rising, strict=True):
        if not rises:
            yield error(
                "CURSOR_TYPE",
                place,
                f"{column} is {kind}, of which a later value is not a larger one",
                "follow a column of numbers or times that rises with every change",
            )
        if empty:
            yield warning(
                "CURSOR_NULL",
                place,
                f"{many(empty)} rows have NULL in {column}: their changes are seen by the compare only",
                f"let {column} be filled with every change",
            )
        if rises and not empty:
            yield ok("CURSOR", place, f"{column} is {kind} and never NULL")


def outbox_state(place: str, *, lost: bool, share: float, waiting_s: float) -> Iterator[Finding]:
    """`share` of the room that is taken; `waiting_s`: age of the oldest note."""
    if lost:
        yield warning(
            "NOTES_LOST",
            place,
            "the change table was full, and changes were not noted",
            "start the daemon: it reads the views whole and goes on from there",
        )
    elif share > 0.5:
        yield warning(
            "NOTES_MANY",
            place,
            f"{share:.0%} of the room for notes is taken",
            "start the daemon; when it is full the views must be read whole",
        )
    if waiting_s > 3600:
        yield warning("NOTES_WAIT", place, f"notes have waited for {waiting_s / 3600:.0f} h", "is the daemon running?")
    if not lost and share <= 0.5 and waiting_s <= 3600:
        yield ok("NOTES", place, "the change table has room, and is read")


def trigger(place: str, verb: str, state: str) -> Finding | None:
    """`state`: missing, disabled, differs; anything else is in order."""
    again = "the party's DBA runs the kit again"
    match state:
        case "missing":
            return error("TRIGGER_MISSING", place, f"its {verb}s are not noted", again)
        case "disabled":
            return error("TRIGGER_DISABLED", place, f"its {verb}s are not noted: the trigger is disabled", again)
        case "differs":
            said = f"the trigger for {verb}s is not what this version's kit makes for this mapping"
            return warning("TRIGGER_DIFFERS", place, said, again)
    return None
