"""YAML read as text with places: a tree whose every scalar and key knows its line and column.

All scalars are text (no `no` for false, no `08` beside 1). Refused: aliases and anchors, merge keys, tags,
duplicate keys, several documents, and what is too large or too deep to have been written by a person. Nothing is
raised for a bad file: `read` returns all problems it could find. No environment, no logging, no idea of a schema.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import yaml

# A person's file is a few hundred lines. A code list of every village (84,000 lines) belongs in reference data.
SIZE_BYTES_MAX = 1_048_576
DEPTH_MAX = 24
NODES_MAX = 100_000
PROBLEMS_MAX = 500
SHOWN_MAX = 60


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something stands; lines and columns count from 1, and line 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where, and what to do about it."""

    place: Place
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}"
        return f"{text}; {self.hint}" if self.hint else text


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar as it was written; `plain` tells `~` from `"~"`."""

    text: str
    place: Place
    plain: bool = True

    @property
    def empty(self) -> bool:
        """`key:` with nothing behind it."""
        return self.plain and self.text == ""


@dataclass(frozen=True, slots=True)
class Series:
    """A YAML sequence."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Table:
    """A YAML mapping in file order; no key stands in it twice."""

    entries: tuple[tuple[Leaf, Node], ...]
    place: Place

    def get(self, key: str) -> Node | None:
        return next((value for name, value in self.entries if name.text == key), None)

    def key(self, key: str) -> Leaf | None:
        return next((name for name, _ in self.entries if name.text == key), None)

    def keys(self) -> tuple[str, ...]:
        return tuple(name.text for name, _ in self.entries)


