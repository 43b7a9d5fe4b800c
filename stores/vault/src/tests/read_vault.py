#!/usr/bin/env python3
"""Reads a vault of MuxFS, from spec/vault.md alone, and shares nothing with the program but that.

    read_vault.py VAULT PASSWORD

VAULT is JSON: {"head": base64, "objects": {name in base16: base64}}. Every tag and every rule of the formats is checked; each
block is printed as a line, its key and its SHA-256 in base16, in the order of the keys. Covers need not be there.

Needs the package cryptography, 44 or newer. Reads AES-256-GCM, and pieces that are stored or in LZ4.
"""

import base64
import hashlib
import json
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class Bad(Exception):
    """Something is not as the specification says."""


def need(condition, why):
    if not condition:
        raise Bad(why)


def derive(key, info, length=32):
    return HKDF(SHA256(), length, b"muxfs vault 1", info).derive(key)


def opened(key, place, sealed, tag, bound_to=b""):
    nonce = place.to_bytes(4, "little") + bytes(8)
    try:
        return AESGCM(key).decrypt(nonce, sealed + tag, bound_to)
    except InvalidTag:
        raise Bad("a tag does not fit") from None


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        need(self.at + length <= len(self.data), "it is cut off")
        self.at += length
        return self.data[self.at - length : self.at]

    def byte(self):
        return self.take(1)[0]

    def number(self):
        number = shift = 0
        while True:
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                need(shift == 0 or byte > 0, "a number is not in its shortest form")
                need(number < 1 << 64, "a number is too high")
                return number
            shift += 7

    def numbers(self):
        found, end = [], 0
        for n in range(self.number()):
            first = end + self.number()
            need(n == 0 or first > end + 1, "ranges touch")
            end = first + self.number()
            found.extend(range(first, end + 1))
        return found

    def key(self):
        return self.take(self.byte())

    def rest(self):
        return self.data[self.at :]


def lz4(data, length):
    out, at = bytearray(), 0

    def more(count):
        nonlocal at
        if count == 15:
            while True:
                count += data[at]
                at += 1
                if data[at - 1] != 255:
                    break
        return count

    while at < len(data):
        token = data[at]
        at += 1
        literals = more(token >> 4)
        out += data[at : at + literals]
        at += literals
        if at >= len(data):
            break
        offset = data[at] | data[at + 1] << 8
        at += 2
        need(0 < offset <= len(out), "LZ4 points before its beginning")
        for _ in range(more(token & 15) + 4):
            out.append(out[-offset])
    need(len(out) == length, "a piece does not expand to its length")
    return bytes(out)


def expand(how, kept, length):
    if how == 0:
        need(len(kept) == length, "a piece is not as long as it was")
        return kept
    need(how == 1, "this reader knows LZ4 alone")
    return lz4(kept, length)


