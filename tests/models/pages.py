#!/usr/bin/env python3
"""pages: a store of self-proving pages and signed records under kill, power cut and an attacker; which rules lose what.

    python3 pages.py [--secs N] [--seed N] [--len N] [--off RULE,RULE|all] [--each] [--no-attack] [--ops OP,OP]
A file has n pages of P bytes (S units on the disk, page 0 with the header) and the length S*n + 1 + p, p bytes of the last page
counting; S*n, which only a crash leaves, counts it all. The disk keeps or loses each page, length, mtime and directory step since its last fsync by itself; a kill
may fall between any two steps, also of mount, mend and umount. The attacker puts back one or two older things in STORE after a
clean umount. Checked: fsynced bytes and names come back; no byte from before a truncation that was fsynced; no refusal without an attacker; every attack is
noticed or harmless, also when a crash follows; peers never get older bytes for newer ones, nor two records of one number.
Rules, to be switched off one by one (--each does it):
  cut      a grow cuts what the last page holds beyond the length, durably, first
  tail     any change of the length makes the bytes after the last page (a piece of a lost page) a hole, durably, first
  hide     a last page that holds too much is cut, durably, also before it is replaced within the size, or goes
  bound    a shrink to an earlier page goes to that page's end, then to the length; off: in one step, through a page's ciphertext
  noflag   zeros are a hole, the record says whether rightly; off: only under a sparse flag in the header
  list     a recorded file is on a durable list before it changes; mending hashes the list, all else must fit its record; off: stat
  newest   mending: no edit is what the newest record says; off: what any record of ours says, and that record's file comes back
  durrec   a file is recorded when its pages and names are durable
  durlog   a record is sent when the log is durable
  markopen the mark `open` is durable before the first change
  syncfs   umount syncs the whole disk before the mark `clean`; off: the files of this session
  unmended a vault whose mending has not ended is not called clean
  group    a group is verified before its first change, not only before its first read
  relocate mending writes locators anew
  syncmount a mount after an unclean end first syncs the whole disk: what the killed session left there is counted on from now
  newhead  mending gives a file without header a new one, after all its pages are cut off, durably
  ranges   the list names the groups that change, each verified before it is listed; off: only the file
  emptied  the list is emptied, durably, before the mark `open`; off: after it
  outside  the mark outside STORE decides; off: either one that says `open` is believed
"""
import argparse
import itertools
import random
import time

PAGES, P, S, GROUP = 4, 3, 6, 2
MAX = PAGES * P
RULES = "cut tail hide bound noflag list newest durrec durlog markopen syncfs unmended group relocate outside syncmount newhead emptied ranges".split()
PIECE = "piece"                               # what is left of a page that the file's end cuts through
FILES = ("log", "list", "index", "keyring", "outside")


class Kill(Exception):
    """The process ended before this step."""


class Noticed(Exception):
    """The vault refused something, or said that the store was put back."""


class Bad(Exception):
    """A counterexample."""


