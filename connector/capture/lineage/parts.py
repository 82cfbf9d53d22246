"""Parts of a query and what joins, limits and renaming do to them. No parser here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from connector.capture.lineage.catalogue import EXACT
from connector.capture.lineage.scope import NotUnderstood
from connector.capture.lineage.trail import Col, Edge, Trail


@dataclass(slots=True)
class Result:
    """What comes out of a query: its number as a source, its columns' kinds in order, its tables' trails."""

    number: int
    columns: dict[str, str]
    trails: list[Trail]


@dataclass(slots=True)
class Node:
    """A part of FROM: its sources, equalities that all of its rows have, its tables' trails."""

    sources: set[int] = field(default_factory=set)
    facts: list[Edge] = field(default_factory=list)
    trails: list[Trail] = field(default_factory=list)
    # Columns to the left that a LATERAL part uses.
    needs: set[Col] = field(default_factory=set)


@dataclass(slots=True)
class Said:
    """What an expression reads."""

    columns: set[Col] = field(default_factory=set)
    trails: list[Trail] = field(default_factory=list)
    is_window: bool = False
    is_aggregate: bool = False
    # It may look at more than one row: an aggregate, or a function that we do not know.
    mixes: bool = False
    # For each subquery in it: the kind of its first column, and what that is to each of its tables.
    firsts: dict[int, tuple[str, list[tuple[Trail, Mapping[str, bool]]]]] = field(default_factory=dict)


def inner(left: Node, right: Node, said: Said, edges: list[Edge]) -> Node:
    facts = [*left.facts, *right.facts, *edges]
    for side, other in ((left, right), (right, left)):
        for trail in side.trails:
            trail.close(facts, strict=False)
            trail.close(edges, strict=True)
            trail.use(said.columns)
            if trail.lasting is None:
                continue
            if trail.lasts(said.columns, side.sources):
                trail.lasting |= frozenset(other.sources)
            else:
                trail.spoil("a join to it decides which rows there are")
    for trail in said.trails:
        trail.close(facts, strict=False)
        trail.close(edges, strict=True)
    return Node(left.sources | right.sources, facts, [*left.trails, *right.trails, *said.trails])


def outer(left: Node, right: Node, said: Said, edges: list[Edge]) -> Node:
    """`left` stays; where `right` has nothing for it, NULLs."""
    for trail in left.trails:
        trail.choose(right.sources, said.columns)
        if trail.lasting is not None and trail.lasts(said.columns, left.sources):
            trail.lasting |= frozenset(right.sources)
    for trail in (*right.trails, *said.trails):
        trail.close([*right.facts, *edges], strict=False)
        trail.close(edges, strict=True)
        trail.use(said.columns)
        # The row with NULLs comes and goes too: only the left side's columns tell both.
        trail.keep(lambda source: source not in right.sources)
        trail.close(left.facts, strict=False)
        trail.lasting = frozenset(left.sources)
    return Node(left.sources | right.sources, [*left.facts, *right.facts], [*left.trails, *right.trails, *said.trails])


def full(left: Node, right: Node, said: Said) -> Node:
    own = left.sources | right.sources
    trails = [*left.trails, *right.trails, *said.trails]
    for trail in trails:
        trail.keep(lambda source: source not in own)
        trail.spoil("FULL JOIN")
    return Node(own, [], trails)


def limited(result: Result) -> None:
    """Which rows a limit lets through, every row decides."""
    for trail in result.trails:
        trail.keep(lambda source: source != result.number)
        trail.spoil("LIMIT")


def renamed(result: Result, columns: Sequence[str]) -> Result:
    if not columns:
        return result
    if len(columns) > len(result.columns):
        raise NotUnderstood("more names than columns")
    names = [*columns, *list(result.columns)[len(columns) :]]
    places = dict(zip(result.columns, names, strict=True))
    number = result.number
    for trail in result.trails:
        move(trail, number, number, places, lambda _: True)
    kinds = list(result.columns.values())
    return Result(number, dict(zip(names, kinds, strict=True)), result.trails)


def soften(trail: Trail, number: int, columns: Mapping[str, str]) -> None:
    """One of several equal values is shown: the same text only where equal values have one text."""
    for column, found in tuple(trail.same.items()):
        if column[0] == number and columns.get(column[1]) not in EXACT:
            trail.same[column] = dict.fromkeys(found, False)


def move(trail: Trail, old: int, new: int, places: Mapping[str, str], keeps: Callable[[str], bool]) -> None:
    """Give an output's columns other names under another number."""

    def moved(column: Col) -> Col:
        return (new, places.get(column[1], column[1])) if column[0] == old else column

    trail.same = {
        moved(column): found for column, found in trail.same.items() if column[0] != old or keeps(places[column[1]])
    }
    trail.made = {moved(column): part for column, part in trail.made.items()}
    if trail.lasting is not None:
        trail.lasting = frozenset(moved(one) if isinstance(one, tuple) else one for one in trail.lasting)
