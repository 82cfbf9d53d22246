"""connector.yaml: every problem at once, each with its place, and never a secret."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from connector import config, settings
from connector.credentials import Secret
from connector.errors import ConfigError
from connector.resources import config_path
from connector.settings import Config, Limits

GOOD = """\
staging:
  dsn: ${env:STAGING_DSN}
audit:
  key: ${file:secrets/audit.key}
digest:
  key: ${env:DIGEST_KEY}
parties:
  alfa:
    parpol_id: 1
    mapping: alfa.yaml
    source:
      engine: postgresql
      dsn: ${env:ALFA_DSN}
      capture: pull
      slot: sipol_alfa
      publication: sipol_alfa
    limits:
      batch_rows: 5000
      poll_s: 0.5
  beta:
    parpol_id: 2
    jenis: LOKAL_ACEH
    mapping: beta.yaml
    source: {engine: postgresql, dsn: host=beta dbname=db user=sipol_ro, capture: stream}
"""

PASSWORD = "hunter2-or-better"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STAGING_DSN", f"postgresql://kpu:{PASSWORD}@staging/sipol")
    monkeypatch.setenv("DIGEST_KEY", "0123456789")
    monkeypatch.setenv("ALFA_DSN", f"host=alfa dbname=db user=sipol_ro password={PASSWORD}")
    (tmp_path / "secrets").mkdir()
    key = tmp_path / "secrets" / "audit.key"
    key.write_text("-----KEY-----\n")
    key.chmod(0o600)
    (tmp_path / "alfa.yaml").write_text("party: alfa\n")
    (tmp_path / "beta.yaml").write_text("party: beta\n")


def load(tmp_path: Path, text: str, *, check_secrets: bool = True) -> Config:
    path = tmp_path / "connector.yaml"
    path.write_text(text)
    return config.load(path, check_secrets=check_secrets)


def problems(tmp_path: Path, text: str) -> list[str]:
    """Without the file's folder: `connector.yaml:9:5: ...`."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert PASSWORD not in str(caught.value) + repr(caught.value) + "".join(caught.value.problems)
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def change(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


# --------------------------------------------------------------------------------------------- what is good


def test_a_good_file_becomes_values(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD)
    alfa, beta = loaded.parties["alfa"], loaded.parties["beta"]
    assert (alfa.parpol_id, alfa.jenis, alfa.mapping) == (1, "NASIONAL", tmp_path / "alfa.yaml")
    assert alfa.limits == Limits(batch_rows=5000, poll_s=0.5)
    assert (beta.jenis, beta.source.capture, beta.limits) == ("LOKAL_ACEH", "stream", Limits())
    assert loaded.staging.dsn is not None
    told = conninfo_to_dict(loaded.staging.dsn.reveal())
    assert conninfo_to_dict(os.environ["STAGING_DSN"]).items() <= told.items()
    assert told["sslmode"] == "verify-full"
    assert loaded.audit.key is not None
    assert loaded.audit.key.reveal() == "-----KEY-----"


def test_slot_and_publication_are_named_for_the_party_when_left_out(tmp_path: Path) -> None:
    source = load(tmp_path, GOOD).parties["beta"].source
    assert (source.slot, source.publication) == ("sipol_beta", "sipol_beta")


def test_staging_may_be_embedded_and_everything_else_left_out(tmp_path: Path) -> None:
    loaded = load(tmp_path, "staging: {embedded: var/staging}\n")
    assert loaded.staging == settings.Staging(None, tmp_path / "var/staging")
    assert loaded.parties == {}


def test_the_example_in_the_project_lacks_only_what_an_operator_brings() -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(config_path("connector.yaml"))
    for problem in caught.value.problems:
        assert any(words in problem for words in ("is not set", "there is no file", "no such mapping file")), problem


def test_a_party_by_name_or_a_hint(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD)
    assert loaded.party("alfa").name == "alfa"
    with pytest.raises(ConfigError) as caught:
        loaded.party("alpha")
    assert caught.value.hint == "did you mean `alfa`?"


def test_a_configuration_crosses_to_a_worker_without_its_secrets(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD)
    pickled = pickle.dumps(loaded)
    assert PASSWORD.encode() not in pickled
    assert pickle.loads(pickled) == loaded  # noqa: S301 - made two lines above


# --------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("batch_rows: 5000", "bach_rows: 5000", ":18:7: unknown key `bach_rows`; did you mean `batch_rows`?"),
        ("audit:", "audits:", ":3:1: unknown key `audits`; did you mean `audit`?"),
        ("batch_rows: 5000", "batch_rows: many", ":18:19: `batch_rows` must be a whole number"),
        ("batch_rows: 5000", "batch_rows: 0", ":18:19: `batch_rows` must be at least 1"),
        ("poll_s: 0.5", "poll_s: nan", ":19:15: `poll_s` must be a number"),
        ("poll_s: 0.5", "delete_share_max: 1.5", ":19:25: `delete_share_max` must be at most 1"),
        ("poll_s: 0.5", "lag_drop_mb: 1024", ":19:7: `lag_drop_mb` (1024) must exceed `lag_warn_mb` (1024)"),
        ("    parpol_id: 1\n", "", ":8:3: `parpol_id` is missing"),
        ("parpol_id: 1\n", "parpol_id:\n", ":9:15: `parpol_id` must be a whole number"),
        ("parpol_id: 2", "parpol_id: 1", ":21:16: `parpol_id` 1 is taken by the party `alfa`"),
        ("parpol_id: 2", "parpol_id: 99999", ":21:16: `parpol_id` must be at most 32767"),
        ("jenis: LOKAL_ACEH", "jenis: LAIN", ":22:12: `jenis` must be one of 'NASIONAL' or 'LOKAL_ACEH'"),
        ("slot: sipol_alfa", "slot: Sipol-Alfa", ":15:13: `slot` must be 1 to 63 small letters, digits or _"),
        ("mapping: alfa.yaml", "mapping: gone.yaml", ":10:14: there is no such mapping file"),
        ("mapping: alfa.yaml", "mapping: [a]", ":10:5: `mapping` must be text"),
        ("capture: pull", "capture: pool", ":14:16: `capture` must be one of"),
        ("engine: postgresql\n", "engine: oracle\n", ":14:16: this version has no `pull` for oracle yet"),
        ("capture: pull", "capture: cursor", ":14:16: `cursor` needs `cursor`"),
        ("capture: pull", "capture: pull\n      cursor: {column: versi}", ":15:7: `diff_every_s` is missing"),
        (
            "capture: pull",
            "capture: diff\n      cursor: {column: v, diff_every_s: 9}",
            ":14:16: `diff` does not take `cursor`",
        ),
        ("capture: pull", "capture: pull\n      diff_every_s: 9", ":15:7: `pull` compares nothing"),
        ("engine: postgresql\n", "engine: sqlite\n", ":13:12: ${env:ALFA_DSN} is not a URL of sqlite"),
        ("  alfa:", "  Alfa!:", ":8:3: `Alfa!` cannot be a party's name"),
        ("  beta:", "  alfa:", ":20:3: the key `alfa` stands here twice"),
        ("  dsn: ${env:STAGING_DSN}", "  {}", ":1:1: `staging` needs either `dsn` or `embedded`"),
        ("  dsn: ${env:STAGING_DSN}", "  dsn: x\n  embedded: y", ":1:1: `staging` needs either"),
        ("mapping: alfa.yaml", "mapping: ${env:HOME}", ":10:14: `${...}` is looked up for a dsn or a key only"),
        ("mapping: alfa.yaml", 'mapping: "a\\x07"', ":10:14: a control character in a value"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = problems(tmp_path, change(old, new))
    assert any(problem.startswith("connector.yaml" + expected) for problem in found), found


@pytest.mark.parametrize("text", ["[a, b]\n", "just text\n"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text) == ["connector.yaml:1:1: the configuration must be a table of keys"]


@pytest.mark.parametrize("section", ["staging", "parties"])
def test_a_section_that_is_no_table_is_refused(tmp_path: Path, section: str) -> None:
    found = problems(
        tmp_path,
        f"staging: {{embedded: x}}\n{section}2: y\n".replace("2", "") if section == "parties" else "staging: x\n",
    )
    assert any(f"`{section}` must be a table of keys" in problem for problem in found), found


def test_all_mistakes_are_told_at_once_and_in_order(tmp_path: Path) -> None:
    text = (
        GOOD.replace("parpol_id: 1", "parpol_id: x")
        .replace("poll_s", "pol_s")
        .replace("${env:ALFA_DSN}", "${env:NONE}")
    )
    lines = [int(problem.split(":")[1]) for problem in problems(tmp_path, text)]
    assert lines == [9, 13, 19]


def test_a_missing_file_says_how_to_name_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "none.yaml")
    assert "there is no such file" in str(caught.value)
    assert "--config" in caught.value.hint


# --------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:{PASSWORD}@h/db",
        f"postgresql://u@h/db?password={PASSWORD}",
        f"postgresql://u@h/db?pass%77ord={PASSWORD}",
        f"postgresql://u@h/db?sslpassword={PASSWORD}",
        f"host=h password={PASSWORD}",
        f"host=h PASSWORD = '{PASSWORD}'",
        f"mysql://u:{PASSWORD}@h/db",
        f"Driver=x;Server=y;PWD={PASSWORD}",
    ],
)
def test_a_password_in_the_file_is_refused(tmp_path: Path, dsn: str) -> None:
    found = problems(tmp_path, change("${env:STAGING_DSN}", f'"{dsn}"'))
    assert found[0].startswith("connector.yaml:2:8: `dsn`: a password does not belong in this file")


