#!/usr/bin/env python3
"""Works on a folder, and knows what must be in it.

    stress.py work FOLDER STATE SEED OPERATIONS    as one of several at once, in folders that all share
    stress.py check FOLDER STATE...                 what all the workers left is there, to the byte, and nothing else
A worker owns the names that begin with its seed; what it knows of them goes to STATE.
"""
import hashlib
import json
import os
import random
import sys

FOLDERS = ["a", "b", "c/d", "c/e"]


class Worker:
    def __init__(self, top, seed):
        self.top, self.seed, self.dice = top, seed, random.Random(seed)
        self.names = {}  # path -> number of the file
        self.files = {}  # number -> content
        self.next = 0

    def name(self):
        length = self.dice.choice([6, 6, 20, 150, 230])
        return f"{self.dice.choice(FOLDERS)}/{self.seed}-" + "".join(self.dice.choices("abcdefgh", k=length))

    def at(self, path):
        return os.path.join(self.top, path)

    def some(self):
        return self.dice.choice(sorted(self.names))

    def gone(self, path):
        number = self.names.pop(path)
        if number not in self.names.values():
            del self.files[number]

    def step(self):
        what = self.dice.choices(["create", "write", "truncate", "rename", "link", "unlink", "punch", "read", "append", "held"],
                                 [10, 10, 4, 8, 3, 6, 3, 10, 6, 2])[0]
        if what == "create" or not self.names:
            path = self.name()
            if path in self.names:
                return
            content = self.dice.randbytes(self.dice.choice([0, 10, 3000, 4096, 20000, 130000]))
            with open(self.at(path), "xb") as f:
                f.write(content)
            self.next += 1
            self.names[path], self.files[self.next] = self.next, bytearray(content)
            return
        path = self.some()
        content = self.files[self.names[path]]
        if what == "write":
            at, new = self.dice.randrange(len(content) + 9000), self.dice.randbytes(self.dice.choice([1, 100, 4096, 9000]))
            with open(self.at(path), "r+b", buffering=0) as f:
                os.pwrite(f.fileno(), new, at)
                if self.dice.random() < 0.05:
                    os.fsync(f.fileno())
            content.extend(bytes(max(0, at - len(content))))
            content[at:at + len(new)] = new
        elif what == "append":
            new = self.dice.randbytes(self.dice.choice([1, 500, 5000]))
            with open(self.at(path), "ab", buffering=0) as f:
                f.write(new)
            content.extend(new)
        elif what == "truncate":
            size = self.dice.randrange(len(content) + 5000)
            os.truncate(self.at(path), size)
            content.extend(bytes(max(0, size - len(content))))
            del content[size:]
        elif what == "punch" and content:
            # fallocate(1) has no zero range that keeps the size; both are tried by turns.
            import ctypes
            at, size = self.dice.randrange(len(content)), self.dice.choice([1, 4096, 10000])
            with open(self.at(path), "r+b") as f:
                mode = self.dice.choice([0x01 | 0x02, 0x01 | 0x10])
                call = ctypes.CDLL(None, use_errno=True).fallocate
                call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
                if call(f.fileno(), mode, at, size):
                    raise OSError(ctypes.get_errno(), "fallocate")
            end = min(len(content), at + size)
            content[at:end] = bytes(end - at)
        elif what == "rename":
            new = self.some() if self.dice.random() < 0.3 else self.name()
            same = self.names.get(new) == self.names[path]
            os.rename(self.at(path), self.at(new))
            if not same:
                if new in self.names:
                    self.gone(new)
                self.names[new] = self.names.pop(path)
        elif what == "link":
            new = self.name()
            if new not in self.names:
                os.link(self.at(path), self.at(new))
                self.names[new] = self.names[path]
        elif what == "unlink":
            os.unlink(self.at(path))
            self.gone(path)
        elif what == "held":
            # Unlinked while open it stays readable and writable.
            with open(self.at(path), "r+b", buffering=0) as f:
                os.unlink(self.at(path))
                f.seek(0, 2)
                f.write(b"more")
                f.seek(0)
                if read_all(f) != bytes(content) + b"more":
                    sys.exit(f"{path} is not what it was while it was open")
            number = self.names[path]
            content.extend(b"more")
            self.gone(path)
        elif what == "read":
            with open(self.at(path), "rb", buffering=0) as f:
                if read_all(f) != content:
                    sys.exit(f"{path} is not what was written")
            if os.stat(self.at(path)).st_nlink != list(self.names.values()).count(self.names[path]):
                sys.exit(f"{path} has a wrong count of links")


def read_all(f):
    out = b""
    while piece := f.read(1 << 20):
        out += piece
    return out


def main():
    what, top, *rest = sys.argv[1:]
    for folder in FOLDERS:
        os.makedirs(os.path.join(top, folder), exist_ok=True)
    if what == "work":
        state, seed, count = rest[0], int(rest[1]), int(rest[2])
        worker = Worker(top, seed)
        for _ in range(count):
            worker.step()
        known = {path: hashlib.sha256(worker.files[number]).hexdigest() for path, number in worker.names.items()}
        with open(state, "w") as f:
            json.dump(known, f)
        return
    want = {}
    for state in rest:
        want |= json.load(open(state))
    have = {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            have[os.path.relpath(path, top)] = hashlib.sha256(open(path, "rb").read()).hexdigest()
    for path in sorted(want.keys() | have.keys()):
        if want.get(path) != have.get(path):
            sys.exit(f"{path}: {'lost' if path not in have else 'made by nobody' if path not in want else 'other bytes'}")
    print(len(have), "files as they should be")


main()
