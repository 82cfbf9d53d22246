"""The command line's contract: exit codes, one envelope, no traceback."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path

import psycopg
import pytest
import typer

from connector import __version__, cli
from connector.cli import output
from connector.cli.output import Answer, Output, Table, jsonable, run_verb
from connector.credentials import Secret
from connector.errors import (
    AuditBroken,
    ConfigError,
    ConnectorError,
    EnvironmentMissing,
    MappingError,
    SourceUnavailable,
    StagingIncompatible,
    UsageError,
)

NIK = "3273015512950007"
Captured = pytest.CaptureFixture[str]


def envelope(capsys: Captured) -> dict[str, object]:
    (only,) = capsys.readouterr().out.splitlines()
    loaded = json.loads(only)
    assert isinstance(loaded, dict)
    assert list(loaded) == ["command", "ok", "summary", "result", "error"]
    return loaded


def code_of(error: Exception, *, as_json: bool = False) -> int:
    def verb() -> Answer:
        raise error

    with pytest.raises(typer.Exit) as caught:
        run_verb("check", as_json, verb)
    return caught.value.exit_code


# --------------------------------------------------------------------------------------------- answers


def test_an_answer_is_one_envelope(capsys: Captured) -> None:
    run_verb("status", True, lambda: Answer("fine", {"parties": (1, 2)}))
    assert envelope(capsys) == {
        "command": "status",
        "ok": True,
        "summary": "fine",
        "result": {"parties": [1, 2]},
        "error": None,
    }


def test_people_get_a_table_and_a_sentence(capsys: Captured) -> None:
    assert Output().emit("status", "fine", None, Table(("party", "state"), (("alfa", None),), "All")) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["All"],
        ["party", "state"],
        ["alfa", "-"],
        ["fine"],
    ]


def test_a_wide_table_in_a_file_is_not_folded(capsys: Captured) -> None:
    Output().emit("status", "", None, Table(("a", "b"), (("x" * 150, "y" * 100),)))
    assert "x" * 150 in capsys.readouterr().out


def test_a_cell_cannot_move_the_cursor_or_use_markup(capsys: Captured) -> None:
    Output().emit("status", "[bold]x[/bold]", None, Table(("a",), (("\x1b[2J[red]q",),)))
    assert capsys.readouterr().out.splitlines()[1:] == ["\\x1b[2J[red]q", "[bold]x[/bold]"]


def test_text_goes_out_as_it_is_and_the_summary_beside_it(capsys: Captured) -> None:
    run_verb("kit", False, lambda: Answer("three statements", text="select 1;"))
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("select 1;\n", "three statements")


def test_text_is_the_result_of_an_envelope(capsys: Captured) -> None:
    run_verb("kit", True, lambda: Answer("three statements", text="select 1;"))
    assert envelope(capsys)["result"] == "select 1;"


def test_a_verb_may_fail_and_still_have_a_result(capsys: Captured) -> None:
    with pytest.raises(typer.Exit) as caught:
        run_verb("check", True, lambda: Answer("two findings", [1, 2], error=EnvironmentMissing("no slot", hint="kit")))
    assert caught.value.exit_code == 3
    told = envelope(capsys)
    assert (told["ok"], told["result"], told["summary"]) == (False, [1, 2], "two findings")
    assert told["error"] == {"kind": "environment_missing", "message": "no slot", "hint": "kit", "place": ""}


# --------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (ConfigError("x"), 2),
        (MappingError("x"), 2),
        (EnvironmentMissing("x"), 3),
        (SourceUnavailable("x"), 3),
        (StagingIncompatible("x"), 1),
        (AuditBroken("alfa", 3, "x"), 1),
        (ValueError("x"), 1),
    ],
)
def test_the_exit_code_follows_the_class(error: Exception, code: int, capsys: Captured) -> None:
    assert code_of(error) == code
    assert code_of(error, as_json=True) == code
    capsys.readouterr()


def test_an_error_is_told_on_stderr_with_its_hint(capsys: Captured) -> None:
    code_of(ConfigError("2 problems", problems=("f:1:1: a", "f:2:1: b"), place="f", hint="mend them"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["f:1:1: a", "f:2:1: b", "error: f: 2 problems", "hint: mend them"]


def test_all_problems_stand_in_the_envelope(capsys: Captured) -> None:
    code_of(MappingError("2 problems", problems=("f:1:1: a", "f:2:1: b"), place="f"), as_json=True)
    told = envelope(capsys)
    assert told["result"] == {"problems": ["f:1:1: a", "f:2:1: b"]}
    assert told["summary"] == "f: 2 problems"


@pytest.mark.parametrize("as_json", [False, True])
def test_an_unforeseen_error_shows_neither_traceback_nor_its_text(as_json: bool, capsys: Captured) -> None:
    code_of(psycopg.errors.UniqueViolation(f"Key (nik)=({NIK})"), as_json=as_json)
    out, err = capsys.readouterr()
    assert NIK not in out + err
    assert "Traceback" not in out + err
    assert "unexpected UniqueViolation (23505)" in out + err


def test_a_developer_may_ask_for_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("CONNECTOR_DEBUG", "1")
    code_of(ValueError("x"))
    assert "Traceback" in capsys.readouterr().err


def test_every_error_has_a_kind_in_snake_case() -> None:
    assert output.kind_of(SourceUnavailable("x")) == "source_unavailable"


# --------------------------------------------------------------------------------------------- JSON


class Colour(Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True, slots=True)
class Thing:
    name: str
    dsn: Secret
    at: datetime


def test_values_of_ours_have_a_json_form() -> None:
    thing = Thing("a", Secret.literal(NIK), datetime(2026, 1, 2, tzinfo=UTC))
    assert jsonable(thing) == {"name": "a", "dsn": "Secret((hidden))", "at": "2026-01-02T00:00:00+00:00"}
    assert jsonable((date(2026, 1, 2), timedelta(seconds=2), Decimal("1.0"), Path("/a"), b"\x01", Colour.RED)) == [
        "2026-01-02",
        2.0,
        "1.0",
        "/a",
        "01",
        "red",
    ]
    assert jsonable({Colour.RED: {3, 1, 2}}) == {"red": [1, 2, 3]}


def test_a_value_without_a_json_form_is_our_fault() -> None:
    with pytest.raises(TypeError):
        jsonable(object())


# --------------------------------------------------------------------------------------------- the whole line


def test_the_version(capsys: Captured) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"connector {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["--nonsense"], ["migrate", "--nonsense"], ["--log-format", "x", "migrate"], ["migrate", "x"]],
)
def test_bad_usage_is_2_and_with_json_an_envelope(arguments: list[str], capsys: Captured) -> None:
    assert cli.run(arguments) == 2
    assert capsys.readouterr().out == ""
    assert cli.run([*arguments, "--json"]) == 2
    told = envelope(capsys)
    assert told["ok"] is False
    error = told["error"]
    assert isinstance(error, dict)
    assert error["kind"] == "usage_error"
    assert "--help" in error["hint"]


def test_a_missing_configuration_is_2(tmp_path: Path, capsys: Captured) -> None:
    assert cli.run(["--config", str(tmp_path / "none.yaml"), "migrate", "--json"]) == 2
    told = envelope(capsys)
    assert told["command"] == "migrate"


def test_the_configuration_may_be_named_by_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("CONNECTOR_CONFIG", str(tmp_path / "elsewhere.yaml"))
    assert cli.run(["migrate"]) == 2
    assert "elsewhere.yaml" in capsys.readouterr().err


def test_a_staging_that_nobody_serves_is_3(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "connector.yaml"
    path.write_text(f"staging: {{dsn: 'host={tmp_path} dbname=none'}}\n")
    assert cli.run(["--config", str(path), "migrate", "--json"]) == 3
    error = envelope(capsys)["error"]
    assert isinstance(error, dict)
    assert error["kind"] == "staging_unavailable"


def test_a_fault_before_any_verb_runs_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def broken(_verb: str) -> typer.Typer:
        raise RuntimeError(NIK)

    monkeypatch.setattr(cli, "build", broken)
    assert cli.run(["migrate", "--json"]) == 1
    error = envelope(capsys)["error"]
    assert isinstance(error, dict)
    assert error["kind"] == "internal_error"


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_verb: str) -> typer.Typer:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build", interrupted)
    assert cli.run(["migrate"]) == 130


def test_every_error_class_has_an_exit_code() -> None:
    def below(kind: type[ConnectorError]) -> set[type[ConnectorError]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    assert {code for kind, code in output.EXIT_CODES} <= {2, 3}
    assert all(issubclass(kind, ConnectorError) for kind in below(ConnectorError))
