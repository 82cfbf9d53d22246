"""Names, texts and bodies as SQL text, for scripts that people read and run. Pure."""

from __future__ import annotations

from psycopg import sql


def name(*parts: str) -> str:
    return sql.Identifier(*parts).as_string()


def text(value: str) -> str:
    # With `standard_conforming_strings` off a backslash would be an escape; E'' means the same in both worlds.
    quoted = value.replace("'", "''")
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in value else "'" + quoted + "'"


def remark(value: str) -> str:
    """A name inside a comment: a line break in it would end the comment and start SQL."""
    return "".join(letter if letter.isprintable() else "?" for letter in value)


def quoted(body: str) -> str:
    """Dollar-quote a body with a tag that does not occur in it."""
    tag = "kit"
    # With the closing dollar, because a body's own end and it could make the tag between them.
    while f"${tag}$" in body + "$":
        tag += "_"
    return f"${tag}${body}${tag}$"


def do(body: str) -> str:
    return f"do {quoted(body)};\n"


def texts(values: tuple[str, ...]) -> str:
    return "array[" + ", ".join(text(value) for value in values) + "]::text[]"


def indented(block: str, width: int) -> str:
    return "\n".join(" " * width + line if line else line for line in block.splitlines())
