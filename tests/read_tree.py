#!/usr/bin/env python3
"""Reads a committed tree of MuxFS, from spec/commit.md, spec/attrs.md and spec/dag.md alone.

    read_tree.py BLOCKS COMMIT

BLOCKS is a directory with a file for each block, named by its CID of version 1 or its multihash in base16; or a CAR; or
JSON with {"blocks": {multihash in base16: block in base16}}. Every block is verified, every rule of the formats is
checked, and every path is printed as a line of JSON, in the order of its bytes: what is not plain ASCII is %XX.

It shares nothing with the program but the specification, and shows that this says all there is to know.
"""

import base64
import hashlib
import json
import os
import sys


class Bad(Exception):
    """Something is not as the specification says."""


def need(condition, why):
    if not condition:
        raise Bad(why)


# ---- CIDs and blocks


class Cid:
    """A content identifier: binary form, codec and multihash."""

    def __init__(self, binary):
        self.binary = bytes(binary)
        if self.binary[:2] == b"\x12\x20" and len(self.binary) == 34:
            self.codec, self.multihash = 0x70, self.binary
        else:
            need(self.binary[:1] == b"\x01", "a CID has version 0 or 1")
            self.codec, at = varint(self.binary, 1)
            self.multihash = self.binary[at:]

    @staticmethod
    def parse(text):
        need(text.startswith("b"), "a CID is written in base32 here")
        return Cid(base64.b32decode(text[1:].upper() + "=" * (-len(text[1:]) % 8)))

    def __str__(self):
        return "b" + base64.b32encode(self.binary).decode().rstrip("=").lower()

    def __eq__(self, other):
        return isinstance(other, Cid) and self.binary == other.binary


def varint(data, at):
    number, shift = 0, 0
    while True:
        need(at < len(data) and shift < 64, "a varint ends within 64 bits")
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            need(byte != 0 or shift == 7, "a varint is as short as it can be")
            return number, at


class Blocks:
    """Blocks by multihash, each verified as it is read."""

    def __init__(self, path):
        self.path, self.table = path, {}
        if os.path.isdir(path):
            return
        with open(path, "rb") as file:
            data = file.read()
        if data[:1] == b"{":
            for key, block in json.loads(data)["blocks"].items():
                self.table[bytes.fromhex(key)] = bytes.fromhex(block)
        else:
            header_len, at = varint(data, 0)
            at += header_len
            while at < len(data):
                length, at = varint(data, at)
                section, at = data[at : at + length], at + length
                cid_len = 34 if section[:2] == b"\x12\x20" else 36
                self.table[Cid(section[:cid_len]).multihash] = section[cid_len:]

    def get(self, cid):
        hash_code, at = varint(cid.multihash, 0)
        length, at = varint(cid.multihash, at)
        digest = cid.multihash[at:]
        need(len(digest) == length, "a multihash says how long its digest is")
        if hash_code == 0:
            return digest
        need(hash_code == 0x12 and length == 32, "this reader knows sha2-256 only")
        block = self.table.get(cid.multihash)
        if block is None and os.path.isdir(self.path):
            for name in (str(cid), cid.multihash.hex()):
                if os.path.exists(os.path.join(self.path, name)):
                    with open(os.path.join(self.path, name), "rb") as file:
                        block = file.read()
        need(block is not None, f"the block {cid} is absent")
        need(hashlib.sha256(block).digest() == digest, f"the block {cid} is damaged")
        return block


# ---- dag-cbor


def decode(block):
    value, at = item(block, 0)
    need(at == len(block), "nothing stands behind a value")
    return value


def item(data, at):
    need(at < len(data), "a value ends with its block")
    kind, info, at = data[at] >> 5, data[at] & 31, at + 1
    if kind == 7:
        need(info in (20, 21, 22), "of the simple values there are false, true and null")
        return {20: False, 21: True, 22: None}[info], at
    number = info
    if info >= 24:
        width = {24: 1, 25: 2, 26: 4, 27: 8}.get(info)
        need(width and at + width <= len(data), "a head is whole")
        number, at = int.from_bytes(data[at : at + width], "big"), at + width
        need(number >= (24 if width == 1 else 1 << (4 * width)), "a number is in its shortest form")
    if kind == 0:
        return number, at
    if kind == 1:
        return -1 - number, at
    if kind in (2, 3):
        need(at + number <= len(data), "bytes end with their block")
        content = data[at : at + number]
        return content if kind == 2 else content.decode(), at + number
    if kind == 4:
        values = []
        for _ in range(number):
            value, at = item(data, at)
            values.append(value)
        return values, at
    if kind == 5:
        values, last = {}, None
        for _ in range(number):
            key, at = item(data, at)
            need(isinstance(key, str), "a key is text")
            order = (len(key.encode()), key.encode())
            need(last is None or last < order, "keys are sorted")
            values[key], at = item(data, at)
            last = order
        return values, at
    need(number == 42, "the only tag is a link")
    content, at = item(data, at)
    need(isinstance(content, bytes) and content[:1] == b"\x00", "a link begins with a zero byte")
    return Cid(content[1:]), at


