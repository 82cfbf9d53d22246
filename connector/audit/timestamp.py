"""Time stamps (RFC 3161) of signed checkpoints: asked for, checked, and kept. Any TSA that speaks HTTP will do.

A stamp that does not verify under the authority's certificate is refused here, before it is believed anywhere.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime

import psycopg
from cryptography import x509
from rfc3161_client import TimestampRequestBuilder, VerificationError, VerifierBuilder, decode_timestamp_response

from connector.audit.tree import StoredCheckpoint
from connector.errors import ConnectorError

# A response has a few certificates and a signature: some kilobytes.
RESPONSE_BYTES_MAX = 1 << 20
TIMEOUT_S = 20.0


class TimestampRefused(ConnectorError):
    """The authority gave no time stamp, or one that cannot be believed."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A time stamp of a checkpoint."""

    size: int
    tsa: str
    token: bytes
    said: datetime


def stamp(checkpoint: StoredCheckpoint, tsa: str, roots: bytes) -> Stamp:
    """Have a checkpoint stamped.

    Args:
        roots: PEM certificates: the authority's root, and intermediates where its answers lack them.

    Raises:
        TimestampRefused: no answer, a refusal, or a stamp that does not verify.
    """
    data = checkpoint.note.encode()
    request = TimestampRequestBuilder().data(data).nonce(nonce=True).cert_request(cert_request=True).build()
    token = _ask(tsa, request.as_bytes())
    try:
        response = decode_timestamp_response(token)
        certificates = x509.load_pem_x509_certificates(roots)
        verifier = VerifierBuilder.from_request(request)
        for one in certificates:
            is_root = one.subject == one.issuer
            verifier = verifier.add_root_certificate(one) if is_root else verifier.add_intermediate_certificate(one)
        verifier.build().verify_message(response, data)
    except VerificationError as error:
        hint = "is --ca the authority's?"
        raise TimestampRefused(f"the time stamp does not verify: {error}", place=tsa, hint=hint) from None
    except ValueError as error:
        raise TimestampRefused(f"no time stamp, or no certificate: {error}", place=tsa) from None
    return Stamp(checkpoint.size, tsa, token, response.tst_info.gen_time)


def _ask(tsa: str, request: bytes) -> bytes:
    if not tsa.startswith(("http://", "https://")):
        raise TimestampRefused("a TSA is asked over HTTP", place=tsa)
    asked = urllib.request.Request(  # noqa: S310 - the scheme was looked at
        tsa, request, {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:  # noqa: S310
            found: bytes = answer.read(RESPONSE_BYTES_MAX)
    except (urllib.error.URLError, OSError) as error:
        hint = "it is asked again next time"
        raise TimestampRefused(f"the TSA does not answer ({error})", place=tsa, hint=hint) from None
    return found


def keep(conn: psycopg.Connection, found: Stamp) -> None:
    conn.execute(
        "insert into audit.timestamp (size, tsa, token, said) values (%s, %s, %s, %s) on conflict do nothing",
        (found.size, found.tsa, found.token, found.said),
    )


def kept(conn: psycopg.Connection) -> list[tuple[int, int, bytes]]:
    """Size, number among that size's, and token of every stamp."""
    return conn.execute(
        "select size, row_number() over (partition by size order by at, tsa), token from audit.timestamp order by 1, 2"
    ).fetchall()
