"""SQL expressions with names, each computed once for a row.

The planner flattens subqueries and would compute an expression again at each use; `offset 0` keeps a level apart. So
named expressions are sorted into levels by what they need, and the levels are nested. Pure text; nothing a user wrote
comes in here: values are parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

# Words outside quoted literals; a `%(p1)s` is no name of a level.
_WORDS = re.compile(r"'(?:[^']|'')*'|%\(\w+\)s|\b[a-z_][a-z0-9_]*\b")


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is placed on a level together: one expression, or a join with all it gives."""

    names: Mapping[str, str]
    join: str = ""
    on: str = ""
    early: bool = False


@dataclass(slots=True)
class _Level:
    names: dict[str, str] = field(default_factory=dict)
    joins: list[str] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)


class Sheet:
    """Collects named expressions over a table; `select` writes the statement."""

    def __init__(self, source: str, inputs: Iterable[str]) -> None:
        self.params: dict[str, object] = {}
        self._source = source
        self._tables: dict[str, str] = {}
        self._depth = dict.fromkeys(inputs, 0)
        self._units: list[_Unit] = []
        self._by_text: dict[str, str] = {}
        self._by_value: dict[tuple[str, str], str] = {}

    def param(self, value: object, sql_type: str = "text") -> str:
        """A parameter with its type; the same value is sent once."""
        key = (repr(value), sql_type)
        if key not in self._by_value:
            name = f"p{len(self.params)}"
            self.params[name] = value
            self._by_value[key] = f"%({name})s::{sql_type}"
        return self._by_value[key]

    def table(self, name: str, query: str) -> str:
        """A query made once for the statement, before the rows."""
        self._tables.setdefault(name, query)
        return name

    def let(self, name: str, text: str) -> str:
        """Name an expression. A name or constant alone stays what it is; what is named already keeps its name."""
        if text in self._depth or re.fullmatch(r"%\(\w+\)s::\S+|null(::\S+)?", text):
            return text
        if text not in self._by_text:
            free = next(free for free in _numbered(name) if free not in self._depth)
            self._by_text[text] = free
            self._depth[free] = self._depth_of(text) + 1
            self._units.append(_Unit({free: text}))
        return self._by_text[text]

    def join(self, table: str, alias: str, on: str, columns: Mapping[str, str], *, early: bool = False) -> None:
        """Left join a table that has at most one row for each of ours, and name what it gives.

        Args:
            early: join as soon as `on` can be judged. Above a level with subqueries the planner takes every row for so
                dear that it no longer tells a hash join from an index look-up for each row.
        """
        depth = self._depth_of(on) + 1
        for name in columns:
            assert name not in self._depth, f"{name} is named twice"
        self._depth.update(dict.fromkeys(columns, depth))
        self._units.append(_Unit(columns, f"left join {table} {alias} on {on}", on, early))

    def _depth_of(self, text: str) -> int:
        return max((self._depth[word] for word in self._needs(text)), default=0)

    def _depth_of_unit(self, unit: _Unit) -> int:
        return max(self._depth[name] for name in unit.names)

    def _needs(self, text: str) -> set[str]:
        return {word for word in _WORDS.findall(text) if word in self._depth}

    def select(self, outputs: Sequence[tuple[str, str]]) -> str:
        """The statement that gives `outputs` (name, expression), in this order."""
        wanted = {word for _, text in outputs for word in self._needs(text)}
        levels = [level for level in self._levels(wanted) if level.names]
        passing = [wanted]
        for level in reversed(levels):
            passing.append((passing[-1] - level.names.keys()) | level.needs)
        text = self._source
        for number, (level, passed) in enumerate(zip(levels, passing[-2::-1], strict=True)):
            kept = sorted(passed - level.names.keys())
            named = [f"{expression} as {name}" for name, expression in level.names.items()]
            source = text if number == 0 else f"(\n{_indented(text)}\n) l{number}"
            joins = "".join(f"\n{join}" for join in level.joins)
            text = f"select {_list([*kept, *named])}\nfrom {source}{joins}\noffset 0"
        source = f"(\n{_indented(text)}\n) l{len(levels)}" if levels else text
        columns = [text_ if text_ == name else f"{text_} as {name}" for name, text_ in outputs]
        tables = ",\n".join(f"{name} as materialized (\n{_indented(query)}\n)" for name, query in self._tables.items())
        head = f"with {tables}\n" if tables else ""
        return f"{head}select {_list(columns)}\nfrom {source}\noffset 0"

    def _levels(self, wanted: Iterable[str]) -> list[_Level]:
        """The levels from the inbox up, with each unit (but early joins) in the last one that serves it.

        Every name that a level passes on costs time for every row, and what an expression needs is mostly passed on
        anyway. What nobody wants is left out.
        """
        levels = [_Level() for _ in range(max(self._depth.values(), default=0))]
        needed_at = dict.fromkeys(wanted, len(levels))
        # What uses a name lies deeper than the name: from the deepest up, all users are placed before it.
        for unit in sorted(self._units, key=self._depth_of_unit, reverse=True):
            names = {name: text for name, text in unit.names.items() if name in needed_at}
            if not names:
                continue
            at = self._depth_of_unit(unit) - 1 if unit.early else min(needed_at[name] for name in names) - 1
            level = levels[at]
            level.names.update(names)
            level.joins += [unit.join] if unit.join else []
            for word in self._needs(" ".join((*names.values(), unit.on))):
                level.needs.add(word)
                needed_at[word] = min(needed_at.get(word, at), at)
        return levels


def _numbered(name: str) -> Iterable[str]:
    yield name
    yield from (f"{name}_{number}" for number in count(2))


def _list(items: Sequence[str]) -> str:
    return ",\n       ".join(items) or "1 as nothing"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
