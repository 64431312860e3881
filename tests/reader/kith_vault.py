"""A vault's kith.toml, slots and keyring, read independently from kith-store(5), "The vault" to "The keyring"."""
import hmac
import os
import re

from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3

from kith_format import Cut, Refused, ShareKeys, derive, need, unseal


def open_sealed(key, about, sealed):
    need(len(sealed) >= 28, "too short")
    return unseal(key, sealed[:12], about, sealed[12:-16], sealed[-16:])


def parse_config(text):
    form = (r"# Written by kith and authenticated: a change by hand is refused\.\nversion = 1\nvault = \"([0-9a-f]{32})\"\n"
            r"root = \"([0-9a-f]{32})\"\nrole = \"(full|blind)\"\n(authentication = \[(?:\"[0-9a-f]{64}\"(?:, )?){0,2}\]\n)")
    match = re.fullmatch(form, text)
    need(match, "kith.toml is not as kith writes it")
    macs = [bytes.fromhex(mac) for mac in re.findall(r"[0-9a-f]{64}", match[4])]
    return bytes.fromhex(match[1]), bytes.fromhex(match[2]), match[3], text[:match.start(4)], macs


def open_slot(raw, vault, passphrase=None, key_file=None):
    """The vault key; None where this is not the slot's passphrase or key file."""
    need(raw[:8] == b"kithslot" and raw[8:10] == b"\1\0", "no slot")
    cut = Cut(raw[10:])
    owner, _id, _label = cut.take(16), cut.take(8), cut.bytes()
    kind = cut.varint()
    cost = (cut.varint(), cut.varint(), cut.varint()) if kind == 0 else None
    salt = cut.take(16)
    head = raw[10:len(raw) - len(cut.raw)]
    commitment, wrapped = cut.take(32), cut.bytes()
    need(not cut.raw and kind in (0, 1), "no slot")
    need(owner == vault, "a slot of another vault")
    if kind == 0 and passphrase is not None:
        memory, passes, lanes = cost
        need(19 * 1024 <= memory <= 1024 * 1024 and 2 <= passes <= 16 and 1 <= lanes <= 4, "Argon2id out of bounds")
        key = hash_secret_raw(passphrase, salt, passes, memory, lanes, 32, Type.ID, 19)
    elif kind == 1 and key_file is not None:
        need(len(key_file) >= 32, "a key file of less than 32 bytes")
        key = blake3(key_file + salt, derive_key_context="kith.v1 key file").digest()
    else:
        return None
    if not hmac.compare_digest(derive(key, "kith.v1 slot commitment", head), commitment):
        return None
    return open_sealed(derive(key, "kith.v1 slot wrap", head), head, wrapped)


def open_keyring(raw, vault, vault_key):
    """The root share and the keys of all shares."""
    head = b"kithring\1\0" + vault
    need(raw[:26] == head, "no keyring of this vault")
    cut = Cut(open_sealed(derive(vault_key, "kith.v1 keyring", vault), head, raw[26:]))
    cut.take(96)                                  # the device's three seeds
    cut.varint()                                  # role
    if cut.varint():
        cut.take(32)                              # the account key
    cut.take(32)                                  # the account's id
    if cut.varint():
        cut.bytes()                               # the device list
    shares = {}
    for _ in range(cut.varint()):
        share = cut.take(16)
        shares[share] = ShareKeys(share, [(cut.varint(), cut.take(32)) for _ in range(cut.varint())])
    return cut.take(16), shares


def open_vault(store, keys=None, passphrase=None, key_file=None):
    keys = keys or os.path.join(store, "keys")
    with open(os.path.join(store, "kith.toml"), encoding="ascii") as f:
        vault, root, role, body, macs = parse_config(f.read())
    with open(os.path.join(keys, "keyring"), "rb") as f:
        ring = f.read()
    for name in sorted(os.listdir(keys)):
        if not name.endswith(".slot") or name.startswith("."):
            continue
        with open(os.path.join(keys, name), "rb") as f:
            vault_key = open_slot(f.read(), vault, passphrase, key_file)
        if vault_key is None:
            continue
        ring_root, shares = open_keyring(ring, vault, vault_key)
        mac = blake3(body.encode(), key=derive(vault_key, "kith.v1 kith.toml")).digest()
        need(any(hmac.compare_digest(mac, have) for have in macs) and ring_root == root, "kith.toml was changed")
        return root, shares
    raise Refused("the passphrase or key file opens no slot")
