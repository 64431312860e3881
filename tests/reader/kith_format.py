"""kith's store format, version 1, read independently: written from man/kith-store.5 alone, on nobody's code but PyPI's.

Every function here opens or reckons; what does not fit raises Refused. Section names refer to kith-store(5).
"""
import base64
import struct

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

VERSION, PAGE, HEADER, OVERHEAD = 1, 4096, 256, 36
PAYLOAD, FIRST_PAYLOAD = PAGE - OVERHEAD, PAGE - HEADER - OVERHEAD
KINDS = {1: "file", 2: "symlink", 3: "fifo", 4: "socket", 5: "share", 6: "block", 7: "char"}
FOLDER = 16
GROUP = 16384


class Refused(Exception):
    """What does not fit the format, or does not authenticate."""


def need(condition, why):
    if not condition:
        raise Refused(why)


def unseal(key, nonce, about, sealed, tag):
    """ "Cipher" """
    try:
        return AESGCMSIV(key).decrypt(bytes(nonce), bytes(sealed) + bytes(tag), bytes(about))
    except InvalidTag:
        raise Refused("does not authenticate") from None


def derive(secret, context, *parts):
    """ "Derivations" """
    hasher = blake3(derive_key_context=context)
    hasher.update(secret)
    for part in parts:
        hasher.update(struct.pack("<Q", len(part)) + part)
    return hasher.digest()


def b64(text):
    need(text and set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), "not base64url")
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise Refused("not base64url") from None
    need(base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == text, "another form of base64url")
    return raw


class ShareKeys:
    """The epoch keys of a share. "Keys of a share", "Epoch tags" """

    def __init__(self, share, keys):
        self.share, self.keys = share, dict(keys)

    def key(self, use, epoch, *about):
        need(epoch in self.keys, "an epoch whose key is not here")
        return derive(self.keys[epoch], "kith.v1 " + use, self.share, struct.pack("<I", epoch), *about)

    def tag(self, epoch):
        return blake3(self.share + struct.pack("<I", epoch), derive_key_context="kith.v1 epoch tag").digest(4)

    def tagged(self, tag):
        found = [epoch for epoch in sorted(self.keys, reverse=True) if self.tag(epoch) == tag]
        need(found, "an epoch whose key is not here")
        return found

    def try_epochs(self, tag, use):
        """Two epochs of one tag are possible, by chance."""
        for epoch in (epochs := self.tagged(tag)):
            try:
                return use(epoch)
            except Refused:
                if epoch == epochs[-1]:
                    raise
        return None


# ---- Headers ----
class Header:
    def __init__(self, keys, raw):
        need(len(raw) == HEADER, "not 256 bytes")
        need(raw[:4] == b"kith" and raw[6:8] == b"\0\0", "no header of kith's")
        need(raw[4] == VERSION, "another version")
        self.kind, self.share, self.epoch = raw[5], raw[8:24], struct.unpack("<I", raw[24:28])[0]
        self.id, self.lineage, self.locator = raw[28:44], raw[44:60], raw[240:256]
        need(self.share == keys.share, "another share")
        sealed = unseal(keys.key("header key", self.epoch), raw[60:72], raw[:60], raw[88:240], raw[72:88])
        slots = [sealed[at:at + 36] for at in range(0, 144, 36)]
        need(not any(sealed[144:]) and all(any(slot[4:]) or not any(slot) for slot in slots), "reserved bytes")
        self.former = [(slot[:4], slot[4:]) for slot in slots if any(slot[4:])]


def file_header(keys, raw):
    header = Header(keys, raw)
    need(header.kind in KINDS, "no kind of file")
    return header


def folder_header(keys, raw):
    header = Header(keys, raw)
    need(header.kind == FOLDER and not any(header.lineage), "no folder's header")
    return header


def locator(keys, epoch, parent, name, id):
    """ "Locators" """
    key = keys.key("locator key", epoch)
    return blake3(bytes([VERSION]) + parent + id + name, key=key).digest(16)


# ---- Length ----
def capacity(page):
    return PAYLOAD if page else FIRST_PAYLOAD


def start(page):
    return FIRST_PAYLOAD + (page - 1) * PAYLOAD if page else 0


def size_of(length):
    pages, rest = divmod(length, PAGE)
    if not pages:
        return 0
    return start(pages - 1) + min(rest - 1 if rest else PAGE, capacity(pages - 1))


def length_of(size):
    page = 0
    if size > FIRST_PAYLOAD:
        page = 1 + (size - 1 - FIRST_PAYLOAD) // PAYLOAD
    return (page + 1) * PAGE + 1 + size - start(page)


