#!/usr/bin/env python3
"""Verifies a Sipol connector's audit log without the connector. Needs Python 3.9 and the package `cryptography`.

    verify.py log FOLDER --key VKEY [--previous CHECKPOINT]...    an exported log (`connector audit export`)
    verify.py receipt FILE --key VKEY [--party NAME]              a party's receipt (`connector audit receipt`)
    verify.py proof ENTRY PROOF --key VKEY                        one entry and its tlog-proof (`connector audit prove`)

VKEY is the log's public key (NAME+ID+BASE64), got another way than the log itself. --key may be repeated: keys change.
With --witness VKEY (repeated) and --needed N the checkpoint must also carry the cosignatures of N of these witnesses.

Exit code 0: all is as it should be; the last line says what was verified. 1: something is wrong; the last line says
what and where. 2: wrong use. Formats: C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-tiles, tlog-proof;
RFC 6962 hashing; schemas/audit-entry.md of the connector for what an entry says.

This file stands alone on purpose. It shares no line with the program that writes the log.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LOG_KEY, WITNESS_KEY = 1, 4

# The complete subtrees of a tree, the largest first: height and root of each.
Peaks = list[tuple[int, bytes]]


class Wrong(Exception):
    """What is wrong, and where."""


# ---------------------------------------------------------------------------------------------- hashes (RFC 6962)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry)


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right)


def tree_root(peaks: Peaks) -> bytes:
    """The root over the complete subtrees of a tree, the largest first."""
    if not peaks:
        return sha256(b"")
    root = peaks[-1][1]
    for _, peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def add_leaf(peaks: Peaks, leaf: bytes) -> None:
    """Grow a tree by a leaf; `peaks` are (height, root) of its complete subtrees."""
    peaks.append((0, leaf))
    while len(peaks) > 1 and peaks[-1][0] == peaks[-2][0]:
        height, right = peaks.pop()
        _, left = peaks.pop()
        peaks.append((height + 1, node_hash(left, right)))


def root_from_proof(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes | None:
    """The root that an inclusion proof leads to (RFC 9162, 2.1.3.2); None where the proof has not the right length."""
    place, last, root = index, size - 1, leaf
    if not 0 <= index < size:
        return None
    for beside in proof:
        if last == 0:
            return None
        if place & 1 or place == last:
            root = node_hash(beside, root)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            root = node_hash(root, beside)
        place, last = place >> 1, last >> 1
    return root if last == 0 else None


# ---------------------------------------------------------------------------------------------- signatures


def read_key(text: str, kind: int) -> tuple[str, bytes, Ed25519PublicKey]:
    """(name, key id, public key) of a verifier key."""
    parts = text.strip().split("+", 2)
    try:
        name, key_id, typed = parts[0], bytes.fromhex(parts[1]), base64.b64decode(parts[2], validate=True)
    except (IndexError, ValueError):
        raise Wrong("not a verifier key: " + text) from None
    if len(typed) != 33 or typed[0] != kind or sha256(name.encode() + b"\n" + typed)[:4] != key_id:
        raise Wrong(f"not a verifier key of type {kind}, or damaged: {text}")
    return name, key_id, Ed25519PublicKey.from_public_bytes(typed[1:])


def read_checkpoint(text: str, options: argparse.Namespace, where: str) -> tuple[str, int, bytes]:
    """(origin, size, root) of a signed checkpoint, after its signatures have been checked."""
    body, gap, tail = text.rpartition("\n\n")
    lines = body.split("\n")
    if not gap or len(lines) < 3 or not lines[1].isdigit() or not tail.endswith("\n"):
        raise Wrong(where + " is not a signed checkpoint")
    signed = body + "\n"
    log_keys = [read_key(key, LOG_KEY) for key in options.key]
    witnesses = [read_key(key, WITNESS_KEY) for key in options.witness]
    by_log: set[str] = set()
    by_witnesses: set[str] = set()
    for line in tail.splitlines():
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        data = base64.b64decode(encoded)
        if dash != "\u2014" or len(data) < 5:
            raise Wrong(where + " has a line that is no signature")
        for key_name, key_id, key in log_keys:
            if (key_name, key_id) == (name, data[:4]):
                check_signature(key, data[4:], signed.encode(), name, where)
                by_log.add(name)
        for key_name, key_id, key in witnesses:
            if (key_name, key_id) == (name, data[:4]):
                at = struct.unpack(">Q", data[4:12])[0]
                timed = f"cosignature/v1\ntime {at}\n{signed}"
                check_signature(key, data[12:], timed.encode(), name, where)
                by_witnesses.add(name)
    if lines[0] not in by_log:
        raise Wrong(where + " is not signed by a key that was given for " + lines[0])
    if len(by_witnesses) < options.needed:
        raise Wrong(f"{where} has {len(by_witnesses)} cosignatures of known witnesses, {options.needed} are needed")
    return lines[0], int(lines[1]), base64.b64decode(lines[2])


def check_signature(key: Ed25519PublicKey, signature: bytes, signed: bytes, name: str, where: str) -> None:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        raise Wrong(f"{where}: the signature of {name} is wrong") from None


# ---------------------------------------------------------------------------------------------- entries


class Parties:
    """The chain of each party's entries, as far as it was read."""

    def __init__(self) -> None:
        self.last: dict[str, tuple[int, bytes, str | None]] = {}

    def take(self, body: bytes, where: str, first: bool = False) -> dict[str, Any]:
        """Check an entry against the one of its party before. `first`: it may be any number (a receipt's beginning)."""
        entry = read_entry(body, where)
        party, seq = entry["party"], entry["seq"]
        place = f"{where} ({party}#{seq})"
        before = self.last.get(party)
        if before is None:
            if not first and (seq != 1 or entry["prev"] != "00" * 32):
                raise Wrong(place + ": the party's entries do not begin with 1")
            before = (seq - 1, bytes.fromhex(entry["prev"]), None)
        if seq != before[0] + 1:
            raise Wrong(f"{place}: entry {before[0] + 1} was due")
        if entry["prev"] != before[1].hex():
            raise Wrong(place + ": its link to the entry before does not fit")
        check_counts(entry, place)
        start, end = entry.get("position_from"), entry.get("position_to")
        if start is not None and before[2] is not None and start != before[2] and entry.get("act") != "history_begun":
            raise Wrong(f"{place}: its positions begin at {start}, the entry before ended at {before[2]}")
        self.last[party] = (seq, sha256(before[1] + leaf_hash(body)), end if end is not None else before[2])
        return entry


