"""Log lines to stderr: one event, its facts, nothing secret.

Event names are `noun_pasttense`, facts are keywords with units (`lag_bytes`, `took_s`). An exception is rendered as
its class, its SQLSTATE and, where it is one of ours, its message and hint. A driver's own text never gets out: it
quotes cell values.
"""

from __future__ import annotations

import logging
import math
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Literal, TextIO, TypeGuard, cast
from uuid import UUID

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from connector.errors import ConnectorError

Style = Literal["console", "json"]

TEXT_MAX = 2_000  # a message of ours is shorter; what is longer is not a fact but a leak
DEPTH_MAX = 4

# Libraries whose messages are made of our own job names and figures. Of all others only the template is kept.
TRUSTED_LIBRARIES = ("apscheduler", "connector")


def setup(
    style: Style = "console", *, level: str = "info", party: str | None = None, stream: TextIO | None = None
) -> None:
    """Send all log lines to `stream` (stderr), ours and the libraries'.

    Call once per process, before the first thread. `party` is bound to every line of this process: a worker has one.
    """
    target = _Tolerant(stream or sys.stderr)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=_processors(style, party, target.isatty()),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, target)),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_LibraryHandler()]
    root.setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)


def get(**facts: object) -> FilteringBoundLogger:
    """A logger; `facts` stand on each of its lines."""
    logger: FilteringBoundLogger = structlog.get_logger(**facts)
    return logger


def describe(error: BaseException) -> dict[str, object]:
    """What may be told about an exception: class, SQLSTATE, place in our code; message and hint when it is ours."""
    facts: dict[str, object] = {"error_class": type(error).__name__}
    if isinstance(error, ConnectorError):
        facts["error"] = str(error)
        if error.hint:
            facts["hint"] = error.hint
    sqlstate = getattr(error, "sqlstate", None)
    if isinstance(sqlstate, str):
        facts["sqlstate"] = sqlstate
    if isinstance(error, OSError) and error.errno is not None:
        facts["errno"] = error.errno
    frames = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), lookup_lines=False)
    if frames:
        last = next((frame for frame in reversed(frames) if "connector" in PurePath(frame.filename).parts), frames[-1])
        facts["where"] = f"{PurePath(last.filename).name}:{last.lineno} {last.name}"
    if error.__cause__ is not None:
        facts["caused_by"] = type(error.__cause__).__name__
    return facts


def printable(text: str, length_max: int = TEXT_MAX) -> str:
    """`text` on one line: control characters, line ends and direction marks become escapes; too long is cut."""
    if len(text) > length_max:
        text = f"{text[:length_max]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


# ------------------------------------------------------------------------------------------------- processors


def _processors(style: Style, party: str | None, colors: bool) -> list[Processor]:
    def bind_party(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        if party is not None:
            event.setdefault("party", party)
        return event

    last: Processor
    if style == "json":
        last = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        last = structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)
    return [
        structlog.contextvars.merge_contextvars,
        bind_party,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        deny_exception_text,
        only_plain_values,
        in_reading_order,
        last,
    ]


def deny_exception_text(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace `exc_info`, and any exception given as a fact, by what `describe` tells."""
    info = event.pop("exc_info", None)
    event.pop("stack_info", None)
    error = _exception_of(info)
    if error is not None:
        for name, fact in describe(error).items():
            event.setdefault(name, fact)
    for name, value in tuple(event.items()):
        if isinstance(value, BaseException):
            event[name] = describe(value)
    return event


def only_plain_values(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Let through names, figures and times; show of everything else only its type or size."""
    return {printable(str(name), 100): _plain(value, DEPTH_MAX) for name, value in event.items()}


def in_reading_order(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """When, how bad, what, who; then the facts as they were given."""
    return {name: event[name] for name in ("timestamp", "level", "event", "party") if name in event} | dict(event)


def _exception_of(info: object) -> BaseException | None:
    if isinstance(info, BaseException):
        return info
    if isinstance(info, tuple) and len(info) == 3 and isinstance(info[1], BaseException):
        return info[1]
    return sys.exc_info()[1] if info else None


def _plain(value: object, depth: int) -> object:
    match value:
        case Enum():
            return _plain(value.value, depth)
        case float():
            return value if math.isfinite(value) else str(value)
        case None | bool() | int():
            return value
        case str():
            return printable(value)
        case datetime() | date():
            return value.isoformat()
        case PurePath() | UUID() | Decimal() | timedelta():
            return printable(str(value))
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case BaseException():
            return {name: _plain(fact, depth - 1) for name, fact in describe(value).items()}
    if depth > 0 and _is_mapping(value):
        return {printable(str(_plain(key, 0)), 100): _plain(item, depth - 1) for key, item in value.items()}
    if depth > 0 and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1) for item in value]
    return f"<{type(value).__name__}>"


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


# ------------------------------------------------------------------------------------------------- libraries


class _LibraryHandler(logging.Handler):
    """Turns a library's log record into an event of ours, without its arguments: drivers put error texts there."""

    def emit(self, record: logging.LogRecord) -> None:
        facts: MutableMapping[str, Any] = {"library": record.name, "at": f"{record.module}:{record.lineno}"}
        if record.name.split(".")[0] in TRUSTED_LIBRARIES:
            facts["said"] = record.getMessage()
        elif record.args and isinstance(record.msg, str):
            facts["said"] = record.msg  # the template
        if record.exc_info:
            facts["exc_info"] = record.exc_info
        speak: Callable[..., object] = structlog.get_logger().warning
        if record.levelno >= logging.ERROR:
            speak = structlog.get_logger().error
        speak("library_spoke", **facts)


class _Tolerant:
    """A stream whose loss (a closed pipe, a full disk) does not stop the daemon."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:  # a terminal that is not UTF-8
            return self._stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        except (OSError, ValueError):
            return 0

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except ValueError:
            return False
