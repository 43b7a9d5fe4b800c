#!/usr/bin/env python3
"""Makes spec/vectors/sealed-files.json after spec/sealed.md, sharing no code with MuxFS.

Needs the packages cryptography and blake3. Usage: tests/seal_vectors.py > spec/vectors/sealed-files.json
"""

import json
import struct

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

STEP = 65536


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def seal(key, salt, plain):
    about = b"muxfs sealed file 1: "
    check = blake3(about + b"check of the key" + salt, key=key).digest(length=16)
    header = b"MUXSEALF" + bytes([1]) + bytes(7) + salt + check + bytes(12)
    cipher = AESGCM(blake3(about + b"key of the segments" + salt, key=key).digest(length=32))
    segments = [plain[at : at + STEP] for at in range(0, len(plain), STEP)] or [b""]
    last = len(segments) - 1
    sealed = [
        cipher.encrypt(struct.pack("<IQ", index == last, index), segment, None)
        for index, segment in enumerate(segments)
    ]
    return header + struct.pack("<I", crc32c(header)) + b"".join(sealed)


files = []
for length in [0, 1, 100, STEP - 1, STEP, STEP + 1, 3 * STEP + 5]:
    key = bytes(range(32))
    salt = bytes((length * 3 + at) % 256 for at in range(16))
    sealed = seal(key, salt, bytes(at * 7 % 251 for at in range(length)))
    files.append(
        {
            "key": key.hex(),
            "salt": salt.hex(),
            "length": length,
            "begins": sealed[:160].hex(),
            "blake3": blake3(sealed).hexdigest(),
        }
    )
about = "Byte i of each plain file is 7 * i mod 251; begins: the first 160 bytes of the sealed one; blake3: of all of it."
print(json.dumps({"about": about, "files": files}, indent=1))
