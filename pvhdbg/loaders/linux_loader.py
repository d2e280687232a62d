"""rust-vmm's linux-loader, and the VMMs that load kernels with it: Cloud Hypervisor, Firecracker, libkrun.

Sources: rust-vmm/linux-loader src/loader/elf/mod.rs and bzimage/mod.rs; notes are padded to 4 from 0.9.0 on (PR 128), by p_align
before. cloud-hypervisor vmm/src/vm.rs load_kernel; firecracker src/vmm/src/arch/x86_64/mod.rs load_kernel (PVH from 1.12.0 on);
libkrun src/vmm/src/builder.rs load_external_kernel.
"""

from __future__ import annotations

from collections.abc import Callable

from pvhdbg.decode.elf import Buffer
from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.loaders.loading import Attempt, Entered, EntryProtocol, Loader, Refused, Undefined
from pvhdbg.record import NamedTuple
from pvhdbg.spec import linux_boot
from pvhdbg.spec.elf import PT_LOAD, PT_NOTE, Header64, Ident, NoteHeader, Segment64
from pvhdbg.spec.elf_notes import PHYS32_ENTRY

_ELF = "linux-loader src/loader/elf/mod.rs "
_HIGH_RAM = 0x100000
_HEAD = NoteHeader.sizeof()
_NO_NOTE = "Unable to read note header"
_STEPS_BOUND = 1 << 16
_BELOW_GAP = 0x80000000  # below this address every VMM's RAM is contiguous
_LARGEST_EXT4 = (1 << 44) - 4096  # bytes of a file, with blocks of 4096
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


class _Error(Exception):
    """An error of the crate with its own text; `part` is the crate's loader that fails, if one of them does."""

    def __init__(self, words: str, part: str | None = "ELF") -> None:
        super().__init__(words)
        self.part = part

    @property
    def message(self) -> str:
        part = "" if self.part is None else f"failed to load {self.part} kernel image: Kernel Loader: "
        return f"Kernel Loader: {part}{self}"


class _Loaded(NamedTuple):
    """The crate's result: e_entry, and the PVH entry if there is one."""

    entry: int
    pvh: int | None


class _Crate(NamedTuple):
    """One generation of linux-loader: its padding of notes, as a function of p_align and in words."""

    align: Callable[[int], int]
    rule: str

    def load(self, attempt: Attempt, lowest: int | None) -> _Loaded:
        """Elf::load without a kernel offset. Raises _Error."""
        data = attempt.kernel.data
        header = _header(data)
        if lowest is not None and header.e_entry < lowest:
            attempt.remark(f"e_entry {header.e_entry:#x} is checked though PVH does not use it", _ELF + "Elf::load")
            raise _Error("Invalid entry address")
        attempt.remark_padding(self.rule, _ELF + "parse_elf_note")
        pvh: int | None = None
        for index, segment in enumerate(_segments(data, header)):
            if segment.p_type == PT_NOTE:
                found = self._note(attempt, data, segment)
                if pvh is not None:
                    lost = "erases" if found is None else "replaces"
                    attempt.remark(f"program header {index}, a later PT_NOTE, {lost} the entry found before", _ELF + "Elf::load")
                pvh = found
            elif segment.p_type == PT_LOAD and segment.p_filesz:
                _copy(attempt, data, segment)
        return _Loaded(header.e_entry, pvh)

    def _note(self, attempt: Attempt, data: Buffer, segment: Segment64) -> int | None:
        """parse_elf_note: the first note of type 18 whose owner is Xen, by the low 4 bytes of its descriptor."""
        _seek(segment.p_offset, "Unable to seek to note header")
        align = self.align(segment.p_align)
        done = 0
        for _ in range(_STEPS_BOUND):
            if done >= segment.p_filesz:
                return None
            at = segment.p_offset + done
            head = NoteHeader.decode(_read(data, at, _HEAD, _NO_NOTE))
            if head.n_type == PHYS32_ENTRY and head.n_namesz == 4 and _read(data, at + _HEAD, 4, _NO_NOTE) == b"Xen\0":
                same = [
                    note
                    for note in attempt.kernel.entry_notes
                    if segment.p_offset <= note.offset < segment.p_offset + segment.p_filesz
                ]
                if len(same) > 1:
                    attempt.remark("of several notes in a segment the first is used", _ELF + "parse_elf_note")
                return _entry(attempt, data, at + _HEAD + _padded(4, align), head.n_descsz)
            if head.n_type == PHYS32_ENTRY:
                attempt.remark("a note of type 18 that is not Xen's is skipped", _ELF + "parse_elf_note")
            namesz, descsz = _padded(head.n_namesz, align), _padded(head.n_descsz, align)
            if namesz > _U32 or descsz > _U32:
                raise _Error("Overflow occurred during an arithmetic operation")
            done += _HEAD + namesz + descsz
        raise Undefined(f"there are more than {_STEPS_BOUND} notes in a PT_NOTE")


