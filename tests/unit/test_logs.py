"""Log lines carry names and figures, never a driver's words, a secret, or a terminal escape."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path

import psycopg
import pytest
import structlog

from connector import logs
from connector.credentials import Secret
from connector.errors import SourceUnavailable

NIK = "3273015512950007"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def line(stream: io.StringIO) -> dict[str, object]:
    (only,) = stream.getvalue().splitlines()
    loaded = json.loads(only)
    assert isinstance(loaded, dict)
    return loaded


def test_a_line_starts_with_when_how_bad_what_and_who(stream: io.StringIO) -> None:
    logs.setup("json", party="alfa", stream=stream)
    logs.get(entity="anggota").info("batch_committed", rows=3)
    assert list(line(stream)) == ["timestamp", "level", "event", "party", "entity", "rows"]


def test_the_process_s_party_does_not_replace_a_named_one(stream: io.StringIO) -> None:
    logs.setup("json", party="alfa", stream=stream)
    logs.get().info("party_started", party="beta")
    assert line(stream)["party"] == "beta"


def test_below_the_level_nothing_is_written(stream: io.StringIO) -> None:
    logs.setup("json", stream=stream)
    logs.get().debug("row_seen")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_driver_s_text_never_gets_out(stream: io.StringIO, style: logs.Style) -> None:
    logs.setup(style, stream=stream)
    log = logs.get()
    try:
        raise psycopg.errors.UniqueViolation(f"Key (nik)=({NIK}) already exists.")
    except psycopg.Error as error:
        log.exception("batch_failed")
        log.error("batch_failed", reason=error, all=[error], exc_info=error)
        log.error("batch_failed", exc_info=(type(error), error, error.__traceback__))
    assert NIK not in stream.getvalue()
    assert "UniqueViolation" in stream.getvalue()
    assert "23505" in stream.getvalue()


def test_an_error_of_ours_says_what_it_says_and_what_caused_it(stream: io.StringIO) -> None:
    logs.setup("json", stream=stream)
    try:
        raise SourceUnavailable("gone", hint="look there", place="alfa") from psycopg.OperationalError(NIK)
    except SourceUnavailable:
        logs.get().exception("source_lost")
    told = line(stream)
    assert (told["error"], told["hint"], told["error_class"]) == ("alfa: gone", "look there", "SourceUnavailable")
    assert told["caused_by"] == "OperationalError"
    assert str(told["where"]).startswith("test_logs.py:")


def test_an_os_error_tells_its_number(stream: io.StringIO) -> None:
    logs.setup("json", stream=stream)
    logs.get().error("file_lost", exc_info=FileNotFoundError(2, NIK))
    assert line(stream)["errno"] == 2
    assert NIK not in stream.getvalue()


@pytest.mark.parametrize("style", ["json", "console"])
def test_control_characters_cannot_forge_a_line_or_move_the_cursor(stream: io.StringIO, style: logs.Style) -> None:
    logs.setup(style, stream=stream)
    logs.get().info("view_read", view="a\nb\r\x1b[2J\u202e\u2028\x00", **{"odd\nkey": 1})
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert not set("\r\x1b\u202e\u2028\x00") & set(written)


class Colour(Enum):
    RED = "red"


def test_only_plain_values_pass(stream: io.StringIO) -> None:
    logs.setup("json", stream=stream)
    logs.get().info(
        "values_shown",
        row=NIK.encode(),
        secret=Secret.literal(NIK),
        thing=io.StringIO(NIK),
        colour=Colour.RED,
        at=datetime(2026, 1, 2, tzinfo=UTC),
        took=timedelta(seconds=1),
        share=Decimal("0.1"),
        path=Path("/a"),
        ratio=float("nan"),
        nested={"a": [b"12", {"b": (1, None, True)}]},
        deep=[[[[[[NIK]]]]]],
    )
    told = line(stream)
    assert NIK not in stream.getvalue()
    assert (told["row"], told["secret"], told["thing"]) == ("<16 bytes>", "<Secret>", "<StringIO>")
    assert (told["colour"], told["share"], told["path"], told["ratio"]) == ("red", "0.1", "/a", "nan")
    assert told["nested"] == {"a": ["<2 bytes>", {"b": [1, None, True]}]}


def test_a_long_text_is_cut(stream: io.StringIO) -> None:
    logs.setup("json", stream=stream)
    logs.get().info("text_shown", text="x" * 100_000)
    assert len(stream.getvalue()) < logs.TEXT_MAX + 300


def test_of_a_library_s_line_only_the_template_is_kept(stream: io.StringIO) -> None:
    logs.setup("json", stream=stream)
    logging.getLogger("psycopg").warning("error ignored: %s", NIK)
    logging.getLogger("psycopg").error(f"built by hand: {NIK}", exc_info=ValueError(NIK))  # noqa: G004 - what a careless library does
    logging.getLogger("psycopg").info("not shown")
    first, second = (json.loads(text) for text in stream.getvalue().splitlines())
    assert (first["event"], first["library"], first["said"]) == ("library_spoke", "psycopg", "error ignored: %s")
    assert (second["level"], second["error_class"]) == ("error", "ValueError")
    assert NIK not in stream.getvalue()


def test_the_scheduler_may_name_its_jobs(stream: io.StringIO) -> None:
    logs.setup("json", stream=stream)
    logging.getLogger("apscheduler.executors").warning("Run time of job %s was missed", "reconcile")
    assert line(stream)["said"] == "Run time of job reconcile was missed"


def test_a_warning_s_text_is_not_shown(stream: io.StringIO) -> None:
    logs.setup("json", stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn(NIK, stacklevel=1)
    assert NIK not in stream.getvalue()


class Broken(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_lost_stderr_does_not_stop_the_program(stream: io.StringIO) -> None:
    del stream
    logs.setup("json", stream=Broken())
    logs.get().error("batch_failed")


def test_a_terminal_without_unicode_still_gets_the_line(stream: io.StringIO) -> None:
    del stream
    raw = io.BytesIO()
    logs.setup("json", stream=io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    logs.get().info("view_read", view="é")
    assert b"\\xe9" in raw.getvalue()
