"""Metrics and probes of a running daemon: true figures, no cell, and a stall is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from workbench import Daemon, Workbench

from tests.conftest import missing

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
Make = Callable[..., Workbench]
Labels = dict[str, str]


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


class Monitor:
    """What a monitor sees of one daemon."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._base = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> tuple[int, str]:
        """The answer; code 0 where nobody answers."""
        try:
            with urllib.request.urlopen(self._base + path, timeout=10) as answer:  # noqa: S310 - http, of this test
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()
        except OSError:
            return 0, ""

    def code(self, path: str) -> int:
        return self.get(path)[0]

    def values(self, name: str, **labels: str) -> list[float]:
        """The samples of a metric that have these labels."""
        return [
            sample.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
            if sample.name == f"connector_{name}" and labels.items() <= sample.labels.items()
        ]


@pytest.fixture
def watched(make_workbench: Make) -> tuple[Workbench, Daemon, Monitor]:
    bench = make_workbench("satu", "dua", people=60)
    port = free_port()
    bench.web = f"{{listen: '127.0.0.1:{port}', stall_s: 3}}"
    bench.write_config()
    daemon = bench.start()
    monitor = Monitor(port)
    for name in ("satu", "dua"):
        bench.await_state(name, "streaming")
    bench.wait_until(lambda: monitor.code("/readyz") == 200, "the daemon is ready")
    return bench, daemon, monitor


def test_metrics_say_what_happened_and_no_cell(watched: tuple[Workbench, Daemon, Monitor]) -> None:
    bench, daemon, monitor = watched
    bench.parties["satu"].run("update public.orang set nama = nama || ' X' where orang_id <= 7")
    bench.check("satu")
    bench.parties["satu"].run("update public.orang set nik = '3.27301E+15' where orang_id = 9")
    bench.check("satu")
    bench.wait_until(lambda: monitor.values("quarantine_rows", party="satu", entity="anggota") == [1], "one refused")
    assert monitor.values("rows_total", party="satu", entity="anggota", outcome="updated") == [7]
    assert monitor.values("live_rows", party="dua", entity="anggota") == [60]
    assert monitor.values("entity_state", party="satu", entity="anggota", state="streaming") == [1]
    assert monitor.values("party_up") == [1, 1]
    assert monitor.values("staging_up") == [1]
    assert len(monitor.values("last_progress_timestamp_seconds")) == 2
    bench.wait_until(lambda: sum(monitor.values("batches_total", party="satu")) >= 2, "the worker reports its batches")
    stages = {
        stage: monitor.values("batch_seconds_total", party="satu", stage=stage)[0] for stage in ("fetch", "apply")
    }
    assert all(seconds > 0 for seconds in stages.values()), stages
    (headroom,) = monitor.values("slot_headroom_bytes", party="satu")
    assert 0 < headroom <= 8192 << 20
    page = monitor.get("/metrics")[1]
    assert "ORANG" not in page
    assert "327301" not in page
    # One wide line for the batch of seven, with its stages.
    seven = {"signalled": 7, "read": 7, "updated": 7}
    lines = daemon.named("batch_committed", "satu")
    (line,) = (line for line in lines if line["entities"].get("anggota") == seven)
    for stage in ("read", "gate", "fetch", "apply", "record", "commit", "confirm"):
        assert 0 <= line[f"{stage}_s"] < 60


def test_a_stall_fails_readiness_and_ends_when_it_ends(watched: tuple[Workbench, Daemon, Monitor]) -> None:
    bench, daemon, monitor = watched
    # The worker stands still in its transaction: it says nothing any more. Liveness is about every party of the daemon.
    os.kill(daemon.worker_pid("satu"), signal.SIGSTOP)
    with bench.staging() as conn:
        conn.execute(
            "update connector.worker set heartbeat_at = now() - interval '5 minutes', lag_s = 100 where party = 'satu'"
        )
    bench.wait_until(lambda: monitor.code("/readyz") == 503, "readiness fails")
    assert "satu: stalled" in monitor.get("/readyz")[1]
    assert (monitor.code("/readyz?party=satu"), monitor.code("/readyz?party=dua")) == (503, 200)
    assert monitor.code("/livez") == 200
    assert monitor.values("party_stalled", party="satu") == [1]
    assert monitor.values("party_up", party="satu") == [0]
    assert [line["party"] for line in daemon.named("party_stalled")] == ["satu"]
    os.kill(daemon.worker_pid("satu"), signal.SIGCONT)
    bench.wait_until(lambda: monitor.code("/readyz") == 200, "the daemon is ready again")


def test_when_every_party_stands_still_the_daemon_is_not_alive(watched: tuple[Workbench, Daemon, Monitor]) -> None:
    bench, daemon, monitor = watched
    pids = [daemon.worker_pid(name) for name in bench.parties]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with bench.staging() as conn:
        conn.execute("update connector.worker set heartbeat_at = now() - interval '5 minutes'")
    bench.wait_until(lambda: monitor.code("/livez") == 503, "liveness fails")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    bench.wait_until(lambda: monitor.code("/livez") == 200, "liveness is back")


def test_the_web_process_is_started_again_and_no_party_notices(watched: tuple[Workbench, Daemon, Monitor]) -> None:
    bench, daemon, monitor = watched
    os.kill(daemon.worker_pid("web"), signal.SIGKILL)
    bench.wait_until(lambda: len(daemon.named("worker_started", "web")) == 2, "it is started again")
    bench.wait_until(lambda: monitor.code("/readyz") == 200, "it answers again")
    bench.check("satu")
    assert len(daemon.named("worker_started", "satu")) == 1
    assert monitor.code("/") == 404
    assert monitor.code("/readyz?party=tiga") == 503


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[int], Monitor]]:
    """`prometheus(port)`: a real one, with our configuration and rules, that watches the daemon of that port."""
    if shutil.which("prometheus") is None:
        missing("prometheus is not installed")
    started: list[subprocess.Popen[bytes]] = []

    def start(watched: int) -> Monitor:
        port = free_port()
        settings = (DEPLOY / "prometheus.yaml").read_text().replace("connector:9187", f"127.0.0.1:{watched}")
        (tmp_path / "prometheus.yaml").write_text(settings.replace("15s", "1s"))
        shutil.copy(DEPLOY / "alerts.yaml", tmp_path)
        command = [
            "prometheus", f"--config.file={tmp_path / 'prometheus.yaml'}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]  # fmt: skip
        with (tmp_path / "prometheus.log").open("wb") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return Monitor(port)

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_real_prometheus_watches_the_daemon_by_our_rules(
    watched: tuple[Workbench, Daemon, Monitor], prometheus: Callable[[int], Monitor]
) -> None:
    bench, _, monitor = watched
    server = prometheus(monitor.port)

    def asked(query: str) -> dict[str, str]:
        code, text = server.get(f"/api/v1/query?query={urllib.parse.quote(query)}")
        found = json.loads(text)["data"]["result"] if code == 200 else []
        return {one["metric"].get("party", ""): one["value"][1] for one in found}

    bench.wait_until(lambda: asked("connector_party_up") == {"satu": "1", "dua": "1"}, "it has looked at the daemon")
    groups = json.loads(server.get("/api/v1/rules")[1])["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
    # An entity that waits for an approval: the alert has no delay.
    with bench.staging() as conn:
        conn.execute("update connector.entity set state = 'held', reason = 'delete_brake' where party = 'satu'")
    firing = 'ALERTS{alertname="ConnectorBrakePulled", alertstate="firing"}'
    bench.wait_until(lambda: "satu" in asked(firing), "the alert fires")
