"""`connector audit` and `connector digest`, from the command line to a real database and back."""

from __future__ import annotations

import io
import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from connector import credentials
from connector.audit import log
from connector.cli import audit as cli_audit
from connector.staging import session
from connector.staging.plan import DigestKeys
from tests.fixtures.commandline import CommandLine
from tests.fixtures.entries import facts


@pytest.fixture
def conn(staging_dsn: str) -> Iterator[psycopg.Connection]:
    with session.connect(staging_dsn) as opened:
        yield opened


@pytest.fixture
def connector(tmp_path: Path, staging_dsn: str, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, staging_dsn, capsys)


def write(conn: psycopg.Connection, party: str, *places: int, **more: object) -> None:
    for place in places:
        with conn.transaction():
            log.append(conn, party, facts(place, **more))


# ------------------------------------------------------------------------------------------------- verify


def test_an_empty_log_verifies_and_says_that_it_is_empty(connector: CommandLine) -> None:
    told = connector.json("audit", "verify")
    assert (told["result"]["audit_verified"], told["result"]["entries"]) == (True, {})
    assert told["summary"] == "the audit log is empty"


def test_a_whole_log_verifies_and_its_heads_can_be_noted(conn: psycopg.Connection, connector: CommandLine) -> None:
    write(conn, "alfa", 1, 2, 3)
    write(conn, "beta", 1)
    told = connector.json("audit", "verify")
    result = told["result"]
    assert (result["audit_verified"], result["entries"], result["breaches"]) == (True, {"alfa": 3, "beta": 1}, [])
    assert "is not excluded" in told["summary"]
    noted = [word for head in result["heads"].values() for word in ("--noted", head)]
    write(conn, "alfa", 4)
    told = connector.json("audit", "verify", *noted)
    assert (told["result"]["entries"], told["result"]["anchored"]) == ({"alfa": 4, "beta": 1}, True)
    assert "is not excluded" not in told["summary"]


def test_a_broken_log_fails_and_names_party_number_and_what(conn: psycopg.Connection, connector: CommandLine) -> None:
    write(conn, "alfa", 1, 2, 3)
    write(conn, "beta", 1, 2)
    conn.execute("alter table audit.entry disable trigger all")
    conn.execute("update audit.entry set body = body || ' '::bytea where party = 'alfa' and seq = 2")
    conn.execute("delete from audit.entry where party = 'beta' and seq = 1")
    told = connector.json("audit", "verify", code=1)
    assert told["result"]["audit_verified"] is False
    assert told["result"]["breaches"] == [
        {"party": "alfa", "seq": 2, "what": "its content does not match its hash"},
        {"party": "beta", "seq": 1, "what": "the entry is missing"},
    ]
    assert told["result"]["guards_off"] == ["entry_is_append_only"]
    assert told["error"]["kind"] == "audit_broken"
    assert told["error"]["place"] == "alfa#2"
    assert told["error"]["hint"]
    shown = connector("audit", "verify")
    assert shown.code == 1
    assert "broken at 2: its content does not match its hash" in shown.out
    assert "alfa#2: its content does not match its hash" in shown.err
    assert connector("audit", "verify", "--party", "beta").code == 1


def test_a_head_that_was_noted_and_is_no_longer_there_fails(conn: psycopg.Connection, connector: CommandLine) -> None:
    write(conn, "alfa", 1, 2)
    told = connector.json("audit", "verify", "--noted", "alfa#2=" + "ab" * 32, code=1)
    assert told["error"]["place"] == "alfa#2"
    told = connector.json("audit", "verify", "--noted", "alfa#9=" + "ab" * 32, code=1)
    assert told["error"]["place"] == "alfa#3"


def test_what_is_no_head_or_no_party_is_bad_usage(conn: psycopg.Connection, connector: CommandLine) -> None:
    write(conn, "alfa", 1)
    assert connector.json("audit", "verify", "--noted", "alfa", code=2)["error"]["hint"]
    assert connector.json("audit", "verify", "--party", "alpha", code=2)["error"]["hint"] == "did you mean `alfa`?"


