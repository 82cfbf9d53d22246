"""What deploy/ offers holds together: alerts are tested, documented and about metrics there are; units are hardened."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from connector import config
from connector.ops.figures import Figures
from connector.ops.status import Copy, Entity, Latency, Verification
from connector.resources import config_path
from connector.web import metrics
from connector.web.health import Health
from connector.web.seen import Seen
from tests.conftest import missing
from tests.unit.test_health import AT, STALL_S, party, status

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
TESTS = DEPLOY / "prometheus" / "alerts_test.yaml"
# From the kernel, Prometheus itself, or a label's values.
_METRIC = re.compile(r"\bconnector_[a-z_]+\b")


def run(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which(tool) is None:
        missing(f"{tool} is not installed")
    return subprocess.run(
        [tool, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def rules() -> list[dict[str, Any]]:
    return [rule for group in documents(ALERTS)[0]["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def page() -> str:
    """A page of /metrics on which every metric there can be is shown."""
    latency = Latency(3, 0.1, 0.2, 0.3)
    entity = Entity(
        "copying", None, None, AT, 10, 9, 8, 1, 2, 3, 4, 5, 6, 7, 8, 9, Copy(5, True, None), None, AT, 1.0, latency, "1"
    )
    standing = replace(party(), entities={"anggota": entity}, oldest_wish_age_s=3.0, headroom_bytes=5)
    found = status(alfa=standing)
    found = replace(found, audit=replace(found.audit, unanchored_s=5.0, heartbeat_age_s=1.0))
    found = replace(found, verification=Verification(AT, True, 9))
    figures = Figures(found, {"alfa": {"batches": 2, "apply": 1.5}})
    seen = Seen("host:1", 5.0, figures, Health(STALL_S).look(found, 0), 0, "", {"": 5.0, "alfa": 6.0})
    example = config.load(config_path("connector.yaml"), check_secrets=False, check_mappings=False)
    return metrics.text(seen, example, 1).decode()


@pytest.fixture(scope="module")
def offered(page: str) -> set[str]:
    return {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}


# ------------------------------------------------------------------------------------------------- monitoring


def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    for verb, file in (("rules", "alerts.yaml"), ("config", "prometheus.yaml")):
        done = run("promtool", "check", verb, DEPLOY / "prometheus" / file)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    done = run("promtool", "test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = {one["alertname"] for test in documents(TESTS)[0]["tests"] for one in test["alert_rule_test"]}
    assert tested == {rule["alert"] for rule in rules()}


def test_an_alert_that_is_gone_is_missed_by_its_test(tmp_path: Path) -> None:
    for file in (ALERTS, TESTS):
        text = file.read_text(encoding="utf-8").replace(
            "connector_brake_pulled) == 1\n        labels", "up) == 2\n        labels"
        )
        (tmp_path / file.name).write_text(text, encoding="utf-8")
    assert run("promtool", "test", "rules", tmp_path / TESTS.name).returncode == 1


def test_each_alert_has_a_severity_and_its_own_page_in_the_runbook() -> None:
    pages = re.findall(r"^## (\w+)$", (DEPLOY / "RUNBOOK.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(pages) == sorted(rule["alert"] for rule in rules())
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["runbook"] == f"deploy/RUNBOOK.md#{rule['alert'].lower()}"


def test_alerts_and_dashboard_ask_for_metrics_that_there_are(offered: set[str]) -> None:
    dashboard = (DEPLOY / "grafana" / "connector.json").read_text(encoding="utf-8")
    asked = set(_METRIC.findall(dashboard)) | {name for rule in rules() for name in _METRIC.findall(rule["expr"])}
    assert len(asked) > 15
    assert asked <= offered


def test_labels_are_party_entity_and_words_of_ours(page: str) -> None:
    labels = {
        name for family in text_string_to_metric_families(page) for sample in family.samples for name in sample.labels
    }
    assert labels == {"party", "entity", "state", "outcome", "stage", "quantile", "version"}


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "connector.json").read_text(encoding="utf-8"))
    assert {"title", "uid", "panels", "templating", "schemaVersion"} <= dashboard.keys()
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))
    places: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        assert panel["type"] == "row" or panel["targets"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & places, f"{panel['title']} lies over another panel"
        places |= cells


def test_promtool_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "connector.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    rules = [{"record": f"uji:{place}", "expr": expr.replace("$party", ".*")} for place, expr in enumerate(asked)]
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    done = run("promtool", "check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(asked)} rules found" in done.stdout


# ------------------------------------------------------------------------------------------------- systemd


@pytest.mark.parametrize(("unit", "most"), [("sipol-connector", 1.5), ("sipol-audit-verify", 4.0)])
def test_units_are_hardened(unit: str, most: float) -> None:
    done = run("systemd-analyze", "security", "--offline=true", DEPLOY / f"{unit}.service")
    score = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    if score is None:
        pytest.skip("this systemd cannot judge a unit that is not installed")
    assert float(score[1]) <= most, done.stdout


def test_the_unit_is_watched_and_reloads() -> None:
    unit = (DEPLOY / "sipol-connector.service").read_text(encoding="utf-8")
    for line in (
        "Type=notify",
        "NotifyAccess=main",
        "WatchdogSec=60",
        "KillMode=mixed",
        "LimitCORE=0",
        "Restart=always",
    ):
        assert f"\n{line}\n" in unit
    assert "connector reload" in unit


# ------------------------------------------------------------------------------------------------- containers


def test_compose_names_what_there_is_and_gives_nothing_away() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    assert set(compose["services"]) == {"staging", "connector", "prometheus", "grafana"}
    for name, service in compose["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            exists = source in compose["volumes"] if not source.startswith(".") else (DEPLOY / source).exists()
            assert exists, f"{name}: {source}"
        for secret in service.get("secrets", ()):
            assert (secret if isinstance(secret, str) else secret["source"]) in compose["secrets"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert not any("password" in str(value).lower() and "/run/secrets" not in str(value)
                       for value in service.get("environment", {}).values())  # fmt: skip
    connector = compose["services"]["connector"]
    assert connector["read_only"]
    assert connector["cap_drop"] == ["ALL"]
    assert connector["ulimits"]["core"] == 0


def test_the_image_runs_as_nobody_special_and_copies_what_there_is() -> None:
    lines = (DEPLOY / "Containerfile").read_text(encoding="utf-8").splitlines()
    assert "USER 10001:10001" in lines
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source


def pods(path: Path) -> Iterator[dict[str, Any]]:
    for one in documents(path):
        spec = one.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            yield template["spec"]


def test_kubernetes_manifests_are_restricted_and_share_the_work() -> None:
    files = [DEPLOY / "kubernetes" / name for name in ("connector.yaml", "jobs.yaml")]
    found = {one["kind"]: one for path in files for one in documents(path)}
    assert {"Deployment", "PodDisruptionBudget", "NetworkPolicy", "Service", "CronJob", "Job"} <= found.keys()
    assert found["Deployment"]["spec"]["replicas"] == 2
    assert found["PodDisruptionBudget"]["spec"]["minAvailable"] == 1
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert all(found[kind]["spec"]["selector"].get("matchLabels", found[kind]["spec"]["selector"]) == labels
               for kind in ("PodDisruptionBudget", "Service"))  # fmt: skip
    for pod in (pod for path in files for pod in pods(path)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    probes = {name: container[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe", "startupProbe")}
    assert probes == {"livenessProbe": "/livez", "readinessProbe": "/readyz", "startupProbe": "/livez"}


def test_kustomize_reads_the_manifests() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = run("kubectl", "kustomize", DEPLOY / "kubernetes")
    assert done.returncode == 0, done.stderr


def test_the_manifests_configuration_is_one_that_loads(tmp_path: Path) -> None:
    maps = (one for one in documents(DEPLOY / "kubernetes" / "connector.yaml") if one["kind"] == "ConfigMap")
    text = next(one["data"]["connector.yaml"] for one in maps if one["metadata"]["name"] == "connector")
    mapping = ROOT / "schemas" / "parties" / "alfa.yaml"
    path = tmp_path / "connector.yaml"
    path.write_text(text.replace("/etc/sipol/parties/alfa.yaml", str(mapping)), encoding="utf-8")
    loaded = config.load(path, check_secrets=False)
    assert loaded.web is not None
    assert loaded.web.port == 9187


# ------------------------------------------------------------------------------------------------- materials


def test_the_bill_of_materials_is_that_of_the_lock_and_says_each_licence() -> None:
    lock = ROOT / "requirements-runtime.lock"
    command = [sys.executable, str(DEPLOY / "sbom.py"), str(lock)]
    first = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
    bill = json.loads(first)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    locked = set(re.findall(r"^([a-z0-9.-]+)(?:\[.*\])?==", lock.read_text(encoding="utf-8"), re.MULTILINE))
    assert {component["name"] for component in bill["components"]} == locked
    for component in bill["components"]:
        assert all(re.fullmatch("[0-9a-f]{64}", one["value"]) for one in component["properties"])
        said = " ".join(one["license"]["name"] for one in component["licenses"])
        assert not re.search(r"(?<!L)GPL|AGPL|SSPL|BUSL", said), component["name"]
    assert first == subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_what_runs_is_locked_as_what_is_tested() -> None:
    pins = {
        name: set(re.findall(r"^([a-z0-9.-]+(?:\[.*\])?==[^ ;\\]+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-runtime.lock")
    }
    assert pins["requirements-runtime.lock"] <= pins["requirements.lock"]
    assert not any(pin.startswith(("pytest", "mypy", "ruff")) for pin in pins["requirements-runtime.lock"])