Node = Leaf | Series | Table
Plain = str | list["Plain"] | dict[str, "Plain"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file holds (`root` is None when nothing could be read) and everything wrong with it."""

    root: Node | None
    problems: tuple[Problem, ...]


def read(path: Path, shown_as: str | None = None) -> Reading:
    """Read a YAML file; `shown_as` is the name that places carry (default: the path as given)."""
    name = shown_as or str(path)
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_BYTES_MAX + 1)
    except FileNotFoundError:
        return _unreadable(name, "there is no such file")
    except IsADirectoryError:
        return _unreadable(name, "this is a folder, not a file")
    except PermissionError:
        return _unreadable(name, "no permission to read this file")
    except OSError:
        return _unreadable(name, "this file cannot be read")
    return parse(content, name)


def parse(content: bytes, file: str) -> Reading:
    """Read YAML from bytes; `file` is the name that places carry."""
    if len(content) > SIZE_BYTES_MAX:
        return _unreadable(file, f"larger than {SIZE_BYTES_MAX} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = content[: exc.start]
        place = Place(file, before.count(b"\n") + 1, exc.start - before.rfind(b"\n"))
        return Reading(None, (Problem(place, "not UTF-8", "save the file as UTF-8"),))
    builder = _Builder(file)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if not builder.take(event):
                break
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        builder.problem(mark, f"not YAML: {shown(exc.problem or exc.context or 'cannot be read', 160)}")
    except yaml.reader.ReaderError as exc:
        before_text = text[: exc.position]
        place = Place(file, before_text.count("\n") + 1, exc.position - before_text.rfind("\n"))
        builder.problems.append(Problem(place, "a character that YAML does not allow", "write it as an escape"))
    except (ValueError, OverflowError):  # an escape such as "\UFFFFFFFF" reaches chr() unchecked in PyYAML
        builder.problem(None, "an escape in a quoted text names no character")
    if builder.root is None and not builder.problems:
        builder.problem(None, "empty file")
    return Reading(builder.root, tuple(builder.problems))


def plain(node: Node) -> Plain:
    """The tree as dicts, lists and text, for a schema checker; `place_at` finds the way back."""
    match node:
        case Leaf():
            return node.text
        case Series():
            return [plain(item) for item in node.items]
        case Table():
            return {key.text: plain(value) for key, value in node.entries}


def place_at(root: Node, path: Iterable[str | int], *, key: bool = False) -> Place:
    """The place of what `path` (keys and list indexes) leads to, or of the nearest parent that exists.

    With `key` the place of the last key itself instead of its value's.
    """
    node, place = root, root.place
    for step in path:
        if isinstance(node, Table) and isinstance(step, str):
            name, found = node.key(step), node.get(step)
            if name is None or found is None:
                return place
            node, place = found, name.place if key or isinstance(found, Table | Series) else found.place
        elif isinstance(node, Series) and isinstance(step, int) and 0 <= step < len(node.items):
            node = node.items[step]
            place = node.place
        else:
            return place
    return place


def closest(word: str, choices: Iterable[str]) -> str:
    """A did-you-mean hint, or a list of what there is, or nothing when there is nothing to offer."""
    known = sorted(choices)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known here: {', '.join(known)}" if known else ""


def shown(text: str, length_max: int = SHOWN_MAX) -> str:
    """`text` fit for a message: printable and short. For names only; a value may be a secret."""
    safe = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    return safe if len(safe) <= length_max else safe[: length_max - 3] + "..."


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems by place. What follows from an earlier one at the same place is dropped."""
    first: dict[Place, Problem] = {}
    for problem in problems:
        first.setdefault(problem.place, problem)
    return tuple(first[place] for place in sorted(first))


def walk(node: Node) -> Iterator[Leaf]:
    """Every scalar value below `node`, in file order; keys are not values."""
    match node:
        case Leaf():
            yield node
        case Series():
            for item in node.items:
                yield from walk(item)
        case Table():
            for _, value in node.entries:
                yield from walk(value)


def _unreadable(file: str, message: str) -> Reading:
    return Reading(None, (Problem(Place(file), message),))


class _Mark(Protocol):
    """PyYAML's mark, of its Python or its C reader: line and column from 0."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


@dataclass(slots=True)
class _Frame:
    """A collection that is still open."""

    place: Place
    is_table: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, tuple[Leaf, Node]] = field(default_factory=dict)
    pending: Leaf | None = None  # a key that waits for its value

    def close(self) -> Node:
        if self.is_table:
            return Table(tuple(self.entries.values()), self.place)
        return Series(tuple(self.items), self.place)


class _Builder:
    """Turns parser events into the tree. Events, not PyYAML's composer: that one recurses and resolves aliases."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._frames: list[_Frame] = []
        self._documents = 0
        self._nodes = 0

    def take(self, event: yaml.Event) -> bool:
        """Use one event; False when reading on makes no sense."""
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self.problem(event.start_mark, "a second document (`---`)", "one file holds one document")
                    return False
            case yaml.AliasEvent():
                self.problem(event.start_mark, "an alias (`*name`) is not allowed here", "write the value out")
                self._add(Leaf("", self._place(event.start_mark)))
            case yaml.ScalarEvent():
                self._node_rules(event)
                self._add(self._leaf(event))
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._node_rules(event)
                is_table = isinstance(event, yaml.MappingStartEvent)
                self._frames.append(_Frame(self._place(event.start_mark), is_table))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._add(self._frames.pop().close())
        return self._within_limits(event)

    def problem(self, mark: _Mark | None, message: str, hint: str = "") -> None:
        self.problems.append(Problem(self._place(mark), message, hint))

    def _place(self, mark: _Mark | None) -> Place:
        return Place(self.file) if mark is None else Place(self.file, mark.line + 1, mark.column + 1)

    def _within_limits(self, event: yaml.Event) -> bool:
        if len(self._frames) > DEPTH_MAX:
            self.problem(event.start_mark, f"nested deeper than {DEPTH_MAX} levels")
        elif self._nodes > NODES_MAX:
            self.problem(event.start_mark, f"more than {NODES_MAX} values")
        elif len(self.problems) > PROBLEMS_MAX:
            self.problem(event.start_mark, f"more than {PROBLEMS_MAX} problems; the rest was not read")
        else:
            return True
        return False

    def _node_rules(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        self._nodes += 1
        if event.anchor is not None:
            self.problem(event.start_mark, "an anchor (`&name`) is not allowed here", "write the value out")
        if event.tag is not None:
            self.problem(event.start_mark, "a tag (`!name`) is not allowed here", "all values are read as text")

    def _leaf(self, event: yaml.ScalarEvent) -> Leaf:
        if any("\ud800" <= letter <= "\udfff" for letter in event.value):
            self.problem(event.start_mark, "half of a surrogate pair is no character")
            return Leaf("", self._place(event.start_mark))
        return Leaf(event.value, self._place(event.start_mark), event.style is None)

    def _add(self, node: Node) -> None:
        if not self._frames:
            self.root = node
            return
        frame = self._frames[-1]
        if not frame.is_table:
            frame.items.append(node)
        elif frame.pending is None:
            frame.pending = self._key(node, frame)
        else:
            frame.entries.setdefault(frame.pending.text, (frame.pending, node))
            frame.pending = None

    def _key(self, node: Node, frame: _Frame) -> Leaf:
        if not isinstance(node, Leaf):
            self.problems.append(Problem(node.place, "a key must be text"))
            return Leaf("", node.place)
        if node.plain and node.text == "<<":
            self.problems.append(Problem(node.place, "a merge key (`<<`) is not allowed here", "write the keys out"))
        elif node.text in frame.entries:
            first = frame.entries[node.text][0].place
            message = f"the key `{shown(node.text)}` stands here twice (first on line {first.line})"
            self.problems.append(Problem(node.place, message, "remove one"))
        return node
