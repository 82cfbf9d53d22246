"""`connector pause, resume, resync, approve`: a wish is written, a daemon obeys it, and the audit log says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from connector.audit import log
from connector.ops import wishes
from connector.ops.audit import verify_log
from connector.runtime.wishes import obey
from connector.staging import session
from connector.staging.party import PartyStaging
from connector.staging.plan import DigestKeys
from tests.fixtures.commandline import CommandLine

DEADLINE_S = 60


@pytest.fixture
def conn(staging_dsn: str) -> Iterator[psycopg.Connection]:
    """Staging where alfa has three entities, one of them stopped by the brake."""
    with session.connect(staging_dsn) as opened:
        opened.execute("insert into connector.party (party, parpol_id) values ('alfa', 1)")
        opened.execute("insert into connector.source_offset (party) values ('alfa')")
        for entity in ("anggota", "kantor", "pengurus"):
            opened.execute(
                "insert into connector.entity (party, entity, state, generation, live_rows)"
                " values ('alfa', %s, 'streaming', 1, 400)",
                (entity,),
            )
        opened.execute(
            "update connector.entity set state = 'held', reason = 'delete_brake', pending_deletes = 120,"
            " hint = '120 of 400 rows are no longer in the view' where entity = 'kantor'"
        )
        yield opened


@pytest.fixture
def connector(tmp_path: Path, staging_dsn: str, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, staging_dsn, capsys)


@contextmanager
def daemon(dsn: str) -> Iterator[None]:
    """What obeys alfa's wishes, as a worker does, for the length of the block."""
    stop = threading.Event()

    def run() -> None:
        with closing(PartyStaging(dsn, "alfa", 1, "NASIONAL", DigestKeys.derive(b"key"))) as staging:
            while not stop.wait(0.02):
                for wish in staging.wishes():
                    obey(wish, "alfa", staging, {})

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DEADLINE_S)


def written(conn: psycopg.Connection) -> list[tuple[object, ...]]:
    return conn.execute("select verb, party, entity from connector.wish order by id").fetchall()


def states(conn: psycopg.Connection) -> dict[str, str]:
    return dict(conn.execute("select entity, state from connector.entity").fetchall())


# ------------------------------------------------------------------------------------------------- asking


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_wish_is_a_row_that_says_who_asked(conn: psycopg.Connection, connector: CommandLine, verb: str) -> None:
    result = connector.json(verb, "alfa/anggota")["result"]
    row = conn.execute("select id, verb, party, entity, asked_by, obeyed_at from connector.wish").fetchone()
    assert row == (result["wish"], verb, "alfa", "anggota", wishes.operator(), None)
    assert (result["obeyed_at"], result["outcome"]) == (None, None)
    assert "@" in result["asked_by"]


def test_a_party_alone_means_all_its_entities(conn: psycopg.Connection, connector: CommandLine) -> None:
    connector.json("pause", "alfa")
    assert written(conn) == [("pause", "alfa", None)]


def test_the_same_wish_twice_is_one_wish(conn: psycopg.Connection, connector: CommandLine) -> None:
    first = connector.json("pause", "alfa/anggota")["result"]["wish"]
    assert connector.json("pause", "alfa/anggota")["result"]["wish"] == first
    connector.json("resume", "alfa/anggota")
    assert connector.json("pause", "alfa/anggota")["result"]["wish"] > first
    assert connector.json("pause", "alfa")["result"]["wish"] > first
    assert [row[0] for row in written(conn)] == ["pause", "resume", "pause", "pause"]


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("alpha", "did you mean `alfa`?"),
        ("alfa/angota", "did you mean `anggota`?"),
        ("alfa/", "known here: anggota, kantor, pengurus"),
        ("alfa/rekening", "known here: anggota, kantor, pengurus"),
        ("beta", "connector check, then connector run"),
        ("", "known here: alfa, beta"),
    ],
)
def test_what_is_not_there_is_refused_with_what_was_meant(
    conn: psycopg.Connection, connector: CommandLine, target: str, hint: str
) -> None:
    assert connector.json("pause", target, code=2)["error"]["hint"] == hint
    assert written(conn) == []


def test_where_no_daemon_reports_the_answer_says_so(conn: psycopg.Connection, connector: CommandLine) -> None:
    conn.execute(
        "insert into connector.worker (party, state, daemon, heartbeat_at)"
        " values ('alfa', 'streaming', 'host:1', now() - interval '2 hours')"
    )
    assert "no daemon has reported for 72" in connector.json("pause", "alfa")["summary"]
    conn.execute("update connector.worker set heartbeat_at = now()")
    assert connector.json("resume", "alfa")["summary"] == "resume alfa: asked for"


# ------------------------------------------------------------------------------------------------- confirming


def test_an_approval_shows_what_would_go_and_wants_a_yes(conn: psycopg.Connection, connector: CommandLine) -> None:
    told = connector.json("approve", "alfa/kantor", code=2)["error"]
    assert "120 of 400 rows (30.0%) would go" in told["message"]
    assert "--yes" in told["hint"]
    assert written(conn) == []
    connector.json("approve", "alfa/kantor", "--yes")
    assert written(conn) == [("approve", "alfa", "kantor")]
    seen = conn.execute("select args from connector.wish").fetchone()
    assert seen == ({"seen": {"kantor": {"live_rows": 400, "pending_deletes": 120}}},)