class Disk:
    def __init__(self):
        self.files, self.base, self.steps, self.left, self.stored = {}, {}, [], None, {}

    def step(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Kill

    def get(self, ino, key):
        return self.files.get(ino, {}).get(key, [None])[-1]

    def note(self, ino, key, value):
        self.files.setdefault(ino, {}).setdefault(key, [None]).append(value)
        self.stored.setdefault((ino, key), [None]).append(value)

    def put(self, ino, key, value):
        self.step()
        self.note(ino, key, value)

    def page(self, ino, k, value, clock):
        self.put(ino, k, value)
        self.note(ino, "mtime", clock)
        if S * (k + 1) > self.length(ino):
            self.note(ino, "len", S * (k + 1))

    def length(self, ino):
        return self.get(ino, "len") or 0

    def setlen(self, ino, length, clock):
        self.put(ino, "len", length)
        self.note(ino, "mtime", clock)
        self.clip(ino)

    def clip(self, ino):
        for k in range(PAGES + 1):
            if self.get(ino, k) and S * (k + 1) > self.length(ino):
                self.note(ino, k, PIECE if S * k < self.length(ino) else None)

    def names(self):
        names = dict(self.base)
        for change in self.steps:
            names.update(change)
        return {name: ino for name, ino in names.items() if ino}

    def rename(self, change):
        self.step()
        self.steps.append(change)

    def fsync(self, ino, data_only=False):
        self.step()
        for key, versions in self.files.get(ino, {}).items():
            if not (data_only and key == "mtime"):
                del versions[:-1]

    def fsync_dir(self):
        self.step()
        self.base, self.steps = self.names(), []

    def syncfs(self):
        self.fsync_dir()
        for ino in self.files:
            self.fsync(ino)

    def cut(self, rng):
        lean = rng.choice([0, .3, .5, .8, 1])  # lean towards extremes: short counterexamples come sooner
        self.steps = [change for change in self.steps if rng.random() < lean]
        self.base, self.steps = self.names(), []
        for ino, keys in self.files.items():
            for versions in keys.values():
                versions[:] = [versions[-1] if rng.random() < lean else rng.choice(versions)]
            if ino not in FILES:
                self.clip(ino)
            for versions in keys.values():
                del versions[:-1]


class Vault:
    def __init__(self, rng, on):
        self.rng, self.on, self.disk, self.ids, self.clock = rng, on, Disk(), itertools.count(1), 0
        self.maybe = {}
        self.cur, self.ok, self.kept, self.names = {}, {}, {}, {}   # the oracle: bytes now, after a cut, names fsynced, names
        self.peers, self.peer_bytes, self.attacked, self.up = (), {}, False, False
        for name in FILES:
            self.save(name, ("clean", 0, ()) if name in ("keyring", "outside") else {} if name == "index" else ())
            self.disk.fsync(name)

    # ---- pages ----
    def load(self, name):
        return self.disk.get(name, 0)

    def save(self, name, value):
        self.disk.put(name, 0, value)

    def header(self, ino):
        first = self.disk.get(ino, 0)
        return first[0] if first else None

    def payload(self, ino, k):
        page = self.disk.get(ino, k)
        return page[1] if page and k == 0 else page

    def bytes_of(self, ino, k):
        page = self.payload(ino, k)
        return page[1] if page and page != PIECE else ()

    def size(self, ino):
        n, r = divmod(self.disk.length(ino), S)
        if n == 0 or not self.header(ino):
            return 0
        return (n - 1) * P + (min(r - 1, P) if r else P)

    def content(self, ino, strict=False):
        size, out = self.size(ino), []
        for k in range((size + P - 1) // P):
            page = self.payload(ino, k)
            if page == PIECE or page and page[2] != self.header(ino)[0]:
                raise Noticed("a page that does not authenticate")
            if k and not page and strict and "noflag" not in self.on and not self.header(ino)[2]:
                raise Noticed("zeros without a sparse flag")
            out += (list(self.bytes_of(ino, k)) + [0] * P)[:P]
        return (out[:size] + [None] * MAX)[:MAX]

    def put(self, ino, k, data):
        page = (next(self.ids), tuple(data), self.header(ino)[0]) if data is not None else None
        self.disk.page(ino, k, (self.header(ino), page) if k == 0 else page, self.clock)

    def set_header(self, ino, **fields):
        fid, name, sparse = self.header(ino)
        self.disk.page(ino, 0, ((fid, fields.get("name", name), fields.get("sparse", sparse)), self.payload(ino, 0)), self.clock)

    def root(self, ino):
        first = self.header(ino)
        return (self.disk.length(ino), *(self.payload(ino, k) for k in range(PAGES))) if first else None

    @staticmethod
    def length_of(size):
        n = max(1, (size + P - 1) // P)
        return S * n + 1 + size - (n - 1) * P

    # ---- what must fit its record ----
    def newest(self):
        return {entry[0]: entry for entry in self.log}

    def verify(self, ino, k=None):            # k: a group of that page, else all
        fid = self.header(ino) and self.header(ino)[0]
        entry = self.newest().get(fid)
        if not entry or self.all_loose or not entry[1]:
            return
        seen = self.seen.setdefault(ino, set())
        if not seen and fid not in self.loose and entry[1][0] != self.disk.length(ino):
            raise Noticed("a length that is not its record's")
        for group in range(PAGES // GROUP) if k is None else [k // GROUP]:
            pages = range(group * GROUP, group * GROUP + GROUP)
            loose = fid in self.loose if "ranges" not in self.on else (fid, group) in self.loose
            if not loose and group not in seen and any(self.payload(ino, p) != entry[1][1 + p] for p in pages):
                raise Noticed("a page that is not its record's")
            seen.add(group)

    def listing(self):
        if self.all_loose or "dir" in self.loose or self.listed:
            return
        self.listed = True
        want = {entry[2]: entry[0] for entry in self.newest().values() if entry[2]}
        have = {name: self.header(ino) and self.header(ino)[0] for name, ino in self.disk.names().items()}
        if want != have or any(self.header(ino)[1] != name for name, ino in self.disk.names().items()):
            raise Noticed("a folder or a locator that is not the records'")

    def intend(self, *things):                # before a first change
        self.listing()
        known = {entry[0] for entry in self.log} | {"dir"}
        new = [thing for thing in things if (thing[0] if isinstance(thing, tuple) else thing) in known and thing not in (self.load("list") or ())]
        if "list" in self.on and new:
            self.save("list", (self.load("list") or ()) + tuple(new))
            self.disk.fsync("list")

    def before_change(self, ino, *pages):
        fid = self.header(ino)[0]
        self.verify(ino, 0)
        for k in pages if "group" in self.on else ():
            self.verify(ino, k)
        self.intend(fid, *dict.fromkeys((fid, k // GROUP) for k in pages))
        for k in pages:
            self.seen.setdefault(ino, set()).add(k // GROUP)
        self.dirty.add(ino)

    # ---- operations ----
    def create(self, name):
        self.intend("dir")
        ino = next(self.ids)
        self.cur[ino], self.ok[ino] = [None] * MAX, [{None} for _ in range(MAX)]
        self.names = {**self.names, name: ino}
        self.maybe[name].add(ino)
        self.disk.rename({name: ino})
        self.disk.setlen(ino, S + 1, self.clock)
        self.disk.page(ino, 0, ((ino, name, False), None), self.clock)
        self.dirty.add(ino)

    def before_grow(self, ino):
        n, r = divmod(self.disk.length(ino), S)
        keep = self.size(ino) - (n - 1) * P
        if n and len(self.bytes_of(ino, n - 1)) > keep:
            self.put(ino, n - 1, self.bytes_of(ino, n - 1)[:keep])
            if "cut" in self.on:
                self.disk.fsync(ino)
        self.clean_tail(ino)

    def clean_tail(self, ino):
        n, r = divmod(self.disk.length(ino), S)
        if "tail" in self.on and self.disk.get(ino, n) == PIECE:
            self.disk.put(ino, n, None)       # not by a shorter length: S*n would count the last page whole
            self.disk.fsync(ino)

    def with_tail(self, ino, pages):          # replacing the last page may clean what follows it
        last = pages[-1] == self.disk.length(ino) // S - 1
        return range(pages[0], min(PAGES, pages[-1] + 2)) if last else pages

    def before_replace(self, ino, k):
        if "hide" in self.on and k == self.disk.length(ino) // S - 1:
            self.before_grow(ino)

    def sparse(self, ino):
        if "noflag" not in self.on and not self.header(ino)[2]:
            self.set_header(ino, sparse=True)

    def write(self, ino, offset, data):
        old, end = self.size(ino), offset + len(data)
        pages = range(offset // P, (end - 1) // P + 1)
        self.before_change(ino, *(range(min(offset, max(0, old - 1)) // P, min(PAGES, pages[-1] + 2)) if end > old else self.with_tail(ino, pages)))
        if end > old:
            self.before_grow(ino)
            self.disk.setlen(ino, self.length_of(end), self.clock)
        else:
            self.before_replace(ino, pages[-1])
        if pages[0] > (old + P - 1) // P:
            self.sparse(ino)
        for k in pages:
            have = list(self.bytes_of(ino, k))[:max(0, old - k * P)]
            start, stop = max(offset, k * P) - k * P, min(end, k * P + P) - k * P
            have += [0] * (stop - len(have))
            have[start:stop] = data[k * P + start - offset:k * P + stop - offset]
            self.put(ino, k, have)

    def truncate(self, ino, size):
        old = self.size(ino)
        self.before_change(ino, *range(min(max(0, size - 1), max(0, old - 1)) // P, PAGES))
        if size > old:
            self.before_grow(ino)
            self.sparse(ino)
        elif self.length_of(size) // S < self.disk.length(ino) // S:
            self.before_replace(ino, self.disk.length(ino) // S - 1)
            if "bound" in self.on:
                self.disk.setlen(ino, self.length_of(size) // S * S, self.clock)
        elif size == 0:
            self.before_replace(ino, 0)
        else:
            self.clean_tail(ino)
        self.disk.setlen(ino, self.length_of(size), self.clock)
        if size == 0:                         # by the same fsync as the length, so that a grow needs none of its own
            self.put(ino, 0, None)

    def punch(self, ino, k):
        self.before_change(ino, *self.with_tail(ino, range(k, k + 1)))
        self.sparse(ino)
        self.before_replace(ino, k)
        self.put(ino, k, None)

    def rename(self, old, new):
        ino, over = self.names[old], self.names.get(new)
        self.verify(ino, 0)
        self.intend("dir")
        self.names = {**{n: i for n, i in self.names.items() if n != old}, new: ino}
        self.set_header(ino, name=new)
        self.disk.rename({old: None, new: ino})
        self.dirty |= {ino, over} - {None}

    def unlink(self, name):
        ino = self.names[name]
        self.intend("dir")
        self.names = {n: i for n, i in self.names.items() if n != name}
        self.disk.rename({name: None})
        self.dirty.add(ino)

    # ---- records ----
    def record(self, ino, whole=False):
        if "durrec" in self.on:
            self.disk.syncfs()
        name = {i: n for n, i in self.disk.names().items()}.get(ino)
        fid = self.header(ino)[0] if self.header(ino) else ino
        entry, root = self.newest().get(fid), self.root(ino) if name else None
        if whole and "ranges" in self.on and not self.all_loose:
            self.verify(ino)
        if root and entry and entry[1] and not whole and fid not in self.loose and not self.all_loose:
            seen = self.seen.get(ino, set())
            root = (root[0], *(root[1 + k] if k // GROUP in seen else entry[1][1 + k] for k in range(PAGES)))
        if not entry and not root or entry and entry[1:3] == (root, name):
            return
        self.log += ((fid, root, name, tuple(self.content(ino)) if root else None, next(self.ids)),)
        self.save("log", self.log)
        self.save("index", {**(self.load("index") or {}), fid: self.stat(ino, name)})

    def gone(self, fid):
        self.log += ((fid, None, None, None, next(self.ids)),)
        self.save("log", self.log)

    def stat(self, ino, name):
        return (name, self.disk.length(ino), self.disk.get(ino, "mtime"))

    def send(self):
        if "durlog" in self.on:
            self.disk.fsync("log")
        for mine, theirs in zip(self.log, self.peers):
            if mine != theirs and not self.attacked:
                raise Bad("two records of one number at the peers")
        for fid, root, _, content, _ in self.log[len(self.peers):]:
            for new, old in zip(content or (), self.peer_bytes.get(fid) or ()):
                if new and old and new < old and not self.attacked:
                    raise Bad("older bytes replace newer ones at the peers")
            self.peer_bytes[fid] = content
        self.peers = max(self.log, self.peers, key=len)

    # ---- sessions ----
    def mount(self):
        (state, count, heads), (inner, inner_count, _) = self.load("outside"), self.load("keyring") or ("none", -1, ())
        if inner_count < count and state == "clean" or "outside" in self.on and state == "clean" != inner:
            raise Noticed("the keyring was put back")
        if not state == inner == "clean" and "syncmount" in self.on:
            self.disk.syncfs()
        self.log, clean = self.load("log") or (), state == inner == "clean" and count == inner_count
        if self.log[:len(heads)] != heads:
            raise Noticed("the records were put back")
        self.seen, self.dirty, self.listed, self.mended = {}, set(), False, clean
        self.loose = set() if clean else set(self.load("list") or ())
        self.all_loose = not clean and "list" not in self.on
        if clean and "emptied" in self.on:
            self.empty_list()
        for mark in ("outside", "keyring"):
            self.save(mark, ("open", count + 1, heads))
            if "markopen" in self.on:
                self.disk.fsync(mark)
        if clean and "emptied" not in self.on:
            self.empty_list()
        self.up = True

    def empty_list(self):
        self.save("list", ())
        self.disk.fsync("list")

    def mend(self):
        if self.mended:
            return
        self.listing()
        index, known = self.load("index") or {}, self.newest()
        for name, ino in self.disk.names().items():
            if not self.header(ino):
                if "newhead" not in self.on:
                    continue
                self.disk.setlen(ino, 0, self.clock)
                self.disk.fsync(ino)
                self.disk.setlen(ino, S + 1, self.clock)
                self.disk.page(ino, 0, ((ino, name, False), None), self.clock)
            fid = self.header(ino)[0]
            if self.header(ino)[1] != name and "relocate" in self.on:
                self.set_header(ino, name=name)
            if fid in known and (fid not in self.loose if "list" in self.on else index.get(fid) == self.stat(ino, name)):
                if known[fid][2] == name:
                    continue
            if "newest" not in self.on and any(e[0] == fid and e[1] == self.root(ino) for e in self.log) and known[fid][1]:
                self.install(ino, known[fid])
            self.record(ino, whole=True)
        have = {self.header(ino)[0]: ino for ino in self.disk.names().values() if self.header(ino)}
        for fid, entry in known.items():
            if entry[2] and fid not in have:
                self.gone(fid)
        if "durrec" in self.on:
            self.disk.syncfs()
        self.loose, self.all_loose, self.mended = set(), False, True

    def install(self, ino, entry):
        self.disk.setlen(ino, entry[1][0], self.clock)
        for k in range(PAGES):
            page = entry[1][1 + k]
            self.disk.put(ino, k, (self.header(ino), page) if k == 0 else page)

    def umount(self):
        for ino in sorted(self.dirty):
            self.record(ino)
        if "syncfs" in self.on:
            self.disk.syncfs()
        else:
            for ino in sorted(self.dirty):
                self.disk.fsync(ino)
            self.disk.fsync_dir()
            self.disk.fsync("log")
        if self.mended or "unmended" not in self.on:
            count = self.load("outside")[1]
            for mark in ("keyring", "outside"):
                self.save(mark, ("clean", count, self.log))
                self.disk.fsync(mark)
        self.up = False


class Run(Vault):
    """The oracle: cur are the bytes now, ok what a power cut may leave, kept the names that were fsynced."""

    def step(self, op, name, log):
        rng, disk = self.rng, self.disk
        if op in ("create", "rename", "unlink"):
            for n in "xy":
                self.maybe.setdefault(n, set()).update({self.names.get("x"), self.names.get("y"), None})
        self.clock += rng.random() < .5
        ino = self.names.get(name)
        if op == "umount":
            log.append("umount")
            self.umount()
            for i in self.cur:
                self.ok[i] = [{v} for v in self.cur[i]]
            self.kept, self.maybe = dict(self.names), {}
            self.attack(log)
            self.mount()
        elif op in ("mend", "send"):
            log.append(op)
            getattr(self, op)()
        elif op == "fsck":
            log.append(op)
            self.fsck()
        elif op == "create" and not ino:
            log.append(f"create {name}")
            self.create(name)
        elif not ino or not self.header(ino) or op == "create":
            return
        elif op == "rename":
            new = "y" if name == "x" else "x"
            log.append(f"rename {name} {new}")
            self.kept = {n: i for n, i in self.kept.items() if n not in (name, new)}
            self.rename(name, new)
        elif op == "unlink":
            log.append(f"unlink {name}")
            self.kept.pop(name, None)
            self.unlink(name)
        elif op == "record":
            log.append(f"record {name}")
            if ino in self.dirty:             # only what this mount changed is ever authored
                self.record(ino)
        elif op in ("fsync", "fdatasync"):
            log.append(f"{op} {name}")
            disk.fsync(ino, op == "fdatasync")
            disk.fsync_dir()
            self.ok[ino] = [{v} for v in self.cur[ino]]
            self.kept[name], self.maybe = ino, {}
        else:
            self.change(op, name, ino, log)

    def change(self, op, name, ino, log):
        new, rng = list(self.cur[ino]), self.rng
        size = sum(v is not None for v in new)
        if op == "write":
            offset, count = rng.choice([size, rng.randrange(MAX)]) % MAX, rng.choice([1, 2, P])
            data = [next(self.ids) for _ in range(min(count, MAX - offset))]
            new = [0 if v is None and b < offset else v for b, v in enumerate(new)]
            new[offset:offset + len(data)] = data
            log.append(f"write {name} {offset}+{len(data)}")
            act = lambda: self.write(ino, offset, data)
        elif op == "truncate":
            to = rng.randrange(MAX + 1)
            new = [None if b >= to else v or 0 for b, v in enumerate(new)]
            log.append(f"truncate {name} {to}")
            act = lambda: self.truncate(ino, to)
        else:
            k = rng.randrange(1, PAGES)
            if k * P + P > size:
                return
            new[k * P:k * P + P] = [0] * P
            log.append(f"punch {name} {k}")
            act = lambda: self.punch(ino, k)
        self.ok[ino] = [may | {v} for may, v in zip(self.ok[ino], new)]
        self.now[ino] = [{v, w} for v, w in zip(self.cur[ino], new)]
        act()
        self.cur[ino] = new
        self.now.pop(ino)

    def crash(self, cut):
        self.up, self.disk.left = False, None
        if cut:
            self.disk.cut(self.rng)
        self.look(cut)

    def look(self, cut):                      # what is there after a crash, and may it be
        names = self.disk.names()
        for name, ino in self.kept.items():
            if names.get(name) != ino and not self.attacked:
                raise Bad("a name that was fsynced is gone")
        for name in "xy":
            if not self.attacked or names.get(name) in self.maybe.get(name, ()):
                self.names = {n: i for n, i in {**self.names, name: names.get(name)}.items() if i}
        for ino in set(names.values()):
            may = self.ok[ino] if cut else self.now.get(ino) or [{v} for v in self.cur[ino]]
            have = self.content(ino)
            if self.attacked:
                have = [v if v in allowed or not v and None in allowed else old for v, allowed, old in zip(have, may, self.cur[ino])]
            for b, (v, allowed) in enumerate(zip(have, may)):
                if v not in allowed and not (v == 0 and None in allowed):
                    raise Bad("a byte that was fsynced is gone" if cut else "a byte that was written is gone" if v is None or v < max(x or 0 for x in allowed) else "a byte out of nowhere")
            self.cur[ino] = have
            self.ok[ino] = [{v} if cut else may | {v} for may, v in zip(self.ok[ino], have)]
        self.now = {}

    def fsck(self):
        self.listing()
        have = self.disk.names()
        if have != self.names:
            raise Bad("an attack on names was not noticed" if self.attacked else "names differ")
        for ino in set(have.values()):
            if self.header(ino):
                self.verify(ino)
            if self.content(ino, strict=self.mended) != self.cur[ino]:
                raise Bad("an attack was not noticed" if self.attacked else "bytes differ")

    def attack(self, log):                    # older things are put back, in STORE only
        if not self.attacks or self.attacked or not self.mended or self.rng.random() < .5:
            return
        places = [(ino, key) for ino, key in self.disk.stored if key != "mtime" and ino not in ("outside",)]
        if self.rng.random() < .2:
            name, target = self.rng.choice("xy"), self.rng.choice([None, *self.cur])
            log.append(f"attack: {name} is file {target}")
            self.disk.base = {**self.disk.names(), name: target}
            self.disk.steps = []
            self.attacked = "names"
            return
        self.attacked = "pieces"
        for ino, key in self.rng.sample(sorted(places, key=str), self.rng.choice([1, 1, 2])):
            log.append(f"attack: {key} of {ino} older")
            self.disk.files[ino][key] = [self.rng.choice(self.disk.stored[ino, key])]
            if ino not in FILES:
                self.disk.clip(ino)


OPS = "create create write write write write truncate truncate punch fsync fsync fdatasync record record send rename unlink fsck umount umount kill cut mend mend".replace(" ", ",")


def one(seed, on, length, attacks, ops):
    rng = random.Random(seed)
    run = Run(rng, on)
    run.now, run.attacks, log = {}, attacks, []
    try:
        run.mount()
        for _ in range(rng.randint(4, length)):
            op, name = rng.choice(ops), rng.choice("xxxy")
            if op in ("kill", "cut"):         # within the next steps, or now
                run.disk.left = rng.choice([0, 0, 1, 2, 3, 4, 6])
                how, op = op, rng.choice(ops)
                try:
                    if op not in ("kill", "cut"):
                        run.step(op, name, log)
                except Kill:
                    log[-1:] = [f"{log[-1]} (broken off)"] if log else []
                log.append(how)
                run.crash(how == "cut")
                while not run.up:
                    run.disk.left = rng.choice([None, None, 0, 1, 2, 3])
                    try:
                        run.mount()
                    except Kill:
                        how = rng.choice(["kill", "cut"])
                        log.append(f"mount (broken off), {how}")
                        run.crash(how == "cut")
                run.disk.left = None
            else:
                run.step(op, name, log)
    except Noticed as notice:
        return None if run.attacked else (str(notice), log)
    except Bad as bad:
        return str(bad), log
    return None


def search(on, args):
    end, runs, bad, best = time.time() + args.secs, 0, 0, {}
    while time.time() < end:
        runs += 1
        seed = args.seed * 10 ** 8 + runs
        found = one(seed, on, args.len, not args.no_attack, args.ops.split(","))
        if found:
            bad += 1
            what, log = found
            if what not in best or len(log) < len(best[what][0]):
                best[what] = log, seed
    off = [rule for rule in RULES if rule not in on]
    print(f"{runs} runs, {bad} bad, off: {', '.join(off) or 'none'}")
    for what, (log, seed) in sorted(best.items(), key=lambda item: len(item[1][0])):
        print(f"  {what}: {'; '.join(log)}  [seed {seed}]", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--secs", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--len", type=int, default=14)
    parser.add_argument("--off", default="")
    parser.add_argument("--ops", default=OPS)
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--no-attack", action="store_true")
    args = parser.parse_args()
    off = RULES if args.off == "all" else [rule for rule in args.off.split(",") if rule]
    for out in ([[]] + [[rule] for rule in RULES]) if args.each else [off]:
        search(frozenset(RULES) - frozenset(out), args)
