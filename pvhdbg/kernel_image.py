"""Opening what a user hands over as a kernel: an ELF, a bzImage that holds one, or a compressed ELF.

Only regular files are opened, without blocking; what is unpacked is bounded; and where QEMU needs a file, the unpacked ELF
lies in a private folder that goes away with the image. bzImage: Linux Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from pvhdbg.decode import elf as elf_format
from pvhdbg.errors import BadInput, NotBootable, PvhdbgError
from pvhdbg.model import Kernel

if TYPE_CHECKING:
    from pvhdbg.symbols import Symbols

UNPACKED_BOUND = 1 << 30  # bytes: the largest debug kernels have about 600 MB
_CHUNK = 1 << 20
_HDRS = b"HdrS"
_PAYLOAD_SINCE = 0x0208  # boot protocol 2.08 has payload_offset and payload_length
_LZ4_BLOCK = 8 << 20  # block size of lz4's legacy format
_SAMPLE = 256

# What a payload begins with, its name, and what unpacks it.
_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


class KernelImage:
    """An opened kernel. `was` says what the file is: "ELF", "bzImage (lz4)", "gzip"…"""

    def __init__(self, path: str, data: elf_format.Buffer, was: str, mapped: mmap.mmap | None) -> None:
        self.path = path
        self.was = was
        self.data = data
        self.elf = elf_format.parse(data)
        self._mapped = mapped
        self._folder: str | None = None

    def __enter__(self) -> KernelImage:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def elf_path(self) -> str:
        """A file that QEMU can load: the one that was opened, or its ELF in a private folder until `close`."""
        if self.was == "ELF":
            return self.path
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="pvhdbg-")
            with open(os.path.join(self._folder, "vmlinux"), "wb") as file:
                file.write(self.data)
        return os.path.join(self._folder, "vmlinux")

    def kernel(self) -> Kernel:
        """What the rules need to know of it."""
        return elf_format.describe(self.elf, os.path.abspath(self.path), len(self.data))

    def with_hash(self) -> Kernel:
        """The same with the SHA-256 of the file's ELF."""
        import hashlib

        return replace(self.kernel(), sha256=hashlib.sha256(self.data).hexdigest())

    def not_bootable(self) -> NotBootable:
        """Why it has no PVH entry, as an error to raise."""
        return elf_format.why_not(self.elf)

    def symbols(self) -> Symbols:
        """Its symbol table."""
        from pvhdbg.symbols import Symbols

        return Symbols(self.data, self.elf)

    def is_loaded(self, read: Callable[[int, int], bytes]) -> bool:
        """Whether guest memory holds this kernel: the beginning and end of each segment, and the notes, are compared."""
        for load in self.elf.loads:
            for offset in {0, max(load.p_filesz - _SAMPLE, 0)}:
                size = min(_SAMPLE, load.p_filesz - offset)
                if size > 0 and not self._same(read, load.p_paddr + offset, load.p_offset + offset, size):
                    return False
        return True

    def _same(self, read: Callable[[int, int], bytes], address: int, offset: int, size: int) -> bool:
        try:
            return read(address, size) == bytes(self.data[offset : offset + size])
        except PvhdbgError:
            return False

    def close(self) -> None:
        """Let go of the file and remove what was unpacked. Safe to call twice."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if isinstance(self.data, memoryview):
            self.data.release()
        if self._mapped is not None:
            self._mapped.close()
            self._mapped = None


def open_kernel(path: str) -> KernelImage:
    """Open a kernel file. Raises BadInput with the next step for whatever is not one."""
    mapped = _mapped(path)
    view = memoryview(mapped)
    try:
        was, payload = _payload(view, path)
        if payload is None:
            return KernelImage(path, view, was, mapped)
        data = _unpacked(payload, path)
        payload.release()
        image = KernelImage(path, data, was, None)
    except BaseException as error:
        error.__traceback__ = None  # its frames hold slices of the mapping, which then could not be closed
        view.release()
        _close(mapped)
        raise
    view.release()
    _close(mapped)
    return image


def extract(path: str, output: str) -> str:
    """Write the ELF inside `path` to `output`, whole or not at all; returns what `path` is.

    Raises BadInput; `output` is never the input. A link, a FIFO or a device is written to, never replaced.
    """
    if os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
        raise BadInput(f"{output} is the image itself", "choose another -o")
    with open_kernel(path) as image:
        try:
            if os.path.islink(output) or (os.path.exists(output) and not os.path.isfile(output)):
                with open(output, "wb") as file:
                    file.write(image.data)
            else:
                _write_whole(image.data, output)
        except OSError as error:
            raise BadInput(f"{output} cannot be written: {error.strerror}", "make room, or choose another -o") from error
        return image.was


def _write_whole(data: elf_format.Buffer, output: str) -> None:
    descriptor, partial = tempfile.mkstemp(prefix=".pvhdbg-", dir=os.path.dirname(output) or ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(partial, 0o644)
        os.replace(partial, output)
    except BaseException:
        _unlink(partial)
        raise


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # it was already renamed, or the folder is gone
        pass


def _close(mapped: mmap.mmap) -> None:
    try:
        mapped.close()
    except BufferError:  # an exception in flight still holds a view; the mapping goes with it
        pass


def _mapped(path: str) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BadInput(f"there is no file {path}", "check the path; Debian keeps kernels in /boot") from None
    except PermissionError:
        todo = f"kernels in /boot may be readable by root only: sudo cp {path} . && sudo chown $USER {os.path.basename(path)}"
        raise BadInput(f"{path} cannot be read: permission denied", todo) from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be opened: {error}", "give a regular file") from error
    try:
        about = os.fstat(descriptor)
        if stat.S_ISDIR(about.st_mode):
            raise BadInput(f"{path} is a directory", "give the kernel file in it")
        if not stat.S_ISREG(about.st_mode):
            raise BadInput(f"{path} is not a regular file", "copy it to a file first")
        if about.st_size == 0:
            raise BadInput(f"{path} is empty", "fetch or build it again")
        return mmap.mmap(descriptor, 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", "copy it to a local file first") from error
    finally:
        os.close(descriptor)


def _payload(view: memoryview, path: str) -> tuple[str, memoryview | None]:
    """What the file is, and its compressed payload; None when the file is the ELF itself."""
    head = bytes(view[:0x260])
    if head[:4] == b"\x7fELF":
        return "ELF", None
    if head[0x202:0x206] == _HDRS:
        return _bzimage(view, head, path)
    kind = _compression(head)
    if kind is not None:
        return kind, view[:]
    raise _foreign(head, path)


def _compression(head: bytes) -> str | None:
    return next((name for magic, name in _FORMATS if head.startswith(magic)), None)


def _bzimage(view: memoryview, head: bytes, path: str) -> tuple[str, memoryview]:
    version = int.from_bytes(head[0x206:0x208], "little")
    if version < _PAYLOAD_SINCE:
        raise BadInput(
            f"{path} is a bzImage of boot protocol {version >> 8}.{version & 0xFF:02d}, which does not say where its kernel is",
            "give the vmlinux of that build",
        )
    sectors = head[0x1F1] or 4
    start = (sectors + 1) * 512 + int.from_bytes(head[0x248:0x24C], "little")
    length = int.from_bytes(head[0x24C:0x250], "little")
    if start + length > len(view) or not length:
        raise BadInput(f"{path} is a bzImage whose payload ends at {start + length:#x}, but the file has {len(view):#x} bytes",
                       "it is truncated: fetch it again")  # fmt: skip
    payload = view[start : start + length]
    if bytes(payload[:4]) == b"\x7fELF":
        return "bzImage (uncompressed)", payload
    kind = _compression(bytes(payload[:8]))
    if kind is None:
        first = bytes(payload[:8]).hex()
        payload.release()
        raise BadInput(f"the payload of the bzImage {path} is in an unknown format ({first})", "give the vmlinux of that build")
    return f"bzImage ({kind})", payload


def _foreign(head: bytes, path: str) -> BadInput:
    names = ((b"MZ", "an EFI application without a Linux kernel in it"), (b"#!", "a script"), (b"!<arch>", "an archive"),
             (b"070701", "a cpio archive (an initrd?)"), (b"{", "a text or JSON file"))  # fmt: skip
    kind = next(
        (name for magic, name in names if head.startswith(magic)), f"an unknown kind of file (it begins with {head[:4].hex()})"
    )
    return BadInput(
        f"{path} is not an ELF, and no bzImage either: it is {kind}", "give an uncompressed kernel (vmlinux) or a bzImage"
    )


# --- unpacking ----------------------------------------------------------------------------------------------------


def _unpacked(payload: memoryview, path: str) -> bytes:
    head = bytes(payload[:8])
    kind = _compression(head)
    if kind is None:
        return bytes(payload)
    try:
        data = _joined(_UNPACKERS[kind](payload), path)
    except BadInput:
        raise
    except (OSError, ValueError, EOFError, ArithmeticError, RuntimeError, ImportError) as error:
        raise BadInput(
            f"the {kind} data in {path} cannot be unpacked: {error}", "it is damaged or truncated: fetch it again"
        ) from error
    except Exception as error:  # zlib.error, LZMAError, ZstdError and LZ4BlockError share no base class
        raise BadInput(
            f"the {kind} data in {path} cannot be unpacked: {error}", "it is damaged or truncated: fetch it again"
        ) from error
    if data[:4] != b"\x7fELF":
        raise BadInput(f"inside the {kind} data of {path} there is no ELF: it begins with {data[:4].hex()}", "give a kernel image")
    return data


def _joined(chunks: Iterator[bytes], path: str) -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > UNPACKED_BOUND:
            raise BadInput(f"{path} unpacks to more than {UNPACKED_BOUND >> 20} MiB", "this is no kernel")
    return bytes(data)


def _truncated() -> NoReturn:
    raise EOFError("the data ends too early")


def _gunzip(payload: memoryview) -> Iterator[bytes]:
    import zlib

    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    rest: bytes = bytes(payload)
    while not inflater.eof:
        chunk = inflater.decompress(rest, _CHUNK)
        rest = inflater.unconsumed_tail
        if not chunk and not rest and not inflater.eof:
            _truncated()
        yield chunk


def _unxz(payload: memoryview) -> Iterator[bytes]:
    import lzma

    # A kernel's payload is followed by its size in 4 bytes, which belong to no stream: one stream is read.
    decoder = lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=1 << 30)
    rest: bytes = bytes(payload)
    while not decoder.eof:
        chunk = decoder.decompress(rest, _CHUNK)
        rest = b""
        if not chunk and decoder.needs_input and not decoder.eof:
            _truncated()
        yield chunk


def _unbzip2(payload: memoryview) -> Iterator[bytes]:
    import bz2

    decoder = bz2.BZ2Decompressor()
    rest: bytes = bytes(payload)
    while not decoder.eof:
        chunk = decoder.decompress(rest, _CHUNK)
        rest = b""
        if not chunk and decoder.needs_input and not decoder.eof:
            _truncated()
        yield chunk


def _unlz4(payload: memoryview) -> Iterator[bytes]:
    """lz4's legacy format: magic, then blocks of up to 8 MiB, each behind its compressed size."""
    import lz4.block

    at = 4
    while at + 4 <= len(payload):
        size = int.from_bytes(payload[at : at + 4], "little")
        at += 4
        if size == 0x184C2102:  # files may be concatenated
            continue
        if at + size > len(payload):
            if len(payload) - at == 0:
                return  # what was taken for a block's size is the unpacked size that the kernel's build appends
            _truncated()
        yield lz4.block.decompress(bytes(payload[at : at + size]), uncompressed_size=_LZ4_BLOCK)
        at += size


def _unzstd(payload: memoryview) -> Iterator[bytes]:
    import zstandard

    decoder = zstandard.ZstdDecompressor(max_window_size=1 << 30).decompressobj()
    data = bytes(payload)
    for start in range(0, len(data), _CHUNK >> 3):
        yield decoder.decompress(data[start : start + (_CHUNK >> 3)])
        if decoder.eof:
            return
    _truncated()


_UNPACKERS: dict[str, Callable[[memoryview], Iterator[bytes]]] = {
    "gzip": _gunzip,
    "xz": _unxz,
    "lzma": _unxz,
    "bzip2": _unbzip2,
    "lz4": _unlz4,
    "zstd": _unzstd,
}