def test_a_brake_pulled_in_a_batch_is_shown_in_its_own_words(conn: psycopg.Connection, connector: CommandLine) -> None:
    conn.execute("update connector.entity set pending_deletes = 0, hint = '99 of 400 rows would be deleted'")
    assert "99 of 400 rows would be deleted" in connector.json("approve", "alfa", code=2)["error"]["message"]


def test_where_nothing_is_stopped_there_is_nothing_to_approve(conn: psycopg.Connection, connector: CommandLine) -> None:
    told = connector.json("approve", "alfa/anggota", "--yes", code=1)["error"]
    assert (told["kind"], told["place"]) == ("nothing_pending", "alfa/anggota")
    assert "anggota is streaming" in told["hint"]
    conn.execute("update connector.entity set reason = 'view_missing' where entity = 'kantor'")
    connector.json("approve", "alfa", "--yes", code=1)
    assert written(conn) == []


def test_a_resync_of_a_party_wants_a_yes_and_one_of_an_entity_does_not(
    conn: psycopg.Connection, connector: CommandLine
) -> None:
    told = connector("resync", "alfa")
    assert told.code == 2
    assert "kantor: 400 rows, held" in told.err
    assert written(conn) == []
    connector.json("resync", "alfa", "-y")
    connector.json("resync", "alfa/kantor")
    assert written(conn) == [("resync", "alfa", None), ("resync", "alfa", "kantor")]


class Terminal:
    """A stdin at which somebody sits and types."""

    def __init__(self, answers: Sequence[str]) -> None:
        self._answers = iter(answers)

    def isatty(self) -> bool:
        return True

    def readline(self, *_: object) -> str:
        return f"{next(self._answers)}\n"


@pytest.mark.parametrize(("answer", "code", "wishes_written"), [("y", 0, 1), ("n", 1, 0), ("", 1, 0)])
def test_at_a_terminal_the_question_is_asked_beside_the_answer(
    conn: psycopg.Connection,
    connector: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
    wishes_written: int,
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal([answer]))
    told = connector("approve", "alfa")
    assert told.code == code
    assert "kantor: 120 of 400 rows" in told.err
    assert "Let these deletes pass?" in told.err
    assert len(written(conn)) == wishes_written
    assert told.out == ("approve alfa: asked for\n" if wishes_written else "")


# ------------------------------------------------------------------------------------------------- obeying


def test_a_wish_that_is_waited_for_comes_back_done_and_stands_in_the_audit_log(
    conn: psycopg.Connection, connector: CommandLine, staging_dsn: str
) -> None:
    with daemon(staging_dsn):
        result = connector.json("pause", "alfa/anggota", "--wait", str(DEADLINE_S))["result"]
        assert result["outcome"] == "anggota: done"
        assert result["obeyed_at"]
        assert states(conn)["anggota"] == "paused"
        connector.json("resume", "alfa/anggota", "--wait", str(DEADLINE_S))
        connector.json("approve", "alfa", "--yes", "--wait", str(DEADLINE_S))
    assert states(conn) == {"anggota": "streaming", "kantor": "streaming", "pengurus": "streaming"}
    acts = [entry.fields() for entry in log.read(conn, "alfa")]
    assert [(act["act"], act["entity"], act["asked_by"]) for act in acts] == [
        ("pause", "anggota", wishes.operator()),
        ("resume", "anggota", wishes.operator()),
        ("approve", "*", wishes.operator()),
    ]
    assert verify_log(conn).verdict.breaches == ()


def test_a_wish_that_changed_nothing_fails_with_the_daemon_s_words(
    conn: psycopg.Connection, connector: CommandLine, staging_dsn: str
) -> None:
    with daemon(staging_dsn):
        told = connector.json("resume", "alfa/anggota", "--wait", str(DEADLINE_S), code=1)
    assert told["error"]["kind"] == "not_obeyed"
    assert "it is streaming" in told["error"]["message"]
    assert states(conn)["anggota"] == "streaming"


def test_a_wish_that_nobody_obeys_in_time_fails_and_stays_asked_for(
    conn: psycopg.Connection, connector: CommandLine
) -> None:
    told = connector.json("pause", "alfa", "--wait", "0.05", code=1)
    assert told["error"]["kind"] == "not_obeyed"
    assert "stays asked for" in told["error"]["hint"]
    assert told["result"]["outcome"] is None
    assert written(conn) == [("pause", "alfa", None)]


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("done", True),
        ("anggota: done", True),
        ("anggota: nothing to do, it is paused; kantor: done", True),
        ("anggota: nothing to do, it is paused", False),
        ("there is no such entity", False),
        ("", False),
    ],
)
def test_an_outcome_is_done_where_anything_was(text: str, done: bool) -> None:
    assert wishes.Outcome(datetime.now(UTC), text).done is done
