"""Records: what a store must show now, read independently from kith-store(5), "Records and the rest".

Only enough of the merge for a store whose devices agree: where records that nothing replaces compete for a node, all of
them are allowed.
"""
import os
import re
import struct

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from kith_format import Cut, need

KINDS = ["folder", "file", "symlink", "fifo", "socket", "share", "block", "char"]


class Record:
    def __init__(self, raw):
        need(len(raw) <= 65536, "a record too long")
        self.hash = blake3(raw, derive_key_context="kith.v1 record hash").digest()
        cut = Cut(raw[:-64])
        need(cut.number(1) == 1, "a record of another version")
        self.device, self.incarnation, self.number = cut.take(32), cut.take(8), cut.varint()
        self.previous, self.list = option(cut), cut.varint()
        self.share, self.node, self.kind = cut.take(16), cut.take(16), KINDS[cut.varint()]
        self.replaces = [cut.take(32) for _ in range(cut.varint())]
        self.live = cut.varint() == 1
        self.places = [(cut.take(16), cut.bytes().decode("ascii"), cut.take(16)) for _ in range(cut.varint())]
        option(cut)
        self.content, self.attrs = None, b""
        if self.live:
            if cut.varint():
                self.content = {"file": cut.take(16), "epoch": cut.varint(), "lineage": cut.take(16), "length": cut.varint(), "root": cut.take(32)}
            option(cut)
            self.attrs = cut.bytes()
            option(cut)
        if cut.varint():
            cut.varint(), cut.varint()
        need(not cut.raw, "bytes after a record")
        try:
            Ed25519PublicKey.from_public_bytes(self.device).verify(raw[-64:], b"\x0ekith.v1 record" + raw[:-64])
        except InvalidSignature:
            need(False, "a record's signature")


def option(cut):
    return cut.take(32) if cut.varint() else None


def heads(cut):
    """How far each author was read: (device, incarnation) to number."""
    out = {}
    for _ in range(cut.varint()):
        author = cut.take(32).hex(), cut.take(8).hex()
        out[author] = cut.varint()
        cut.take(32)
    return out


def frontier(folder, share):
    """What was forgotten: how far the logs went then, and the records in them that count no more."""
    try:
        with open(os.path.join(folder, "frontier"), "rb") as f:
            raw = f.read()
    except FileNotFoundError:
        return {}, set()
    cut = Cut(raw[:-64])
    need(cut.number(1) == 0x81 and cut.take(16) == share, "another share's frontier")
    device = cut.take(32)
    read, _floor = heads(cut), heads(cut)
    gone, _doomed = [{cut.take(32) for _ in range(cut.varint())} for _ in range(2)]
    need(cut.number(1) in (0, 1) and not cut.raw, "bytes after a frontier")
    try:
        Ed25519PublicKey.from_public_bytes(device).verify(raw[-64:], b"\x10kith.v1 snapshot" + raw[:-64])
    except InvalidSignature:
        need(False, "a frontier's signature")
    return read, gone


def load(store, share):
    """All records of a share that count, each log checked: frames, numbers, the chain of hashes, signatures."""
    out, folder = [], os.path.join(store, "records", share.hex())
    read, gone = frontier(folder, share)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if name in ("frontier", "seen"):
            continue
        match = re.fullmatch(r"([0-9a-f]{64})-([0-9a-f]{16})\.log", name)
        need(match, f"{name} in records/")
        with open(os.path.join(folder, name), "rb") as f:
            raw = f.read()
        at, before = 0, None
        while at < len(raw):
            need(at + 12 <= len(raw), "a frame cut off")
            length, = struct.unpack_from("<I", raw, at)
            body = raw[at + 12:at + 12 + length]
            need(len(body) == length and blake3(body).digest(8) == raw[at + 4:at + 12], "a frame cut off or changed")
            record, at = Record(body), at + 12 + length
            need((record.device.hex(), record.incarnation.hex()) == match.groups() and record.share == share, "another's record in a log")
            if record.number == (before.number + 1 if before else 1):
                need(record.previous == (before.hash if before else None), "a log's chain")
            else:
                need(record.number - 1 <= read.get(match.groups(), 0), "a gap in a log")
            if record.hash not in gone:
                out.append(record)
            before = record
    return out


def current(records):
    """For each living node its records that no other replaces."""
    replaced = {hashed for record in records for hashed in record.replaces}
    out = {}
    for record in records:
        if record.hash not in replaced and record.live:
            out.setdefault(record.node, []).append(record)
    return out
