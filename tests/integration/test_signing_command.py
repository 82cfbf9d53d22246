"""A key that a program holds signs like one that we hold, and what it gives is checked before anybody sees it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from connector.audit import note
from connector.audit.note import Checkpoint, NoteError, Signer
from connector.audit.signing_command import SignerFailed
from tests.fixtures.evidence import signer

SIGNING_PROGRAM = """
import base64, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
how, seed = sys.argv[1], int(sys.argv[2])
signature = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32).sign(sys.stdin.buffer.read())
sys.stdout.buffer.write(signature if how == "raw" else base64.b64encode(signature) + b"\\n")
"""


def _by_program(folder: Path, *arguments: str) -> Signer:
    program = folder / "sign.py"
    program.write_text(SIGNING_PROGRAM, encoding="utf-8")
    command = shlex.join([sys.executable, str(program), *arguments])
    return Signer.load(f"command: {command}\n{signer().verifier()}\n", signer().name)


@pytest.mark.parametrize("how", ["raw", "base64"])
def test_a_program_that_holds_the_key_signs_as_the_key_would(tmp_path: Path, how: str) -> None:
    checkpoint = Checkpoint(signer().name, 7, bytes(32))
    assert str(note.sign(checkpoint, [_by_program(tmp_path, how, "1")])) == str(note.sign(checkpoint, [signer()]))


def test_a_signature_of_another_key_is_never_handed_out(tmp_path: Path) -> None:
    checkpoint = Checkpoint(signer().name, 7, bytes(32))
    for arguments, why in ((("raw", "2"), "does not verify"), (("raw",), "ended with")):
        with pytest.raises(SignerFailed, match=why):
            note.sign(checkpoint, [_by_program(tmp_path, *arguments)])
    with pytest.raises(SignerFailed, match="did not run"):
        note.sign(checkpoint, [Signer.load(f"command: /no/such/program\n{signer().verifier()}", signer().name)])
    for text in ("command: x", f"command:\n{signer().verifier()}", f"command: 'x\n{signer().verifier()}"):
        with pytest.raises(NoteError):
            Signer.load(text, signer().name)
