"""How refused rows are named: keys without a person's number, points in time without guessing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from connector.errors import UsageError
from connector.ops.quarantine import masked, since
from connector.runtime.errands import public
from connector.staging.plan import DigestKeys

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
KEYS = DigestKeys.derive(b"key")


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("4711", "4711"),
        ("3273015512950007", "3273********0007"),
        ("A|3273015512950007", "A|3273********0007"),
        ("a3273015512950007z", "a3273********0007z"),
        ("32730155129500071", "32730155129500071"),
        ("", ""),
    ],
)
def test_sixteen_digits_in_a_key_are_masked(key: str, shown: str) -> None:
    assert masked(key) == shown


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("24h", NOW - timedelta(hours=24)),
        ("30min", NOW - timedelta(minutes=30)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-11-29", datetime(2026, 11, 29, tzinfo=UTC)),
        ("2026-11-29T08:00+07:00", datetime(2026, 11, 29, 1, tzinfo=UTC)),
    ],
)
def test_a_point_in_time_is_a_date_or_an_age(text: str, point: datetime) -> None:
    assert since(text, NOW) == point


@pytest.mark.parametrize("text", ["", "yesterday", "7", "7 d", "29/11/2026", "-7d"])
def test_nothing_else_is_guessed(text: str) -> None:
    with pytest.raises(UsageError):
        since(text, NOW)


def test_an_audit_entry_names_a_key_by_a_keyed_digest() -> None:
    args = public({"key": "3273015512950007", "reason": "withdrawn"}, "anggota", KEYS)
    assert args == {"reason": "withdrawn", "key_digest": KEYS.key_digest("anggota", "3273015512950007").hex()}
    assert public({"reason": "NIK_DATE"}, "anggota", KEYS) == {"reason": "NIK_DATE"}


def test_an_audit_entry_of_a_person_s_request_says_how_many_rows_and_nothing_of_the_person() -> None:
    args = public({"keys": ["1", "2"], "nik": "3273015512950007", "reason": "permohonan 1"}, "anggota", KEYS)
    assert args == {"rows": 2, "reason": "permohonan 1"}


def test_a_key_s_digest_depends_on_key_entity_and_secret() -> None:
    digests = {
        KEYS.key_digest("anggota", "1"),
        KEYS.key_digest("anggota", "2"),
        KEYS.key_digest("pengurus", "1"),
        DigestKeys.derive(b"another").key_digest("anggota", "1"),
        KEYS.nik_hmac("1"),
    }
    assert len(digests) == 5
