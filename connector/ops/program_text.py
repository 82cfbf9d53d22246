"""A mapping program as SQL text that a person reads or pastes into psql: values written in, inputs named."""

from __future__ import annotations

import re

from psycopg import sql

from connector.mapping.program import Program


def program_text(program: Program) -> str:
    """The program's statement with its parameters written out, and a head that says what it reads."""
    names = "\n".join(f"--   i{place:<3} {_comment(column)}" for place, column in enumerate(program.inputs))
    view = _comment(".".join(program.view))
    head = (
        f"-- {program.entity} from {view}, key {_comment(', '.join(program.key))}; mapping version"
        f" {program.mapping_version}, digest {program.mapping_digest}\n"
        f"-- Reads a table `inbox` of text columns, and `edge`:\n{names}\n"
    )
    return f"{head}{_written_out(program)};\n"


def _comment(text: str) -> str:
    """A party's name for something, kept on the comment's line."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _written_out(program: Program) -> str:
    def value(match: re.Match[str]) -> str:
        return sql.Literal(program.params[match[1]]).as_string(None)

    return re.sub(r"%\((\w+)\)s", value, program.select)
