"""A first mapping file from what a view has: its columns, their types, and what its cells look like.

What a column means is for the party to say, and nothing here guesses it. A staging column is taken over where the view
has a column of the very same name, and even then only if no choice is open (a date's order, a list of region codes).
Cells are looked at by SQL in staging, in a transaction that is rolled back; of what they hold only shapes are told
that several rows share: 9 for a digit, A and a for letters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from psycopg import sql

from connector.mapping.contract import ENTITIES, MEMBER_PLACE, Column, Entity, Kind
from connector.ops import inbox
from connector.ops.inbox import Connection
from connector.view.blocks import Block
from connector.view.shape import ViewShape
from connector.yamlpos import shown

SHAPES_MAX = 3
# A shape that fewer rows have may be one person's.
SHAPE_ROWS_MIN = 5
# Only the beginning of a cell is looked at: a hostile one may have a million letters.
SHAPE_LETTERS_MAX = 40
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class View(Protocol):
    """What is asked of a party's view."""

    def shape(self, entity: str, view: tuple[str, str], key: Sequence[str], inputs: Sequence[str]) -> ViewShape: ...
    def sample(self, shape: ViewShape, rows: int) -> Iterator[Block]: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """One column of a view in the sample. `shapes` are those that several rows share, with their shares in per cent."""

    name: str
    kind: str
    rows: int
    filled: int
    distinct: int
    length_max: int
    shapes: tuple[tuple[str, int], ...]
    outside: int

    @property
    def unique(self) -> bool:
        return self.rows > 1 and self.filled == self.distinct == self.rows

    def told(self) -> str:
        filled = "always filled" if self.filled == self.rows else f"filled in {_share(self.filled, self.rows)} %"
        parts = [self.kind or "text", filled if self.rows else "no rows", f"up to {self.length_max} letters"]
        parts += [f"{shape} {share} %" for shape, share in self.shapes]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Looked:
    """A view as it was looked at for one entity."""

    entity: str
    view: tuple[str, str]
    rows: int
    columns: tuple[Seen, ...]


def look(conn: Connection, view: View, entity: str, name: tuple[str, str], rows: int) -> Looked:
    """Read up to `rows` rows of a view and describe its columns. The caller holds the view's snapshot."""
    whole = view.shape(entity, name, (), ())
    columns = tuple(whole.types)
    shape = view.shape(entity, name, columns[:1], columns)
    with conn.transaction(force_rollback=True):
        inbox.fill(conn, len(columns), 1, view.sample(shape, rows))
        seen = tuple(_seen(conn, ENTITIES[entity], whole.types, place, one) for place, one in enumerate(columns))
    return Looked(entity, name, seen[0].rows if seen else 0, seen)


def _seen(conn: Connection, contract: Entity, types: Mapping[str, str], place: int, name: str) -> Seen:
    column = contract.column(name)
    words = list(column.choices) if column else []
    values = {"words": words, "letters": SHAPE_LETTERS_MAX, "least": SHAPE_ROWS_MIN, "most": SHAPES_MAX}
    cell = sql.Identifier(f"i{place}")
    row = conn.execute(_PROFILE.format(cell=cell), values).fetchone()
    assert row is not None
    found = conn.execute(_SHAPES.format(cell=cell), values).fetchall()
    shapes = tuple((shape, _share(count, row[1])) for shape, count in found)
    rows, filled, distinct, length_max, outside = row
    return Seen(name, shown(types[name], 40), rows, filled, distinct, length_max, shapes, outside)


def _share(part: int, whole: int) -> int:
    return round(100 * part / whole) if whole else 0


# ------------------------------------------------------------------------------------------------- the draft


def draft(party: str, looked: Sequence[Looked], readable: Sequence[tuple[str, str]]) -> str:
    """The file's text. It does not pass `mapping lint` before the party has said what is left open."""
    used = {one.view for one in looked}
    lines = [
        f"# A first draft for {party}: the views' columns as they are, and nothing guessed. What is left open is in",
        "# comments: `connector mapping lint` says what is missing, `connector mapping dry-run` what becomes of rows.",
        f"party: {party}",
        "version: 1",
        "entities:" if looked else "entities: {}",
    ]
    for one in looked:
        lines += _entity(one)
    rest = [view for view in readable if view not in used]
    if rest:
        lines.append("")
        lines.append(
            "# Views that the reader may read and that feed nothing here (--entity ENTITY=SCHEMA.VIEW drafts one):"
        )
        lines += [f"#   {shown('.'.join(view), 120)}" for view in rest]
        lines.append(f"# Entities there are: {', '.join(ENTITIES)}")
    return "\n".join(lines) + "\n"


