#!/usr/bin/env python3
"""Checks tests/vectors/store.json with the independent reader: all of "valid" opens, all of "refuse" is refused."""
import json
import os
import sys

import kith_format as fmt

un = bytes.fromhex


def refused(what, why, act):
    try:
        act()
    except fmt.Refused:
        return 1
    sys.exit(f"{what} {why!r} was not refused")


def same(what, have, want):
    if have != want:
        sys.exit(f"{what}: {have!r}, not {want!r}")
    return 1


def check(path):
    with open(path, encoding="ascii") as f:
        all_of = json.load(f)
    keys = fmt.ShareKeys(un(all_of["share"]), {epoch: un(key) for epoch, key in all_of["keys"]})
    valid, refuse, count = all_of["valid"], all_of["refuse"], 0
    side = lambda v: None if v["sidecar"] is None else un(v["sidecar"])
    for epoch, tag in valid["epoch_tags"]:
        count += same("tag", keys.tag(epoch).hex(), tag)
    for size, length in valid["lengths"]:
        count += same("length", (fmt.length_of(size), fmt.size_of(length)), (length, size))
    for length, size in valid["crash_lengths"]:
        count += same("size", fmt.size_of(length), size)
    for v in valid["headers"]:
        h = fmt.file_header(keys, un(v["raw"]))
        have = (h.kind, h.epoch, h.id.hex(), h.lineage.hex(), h.locator.hex(), [[t.hex(), k.hex()] for t, k in h.former])
        count += same("header", have, (v["kind"], v["epoch"], v["id"], v["lineage"], v["locator"], v["former"]))
    for v in valid["folder_headers"]:
        h = fmt.folder_header(keys, un(v["raw"]))
        count += same("folder", (h.epoch, h.id.hex(), h.locator.hex()), (v["epoch"], v["id"], v["locator"]))
    for v in valid["copies"]:
        count += same("copy", fmt.file_header(keys, un(v["raw"])).id.hex(), v["id"])
    for v in valid["locators"]:
        have = fmt.locator(keys, v["epoch"], un(v["parent"]), un(v["name"]), un(v["id"]))
        count += same("locator", have.hex(), v["locator"])
    for v in valid["files"]:
        data = un(v["data"])
        whole = data + bytes(v["length"] - len(data))
        header = fmt.file_header(keys, whole[:256])
        count += same("content", fmt.read_content(keys, header, data, v["length"]).hex(), v["content"])
        count += same("root", fmt.root(whole).hex(), v["root"])
    for v in valid["names"]:
        have = fmt.open_name(keys, un(v["folder"]), v["sealed"], side(v))
        count += same("name", have, (un(v["name"]), v["epoch"]))
    for v in valid["xattrs"]:
        have = fmt.open_xattr(keys, un(v["id"]), v["stored"], un(v["raw"]))
        count += same("xattr", have, (un(v["name"]), un(v["value"])))
    for v in valid["attrs"]:
        have = fmt.open_attrs(keys, un(v["id"]), un(v["raw"]))
        want = {k: v[k] for k in ("mode", "mtime", "uid", "gid")}
        want["xattrs"] = [(un(k), un(x)) for k, x in v["xattrs"]]
        want["long_names"] = [un(raw) for raw in v["long_names"]]
        count += same("attrs", have, want)
    for v in refuse["headers"]:
        count += refused("header", v["why"], lambda: fmt.file_header(keys, un(v["raw"])))
    for v in refuse["folder_headers"]:
        count += refused("folder header", v["why"], lambda: fmt.folder_header(keys, un(v["raw"])))
    plain = fmt.file_header(keys, un(valid["headers"][0]["raw"]))
    for v in refuse["pages"]:
        body = un(v["raw"]).ljust(4096 - (0 if v["page"] else 256), b"\0")
        count += refused("page", v["why"], lambda: fmt.open_page(keys, plain, v["page"], body))
    for v in refuse["names"]:
        count += refused("name", v["why"], lambda: fmt.open_name(keys, un(v["folder"]), v["sealed"], side(v)))
    for v in refuse["xattrs"]:
        count += refused("xattr", v["why"], lambda: fmt.open_xattr(keys, un(v["id"]), v["stored"], un(v["raw"])))
    for v in refuse["attrs"]:
        count += refused("attrs", v["why"], lambda: fmt.open_attrs(keys, un(v["id"]), un(v["raw"])))
    return count


if __name__ == "__main__":
    default = os.path.join(os.path.dirname(__file__), "../vectors/store.json")
    print(check(sys.argv[1] if len(sys.argv) > 1 else default), "vectors hold")
