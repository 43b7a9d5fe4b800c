#!/usr/bin/env python3
"""Reads flists after spec/flist.md, sharing no code with MuxFS, and makes spec/vectors/flist/expected.json.

Needs the package cryptography. With a tar of the tree they were made of as argument, what was read is held against it. With --in
the two flists and the directory chunks of another directory are read.
Usage: tests/flist_vectors.py [--in DIR] [TREE.tgz] > spec/vectors/flist/expected.json
"""

import gzip
import hashlib
import io
import json
import pathlib
import sqlite3
import struct
import sys
import tarfile
import tempfile

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HERE = pathlib.Path(__file__).parent.parent / "spec/vectors/flist"


def blake2b(data, length):
    return hashlib.blake2b(data, digest_size=length).digest()


def snappy(data):
    at, shift, length = 0, 0, 0
    while True:
        byte = data[at]
        length |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            break
    out = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        if tag & 3 == 0:
            size = tag >> 2
            if size >= 60:
                more = size - 59
                size = int.from_bytes(data[at : at + more], "little")
                at += more
            out += data[at : at + size + 1]
            at += size + 1
            continue
        if tag & 3 == 1:
            size, offset = (tag >> 2 & 7) + 4, tag >> 5 << 8 | data[at]
            at += 1
        else:
            width = 2 if tag & 3 == 2 else 4
            size, offset = (tag >> 2) + 1, int.from_bytes(data[at : at + width], "little")
            at += width
        for _ in range(size):
            out.append(out[-offset])
    assert len(out) == length
    return bytes(out)


