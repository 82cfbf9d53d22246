"""What a view looks like: the words that every engine's re-read shares. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ViewShape:
    """A view as the catalogue shows it: what to read of it, and the types of its columns, in the engine's words.

    `fingerprint` changes when the view is replaced, retyped or renamed: its rows may differ then with nothing
    in any log to say so.
    """

    entity: str
    schema: str
    name: str
    key: tuple[str, ...]
    inputs: tuple[str, ...]
    types: Mapping[str, str]
    fingerprint: str