def read_entry(body: bytes, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(body.decode())
        again = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except ValueError:
        raise Wrong(where + ": not an entry") from None
    wanted = {"party": str, "seq": int, "prev": str, "at": str, "v": int}
    if not isinstance(entry, dict) or again != body:
        raise Wrong(where + ": not the canonical encoding of an entry")
    if any(type(entry.get(name)) is not kind for name, kind in wanted.items()) or entry["v"] != 1:
        raise Wrong(where + ": not an entry of version 1")
    return entry


def check_counts(entry: dict[str, Any], place: str) -> None:
    for one in entry.get("entities", []):
        if one["read"] != one["inserted"] + one["updated"] + one["unchanged"] + one["quarantined"]:
            raise Wrong("{}: rows read of {} do not balance".format(place, one["entity"]))
        if entry.get("kind") == "signals" and one["signalled"] != (
            one["read"] + one["deleted"] + one["absent"] + one["parked"]
        ):
            raise Wrong("{}: keys signalled of {} do not balance".format(place, one["entity"]))


# ---------------------------------------------------------------------------------------------- an exported log


def tile_path(folder: Path, kind: int | str, index: int, width: int) -> Path:
    digits = f"{index:03d}"
    digits = digits.rjust((len(digits) + 2) // 3 * 3, "0")
    parts = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = folder.joinpath("tile", str(kind), *["x" + part for part in parts[:-1]], parts[-1])
    return path if width == 256 else path.parent / (path.name + ".p") / str(width)


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise Wrong(f"{path} is missing") from None


def entries_of(data: bytes, path: Path) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data) or at + 2 > len(data):
            raise Wrong(f"{path} ends within an entry")
        yield data[at + 2 : end]
        at = end


def verify_log(options: argparse.Namespace) -> str:
    """Rebuild the tree from the entries, and hold it against checkpoint, tiles and what was known earlier."""
    folder = Path(options.folder)
    origin, size, root = read_checkpoint(read_file(folder / "checkpoint").decode(), options, "the folder's checkpoint")
    expected = {size: [(root, "the folder's checkpoint")]}
    for path in [*sorted(folder.glob("checkpoints/*")), *map(Path, options.previous)]:
        # An earlier checkpoint may lack the witnesses: theirs come later.
        alone = argparse.Namespace(key=options.key, witness=options.witness, needed=0)
        other, old_size, old_root = read_checkpoint(read_file(path).decode(), alone, str(path))
        if other != origin:
            raise Wrong(f"{path} is another log's: {other}")
        if old_size > size:
            raise Wrong(f"{path} has {old_size} entries, the folder {size}: entries were removed")
        expected.setdefault(old_size, []).append((old_root, str(path)))
    count = sum(map(len, expected.values()))
    parties = Parties()
    peaks: Peaks = []
    levels: list[list[bytes]] = [[]]
    for index in range((size + 255) // 256):
        width = min(256, size - index * 256)
        path = tile_path(folder, "entries", index, width)
        bodies = list(entries_of(read_file(path), path))
        if len(bodies) != width:
            raise Wrong(f"{path} has {len(bodies)} entries, {width} are due")
        for place, body in enumerate(bodies, index * 256):
            parties.take(body, f"entry {place}")
            leaf = leaf_hash(body)
            add_leaf(peaks, leaf)
            levels[0].append(leaf)
            for known, source in expected.pop(place + 1, ()):
                if tree_root(peaks) != known:
                    raise Wrong(f"{source}: the entries do not give the root that was signed; changed before {place}")
    verify_tiles(folder, levels)
    told = ", ".join(f"{party} 1 to {parties.last[party][0]}" for party in sorted(parties.last))
    return f"{origin}: {size} entries verified under {count} checkpoints: {told}"


def verify_tiles(folder: Path, levels: list[list[bytes]]) -> None:
    """Every tile must be what the entries give."""
    while levels[-1]:
        hashes, level = levels[-1], len(levels) - 1
        above = []
        for index in range((len(hashes) + 255) // 256):
            tile = hashes[index * 256 : (index + 1) * 256]
            path = tile_path(folder, level, index, len(tile))
            if read_file(path) != b"".join(tile):
                raise Wrong(f"{path} is not what the entries give")
            if len(tile) == 256:
                peaks: Peaks = []
                for one in tile:
                    add_leaf(peaks, one)
                above.append(tree_root(peaks))
        levels.append(above)


# ---------------------------------------------------------------------------------------------- receipts and proofs


def verify_receipt(options: argparse.Namespace) -> str:
    receipt = json.loads(read_file(Path(options.file)).decode())
    if receipt.get("receipt") != "sipol-connector/receipt@v1":
        raise Wrong("not a receipt that this verifier knows")
    if options.party and receipt["party"] != options.party:
        raise Wrong("the receipt is of the party " + receipt["party"])
    origin, size, root = read_checkpoint(receipt["checkpoint"], options, "the receipt's checkpoint")
    parties, last, committed = Parties(), -1, {}
    for place, one in enumerate(receipt["entries"]):
        where, body = f"entry {one['index']}", one["body"].encode()
        entry = parties.take(body, where, first=place == 0)
        if (entry["party"], entry["seq"]) != (receipt["party"], one["seq"]) or one["index"] <= last:
            raise Wrong(where + ": not the party's entry that it is said to be, or out of order")
        proof = [base64.b64decode(line) for line in one["proof"]]
        if root_from_proof(leaf_hash(body), one["index"], size, proof) != root:
            raise Wrong(f"{where} ({entry['party']}#{entry['seq']}) is not in the log that was signed")
        last = one["index"]
        committed.update({told["batch"]: told["commitment"] for told in entry.get("entities", []) if "batch" in told})
    if not receipt["entries"]:
        raise Wrong("the receipt is empty")
    if "rows" in receipt:
        verify_rows(receipt["rows"], committed)
    first = receipt["entries"][0]["seq"]
    last_seq = receipt["entries"][-1]["seq"]
    return f"{origin}: entries {first} to {last_seq} of {receipt['party']} verified in the log of {size}"


def verify_rows(rows: list[dict[str, Any]], committed: dict[int, str]) -> None:
    """The digests of rows must be those that the entries commit to: all of them, in order."""
    pages: dict[int, bytes] = {}
    for one in rows:
        digests = [bytes.fromhex(page["digests"]) for page in one["pages"]]
        if any(len(page["keys"]) * 16 != len(digest) for page, digest in zip(one["pages"], digests, strict=True)):
            raise Wrong(f"the rows of batch {one['batch']}: not a digest for each key")
        pages[one["batch"]] = b"".join(map(sha256, digests))
    for batch, told in committed.items():
        if sha256(pages.pop(batch, b"")).hex() != told:
            raise Wrong(f"the rows of batch {batch} are not those that its entry commits to")
    if pages:
        raise Wrong(f"the rows of batch {min(pages)} belong to no entry of the receipt")


def verify_proof(options: argparse.Namespace) -> str:
    body = read_file(Path(options.entry))
    head, _, checkpoint = read_file(Path(options.proof)).decode().partition("\n\n")
    lines = [line for line in head.split("\n") if not line.startswith("extra ")]
    if lines[0] != "c2sp.org/tlog-proof@v1" or len(lines) < 2 or not lines[1].startswith("index "):
        raise Wrong("not a tlog-proof")
    origin, size, root = read_checkpoint(checkpoint, options, "the proof's checkpoint")
    index = int(lines[1][6:])
    if root_from_proof(leaf_hash(body), index, size, [base64.b64decode(line) for line in lines[2:]]) != root:
        raise Wrong(f"the entry is not at place {index} of the log that was signed")
    entry = read_entry(body, "the entry")
    return f"{origin}: {entry['party']}#{entry['seq']} verified at place {index} of {size}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    log = verbs.add_parser("log")
    log.add_argument("folder")
    log.add_argument("--previous", action="append", default=[], metavar="CHECKPOINT")
    receipt = verbs.add_parser("receipt")
    receipt.add_argument("file")
    receipt.add_argument("--party")
    proof = verbs.add_parser("proof")
    proof.add_argument("entry")
    proof.add_argument("proof")
    for verb in (log, receipt, proof):
        verb.add_argument("--key", action="append", required=True, metavar="VKEY")
        verb.add_argument("--witness", action="append", default=[], metavar="VKEY")
        verb.add_argument("--needed", type=int, default=0)
    options = parser.parse_args(arguments)
    run = {"log": verify_log, "receipt": verify_receipt, "proof": verify_proof}[options.verb]
    try:
        said, code = "OK: " + run(options), 0
    except Wrong as wrong:
        said, code = f"WRONG: {wrong}", 1
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said, code = f"WRONG: not of the form that it should have ({type(error).__name__})", 1
    sys.stdout.write(said + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
