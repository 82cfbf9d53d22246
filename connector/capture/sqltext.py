"""SQL as text that a party's DBA reviews and runs in any engine's own client: steps with their reasons, names, texts.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from connector.errors import UsageError

Engine = Literal["postgresql", "mariadb", "mysql", "sqlite"]
MYSQLS: tuple[Engine, ...] = ("mariadb", "mysql")

# A kit that waits for a lock makes the party's writers queue behind it: better to fail and be run again.
LOCK_TIMEOUT_S = 5
# Tag of the dollar quotes in a kit; a name that holds it is refused.
DOLLARS = "$kit$"


@dataclass(frozen=True, slots=True)
class Step:
    """One statement, and why it is needed."""

    why: str
    sql: str


def script(steps: Sequence[Step], engine: Engine, heading: str = "") -> str:
    """The steps as one script for the engine's own client."""
    end = "//" if engine in MYSQLS else ";"
    head = "delimiter //\n" if end == "//" else ""
    body = "\n".join(f"-- {_remark(step.why)}\n{step.sql}{end}\n" for step in steps)
    return "".join(f"-- {_remark(line)}".rstrip() + "\n" for line in heading.splitlines()) + head + body


def _remark(text: str) -> str:
    """A name in a comment: a line break in it would end the comment and start SQL."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def quoted(*names: str) -> str:
    """A name in double quotes, as PostgreSQL and SQLite have them."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def ticked(*names: str) -> str:
    """A name in backticks, as MariaDB and MySQL have them."""
    return ".".join("`" + name.replace("`", "``") + "`" for name in names)


def quoter(engine: Engine) -> Callable[..., str]:
    return ticked if engine in MYSQLS else quoted


def text(value: str) -> str:
    """A text for PostgreSQL and SQLite; a backslash is itself."""
    return "'" + value.replace("'", "''") + "'"


def mytext(value: str) -> str:
    """A text for MariaDB and MySQL, where a backslash escapes."""
    return text(value).replace("\\", "\\\\")


def account(reader: str) -> str:
    """`user@host` as MariaDB and MySQL write it; from anywhere where no host is named."""
    user, at, host = reader.rpartition("@")
    return f"{mytext(user)}@{mytext(host)}" if at else f"{mytext(reader)}@'%'"


def do(body: str) -> str:
    return f"do {DOLLARS}{body}{DOLLARS}"


def refuse_bad_names(names: Iterable[str]) -> None:
    """Refuse what would not survive a review, or end a quote early.

    Raises:
        UsageError: a name cannot be used.
    """
    for name in names:
        if not name or not name.isprintable() or DOLLARS in name:
            raise UsageError(f"{name!r} cannot be a name in a kit", hint="no control character, no dollar tag")