def _header(data: Buffer) -> Header64:
    """The file's beginning as an ELF64 header (its class is not checked), with the checks of validate_header."""
    size = Ident.sizeof() + Header64.sizeof()
    header = Header64.decode(_read(data, 0, size, "Unable to read elf header"), Ident.sizeof())
    if header.e_phentsize != Segment64.sizeof():
        raise _Error("Invalid program header size")
    if header.e_phoff < size:
        raise _Error("Invalid program header offset")
    return header


def _segments(data: Buffer, header: Header64) -> list[Segment64]:
    size = Segment64.sizeof()
    _seek(header.e_phoff, "Unable to seek to program header")
    table = _read(data, header.e_phoff, size * header.e_phnum, "Unable to read program header")
    return [Segment64.decode(table, size * index) for index in range(header.e_phnum)]


def _seek(at: int, error: str) -> None:
    """Linux' lseek refuses an offset beyond the largest file of the file system, and one that is negative as a signed number."""
    if at >> 63:
        raise _Error(error)
    if at > _LARGEST_EXT4:
        raise Undefined(f"a seek to offset {at:#x} fails on file systems whose files are not as large (ext4)")


def _read(data: Buffer, at: int, size: int, error: str) -> bytes:
    if at + size > len(data):
        raise _Error(error)
    return bytes(data[at : at + size])


def _copy(attempt: Attempt, data: Buffer, segment: Segment64) -> None:
    memory = attempt.boot.memory
    _seek(segment.p_offset, "Unable to seek to kernel start")
    if segment.p_offset + segment.p_filesz > len(data):
        raise _Error("Unable to read kernel image")
    if memory is not None and memory <= _BELOW_GAP and segment.p_paddr + segment.p_filesz > memory:
        raise _Error("Unable to read kernel image")
    if segment.p_paddr + segment.p_memsz > _U64:
        raise _Error("memory to load kernel image is not enough", None)


