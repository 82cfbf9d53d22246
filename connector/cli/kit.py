"""`connector kit PARTY`: the SQL that the party's DBA reviews and runs, or takes it back with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import typer

from connector.capture.debezium import kit as debezium
from connector.capture.debezium.kit import DebeziumRequest
from connector.capture.mysql import kit as binlog
from connector.capture.mysql.kit import BinlogRequest
from connector.capture.outbox import kit as outbox
from connector.capture.outbox.request import OutboxRequest
from connector.capture.polling import kit as polling
from connector.capture.polling.kit import PolledRequest
from connector.capture.postgres import kit_relay
from connector.capture.postgres.kit import kit_remove_sql, kit_sql
from connector.capture.postgres.kit_request import KitRequest
from connector.capture.sqltext import script
from connector.cli.options import Globals, JsonOption, given
from connector.cli.output import Answer, run_verb
from connector.mapping import document
from connector.ops import lineage
from connector.ops.check import MODES, UNROUTED, capture_mode
from connector.ops.kit import binlog_request, debezium_request, kit_request, outbox_request, polled_request


class ModeName(Enum):
    PULL = "pull"
    STREAM = "stream"
    OUTBOX = "outbox"
    CURSOR = "cursor"
    DIFF = "diff"
    DEBEZIUM = "debezium"


class RelaySide(Enum):
    PUBLISHER = "publisher"
    SUBSCRIBER = "subscriber"


def register(app: typer.Typer) -> None:
    @app.command("kit")
    def kit(  # noqa: PLR0913 - one parameter for each option
        ctx: typer.Context,
        party: Annotated[str, typer.Argument(help="The party's name in the configuration.")],
        mode: Annotated[ModeName | None, typer.Option(help="Default: `capture` of the configuration.")] = None,
        remove: Annotated[bool, typer.Option("--remove", help="The SQL that takes the kit back.")] = False,
        reader: Annotated[str | None, typer.Option(help="Role that KPU logs in as. Default: the dsn's user.")] = None,
        accept_risk: Annotated[
            bool, typer.Option(help="Warn, not refuse: stream beside other data, old minor version, identity FULL.")
        ] = False,
        relay: Annotated[
            RelaySide | None, typer.Option(help="Mode stream by a relay: the main server's SQL, or the relay's.")
        ] = None,
        json: JsonOption = False,
    ) -> None:
        """Print the SQL that opens a party's database to the connector.

        The base tables are read off the views' definitions where the party's database answers; else the mapping's
        `lineage:` must name them.
        """
        chosen = None if mode is None else mode.value
        wish = _Wish(party, chosen, remove, reader, accept_risk, relay)
        run_verb("kit", json, lambda: _kit(given(ctx), wish))


@dataclass(frozen=True, slots=True)
class _Wish:
    party: str
    mode: str | None
    remove: bool
    reader: str | None
    accept_risk: bool
    relay: RelaySide | None


def _kit(options: Globals, wish: _Wish) -> Answer:
    name, remove = wish.party, wish.remove
    party = options.load(check_secrets=False).party(name)
    mapping = document.load(party.mapping)
    mode = "stream" if wish.relay is not None else wish.mode
    if (mode or party.source.capture) not in UNROUTED:
        mapping, _, _ = lineage.complete(party, mapping, "sipol-connector kit", capture=mode)
    match mode or party.source.capture:
        case "outbox":
            return _outbox(outbox_request(party, mapping, reader=wish.reader), name, remove)
        case "cursor" | "diff" as polled:
            return _polled(polled_request(party, mapping, polled, reader=wish.reader), name, remove)
        case "debezium" if party.source.engine != "postgresql":
            return _debezium(debezium_request(party, mapping, reader=wish.reader), name, remove)
        case "stream" if party.source.engine != "postgresql":
            followed = binlog_request(party, mapping, reader=wish.reader, accept_risk=wish.accept_risk)
            return _binlog(followed, name, remove)
    chosen = MODES[mode] if mode else capture_mode(party)
    request = kit_request(party, mapping, chosen, reader=wish.reader, accept_risk=wish.accept_risk)
    if wish.relay is not None:
        return _relay(request, wish.relay, remove)
    text = kit_remove_sql(request) if remove else kit_sql(request)
    return Answer(
        f"SQL for the DBA of {name}, {_what(chosen, remove)}: reader {request.reader}, slot {request.slot}", text=text
    )


def _relay(request: KitRequest, side: RelaySide, remove: bool) -> Answer:
    made, removed = {
        RelaySide.PUBLISHER: (kit_relay.publisher_sql, kit_relay.publisher_remove_sql),
        RelaySide.SUBSCRIBER: (kit_relay.subscriber_sql, kit_relay.subscriber_remove_sql),
    }[side]
    text = removed(request) if remove else made(request)
    said = f"SQL for the DBA of {request.party}, {side.value} of a relay"
    return Answer(f"{said}, {_what('stream', remove)}: {kit_relay.relay_name(request)}", text=text)


def _what(mode: str, remove: bool) -> str:
    return "takes back the kit" if remove else f"mode {mode}"


def _outbox(request: OutboxRequest, name: str, remove: bool) -> Answer:
    steps = outbox.removal_steps(request) if remove else outbox.kit_steps(request)
    text = script(steps, request.engine, outbox.heading(request, remove=remove))
    said = f"reader {request.reader}, change table {request.name}"
    return Answer(f"SQL for the DBA of {name}, {_what('outbox', remove)}: {said}", text=text)


def _polled(request: PolledRequest, name: str, remove: bool) -> Answer:
    steps = polling.removal_steps(request) if remove else polling.kit_steps(request)
    text = script(steps, request.engine, polling.heading(request, remove=remove))
    said = f"reader {request.reader}, {len(request.views)} views"
    return Answer(f"SQL for the DBA of {name}, {_what(request.mode, remove)}: {said}", text=text)


def _debezium(request: DebeziumRequest, name: str, remove: bool) -> Answer:
    text = debezium.removal_text(request) if remove else debezium.kit_text(request)
    said = f"reader {request.reader}, {len(request.tables)} tables"
    return Answer(f"SQL for the DBA of {name}, {_what('debezium', remove)} on {request.engine}: {said}", text=text)


def _binlog(request: BinlogRequest, name: str, remove: bool) -> Answer:
    steps = binlog.removal_steps(request) if remove else binlog.kit_steps(request)
    text = script(steps, request.engine, binlog.heading(request, remove=remove))
    said = f"reader {request.reader}, {len(request.views)} views"
    return Answer(f"SQL for the DBA of {name}, {_what('stream', remove)}: {said}", text=text)
