#!/usr/bin/env python3
"""Makes spec/vectors/erasure.json from spec/erasure.md alone.

    erasure_vectors.py > spec/vectors/erasure.json

It shares nothing with the program but the specification: the field, the matrices, BLAKE3 and CRC-32C are written out
here, slowly and plainly. Every stripe is put together again from its last k shards before it is printed.
"""

import json
import struct

# ---- GF(2^8) with the polynomial 0x11d


def times(a, b):
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= 0x11D
        b >>= 1
    return product


PRODUCT = [[times(a, b) for b in range(256)] for a in range(256)]
INVERSE = [0] + [next(b for b in range(1, 256) if PRODUCT[a][b] == 1) for a in range(1, 256)]


def power(base, exponent):
    result = 1
    for _ in range(exponent):
        result = PRODUCT[result][base]
    return result


def dot(row, column):
    total = 0
    for a, b in zip(row, column):
        total ^= PRODUCT[a][b]
    return total


def multiply(left, right):
    columns = list(zip(*right))
    return [[dot(row, column) for column in columns] for row in left]


def invert(matrix):
    size = len(matrix)
    rows = [list(row) + [int(r == c) for c in range(size)] for r, row in enumerate(matrix)]
    for at in range(size):
        pivot = next(r for r in range(at, size) if rows[r][at])
        rows[at], rows[pivot] = rows[pivot], rows[at]
        scale = INVERSE[rows[at][at]]
        rows[at] = [PRODUCT[scale][x] for x in rows[at]]
        for r in range(size):
            if r != at and rows[r][at]:
                factor = rows[r][at]
                rows[r] = [x ^ PRODUCT[factor][y] for x, y in zip(rows[r], rows[at])]
    return [row[size:] for row in rows]


def code_matrix(k, m):
    vandermonde = [[power(r, c) for c in range(k)] for r in range(k + m)]
    return multiply(vandermonde, invert(vandermonde[:k]))


# ---- CRC-32C


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# ---- BLAKE3

IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
ORDER = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED = 1, 2, 4, 8, 16
MASK = 0xFFFFFFFF


def turn(word, by):
    return (word >> by | word << (32 - by)) & MASK


def compress(chaining, block, counter, length, flags):
    words = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    state = list(chaining) + IV[:4] + [counter & MASK, counter >> 32, length, flags]

    def mix(a, b, c, d, x, y):
        state[a] = (state[a] + state[b] + x) & MASK
        state[d] = turn(state[d] ^ state[a], 16)
        state[c] = (state[c] + state[d]) & MASK
        state[b] = turn(state[b] ^ state[c], 12)
        state[a] = (state[a] + state[b] + y) & MASK
        state[d] = turn(state[d] ^ state[a], 8)
        state[c] = (state[c] + state[d]) & MASK
        state[b] = turn(state[b] ^ state[c], 7)

    for _ in range(7):
        for column in range(4):
            mix(column, 4 + column, 8 + column, 12 + column, words[2 * column], words[2 * column + 1])
        for n in range(4):
            a, b, c, d = n, 4 + (n + 1) % 4, 8 + (n + 2) % 4, 12 + (n + 3) % 4
            mix(a, b, c, d, words[8 + 2 * n], words[9 + 2 * n])
        words = [words[at] for at in ORDER]
    return [state[n] ^ state[n + 8] for n in range(8)]


def blake3(data, key=None):
    flags = KEYED if key else 0
    start = list(struct.unpack("<8I", key)) if key else IV

    def tree(data, counter, root):
        if len(data) > 1024:
            left = 1024
            while left * 2 < len(data):
                left *= 2
            both = tree(data[:left], counter, 0) + tree(data[left:], counter + left // 1024, 0)
            return compress(start, struct.pack("<16I", *both), 0, 64, flags | PARENT | root)
        chaining = start
        blocks = [data[at : at + 64] for at in range(0, len(data), 64)] or [b""]
        for n, block in enumerate(blocks):
            first = CHUNK_START if n == 0 else 0
            last = CHUNK_END | root if n == len(blocks) - 1 else 0
            chaining = compress(chaining, block, counter, len(block), flags | first | last)
        return chaining

    return struct.pack("<8I", *tree(data, 0, ROOT))


# ---- shards and places


def shards(block, k, m):
    length = -(-len(block) // k)
    padded = block.ljust(k * length, b"\0")
    data = [padded[n * length : (n + 1) * length] for n in range(k)]
    matrix = code_matrix(k, m)
    columns = list(zip(*data))
    coded = [bytes(dot(row, column) for column in columns) for row in matrix]
    assert coded[:k] == data

    # The last k give it back.
    if length:
        back = multiply(invert(matrix[m:]), [list(shard) for shard in coded[m:]])
        assert b"".join(map(bytes, back))[: len(block)] == block

    stripe_id = blake3(block + bytes([k, m]))[:16]
    made = []
    for index, shard in enumerate(coded):
        head = b"muxshard" + bytes([1, k, m, index]) + bytes(4) + stripe_id
        head += struct.pack("<III", len(block), length, crc32c(shard))
        made.append(head + struct.pack("<I", crc32c(head)) + shard)
    return made


def order(nodes, key, shards_max):
    def score(name):
        return int.from_bytes(blake3(key, blake3(name.encode()))[:8], "little")

    taken, first, last = {}, [], []
    for name, group in sorted(nodes, key=lambda node: -score(node[0])):
        if group is not None and taken.get(group, 0) == shards_max:
            last.append(name)
        else:
            taken[group] = taken.get(group, 0) + 1
            first.append(name)
    return first + last


def main():
    # Of the published vectors: the hash of nothing, and of 0, 1, 2, ... to 250 over and over.
    assert blake3(b"").hex().startswith("af1349b9f5f9a1a6a0404dea36dcc949")
    assert crc32c(b"123456789") == 0xE3069283

    text = b"any k of the k + m shards of a block give it back"
    cycle = bytes(n % 251 for n in range(5000))
    stripes = []
    for k, m, block in [
        (1, 0, text),
        (1, 2, text),
        (2, 2, text),
        (4, 2, text),
        (4, 2, b""),
        (4, 2, b"x"),
        (3, 1, cycle),
        (10, 4, cycle[:1000]),
        (10, 5, text),
        (16, 4, cycle[:1024]),
    ]:
        made = shards(block, k, m)
        stripes.append({"k": k, "m": m, "block": block.hex(), "shards": [shard.hex() for shard in made]})

    places = []
    plain = [(f"node {n}", None) for n in range(9)]
    grouped = [(f"node {n}", f"site {n % 4}") for n in range(9)] + [("alone", None)]
    for nodes in [plain, grouped]:
        for key in [b"a", b"\x12\x20" + bytes(range(32)), b"\xff" * 254]:
            places.append(
                {
                    "nodes": [{"name": name, "group": group} for name, group in nodes],
                    "key": key.hex(),
                    "k": 4,
                    "m": 2,
                    "order": order(nodes, key, 2)[:6],
                }
            )

    about = (
        "Blocks with the shards they are cut into, header and data, in hex; and the nodes on which the shards of a key "
        "belong, in the order of their index. Made by tests/erasure_vectors.py after spec/erasure.md."
    )
    print(json.dumps({"about": about, "stripes": stripes, "places": places}, indent=1))


if __name__ == "__main__":
    main()
