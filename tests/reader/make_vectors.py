#!/usr/bin/env python3
"""Makes tests/vectors/store.json, with a writer of its own: neither kith nor the reader's opening functions seal it.

    make_vectors.py > ../vectors/store.json
The file is frozen: a released format's vectors never change. Rust (fs/src/format/vectors.rs) and Python (check_vectors.py)
open all of "valid", seal what is deterministic to the same bytes, and refuse all of "refuse".
"""
import base64
import json
import struct
import sys

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

import kith_format as fmt

SHARE, KEY1, KEY2 = bytes(range(16)), bytes([0x11]) * 32, bytes([0x22]) * 32
OTHER_SHARE = bytes([0xEE]) * 16
KEYS = fmt.ShareKeys(SHARE, {1: KEY1, 2: KEY2})
OTHER = fmt.ShareKeys(OTHER_SHARE, {1: KEY1, 2: KEY2})
FILE, LINEAGE, NODE = bytes([0xF1]) * 16, bytes([0x71]) * 16, bytes([0xD0]) * 16
LOCATOR = bytes([0x10]) * 16


def seal(key, nonce, about, plain):
    out = AESGCMSIV(key).encrypt(nonce, plain, about)
    return out[-16:], out[:-16]


def header(keys, epoch, kind, id, lineage, former=(), nonce=bytes([0xA0]) * 12, **change):
    version, share, slack = change.get("version", 1), change.get("share", keys.share), change.get("slack", b"\0\0")
    clear = b"kith" + bytes([version, kind]) + slack + share + struct.pack("<I", epoch) + id + lineage
    slots = b"".join(tag + key for tag, key in former)
    sealed_slots = slots + bytes(152 - len(slots) - change.get("end", 0)) + b"\1" * change.get("end", 0)
    tag, sealed = seal(keys.key("header key", epoch), nonce, clear, sealed_slots)
    return clear + nonce + tag + sealed + LOCATOR


def page(epoch, number, payload, nonce, key=None, **change):
    key = key or KEYS.key("page key", epoch, LINEAGE)
    clear = change.get("tag", KEYS.tag(epoch)) + struct.pack("<HH", change.get("claim", len(payload)), change.get("reserved", 0))
    tag, sealed = seal(key, nonce, b"\1" + LINEAGE + struct.pack("<Q", number) + clear, payload)
    body = nonce + tag + clear + sealed
    return body + bytes(4096 - (0 if number else 256) - len(body))


def name(epoch, folder, plain, pad=None, keys=KEYS):
    padded = plain + bytes(-len(plain) % 16 if pad is None else pad)
    tag, sealed = seal(keys.key("name key", epoch, folder), bytes(12), b"\1" + keys.tag(epoch), padded)
    return keys.tag(epoch) + tag + sealed


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def long_form(raw):
    return b64(raw[:4] + blake3(raw, derive_key_context="kith.v1 long name").digest(24))


def xattr(epoch, id, plain, value, nonce=bytes([0xB0]) * 12):
    key = KEYS.key("extended attribute key", epoch)
    stored = "user.kith." + b64(fmt.derive(key, "kith.v1 xattr name", id, plain)[:16])
    tag, sealed = seal(key, nonce, b"\1" + KEYS.tag(epoch) + id + stored.encode(), plain + b"\0" + value)
    return stored, KEYS.tag(epoch) + nonce + tag + sealed


def attrs_plain(mode, mtime, uid, gid, xattrs, long_names):
    out = b"\1" + struct.pack("<I", mode) + mtime.to_bytes(16, "little", signed=True) + struct.pack("<II", uid, gid)
    out += struct.pack("<H", len(xattrs))
    for key, value in xattrs:
        out += struct.pack("<H", len(key)) + key + struct.pack("<I", len(value)) + value
    out += struct.pack("<H", len(long_names))
    return out + b"".join(struct.pack("<H", len(raw)) + raw for raw in long_names)


