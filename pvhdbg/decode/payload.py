"""The kind of a module by its first bytes: cpio, a compressed archive, an ELF, a file system."""

from __future__ import annotations

_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"070701", "cpio (newc)"),
    (0, b"070702", "cpio (newc, checksums)"),
    (0, b"070707", "cpio (odc)"),
    (0, b"\xc7\x71", "cpio (binary)"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"]\x00\x00", "lzma"),
    (0, b"BZh", "bzip2"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x02\x21\x4c\x18", "lz4 (legacy)"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"\x89LZO", "lzo"),
    (0, b"\x7fELF", "ELF"),
    (0, b"hsqs", "squashfs"),
    (0, b"-rom1fs-", "romfs"),
    (0, b"MZ", "PE"),
)
SNIFF = 16  # bytes that are enough to recognise the kind


def kind(data: bytes) -> str:
    """The kind of file that begins with `data`, or "unknown"."""
    for offset, magic, name in _MAGICS:
        if data[offset : offset + len(magic)] == magic:
            return name
    if data and not any(data):
        return "zeros"
    return "unknown"
