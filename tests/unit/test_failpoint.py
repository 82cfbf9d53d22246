"""Failpoints act where and when they are told to, once, and never without being told."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from connector import failpoint

Load = Callable[[str], ModuleType]
DEADLINE_S = 30.0


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """The module as a process would have it that was started with these failpoints."""

    def load(points: str) -> ModuleType:
        monkeypatch.setenv("CONNECTOR_FAILPOINTS", points)
        spec = importlib.util.spec_from_file_location("armed_failpoint", failpoint.__file__)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


def test_nothing_happens_where_nothing_is_asked_for(load: Load) -> None:
    points = load("")
    for name in (*points.NAMES, "no such place"):
        points.hit(name)


def test_a_point_raises_at_its_first_visit_only(load: Load) -> None:
    points = load("before_commit=raise")
    points.hit("after_commit")
    with pytest.raises(points.FailpointReached, match="before_commit"):
        points.hit("before_commit")
    points.hit("before_commit")


def test_a_point_may_wait_for_a_later_visit(load: Load) -> None:
    points = load("copy_chunk_applied=raise:3")
    points.hit("copy_chunk_applied")
    points.hit("copy_chunk_applied")
    with pytest.raises(points.FailpointReached):
        points.hit("copy_chunk_applied")
    points.hit("copy_chunk_applied")


def test_several_points_count_apart(load: Load) -> None:
    points = load("after_rows=raise:2, after_audit=raise")
    points.hit("after_rows")
    with pytest.raises(points.FailpointReached, match="after_audit"):
        points.hit("after_audit")
    with pytest.raises(points.FailpointReached, match="after_rows"):
        points.hit("after_rows")


def test_a_place_that_is_not_on_the_list_is_refused_where_points_are_armed(load: Load) -> None:
    points = load("after_rows=raise")
    with pytest.raises(AssertionError, match="no such place"):
        points.hit("no such place")


def test_a_delay_goes_on_afterwards(load: Load) -> None:
    load("after_rows=sleep-0.001").hit("after_rows")


def test_every_place_stands_in_the_code_and_every_hit_is_on_the_list() -> None:
    root = Path(failpoint.__file__).parent
    code = "\n".join(path.read_text(encoding="utf-8") for path in root.rglob("*.py") if path.name != "failpoint.py")
    assert [name for name in failpoint.NAMES if f'"{name}"' not in code] == []
    assert len(set(failpoint.NAMES)) == len(failpoint.NAMES)


def test_kill_is_a_kill_that_nothing_outruns() -> None:
    script = """
from connector import failpoint
try:
    failpoint.hit("before_confirm")
finally:
    print("outran it")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"CONNECTOR_FAILPOINTS": "before_confirm=kill"},
        cwd=Path(failpoint.__file__).parent.parent,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b""


def test_a_point_with_a_file_is_armed_by_the_file_and_acts_once(load: Load, tmp_path: Path) -> None:
    trigger = tmp_path / "now"
    points = load(f"after_rows=raise@{trigger}")
    points.hit("after_rows")
    trigger.touch()
    with pytest.raises(points.FailpointReached):
        points.hit("after_rows")
    assert not trigger.exists()
    points.hit("after_rows")


def test_hold_waits_until_it_is_let_go(load: Load, tmp_path: Path) -> None:
    trigger, taken = tmp_path / "now", tmp_path / "now.taken"
    points = load(f"after_rows=hold@{trigger}")
    trigger.touch()
    holding = threading.Thread(target=points.hit, args=("after_rows",), daemon=True)
    holding.start()
    deadline = time.monotonic() + DEADLINE_S
    while not taken.exists():
        assert time.monotonic() < deadline
    assert holding.is_alive()
    taken.unlink()
    holding.join(DEADLINE_S)
    assert not holding.is_alive()
