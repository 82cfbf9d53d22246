"""A running daemon takes a changed configuration: only what differs is started again, and a mistake changes nothing."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from workbench import Daemon, Workbench

Make = Callable[..., Workbench]


def reload(bench: Workbench, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = bench.connector("reload", "--json", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    envelope = json.loads(done.stdout)
    assert isinstance(envelope, dict)
    return envelope


def changes(envelope: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    return {one["party"]: (one["change"], one["parts"]) for one in envelope["result"]["changes"]}


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What systemd listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", ear.getsockname())
        yield ear


def heard(manager: socket.socket) -> Iterator[str]:
    with suppress(BlockingIOError):
        while True:
            yield manager.recv(4096).decode().split("\n")[0]


@pytest.fixture
def three(make_workbench: Make, manager: socket.socket) -> tuple[Workbench, Daemon]:  # noqa: ARG001 - heard by it
    """Parties satu, dua and tiga; the daemon runs and knows of the first two only."""
    bench = make_workbench("satu", "dua", "tiga", people=40)
    third = bench.parties.pop("tiga")
    bench.write_config()
    daemon = bench.start()
    for name in ("satu", "dua"):
        bench.await_state(name, "streaming")
    bench.parties["tiga"] = third
    return bench, daemon


def test_a_party_is_added_and_one_is_changed_and_the_others_are_not_touched(
    three: tuple[Workbench, Daemon], manager: socket.socket
) -> None:
    bench, daemon = three
    pid = daemon.worker_pid("satu")
    bench.parties["dua"] = replace(bench.parties["dua"], limits={"poll_s": 0.3})
    bench.write_config()
    planned = reload(bench, "--dry-run")
    assert changes(planned) == {"satu": ("none", []), "dua": ("restart", ["limits"]), "tiga": ("start", [])}
    assert daemon.named("configuration_reloaded") == []
    assert changes(reload(bench)) == changes(planned)
    bench.check("tiga")
    bench.check("dua")
    bench.check("satu")
    assert [line["pid"] for line in daemon.named("worker_started", "satu")] == [pid]
    (told,) = daemon.named("configuration_reloaded")
    assert (told["added"], told["changed"], told["removed"]) == (["tiga"], ["dua", "jobs"], [])
    assert [line["exit_code"] for line in daemon.named("worker_retired", "dua")] == [0]
    # And gone again: its worker ends, the rest goes on.
    del bench.parties["tiga"]
    bench.write_config()
    assert changes(reload(bench))["tiga"] == ("stop", [])
    bench.wait_until(lambda: bool(daemon.named("worker_retired", "tiga")), "the third party's worker ended")
    assert daemon.stop() == 0
    assert [line["pid"] for line in daemon.named("worker_started", "satu")] == [pid]
    assert list(heard(manager)) == ["READY=1", *["RELOADING=1", "READY=1"] * 2, "STOPPING=1"]


def test_a_mistake_is_refused_with_its_place_and_everything_runs_on(three: tuple[Workbench, Daemon]) -> None:
    bench, daemon = three
    bench.write_config()
    mapping = bench.folder / "satu.yaml"
    good = mapping.read_text()
    mapping.write_text(good.replace("nama: nama", "namaa: nama", 1))
    refused = reload(bench, code=2)
    assert any("satu.yaml:" in problem for problem in refused["result"]["problems"])
    assert daemon.named("configuration_refused") == []
    # Told all the same, the daemon refuses it by itself.
    daemon.process.send_signal(signal.SIGHUP)
    bench.wait_until(lambda: bool(daemon.named("configuration_refused")), "the daemon refuses")
    (line,) = daemon.named("configuration_refused")
    assert any("satu.yaml:" in problem for problem in line["problems"])
    # Not even a worker that has to be started again meets the mistake.
    daemon.kill_worker("satu")
    bench.wait_until(lambda: len(daemon.named("worker_started", "satu")) == 2, "the worker is started again")
    bench.await_caught_up("satu")
    mapping.write_text(good)
    bench.check("satu")
    bench.check("dua")
    assert len(daemon.named("worker_started", "dua")) == 1


def test_without_a_daemon_on_this_machine_nobody_is_told(make_workbench: Make) -> None:
    bench = make_workbench("uji", people=10)
    told = reload(bench, code=1)
    assert told["error"]["message"] == "no daemon of this machine was found"
    assert changes(told) == {"uji": ("start", [])}
