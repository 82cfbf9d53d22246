"""Secrets by name: a variable or a file is named, looked up each time it is used, and never shown.

So a rotated password needs no restart, and what holds a configuration holds no secret. No sockets, no logging.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, assert_never

from connector import tls
from connector.errors import ConfigError
from connector.yamlpos import Node, Place, Problem, Table, place_at, shown

# A dsn or a PEM key; a larger file is not a secret but a mistake.
SECRET_BYTES_MAX = 65_536

_REFERENCE = re.compile(r"\$\{(env|file):([^{}]+)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# `password=`, `sslpassword=` and their like in any of the three spellings of a dsn, and `user:password@`.
_PASSWORD = re.compile(r"(?:password|passwd|pwd)\s*=|://[^@]*:[^@]+@", re.IGNORECASE)


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A reference to a text that must not be shown. `reveal` is the only way to the text.

    `engine`: it is a dsn of this engine, and says how its server is verified where the text does not (`tls.pinned`).
    """

    kind: Literal["env", "file", "literal"]
    name: str
    engine: str = field(default="", compare=False)

    @classmethod
    def literal(cls, text: str) -> Secret:
        """A text that needs no hiding place: a dsn without a password, or what a test or the demo made itself."""
        return cls("literal", text)

    @property
    def reference(self) -> str:
        """What may be shown: `${env:NAME}`, `${file:PATH}` or a mask."""
        return "(hidden)" if self.kind == "literal" else f"${{{self.kind}:{self.name}}}"

    def reveal(self) -> str:
        """The text, as it is now.

        Raises:
            ConfigError: the variable or file is gone, empty, or open to others.
        """
        found = _look_up(self)
        if isinstance(found, Refusal):
            raise ConfigError(found.message, hint=found.hint, place=self.reference)
        return tls.pinned(self.engine, found) if self.engine else found

    def __repr__(self) -> str:
        return f"Secret({self.reference})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)


@dataclass(frozen=True, slots=True)
class Refusal:
    message: str
    hint: str = ""


class Secrets:
    """Collects the references of one file and checks them in one go."""

    def __init__(self, root: Table, folder: Path, problems: list[Problem]) -> None:
        self._texts: dict[tuple[str, str], str] = {}
        self._root = root
        self._folder = folder
        self._problems = problems
        self._taken: list[tuple[Secret, Place]] = []

    def take(self, path: tuple[str, ...], *, literal: bool) -> Secret | None:
        """The secret at `path`; `literal` allows a dsn that carries no password."""
        text = _text_at(self._root, path)
        if text is None:
            return None
        place = place_at(self._root, path)
        secret = _secret(text, self._folder, literal)
        if isinstance(secret, Refusal):
            self._problems.append(Problem(place, f"`{path[-1]}`: {secret.message}", secret.hint))
            return None
        self._taken.append((secret, place))
        return secret

    def check(self) -> None:
        """Look each secret up once."""
        for secret, place in self._taken:
            found = _look_up(secret)
            if isinstance(found, Refusal):
                self._problems.append(Problem(place, found.message, found.hint))
            else:
                self._texts[secret.kind, secret.name] = found

    def text(self, secret: Secret) -> str | None:
        """What was looked up; None where nothing was, or it cannot be."""
        return self._texts.get((secret.kind, secret.name))


def _text_at(root: Table, path: tuple[str, ...]) -> str | None:
    node: Node | None = root
    for step in path:
        node = node.get(step) if isinstance(node, Table) else None
    return None if node is None or isinstance(node, Table) or not hasattr(node, "text") else node.text


def _secret(text: str, folder: Path, literal: bool) -> Secret | Refusal:
    match = _REFERENCE.fullmatch(text)
    if match and match[1] == "env":
        if _VARIABLE.fullmatch(match[2]):
            return Secret("env", match[2])
        return Refusal("that is no name of a variable", "${env:NAME}")
    if match:
        return Secret("file", str(folder / Path(match[2]).expanduser()))
    if "${" in text:
        return Refusal("not a reference I know", "${env:NAME} or ${file:PATH}, and nothing around it")
    if not literal:
        return Refusal("a key does not belong in this file", "${env:NAME} or ${file:PATH}")
    if not text:
        return Refusal("empty", "${env:NAME}, ${file:PATH}, or a dsn without a password")
    if _PASSWORD.search(_unescaped(text)):
        return Refusal("a password does not belong in this file", "move the whole dsn to ${env:NAME} or ${file:PATH}")
    return Secret.literal(text)


def _unescaped(text: str) -> str:
    """Percent signs undone, so that `pass%77ord=` does not slip through."""
    return re.sub(r"%([0-9A-Fa-f]{2})", lambda match: chr(int(match[1], 16)), text)


def _look_up(secret: Secret) -> str | Refusal:
    match secret.kind:
        case "literal":
            found: str | Refusal = secret.name
        case "env":
            hint = f"export {secret.name}=..."
            found = os.environ.get(secret.name, Refusal(f"the variable {secret.name} is not set", hint))
        case "file":
            found = _read_file(Path(secret.name))
        case _:
            assert_never(secret.kind)
    if isinstance(found, str) and not found.strip():
        return Refusal(f"{secret.reference} is empty")
    return found


def _read_file(path: Path) -> str | Refusal:
    name = shown(str(path), 160)
    try:
        # Not blocking: opening a pipe that nobody writes to would hang the start.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            refusal = _file_refusal(status, name)
            content = b"" if refusal else file.read(SECRET_BYTES_MAX + 1)
    except FileNotFoundError:
        return Refusal(f"there is no file {name}", "the path is relative to the configuration's folder")
    except OSError as exc:
        return Refusal(f"the file {name} cannot be read ({os.strerror(exc.errno or 0)})")
    if refusal:
        return refusal
    if len(content) > SECRET_BYTES_MAX:
        return Refusal(f"the file {name} is larger than {SECRET_BYTES_MAX} bytes")
    try:
        text = content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        return Refusal(f"the file {name} is not UTF-8 text")
    return Refusal(f"the file {name} holds a NUL character") if "\0" in text else text


def _file_refusal(status: os.stat_result, name: str) -> Refusal | None:
    if not stat.S_ISREG(status.st_mode):
        return Refusal(f"{name} is not a regular file")
    # Readable by the group is how services are run (root:connector 0640); readable or writable by others is a leak.
    if status.st_mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        return Refusal(f"the file {name} is open to other users", f"chmod 600 {name}")
    return None
