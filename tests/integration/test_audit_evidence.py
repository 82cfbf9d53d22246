"""What leaves the house: checkpoints, proofs, receipts and an exported log, checked by programs that are not ours.

`stranger` is a small Go program over golang.org/x/mod/sumdb, whose authors never heard of us. `verify.py` is the single
file that `connector audit verifier` prints; it is run by a Python that cannot see this package.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from connector.audit.note import Algorithm
from connector.audit.sequencer import Signing
from connector.staging import session
from tests.conftest import missing
from tests.fixtures.commandline import CommandLine
from tests.fixtures.evidence import key_file, signer, tick, write_many

GO_SOURCE = Path(__file__).parent / "go"
ORIGIN = "sipol-connector/audit"
SIZES = (3, 300, 700)
SIGNING = Signing(ORIGIN, (signer(name=ORIGIN),))
VKEY = str(signer(name=ORIGIN).verifier())

Check = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """The Go program; answers with its exit code and its line."""
    if shutil.which("go") is None:
        missing("no Go compiler: the stranger's check is not made (Debian: golang-go)")
    program = tmp_path_factory.mktemp("go") / "stranger"
    built = subprocess.run(
        ["go", "build", "-o", str(program), "."], cwd=GO_SOURCE, capture_output=True, text=True, check=False,
        env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false -mod=readonly", "CGO_ENABLED": "0"},
    )  # fmt: skip
    if built.returncode:
        missing(f"the stranger's program cannot be built: {built.stderr[-300:]}")
    return lambda *words: _run([str(program), *map(str, words)])


@pytest.fixture(scope="session")
def verify_py(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """The printed verifier, run where the package cannot be imported: isolated, from another folder."""
    folder = tmp_path_factory.mktemp("verifier")
    printed = subprocess.run(
        [sys.executable, "-m", "connector", "audit", "verifier"], capture_output=True, text=True, check=True
    ).stdout
    imported = {line.split()[1].split(".")[0] for line in printed.splitlines() if line.startswith(("import ", "from "))}
    assert imported - {"cryptography"} <= sys.stdlib_module_names
    (folder / "verify.py").write_text(printed, encoding="utf-8")

    def check(*words: object) -> tuple[int, str]:
        command = [sys.executable, "-I", str(folder / "verify.py"), *map(str, words)]
        return _run(command)

    return check


def _run(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.strip()


@pytest.fixture
def conn(staging_dsn: str) -> Iterator[psycopg.Connection]:
    with session.connect(staging_dsn) as opened:
        yield opened


@pytest.fixture
def connector(
    tmp_path: Path, staging_dsn: str, capsys: pytest.CaptureFixture[str], conn: psycopg.Connection
) -> CommandLine:
    """A log of 700 entries of two parties, signed at three sizes."""
    key_file(tmp_path / "keys" / "audit.key")
    for size, before in zip(SIZES, (0, *SIZES), strict=False):
        write_many(conn, ("alfa", "beta"), size - before, seed=size)
        tick(conn, SIGNING)
    return CommandLine(tmp_path, staging_dsn, capsys)


# ------------------------------------------------------------------------------------------------- by strangers


def test_strangers_verify_an_exported_log(connector: CommandLine, stranger: Check, verify_py: Check) -> None:
    folder = connector.folder / "log"
    told = connector.json("audit", "export", str(folder))
    assert told["result"]["size"] == 700
    assert (folder / "log.vkey").read_text(encoding="utf-8") == f"{VKEY}\n"
    assert stranger("log", folder, VKEY) == (0, "OK: 700 entries, 3 checkpoints")
    code, said = verify_py("log", folder, "--key", VKEY)
    assert code == 0, said
    assert said.startswith(f"OK: {ORIGIN}: 700 entries verified under 4 checkpoints: alfa 1 to ")


def test_strangers_find_what_was_changed_in_an_exported_log(
    connector: CommandLine, stranger: Check, verify_py: Check
) -> None:
    whole = connector.folder / "whole"
    connector.json("audit", "export", str(whole))
    damages: list[tuple[str, Callable[[bytes], bytes], str]] = [
        ("tile/entries/000", lambda data: data.replace(b'"inserted":', b'"inserted":1', 1), "entry 0"),
        ("tile/entries/002.p/188", lambda data: data[: -int.from_bytes(data[:2], "big") - 2], "002.p/188"),
        ("tile/0/001", lambda data: bytes([data[0] ^ 1]) + data[1:], "tile/0/001"),
        ("checkpoint", lambda data: data.replace(b"\n700\n", b"\n699\n"), "checkpoint"),
        ("checkpoints/300", lambda data: data.replace(b"\n300\n", b"\n299\n"), "300"),
    ]
    for number, (name, change, _) in enumerate(damages):
        folder = connector.folder / f"damaged-{number}"
        shutil.copytree(whole, folder)
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        for code, said in (stranger("log", folder, VKEY), verify_py("log", folder, "--key", VKEY)):
            assert (code, said[:6]) == (1, "WRONG:"), (name, said)
    other = str(signer(2, ORIGIN).verifier())
    assert stranger("log", whole, other)[0] == 1
    assert verify_py("log", whole, "--key", other)[0] == 1


def test_strangers_verify_that_one_checkpoint_is_the_beginning_of_another(
    connector: CommandLine, stranger: Check
) -> None:
    folder = connector.folder / "log"
    connector.json("audit", "export", str(folder))
    proof = connector.folder / "proof"
    for old, new in ((3, 300), (300, 700), (3, 700)):
        lines = connector.json("audit", "consistency", str(old), str(new))["result"]["proof"]
        proof.write_text("\n".join(lines), encoding="utf-8")
        words = (folder / "checkpoints" / str(old), folder / "checkpoints" / str(new), proof, VKEY)
        assert stranger("consistency", *words) == (0, f"OK: {old} entries are the beginning of {new}")
        proof.write_text("\n".join([base64.b64encode(bytes(32)).decode(), *lines[1:]]), encoding="utf-8")
        assert stranger("consistency", *words)[0] == 1
    assert connector.json("audit", "consistency", "7", "701", code=2)["error"]["message"] == "the tree has 700 entries"


def test_strangers_verify_the_proof_of_one_entry_and_refuse_another_s(
    connector: CommandLine, stranger: Check, verify_py: Check
) -> None:
    paths = {}
    for seq in (1, 150):
        paths[seq] = connector.folder / f"alfa-{seq}.tlog-proof"
        connector.json("audit", "prove", "alfa", str(seq), "--out", str(paths[seq]))
    for seq, path in paths.items():
        entry = path.with_suffix(".json")
        assert json.loads(entry.read_bytes())["seq"] == seq
        assert stranger("proof", entry, path, VKEY)[0] == 0
        code, said = verify_py("proof", entry, path, "--key", VKEY)
        assert (code, f"alfa#{seq} verified" in said) == (0, True), said
    swapped = (paths[1].with_suffix(".json"), paths[150])
    assert stranger("proof", *swapped, VKEY)[0] == 1
    assert verify_py("proof", *swapped, "--key", VKEY)[0] == 1


# ------------------------------------------------------------------------------------------------- receipts


def test_a_receipt_stands_alone(connector: CommandLine, verify_py: Check) -> None:
    path = connector.folder / "receipt.json"
    told = connector.json("audit", "receipt", "alfa", "--out", str(path))
    last = told["result"]["last"]
    assert (told["result"]["entries"], told["result"]["size"]) == (last, 700)
    assert verify_py("receipt", path, "--key", VKEY, "--party", "alfa") == (
        0, f"OK: {ORIGIN}: entries 1 to {last} of alfa verified in the log of 700",
    )  # fmt: skip
    assert verify_py("receipt", path, "--key", VKEY, "--party", "beta")[0] == 1
    part = connector.folder / "part.json"
    connector.json("audit", "receipt", "alfa", "--since", str(last - 5), "--out", str(part))
    assert f"entries {last - 4} to {last} of alfa" in verify_py("receipt", part, "--key", VKEY)[1]


@pytest.mark.parametrize("damage", ["body", "proof", "gap", "order", "checkpoint"])
def test_a_changed_receipt_is_refused(connector: CommandLine, verify_py: Check, damage: str) -> None:
    receipt = json.loads(connector.json("audit", "receipt", "beta")["result"]["receipt"])
    entries = receipt["entries"]
    match damage:
        case "body":
            entries[3]["body"] = (
                entries[3]["body"].replace('"deleted":2', '"deleted":3').replace('"absent":1', '"absent":0')
            )
        case "proof":
            entries[3]["proof"][0] = entries[4]["proof"][1]
        case "gap":
            del entries[3]
        case "order":
            entries[3], entries[4] = entries[4], entries[3]
        case "checkpoint":
            receipt["checkpoint"] = receipt["checkpoint"].replace("\n700\n", "\n7000\n")
    path = connector.folder / "receipt.json"
    path.write_text(json.dumps(receipt), encoding="utf-8")
    code, said = verify_py("receipt", path, "--key", VKEY)
    assert (code, said[:6]) == (1, "WRONG:")


def test_witnesses_cosign_and_a_receipt_carries_their_signatures(
    connector: CommandLine, verify_py: Check, stranger: Check
) -> None:
    folder = connector.folder
    name = "bawaslu.example/w"
    vkey = str(signer(3, name).verifier(Algorithm.COSIGNATURE))
    key_file(folder / "witness.key", 3)
    text = (folder / "connector.yaml").read_text(encoding="utf-8")
    text = text.replace('audit.key}"}', f'audit.key}}", witnesses: {{bawaslu: "{vkey}"}}, witnesses_needed: 1}}')
    (folder / "connector.yaml").write_text(text, encoding="utf-8")
    published, signed = folder / "checkpoint", folder / "cosigned"
    published.write_text(connector("audit", "checkpoint").out, encoding="utf-8")
    cosign = ("audit", "cosign", str(published), "--key", str(folder / "witness.key"), "--name", name, "--log", VKEY)
    told = connector.json(*cosign, "--state", str(folder / "state"))
    assert (told["result"]["size"], told["result"]["vkey"]) == (700, vkey)
    signed.write_text(told["result"]["note"], encoding="utf-8")
    receipt = folder / "receipt.json"
    connector.json("audit", "receipt", "alfa", "--out", str(receipt))
    needed = ("receipt", receipt, "--key", VKEY, "--witness", vkey, "--needed", "1")
    assert verify_py(*needed)[1].endswith("has 0 cosignatures of known witnesses, 1 are needed")
    assert connector.json("audit", "take", str(signed))["result"] == {"size": 700, "witnesses": [name]}
    connector.json("audit", "receipt", "alfa", "--out", str(receipt))
    assert verify_py(*needed)[0] == 0
    assert connector.json("audit", "take", str(published), code=2)["error"]["message"].startswith("not taken")
    connector.json("audit", "export", str(folder / "log"))
    assert stranger("log", folder / "log", VKEY)[0] == 0
    assert verify_py("log", folder / "log", "--key", VKEY, "--witness", vkey, "--needed", "1")[0] == 0


# ------------------------------------------------------------------------------------------------- the folder over time


def test_an_export_goes_on_and_refuses_another_history(
    connector: CommandLine, conn: psycopg.Connection, stranger: Check
) -> None:
    folder = connector.folder / "log"
    connector.json("audit", "export", str(folder))
    again = connector.json("audit", "export", str(folder))
    assert again["result"]["files"] == 2
    write_many(conn, ("alfa", "beta"), 400, seed=1)
    tick(conn, SIGNING)
    connector.json("audit", "export", str(folder))
    assert stranger("log", folder, VKEY) == (0, "OK: 1100 entries, 4 checkpoints")
    path = folder / "tile" / "0" / "004.p" / "76"
    path.write_bytes(bytes(76 * 32))
    told = connector.json("audit", "export", str(folder), code=1)
    assert told["error"]["kind"] == "audit_broken"
    assert "with another content" in told["error"]["message"]


def test_without_a_signature_there_is_nothing_to_hand_out(
    tmp_path: Path, staging_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    connector = CommandLine(tmp_path, staging_dsn, capsys)
    for words in (("checkpoint",), ("prove", "alfa", "1"), ("receipt", "alfa"), ("export", str(tmp_path / "log"))):
        error = connector.json("audit", *words, code=2)["error"]
        assert error["message"] == "no checkpoint was signed yet"
        assert "audit.key" in error["hint"]


def test_verify_says_what_the_tree_and_its_signatures_cover(connector: CommandLine) -> None:
    told = connector.json("audit", "verify")
    assert told["result"]["tree"] == {
        "size": 700, "signed": 700, "waiting": 0, "checkpoints": 3, "unsigned_reason": "", "breaches": [],
    }  # fmt: skip
    assert told["summary"].endswith("tree of 700 entries rebuilt; 700 under 3 signed checkpoints")


def test_keygen_prints_the_public_key_that_readers_need(
    tmp_path: Path, staging_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    connector = CommandLine(tmp_path, staging_dsn, capsys)
    told = connector.json("audit", "keygen")
    assert told["result"]["vkey"].startswith(f"{ORIGIN}+")
    witness = connector.json("audit", "keygen", str(tmp_path / "w.key"), "--witness", "kpu.example/w")
    assert witness["result"]["vkey"].startswith("kpu.example/w+")
    assert connector.json("audit", "keygen", "--witness", "a b", code=2)["error"]["kind"] == "usage_error"
