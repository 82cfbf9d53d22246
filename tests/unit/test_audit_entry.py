"""An entry has one encoding, and a log in which anything was touched is found out. No database."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from enum import Enum

import pytest

from connector.audit.entry import (
    ENTRY_BYTES_MAX,
    GENESIS,
    INTEGER_MAX,
    StoredEntry,
    canonical,
    chain_hash,
    compose,
    decode,
    leaf_hash,
    timestamp,
)
from connector.audit.verify import Anchor, Breach, verify
from connector.errors import UsageError
from connector.ops import audit as ops
from connector.resources import schema_path
from connector.staging.commitment import SALT_BYTES, Cell, commitment, page_digest, row_digest
from tests.fixtures.entries import STARTED, chain, chained, counts, facts, heads, rehashed

# ------------------------------------------------------------------------------------------------- encoding


def test_an_entry_is_sorted_and_has_no_spaces() -> None:
    assert canonical({"b": [1, None, True], "a": {"z": "", "A": -1}}) == b'{"a":{"A":-1,"z":""},"b":[1,null,true]}'


def test_texts_are_escaped_as_rfc_8785_wants_it() -> None:
    text = '"\\/\b\t\n\f\r\x00\x1f\x7fé☃😀\u2028'
    assert canonical({"t": text}) == '{"t":"\\"\\\\/\\b\\t\\n\\f\\r\\u0000\\u001f\x7fé☃😀\u2028"}'.encode()


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    "value",
    [
        1.0, float("nan"), [2.5], {"deep": [{"deeper": 1e9}]}, INTEGER_MAX + 1, -INTEGER_MAX - 1, {"é": 1}, {1: 1},
        "\ud800", b"bytes", {1, 2}, Colour.RED, datetime(2026, 1, 1, tzinfo=UTC),
    ],
)  # fmt: skip
def test_what_two_programs_could_write_differently_is_refused(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - half a surrogate pair is refused by the codec's own error
        canonical({"x": value})


def test_the_largest_integer_and_the_largest_entry_pass() -> None:
    assert canonical({"x": INTEGER_MAX}) == b'{"x":9007199254740991}'
    room = ENTRY_BYTES_MAX - len(canonical({"x": ""}))
    assert len(canonical({"x": "y" * room})) == ENTRY_BYTES_MAX
    with pytest.raises(ValueError, match="is over"):
        canonical({"x": "y" * (room + 1)})


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"1", b"null", b'{"a":1', b'{"a": 1}', b' {"a":1}', b'{"a":1}\n', b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b'{"a":1.0}', b'{"a":1e2}', b'{"a":-0}', b'{"a":01}', b'{"a":NaN}', b'{"a":"\\u00e9"}', b'{"a":"\\/"}',
        b'{"a":"\xff"}', b"\xef\xbb\xbf{}", b'{"a":"\t"}', b"[" * 60_000, b'{"a":' * 12_000, b'{"a":"\\ud800"}',
        b'{"a":' + b"9" * 5_000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
def test_bytes_that_are_not_the_one_encoding_are_no_entry(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's and the codec's errors are ValueErrors too
        decode(body)
    assert StoredEntry("alfa", 1, body, GENESIS, b"", STARTED).fields() == {}


def test_an_entry_names_itself_whatever_the_facts_say() -> None:
    lies = {"party": "beta", "seq": 9, "prev": "ff", "at": "never", "v": 0, "kind": "control"}
    assert decode(compose(lies, "alfa", 2, b"\x01" * 32, STARTED)) == {
        "party": "alfa", "seq": 2, "prev": "01" * 32, "at": "2026-01-02T03:04:05.678901Z", "v": 1, "kind": "control",
    }  # fmt: skip


def test_a_time_is_utc_with_microseconds_wherever_it_was_told() -> None:
    jakarta = timezone(timedelta(hours=7))
    assert timestamp(datetime(2026, 1, 1, tzinfo=jakarta)) == "2025-12-31T17:00:00.000000Z"


# ------------------------------------------------------------------------------------------------- the specification


def vectors() -> list[tuple[bytes, str, str]]:
    text = schema_path("audit-entry.md").read_text(encoding="utf-8")
    found = re.findall(r"^```vector\n(.*)\nleaf (\w{64})\nhash (\w{64})\n```$", text, re.MULTILINE)
    return [(body.encode(), leaf, digest) for body, leaf, digest in found]


def test_the_published_vectors_are_what_we_compute() -> None:
    previous = GENESIS
    assert len(vectors()) == 3
    for seq, (body, leaf, digest) in enumerate(vectors(), 1):
        told = json.loads(body)
        at = STARTED + timedelta(seconds=seq - 1)
        assert compose(told, "alfa", seq, previous, at) == body
        assert leaf_hash(body).hex() == leaf
        previous = chain_hash(previous, body)
        assert previous.hex() == digest


def test_the_published_vectors_are_a_log_that_verifies() -> None:
    log = chained("alfa", [json.loads(body) for body, _, _ in vectors()])
    entries = [replace(entry, at=entry.at - timedelta(seconds=1)) for entry in log]
    rebuilt = rehashed([replace(e, body=body) for e, (body, _, _) in zip(entries, vectors(), strict=True)], 0)
    assert verify(rebuilt, heads(rebuilt)).breaches == ()


def row_vectors() -> list[tuple[str, list[tuple[str, Cell]] | None, bytes]]:
    text = schema_path("audit-entry.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```rows\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
    found = []
    for line in block.splitlines():
        told, _, digest = line.rpartition(" ")
        key, cells = json.loads(told)
        typed = None if cells is None else [(kind, _cell(kind, value)) for kind, value in cells]
        found.append((key, typed, bytes.fromhex(digest)))
    return found


def _cell(kind: str, value: str | int | bool | None) -> Cell:
    match kind, value:
        case "date", str():
            return date.fromisoformat(value)
        case "bytea", str():
            return bytes.fromhex(value)
    return value


def test_the_published_rows_have_the_digests_that_we_compute() -> None:
    salt = bytes(range(SALT_BYTES))
    digests = [row_digest(salt, key, cells) for key, cells, _ in row_vectors()]
    assert digests == [digest for _, _, digest in row_vectors()]
    told = json.loads(vectors()[1][0])["entities"][0]["commitment"]
    assert commitment([page_digest(digests[0] + digests[1]), page_digest(digests[2])]).hex() == told


# ------------------------------------------------------------------------------------------------- verification


def breach(entries: list[StoredEntry], of: list[StoredEntry], *anchors: Anchor) -> Breach | None:
    """The breach in `entries`, held against the heads of the log `of`."""
    found = verify(entries, heads(of), anchors).breaches
    assert len(found) <= 1
    return found[0] if found else None


def test_a_log_that_nobody_touched_verifies() -> None:
    alfa, beta = chain("alfa", 5), chain("beta", 3)
    verdict = verify([*alfa, *beta], heads(alfa, beta))
    assert (verdict.entries, verdict.breaches) == ({"alfa": 5, "beta": 3}, ())


def test_parties_may_come_mixed() -> None:
    alfa, beta = chain("alfa", 3), chain("beta", 3)
    mixed = [entry for pair in zip(alfa, beta, strict=True) for entry in pair]
    assert verify(mixed, heads(alfa, beta)).breaches == ()


def test_nothing_at_all_verifies() -> None:
    assert verify([], {}) == verify([], {"alfa": (0, GENESIS)})


@pytest.mark.parametrize("place", [1, 3, 5])
def test_a_removed_entry_is_missed_at_its_number(place: int) -> None:
    log = chain("alfa", 5)
    found = breach([entry for entry in log if entry.seq != place], log)
    assert found is not None
    assert (found.seq, "missing" in found.what) == (place, True)


def test_a_log_that_is_gone_is_missed_at_its_first_entry() -> None:
    assert breach([], chain("alfa", 5)) == Breach(
        "alfa", 1, "the entry is missing: the head says 5, the log was cut off"
    )


def test_an_entry_behind_the_head_is_found_at_its_number() -> None:
    log = chain("alfa", 6)
    found = breach(log, log[:5])
    assert found is not None
    assert found.seq == 6


def test_a_log_without_its_head_is_found() -> None:
    (found,) = verify(chain("alfa", 5), {}).breaches
    assert found.seq == 5


def test_an_entry_numbered_zero_is_found() -> None:
    log = chain("alfa", 2)
    found = breach([replace(log[0], seq=0), *log], log)
    assert found is not None
    assert found.seq == 0


def test_a_log_written_anew_is_found_at_its_head() -> None:
    log = chain("alfa", 5)
    forged = chained("alfa", [facts(place, transactions=9 if place >= 3 else 1) for place in range(1, 6)])
    found = breach(forged, log)
    assert found is not None
    assert (found.seq, "written anew" in found.what) == (5, True)


def test_a_log_and_head_written_anew_are_found_by_a_noted_head() -> None:
    log = chain("alfa", 5)
    forged = chained("alfa", [facts(place, transactions=9 if place >= 3 else 1) for place in range(1, 6)])
    assert breach(forged, forged) is None
    assert breach(forged, forged, Anchor("alfa", 2, log[1].hash, "my note")) is None
    found = breach(forged, forged, Anchor("alfa", 4, log[3].hash, "my note"))
    assert found is not None
    assert (found.seq, "my note" in found.what) == (4, True)


def test_a_log_and_head_cut_off_are_found_by_anything_that_knows_a_later_entry() -> None:
    log = chain("alfa", 5)
    for anchor in (Anchor("alfa", 5, None, "a batch"), Anchor("alfa", 5, log[4].hash, "my note")):
        found = breach(log[:3], log[:3], anchor)
        assert found is not None
        assert (found.seq, anchor.source in found.what) == (4, True)
    (gone,) = verify([], {}, [Anchor("alfa", 5, None, "a batch")]).breaches
    assert (gone.party, gone.seq) == ("alfa", 1)


def test_a_noted_hash_is_not_forgotten_for_a_number_without_one() -> None:
    log = chain("alfa", 5)
    wrong = Anchor("alfa", 5, b"\x01" * 32, "my note")
    for anchors in ([wrong, Anchor("alfa", 5, None, "a batch")], [Anchor("alfa", 5, None, "a batch"), wrong]):
        assert breach(log, log, *anchors) is not None


def test_one_party_s_breach_does_not_hide_another_s() -> None:
    alfa, beta, gama = chain("alfa", 4), chain("beta", 4), chain("gama", 4)
    entries = [*alfa[:2], *alfa[3:], *beta, *gama[1:]]
    found = verify(entries, heads(alfa, beta, gama))
    assert [(one.party, one.seq) for one in found.breaches] == [("alfa", 3), ("gama", 1)]
    assert found.entries == {"alfa": 3, "beta": 4, "gama": 3}


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"entities": [{**counts(), "read": 11}]}, "rows read of anggota"),
        ({"entities": [{**counts(), "signalled": 1}]}, "keys signalled of anggota"),
        ({"entities": [{**counts(), "inserted": 12, "updated": -3}]}, "rows read of anggota"),
        ({"entities": [{**counts(), "inserted": "9"}]}, "rows read of anggota"),
        ({"entities": [{"entity": "anggota"}]}, "rows read of anggota"),
        ({"entities": ["anggota"]}, "list of entities"),
        ({"entities": {}}, "not a list"),
        ({"position_from": "0/9"}, "its positions begin at 0/9, the entry before ended at 0/1"),
        ({"position_to": None}, "not texts"),
        ({"position_from": 7}, "not texts"),
    ],
)
def test_an_entry_that_is_hashed_well_and_says_what_cannot_be_is_found(more: dict[str, object], what: str) -> None:
    log = chained("alfa", [facts(1), facts(2, **more), facts(3)])
    found = breach(log, log)
    assert found is not None
    assert found.seq == 2
    assert what in found.what


def test_what_a_copy_signals_need_not_balance() -> None:
    log = chained("alfa", [facts(1, kind="copy", entities=[{**counts(), "signalled": 0}])])
    assert breach(log, log) is None


def test_only_a_new_history_begins_elsewhere() -> None:
    jump = {"position_from": "5/0", "position_to": "5/0", "kind": "control"}
    after = {"position_from": "5/0", "position_to": "5/1"}
    log = chained("alfa", [facts(1), facts(2, act="history_begun", **jump), facts(3, **after)])
    assert breach(log, log) is None
    log = chained("alfa", [facts(1), facts(2, act="pause", **jump), facts(3, **after)])
    found = breach(log, log)
    assert found is not None
    assert found.seq == 2


def test_entries_without_positions_do_not_break_the_line() -> None:
    act: dict[str, object] = {"kind": "control", "act": "position_lost", "entities": []}
    log = chained("alfa", [act, facts(1), act, facts(2)])
    assert breach(log, log) is None


@pytest.mark.parametrize("column", ["party", "seq", "at", "prev", "v"])
def test_a_body_that_names_another_row_is_found(column: str) -> None:
    """Hashed and linked well: what a forger makes who hashes a changed body but forgets one thing in it."""
    log = chain("alfa", 3)
    body = {**log[1].fields(), column: 7}
    log = rehashed([log[0], replace(log[1], body=canonical(body)), log[2]], 1)
    found = breach(log, log)
    assert found is not None
    assert (found.seq, column in found.what) == (2, True)


def test_an_entry_that_is_hashed_well_and_spelled_otherwise_is_found() -> None:
    """The same JSON with a space in it: another reader might have taken it for something else."""
    log = chain("alfa", 3)
    log = rehashed([log[0], replace(log[1], body=log[1].body.replace(b":", b": ", 1)), log[2]], 1)
    assert breach(log, log) == Breach("alfa", 2, "its content is not an entry's")


def test_a_row_with_another_time_than_its_entry_is_found() -> None:
    log = chain("alfa", 3)
    found = breach([log[0], replace(log[1], at=log[1].at + timedelta(microseconds=1)), log[2]], log)
    assert found is not None
    assert found.seq == 2


# ------------------------------------------------------------------------------------------------- for people


def test_a_batch_in_one_line() -> None:
    (entry,) = chained("alfa", [facts(1, entities=[counts(read=1_201), counts("kantor", read=0, deleted=0)])])
    line = ops.line(replace(entry, at=STARTED))
    assert line.counts.startswith("anggota +1,200 -2 1 quarantined 1 absent; kantor")
    assert (line.kind, line.position_from, line.position_to) == ("signals", "0/0", "0/1")
    assert line.at == timestamp(entry.at)


def test_an_act_in_one_line() -> None:
    told = {"kind": "control", "act": "held", "entity": "kantor", "reason": "view_missing", "entities": []}
    (entry,) = chained("alfa", [told])
    assert ops.line(entry).counts == "kantor; view_missing"
    assert (ops.line(entry).act, ops.line(entry).position_to) == ("held", "")


def test_an_entry_that_nobody_can_read_still_has_a_line() -> None:
    entry = replace(chain("alfa", 1)[0], body=b"\xff")
    assert (ops.line(entry).seq, ops.line(entry).kind) == (1, "(unreadable)")


def test_a_head_is_one_word_that_can_be_read_back() -> None:
    head = (12, b"\x0f" * 32)
    assert ops.noted(ops.note("alfa", head)) == Anchor("alfa", 12, head[1], "the head you gave")


@pytest.mark.parametrize(
    "text", ["", "alfa", "alfa#1", "alfa#1=zz", "alfa#1=00", "alfa#x=" + "0" * 64, "#1=" + "0" * 64, "a#0=" + "0" * 64]
)
def test_a_word_that_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no head"):
        ops.noted(text)
