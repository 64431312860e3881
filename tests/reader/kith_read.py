#!/usr/bin/env python3
"""Reads a kith vault with nothing of kith's: proof that man/kith-store.5 says all that is needed.

    kith_read.py [--keys DIR] (--passfile FILE | --keyfile FILE) STORE list
    kith_read.py [--keys DIR] (--passfile FILE | --keyfile FILE) STORE cat PATH
    kith_read.py [--keys DIR] (--passfile FILE | --keyfile FILE) STORE extract FOLDER
    kith_read.py [--keys DIR] (--passfile FILE | --keyfile FILE) STORE verify

With `--share ID` all this is of another share than the root share, whose store is STORE/shares/ID.

`verify` compares the store with its records: every file's length and root, that its content opens, and that no entry is
missing or too many.
`list` prints a line for each entry: kind, mode, size, path (escaped), and for a junction the share's id. What is refused is told on standard error, and the
exit code is then 1. Without `verify` an older version put back whole passes, as it does with any backup tool.
"""
import argparse
import os
import re
import stat
import sys

import kith_format as fmt
import kith_records
import kith_vault

SIDECAR, OTHERS, MODE = ".kith-name-", "user.kith.locators", "user.kith.mode"


class Entry:
    """`parent` is the node whose name key opens the name, `node` one of a folder's own."""

    def __init__(self, path, disk, kind, header, size, parent, nodes=()):
        self.path, self.disk, self.kind, self.header, self.size = path, disk, kind, header, size
        self.parent, self.nodes = parent, nodes


class Tree:
    def __init__(self, store, keys):
        self.keys, self.top, self.refused = keys, os.path.join(store, "tree"), []

    def entries(self):
        yield from self.folder(self.top, b"", is_top=True)

    def folder(self, disk, path, is_top=False, places=()):
        """Everything below a folder. `places`: the folder's own locators, one of which each of its headers must have."""
        nodes = []
        for name in sorted(os.listdir(disk)):
            if re.fullmatch(r"\.kith-[0-9a-f]{32}", name):
                try:
                    header = self.folder_header(os.path.join(disk, name), name)
                    if is_top:
                        fmt.need(header.id == self.keys.share and not any(header.locator), "not the topmost folder's header")
                    else:
                        fmt.need(header.locator in places_of(self.keys, places, header.id), "a folder that lies elsewhere")
                    nodes.append(header.id)
                except fmt.Refused as why:
                    self.refuse(path, name, why)
        for name in sorted(os.listdir(disk)):
            if name.startswith(".kith-"):
                continue
            try:
                yield from self.entry(disk, path, name, nodes)
            except (fmt.Refused, OSError) as why:
                self.refuse(path, name, why)

    def folder_header(self, file, name):
        with open(file, "rb") as f:
            header = fmt.folder_header(self.keys, f.read(fmt.HEADER + 1))
        fmt.need(header.id.hex() == name[6:], "a header under another's name")
        return header

    def entry(self, folder, path, sealed, nodes):
        sidecar = None
        try:
            with open(os.path.join(folder, SIDECAR + sealed), "rb") as f:
                sidecar = f.read(1000)
        except FileNotFoundError:
            pass
        for node in nodes:
            try:
                name, epoch = fmt.open_name(self.keys, node, sealed, sidecar)
                break
            except fmt.Refused as why:
                last = why
        else:
            raise last if nodes else fmt.Refused("a folder without a header")
        disk, here = os.path.join(folder, sealed), path + b"/" + name
        mode = os.lstat(disk).st_mode
        if stat.S_ISDIR(mode):
            self.attributes(disk, self.nodes_of(disk))
            yield Entry(here, disk, "folder", None, 0, node, self.nodes_of(disk))
            yield from self.folder(disk, here, places=[(node, name, epoch)])
            return
        fmt.need(stat.S_ISREG(mode), "neither file nor folder")
        length = os.lstat(disk).st_size
        with open(disk, "rb") as f:
            header = fmt.file_header(self.keys, f.read(fmt.HEADER))
        locators = [header.locator] + others(disk)
        fmt.need(fmt.locator(self.keys, epoch, node, name, header.id) in locators, "a file that lies elsewhere")
        self.attributes(disk, [header.id])
        yield Entry(here, disk, fmt.KINDS[header.kind], header, fmt.size_of(length), node)

    def nodes_of(self, disk):
        return [bytes.fromhex(name[6:]) for name in os.listdir(disk) if re.fullmatch(r"\.kith-[0-9a-f]{32}", name)]

    def attributes(self, disk, ids):
        """Extended attributes, each of which must open for the file or for a node of the folder."""
        try:
            names = [name for name in os.listxattr(disk) if re.fullmatch(r"user\.kith\.[0-9A-Za-z_-]{22}", name)]
        except OSError:
            names = []                            # the disk knows none
        out = []
        for stored in names:
            for at, id in enumerate(ids):
                try:
                    out.append(fmt.open_xattr(self.keys, id, stored, os.getxattr(disk, stored)))
                    break
                except fmt.Refused:
                    if at == len(ids) - 1:
                        raise
        return out

    def content(self, entry):
        with open(entry.disk, "rb") as f:
            raw = f.read()
        return fmt.read_content(self.keys, entry.header, raw, len(raw))

    def refuse(self, path, name, why):
        self.refused.append((path, name))
        print(f"refused: {show(path)}/ ({name}): {why}", file=sys.stderr)