@pytest.mark.parametrize(
    "dsn", ["postgresql://u@h:5432/db", "host=h dbname=password_free", "postgresql:///db?host=/run"]
)
def test_a_dsn_without_a_password_may_stand_in_the_file(tmp_path: Path, dsn: str) -> None:
    loaded = load(tmp_path, change("${env:STAGING_DSN}", f'"{dsn}"'))
    assert loaded.staging.dsn == Secret.literal(dsn)


def test_a_key_in_the_file_is_refused(tmp_path: Path) -> None:
    found = problems(tmp_path, change("${env:DIGEST_KEY}", PASSWORD))
    assert found[0].startswith("connector.yaml:6:8: `key`: a key does not belong in this file")


@pytest.mark.parametrize("reference", ["${env:}", "${env:A B}", "${vault:x}", "x${env:HOME}", "${env:HOME}${env:HOME}"])
def test_a_reference_must_be_one_we_know_and_stand_alone(tmp_path: Path, reference: str) -> None:
    found = problems(tmp_path, change("${env:STAGING_DSN}", f'"{reference}"'))
    assert found[0].startswith("connector.yaml:2:8: ")


def test_a_missing_variable_or_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STAGING_DSN")
    monkeypatch.setenv("DIGEST_KEY", " ")
    found = problems(tmp_path, change("secrets/audit.key", "secrets/none"))
    assert "the variable STAGING_DSN is not set" in found[0]
    assert "there is no file secrets/none" in found[1]
    assert "${env:DIGEST_KEY} is empty" in found[2]


