"""A mapping file that anybody has got at is read, or refused with places; nothing else happens."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connector.errors import MappingError
from connector.mapping.document import loads
from connector.mapping.program import ProgramOptions, compile_entity
from connector.resources import schema_path

Made = TypeVar("Made")

# Every scalar as text, as the reader takes it.
FILES = (
    *sorted(schema_path("parties").glob("*.yaml")),
    Path(__file__).parents[1] / "fixtures" / "mappings" / "everything.yaml",
)
TREES: list[dict[str, Any]] = [yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) for path in FILES]  # noqa: S506

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.sampled_from(["", "x", "~", "true", "0", "names", "default", "a.b", "'", '"; drop', "%(p0)s"]),
        st.text(max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["from", "x", "on"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def loaded_or_refused(content: bytes) -> None:
    document, refusal = attempt(lambda: loads(content, "uji.yaml"))
    if refusal is not None:
        assert refusal.problems
        for problem in refusal.problems:
            assert re.match(r"uji\.yaml(:\d+:\d+)?: \S", problem), problem
            assert problem.isprintable()
    for entity in document.entities if document else ():
        assert document is not None
        _, refusal = attempt(lambda name=entity: compile_entity(document, name, ProgramOptions(1)))  # type: ignore[misc]
        assert refusal is None or "needs a rule for `nik`" in str(refusal)


def attempt(action: Callable[[], Made]) -> tuple[Made | None, MappingError | None]:
    try:
        return action(), None
    except MappingError as error:
        return None, error


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
@example(b"party: \xff")
@example("party: \ud7ff".encode())
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    loaded_or_refused(content)


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += nodes(value, (*path, key))
    return found


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_good_file_with_a_few_strange_places_is_read_or_refused(data: st.DataObject) -> None:
    tree = copy.deepcopy(data.draw(st.sampled_from(TREES)))
    for _ in range(data.draw(st.integers(1, 3))):
        *above, last = data.draw(st.sampled_from(nodes(tree)))
        node = tree
        for key in above:
            node = node[key]
        action = data.draw(st.sampled_from(["replace", "remove", "rename"]))
        if action == "replace":
            node[last] = data.draw(VALUES)
        elif action == "remove":
            del node[last]
        elif isinstance(node, dict):
            node[data.draw(st.text(min_size=1, max_size=6))] = node.pop(last)
    loaded_or_refused(yaml.safe_dump(tree, allow_unicode=True, default_style='"').encode())
