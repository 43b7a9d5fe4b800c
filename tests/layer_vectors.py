#!/usr/bin/env python3
"""Makes spec/vectors/layers.json after spec/layers.md, sharing no code with MuxFS.

Needs the packages cryptography and blake3, and the library snappy (Debian: libsnappy1v5).
Usage: tests/layer_vectors.py > spec/vectors/layers.json
"""

import ctypes
import ctypes.util
import hashlib
import json
import struct

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV

ROOT = bytes(range(32))


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def derive(key, context, length):
    return blake3(context, key=key).digest(length=length)


def padded(length):
    if length == 0:
        return 0
    exponent = length.bit_length() - 1
    unit = 1 << max(0, exponent - exponent.bit_length())
    length = -(-length // unit) * unit
    return -(-length // 64) * 64


def encrypt(key, block):
    about = b"muxfs encrypted blocks 1: "
    name = AESSIV(derive(ROOT, about + b"key of the names", 64)).encrypt(key, None)
    keys = derive(ROOT, about + b"keys of the block " + key, 96)
    nonce = derive(keys[64:], block, 12)
    header = b"MUXCRYPT" + bytes([1]) + bytes(7) + derive(ROOT, about + b"id of the root key", 16) + nonce
    header += struct.pack("<I", crc32c(header))
    front = struct.pack("<I", len(block)) + bytes(12) + block[:32].ljust(32, b"\0")
    rest = block[32:].ljust(padded(max(0, len(block) - 32)), b"\0")
    front = AESGCM(keys[:32]).encrypt(nonce, front, name)
    rest = AESGCM(keys[32:64]).encrypt(nonce, rest, name)
    return name, header + front[-16:] + rest[-16:] + front[:-16] + rest[:-16]


def snappy(block):
    library = ctypes.CDLL(ctypes.util.find_library("snappy") or "libsnappy.so.1")
    library.snappy_max_compressed_length.restype = ctypes.c_size_t
    length = ctypes.c_size_t(library.snappy_max_compressed_length(ctypes.c_size_t(len(block))))
    compressed = ctypes.create_string_buffer(length.value)
    assert library.snappy_compress(block, ctypes.c_size_t(len(block)), compressed, ctypes.byref(length)) == 0
    return compressed.raw[: length.value]


def compress(block):
    compressed = snappy(block)
    method, body = (1, compressed) if len(compressed) < len(block) else (0, block)
    header = b"MUXZ" + bytes([1, method, 0, 0]) + struct.pack("<I", len(block))
    return header + struct.pack("<I", crc32c(header)) + body


def multihash(block):
    return b"\x12\x20" + hashlib.sha256(block).digest()


def noise(length):
    return blake3(b"noise").digest(length=length)


assert crc32c(b"123456789") == 0xE3069283
blocks = [b"", b"x", noise(32), noise(33), noise(96), noise(97), noise(300)]
text = b"the quick brown fox jumps over the lazy dog. " * 20
encrypted = [(multihash(block), block) for block in blocks] + [(b"k", text), (bytes(239), b"a long key")]
print(json.dumps({
    "about": "Blocks, and what the layers make of them. Made by tests/layer_vectors.py after spec/layers.md, with the packages"
    " cryptography (AES-256-GCM, AES-SIV) and blake3, and the library snappy. Another snappy may compress otherwise:"
    " what is compressed is to be read, and made the same where it is stored.",
    "key": ROOT.hex(),
    "encrypt": [
        {"key": key.hex(), "block": block.hex(), "name": name.hex(), "stored": stored.hex()}
        for key, block in encrypted for name, stored in [encrypt(key, block)]
    ],
    "compress": [{"block": block.hex(), "frame": compress(block).hex()} for block in blocks + [text, bytes(5000)]],
    "compress over encrypt": [
        {"key": key.hex(), "block": block.hex(), "name": name.hex(), "stored": stored.hex()}
        for block in [noise(300), text] for key in [multihash(block)] for name, stored in [encrypt(key, compress(block))]
    ],
}, indent=1))
