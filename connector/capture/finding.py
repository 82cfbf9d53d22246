"""What an examination of a source found: one fact, how bad it is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is stable; `subject` is a name; `message` and `remedy` are for people and hold no cell value."""

    level: Level
    code: str
    subject: str
    message: str
    remedy: str = ""


def ok(code: str, subject: str, message: str) -> Finding:
    return Finding("ok", code, subject, message)


def warning(code: str, subject: str, message: str, remedy: str) -> Finding:
    return Finding("warning", code, subject, message, remedy)


def error(code: str, subject: str, message: str, remedy: str) -> Finding:
    return Finding("error", code, subject, message, remedy)
