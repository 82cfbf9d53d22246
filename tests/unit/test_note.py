"""Signed notes, checkpoints, cosignatures and proofs, against the specifications' own examples."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from connector.audit import merkle, note, witness
from connector.audit.note import Algorithm, Checkpoint, NoteError, Signer, Verifier
from tests.unit.test_merkle import by_definition, hashes, node_over

# C2SP signed-note, "Example".
VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""
ORIGIN = "kpu.example/log"


def signer(name: str = ORIGIN, seed: int = 1) -> Signer:
    return Signer(name, Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def checkpoint(size: int = 5) -> Checkpoint:
    return Checkpoint(ORIGIN, size, by_definition(hashes(size)))


def test_the_specification_s_example_verifies() -> None:
    verifier = Verifier.parse(VKEY)
    assert str(verifier) == VKEY
    assert note.parse(NOTE).signed_by([verifier]) == (verifier,)
    assert str(note.parse(NOTE)) == NOTE


@pytest.mark.parametrize(
    "changed",
    [
        NOTE.replace("example message", "example massage"),
        NOTE.replace("Uw2QOkn8", "Uw2QOkn9"),
    ],
)
def test_a_changed_note_is_refused(changed: str) -> None:
    with pytest.raises(NoteError, match="does not fit"):
        note.parse(changed).signed_by([Verifier.parse(VKEY)])


@pytest.mark.parametrize(
    "text",
    ["", "text\n", "text\n\n", "a\tb\n\n— n AAAAAAA=\n", "a\n\n- n AAAAAAA=\n", "a\n\n— n AAAA\n",
     "a\n\n— n+m AAAAAAA=\n", "a\n\n— n AAAAAAA=", "a\n\n" + "— n AAAAAAA=\n" * 101, "a\n\n— n !!!!\n"],
)  # fmt: skip
def test_what_is_no_note_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        note.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "a", "a+b", "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
     "example.com/foo+530d903a+A!", "a b+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"],
)  # fmt: skip
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        Verifier.parse(text)


def test_a_key_in_pem_and_one_in_go_s_form_sign_the_same() -> None:
    ours = signer()
    private = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    seed = base64.b64encode(b"\x01" + bytes([1]) * 32).decode()
    skey = f"PRIVATE+KEY+{ORIGIN}+{ours.verifier().key_id.hex()}+{seed}"
    text = checkpoint().text
    assert {Signer.load(one, ORIGIN).sign(text) for one in (pem, skey)} == {ours.sign(text)}
    for wrong in (skey.replace("log+", "lag+"), "PRIVATE+KEY+x+y+z", "no key", pem.replace("M", "N")):
        with pytest.raises(NoteError):
            Signer.load(wrong, ORIGIN)


def test_a_checkpoint_comes_back_as_it_was_signed() -> None:
    signed = note.sign(checkpoint(), [signer()])
    _, found = note.opened(str(signed), [signer().verifier()], ORIGIN)
    assert found == checkpoint()
    for verifiers, origin in (([signer(seed=2).verifier()], ORIGIN), ([signer().verifier()], "other")):
        with pytest.raises(NoteError):
            note.opened(str(signed), verifiers, origin)


@pytest.mark.parametrize(
    "text", ["", "a\n1\n", "a\n01\nAA==\n", "a\n1\nAA==\n", f"a\n-1\n{base64.b64encode(bytes(32)).decode()}\n"]
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        Checkpoint.parse(text)


def test_a_checkpoint_may_be_signed_by_the_old_key_and_the_new_one() -> None:
    old, new = signer(seed=1), signer(seed=2)
    both = str(note.sign(checkpoint(), [new, old]))
    for trusted in (old, new):
        assert note.opened(both, [trusted.verifier()])[1] == checkpoint()


def test_a_witness_signs_what_extends_what_it_saw_and_nothing_else() -> None:
    leaves = hashes(9)
    log, kpu = signer(), signer("bawaslu.example/w", 3)
    old, new = (str(note.sign(checkpoint(size), [log])) for size in (5, 9))
    proof = merkle.consistency(5, 9, node_over(leaves))
    known = [log.verifier()]
    first = witness.cosign(old, None, (), known, kpu, 1_700_000_000)
    second = witness.cosign(new, str(first), proof, known, kpu, 1_700_000_060)
    cosigner = kpu.verifier(Algorithm.COSIGNATURE)
    assert second.signed_by([log.verifier(), cosigner]) == (log.verifier(), cosigner)
    assert second.signatures[-1].time == 1_700_000_060
    for current, previous, path in ((new, str(first), proof[:-1]), (old, str(second), proof), (new, str(first), ())):
        with pytest.raises(NoteError, match="does not extend"):
            witness.cosign(current, previous, path, known, kpu, 1)
    with pytest.raises(NoteError, match="no trusted key"):
        witness.cosign(str(note.sign(checkpoint(), [signer(seed=9)])), None, (), known, kpu, 1)


def test_a_cosignature_is_bound_to_its_time() -> None:
    kpu = signer("w", 3)
    cosigned = note.sign(checkpoint(), [signer()]).adding([kpu.cosign(checkpoint().text, 100)])
    line = cosigned.signatures[-1]
    later = note.Signature(line.name, line.key_id, (101).to_bytes(8, "big") + line.signature[8:])
    forged = note.Note(cosigned.text, (*cosigned.signatures[:-1], later))
    with pytest.raises(NoteError, match="does not fit"):
        forged.signed_by([kpu.verifier(Algorithm.COSIGNATURE)])


def test_a_proof_file_comes_apart_again() -> None:
    path = merkle.inclusion(3, 5, node_over(hashes(5)))
    text = note.proof_file(3, path, str(note.sign(checkpoint(), [signer()])))
    index, found, signed = note.parse_proof(text)
    assert (index, list(found)) == (3, path)
    assert merkle.includes(hashes(5)[3], index, 5, found, note.opened(signed, [signer().verifier()])[1].root)
    assert note.parse_proof(text.replace("index", "extra AAAA\nindex"))[0] == 3
    for wrong in (
        "",
        text.replace("@v1", "@v2"),
        text.replace("index 3", "index 03"),
        text.replace("index 3\n", "index 3\nAAAA\n"),
    ):
        with pytest.raises(NoteError):
            note.parse_proof(wrong)