def verify(store, share, tree):
    try:
        records = kith_records.load(store, share)
    except fmt.Refused as why:
        print(f"refused: {why}", file=sys.stderr)
        return 1
    want, bad = {}, 0
    for node, candidates in kith_records.current(records).items():
        for record in candidates:
            for parent, name, _ in record.places:
                id = record.content["file"] if record.content else node
                want.setdefault((parent, name, id), []).append(record)
    for entry in tree.entries():
        ids = [entry.header.id] if entry.header else entry.nodes
        found = [record for id in ids for record in want.pop((entry.parent, os.path.basename(entry.disk), id), [])]
        why = None if found else "no record has it"
        if found and entry.header:
            with open(entry.disk, "rb") as f:
                raw = f.read()
            fits = [r for r in found if (r.content["length"], r.content["root"]) == (len(raw), fmt.root(raw)) and r.kind == entry.kind]
            why = None if fits else "it differs from its record"
            try:
                fmt.read_content(tree.keys, entry.header, raw, len(raw))
            except fmt.Refused as refused:
                why = f"signed, and does not open: {refused}" if fits else why
        if why:
            print(f"refused: {show(entry.path)}: {why}", file=sys.stderr)
            bad += 1
    for (parent, name, _), found in want.items():
        print(f"refused: {name} in {parent.hex()}: it is missing", file=sys.stderr)
        bad += 1
    print(f"{len(records)} records, {bad} differences")
    return 1 if bad or tree.refused else 0


def places_of(keys, places, id):
    return [fmt.locator(keys, epoch, parent, name, id) for parent, name, epoch in places]


def others(disk):
    try:
        raw = os.getxattr(disk, OTHERS)
    except OSError:
        return []
    return [raw[at:at + 16] for at in range(0, len(raw), 16)]


def true_mode(disk):
    """ "Modes" """
    mode = os.lstat(disk).st_mode
    if stat.S_IMODE(mode) & (0o4000 if stat.S_ISDIR(mode) else 0o1000):
        try:
            return int.from_bytes(os.getxattr(disk, MODE), "little") & 0o7777
        except OSError:
            pass
    return stat.S_IMODE(mode)


def show(path):
    """For a terminal: no byte of a name can command it."""
    return "".join(chr(b) if 0x20 < b < 0x7F and b != 0x5C else f"\\x{b:02x}" if b != 0x20 else " " for b in path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys")
    parser.add_argument("--passfile")
    parser.add_argument("--keyfile")
    parser.add_argument("--share", type=bytes.fromhex)
    parser.add_argument("store")
    parser.add_argument("what", choices=["list", "cat", "extract", "verify"])
    parser.add_argument("path", nargs="?")
    args = parser.parse_args()
    secret = {}
    if args.passfile:
        with open(args.passfile, "rb") as f:
            secret["passphrase"] = f.read().split(b"\n")[0].rstrip(b"\r")
    elif args.keyfile:
        with open(args.keyfile, "rb") as f:
            secret["key_file"] = f.read()
    else:
        parser.error("--passfile or --keyfile")
    try:
        root, shares = kith_vault.open_vault(args.store, args.keys, **secret)
        share = args.share or root
        fmt.need(share in shares, "this device holds no key of the share")
    except fmt.Refused as why:
        sys.exit(f"refused: {why}")
    store = os.path.join(args.store, "shares", share.hex()) if share != root else args.store
    tree, found = Tree(store, shares[share]), False
    if args.what == "verify":
        sys.exit(verify(store, share, tree))
    for entry in tree.entries():
        mode = true_mode(entry.disk)
        if args.what == "list":
            share = f" share {entry.header.id.hex()}" if entry.kind == "share" else ""
            print(f"{entry.kind:8}{mode:04o} {entry.size:12} {show(entry.path)}{share}")
            continue
        if args.what == "cat" and entry.path != b"/" + os.fsencode(args.path).strip(b"/"):
            continue
        found = True
        try:
            content = tree.content(entry) if entry.header else b""
        except fmt.Refused as why:
            tree.refuse(entry.path, os.path.basename(entry.disk), why)
            continue
        if args.what == "cat":
            sys.stdout.buffer.write(content)
        else:
            extract(os.fsencode(args.path) + entry.path, entry, content)
    if args.what == "cat" and not found:
        sys.exit("no such file")
    sys.exit(1 if tree.refused else 0)


def extract(path, entry, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if entry.kind == "folder":
        os.makedirs(path, exist_ok=True)
    elif entry.kind == "symlink":
        os.symlink(content, path)
    elif entry.kind == "file":
        with open(path, "xb") as f:
            f.write(content)


if __name__ == "__main__":
    main()
