"""Where the files that are not code live: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def schema_path(*parts: str) -> Path:
    """A file or folder under schemas/: `schema_path("migrations")`."""
    return _root("schemas").joinpath(*parts)


def config_path(*parts: str) -> Path:
    """A file under config/: `config_path("connector.yaml")`, the example."""
    return _root("config").joinpath(*parts)


def _root(name: str) -> Path:
    packed = _PACKAGE / f"_{name}"
    return packed if packed.is_dir() else _PACKAGE.parent / name
