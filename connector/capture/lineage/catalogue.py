"""What a party's catalogue says of views and tables, as far as lineage asks. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Name = tuple[str, str]

# Kinds of columns. Values of these kinds that their engine calls equal have one and the same text.
INT, TEXT, UUID, DATE, BOOL = "int", "text", "uuid", "date", "bool"
EXACT = frozenset({INT, TEXT, UUID, DATE, BOOL})


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a base table.

    `kind` is one of `EXACT`, or the engine's own word for a type (equal words compare alike), or empty where nothing
    is known. `carried`: what follows the table can tell the value that a deleted or changed row had.
    """

    kind: str = ""
    carried: bool = True


@dataclass(frozen=True, slots=True)
class BaseTable:
    """`columns` is None where the login may not see them. `identity`: the primary key."""

    columns: Mapping[str, Column] | None = None
    identity: tuple[str, ...] = ()
    # Why no change of it can be seen (a materialized view, a foreign table); empty where it can.
    unseen: str = ""


@dataclass(frozen=True, slots=True)
class ViewText:
    """A view's definition, its columns in order (none: as the text says), and what its catalogue knows it reads."""

    text: str
    columns: tuple[str, ...] = ()
    reads: tuple[Name, ...] = ()
    # Functions that are not the engine's own and may read tables.
    functions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything behind a party's mapped views. `dialect` is sqlglot's word: postgres, mysql, sqlite, tsql, oracle."""

    dialect: str
    tables: Mapping[Name, BaseTable] = field(default_factory=dict)
    views: Mapping[Name, ViewText] = field(default_factory=dict)
    # Where a name without a schema is looked for; empty: the view's own schema.
    schema: str = ""

    def find(self, schema: str, name: str) -> Name | None:
        """The relation of this name as the catalogue spells it."""
        asked = (schema, name)
        if asked in self.tables or asked in self.views:
            return asked
        if self.dialect == "postgres":
            return None
        found = {one for one in (*self.tables, *self.views) if one[0].lower() == schema.lower()}
        found = {one for one in found if one[1].lower() == name.lower()}
        return found.pop() if len(found) == 1 else None
