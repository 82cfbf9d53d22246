"""When the certificates of the servers end: asked of each server as its protocol wants, without logging in.

Nothing is verified here and nothing is sent but the wish for TLS: whether a certificate is trusted, each connect of a
worker decides for itself.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress

import psycopg
from cryptography import x509
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from connector.errors import ConfigError
from connector.settings import Config

TIMEOUT_S = 5.0
# PostgreSQL, "Message Formats": SSLRequest is a length of 8 and this code.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
# MariaDB, "Connection": capabilities PROTOCOL_41, SSL, SECURE_CONNECTION; largest packet; character set utf8mb4.
_MARIA_REQUEST = struct.pack("<IIB23x", 0x200 | 0x800 | 0x8000, 1 << 24, 45)

Begin = Callable[[socket.socket], None]


def ends(config: Config) -> dict[str, float]:
    """The end of each server's certificate as seconds since 1970, by party; staging is `""`.

    What has no TLS, or does not answer, is not there.
    """
    places = {name: (party.source.engine, party.source.dsn) for name, party in config.parties.items()}
    if config.staging.dsn is not None:
        places[""] = ("postgresql", config.staging.dsn)
    found: dict[str, float] = {}
    for name, (engine, dsn) in places.items():
        with suppress(ConfigError):
            end = end_of(engine, dsn.reveal())
            found |= {name: end} if end is not None else {}
    return found


def end_of(engine: str, dsn: str) -> float | None:
    """When the certificate of a dsn's server ends; of several servers the first to end. None as in `ends`."""
    with suppress(OSError, ValueError, struct.error):
        return min(_end(*peer) for peer in _peers(engine, dsn))
    return None


def _peers(engine: str, dsn: str) -> list[tuple[str, int, Begin]]:
    """Where a dsn leads over a network."""
    with suppress(psycopg.ProgrammingError, ArgumentError):
        if engine == "postgresql":
            parts = conninfo_to_dict(dsn)
            hosts = str(parts.get("hostaddr") or parts.get("host") or "").split(",")
            ports = str(parts.get("port") or 5432).split(",")
            return [
                (host, int(ports[place] if len(ports) > place else ports[0]), _postgresql)
                for place, host in enumerate(hosts)
                if host and not host.startswith(("/", "@"))
            ]
        if engine in ("mariadb", "mysql"):
            url = make_url(dsn)
            return [(url.host, url.port or 3306, _maria)] if url.host and "unix_socket" not in url.query else []
    return []


def _end(host: str, port: int, begin: Begin) -> float:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((host, port), TIMEOUT_S) as raw:
        raw.settimeout(TIMEOUT_S)
        begin(raw)
        with context.wrap_socket(raw, server_hostname=host) as tls:
            certificate = tls.getpeercert(binary_form=True)
    if certificate is None:
        raise ValueError("the server showed no certificate")
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp()


def _postgresql(peer: socket.socket) -> None:
    peer.sendall(_SSL_REQUEST)
    if peer.recv(1) != b"S":
        raise ValueError("the server has no TLS")


def _maria(peer: socket.socket) -> None:
    """Let the server greet, then ask for TLS as packet 1."""
    header = _exactly(peer, 4)
    _exactly(peer, int.from_bytes(header[:3], "little"))
    peer.sendall(len(_MARIA_REQUEST).to_bytes(3, "little") + b"\x01" + _MARIA_REQUEST)


def _exactly(peer: socket.socket, size: int) -> bytes:
    if size > 65_536:
        raise ValueError("that is no greeting")
    found = b""
    while len(found) < size:
        part = peer.recv(size - len(found))
        if not part:
            raise ValueError("the server hung up")
        found += part
    return found
