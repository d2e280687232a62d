"""Unpack a compressed kernel piece by piece: the input cannot decide how much memory that takes.

Formats: those of Linux' scripts/Makefile.lib, inside a bzImage or as files. lz4 is the legacy format, of which the lz4 package
only decodes blocks. Most kernels are compressed with zstd, and GDB's Python mostly lacks zstandard: there the program zstd is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn, Protocol

from pvhdbg.errors import BadInput
from pvhdbg.layout import Buffer

UNPACKED_BOUND = 1 << 30  # bytes: the largest debug kernels have about 600 MB
_RATIO_BOUND = 256  # to one: kernels, with debug information too, shrink to between a third and a tenth
_SMALL = 16 << 20  # bytes that any input may unpack to
_CHUNK = 1 << 20
_LZ4_BLOCK = 8 << 20  # block size of lz4's legacy format
_LZ4_BLOCKS_BOUND = 4096  # a kernel of 1 GiB has 128
_MEMORY_BOUND = 1 << 28  # bytes that a decoder may use: kernels are compressed with dictionaries of up to 128 MiB
_ZSTD_CHUNK = 512
_ZSTD_WINDOW_BOUND = 1 << 27  # as in the kernel's own decoder

# The beginning of a payload, the name of its compression, and its decompressor.
_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


def compression(head: bytes) -> str | None:
    """The name of the compression of data with this beginning; None for an unknown one."""
    return next((name for magic, name in _FORMATS if head.startswith(magic)), None)


def unpack(payload: Buffer, path: str) -> Iterator[bytes]:
    """The unpacked content of `payload` (or `payload` itself if it is not compressed), in pieces of bounded size.

    Raises BadInput that names `path`, for damage and for content larger than any kernel; OSError if there is no room.
    """
    kind = compression(bytes(payload[:8]))
    bound = min(UNPACKED_BOUND, len(payload) * _RATIO_BOUND + _SMALL)
    size = 0
    try:
        for piece in _UNPACKERS.get(kind or "", _pieces)(payload):
            size += len(piece)
            if size > bound:
                raise BadInput(f"{path} unpacks to more than {bound >> 20} MiB", "this is not a kernel")
            yield piece
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # zlib.error, LZMAError, ZstdError and LZ4BlockError share no base class
        if isinstance(error, OSError) and error.errno is not None:  # the system's; bz2's own has no number
            raise
        todo = "it is damaged or truncated: fetch it again"
        if isinstance(error, ImportError):
            todo = f"unpack it first with pvhdbg extract, or install for this Python the module {'zstandard, or install zstd' if kind == 'zstd' else 'lz4'}"
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
    """The common interface of lzma's and bz2's decompressors."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _fed(decoder: _Decoder, payload: Buffer) -> Iterator[bytes]:
    """One stream, piece by piece in and out. Data after it is ignored (a bzImage appends the size in 4 bytes)."""
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
    """lz4's legacy format: magic, then blocks of up to 8 MiB, each after its compressed size."""
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
                return  # not a block's size, but the unpacked size that the kernel's build appends
            _truncated()
        yield lz4.block.decompress(bytes(payload[at : at + size]), uncompressed_size=_LZ4_BLOCK)
        at += size


def _unzstd(payload: Buffer) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        yield from _unzstd_by_program(payload)
        return
    # The decoder bounds only its input, not its output: 4 bytes of a frame give at most 128 KiB.
    decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BOUND).decompressobj()
    for start in range(0, len(payload), _ZSTD_CHUNK):
        yield decoder.decompress(bytes(payload[start : start + _ZSTD_CHUNK]))
        if decoder.eof:
            return
    _truncated()


def _unzstd_by_program(payload: Buffer) -> Iterator[bytes]:
    """Unpack with the program zstd, which limits a decoder's memory to 128 MiB. Raises ImportError if it is not installed."""
    import shutil

    program = shutil.which("zstd")
    if program is None:
        raise ImportError("neither the module zstandard nor the program zstd is installed")
    import subprocess
    import tempfile

    with tempfile.TemporaryFile(prefix="pvhdbg-") as packed:  # a file, not a pipe, so that no thread must write while we read
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
                child.kill()  # no effect if it has ended
    # zstd reports the 4-byte size that a bzImage appends as an error, after it has unpacked everything.
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
