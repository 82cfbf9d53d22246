"""Signed notes (C2SP signed-note), checkpoints (tlog-checkpoint), witnesses' cosignatures (tlog-cosignature), proofs
(tlog-proof). Pure: text and keys in, text out (a key may be a program's that holds it).

Keys are Ed25519. A verifier key is a text: `name+keyid+base64`, as Go's sumdb/note reads it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from connector.audit.signing_command import PREFIX, CommandKey

PROOF_HEADER = "c2sp.org/tlog-proof@v1"
# More than anybody's witnesses; a note beyond is somebody's attempt to keep a reader busy.
SIGNATURES_MAX = 100
NOTE_BYTES_MAX = 1_000_000
_SKEY = "PRIVATE+KEY+"
_NAME = re.compile(r"[^\s+]+")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


class NoteError(ValueError):
    """A text is not what it should be, or no trusted key signed it."""


class Algorithm(Enum):
    """The signature type's byte."""

    ED25519 = 1
    COSIGNATURE = 4


@dataclass(frozen=True, slots=True)
class Verifier:
    """Whose signatures count: a name, a public key, and whether it signs the text or a time with it."""

    name: str
    public: bytes
    algorithm: Algorithm = Algorithm.ED25519

    @property
    def key_id(self) -> bytes:
        return _key_id(self.name, self._typed)

    @property
    def _typed(self) -> bytes:
        return bytes([self.algorithm.value]) + self.public

    def __str__(self) -> str:
        """The verifier key (vkey) as text."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self._typed).decode()}"

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Read a vkey.

        Raises:
            NoteError: it is none, or its key id is not that of its key.
        """
        # A key's base64 may hold a plus itself.
        name, key_id, encoded = (*text.strip().split("+", 2), "", "")[:3]
        typed = _decoded(encoded)
        algorithms = {one.value: one for one in Algorithm}
        if not _NAME.fullmatch(name) or len(typed) != 33 or typed[0] not in algorithms:
            raise NoteError("not a verifier key: NAME+KEYID+BASE64 of an Ed25519 key")
        found = cls(name, typed[1:], algorithms[typed[0]])
        if found.key_id.hex() != key_id.lower():
            raise NoteError("the verifier key's id is not that of its key")
        return found

    def checks(self, text: str, signature: bytes) -> bool:
        """Whether `signature` (without the key id) is this key's over `text`."""
        signed = text.encode()
        if self.algorithm is Algorithm.COSIGNATURE:
            if len(signature) != 72:
                return False
            signed, signature = _timed(text, int.from_bytes(signature[:8], "big")), signature[8:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, signed)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """A private key under a name; `key` may be a program that holds it."""

    name: str
    key: Ed25519PrivateKey | CommandKey

    @classmethod
    def load(cls, text: str, name: str) -> Signer:
        """Read a private key: PEM as `audit keygen` writes it, or Go's `PRIVATE+KEY+...` under its own name.

        Or two lines that say who has it: `command: PROGRAM ARGUMENT ...`, and the public key (NAME+ID+BASE64).

        Raises:
            NoteError: it is neither, or its name is another than `name`.
        """
        if text.startswith(PREFIX):
            return cls._of_command(text, name)
        if text.startswith(_SKEY):
            own, key_id, encoded = (*text.strip().removeprefix(_SKEY).split("+", 2), "", "")[:3]
            seed = _decoded(encoded)
            if len(seed) != 33 or seed[0] != Algorithm.ED25519.value:
                raise NoteError("not an Ed25519 signer key")
            found = cls(own, Ed25519PrivateKey.from_private_bytes(seed[1:]))
            if own != name or found.verifier().key_id.hex() != key_id:
                raise NoteError("the signer key is another name's, or damaged")
            return found
        try:
            key = load_pem_private_key(text.encode(), password=None)
        except (ValueError, TypeError):
            raise NoteError("not a private key in PEM") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise NoteError("not an Ed25519 key")
        return cls(name, key)

    @classmethod
    def _of_command(cls, text: str, name: str) -> Signer:
        command, _, public = text.strip().partition("\n")
        verifier = Verifier.parse(public)
        if verifier.name != name:
            raise NoteError("the public key beside the command is another name's")
        try:
            return cls(name, CommandKey.parse(command, verifier.public))
        except ValueError as error:
            raise NoteError(f"no command to sign with: {error}") from None

    def verifier(self, algorithm: Algorithm = Algorithm.ED25519) -> Verifier:
        return Verifier(self.name, self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw), algorithm)

    def sign(self, text: str) -> str:
        """The signature line over a note's text."""
        return self._line(self.verifier().key_id + self.key.sign(text.encode()))

    def cosign(self, text: str, at: int) -> str:
        """A witness's line: this checkpoint was, at POSIX time `at`, the largest consistent one it had seen."""
        witness = self.verifier(Algorithm.COSIGNATURE)
        return self._line(witness.key_id + at.to_bytes(8, "big") + self.key.sign(_timed(text, at)))

    def _line(self, signature: bytes) -> str:
        return f"— {self.name} {base64.b64encode(signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: who says so, with which key, and the bytes."""

    name: str
    key_id: bytes
    signature: bytes

    @property
    def time(self) -> int | None:
        """When a witness signed, where it is a cosignature."""
        return int.from_bytes(self.signature[:8], "big") if len(self.signature) == 72 else None

    def __str__(self) -> str:
        return f"— {self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures, not yet checked."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return self.text + "\n" + "".join(str(one) for one in self.signatures)

    def signed_by(self, verifiers: Iterable[Verifier]) -> tuple[Verifier, ...]:
        """Which of `verifiers` signed.

        Raises:
            NoteError: a line claims to be one of theirs and is not.
        """
        known = {(one.name, one.key_id): one for one in verifiers}
        found: dict[Verifier, None] = {}
        for line in self.signatures:
            verifier = known.get((line.name, line.key_id))
            if verifier is None:
                continue
            if not verifier.checks(self.text, line.signature):
                raise NoteError(f"the signature of {verifier.name} does not fit the text")
            found[verifier] = None
        return tuple(found)

    def adding(self, lines: Iterable[str]) -> Note:
        """The same note with further signature lines; one that is there already is not repeated."""
        more = [_signature(line) for line in lines]
        return Note(self.text, tuple(dict.fromkeys((*self.signatures, *more))))


