"""A party's lineage: what the mapping declares, and what its views' definitions give for every other table.

A declared line wins over what is derived for the same table, and is compared with the party's catalogue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

import psycopg
import structlog

from connector import pg
from connector.capture.lineage.catalogue import Catalogue, Name
from connector.capture.lineage.paths import Derived, Path, Remark, derive
from connector.capture.outbox import definitions as sql_definitions
from connector.capture.postgres import definitions as pg_definitions
from connector.capture.signals import Route, Routes
from connector.errors import SourceError, UsageError
from connector.mapping.rules import Document, Lineage
from connector.settings import Party, Source
from connector.sqldb.engines import Options
from connector.sqldb.session import SqlSession

Origin = Literal["declared", "derived"]
# A catalogue that takes longer is a server in trouble.
LIMIT_S = 20.0
# Ways of capture by PostgreSQL's log, through a publication.
LOGGED = frozenset({"pull", "stream", "debezium"})


@dataclass(frozen=True, slots=True)
class Mapped:
    """What lineage needs of an entity of a mapping."""

    entity: str
    view: Name
    key: tuple[str, ...]
    declared: tuple[Lineage, ...] = ()


@dataclass(frozen=True, slots=True)
class Way:
    """A path of one base table, and who says so."""

    path: Path
    origin: Origin


@dataclass(frozen=True, slots=True)
class EntityLineage:
    """All base tables of one entity's view."""

    mapped: Mapped
    ways: tuple[Way, ...]
    remarks: tuple[Remark, ...] = ()

    @property
    def entity(self) -> str:
        return self.mapped.entity


Found = tuple[EntityLineage, ...]


def mapped(mapping: Document) -> tuple[Mapped, ...]:
    return tuple(Mapped(one.name, one.view, one.key, one.lineage) for one in mapping.entities.values())


def declared(entities: Sequence[Mapped]) -> Found:
    """What the mapping alone says."""
    return tuple(EntityLineage(one, tuple(_declared(one))) for one in entities)


def look_up(source: Source, dsn: str, entities: Sequence[Mapped], application: str) -> Found:
    """Lineage by the party's catalogue as it is now.

    Raises:
        SourceError: it cannot be asked.
    """
    catalogue = _catalogue(source, dsn, entities, application)
    return tuple(merged(one, catalogue) for one in entities)


def _catalogue(source: Source, dsn: str, entities: Sequence[Mapped], application: str) -> Catalogue:
    views = [one.view for one in entities]
    tables = [line.table for one in entities for line in one.declared]
    if source.engine == "postgresql":
        with closing(_connect(dsn, application)) as conn:
            return pg_definitions.read(conn, views, tables, logged=source.capture in LOGGED)
    with closing(SqlSession(dsn, Options(application, LIMIT_S))) as session:
        return sql_definitions.read(session, views, tables)


def _connect(dsn: str, application: str) -> psycopg.Connection:
    return pg.connect(dsn, application=application, statement_timeout_s=LIMIT_S, lock_timeout_s=5)


def complete(
    party: Party, mapping: Document, application: str, *, capture: str | None = None
) -> tuple[Document, Found, str]:
    """The mapping with all lines, what they came from, and why the party's database could not be asked, if so.

    Args:
        capture: the way of capture that it is for, where that is not the configuration's.
    """
    entities = mapped(mapping)
    source = replace(party.source, capture=capture or party.source.capture)
    try:
        found = look_up(source, source.dsn.reveal(), entities, application)
    except (SourceError, UsageError) as error:
        return mapping, declared(entities), error.message
    return completed(mapping, found), found, ""


def merged(one: Mapped, catalogue: Catalogue) -> EntityLineage:
    """One entity's lineage by a catalogue. Pure."""
    if one.view in catalogue.views:
        derived = derive(catalogue, one.view, one.key)
    elif one.view in catalogue.tables:
        pairs = tuple((column, column) for column in one.key)
        derived = Derived((Path(one.view, "key", pairs),), (Remark(".".join(one.view), "is a table, not a view"),))
    else:
        derived = Derived((), (Remark(".".join(one.view), "is not there, or may not be seen"),))
    named = {line.table for line in one.declared}
    unseen = {name for name, table in catalogue.tables.items() if table.unseen}
    ways = [
        *_declared(one, derived),
        *(Way(path, "derived") for path in derived.paths if path.table not in named | unseen),
    ]
    return EntityLineage(one, tuple(ways), (*_doubts(one, catalogue, derived), *derived.remarks))


def _declared(one: Mapped, derived: Derived | None = None) -> Iterator[Way]:
    known = {} if derived is None else {(path.table, path.kind, frozenset(path.pairs)): path for path in derived.paths}
    for line in one.declared:
        if line.key:
            path = Path(line.table, "key", tuple((column, line.key[column]) for column in one.key))
        elif line.match:
            path = Path(line.table, "match", tuple(line.match.items()))
        else:
            path = Path(line.table, "whole", why="declared so")
        # The same path, and the definition proves more of it.
        yield Way(known.get((path.table, path.kind, frozenset(path.pairs)), path), "declared")


