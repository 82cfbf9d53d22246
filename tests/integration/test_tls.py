"""A real server over TLS: talked to under its own name, with a certificate that is good and that we trust; else not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mariadb
import psycopg
import pytest
from certificates import Authority
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy.exc import DBAPIError

from connector import config, pg, tls
from connector.embedded import Server
from connector.errors import SourceUnavailable
from connector.ops import certificates
from connector.ops.check import server_certificate
from connector.sqldb import engines
from tests.conftest import missing

HOST = "db.uji.example"
PASSWORD = "sandi-Rahasia-7731"
END = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A server that takes TLS and SCRAM over TCP, and nothing else."""

    server: Server
    port: int
    authority: Authority

    def dsn(self, host: str = HOST, **more: str) -> str:
        # The name is checked, the address is where it is looked for: nothing here needs a name server.
        known = {"sslmode": "verify-full", "sslrootcert": str(self.authority.root), "require_auth": "scram-sha-256"}
        return make_conninfo(
            f"host={host} hostaddr=127.0.0.1 port={self.port} user=uji dbname=postgres password={PASSWORD}",
            **{**known, **more},
        )

    def show(self, certificate: Path, key: Path) -> None:
        """Have the server show another certificate."""
        for source, target in ((certificate, "server.crt"), (key, "server.key")):
            file = self.server.data / target
            file.write_bytes(source.read_bytes())
            file.chmod(0o600)
            self.server.account.own(file)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture(scope="module")
def guarded(start_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    port = free_port()
    # The wheel's servers are built without TLS.
    server = start_server(15, "tls", {"password_encryption": "scram-sha-256"})
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("create role uji login password {}").format(sql.Literal(PASSWORD)))
    authority = Authority(tmp_path_factory.mktemp("tls"), "uji-root")
    found = Guarded(server, port, authority)
    found.show(*authority.server(HOST, END))
    hba = server.data / "pg_hba.conf"
    hba.write_text("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n", encoding="ascii")
    server.configure(listen_addresses="127.0.0.1", port=str(port), ssl="on")
    server.restart()
    yield found
    server.destroy()


def test_a_server_with_a_good_certificate_for_its_name_is_talked_to(guarded: Guarded) -> None:
    with pg.connect(guarded.dsn(), application="uji") as conn:
        assert conn.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchall() == [(True,)]


def test_another_name_another_issuer_and_no_encryption_are_refused(guarded: Guarded, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    for dsn in (
        guarded.dsn("other.uji.example"), guarded.dsn(sslrootcert=str(stranger.root)), guarded.dsn(sslmode="disable"),
    ):  # fmt: skip
        with pytest.raises(SourceUnavailable) as caught:
            pg.connect(dsn, application="uji")
        assert PASSWORD not in f"{caught.value} {caught.value.hint}"
        assert "sslrootcert" in caught.value.hint


def test_a_certificate_that_ended_is_refused_and_the_next_one_is_taken(guarded: Guarded) -> None:
    guarded.show(*guarded.authority.server(HOST, datetime.now(UTC) - timedelta(days=1)))
    guarded.server.restart()
    with pytest.raises(SourceUnavailable):
        pg.connect(guarded.dsn(), application="uji")
    guarded.show(*guarded.authority.server(HOST, END))
    guarded.server.restart()
    pg.connect(guarded.dsn(), application="uji").close()


def test_the_end_of_a_certificate_is_told_without_logging_in(guarded: Guarded, tmp_path: Path) -> None:
    (tmp_path / "alfa.yaml").touch()
    path = tmp_path / "connector.yaml"
    secret = tmp_path / "alfa.dsn"
    secret.touch(mode=0o600)
    secret.write_text(guarded.dsn())
    path.write_text(
        "staging: {dsn: 'host=/run/nowhere'}\nparties:\n  alfa: {parpol_id: 1, mapping: alfa.yaml,"
        " source: {engine: postgresql, capture: pull, dsn: '${file:alfa.dsn}'}}\n"
    )
    assert certificates.ends(config.load(path)) == {"alfa": END.timestamp()}


def test_check_names_a_certificate_that_ends_soon(guarded: Guarded) -> None:
    assert server_certificate("alfa", "postgresql", guarded.dsn(), END - timedelta(days=30)) == ()
    (finding,) = server_certificate("alfa", "postgresql", guarded.dsn(), END - timedelta(days=20))
    assert (finding.code, finding.level, finding.subject) == ("CERTIFICATE_ENDS", "warning", "alfa")
    assert f"{END:%Y-%m-%d}" in finding.message
    # Over a socket of this machine there is none.
    assert server_certificate("alfa", "postgresql", guarded.server.dsn(), END) == ()


def test_a_pinned_dsn_reaches_such_a_server(guarded: Guarded) -> None:
    # As a configuration that says nothing about TLS but whom to trust.
    plain = f"host={HOST} port={guarded.port} user=uji dbname=postgres password={PASSWORD}"
    pinned = tls.pinned("postgresql", make_conninfo(plain, sslrootcert=str(guarded.authority.root)))
    pg.connect(make_conninfo(pinned, hostaddr="127.0.0.1"), application="uji").close()


@pytest.fixture(scope="module")
def maria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Authority]]:
    """A MariaDB that takes TLS over TCP, as `localhost`; its port, and who signed its certificate."""
    if not Path("/usr/sbin/mariadbd").exists():
        missing("MariaDB is not installed here")
    server = mariadb.make()
    authority = Authority(tmp_path_factory.mktemp("maria"), "maria-root")
    files = dict(zip(("ssl-cert", "ssl-key"), authority.server("localhost", END), strict=True))
    for name, file in files.items():
        files[name] = server.folder / file.name
        files[name].write_bytes(file.read_bytes())
        files[name].chmod(0o644)
    port = free_port()
    server.stop()
    server.start(
        {
            "skip-networking": "OFF",
            "bind-address": "127.0.0.1",
            "port": str(port),
            **{n: str(f) for n, f in files.items()},
        }
    )
    server.run("create database uji;\ncreate user uji identified by 'sandi' require ssl;\ngrant all on uji.* to uji;\n")
    yield port, authority
    server.stop()


def connected(url: str) -> bool:
    try:
        with engines.engine_for(url, engines.Options("uji")).engine.connect():
            return True
    except DBAPIError:
        return False


def test_mariadb_is_verified_too_and_its_certificate_s_end_is_told(
    maria: tuple[int, Authority], tmp_path: Path
) -> None:
    port, authority = maria
    url = f"mariadb://uji:sandi@localhost:{port}/uji"
    assert connected(f"{url}?ssl_ca={authority.root}")
    assert not connected(f"{url}?ssl_ca={Authority(tmp_path, 'stranger').root}")
    assert not connected(f"{url.replace('localhost', '127.0.0.1')}?ssl_ca={authority.root}"), "not the name it shows"
    (tmp_path / "alfa.yaml").touch()
    secret = tmp_path / "alfa.url"
    secret.touch(mode=0o600)
    secret.write_text(url)
    (tmp_path / "connector.yaml").write_text(
        "staging: {dsn: 'host=/run/nowhere'}\nparties:\n  alfa: {parpol_id: 1, mapping: alfa.yaml,"
        " source: {engine: mariadb, capture: diff, dsn: '${file:alfa.url}'}}\n"
    )
    assert certificates.ends(config.load(tmp_path / "connector.yaml")) == {"alfa": END.timestamp()}
