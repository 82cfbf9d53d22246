"""What is shipped: the wheel's own files, its lock, and that the tests run against it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import connector
from connector import cli
from connector.resources import config_path, schema_path

ROOT = Path(__file__).resolve().parents[2]
SITE = os.environ.get("CONNECTOR_TESTED_SITE")

in_make = pytest.mark.skipif(SITE is None, reason="not under `make test`: the checkout is tested, not the wheel")


@in_make
def test_the_tested_package_is_the_built_wheel() -> None:
    assert SITE is not None
    assert Path(connector.__file__).is_relative_to(SITE)


@in_make
def test_a_child_process_runs_the_built_wheel_too() -> None:
    assert SITE is not None
    code = "import connector; print(connector.__file__)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert Path(said.strip()).is_relative_to(SITE)


@in_make
@pytest.mark.parametrize("folder", ["schemas", "config"])
def test_the_wheel_carries_what_the_program_reads(folder: str) -> None:
    carried = schema_path() if folder == "schemas" else config_path()
    ours = {path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*") if _shipped(path)}
    theirs = {path.relative_to(carried) for path in carried.rglob("*") if _shipped(path)}
    assert ours == theirs


def _shipped(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and "secrets" not in path.parts


def test_resources_are_found() -> None:
    assert schema_path("migrations").is_dir()
    assert config_path("connector.yaml").is_file()


@in_make
def test_the_version_is_one() -> None:
    assert importlib.metadata.version("sipol-connector") == connector.__version__


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(connector.__file__).parent / "py.typed").is_file()


@in_make
def test_the_licence_travels_with_it() -> None:
    files = importlib.metadata.files("sipol-connector") or []
    assert any(path.name == "LICENSE" for path in files)


@in_make
def test_the_console_script_and_the_module_are_the_same_program() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="connector")
    assert script.value == "connector.__main__:main"
    said = subprocess.run([sys.executable, "-m", "connector", "--version"], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, f"connector {connector.__version__}\n")


def test_the_lock_names_no_registry_and_no_path() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|file:", lock)
    assert not re.search(r"(?m)(^|\s)/[a-z]+/", lock)


def test_every_locked_package_has_a_version_and_a_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    packages = [line for line in lock.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(packages) > 30
    for package in packages:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==\S+", package), package[:80]
        assert "--hash=sha256:" in package, package[:80]


def test_every_module_of_the_command_line_has_a_verb() -> None:
    found = {module.name for module in pkgutil.iter_modules(cli.__path__)} - {
        "output",
        "options",
        "evidence",
        "mapping_rows",
        "match",
        "questions",
    }
    assert found <= set(cli.VERBS.values())


def test_one_verb_does_not_load_the_others() -> None:
    code = "import sys; from connector import cli; cli.build('migrate'); print('connector.demo' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"


@in_make
def test_no_key_travels_with_the_wheel() -> None:
    files = importlib.metadata.files("sipol-connector") or []
    assert len(files) > 20
    assert not [path for path in files if "secrets" in path.parts or path.suffix in (".key", ".pem")]