def _entity(looked: Looked) -> Iterator[str]:
    contract = ENTITIES[looked.entity]
    unique = [_name(one.name) for one in looked.columns if one.unique]
    yield f"  {looked.entity}:"
    yield f"    view: {_text('.'.join(looked.view))}"
    said = f"in the sample of {looked.rows:,} these are unique and never empty: {', '.join(unique) or 'none'}"
    yield f"    key: []  # name the columns that tell rows apart for good; {said}"
    yield "    columns:"
    seen = {one.name: one for one in looked.columns}
    taken = set()
    for column in contract.columns:
        if column.name == "kode_wilayah_sumber":
            continue
        same = seen.get(column.name)
        rule = _rule(column, same) if same else None
        if rule is not None and same is not None:
            taken.add(column.name)
            yield f"      {column.name}: {rule}  # {same.told()}"
        elif same is not None:
            taken.add(column.name)
            yield f"      # {column.name}: {_open(column, same)}  # {same.told()}"
        else:
            yield f"      # {column.name}:{_wanted(contract, column)}"
    rest = [one for one in looked.columns if one.name not in taken]
    if rest:
        yield "      # Columns of the view that feed nothing yet; what is not needed is better left out of the view:"
    for one in rest:
        yield f"      #   {_name(one.name)}: {one.told()}"


def _rule(column: Column, seen: Seen) -> str | None:
    """The rule for a column of the same name, where no choice is open."""
    name = _name(seen.name)
    match column.kind:
        case Kind.DATE:
            iso = seen.kind == "date" or {shape for shape, _ in seen.shapes} == {"9999-99-99"}
            return f"{{from: {name}, date: YYYY-MM-DD}}" if iso else None
        case Kind.CHOICE:
            return name if not seen.outside else None
        case Kind.REGION:
            return None
        case Kind.NIK:
            return f"{{from: {name}, digits: true}}"
        case _:
            return name


def _open(column: Column, seen: Seen) -> str:
    """A rule with its open choice."""
    name = _name(seen.name)
    match column.kind:
        case Kind.DATE:
            return f"{{from: {name}, date: ...}}  # which format? day and month are never told apart by guessing"
        case Kind.CHOICE:
            words = "/".join(column.choices)
            return f"{{from: {name}, codes: {{...}}}}  # {seen.outside:,} rows hold other words than {words}"
        case _:
            return f"{{from: {name}, region: ...}}  # kemendagri, or bps through KPU's bridge?"


def _wanted(contract: Entity, column: Column) -> str:
    required = " required;" if column.required else ""
    if column.name in contract.placed and column.name in MEMBER_PLACE:
        return f"{required} one region rule, under any of {', '.join(MEMBER_PLACE[:3])}, fills them all"
    return f"{required} {column.kind.value}{': ' + ', '.join(column.choices) if column.choices else ''}"


def _name(name: str) -> str:
    return _text(name) if not _PLAIN.fullmatch(name) else name


def _text(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", text) else json.dumps(text, ensure_ascii=False)


_PROFILE = sql.SQL(r"""
select count(*), count(*) filter (where btrim({cell}, E' \t\r\n') <> ''), count(distinct {cell}),
       coalesce(max(char_length({cell})), 0),
       count(*) filter (where btrim({cell}, E' \t\r\n') <> '' and {cell} <> all (%(words)s::text[]))
  from pg_temp.inbox where edge is null
""")

# Runs of letters become one: how long somebody's name is, is no shape.
_SHAPES = sql.SQL(r"""
select bentuk, count(*) from (
  select regexp_replace(regexp_replace(regexp_replace(regexp_replace(left({cell}, %(letters)s::int) collate "C",
         '[^0-9A-Za-z .,:/+|_-]', '*', 'g'), '[A-Z]+', 'A', 'g'), '[a-z]+', 'a', 'g'), '[0-9]', '9', 'g') as bentuk
    from pg_temp.inbox where edge is null and btrim({cell}, E' \t\r\n') <> '') b
 group by 1 having count(*) >= %(least)s::int order by 2 desc, 1 limit %(most)s::int
""")
