"""Writes the bill of materials: what runs beside our own code, as CycloneDX 1.6, from the lock and what is installed.

    python deploy/sbom.py requirements-runtime.lock > sbom.cdx.json

The same lock gives the same file, byte for byte: no time, no random number. Versions and hashes are the lock's; a
licence is what the installed package says of itself.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^\]]*\])?==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_LICENCE = "License :: OSI Approved :: "


@dataclass(frozen=True, slots=True)
class Pinned:
    """A package of the lock, with the hashes of all its files: which of them is installed depends on the machine."""

    name: str
    version: str
    hashes: tuple[str, ...]


def pinned(lock: str) -> Iterator[Pinned]:
    """The packages of a lock file, in its order."""
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock):
        match = _PINNED.match(block)
        if match:
            yield Pinned(match["name"].lower(), match["version"], tuple(_HASH.findall(block)))


def licence(name: str) -> str:
    """What the installed package says; empty where it is not installed here."""
    try:
        meta = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    if meta.get("License-Expression"):
        return str(meta["License-Expression"])
    classified = [text.removeprefix(_LICENCE) for text in meta.get_all("Classifier") or () if text.startswith(_LICENCE)]
    first = (meta.get("License") or "").strip().split("\n")[0]
    return " AND ".join(classified) or first[:100]


def bill(lock: str) -> dict[str, object]:
    """The whole document."""
    packages = sorted(pinned(lock), key=lambda package: package.name)
    ours = "sipol-connector"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": ours, "name": ours, "version": _version(ours)}},
        "components": [_component(package) for package in packages],
        "dependencies": [{"ref": ours, "dependsOn": [_purl(package) for package in packages]}],
    }


def _component(package: Pinned) -> dict[str, object]:
    said = licence(package.name)
    return {
        "type": "library",
        "bom-ref": _purl(package),
        "name": package.name,
        "version": package.version,
        "purl": _purl(package),
        "licenses": [{"license": {"name": said}}] if said else [],
        "properties": [{"name": "lock:sha256", "value": value} for value in sorted(package.hashes)],
    }


def _purl(package: Pinned) -> str:
    return f"pkg:pypi/{package.name}@{package.version}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "0"


if __name__ == "__main__":
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    json.dump(bill(text), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