class Screen(io.StringIO):
    """A stderr that somebody looks at."""

    def isatty(self) -> bool:
        return True


def test_at_a_terminal_a_bar_shows_how_far_it_is(
    conn: psycopg.Connection, connector: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(conn, "alfa", 1, 2, 3)
    monkeypatch.setattr(cli_audit, "PROGRESS_EVERY", 1)
    for words, bar in ((("audit", "verify"), True), (("audit", "verify", "--json"), False)):
        screen = Screen()
        monkeypatch.setattr("sys.stderr", screen)
        assert connector(*words).code == 0
        assert ("100%" in screen.getvalue()) is bar


# ------------------------------------------------------------------------------------------------- log, show


def test_the_log_shows_the_newest_entries_last(conn: psycopg.Connection, connector: CommandLine) -> None:
    write(conn, "alfa", 1, 2)
    write(conn, "beta", 1)
    write(conn, "alfa", 3)
    entries = connector.json("audit", "log")["result"]["entries"]
    assert [(entry["party"], entry["seq"]) for entry in entries] == [("alfa", 1), ("alfa", 2), ("beta", 1), ("alfa", 3)]
    entries = connector.json("audit", "log", "--limit", "2")["result"]["entries"]
    assert [(entry["party"], entry["seq"]) for entry in entries] == [("beta", 1), ("alfa", 3)]
    entries = connector.json("audit", "log", "--party", "alfa", "--limit", "1")["result"]["entries"]
    assert entries[0]["seq"] == 3
    assert entries[0]["counts"].startswith("anggota +12 -2")
    assert entries[0]["body"]["position_to"] == "0/3"
    assert entries[0]["at"] == entries[0]["body"]["at"]


def test_a_program_reads_on_from_the_last_number_it_has_seen(conn: psycopg.Connection, connector: CommandLine) -> None:
    write(conn, "alfa", 1, 2, 3, 4)
    read = connector.json("audit", "log", "--party", "alfa", "--since", "1", "--limit", "2")["result"]["entries"]
    assert [entry["seq"] for entry in read] == [2, 3]
    assert connector.json("audit", "log", "--party", "alfa", "--since", "4")["result"]["entries"] == []
    assert connector.json("audit", "log", "--since", "1", code=2)["error"]["hint"] == "add --party PARTY"


def test_people_get_one_line_per_entry(conn: psycopg.Connection, connector: CommandLine) -> None:
    write(conn, "alfa", 1)
    write(conn, "alfa", 2, kind="control", act="pause", entity="anggota", asked_by="budi@host", entities=[])
    lines = connector("audit", "log").out.splitlines()
    assert "0/0 .. 0/1" in lines[1]
    assert "pause" in lines[2]
    assert "anggota; budi@host" in lines[2]
    assert connector("audit", "log", "--party", "nobody").code == 2


def test_an_entry_is_shown_whole_and_said_to_be_right(conn: psycopg.Connection, connector: CommandLine) -> None:
    write(conn, "alfa", 1, 2)
    result = connector.json("audit", "show", "alfa", "2")["result"]
    assert (result["matches"], result["body"]["seq"]) == (True, 2)
    first = connector.json("audit", "show", "alfa", "1")["result"]
    assert result["prev_hash"] == first["hash"] == result["body"]["prev"]
    shown = connector("audit", "show", "alfa", "2")
    assert json.loads(shown.out) == result["body"]


def test_an_entry_that_was_changed_is_shown_and_fails(conn: psycopg.Connection, connector: CommandLine) -> None:
    write(conn, "alfa", 1, 2)
    conn.execute("alter table audit.entry disable trigger all")
    conn.execute("update audit.entry set prev_hash = sha256('x') where seq = 2")
    told = connector.json("audit", "show", "alfa", "2", code=1)
    assert (told["error"]["kind"], told["result"]["matches"]) == ("audit_broken", False)


def test_an_entry_that_is_not_there_is_bad_usage(conn: psycopg.Connection, connector: CommandLine) -> None:
    write(conn, "alfa", 1, 2)
    assert connector.json("audit", "show", "alfa", "3", code=2)["error"]["hint"] == "its entries are 1 to 2"
    assert connector.json("audit", "show", "alf", "1", code=2)["error"]["hint"] == "did you mean `alfa`?"
    assert connector("audit", "show", "alfa", "0").code == 2


def test_a_terminal_s_controls_in_an_entry_do_not_reach_the_terminal(
    conn: psycopg.Connection, connector: CommandLine
) -> None:
    write(conn, "alfa", 1, kind="control", act="held", entities=[], message="\x1b[2J\u202eABC")
    for command in (("audit", "log"), ("audit", "show", "alfa", "1")):
        shown = connector(*command)
        assert not {"\x1b", "\u202e"} & set(shown.out + shown.err)


# ------------------------------------------------------------------------------------------------- keys


def test_an_audit_key_is_an_ed25519_key_for_its_owner_alone(connector: CommandLine) -> None:
    told = connector.json("audit", "keygen")
    path = connector.folder / "keys" / "audit.key"
    assert told["result"]["path"] == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    read = subprocess.run(["openssl", "pkey", "-in", path, "-pubout"], capture_output=True, text=True, check=True)
    assert read.stdout == told["result"]["public_key"]


def test_a_digest_key_is_what_the_configuration_takes(connector: CommandLine) -> None:
    path = connector.folder / "keys" / "digest.key"
    assert connector.json("digest", "keygen")["result"] == {"path": str(path)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = credentials.Secret("file", str(path)).reveal()
    assert len(bytes.fromhex(text)) == 32
    assert DigestKeys.derive(text.encode()) != DigestKeys.derive(b"another")


@pytest.mark.parametrize("verb", ["audit", "digest"])
def test_a_key_is_never_overwritten(connector: CommandLine, verb: str) -> None:
    path = connector.folder / "elsewhere" / "some.key"
    connector.json(verb, "keygen", str(path))
    before = path.read_bytes()
    assert connector.json(verb, "keygen", str(path), code=2)["error"]["place"] == str(path)
    link = connector.folder / "link.key"
    link.symlink_to(connector.folder / "nowhere.key")
    assert connector(verb, "keygen", str(link)).code == 2
    assert path.read_bytes() == before
    assert not (connector.folder / "nowhere.key").exists()


@pytest.mark.parametrize("verb", ["audit", "digest"])
def test_a_key_that_cannot_be_written_is_a_missing_environment(connector: CommandLine, verb: str) -> None:
    (connector.folder / "file").write_text("")
    told = connector.json(verb, "keygen", str(connector.folder / "file" / "some.key"), code=3)
    assert told["error"]["kind"] == "environment_missing"


@pytest.mark.parametrize("verb", ["audit", "digest"])
def test_a_key_without_a_file_in_the_configuration_wants_a_path(connector: CommandLine, verb: str) -> None:
    path = connector.folder / "connector.yaml"
    path.write_text(path.read_text().replace(f"file:keys/{verb}.key", "env:SOME_KEY"))
    assert "argument" in connector.json(verb, "keygen", code=2)["error"]["hint"]


def test_no_key_reaches_the_screen(connector: CommandLine) -> None:
    for verb in ("audit", "digest"):
        told = connector(verb, "keygen")
        (secret,) = [
            line for line in (connector.folder / "keys" / f"{verb}.key").read_text().splitlines() if "-" not in line
        ]
        assert secret not in told.out + told.err


def test_a_verification_of_the_whole_log_leaves_a_note_for_the_alert(
    connector: CommandLine, conn: psycopg.Connection
) -> None:
    connector.json("audit", "verify")
    assert conn.execute("select good, entries >= 0 from connector.verification").fetchall() == [(True, True)]
