"""Unpacking what a kernel is compressed with, piece by piece: nobody's data decides how much memory that takes.

Formats: those of Linux' scripts/Makefile.lib, and as files of their own. lz4 is its legacy format, which the lz4 package only
has blocks of. GDB's Python has no zstandard as a rule, while kernels are packed with zstd as a rule: there the program zstd does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn, Protocol

from pvhdbg.errors import BadInput
from pvhdbg.layout import Buffer

UNPACKED_BOUND = 1 << 30  # bytes: the largest debug kernels have about 600 MB
_RATIO_BOUND = 256  # to one: kernels, debug information included, pack to a third or a tenth
_SMALL = 16 << 20  # bytes that anything may unpack to
_CHUNK = 1 << 20
_LZ4_BLOCK = 8 << 20  # block size of lz4's legacy format
_LZ4_BLOCKS_BOUND = 4096  # a kernel of 1 GiB has 128
_MEMORY_BOUND = 1 << 28  # bytes that a decoder may take: kernels are packed with dictionaries of up to 128 MiB
_ZSTD_CHUNK = 512
_ZSTD_WINDOW_BOUND = 1 << 27  # as in the kernel's own decoder

# What a payload begins with, its name, and what unpacks it.
_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


def compression(head: bytes) -> str | None:
    """The name of the compression that data with this beginning has; None for another."""
    return next((name for magic, name in _FORMATS if head.startswith(magic)), None)


def unpack(payload: Buffer, path: str) -> Iterator[bytes]:
    """What is packed in `payload` (or `payload` itself where it is not), in pieces of bounded size.

    Raises BadInput, for which `path` is named, for damage and for what unpacks to more than any kernel does; OSError for no room.
    """
    kind = compression(bytes(payload[:8]))
    bound = min(UNPACKED_BOUND, len(payload) * _RATIO_BOUND + _SMALL)
    size = 0
    try:
        for piece in _UNPACKERS.get(kind or "", _pieces)(payload):
            size += len(piece)
            if size > bound:
                raise BadInput(f"{path} unpacks to more than {bound >> 20} MiB", "this is no kernel")
            yield piece
    except BadInput:
        raise
    except Exception as error:  # zlib.error, LZMAError, ZstdError and LZ4BlockError share no base class
        if isinstance(error, OSError) and error.errno is not None:  # the system's; bz2's own has no number
            raise
        todo = "it is damaged or truncated: fetch it again"
        if isinstance(error, ImportError):
            todo = f"unpack it before, by pvhdbg extract, or give this Python the module {'zstandard, or install zstd' if kind == 'zstd' else 'lz4'}"
        raise BadInput(f"the {kind} data in {path} cannot be unpacked: {error}", todo) from error


def _pieces(payload: Buffer) -> Iterator[bytes]:
    for start in range(0, len(payload), _CHUNK):
        yield bytes(payload[start : start + _CHUNK])


def _truncated() -> NoReturn:
    raise EOFError("the data ends too early")


def _gunzip(payload: Buffer) -> Iterator[bytes]:
    import zlib

    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    at, rest = 0, b""
    while not inflater.eof:
        if not rest:
            rest = bytes(payload[at : at + _CHUNK])
            at += _CHUNK
            if not rest:
                _truncated()
        yield inflater.decompress(rest, _CHUNK)
        rest = inflater.unconsumed_tail


class _Decoder(Protocol):
    """What lzma's and bz2's decompressors have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _fed(decoder: _Decoder, payload: Buffer) -> Iterator[bytes]:
    """One stream, piece by piece in and out. What follows it (a bzImage appends the size in 4 bytes) is left alone."""
    at = 0
    while not decoder.eof:
        piece = b""
        if decoder.needs_input:
            piece = bytes(payload[at : at + _CHUNK])
            at += _CHUNK
            if not piece:
                _truncated()
        yield decoder.decompress(piece, _CHUNK)


def _unxz(payload: Buffer) -> Iterator[bytes]:
    import lzma

    return _fed(lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_MEMORY_BOUND), payload)


def _unbzip2(payload: Buffer) -> Iterator[bytes]:
    import bz2

    return _fed(bz2.BZ2Decompressor(), payload)


def _unlz4(payload: Buffer) -> Iterator[bytes]:
    """lz4's legacy format: magic, then blocks of up to 8 MiB, each behind its compressed size."""
    import lz4.block

    at, count = 4, 0
    while at + 4 <= len(payload):
        size = int.from_bytes(bytes(payload[at : at + 4]), "little")
        at, count = at + 4, count + 1
        if count > _LZ4_BLOCKS_BOUND:
            raise ValueError(f"it has more than {_LZ4_BLOCKS_BOUND} blocks")
        if size == 0x184C2102:  # files may be concatenated
            continue
        if at + size > len(payload):
            if len(payload) - at == 0:
                return  # what was taken for a block's size is the unpacked size that the kernel's build appends
            _truncated()
        yield lz4.block.decompress(bytes(payload[at : at + size]), uncompressed_size=_LZ4_BLOCK)
        at += size


def _unzstd(payload: Buffer) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        yield from _unzstd_by_program(payload)
        return
    # Its output cannot be bounded, its input can: 4 bytes of a frame say at most 128 KiB.
    decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BOUND).decompressobj()
    for start in range(0, len(payload), _ZSTD_CHUNK):
        yield decoder.decompress(bytes(payload[start : start + _ZSTD_CHUNK]))
        if decoder.eof:
            return
    _truncated()


def _unzstd_by_program(payload: Buffer) -> Iterator[bytes]:
    """The same by the program zstd, whose own bound on a decoder's memory is 128 MiB. Raises ImportError where there is none."""
    import shutil

    program = shutil.which("zstd")
    if program is None:
        raise ImportError("neither the module zstandard nor the program zstd is there")
    import subprocess
    import tempfile

    with tempfile.TemporaryFile(prefix="pvhdbg-") as packed:  # a file, not a pipe: nobody has to write while we read
        for piece in _pieces(payload):
            packed.write(piece)
        packed.seek(0)
        words = [program, "-dcq", "-M128MB"]
        with subprocess.Popen(words, stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            size = 0
            try:
                while piece := child.stdout.read(_CHUNK) if child.stdout is not None else b"":
                    size += len(piece)
                    yield piece
                status = child.wait()
            finally:
                child.kill()  # nothing where it has ended
    # It calls the size that a bzImage appends in 4 bytes an error, after the whole of what was packed.
    if status and int.from_bytes(bytes(payload[-4:]), "little") != size:
        _truncated()


_UNPACKERS: dict[str, Callable[[Buffer], Iterator[bytes]]] = {
    "gzip": _gunzip,
    "xz": _unxz,
    "lzma": _unxz,
    "bzip2": _unbzip2,
    "lz4": _unlz4,
    "zstd": _unzstd,
}