# ---- Pages ----
def open_page(keys, header, page, body):
    """The payload of a page from its sealed part; b"" for a hole."""
    need(len(body) == PAGE - (0 if page else HEADER), "half a page")
    if not any(body):
        return b""
    nonce, tag, epoch_tag, (payload, reserved) = body[:12], body[12:28], body[28:32], struct.unpack("<HH", body[32:36])
    need(payload <= capacity(page) and reserved == 0, "a layout that is not kith's")
    need(not any(body[OVERHEAD + payload:]), "bytes after the payload")
    about = bytes([VERSION]) + header.lineage + struct.pack("<Q", page) + body[28:36]
    sealed = body[OVERHEAD:OVERHEAD + payload]
    for former, key in header.former:
        if former == epoch_tag:
            try:
                return unseal(key, nonce, about, sealed, tag)
            except Refused:
                pass
    return keys.try_epochs(epoch_tag, lambda e: unseal(keys.key("page key", e, header.lineage), nonce, about, sealed, tag))


def read_content(keys, header, raw, length):
    """The whole content of a ciphertext, whose holes may be cut off at the end of `raw`."""
    size, out = size_of(length), bytearray()
    raw = raw + bytes(max(0, length - len(raw)))
    page = 0
    while len(out) < size:
        body = raw[page * PAGE + (0 if page else HEADER):(page + 1) * PAGE]
        payload = open_page(keys, header, page, body)
        out += payload + bytes(capacity(page) - len(payload))
        page += 1
    return bytes(out[:size])


def root(raw):
    """ "Roots" """
    return blake3(raw[:240] + bytes(min(256, len(raw)) - 240) + raw[256:] if len(raw) > 240 else raw).digest()


# ---- Names ----
def check_name(name):
    need(0 < len(name) <= 255 and name not in (b".", b"..") and b"/" not in name and b"\0" not in name, "no file's name")
    return name


def long_hash(raw):
    need(4 <= len(raw) <= 4 + 16 + 256, "no sidecar's length")
    return raw[:4] + blake3(raw, derive_key_context="kith.v1 long name").digest(24)


def open_name(keys, folder, sealed, sidecar=None):
    """The plaintext name and the epoch that it is sealed under."""
    raw = b64(sealed)
    is_long = len(raw) == 28
    if is_long:
        need(sidecar is not None, "no sidecar")
        need(long_hash(sidecar) == raw, "a sidecar of another name")
        raw = sidecar
    need(len(raw) >= 36 and (len(raw) - 20) % 16 == 0, "no name's length")

    def use(epoch):
        padded = unseal(keys.key("name key", epoch, folder), bytes(12), bytes([VERSION]) + raw[:4], raw[20:], raw[4:20])
        name = check_name(padded.rstrip(b"\0"))
        need(-len(name) % 16 == len(padded) - len(name) and (len(name) > 160) == is_long, "another form of a name")
        return name, epoch

    return keys.try_epochs(raw[:4], use)


# ---- Extended attributes ----
def xattr_name(keys, epoch, id, name):
    hashed = derive(keys.key("extended attribute key", epoch), "kith.v1 xattr name", id, name)[:16]
    return "user.kith." + base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()


def open_xattr(keys, id, stored, raw):
    need(len(raw) >= 32, "too short")

    def use(epoch):
        about = bytes([VERSION]) + raw[:4] + id + stored.encode()
        plain = unseal(keys.key("extended attribute key", epoch), raw[4:16], about, raw[32:], raw[16:32])
        need(b"\0" in plain, "no name")
        name, value = plain.split(b"\0", 1)
        need(xattr_name(keys, epoch, id, name) == stored, "an attribute under another's name")
        return name, value

    return keys.try_epochs(raw[:4], use)


# ---- Attributes in records ----
class Cut:
    """Bytes that are read from the front."""

    def __init__(self, raw):
        self.raw = raw

    def take(self, count):
        need(len(self.raw) >= count, "cut off")
        piece, self.raw = self.raw[:count], self.raw[count:]
        return piece

    def number(self, count, signed=False):
        return int.from_bytes(self.take(count), "little", signed=signed)

    def varint(self):
        value, shift = 0, 0
        while True:
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            need(shift < 70, "a number without end")

    def bytes(self):
        return self.take(self.varint())


def open_attrs(keys, id, raw):
    need(32 <= len(raw) <= 40704, "no attributes' length")

    def use(epoch):
        about = bytes([VERSION]) + raw[:4] + id
        return unseal(keys.key("record attributes key", epoch), raw[4:16], about, raw[32:], raw[16:32])

    cut = Cut(keys.try_epochs(raw[:4], use))
    need(cut.number(1) == VERSION, "another version")
    attrs = {"mode": cut.number(4), "mtime": cut.number(16, True), "uid": cut.number(4), "gid": cut.number(4)}
    attrs["xattrs"] = [(cut.take(cut.number(2)), cut.take(cut.number(4))) for _ in range(cut.number(2))]
    attrs["long_names"] = [cut.take(cut.number(2)) for _ in range(cut.number(2))]
    names = [name for name, _ in attrs["xattrs"]]
    ascending = names == sorted(set(names)) and attrs["long_names"] == sorted(set(attrs["long_names"]))
    need(not cut.raw and attrs["mode"] <= 0o7777 and ascending, "a layout that is not kith's")
    return attrs
