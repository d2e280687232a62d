"""Open the user's kernel file: an ELF, a bzImage that holds one, or a compressed ELF.

Only regular files are opened, without blocking, and the unpacked size is bounded. If QEMU needs a file, the unpacked ELF is
in a private folder that is removed with the image. bzImage: Linux Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import IO, TYPE_CHECKING

from pvhdbg.decode import elf as elf_format
from pvhdbg.decode.boot_headers import is_efi, linux_setup, payload_range
from pvhdbg.decode.container import HEAD_SIZE, Container
from pvhdbg.errors import BadInput, NotBootable, PvhdbgError
from pvhdbg.kernel.file_bytes import FileBytes, pieces
from pvhdbg.kernel.unpack import compression, unpack
from pvhdbg.kernel.whole_file import whole_file
from pvhdbg.model import Kernel
from pvhdbg.record import replace
from pvhdbg.spec.linux_boot import PAYLOAD_SINCE, SetupHeader

if TYPE_CHECKING:
    from pvhdbg.decode.kernel_file import KernelFile
    from pvhdbg.kernel.symbols import Symbols

_SAMPLE = 256


class KernelImage:
    """An opened kernel. `data` is its ELF, which may be compressed in the opened file, the `container`."""

    def __init__(
        self,
        path: str,
        data: elf_format.Buffer,
        container: Container,
        close: Callable[[], None],
        unnamed: int | None = None,
    ) -> None:
        """`unnamed` is the descriptor of a file with `data`, where that is not the file at `path`."""
        self.path = path
        self.container = container
        self.data = data
        self.elf = elf_format.parse(data)
        self._close = close
        self._unnamed = unnamed
        self._symbols: Symbols | None = None

    def __enter__(self) -> KernelImage:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def was(self) -> str:
        """The kind of the file: "ELF", "bzImage (lz4)", "gzip"…"""
        kind = self.container.compression
        if self.container.setup is not None:
            return f"bzImage ({kind})"
        return kind or "ELF"

    def file(self) -> KernelFile:
        """The decoded file for loaders and rules."""
        return self._survey(self.container)

    @property
    def elf_path(self) -> str:
        """A file that QEMU can load until `close`: the one that was opened, or its ELF, which has no name and goes with this process."""
        return self.path if self._unnamed is None else f"/proc/{os.getpid()}/fd/{self._unnamed}"

    def kernel(self) -> Kernel:
        """The kernel as a value for the machine rules."""
        return elf_format.describe(self.elf, os.path.abspath(self.path), len(self.data))

    def with_hash(self) -> Kernel:
        """Like `kernel`, with the SHA-256 of the file's ELF."""
        import hashlib

        digest = hashlib.sha256()
        for piece in pieces(self.data):
            digest.update(piece)
        return replace(self.kernel(), sha256=digest.hexdigest())

    def not_bootable(self) -> NotBootable:
        """The error to raise if the kernel has no usable PVH entry, or none that QEMU finds; it says why."""
        from pvhdbg.loaders.why_not import why_not

        return why_not(self._booted())

    def refuse_unless_entered(self) -> None:
        """Raises NotBootable where QEMU enters it by no protocol either; of one that it does enter there is a hand-off to show."""
        from pvhdbg.loaders.qemu import QEMU

        if QEMU.load(self._booted()).entry is None:
            raise self.not_bootable()

    def _booted(self) -> KernelFile:
        """The file that our QEMU gets: the ELF, without what it is packed in."""
        return self._survey(None)

    def _survey(self, container: Container | None) -> KernelFile:
        from pvhdbg.decode.kernel_file import survey

        return survey(self.data, container, self.elf)

    def symbols(self) -> Symbols:
        """Its symbol table: the same one each time, since it keeps what was looked up."""
        from pvhdbg.kernel.symbols import Symbols

        if self._symbols is None:
            self._symbols = Symbols(self.data, self.elf)
        return self._symbols

    def is_loaded(self, read: Callable[[int, int], bytes]) -> bool:
        """Whether guest memory holds this kernel. Compares the beginning and end of each segment, and the notes."""
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
        """Close the file, and remove its unpacked copy. Safe to call twice."""
        self._unnamed = None
        self._close()


def open_kernel(path: str) -> KernelImage:
    """Open a kernel file. Raises BadInput with the next step for any other file."""
    file = _opened(path)
    try:
        container, payload = _payload(file, path)
        if payload is None:
            return KernelImage(path, file, container, file.close)
        unpacked, mapped = _unpacked(payload, path)
    except BaseException:
        file.close()
        raise
    file.close()
    view = memoryview(mapped)

    def close() -> None:
        with suppress(BufferError):  # an exception in flight still holds a part of it, and goes with it
            view.release()
            mapped.close()
        unpacked.close()

    try:
        return KernelImage(path, view, container, close, unpacked.fileno())
    except BaseException as error:
        error.__traceback__ = None  # its frames hold slices of the mapping, which then could not be closed
        close()
        raise