def attrs(epoch, id, plain):
    key = KEYS.key("record attributes key", epoch)
    nonce = fmt.derive(key, "kith.v1 attrs nonce", id, plain)[:12]
    tag, sealed = seal(key, nonce, b"\1" + KEYS.tag(epoch) + id, plain)
    return KEYS.tag(epoch) + nonce + tag + sealed


def flip(raw, at):
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1:]


def main():
    former_tag, former_key = OTHER.tag(2), OTHER.key("page key", 2, LINEAGE)
    plain = header(KEYS, 2, 1, FILE, LINEAGE)
    with_former = header(KEYS, 1, 2, FILE, LINEAGE, [(former_tag, former_key)])
    folder = header(KEYS, 1, 16, NODE, bytes(16))
    junction = header(KEYS, 2, 5, OTHER_SHARE, LINEAGE)
    # A file of four pages: full, a hole, of a former share, the last one short; both epochs.
    body = bytes(i * 7 % 251 for i in range(12_000))
    pages = [page(1, 0, body[:3804], bytes([1]) * 12), bytes(4096), page(2, 2, body[3804:7864], bytes([2]) * 12, former_key, tag=former_tag),
             page(2, 3, body[7864:7900], bytes([3]) * 12)]
    content = body[:3804] + bytes(4060) + body[3804:7864] + body[7864:7900]
    file = with_former + b"".join(pages)
    length = fmt.length_of(len(content))
    whole = file + bytes(length - len(file))
    short, long_raw = name(1, NODE, "naïve.txt".encode()), name(2, NODE, b"n" * 200)
    stored, value = xattr(2, FILE, b"user.note", b"remember")
    some = attrs_plain(0o640, -1, 1000, 100, [(b"user.a", b"1"), (b"user.b", b"")], [long_raw])
    hexed = lambda raw: raw.hex()
    valid = {
        "epoch_tags": [[1, hexed(KEYS.tag(1))], [2, hexed(KEYS.tag(2))]],
        "lengths": [[size, fmt.length_of(size)] for size in (0, 1, 3803, 3804, 3805, 7864, 7865, 11924, 11925, 1 << 20, (1 << 40) + 7)],
        "crash_lengths": [[0, 0], [4095, 0], [4096, 3804], [8191, 3804], [8192, 7864]],
        "headers": [
            {"raw": hexed(plain), "kind": 1, "epoch": 2, "id": hexed(FILE), "lineage": hexed(LINEAGE), "locator": hexed(LOCATOR), "former": []},
            {"raw": hexed(with_former), "kind": 2, "epoch": 1, "id": hexed(FILE), "lineage": hexed(LINEAGE), "locator": hexed(LOCATOR),
             "former": [[hexed(former_tag), hexed(former_key)]]},
            {"raw": hexed(junction), "kind": 5, "epoch": 2, "id": hexed(OTHER_SHARE), "lineage": hexed(LINEAGE), "locator": hexed(LOCATOR), "former": []}]
            + [{"raw": hexed(header(KEYS, 2, kind, FILE, LINEAGE)), "kind": kind, "epoch": 2, "id": hexed(FILE), "lineage": hexed(LINEAGE),
                "locator": hexed(LOCATOR), "former": []} for kind in (6, 7)],
        "folder_headers": [{"raw": hexed(folder), "epoch": 1, "id": hexed(NODE), "locator": hexed(LOCATOR)}],
        "copies": [{"of": hexed(plain), "id": hexed(bytes([0xC0]) * 16), "raw": hexed(copy_of(plain, bytes([0xC0]) * 16))}],
        "locators": [{"epoch": e, "parent": hexed(NODE), "name": hexed(b"a.txt"), "id": hexed(FILE),
                      "locator": hexed(fmt.locator(KEYS, e, NODE, b"a.txt", FILE))} for e in (1, 2)],
        "files": [{"length": length, "data": hexed(file), "content": hexed(content), "root": hexed(root_of(whole))}],
        "names": [{"epoch": 1, "folder": hexed(NODE), "name": hexed("naïve.txt".encode()), "sealed": b64(short), "sidecar": None},
                  {"epoch": 2, "folder": hexed(NODE), "name": hexed(b"f" * 160), "sealed": b64(name(2, NODE, b"f" * 160)), "sidecar": None},
                  {"epoch": 2, "folder": hexed(NODE), "name": hexed(b"n" * 200), "sealed": long_form(long_raw), "sidecar": hexed(long_raw)}],
        "xattrs": [{"id": hexed(FILE), "stored": stored, "raw": hexed(value), "name": hexed(b"user.note"), "value": hexed(b"remember")}],
        "attrs": [{"epoch": 1, "id": hexed(NODE), "raw": hexed(attrs(1, NODE, some)), "mode": 0o640, "mtime": -1, "uid": 1000, "gid": 100,
                   "xattrs": [[hexed(b"user.a"), hexed(b"1")], [hexed(b"user.b"), ""]], "long_names": [hexed(long_raw)]}],
    }
    h = lambda why, raw: {"why": why, "raw": hexed(raw)}
    p = lambda why, number, raw: {"why": why, "page": number, "raw": hexed(raw.rstrip(b"\0"))}
    n = lambda why, sealed, sidecar=None: {"why": why, "folder": hexed(NODE), "sealed": sealed, "sidecar": None if sidecar is None else hexed(sidecar)}
    a = lambda why, plain: {"why": why, "id": hexed(NODE), "raw": hexed(attrs(1, NODE, plain))}
    x = lambda why, id, stored, raw: {"why": why, "id": hexed(id), "stored": stored, "raw": hexed(raw)}
    good = page(1, 1, b"payload", bytes([9]) * 12)
    no_chars, with_bits = b64(short), b64(name(1, NODE, b"a" * 20))
    refuse = {
        "headers": [
            h("magic", flip(plain, 0)), h("version 2, rightly sealed", header(KEYS, 2, 1, FILE, LINEAGE, version=2)),
            h("version 0", header(KEYS, 2, 1, FILE, LINEAGE, version=0)), h("reserved bytes, rightly sealed", header(KEYS, 2, 1, FILE, LINEAGE, slack=b"\1\0")),
            h("reserved sealed bytes", header(KEYS, 2, 1, FILE, LINEAGE, end=1)),
            h("a slot with a tag and no key", header(KEYS, 2, 1, FILE, LINEAGE, [(b"tag!", bytes(32))])),
            h("a kind that is none", header(KEYS, 2, 8, FILE, LINEAGE)), h("a folder's", folder),
            h("another share, with keys that are known", header(OTHER, 2, 1, FILE, LINEAGE)),
            h("another share's name under this one's key", header(KEYS, 2, 1, FILE, LINEAGE, share=OTHER_SHARE)),
            h("this share's name under another one's key", header(OTHER, 2, 1, FILE, LINEAGE, share=SHARE)),
            h("another file id", flip(plain, 28)), h("another lineage", flip(plain, 44)), h("nonce", flip(plain, 60)), h("tag", flip(plain, 72)),
            h("sealed part", flip(plain, 88)), h("another epoch", flip(plain, 24)), h("zeros", bytes(256))],
        "folder_headers": [h("a file's", plain), h("node id", flip(folder, 28)), h("a lineage", header(KEYS, 1, 16, NODE, LINEAGE))],
        "pages": [
            p("at another place", 2, good), p("nonce", 1, flip(good, 0)), p("tag", 1, flip(good, 12)), p("epoch tag", 1, flip(good, 28)),
            p("payload length", 1, flip(good, 32)), p("reserved, rightly sealed", 1, page(1, 1, b"x", bytes([9]) * 12, reserved=1)),
            p("payload", 1, flip(good, 36)), p("a byte after the payload", 1, flip(good, 4095)),
            p("a payload that no page holds", 1, page(1, 1, b"", bytes([9]) * 12, claim=4061)),
            p("a payload that page 0 cannot hold", 0, page(1, 0, b"", bytes([9]) * 12, claim=3805)),
            p("another lineage's key", 1, page(1, 1, b"x", bytes([9]) * 12, KEYS.key("page key", 1, FILE))),
            p("a hole but for its last byte", 1, bytes(4095) + b"\1")],
        "names": [
            n("of another folder", b64(name(1, FILE, b"a"))), n("one letter", ("A" if no_chars[0] != "A" else "B") + no_chars[1:]),
            n("empty", b64(name(1, NODE, b"", 16))), n(".", b64(name(1, NODE, b"."))), n("..", b64(name(1, NODE, b".."))),
            n("a slash", b64(name(1, NODE, b"a/b"))), n("a NUL inside", b64(name(1, NODE, b"a\0b"))), n("padded too far", b64(name(1, NODE, b"a", 31))),
            n("not padded", b64(name(1, NODE, b"abc", 0))), n("an epoch without a key", b64(b"\0\0\0\0" + short[4:])),
            n("a letter that base64url has not", no_chars[:-1] + "+"), n("bits after the last byte", with_bits[:-1] + last_bits(with_bits)),
            n("long without its sidecar", long_form(long_raw)), n("long with another's", long_form(long_raw), name(2, NODE, b"m" * 200)),
            n("a sidecar for a name that is short", long_form(short), short), n("more than 160 bytes without a sidecar", b64(name(2, NODE, b"n" * 161))),
            n("more than 255 bytes", long_form(name(2, NODE, b"n" * 256)), name(2, NODE, b"n" * 256)), n("an empty sidecar", long_form(long_raw), b"")],
        "xattrs": [
            x("of another file", NODE, stored, value), x("under another's name", FILE, xattr(2, FILE, b"user.other", b"")[0], value),
            x("one bit", FILE, stored, flip(value, len(value) - 1)), x("cut off", FILE, stored, value[:31])],
        "attrs": [
            a("a mode with a type", attrs_plain(0o100644, 0, 0, 0, [], [])), a("xattrs not ascending", attrs_plain(0o644, 0, 0, 0, [(b"b", b""), (b"a", b"")], [])),
            a("one xattr twice", attrs_plain(0o644, 0, 0, 0, [(b"a", b""), (b"a", b"")], [])), a("bytes after the end", some + b"\0"),
            a("cut off", some[:-1]), a("another version", b"\2" + some[1:]),
            a("a count without end", attrs_plain(0o644, 0, 0, 0, [], [])[:-4] + b"\xff\xff"),
            {"why": "of another node", "id": hexed(FILE), "raw": hexed(attrs(1, NODE, some))}],
    }
    json.dump({"format": 1, "share": hexed(SHARE), "keys": [[1, hexed(KEY1)], [2, hexed(KEY2)]], "lineage": hexed(LINEAGE),
               "valid": valid, "refuse": refuse}, sys.stdout, indent=1)
    print()


def copy_of(raw, id):
    """A header with the same lineage, kind and epoch, another id, and a nonce that follows from them; the locator is none."""
    epoch, lineage = struct.unpack("<I", raw[24:28])[0], raw[44:60]
    nonce = fmt.derive(KEYS.key("header key", epoch), "kith.v1 copy header nonce", id, lineage)[:12]
    return header(KEYS, epoch, raw[5], id, lineage, nonce=nonce)[:240] + bytes(16)


def root_of(whole):
    return blake3(whole[:240] + bytes(16) + whole[256:]).digest()


def last_bits(text):
    """The last letter with a bit set that stands for no byte."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return letters[letters.index(text[-1]) | 1]


if __name__ == "__main__":
    main()
