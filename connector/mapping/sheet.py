"""SQL expressions with names, each computed once for a row.

The planner flattens subqueries and would compute an expression again at each use; `offset 0` keeps a level apart. So named
expressions are sorted into levels by what they need, and the levels are nested. Pure text; no SQL of a user's comes in here:
values are parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

# Words outside quoted literals; `%(p1)s` parameters hold no name of a level.
_WORDS = re.compile(r"'(?:[^']|'')*'|%\(\w+\)s|\b[a-z_][a-z0-9_]*\b")


@dataclass(slots=True)
class _Level:
    names: dict[str, str] = field(default_factory=dict)
    joins: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)  # names that a join gives: they stay at its level


class Sheet:
    """Collects named expressions over a table; `select` writes the statement."""

    def __init__(self, source: str, inputs: Iterable[str]) -> None:
        self.params: dict[str, object] = {}
        self._source = source
        self._tables: dict[str, str] = {}
        self._depth = dict.fromkeys(inputs, 0)
        self._levels: list[_Level] = []
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
        """Name an expression. A name or constant alone stays what it is; an expression already named keeps that name."""
        if text in self._depth or text.startswith(("%(", "null")) and " " not in text:
            return text
        if text in self._by_text:
            return self._by_text[text]
        depth = self._level_of(text)
        name = self._free(name)
        self._at(depth).names[name] = text
        self._depth[name] = depth + 1
        self._by_text[text] = name
        return name

    def _free(self, name: str) -> str:
        return next(free for number in count(1) if (free := name if number == 1 else f"{name}_{number}") not in self._depth)

    def join(self, table: str, alias: str, on: str, columns: Iterable[tuple[str, str]]) -> None:
        """Left join a table that has at most one row for each of ours, and name what it gives."""
        depth = self._level_of(on)
        level = self._at(depth)
        level.joins.append(f"left join {table} {alias} on {on}")
        for name, text in columns:
            assert name not in self._depth, f"{name} is named twice"
            level.names[name] = text
            level.joined.append(name)
            self._depth[name] = depth + 1

    def _level_of(self, text: str) -> int:
        return max((self._depth[word] for word in self._needs(text)), default=0)

    def _at(self, depth: int) -> _Level:
        while len(self._levels) <= depth:
            self._levels.append(_Level())
        return self._levels[depth]

    def _needs(self, text: str) -> set[str]:
        return {word for word in _WORDS.findall(text) if word in self._depth}

    def select(self, outputs: Sequence[tuple[str, str]]) -> str:
        """The statement that gives `outputs` (name, expression), in this order."""
        levels = self._as_late_as_possible([text for _, text in outputs])
        text = self._source
        for number, (level, passed) in enumerate(levels):
            named = [f"{expression} as {name}" for name, expression in level.names.items()]
            body = ",\n       ".join((*passed, *named)) or "1 as nothing"
            joins = "".join(f"\n{join}" for join in level.joins)
            source = text if number == 0 else f"(\n{_indented(text)}\n) l{number}"
            text = f"select {body}\nfrom {source}{joins}\noffset 0"
        columns = ",\n       ".join(text_ if text_ == name else f"{text_} as {name}" for name, text_ in outputs)
        source = f"(\n{_indented(text)}\n) l{len(levels)}" if levels else text
        tables = ",\n".join(f"{name} as materialized (\n{_indented(query)}\n)" for name, query in self._tables.items())
        return f"{f'with {tables}' + chr(10) if tables else ''}select {columns}\nfrom {source}\noffset 0"

    def _as_late_as_possible(self, outputs: Iterable[str]) -> list[tuple[_Level, list[str]]]:
        """The levels with each expression in the last one that serves its users, and the names each level passes on.

        Every name a level passes on costs time for every row, and what an expression needs is mostly passed on anyway.
        """
        levels = [_Level({}, level.joins, level.joined) for level in self._levels]
        needed_at: dict[str, int] = {}

        def need(text: str, at: int) -> None:
            for word in self._needs(text):
                needed_at[word] = min(needed_at.get(word, at), at)

        for text in outputs:
            need(text, len(levels))
        for number, level in enumerate(levels):
            for join in level.joins:
                need(join, number)
        texts = [item for level in self._levels for item in level.names.items()]
        # What uses an expression lies deeper than the expression itself: from the deepest up, all users are placed before it.
        for name, text in sorted(texts, key=lambda item: -self._depth[item[0]]):
            if name in needed_at:
                fixed = name in self._levels[self._depth[name] - 1].joined
                number = self._depth[name] - 1 if fixed else needed_at[name] - 1
                levels[number].names[name] = text
                need(text, number)
        return self._passing(levels, outputs)

    def _passing(self, levels: list[_Level], outputs: Iterable[str]) -> list[tuple[_Level, list[str]]]:
        wanted = {word for text in outputs for word in self._needs(text)}
        found: list[tuple[_Level, list[str]]] = []
        for level in reversed(levels):
            passed = sorted(wanted - level.names.keys())
            found.append((level, passed))
            wanted = {*passed, *(word for text in (*level.names.values(), *level.joins) for word in self._needs(text))}
        return found[::-1]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
