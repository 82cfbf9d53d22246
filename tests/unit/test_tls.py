"""A server over a network is verified unless somebody said otherwise; what stays on the machine needs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import make_url

from connector import config, settings, tls
from connector.errors import ConfigError

LOCAL = (
    "dbname=x", "host=/run/postgresql dbname=x", "host=localhost", "host=127.0.0.1,::1", "hostaddr=127.0.0.9 host=db",
    "postgresql://u@localhost/x", "host=@abstract",
)  # fmt: skip
FAR = (
    "host=db.party.example",
    "postgresql://u@10.0.0.1:5432/x",
    "host=/run/postgresql,db",
    "hostaddr=10.1.1.1",
    "service=x",
)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("dsn", LOCAL)
def test_what_stays_on_the_machine_is_left_alone(dsn: str) -> None:
    assert tls.pinned("postgresql", dsn) == dsn
    assert tls.weakness("postgresql", dsn) == ""


@pytest.mark.parametrize("dsn", FAR)
def test_a_far_server_is_verified_without_being_asked(dsn: str) -> None:
    pinned = conninfo_to_dict(tls.pinned("postgresql", dsn))
    assert (pinned["sslmode"], pinned["require_auth"], pinned["gssencmode"]) == (
        "verify-full", "scram-sha-256", "disable",
    )  # fmt: skip
    assert tls.weakness("postgresql", dsn) == ""


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca"])
def test_a_weaker_wish_is_told(mode: str) -> None:
    assert tls.weakness("postgresql", f"host=db sslmode={mode}") == f"sslmode={mode}"
    assert tls.weakness("postgresql", f"host=/run sslmode={mode}") == ""


def test_a_client_certificate_is_a_way_to_authenticate_too() -> None:
    assert "require_auth" not in conninfo_to_dict(tls.pinned("postgresql", "host=db sslcert=/c.pem"))


def test_the_environment_names_a_far_server_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.party.example")
    assert "verify-full" in tls.pinned("postgresql", "dbname=x")


def test_mariadb_is_verified_by_its_own_words() -> None:
    far = tls.pinned("mariadb", "mariadb://u:p%40ss@db:3306/x")
    url = make_url(far)
    assert url.password == "p@ss"
    assert "ssl_ca" in url.query or "ssl_capath" in url.query
    assert tls.pinned("mariadb", "mariadb://u@db/x?ssl_ca=/ca.pem") == "mariadb://u@db/x?ssl_ca=/ca.pem"
    for weak in ("ssl_check_hostname=false", "ssl_verify_cert=0", "ssl_disabled=true"):
        assert tls.weakness("mariadb", f"mariadb://u@db/x?ssl_ca=/ca.pem&{weak}") in (weak, "ssl_disabled")
    for near in ("mariadb://u@localhost/x", "mariadb://u@/x?unix_socket=/run/m.sock", "sqlite:////a.db"):
        assert tls.pinned("mariadb", near) == near


CONFIG = """
staging: {{dsn: "host=/run/postgresql"}}
parties:
  alfa:
    parpol_id: 1
    mapping: alfa.yaml
    source: {{engine: postgresql, dsn: "{dsn}", capture: pull{more}}}
"""


def load(folder: Path, dsn: str, more: str = "") -> settings.Config:
    (folder / "alfa.yaml").touch()
    (folder / "connector.yaml").write_text(CONFIG.format(dsn=dsn, more=more))
    return config.load(folder / "connector.yaml")


def test_the_configuration_refuses_an_unverified_server_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "host=db.party.example sslmode=require")
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path}/connector.yaml:7:")
    assert "sslmode=require does not verify the server" in problem
    assert "`allow_plaintext: true`" in problem


def test_a_risk_that_was_accepted_is_taken_and_named(tmp_path: Path) -> None:
    loaded = load(tmp_path, "host=db.party.example sslmode=require", ", allow_plaintext: true").parties["alfa"]
    assert loaded.source.dsn.reveal() == "host=db.party.example sslmode=require"
    assert loaded.source.allow_plaintext


def test_a_dsn_that_says_nothing_is_pinned_where_it_is_used(tmp_path: Path) -> None:
    assert "verify-full" in load(tmp_path, "host=db.party.example").parties["alfa"].source.dsn.reveal()
    assert load(tmp_path, "host=/run/x").parties["alfa"].source.dsn.reveal() == "host=/run/x"