def unlock(head, password):
    need(len(head) == 32768 and head[:12] == b"MUXVAULT\x01\xfe\x01" + head[11:12], "it is no head of AES-256-GCM")
    lanes, memory, passes = head[11], int.from_bytes(head[12:16], "little"), int.from_bytes(head[16:20], "little")
    need(head[20:32] == bytes(12), "what is to be zero is not")
    stretched = Argon2id(salt=head[32:64], length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(password)
    need(derive(stretched, b"check of the password") == head[64:96], "the password is wrong")
    master = opened(derive(stretched, b"key of the master key"), 0, head[96:128], head[128:144], head[:96])
    key = derive(derive(master, b"superblocks"), head[144:176])
    return master, opened(key, 0, head[192:], head[176:192], head[:144])


class Vault:
    def __init__(self, objects, head, password):
        self.objects = objects
        self.master, superblock = unlock(head, password)
        reader = Reader(superblock)
        need(reader.byte() == 1, "another version")
        reader.take(16)
        self.pack_len = 1 << reader.byte()
        reader.byte()
        reader.take(64)
        more = reader.byte()
        need(more < 2, "what is beside has other keys than there are")
        reader.take(32 * more)
        for _ in range(reader.number()):
            reader.take(16)
        older = reader.byte()
        need(older < 3, "the older key is of an unknown kind")
        self.older, self.older_through = (reader.take(32), reader.number()) if older else (None, -1)
        index_key = self.older if older == 2 else self.master
        self.epoch, self.through = reader.number(), reader.number()
        digest = reader.take(32)
        runs = [reader.take(24) for _ in range(reader.number())]
        numbers = reader.numbers()
        named = {number: reader.take(24) for number in numbers}
        retired = set(reader.numbers())
        for _ in range(reader.number()):
            reader.take(24)
        self.heads = {}
        for _ in range(reader.number()):
            name, epoch = reader.key(), reader.number()
            need(epoch <= self.epoch and name > max(self.heads, default=b""), "the heads are in no order")
            self.heads[name] = reader.take(reader.number())
        need(not any(reader.rest()), "something is behind the superblock")
        said = {number: self.directory(number, name) for number, name in named.items()}
        self.packs = dict(named)
        for last in runs:
            for number, name, items_end, directory in self.read_run(index_key, last):
                need(number <= self.through and (number in named or number not in self.packs), "a run has what another has")
                if number in retired or number in named:
                    continue
                self.packs[number] = name
                said[number] = items_end, Reader(directory)
                # What the index says is what the pack says.
                kept_end, kept = self.directory(number, name)
                if kept.byte():
                    kept.numbers()
                same = kept_end == items_end and directory[:1] == b"\0" and directory[1:] == kept.rest()
                need(same, "the index says something else than a pack")
        need(digest == self.digest(), "others count than the head says")
        need(self.through == 0 or self.through in named, "the last pack is not named")
        self.blocks, self.places = {}, {}
        for number in sorted(self.packs):
            self.follow(number, *said[number])
            if number == self.through:
                need(self.live in (None, sorted(self.packs)), "the last pack says that others count")

    def digest(self):
        names = sorted(self.packs.items())
        return hashlib.sha256(b"".join(number.to_bytes(8, "little") + name for number, name in names)).digest()

    def master_of(self, number):
        return self.older if number <= self.older_through else self.master

    def open_pack(self, master, name, kind):
        pack = self.objects.get(name)
        need(pack is not None and len(pack) == self.pack_len, "a pack is missing, or not as long as it should be")
        key = derive(derive(master, b"packs"), name)
        end = self.pack_len - 48
        trailer = Reader(opened(key, end, pack[end : end + 32], pack[end + 32 :]))
        need(trailer.take(4) == bytes([1, kind, 0, 0]), "a pack is of another kind")
        items_end, length = (int.from_bytes(trailer.take(4), "little") for _ in range(2))
        need(trailer.take(4) == bytes(4), "what is to be zero is not")
        number, epoch = (int.from_bytes(trailer.take(8), "little") for _ in range(2))
        need(epoch <= self.epoch, "a pack is newer than its superblock")
        at = end - 16 - length
        directory = opened(key, at, pack[at : at + length], pack[at + length : end])
        filler = opened(key, items_end, pack[items_end : at - 16], pack[at - 16 : at])
        need(not any(filler), "the filler is not empty")
        return key, pack, items_end, number, Reader(directory)

    def items(self, key, pack, items_end, lengths):
        at = 0
        for length in lengths:
            yield at, opened(key, at, pack[at : at + length], pack[at + length : at + length + 16])
            at += length + 16
        need(at == items_end, "items end elsewhere")

    def read_parts(self, master, name):
        key, pack, items_end, _, reader = self.open_pack(master, name, 2)
        parts = [(reader.byte(), reader.number(), reader.number()) for _ in range(reader.number())]
        before = [reader.take(24) for _ in range(reader.number())]
        need(not reader.rest(), "something is behind the directory")
        kept = self.items(key, pack, items_end, [part[1] for part in parts])
        return before, b"".join(expand(how, item, length) for (how, _, length), (_, item) in zip(parts, list(kept)))

    def read_run(self, master, last):
        parts, at = [], last
        while at:
            before, own = self.read_parts(master, at)
            group = []
            for name in before[1:]:
                more, part = self.read_parts(master, name)
                need(not more, "another pack than the first names more")
                group.append(part)
            parts[:0] = [*group, own]
            at = before[0] if before else None
        reader, entries = Reader(b"".join(parts)), []
        while reader.rest():
            number, name, items_end = reader.number(), reader.take(24), reader.number()
            need(not entries or number > entries[-1][0], "the packs of a run are in no order")
            entries.append((number, name, items_end, reader.take(reader.number())))
        return entries

    def directory(self, number, name):
        key, pack, items_end, said, reader = self.open_pack(self.master_of(number), name, 1)
        need(said == number, "a pack is in the place of another")
        # Each item is what its tag says, whether it counts or not.
        whole = Reader(reader.data)
        if whole.byte():
            whole.numbers()
        lengths = [(whole.take(17), whole.number(), whole.number())[1] for _ in range(whole.number())]
        need(len(list(self.items(key, pack, items_end, lengths))) == len(lengths), "an item is missing")
        return items_end, reader

    def follow(self, number, items_end, reader):
        self.live = reader.numbers() if reader.byte() else None
        ids, at = [], 0
        for _ in range(reader.number()):
            piece, how, kept, length = reader.take(16), reader.byte(), reader.number(), reader.number()
            ids.append(piece)
            self.places[piece] = (number, at, kept, how, length)
            at += kept + 16
        need(at == items_end, "items end elsewhere")
        for _ in range(reader.number()):
            what, block = reader.byte(), reader.key()
            if what == 1:
                length, pieces = reader.number(), []
                for _ in range(reader.number()):
                    n = reader.number()
                    need(n <= len(ids), "a block is made of no piece")
                    pieces.append(ids[n - 1] if n else reader.take(16))
                self.blocks[block] = (number, length, pieces)
            else:
                need(what == 2, "what became of a block is unknown")
                if self.blocks.get(block, (None,))[0] == reader.number():
                    del self.blocks[block]
        need(not reader.rest(), "something is behind the directory")

    def block(self, key):
        _, length, pieces = self.blocks[key]
        out = b""
        for piece in pieces:
            number, at, kept, how, piece_len = self.places[piece]
            name = self.packs[number]
            pack = self.objects[name]
            sealed, tag = pack[at : at + kept], pack[at + kept : at + kept + 16]
            out += expand(how, opened(derive(derive(self.master_of(number), b"packs"), name), at, sealed, tag), piece_len)
        need(len(out) == length, "a block is not as long as it was")
        return out


def main():
    with open(sys.argv[1], encoding="ascii") as file:
        given = json.load(file)
    objects = {bytes.fromhex(name): base64.b64decode(data) for name, data in given["objects"].items()}
    try:
        vault = Vault(objects, base64.b64decode(given["head"]), sys.argv[2].encode())
        lines = [f"{key.hex()} {hashlib.sha256(vault.block(key)).hexdigest()}" for key in sorted(vault.blocks)]
        lines += [f"head {name.hex()} {head.hex()}" for name, head in vault.heads.items()]
    except Bad as bad:
        sys.exit(f"refused: {bad}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