def head(kind, number):
    for info, width, end in ((None, 0, 24), (24, 1, 1 << 8), (25, 2, 1 << 16), (26, 4, 1 << 32), (27, 8, 1 << 64)):
        if number < end:
            info = number if info is None else info
            return bytes([kind << 5 | info]) + (number.to_bytes(width, "big") if width else b"")
    raise Bad("a number has at most 64 bits")


def encode(value):
    """The one form of a number, of bytes or of a list."""
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    return head(4, len(value)) + encoded(value)


def encoded(values):
    return b"".join(map(encode, values))


def node(blocks, cid, *tags):
    need(isinstance(cid, Cid) and cid.binary[:4] == b"\x01\x71\x12\x20", "nodes are linked as dag-cbor, sha2-256")
    value = decode(blocks.get(cid))
    need(isinstance(value, list) and value and value[0] in tags, f"{cid} is one of {', '.join(tags)}")
    return value


# ---- dag-pb and UnixFS


def fields(data):
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 5:
            value, at = data[at : at + 4], at + 4
        else:
            need(key & 7 == 2, "a field has a known wire type")
            length, at = varint(data, at)
            need(at + length <= len(data), "a field ends with its message")
            value, at = data[at : at + length], at + length
        yield key >> 3, value


def unixfs(block):
    """The links of a node (CID, name, tsize) and its UnixFS message: type, data, size, lengths of parts, fanout."""
    links, message = [], None
    for number, value in fields(block):
        if number == 2:
            link = dict(fields(value))
            links.append((Cid(link[1]), link.get(2, b""), link.get(3, 0)))
        else:
            message = value
    need(message is not None, "a node has UnixFS data")
    values, parts = {}, []
    for number, value in fields(message):
        if number == 4:
            parts.append(value)
        else:
            values[number] = value
    return links, values[1], values.get(2, b""), values.get(3, 0), parts, values.get(6)


def content(blocks, cid):
    """The bytes of a file, piece by piece."""
    if cid.codec == 0x55:
        yield blocks.get(cid)
        return
    links, kind, data, size, parts, _ = unixfs(blocks.get(cid))
    need(kind in (0, 2) and size == len(data) + sum(parts), "a file is as long as its parts")
    need(len(links) == len(parts), "a file has a length for each part")
    yield data
    for (child, _, _), length in zip(links, parts):
        found = 0
        for piece in content(blocks, child):
            found += len(piece)
            yield piece
        need(found == length, "a part is as long as its parent says")


def entries(blocks, cid):
    """The entries of a UnixFS directory."""
    links, kind, _, _, _, fanout = unixfs(blocks.get(cid))
    need(kind == 1 or kind == 5 and fanout, "a directory is one block or sharded")
    width = len(f"{fanout - 1:X}") if fanout else 0
    for child, name, _ in links:
        if fanout and len(name) == width:
            yield from entries(blocks, child)
        else:
            yield name[width:], child


# ---- the attribute tree


def murmur(data):
    mask = (1 << 64) - 1
    c1, c2 = 0x87C37B91114253D5, 0x4CF5AD432745937F

    def rotl(number, count):
        return (number << count | number >> (64 - count)) & mask

    def mix(k, first, turn, second):
        return rotl(k * first & mask, turn) * second & mask

    def finish(h):
        h = (h ^ h >> 33) * 0xFF51AFD7ED558CCD & mask
        h = (h ^ h >> 33) * 0xC4CEB9FE1A85EC53 & mask
        return h ^ h >> 33

    h1 = h2 = 0
    whole = len(data) // 16 * 16
    for at in range(0, whole, 16):
        k1, k2 = (int.from_bytes(data[at + half : at + half + 8], "little") for half in (0, 8))
        h1 = (rotl(h1 ^ mix(k1, c1, 31, c2), 27) + h2) * 5 + 0x52DCE729 & mask
        h2 = (rotl(h2 ^ mix(k2, c2, 33, c1), 31) + h1) * 5 + 0x38495AB5 & mask
    tail = data[whole:].ljust(16, b"\x00")
    k1, k2 = (int.from_bytes(tail[half : half + 8], "little") for half in (0, 8))
    h1 ^= mix(k1, c1, 31, c2) ^ len(data)
    h2 ^= mix(k2, c2, 33, c1) ^ len(data)
    h1 = h1 + h2 & mask
    h2 = h2 + h1 & mask
    return finish(h1) + finish(h2) & mask


def bits(number, count):
    return [at for at in range(count) if number >> at & 1]


