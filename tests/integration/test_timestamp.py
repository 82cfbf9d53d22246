"""A checkpoint is stamped by a real authority (openssl's), and openssl verifies what was exported."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import psycopg
import pytest

from connector.audit import timestamp, tree
from connector.audit.sequencer import Signing
from connector.audit.timestamp import TimestampRefused
from connector.ops import evidence
from connector.staging import session
from tests.conftest import missing
from tests.fixtures.evidence import ORIGIN, signer, tick, write

SIGNING = Signing(ORIGIN, (signer(),))
CONFIG = """
[tsa]
default_tsa = uji
[uji]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
accuracy = secs:1
ess_cert_id_alg = sha256
"""
EXTENSIONS = """
extendedKeyUsage=critical,timeStamping
keyUsage=critical,digitalSignature
authorityKeyIdentifier=keyid
subjectKeyIdentifier=hash
"""


@dataclass(frozen=True, slots=True)
class Authority:
    url: str
    ca: bytes
    folder: Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    """`openssl ts -reply` behind HTTP."""
    if shutil.which("openssl") is None:
        missing("no openssl: a time-stamping authority cannot be made")
    folder = tmp_path_factory.mktemp("tsa")
    new = ("req", "-newkey", "rsa:2048", "-nodes")
    _openssl(
        *new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Uji CA",
        "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign", cwd=folder,
    )  # fmt: skip
    _openssl(*new, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", "/CN=Uji TSA", cwd=folder)
    (folder / "ext").write_text(EXTENSIONS, encoding="utf-8")
    _openssl(
        "x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "tsa.pem",
        "-extfile", "ext", cwd=folder,
    )  # fmt: skip
    (folder / "serial").write_text("01\n", encoding="ascii")
    (folder / "conf").write_text(CONFIG.format(folder=folder), encoding="utf-8")

    class Reply(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            (folder / "query").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            _openssl("ts", "-reply", "-config", "conf", "-queryfile", "query", "-out", "reply", cwd=folder)
            self.send_response(200)
            self.end_headers()
            self.wfile.write((folder / "reply").read_bytes())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Reply)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Authority(f"http://127.0.0.1:{server.server_port}/", (folder / "ca.pem").read_bytes(), folder)
    server.shutdown()
    server.server_close()
    thread.join()


def _openssl(*words: str, cwd: Path) -> str:
    done = subprocess.run(["openssl", *words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def conn(staging_dsn: str) -> Iterator[psycopg.Connection]:
    with closing(session.connect(staging_dsn)) as opened:
        write(opened, "alfa")
        tick(opened, SIGNING)
        yield opened


def test_a_checkpoint_is_stamped_and_openssl_verifies_the_export(
    conn: psycopg.Connection, authority: Authority, tmp_path: Path
) -> None:
    checkpoint = tree.checkpoint(conn)
    assert checkpoint is not None
    found = timestamp.stamp(checkpoint, authority.url, authority.ca)
    timestamp.keep(conn, found)
    evidence.export(conn, tmp_path / "log", SIGNING.verifiers)
    said = _openssl("ts", "-verify", "-data", f"checkpoints/{found.size}", "-in", f"timestamps/{found.size}.tsr",
                    "-CAfile", str(authority.folder / "ca.pem"), cwd=tmp_path / "log")  # fmt: skip
    assert "Verification: OK" in said


def test_a_stamp_of_an_unknown_authority_is_refused(conn: psycopg.Connection, authority: Authority) -> None:
    checkpoint = tree.checkpoint(conn)
    assert checkpoint is not None
    _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "o.key", "-out", "o.pem", "-subj", "/CN=Other",
             cwd=authority.folder)  # fmt: skip
    with pytest.raises(TimestampRefused, match="does not verify"):
        timestamp.stamp(checkpoint, authority.url, (authority.folder / "o.pem").read_bytes())
    with pytest.raises(TimestampRefused, match="does not answer"):
        timestamp.stamp(checkpoint, "http://127.0.0.1:1/", authority.ca)
    with pytest.raises(TimestampRefused, match="over HTTP"):
        timestamp.stamp(checkpoint, "file:///etc/passwd", authority.ca)