def parse(text: str) -> Note:
    """Take a signed note apart.

    Raises:
        NoteError: it is none.
    """
    if len(text) > NOTE_BYTES_MAX or any(ord(letter) < 0x20 and letter != "\n" for letter in text):
        raise NoteError("not a signed note: too long, or with control characters")
    body, gap, tail = text.rpartition("\n\n")
    lines = tail.splitlines(keepends=True)
    if not gap or not 1 <= len(lines) <= SIGNATURES_MAX:
        raise NoteError("not a signed note: text, an empty line, signatures")
    return Note(body + "\n", tuple(_signature(line) for line in lines))


def _signature(line: str) -> Signature:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    data = _decoded(encoded.removesuffix("\n"))
    if dash != "—" or not line.endswith("\n") or not _NAME.fullmatch(name) or len(data) < 5:
        raise NoteError("not a signature line")
    return Signature(name, data[:4], data[4:])


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree's size and root, under the log's name."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read a checkpoint's note text; extension lines are let through and ignored.

        Raises:
            NoteError: it is none.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]) or not _DECIMAL.fullmatch(lines[1]):
            raise NoteError("not a checkpoint: origin, size, root")
        root = _decoded(lines[2])
        if len(root) != 32:
            raise NoteError("a checkpoint's root has 32 bytes")
        return cls(lines[0], int(lines[1]), root)


def sign(checkpoint: Checkpoint, signers: Sequence[Signer]) -> Note:
    """A signed checkpoint."""
    return parse(checkpoint.text + "\n" + "".join(signer.sign(checkpoint.text) for signer in signers))


def opened(text: str, verifiers: Iterable[Verifier], origin: str | None = None) -> tuple[Note, Checkpoint]:
    """A checkpoint that one of `verifiers` signed.

    Raises:
        NoteError: it is none, nobody trusted signed it, or it is another log's.
    """
    note = parse(text)
    checkpoint = Checkpoint.parse(note.text)
    if not note.signed_by(verifiers):
        raise NoteError("no trusted key signed the checkpoint")
    if origin is not None and checkpoint.origin != origin:
        raise NoteError("the checkpoint is another log's")
    return note, checkpoint


def proof_file(index: int, path: Sequence[bytes], checkpoint: str) -> str:
    """A tlog-proof: index, inclusion proof, signed checkpoint."""
    hashes = "".join(f"{base64.b64encode(one).decode()}\n" for one in path)
    return f"{PROOF_HEADER}\nindex {index}\n{hashes}\n{checkpoint}"


def parse_proof(text: str) -> tuple[int, tuple[bytes, ...], str]:
    """Read a tlog-proof: index, inclusion proof, checkpoint.

    Raises:
        NoteError: it is none.
    """
    head, _, checkpoint = text.partition("\n\n")
    lines = head.split("\n")
    if len(lines) > 1 and lines[1].startswith("extra "):
        del lines[1]
    if lines[0] != PROOF_HEADER or len(lines) < 2 or not _DECIMAL.fullmatch(lines[1].removeprefix("index ")):
        raise NoteError("not a tlog-proof")
    path = tuple(_decoded(line) for line in lines[2:])
    if any(len(one) != 32 for one in path):
        raise NoteError("a hash of the proof has not 32 bytes")
    return int(lines[1].removeprefix("index ")), path, checkpoint


def _key_id(name: str, typed: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + typed).digest()[:4]


def _timed(text: str, at: int) -> bytes:
    return f"cosignature/v1\ntime {at}\n{text}".encode()


def _decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""
