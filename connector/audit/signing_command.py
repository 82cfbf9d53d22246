"""A signing key that is elsewhere (a token, an HSM, another machine): a program signs, and this checks what it gave.

The private key never comes near this process. Nothing of a shell is involved.
"""

from __future__ import annotations

import base64
import shlex
import subprocess
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from connector.errors import ConnectorError

PREFIX = "command:"
SIGNATURE_BYTES = 64
# A token that waits for a touch is no use to a daemon that signs every few seconds.
TIMEOUT_S = 15.0


class SignerFailed(ConnectorError):
    """The program that holds the key did not sign."""


@dataclass(frozen=True, slots=True)
class CommandKey:
    """A key as a program: the bytes to sign on its standard input, the signature (raw or base64) on its output."""

    arguments: tuple[str, ...]
    public: bytes

    @classmethod
    def parse(cls, line: str, public: bytes) -> CommandKey:
        """Read `command: PROGRAM ARGUMENT ...`.

        Raises:
            ValueError: quotes that do not end, or no program.
        """
        arguments = tuple(shlex.split(line.removeprefix(PREFIX)))
        if not arguments:
            raise ValueError("no program is named")
        return cls(arguments, public)

    def public_key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.public)

    def sign(self, data: bytes) -> bytes:
        """Have `data` signed.

        Raises:
            SignerFailed: the program failed, took too long, or its signature is not the key's.
        """
        program = self.arguments[0]
        try:
            done = subprocess.run(self.arguments, input=data, capture_output=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            raise SignerFailed(f"the signing program did not run ({type(error).__name__})", place=program) from None
        if done.returncode:
            raise SignerFailed(f"the signing program ended with {done.returncode}", place=program)
        signature = done.stdout
        if len(signature) != SIGNATURE_BYTES:
            try:
                signature = base64.b64decode(signature.strip(), validate=True)
            except ValueError:
                signature = b""
        try:
            self.public_key().verify(signature, data)
        except InvalidSignature:
            hint = "is the public key beside the command the key's that signs?"
            raise SignerFailed("the signing program's signature does not verify", place=program, hint=hint) from None
        return signature
