"""What a MariaDB or MySQL server says about its binary log: settings, where it stands, and what a snapshot shows."""

from __future__ import annotations

from collections.abc import Mapping

from connector.capture.mysql.gtid import Gtids, MariaDbGtids, MySqlGtids, Place, parsed
from connector.errors import PositionLost, SourceMisconfigured, SourceProtocolError
from connector.events import Position, SourceIdentity
from connector.sqldb.engines import Options
from connector.sqldb.session import SqlSession

CAPTURE = "stream"
# variable, values that will do, why. What a server does not have is not asked of it.
NEEDED: tuple[tuple[str, frozenset[str], str], ...] = (
    ("log_bin", frozenset({"1", "ON"}), "without a binary log there is nothing to follow"),
    ("binlog_format", frozenset({"ROW"}), "statements do not say which rows they changed"),
    ("binlog_row_image", frozenset({"FULL", "FULL_NODUP"}), "a shorter row image may leave the key out"),
    (
        "binlog_row_metadata", frozenset({"FULL"}),
        "without names in the log a column that is added or moved would make us read another column as the key",
    ),
    ("gtid_mode", frozenset({"ON"}), "only by GTID can we go on after a failover"),
    ("binlog_transaction_compression", frozenset({"0", "OFF"}), "packed transactions do not show their keys"),
)  # fmt: skip
_HINT = "the party's DBA runs the kit's SQL: `connector kit PARTY --mode stream`, and sees `connector check`"