def _padded(length: int, align: int) -> int:
    if align <= 0 or align & align - 1:
        raise _Error("Invalid alignment")
    return -(-length // align) * align


def _entry(attempt: Attempt, data: Buffer, at: int, size: int) -> int:
    if size < 4:
        raise _Error("Invalid PVH note header")
    value = int.from_bytes(_read(data, at, 4, _NO_NOTE), "little")
    if size == 8 and any(_read(data, at + 4, min(4, len(data) - at - 4), "")):
        attempt.remark("the high half of the note is ignored", _ELF + "parse_elf_note")
    return value


NEW = _Crate(lambda p_align: 4, "to 4, p_align is ignored")
OLD = _Crate(lambda p_align: p_align, "by p_align")  # up to 0.8.1


# --- the VMMs -------------------------------------------------------------------------------------------------------


def _load(attempt: Attempt, crate: _Crate, lowest: int | None) -> _Loaded:
    """The result of Elf::load for the given file, which may be compressed."""
    if attempt.kernel.head[:4] != b"\x7fELF":
        raise _Error("Invalid Elf magic number")
    if attempt.kernel.elf.bits == 32:
        attempt.remark("the file is read as an ELF64, and its class is not checked", _ELF + "Elf::load")
    loaded = crate.load(attempt, lowest)
    if loaded.pvh is None:
        attempt.remark_sections(_ELF + "Elf::load")
    else:
        attempt.remark_entry(loaded.pvh, _ELF + "Elf::load")
    return loaded


def _cloud_hypervisor(attempt: Attempt) -> Entered:
    source = "cloud-hypervisor vmm/src/vm.rs load_kernel"
    try:
        loaded = _load(attempt, NEW, _HIGH_RAM)
    except _Error as error:
        try:
            return EntryProtocol.LINUX32, _bzimage(attempt.kernel)
        except _Error as second:
            if attempt.kernel.head[:4] == b"\x7fELF":
                attempt.remark(f"the reason, “{error}”, is lost: it tries a bzImage next, and reports that error", source)
            raise Refused(f"Cannot load the kernel into memory: {second.message}") from None
    if loaded.pvh is None:
        raise Refused("Kernel lacks PVH header")
    return EntryProtocol.PVH, loaded.pvh


def _cloud_hypervisor_old(attempt: Attempt) -> Entered:
    try:
        loaded = _load(attempt, OLD, _HIGH_RAM)
    except _Error as error:
        raise Refused(f"Cannot load the kernel into memory: {error.message}") from None
    if loaded.pvh is None:
        raise Refused("Kernel lacks PVH header")
    return EntryProtocol.PVH, loaded.pvh


def _bzimage(kernel: KernelFile) -> int:
    """BzImage::load: the 32-bit entry of a bzImage, the load address of its protected-mode code. Raises _Error."""
    setup = kernel.container.setup
    if setup is None or setup.version < 0x200 or not setup.loadflags & 1:
        raise _Error("Invalid bzImage", "bzImage")
    size = ((setup.setup_sects or linux_boot.DEFAULT_SETUP_SECTORS) + 1) * linux_boot.SECTOR
    if size > kernel.container.size:
        raise _Error("Underflow occurred during an arithmetic operation", "bzImage")
    if setup.code32_start < _HIGH_RAM:
        raise _Error("invalid kernel start address", None)
    return setup.code32_start


LIBKRUN_SAYS = "Cannot load the kernel into the VM: "
FIRECRACKER_SAYS = "Cannot load kernel due to invalid memory configuration or invalid kernel image: "


def _firecracker(attempt: Attempt) -> Entered:
    loaded = _firecracker_elf(attempt)
    if loaded.pvh is not None:
        return EntryProtocol.PVH, loaded.pvh
    attempt.remark(
        "without a PVH note the ELF is entered at e_entry by Linux' 64-bit boot protocol, without a message",
        "firecracker src/vmm/src/arch/x86_64/mod.rs load_kernel",
    )
    return EntryProtocol.LINUX64, loaded.entry


def _firecracker_old(attempt: Attempt) -> Entered:
    loaded = _firecracker_elf(attempt)
    if loaded.pvh is not None:
        attempt.remark("the PVH note is read, but not used", "firecracker CHANGELOG.md 1.12.0")
    return EntryProtocol.LINUX64, loaded.entry


def _firecracker_elf(attempt: Attempt) -> _Loaded:
    try:
        return _load(attempt, NEW, _HIGH_RAM)
    except _Error as error:
        raise Refused(FIRECRACKER_SAYS + error.message) from None


# The magic numbers that krun_set_kernel's formats of compressed images search for, anywhere in the file.
_KRUN_IMAGES = frozenset({"gzip", "bzip2", "zstd"})


def _libkrun(attempt: Attempt) -> Entered:
    source = "libkrun src/vmm/src/builder.rs load_external_kernel"
    packed = attempt.kernel.container.compression
    try:
        if packed in _KRUN_IMAGES:
            attempt.remark(
                f"krun_set_kernel is told the format of a {packed} image: it is unpacked, and its PVH note is not used", source
            )
            return EntryProtocol.LINUX64, NEW.load(attempt, None).entry
        attempt.remark("krun_set_kernel is told KRUN_KERNEL_FORMAT_ELF", source)
        loaded = _load(attempt, NEW, None)
    except _Error as error:
        raise Refused(LIBKRUN_SAYS + error.message) from None
    if loaded.pvh is not None:
        return EntryProtocol.PVH, loaded.pvh
    attempt.remark("without a PVH note the ELF is entered at e_entry by Linux' 64-bit boot protocol, without a message", source)
    return EntryProtocol.LINUX64, loaded.entry


CLOUD_HYPERVISOR = Loader(
    "cloud-hypervisor", "Cloud Hypervisor", "vmm/src/vm.rs load_kernel over linux-loader 0.9 and later", _cloud_hypervisor
)
CLOUD_HYPERVISOR_OLD = Loader(
    "cloud-hypervisor-old",
    "Cloud Hypervisor of 2022",
    "vmm/src/vm.rs load_kernel over linux-loader up to 0.8.1",
    _cloud_hypervisor_old,
)
FIRECRACKER = Loader("firecracker", "Firecracker", "src/vmm/src/arch/x86_64/mod.rs load_kernel, 1.12 and later", _firecracker)
FIRECRACKER_OLD = Loader("firecracker-old", "Firecracker up to 1.11", "src/vmm/src/builder.rs load_kernel", _firecracker_old)
LIBKRUN = Loader("libkrun", "libkrun", "src/vmm/src/builder.rs load_external_kernel", _libkrun)