def test_without_need_for_secrets_none_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STAGING_DSN")
    loaded = load(tmp_path, GOOD, check_secrets=False)
    assert loaded.staging.dsn is not None
    with pytest.raises(ConfigError, match="is not set"):
        loaded.staging.dsn.reveal()


@pytest.mark.parametrize(
    ("mode", "refused"), [(0o600, False), (0o400, False), (0o640, False), (0o644, True), (0o660, True)]
)
def test_a_secret_file_open_to_others_is_refused(tmp_path: Path, mode: int, refused: bool) -> None:
    (tmp_path / "secrets/audit.key").chmod(mode)
    if refused:
        assert "open to other users; chmod 600" in problems(tmp_path, GOOD)[0]
    else:
        load(tmp_path, GOOD)


def test_a_pipe_in_the_place_of_a_secret_file_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "secrets/audit.key").unlink()
    os.mkfifo(tmp_path / "secrets/audit.key", 0o600)
    assert "is not a regular file" in problems(tmp_path, GOOD)[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a\0b", "holds a NUL character"),
        (b"x" * 70_000, "is larger than"),
        (b"\n", "is empty"),
    ],
)
def test_a_secret_file_must_hold_a_short_text(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "secrets/audit.key").write_bytes(content)
    assert expected in problems(tmp_path, GOOD)[0]


def test_a_rotated_secret_needs_no_restart(tmp_path: Path) -> None:
    key = load(tmp_path, GOOD).audit.key
    assert key is not None
    (tmp_path / "secrets/audit.key").write_text("another\n")
    assert key.reveal() == "another"


@pytest.mark.parametrize("dsn", ["not a dsn", "postgresql://[", "nonsense=1 host=x"])
def test_a_dsn_that_is_none_is_told_without_quoting_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    monkeypatch.setenv("ALFA_DSN", f"{dsn} {PASSWORD}")
    assert "${env:ALFA_DSN} is not a PostgreSQL connection string" in problems(tmp_path, GOOD)[0]


def test_two_parties_on_one_slot_are_refused_however_the_dsn_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALFA_DSN", f"postgresql://one:{PASSWORD}@beta:5432/db")
    found = problems(tmp_path, change("slot: sipol_alfa", "slot: sipol_beta"))
    assert "the slot `sipol_beta` on this server is already the party `alfa`'s" in found[0]


def test_a_secret_never_shows_itself() -> None:
    secret = Secret.literal(PASSWORD)
    for shown in (
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>40}",
        repr([secret]),
        repr({"a": secret}),
    ):
        assert PASSWORD not in shown
    assert repr(Secret("env", "ALFA_DSN")) == "Secret(${env:ALFA_DSN})"
