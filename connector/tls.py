"""Encryption to servers over a network: verified by default, and how a dsn asks for less. Pure but for the environment.

What does not leave the machine (a Unix socket, a loopback address) needs none. For everything else the server must
show a certificate for its name (`verify-full`): a weaker wish is told, never obeyed by accident.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

VERIFIED = "verify-full"
# What an URL of SQLAlchemy's may say to PyMySQL about the certificates it trusts.
_TRUSTS = ("ssl_ca", "ssl_capath")
_YES = ("true", "1", "yes", "on", "t", "y")


def weakness(engine: str, dsn: str) -> str:
    """What of a dsn asks for less than a verified server, where its host is not this machine; "" where nothing does.

    A dsn that cannot be read is not judged: who connects says so.
    """
    with suppress(psycopg.ProgrammingError, ArgumentError):
        if engine == "postgresql":
            return _weak_postgresql(conninfo_to_dict(dsn))
        if engine in ("mariadb", "mysql"):
            return _weak_maria(make_url(dsn))
    return ""


def pinned(engine: str, dsn: str) -> str:
    """A dsn that says what is wanted of the server where it did not: verified, and no password in clear to it."""
    with suppress(psycopg.ProgrammingError, ArgumentError):
        if engine == "postgresql":
            return _pin_postgresql(dsn)
        if engine in ("mariadb", "mysql"):
            return _pin_maria(dsn)
    return dsn


def is_local(host: str) -> bool:
    """Whether what is sent to a host stays on this machine."""
    if not host or host.startswith(("/", "@")) or host.lower() == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def _hosts(parts: Mapping[str, object]) -> Iterable[str]:
    """Where libpq would connect: addresses before names, and the environment where the dsn says nothing."""
    if "service" in parts or (not parts.get("host") and os.environ.get("PGSERVICE")):
        return ("(a service)",)
    text = parts.get("hostaddr") or parts.get("host") or os.environ.get("PGHOSTADDR") or os.environ.get("PGHOST") or ""
    return str(text).split(",")


def _weak_postgresql(parts: Mapping[str, object]) -> str:
    if all(is_local(host) for host in _hosts(parts)):
        return ""
    mode = parts.get("sslmode")
    return f"sslmode={mode}" if mode not in (None, VERIFIED) else ""


def _pin_postgresql(dsn: str) -> str:
    parts: dict[str, object] = dict(conninfo_to_dict(dsn))
    if all(is_local(host) for host in _hosts(parts)):
        return dsn
    wanted = {"sslmode": VERIFIED, "gssencmode": "disable"}
    if "sslcert" not in parts:
        # A server that asks for the password itself, or for its MD5, gets neither.
        wanted["require_auth"] = "scram-sha-256"
    return make_conninfo(dsn, **{name: value for name, value in wanted.items() if name not in parts})


def _weak_maria(url: URL) -> str:
    if _is_local_url(url):
        return ""
    query = {name: str(value).lower() for name, value in url.query.items()}
    for name in ("ssl_check_hostname", "ssl_verify_cert", "ssl_verify_identity"):
        if name in query and query[name] not in _YES:
            return f"{name}={query[name]}"
    return "ssl_disabled" if query.get("ssl_disabled") in _YES else ""


def _pin_maria(dsn: str) -> str:
    url = make_url(dsn)
    if _is_local_url(url) or any(name in url.query for name in _TRUSTS):
        return dsn
    paths = ssl.get_default_verify_paths()
    # Whom this machine trusts; where it trusts nobody, no server is verified and none is talked to.
    store = {"ssl_ca": paths.cafile} if paths.cafile else {"ssl_capath": paths.capath or paths.openssl_capath}
    return url.update_query_dict(store).render_as_string(hide_password=False)


def _is_local_url(url: URL) -> bool:
    return "unix_socket" in url.query or is_local(url.host or "")