class BinlogServer:
    """A session beside the dump, for questions."""

    def __init__(self, url: str, options: Options) -> None:
        self._session = SqlSession(url, options)
        try:
            self.is_mariadb = "mariadb" in self._one("select version()").lower()
            self._server = self._one("select @@server_id" if self.is_mariadb else "select @@server_uuid")
            self.folds_names = self._one("select @@lower_case_table_names") != "0"
        except BaseException:
            self.close()
            raise
        # The last place that a snapshot was seen to show.
        self._seen: tuple[int, int] = (0, 0)

    def close(self) -> None:
        self._session.close()

    @property
    def identity(self) -> SourceIdentity:
        """The engine only: a replica that took over has another id and the same history. See `compare`."""
        return SourceIdentity("mariadb" if self.is_mariadb else "mysql", 0, CAPTURE)

    def place(self, file: str, offset: int) -> Place:
        return Place(file, offset, self._server)

    def _one(self, query: str, *values: object) -> str:
        with self._session.translated("asking the server"):
            rows = self._session.execute(query, values)
        return _text(rows[0][0]) if rows else ""

    def _rows(self, query: str, *values: object) -> list[tuple[str, ...]]:
        with self._session.translated("asking the server"):
            return [tuple(map(_text, row)) for row in self._session.execute(query, values)]

    def _pairs(self, query: str, *values: object) -> list[tuple[str, str]]:
        return [(row[0], row[1]) for row in self._rows(query, *values)]

    # -- settings

    def setting(self, name: str) -> str | None:
        """A global variable; None where this server has none of that name."""
        return dict(self._pairs("show global variables like %s", name.replace("_", r"\_"))).get(name)

    def require_settings(self) -> None:
        """
        Raises:
            SourceMisconfigured: the server's log would not tell us what we must know.
        """
        for name, good, why in NEEDED:
            value = self.setting(name)
            if value is not None and value.upper() not in good:
                raise SourceMisconfigured(f"{name} is {value}: {why}", hint=_HINT)
        if self.setting("binlog_row_metadata") is None:
            raise SourceMisconfigured(
                "this server's binary log has no column names",
                hint="MariaDB from 10.5 and MySQL from 8.0 can be streamed; older ones with `capture: outbox`",
            )

    @property
    def is_replica(self) -> bool:
        """Whether it has what another server wrote."""
        return bool(self._one("select @@gtid_slave_pos")) if self.is_mariadb else len(self._executed().of) > 1

    def filters(self) -> tuple[frozenset[str], frozenset[str]]:
        """Databases that alone are logged (none: all are), and those that are not."""
        query = "show master status" if self.is_mariadb or self._before(8, 4) else "show binary log status"
        for row in self._rows(query):
            only, never = (frozenset(filter(None, names.split(","))) for names in row[2:4])
            return only, never
        return frozenset(), frozenset()

    def _before(self, *version: int) -> bool:
        found = self._one("select version()").split(".")
        return tuple(int(part) for part in found[:2]) < version

    @property
    def has_checksums(self) -> bool:
        return (self.setting("binlog_checksum") or "NONE").upper() != "NONE"

    # -- where it stands

    def shown(self) -> tuple[Gtids, Place]:
        """The transactions that a snapshot taken now shows, no more and no less."""
        if not self.is_mariadb:
            return self._executed(), self.place("-", 0)
        file, offset = self._snapshot()
        listed = self._one("select binlog_gtid_pos(%s, %s)", file, offset)
        return MariaDbGtids.parse(listed), self.place(file, offset)

    def _snapshot(self) -> tuple[str, int]:
        """MariaDB: the place in the log of everything that is committed and visible."""
        self._session.begin()
        try:
            found = dict(self._pairs("show status like %s", "binlog\\_snapshot\\_%"))
        finally:
            self._session.end()
        file, offset = found.get("Binlog_snapshot_file", ""), found.get("Binlog_snapshot_position", "")
        if not file or not offset.isdigit():
            raise SourceProtocolError("the server does not say where in its log a snapshot stands")
        return file, int(offset)

    def _executed(self) -> MySqlGtids:
        return MySqlGtids.parse(self._one("select @@global.gtid_executed"))

    def shows(self, gtids: Gtids, place: Place) -> bool:
        """Whether a snapshot taken from now on has everything up to there."""
        if isinstance(gtids, MySqlGtids):
            return not self._executed().lacks(gtids)
        if self._seen < place.order:
            self._seen = self.place(*self._snapshot()).order
        return self._seen >= place.order

    # -- comparing

    def compare(self, stored: Position, known: SourceIdentity | None) -> Gtids:
        """The transactions up to a stored position, where this server's history contains it.

        Raises:
            PositionLost: it does not: another server, a backup older than our position, files made anew.
        """
        if known is not None and known != self.identity:
            raise PositionLost(
                "identity_changed",
                f"the position is from {known.slot} of {known.system}, this is {CAPTURE} of {self.identity.system}",
                hint="if the way of capture was changed on purpose: `connector resync PARTY`",
            )
        listed, place = parsed(stored)
        try:
            if self.is_mariadb:
                return self._compare_mariadb(MariaDbGtids.parse(listed), place)
            return self._compare_mysql(MySqlGtids.parse(listed))
        except ValueError:
            raise PositionLost(
                "identity_changed", "the stored position is not one of this engine",
                hint="if the engine was changed on purpose: `connector resync PARTY`",
            ) from None  # fmt: skip

    def _compare_mysql(self, gtids: MySqlGtids) -> Gtids:
        if self._executed().lacks(gtids):
            raise _diverged()
        if gtids.lacks(MySqlGtids.parse(self._one("select @@global.gtid_purged"))):
            raise PositionLost(
                "position_lost", "the server has purged transactions that we have not read",
                hint="keep binary logs for longer (see `connector check`), then `connector resync PARTY`",
            )  # fmt: skip
        return gtids

    def _compare_mariadb(self, gtids: MariaDbGtids, place: Place) -> Gtids:
        if MariaDbGtids.parse(self._one("select @@gtid_binlog_pos")).lacks(gtids):
            raise _diverged()
        if place.server == self._server and not self._same_files(gtids, place):
            raise _diverged()
        return gtids

    def _same_files(self, gtids: MariaDbGtids, place: Place) -> bool:
        """Whether the byte where we stood still ends the transactions that we had.

        Sequence numbers alone do not tell: a server restored from a backup counts on, and passes them again.
        """
        there = self._one("select binlog_gtid_pos(%s, %s)", place.file, place.offset)
        if there:
            return MariaDbGtids.parse(there).last == gtids.last
        files = [self.place(row[0], 0).order for row in self._rows("show binary logs")]
        # Purged by now, which the dump itself judges; else a file that is shorter than it was, or made anew.
        return not gtids.last or (bool(files) and min(files) > self.place(place.file, 0).order)

    # -- what keys look like

    def types(self, views: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, str]]:
        """Column types of each entity's view; nothing for one that we may not read."""
        return {entity: dict(self._session.columns(*view).types) for entity, view in views.items()}

    def charsets(self) -> dict[int, str]:
        """Collation id -> character set."""
        query = "select id, character_set_name from information_schema.collations where id is not null"
        found = {int(number): charset for number, charset in self._pairs(query)}
        # MariaDB from 10.10 has collations that are in this table only.
        table = "information_schema.collation_character_set_applicability"
        if self._rows(
            "select 1 from information_schema.columns where table_schema = 'information_schema'"
            " and table_name = 'COLLATION_CHARACTER_SET_APPLICABILITY' and column_name = 'ID'"
        ):
            found |= {
                int(number): charset for number, charset in self._pairs(f"select id, character_set_name from {table}")
            }
        return found


def _diverged() -> PositionLost:
    return PositionLost(
        "diverged", "this server does not have the transactions up to our position",
        hint="another server, one restored from an older backup, or a replica that was behind when it took over:"
        " `connector resync PARTY`",
    )  # fmt: skip


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)