def _doubts(one: Mapped, catalogue: Catalogue, derived: Derived) -> Iterator[Remark]:
    """What the catalogue says against declared lines."""
    read = {path.table for path in derived.paths}
    for line in one.declared:
        place = ".".join(line.table)
        table = catalogue.tables.get(line.table)
        if line.table in catalogue.views:
            yield Remark(place, "is declared and is a view: name the tables behind it")
        elif table is None:
            if catalogue.dialect in ("postgres", "sqlite"):
                yield Remark(place, "is declared and is not there")
        else:
            columns = (*line.key.values(), *line.match.values())
            absent = [name for name in columns if table.columns is not None and name not in table.columns]
            if absent:
                yield Remark(place, f"is declared with column {', '.join(absent)}, which it does not have")
            if read and line.table not in read:
                yield Remark(place, "is declared, and the view does not read it")


def routes(found: Found) -> Routes:
    """Which entities a change of each base table touches."""
    made: dict[Name, tuple[Route, ...]] = {}
    for one in found:
        for way in one.ways:
            path = way.path
            key, match = (path.pairs if path.kind == kind else () for kind in ("key", "match"))
            made[path.table] = (*made.get(path.table, ()), Route(one.entity, key, match, path.stays))
    return made


def completed(mapping: Document, found: Found) -> Document:
    """The mapping with every line that was derived, as if it had declared them."""
    lines = {one.entity: tuple(_line(way.path) for way in one.ways) for one in found}
    entities = {name: replace(entity, lineage=lines[name]) for name, entity in mapping.entities.items()}
    return replace(mapping, entities=entities)


def _line(path: Path) -> Lineage:
    pairs = dict(path.pairs)
    return Lineage(path.table, pairs if path.kind == "key" else {}, pairs if path.kind == "match" else {})


class Routing:
    """A running party's routes: derived at each start of a session, and compared when views may have changed."""

    def __init__(self, source: Source, entities: Sequence[Mapped], application: str) -> None:
        self._source = source
        self._entities = tuple(entities)
        self._application = application
        self._routes: Routes | None = None

    def now(self, dsn: str) -> Routes:
        """The routes to follow from now on. Raises `SourceError` where the party's catalogue cannot be asked."""
        found = self._look_up(dsn)
        made = routes(found)
        if made != self._routes:
            _tell(found)
        self._routes = made
        return self._carried(dsn, made)

    def changed(self, dsn: str) -> bool:
        """Whether the definitions give other routes than the last `now` did."""
        return self._routes is not None and routes(self._look_up(dsn)) != self._routes

    def _carried(self, dsn: str, made: Routes) -> Routes:
        """The routes as far as the publication carries them: what it lacks must not stop a party, nor be missed."""
        if self._source.engine != "postgresql" or self._source.capture not in LOGGED:
            return made
        with closing(_connect(dsn, self._application)) as conn:
            away = pg_definitions.unpublished(conn, self._source.publication, made)
            wanted = {table: _columns(found) for table, found in made.items()}
            lacking = pg_definitions.uncarried(conn, self._source.publication, wanted)
        for table in (*away, *lacking):
            structlog.get_logger().error(
                "table_not_published", table=".".join(table), columns=sorted(lacking.get(table, ())),
                entities=sorted({route.entity for route in made[table]}),
                hint="a view reads it, and the publication lacks it: the DBA runs `connector kit PARTY` again",
            )  # fmt: skip
        return {table: tuple(_cut(route, lacking.get(table)) for route in found) for table, found in made.items()}

    def _look_up(self, dsn: str) -> Found:
        return look_up(self._source, dsn, self._entities, self._application)


def _columns(found: Sequence[Route]) -> list[str]:
    return list(dict.fromkeys(column for route in found for _, column in (*route.key, *route.match)))


def _cut(route: Route, lacking: frozenset[str] | None) -> Route:
    """A route whose columns do not all arrive: any change of the table has the whole view looked at."""
    return Route(route.entity) if lacking and lacking & set(_columns([route])) else route


def _tell(found: Found) -> None:
    log = structlog.get_logger()
    for one in found:
        kinds = Counter(way.path.kind for way in one.ways)
        whole = [".".join(way.path.table) for way in one.ways if way.path.kind == "whole"]
        log.info("lineage_derived", entity=one.entity, key=kinds["key"], match=kinds["match"], whole=whole)
        if not one.ways:
            log.warning(
                "lineage_missing", entity=one.entity,
                hint="no base table of its view is known: name them under `lineage:`, see `connector lineage PARTY`",
            )  # fmt: skip
        for remark in one.remarks:
            log.warning("lineage_incomplete", entity=one.entity, what=remark.what, message=remark.why)