def extract(path: str, output: str) -> str:
    """Write the ELF inside `path` to `output`, completely or not; returns the kind of `path`.

    Raises BadInput, also if `output` is the input. A link, a FIFO or a device is written to, never replaced.
    """
    if os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
        raise BadInput(f"{output} is the image itself", "choose another -o")
    with open_kernel(path) as image:
        try:
            if os.path.islink(output) or (os.path.exists(output) and not os.path.isfile(output)):
                with open(output, "wb") as file:
                    file.writelines(pieces(image.data))
            else:
                with whole_file(output) as whole, os.fdopen(whole.descriptor, "wb") as file:
                    file.writelines(pieces(image.data))
                    file.flush()
                    whole.appear()
        except OSError as error:
            raise BadInput(f"{output} cannot be written: {error.strerror}", "make room, or choose another -o") from error
        return image.was


def _opened(path: str) -> FileBytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BadInput(f"there is no file {path}", "check the path; Debian keeps kernels in /boot") from None
    except PermissionError:
        import shlex

        copy = shlex.quote(os.path.join(".", os.path.basename(path)))
        todo = f"kernels in /boot may be readable by root only: sudo cp {shlex.quote(path)} . && sudo chown $USER {copy}"
        raise BadInput(f"{path} cannot be read: permission denied", todo) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise BadInput(f"{path} cannot be opened: {reason}", "give a regular file") from error
    try:
        about = os.fstat(descriptor)
        if stat.S_ISDIR(about.st_mode):
            raise BadInput(f"{path} is a directory", "give the kernel file in it")
        if not stat.S_ISREG(about.st_mode):
            raise BadInput(f"{path} is not a regular file", "copy it to a file first")
        if about.st_size == 0:
            raise BadInput(f"{path} is empty", "fetch or build it again")
        return FileBytes(descriptor, path, about.st_size)
    except BaseException:
        os.close(descriptor)
        raise


def _payload(view: FileBytes, path: str) -> tuple[Container, FileBytes | None]:
    """The container and its compressed payload; None if the file is the ELF itself."""
    head = view[:16]
    if head[:4] == b"\x7fELF":
        return Container(size=len(view)), None
    setup = linux_setup(view)
    if setup is not None:
        kind, payload = _bzimage(view, setup, path)
        return Container(kind, setup, is_efi(view), len(view), view[:HEAD_SIZE]), payload
    outer = compression(head)
    if outer is not None:
        return Container(outer, size=len(view), head=view[:HEAD_SIZE]), view
    raise _foreign(head, path)


def _bzimage(view: FileBytes, setup: SetupHeader, path: str) -> tuple[str, FileBytes]:
    if setup.version < PAYLOAD_SINCE:
        raise BadInput(
            f"{path} is a bzImage of boot protocol {setup.version >> 8}.{setup.version & 0xFF:02d}, which does not give the place of its kernel",
            "give the vmlinux of that build",
        )
    start, length = payload_range(setup)
    if not setup.payload_length:
        raise BadInput(
            f"{path} is a bzImage without a payload: payload_offset is {setup.payload_offset:#x} and payload_length 0 (memtest86+ is "
            "such a file); it is whole, QEMU boots it by the Linux protocol, and there is no ELF in it for PVH",
            "boot it with QEMU's -kernel; for PVH give an ELF with a PHYS32_ENTRY note",
        )
    if start + length > len(view) or not length:
        raise BadInput(f"{path} is a bzImage whose payload ends at {start + length:#x}, but the file has {len(view):#x} bytes",
                       "it is truncated: fetch it again")  # fmt: skip
    payload = view.part(start, length)
    if payload[:4] == b"\x7fELF":
        return "uncompressed", payload
    kind = compression(payload[:8])
    if kind is None:
        first = payload[:8].hex()
        raise BadInput(f"the payload of the bzImage {path} is in an unknown format ({first})", "give the vmlinux of that build")
    return kind, payload


def _unpacked(payload: FileBytes, path: str) -> tuple[IO[bytes], mmap.mmap]:
    """The ELF in `payload`, on disk: a debug kernel need not fit into memory. The file has no name: it goes with who holds it."""
    import tempfile  # here: with shutil it imports every compressor that Python has

    kind = compression(payload[:8]) or "payload"
    try:
        with ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile(prefix="pvhdbg-"))
            for piece in unpack(payload, path):
                if file.tell() < 4 <= file.tell() + len(piece):
                    _is_elf(piece, kind, path)
                file.write(piece)
            file.flush()
            if not file.tell():
                raise BadInput(f"the {kind} data in {path} is empty", "it is damaged: fetch it again")
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
            stack.pop_all()
            return file, mapped
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from error
        what = f"the ELF inside {path} cannot be unpacked to {tempfile.gettempdir()}: {error.strerror or error}"
        raise BadInput(what, "make room there, or set TMPDIR") from error


def _is_elf(first: bytes, kind: str, path: str) -> None:
    if first[:4] != b"\x7fELF":
        raise BadInput(f"the {kind} data of {path} holds no ELF: it begins with {first[:4].hex()}", "give a kernel image")


def _foreign(head: bytes, path: str) -> BadInput:
    names = ((b"MZ", "an EFI application without a Linux kernel in it"), (b"#!", "a script"), (b"!<arch>", "an archive"),
             (b"070701", "a cpio archive (an initrd?)"), (b"{", "a text or JSON file"))  # fmt: skip
    kind = next(
        (name for magic, name in names if head.startswith(magic)), f"an unknown kind of file (it begins with {head[:4].hex()})"
    )
    return BadInput(f"{path} is not an ELF or a bzImage: it is {kind}", "give an uncompressed kernel (vmlinux) or a bzImage")
