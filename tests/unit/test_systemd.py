"""What the service manager is told, read from a socket of the test's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.runtime.systemd import Systemd


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.setblocking(False)
        yield ear


def heard(manager: socket.socket) -> list[str]:
    said = []
    try:
        while True:
            said.append(manager.recv(4096).decode())
    except BlockingIOError:
        return said


def test_it_says_ready_reloading_and_stopping(manager: socket.socket) -> None:
    systemd = Systemd(manager.getsockname())
    systemd.ready("2 parties")
    systemd.reloading()
    systemd.alive()
    systemd.stopping()
    said = heard(manager)
    assert said[0] == "READY=1\nSTATUS=2 parties"
    assert said[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert said[2:] == ["STOPPING=1"], "nobody asked for a sign of life"


def test_the_sign_of_life_comes_twice_within_the_deadline(manager: socket.socket) -> None:
    systemd = Systemd(manager.getsockname(), watchdog_s=3600)
    for _ in range(5):
        systemd.alive()
    assert heard(manager) == ["WATCHDOG=1"]


def test_children_do_not_inherit_the_way_to_the_manager(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    systemd = Systemd.from_environment()
    assert "NOTIFY_SOCKET" not in os.environ
    systemd.alive()
    assert heard(manager) == ["WATCHDOG=1"]


def test_a_manager_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    Systemd(str(tmp_path / "nobody"), watchdog_s=1).alive()
    Systemd().ready("alone")