def xxtea(data, key):
    words = list(struct.unpack(f"<{len(data) // 4}I", data))
    key = struct.unpack("<4I", key)
    count, mask = len(words), 0xFFFFFFFF
    total = (6 + 52 // count) * 0x9E3779B9 & mask
    while total:
        turn = total >> 2 & 3
        for at in reversed(range(count)):
            before, after = words[at - 1], words[(at + 1) % count]
            mix = (before >> 5 ^ after << 2 & mask) + (after >> 3 ^ before << 4 & mask)
            mix ^= (total ^ after) + (key[at & 3 ^ turn] ^ before)
            words[at] = words[at] - mix & mask
        total = total - 0x9E3779B9 & mask
    return struct.pack(f"<{count - 1}I", *words[:-1])[: words[-1]]


class Message:
    def __init__(self, data):
        count = struct.unpack_from("<I", data)[0] + 1
        lengths = struct.unpack_from(f"<{count}I", data, 4)
        at = (4 + 4 * count + 7) // 8 * 8
        self.segments = []
        for words in lengths:
            self.segments.append(data[at : at + words * 8])
            at += words * 8

    def word(self, segment, at):
        return struct.unpack_from("<Q", self.segments[segment], at * 8)[0]

    def follow(self, segment, at):
        """(kind, segment, word, high half), or None."""
        pointer = self.word(segment, at)
        place = None
        if pointer & 3 == 2:
            segment, at = pointer >> 32, pointer >> 3 & 0x1FFFFFFF
            if pointer & 4:
                far, pointer = self.word(segment, at), self.word(segment, at + 1)
                place = far >> 32, far >> 3 & 0x1FFFFFFF
            else:
                pointer = self.word(segment, at)
        if pointer == 0:
            return None
        if place is None:
            offset = pointer & 0xFFFFFFFC
            offset = (offset - (1 << 32) if offset >> 31 else offset) >> 2
            place = segment, at + 1 + offset
        return (pointer & 3, *place, pointer >> 32)

    def root(self):
        return Struct.of(self, self.follow(0, 0))


class Struct:
    def __init__(self, message, segment, at, data, pointers):
        self.message, self.segment, self.at, self.data, self.pointers = message, segment, at, data, pointers

    @classmethod
    def of(cls, message, found):
        if found is None:
            return None
        kind, segment, at, high = found
        assert kind == 0
        return cls(message, segment, at, high & 0xFFFF, high >> 16)

    def number(self, form, offset):
        if offset + struct.calcsize(form) > self.data * 8:
            return 0
        return struct.unpack_from(form, self.message.segments[self.segment], self.at * 8 + offset)[0]

    def follow(self, index):
        return self.message.follow(self.segment, self.at + self.data + index) if index < self.pointers else None

    def struct(self, index):
        return Struct.of(self.message, self.follow(index))

    def bytes(self, index):
        found = self.follow(index)
        if found is None:
            return b""
        kind, segment, at, high = found
        assert (kind, high & 7) == (1, 2)
        return self.message.segments[segment][at * 8 :][: high >> 3]

    def text(self, index):
        return self.bytes(index)[:-1].decode()

    def list(self, index):
        found = self.follow(index)
        if found is None:
            return []
        kind, segment, at, high = found
        assert (kind, high & 7) == (1, 7)
        tag = self.message.word(segment, at)
        count, data, pointers = (tag & 0xFFFFFFFF) >> 2, tag >> 32 & 0xFFFF, tag >> 48
        return [Struct(self.message, segment, at + 1 + n * (data + pointers), data, pointers) for n in range(count)]


def stored(name):
    for path in (HERE / "chunks" / name[:2] / name, HERE / "chunks" / name, HERE.parent / "chunks" / name[:2] / name):
        if path.is_file():
            return path.read_bytes()
    raise FileNotFoundError(name)


def content(node, data):
    assert len(data) == node["size"], node
    node["blake2b"] = blake2b(data, 16).hex()


def read_flist(path):
    unpacked = tarfile.open(fileobj=io.BytesIO(gzip.decompress(path.read_bytes())))
    with tempfile.NamedTemporaryFile() as file:
        file.write(unpacked.extractfile("./flistdb.sqlite3").read())
        file.flush()
        database = sqlite3.connect(file.name)
        entries = dict(database.execute("SELECT key, value FROM entries"))
        metadata = [list(row) for row in database.execute("SELECT key, value FROM metadata ORDER BY rowid")]

    def rights(node, key):
        root = Message(entries[key]).root()
        node["mode"] = root.number("<H", 0)
        node["uid"], node["gid"] = root.number("<q", 8) ^ -1, root.number("<q", 16) ^ -1

    nodes = {}

    def walk(path):
        root = Message(entries[blake2b(path.encode(), 16).hex()]).root()
        assert root.text(1) == path
        if path == "":
            node = {"kind": "dir", "size": root.number("<Q", 0), "mtime": root.number("<I", 8)}
            rights(node, root.text(4))
            nodes["/"] = node
        for item in root.list(2):
            node = {"size": item.number("<Q", 0), "mtime": item.number("<I", 12)}
            rights(node, item.text(2))
            below = f"{path}/{item.text(0)}".lstrip("/")
            nodes["/" + below] = node
            what, kind = item.struct(1), item.number("<H", 8)
            if kind == 0:
                node["kind"] = "dir"
                assert what.text(0) == blake2b(below.encode(), 16).hex()
                walk(below)
            elif kind == 1:
                node["kind"], data = "file", b""
                for block in what.list(0):
                    name, key = block.bytes(0), block.bytes(1)
                    chunk = stored(name.hex())
                    assert blake2b(chunk, 16) == name
                    plain = snappy(xxtea(chunk, key))
                    assert blake2b(plain, 16) == key
                    data += plain
                content(node, data)
            elif kind == 2:
                node["kind"], node["target"], node["mode"] = "symlink", what.text(0), 0o777
                node["size"] = len(node["target"])
            else:
                # zflist leaves the type 0, and tells what it is by the data.
                node["kind"] = ["socket", "block_device", "char_device", "fifo"][what.number("<H", 0)]
                if node["kind"] == "socket" and what.bytes(0) == b"(nothing)":
                    node["kind"] = "fifo"
                node["size"] = 0

    walk("")
    return {"format": "flist", "metadata": metadata, "nodes": nodes}


KINDS = {0o14: "socket", 0o12: "symlink", 0o10: "file", 0o6: "block_device", 0o4: "dir", 0o2: "char_device", 0o1: "fifo"}


def read_fl(path):
    database = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    metadata = [list(row) for row in database.execute("SELECT key, value FROM tag ORDER BY rowid")]
    routes = [list(row) for row in database.execute("SELECT start, end, url FROM route ORDER BY rowid")]
    nodes = {}

    def walk(path, row):
        ino, _, _, size, uid, gid, mode, _, _, mtime = row
        kind = KINDS[mode >> 12]
        node = {"kind": kind, "mode": mode & 0o7777, "uid": uid, "gid": gid, "size": size, "mtime": mtime}
        nodes[path or "/"] = node
        if kind == "file":
            data = b""
            for name, key in database.execute("SELECT id, key FROM block WHERE ino = ? ORDER BY rowid", [ino]):
                chunk = stored(name.hex())
                assert blake2b(chunk, 32) == name
                plain = snappy(AESGCM(key).decrypt(key[:12], chunk, None))
                assert blake2b(plain, 32) == key
                data += plain
            content(node, data)
        elif kind == "symlink":
            target = database.execute("SELECT data FROM extra WHERE ino = ?", [ino]).fetchone()[0]
            node["target"] = target.decode()
            node["size"] = len(target)
        elif kind != "dir":
            node["size"] = 0
        if kind == "dir":
            for below in database.execute("SELECT * FROM inode WHERE parent = ? ORDER BY ino", [ino]).fetchall():
                walk(f"{path}/{below[2]}", below)

    walk("", database.execute("SELECT * FROM inode WHERE ino = 1").fetchone())
    return {"format": "fl", "metadata": metadata, "routes": routes, "nodes": nodes}


def check_signature(path):
    kind, name, signature = pathlib.Path(f"{path}.sig").read_text().split()
    cid = int(name[1:], 36).to_bytes(40, "big")
    assert kind == "muxfs-flist-1" and cid[:8] == bytes.fromhex("0172002408011220")
    signed = b"muxfs flist signature 1\n" + blake2b(path.read_bytes(), 32)
    Ed25519PublicKey.from_public_bytes(cid[8:]).verify(bytes.fromhex(signature), signed)


def compare(read, tree):
    kinds = {b"0": "file", b"5": "dir", b"2": "symlink", b"6": "fifo"}
    with tarfile.open(tree) as tar:
        for member in tar:
            node = read["nodes"]["/" + member.name.lstrip("./")]
            assert node["kind"] == kinds[member.type], member.name
            assert (node["uid"], node["gid"], node["mode"]) == (member.uid, member.gid, member.mode), member.name
            if member.isfile():
                data = tar.extractfile(member).read()
                assert node["blake2b"] == blake2b(data, 16).hex(), member.name
                assert node["size"] == 0 or node["mtime"] == int(member.mtime), member.name
            if member.issym():
                assert node["target"] == member.linkname


def main():
    global HERE
    # The vectors are; what is read elsewhere need not be.
    is_signed = sys.argv[1:2] != ["--in"]
    if sys.argv[1:2] == ["--in"]:
        HERE = pathlib.Path(sys.argv[2])
        del sys.argv[1:3]
    read = {"small.flist": read_flist(HERE / "small.flist"), "small.fl": read_fl(HERE / "small.fl")}
    for flist in read if is_signed else []:
        check_signature(HERE / flist)
    for tree in sys.argv[1:]:
        for flist in read.values():
            compare(flist, tree)
    print(json.dumps(read, indent=1, sort_keys=True))


main()