def inodes(blocks, cid, level, number):
    """The inodes below a node of the radix tree."""
    tag, *rest = node(blocks, cid, "inode-index" if level else "inodes")
    if level:
        bitmap, children = rest
        need(bitmap and len(children) == len(bits(bitmap, 64)), "a child for each bit")
        for at, child in zip(bits(bitmap, 64), children):
            yield from inodes(blocks, child, level - 1, number << 6 | at)
        return
    place, bitmap, records = rest
    need(place == number and 0 < bitmap < 1 << 32, "a leaf is in its place")
    need(len(records) == len(bits(bitmap, 32)), "an inode for each bit")
    for at, record in zip(bits(bitmap, 32), records):
        yield number << 5 | at, record


def pairs(blocks, part, tag):
    """The pairs of a list, which may be in blocks of its own."""
    if isinstance(part, list):
        values = part
        need(len(encoded(values)) <= 512, "what is long is in blocks")
    else:
        lists = parts(blocks, part, tag)
        values = sum(lists, [])
        need(len(encoded(values)) > 512, "what is short is inline")
        need(lists == cut(values), "a list is cut where it must be")
        check_index(blocks, part, tag)
    found = list(zip(values[::2], values[1::2]))
    need(len(values) % 2 == 0 and all(a < b for a, b in zip(found, found[1:])), "pairs are sorted")
    return found


def parts(blocks, cid, tag):
    found, values = node(blocks, cid, tag, "list-index")
    return [values] if found == tag else sum((parts(blocks, child, tag) for child in values), [])


def cut(values):
    done, now, length = [], [], 0
    for at in range(0, len(values), 2):
        pair = encoded(values[at : at + 2])
        if now and length + len(pair) > 32768:
            done.append(now)
            now, length = [], 0
        now, length = now + values[at : at + 2], length + len(pair)
        if murmur(pair) % 512 == 0:
            done.append(now)
            now, length = [], 0
    return done + ([now] if now else [])


def check_index(blocks, top, tag):
    """Checks where the links to the parts of a list are cut."""
    levels = [[top]]
    while decode(blocks.get(levels[-1][0]))[0] == "list-index":
        levels.append(sum((node(blocks, cid, "list-index")[1] for cid in levels[-1]), []))
    for above, below in zip(levels, levels[1:]):
        expected, now = [], []
        for cid in below:
            now.append(cid)
            if len(now) == 512 or len(now) > 1 and any(link.binary[4] % 64 == 0 for link in now):
                expected, now = expected + [now], []
        expected += [now] if now else []
        need([node(blocks, cid, "list-index")[1] for cid in above] == expected, "links are cut where they must be")


def names(blocks, part):
    """The names of a directory, in the order of their ranks."""
    if isinstance(part, list):
        found = [ranked(entry) for entry in part]
        need(sum(length for _, _, _, length in found) <= 512, "many names are in blocks")
    else:
        found, length = below(blocks, part, 0, 0)
        need(length > 512, "few names are inline")
    need(all(a[0] < b[0] for a, b in zip(found, found[1:])), "names are in the order of their ranks")
    return [(name, ino) for _, name, ino, _ in found]


def ranked(entry):
    name, ino, *index = entry
    need(0 < len(name) < 256 and name not in (b".", b"..") and not set(name) & set(b"/\0"), "a name")
    need(not index or 0 < index[0] < 65536, "an index that is written is not 0")
    return murmur(name) >> 18 << 16 | (index[0] if index else 0), name, ino, len(encode(entry))


def below(blocks, cid, depth, place):
    """The entries below a node of the trie, and how many bytes they take; `place` is the path to it, in bits."""
    tag, values = node(blocks, cid, "names", "name-index")
    if tag == "names":
        found = [ranked(entry) for entry in values]
        length = sum(length for _, _, _, length in found)
        need(0 < length <= 8192, "a leaf has 1 to 8192 bytes of names")
        return found, length
    found, slot, lengths = [], 0, {}
    for child in values:
        if isinstance(child, int):
            width, inside, length = child, [], 0
        elif isinstance(child, list):
            width, length, link = child
            inside, really = below(blocks, link, depth + 6, place << 6 | slot)
            need(really == length, "a leaf is as long as its index node says")
        else:
            width = 6
            inside, length = below(blocks, child, depth + 6, place << 6 | slot)
            need(length > 8192, "what fits in one leaf is one leaf")
        need(0 < width < 7 and slot % (64 >> width) == 0, "a child begins where one of its depth can")
        for rank, _, _, _ in inside:
            at = (rank << 4) >> (60 - depth)
            need(at >> 6 == place and slot <= at & 63 < slot + (64 >> width), "names are in their place")
        lengths[(width, slot)] = length
        found, slot = found + inside, slot + (64 >> width)
    need(slot == 64, "an index node has 64 slots")
    for width in range(6, 0, -1):
        for slot in range(0, 64, 2 * (64 >> width)):
            halves = [lengths.get((width, at)) for at in (slot, slot + (64 >> width))]
            if None not in halves:
                need(sum(halves) > 8192, "what fits in one leaf is one leaf")
                lengths[(width - 1, slot)] = sum(halves)
    return found, sum(length for _, _, _, length in found)


