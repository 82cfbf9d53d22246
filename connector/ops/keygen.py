"""Makes the keys that KPU holds, each in a file that only its owner can read and that is never overwritten."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from connector.audit.note import Algorithm, Verifier
from connector.credentials import Secret
from connector.errors import EnvironmentMissing, UsageError

# 256 bits, what HMAC-SHA-256 makes full use of.
DIGEST_KEY_BYTES = 32


def make_audit_key(path: Path) -> Ed25519PublicKey:
    """Write a new Ed25519 private key as PEM; gives its public half, which auditors are handed.

    Raises:
        UsageError: there is a file already.
        EnvironmentMissing: the file cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write_new(path, pem)
    return key.public_key()


def public_pem(key: Ed25519PublicKey) -> str:
    """A public key as other programs (openssl) read it."""
    encoded = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode()


def verifier(key: Ed25519PublicKey, name: str, *, witness: bool = False) -> str:
    """A public key as the log's readers want it: NAME+ID+BASE64.

    Raises:
        UsageError: the name has a blank or a plus sign in it.
    """
    if not name or any(letter.isspace() or letter == "+" for letter in name):
        raise UsageError("that cannot be a key's name", hint="no blanks and no plus sign: bawaslu.example/w")
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return str(Verifier(name, raw, Algorithm.COSIGNATURE if witness else Algorithm.ED25519))


def make_digest_key(path: Path) -> None:
    """Write a new digest key: random bytes as hexadecimal text.

    Raises:
        UsageError: there is a file already.
        EnvironmentMissing: the file cannot be written.
    """
    _write_new(path, secrets.token_hex(DIGEST_KEY_BYTES).encode() + b"\n")


def place_for(secret: Secret | None, name: str) -> Path:
    """The file that the configuration names for a key.

    Raises:
        UsageError: it names none.
    """
    if secret is None or secret.kind != "file":
        raise UsageError(f"the configuration names no file for {name}", hint="give the file as an argument")
    return Path(secret.name)


def _write_new(path: Path, content: bytes) -> None:
    """Readable for its owner alone from the first moment, and only where nothing is: no race, no link followed."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise _unwritable(path, exc) from None
    try:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        hint = "a key is not made anew lightly: move the old one away first, and keep it"
        raise UsageError("there is such a file already", hint=hint, place=str(path)) from None
    except OSError as exc:
        raise _unwritable(path, exc) from None
    try:
        with os.fdopen(opened, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        path.unlink(missing_ok=True)  # half a key must not pass for one
        raise _unwritable(path, exc) from None


def _unwritable(path: Path, exc: OSError) -> EnvironmentMissing:
    said = os.strerror(exc.errno or 0)
    return EnvironmentMissing(f"the key cannot be written ({said})", hint="may this user write there?", place=str(path))
