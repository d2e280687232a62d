"""What a kernel is packed with: bzImages and every compression, down to the ELF inside."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
from collections.abc import Iterator

import lz4.block
import zstandard

from fuzz.target import Form, Output, Target
from pvhdbg.kernel.image import open_kernel
from tests.support.elf_writer import build_elf

_ELF = build_elf(code=b"\xeb\xfe" + bytes(range(256)) * 8)


def _run(data: bytes) -> Iterator[Output]:
    descriptor = os.memfd_create("kernel")
    try:
        os.write(descriptor, data)
        with open_kernel(f"/proc/self/fd/{descriptor}") as image:
            yield Output(Form.TEXT, image.was)
    finally:
        os.close(descriptor)


def _bzimage(payload: bytes) -> bytes:
    setup = bytearray(3 * 512)
    setup[0x1F1] = 2
    setup[0x202:0x206] = b"HdrS"
    setup[0x206:0x208] = struct.pack("<H", 0x20F)
    payload += struct.pack("<I", len(_ELF))
    setup[0x248:0x250] = struct.pack("<II", 0x40, len(payload))
    return bytes(setup) + bytes(0x40) + payload


def _seeds() -> Iterator[bytes]:
    block = lz4.block.compress(_ELF, store_size=False)
    for packed in (
        gzip.compress(_ELF),
        lzma.compress(_ELF, check=lzma.CHECK_CRC32),
        lzma.compress(_ELF, lzma.FORMAT_ALONE),
        bz2.compress(_ELF),
        b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block,
        zstandard.ZstdCompressor().compress(_ELF),
    ):
        yield packed
        yield _bzimage(packed)


TARGET = Target(_run, _seeds, (b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh", b"\x5d\0\0", b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd", b"HdrS"))