# ---- a commit

KINDS = {1: "fifo", 2: "chardev", 4: "dir", 6: "blockdev", 8: "file", 10: "symlink", 12: "socket"}


def escaped(data):
    return "".join(chr(byte) if 0x20 < byte < 0x7F and byte != 0x25 else f"%{byte:02X}" for byte in data)


def line(blocks, path, ino, inode):
    mode, uid, gid, nlink, size, used, mtime, ctime, atime, change, parents, body, *xattrs = inode
    shown = {"path": escaped(path) or "/", "ino": ino, "kind": KINDS[mode >> 12], "mode": f"{mode & 0o7777:04o}"}
    shown |= {"uid": uid, "gid": gid, "nlink": nlink, "size": size, "used": size + used}
    shown |= {"mtime": mtime, "ctime": mtime + ctime, "atime": mtime + atime, "change": change}
    kind = shown["kind"]
    if kind == "file":
        digest, length = hashlib.sha256(), 0
        for piece in content(blocks, body[0]):
            digest.update(piece)
            length += len(piece)
        need(length == size, f"{escaped(path)} is as long as it says")
        shown["sha256"] = digest.hexdigest()
        if len(body) == 3:
            ranges = pairs(blocks, body[2], "ranges")
            need(all(a + count < b for (a, count), (b, _) in zip(ranges, ranges[1:])), "ranges do not touch")
            shown["ranges"] = [len(ranges), 4096 * sum(count for _, count in ranges)]
    elif kind == "symlink":
        _, unixfs_kind, target, *_ = unixfs(blocks.get(body[0]))
        need(unixfs_kind == 4 and target == body[2], f"{escaped(path)} has one target")
        shown["target"] = escaped(target)
    elif kind in ("chardev", "blockdev"):
        shown["rdev"] = body
    if xattrs:
        shown["xattrs"] = {escaped(name): escaped(value) for name, value in pairs(blocks, xattrs[0], "xattrs")}
    return shown


def read(blocks, cid):
    """Every path of a commit, as a line each."""
    commit = decode(blocks.get(cid))
    need(isinstance(commit, dict) and commit.get("kind") == "muxfs-commit", f"{cid} is a commit")
    need(commit["v"] == 1, f"a commit of version {commit['v']}: this reader knows version 1")
    keys = ["v", "kind", "note", "prev", "root", "time", "attrs", "profile", "snapshots"]
    need(list(commit) == keys, "a commit has nine entries")
    tag, version, *root = node(blocks, commit["attrs"], "muxfs-attrs")
    need(version == 1, f"attributes of version {version}: this reader knows version 1")
    next_ino, inode_count, _, top, derived = root
    need(derived is None, "numbers of foreign roots are not known to this reader")
    level = 0
    while 32 * 64**level < next_ino:
        level += 1
    table = dict(inodes(blocks, top, level, 0)) if top else {}
    need(len(table) == inode_count and all(0 < ino < next_ino for ino in table), "as many inodes as the root says")

    found, parents, left = {}, {}, [(b"", 1)]
    while left:
        path, ino = left.pop()
        need(ino in table, f"inode {ino} of {escaped(path)} is there")
        inode = table[ino]
        found[path] = line(blocks, path, ino, inode)
        if found[path]["kind"] != "dir":
            continue
        listed = names(blocks, inode[11][3])
        need(len(listed) == inode[11][2], f"{escaped(path)} has as many entries as it says")
        content_kinds = ("file", "dir", "symlink")
        linked = {name: table[child][11][0] for name, child in listed if KINDS[table[child][0] >> 12] in content_kinds}
        need(dict(entries(blocks, inode[11][0])) == linked, f"{escaped(path)} is the same as attributes and as content")
        for name, child in listed:
            parents.setdefault(child, []).append((ino, name))
            left.append((path + b"/" + name, child))
    need(table[1][11][0] == commit["root"], "inode 1 is the root directory")
    for ino, inode in table.items():
        need(pairs(blocks, inode[10], "parents") == sorted(parents.get(ino, [])), f"inode {ino} knows its names")
    return [found[path] for path in sorted(found)]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        for shown in read(Blocks(sys.argv[1]), Cid.parse(sys.argv[2])):
            print(json.dumps(shown, ensure_ascii=True))
    except (Bad, ValueError, KeyError, IndexError, TypeError) as error:
        sys.exit(f"read_tree: {error if isinstance(error, Bad) else f'not as specified: {error!r}'}")


if __name__ == "__main__":
    main()
