"""What a verb answers, for people or for programs: tables and sentences, or one JSON envelope.

The envelope is `{"command", "ok", "summary", "result", "error"}`; `error` is null or `{"kind", "message", "hint",
"place"}`. Answers go to stdout, errors in text form and log lines to stderr.
"""

from __future__ import annotations

import json as json_module
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from connector.credentials import Secret
from connector.errors import (
    ConfigError,
    ConnectorError,
    EnvironmentMissing,
    MappingError,
    SourceUnavailable,
    StagingUnavailable,
    UsageError,
)
from connector.logs import describe, printable

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_ENVIRONMENT = 0, 1, 2, 3

# The first match counts; everything else is EXIT_FAILED.
EXIT_CODES: tuple[tuple[type[ConnectorError], int], ...] = (
    (UsageError, EXIT_USAGE),
    (EnvironmentMissing, EXIT_ENVIRONMENT),
    (SourceUnavailable, EXIT_ENVIRONMENT),  # "no server"
    (StagingUnavailable, EXIT_ENVIRONMENT),
)

# Where stdout is a file or a pipe a table is not folded to 80 columns.
WIDTH_UNFOLDED = 400


class InternalError(ConnectorError):
    """Something we did not foresee: a fault of ours."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for people. Cells are made printable; None shows as a dash."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb has to say.

    `text` is for verbs whose product is text (SQL, a note): it is printed as it is, with nothing around it, and the
    summary goes to stderr. `error` makes the verb fail although it has a result (`check` found something).
    """

    summary: str
    result: object = None
    tables: tuple[Table, ...] = ()
    text: str = ""
    error: ConnectorError | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One verb's way out."""

    json: bool = False

    def emit(self, command: str, summary: str, result: object = None, table: Table | None = None) -> int:
        """Say that the verb worked."""
        return self.say(command, Answer(summary, result, (table,) if table else ()))

    def say(self, command: str, answer: Answer) -> int:
        """Print an answer; returns the exit code."""
        if self.json:
            self._envelope(command, answer)
        else:
            _print_answer(answer)
            if answer.error is not None:
                _print_error(answer.error)
        return EXIT_OK if answer.error is None else exit_code(answer.error)

    def fail(self, command: str, error: ConnectorError) -> int:
        """Print an error; returns the exit code."""
        problems = _problems(error)
        result: dict[str, object] | None = {"problems": problems} if problems else None
        if self.json:
            self._envelope(command, Answer("", result, error=error))
        else:
            _print_error(error)
        return exit_code(error)

    def _envelope(self, command: str, answer: Answer) -> None:
        result = answer.text if answer.result is None and answer.text else answer.result
        error = answer.error
        envelope: dict[str, Json] = {
            "command": command,
            "ok": error is None,
            "summary": answer.summary or (str(error) if error else ""),
            "result": jsonable(result),
            "error": None if error is None else _error_json(error),
        }
        sys.stdout.write(json_module.dumps(envelope) + "\n")
        sys.stdout.flush()


def run_verb(command: str, as_json: bool, verb: Callable[[], Answer]) -> None:
    """Run a verb's body and say what came of it.

    Raises:
        typer.Exit: with the exit code, unless it is 0.
    """
    output = Output(as_json)
    try:
        answer = verb()
    except ConnectorError as exc:
        show_traceback_if_asked()
        code = output.fail(command, exc)
    except Exception as exc:  # noqa: BLE001 - the edge to a person: no traceback, no driver's text
        show_traceback_if_asked()
        code = output.fail(command, internal_error(exc))
    else:
        code = output.say(command, answer)
    if code != EXIT_OK:
        raise typer.Exit(code)


def exit_code(error: ConnectorError) -> int:
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), EXIT_FAILED)


def internal_error(exc: Exception) -> ConnectorError:
    """An unforeseen exception, told by class and place only: its text may quote a cell."""
    facts = describe(exc)
    state = f" ({facts['sqlstate']})" if "sqlstate" in facts else ""
    where = str(facts.get("where", ""))
    return InternalError(
        f"unexpected {facts['error_class']}{state}",
        place=where,
        hint="this is a fault of the connector: please report it; CONNECTOR_DEBUG=1 shows where it came from",
    )


def jsonable(value: object) -> Json:
    """A value of ours as JSON: dataclasses by field, bytes as hex, times as ISO text, secrets masked.

    Raises:
        TypeError: a kind of value that no verb should answer with.
    """
    match value:
        case Secret():
            return repr(value)
        case Enum():
            return jsonable(value.value)
        case None | bool() | int() | float() | str():
            return value
        case datetime() | date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal() | PurePath() | UUID():
            return str(value)
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case Mapping():
            return {str(jsonable(key)): jsonable(item) for key, item in value.items()}
        case list() | tuple():
            return [jsonable(item) for item in value]
        case set() | frozenset():
            return sorted((jsonable(item) for item in value), key=str)
    if is_dataclass(value):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"no JSON for {type(value).__name__}")


def kind_of(error: ConnectorError) -> str:
    """The stable word for an error in the envelope: its class in snake case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()


def _error_json(error: ConnectorError) -> dict[str, Json]:
    return {"kind": kind_of(error), "message": error.message, "hint": error.hint, "place": error.place}


def _problems(error: ConnectorError) -> tuple[str, ...]:
    return error.problems if isinstance(error, ConfigError | MappingError) else ()


def show_traceback_if_asked() -> None:
    if os.environ.get("CONNECTOR_DEBUG") == "1":
        traceback.print_exc()


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH_UNFOLDED
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def _print_answer(answer: Answer) -> None:
    if answer.text:
        sys.stdout.write(answer.text if answer.text.endswith("\n") else answer.text + "\n")
        sys.stdout.flush()
    console = _console(stderr=bool(answer.text))
    for table in answer.tables:
        console.print(_rich(table))
    if answer.summary:
        console.print(_lines(answer.summary), soft_wrap=True)


def _rich(table: Table) -> RichTable:
    rich = RichTable(title=table.title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        rich.add_column(column)
    for row in table.rows:
        rich.add_row(*(Text("-" if cell is None else printable(str(cell))) for cell in row))
    return rich


def _print_error(error: ConnectorError) -> None:
    console = _console(stderr=True)
    for problem in _problems(error):
        console.print(_lines(problem), soft_wrap=True)
    console.print(Text("error: ", style="bold red") + _lines(str(error)), soft_wrap=True)
    if error.hint:
        console.print(Text("hint: ", style="bold") + _lines(error.hint), soft_wrap=True)


def _lines(text: str) -> Text:
    """Text of several lines, each made printable."""
    return Text("\n".join(printable(line) for line in text.split("\n")))
