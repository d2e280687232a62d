"""Xen's libelf, in both its users: the toolstack's domain builder (xl with type="pvh") and the hypervisor's dom0 builder.

Sources: xen/common/libelf/libelf-dominfo.c (elf_xen_parse and what it calls), libelf-tools.c, libelf-loader.c; tools/libs/guest/
xg_dom_core.c, xg_dom_elfloader.c, xg_dom_hvmloader.c, xg_dom_bzimageloader.c; xen/arch/x86/hvm/dom0_build.c. As of 4.17 to
4.19; 4.7 to 4.14 lack the hvm distinction of elf_xen_parse, and PHYS32_RELOC came with 4.19 (dfc9fab003).
"""

from __future__ import annotations

from pvhdbg.decode.boot_headers import linux_setup
from pvhdbg.decode.elf import Buffer
from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.loaders.loading import Attempt, Entered, EntryProtocol, Loader, Refused
from pvhdbg.record import dataclass, field
from pvhdbg.spec import linux_boot
from pvhdbg.spec.elf import PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE, SHT_NOTE, NoteHeader, Section32
from pvhdbg.spec.elf_notes import PHYS32_ENTRY, PHYS32_RELOC

_INFO = "xen/common/libelf/libelf-dominfo.c "
_DOM0 = "xen/arch/x86/hvm/dom0_build.c "
_HEAD = NoteHeader.sizeof()
_UNSET = 0xFFFFFFFF
_U64 = (1 << 64) - 1
_STRING_BOUND = 4096  # ELF_MAX_STRING_LENGTH
_COUNT_BOUND = 65536  # ELF_MAX_TOTAL_NOTE_COUNT
_XEN_VERSION, _GUEST_OS, _LOADER, _FEATURES = 5, 6, 8, 10
# The feature names that elf_xen_parse_features knows.
_KNOWN_FEATURES = frozenset(
    {b"writable_page_tables", b"writable_descriptor_tables", b"auto_translated_physmap", b"supervisor_mode_kernel",
     b"pae_pgdir_above_4gb", b"hvm_callback_vector", b"dom0"}
)  # fmt: skip
_PAGE, _DEFAULT_ALIGN = 0x1000, 0x200000


@dataclass
class _Parms:
    """The fields of struct elf_dom_parms that PVH uses."""

    entry: int = _UNSET
    strings: dict[int, bytes] = field(default_factory=dict)
    required: set[bytes] = field(default_factory=set)
    relocatable: bool = False
    align: int = _UNSET
    lowest: int = 0
    highest: int = 0xFFFFFFFF
    any_notes: bool = False  # some run of notes was read


class _Parser:
    """elf_xen_parse() for a PVH container."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt, self.data = attempt, attempt.kernel.data
        self.parms = _Parms()
        self.count = 0
        loads = [s for s in attempt.kernel.elf.segments if s.p_type == PT_LOAD and s.p_flags & (PF_R | PF_W | PF_X)]
        if len(loads) < len(attempt.kernel.elf.loads):
            attempt.remark(
                "a PT_LOAD without any permission is not loaded", "xen/common/libelf/libelf-tools.c elf_phdr_is_loadable"
            )
        self.start = min((s.p_paddr for s in loads), default=_U64)
        self.end = max((s.p_paddr + s.p_memsz & _U64 for s in loads), default=0)

    def check(self) -> bool:
        """elf_init(): the program header table and the section header table must lie in the file."""
        header = self.attempt.kernel.elf.header
        count = min(header.e_shnum, len(self.data) // Section32.sizeof())  # elf_shdr_count: the file has no room for more
        end = header.e_shoff + header.e_shentsize * count
        if end > len(self.data):
            self.attempt.remark(
                f"the section headers end at {end:#x}, past the end of the file", "xen/common/libelf/libelf-loader.c elf_init"
            )
        return end <= len(self.data)

    def parse(self) -> _Parms:
        """The parsed parameters. Raises Refused with libelf's message."""
        kernel = self.attempt.kernel
        self.attempt.remark_padding("to 4, p_align is ignored", "xen/common/libelf/libelf-tools.c elf_note_next")
        found = 0
        for segment in kernel.elf.segments:
            if segment.p_type == PT_NOTE and segment.p_offset:
                found += self._run(segment.p_offset, segment.p_filesz)
        if not found:
            for section in kernel.sections[1:]:
                if section.type == SHT_NOTE:
                    here = self._run(section.offset, section.size)
                    if here and not found:
                        self.attempt.remark("without Xen notes in a PT_NOTE the sections are searched", _INFO + "elf_xen_parse")
                    found += here
        self._check_notes()
        self._check_addresses()
        return self.parms

    def _run(self, offset: int, size: int) -> int:
        """elf_xen_parse_notes: the number of Xen notes in a run. Later notes replace the values of earlier ones."""
        self.parms.any_notes = True
        at, found = offset, 0
        while at < offset + size:
            if self.count >= _COUNT_BOUND or at + _HEAD > len(self.data):
                break
            self.count += 1
            head = NoteHeader.decode(self.data, at)
            if _string(self.data, at + _HEAD) == b"Xen":
                self._note(head, at)
                found += 1
            at += _HEAD + (head.n_namesz + 3 & 0xFFFFFFFC) + (head.n_descsz + 3 & 0xFFFFFFFC)
        return found

    def _note(self, head: NoteHeader, at: int) -> None:
        desc = at + _HEAD + (head.n_namesz + 3 & 0xFFFFFFFC)
        parms = self.parms
        if head.n_namesz != 4:
            self.attempt.remark("the owner is compared as a string, and namesz is ignored", _INFO + "elf_xen_parse_notes")
        if head.n_type == PHYS32_ENTRY:
            if parms.entry != _UNSET:
                self.attempt.remark("of several PHYS32_ENTRY notes the last is used", _INFO + "elf_xen_parse_note")
            size = head.n_descsz
            if size not in (1, 2, 4, 8):
                self.attempt.remark(f"a descriptor of {size} bytes reads as 0", "xen/common/libelf/libelf-tools.c elf_note_numeric")
            parms.entry = _number(self.data, desc, size) & 0xFFFFFFFF if size in (1, 2, 4, 8) else 0
        elif head.n_type == PHYS32_RELOC:
            parms.relocatable = True
            values = [
                _number(self.data, desc + 4 * index, 4) if not head.n_descsz % 4 else 0
                for index in range(min(head.n_descsz // 4, 3))
            ]
            for name, value in zip(("align", "lowest", "highest"), values, strict=False):
                setattr(parms, name, value)
        elif head.n_type in (_XEN_VERSION, _GUEST_OS, _LOADER):
            parms.strings[head.n_type] = _string(self.data, desc) or b""
        elif head.n_type == _FEATURES:
            for feature in (_string(self.data, desc) or b"").split(b"|"):
                if feature.startswith(b"!") and feature[1:] not in _KNOWN_FEATURES:
                    self.attempt.remark("Xen does not know a feature that the kernel requires", _INFO + "elf_xen_parse_features")
                    raise Refused("")
                if feature.startswith(b"!"):
                    parms.required.add(feature[1:])

    def _check_notes(self) -> None:
        parms = self.parms
        if not parms.any_notes:
            raise Refused("ERROR: Not a Xen-ELF image: No ELF notes or '__xen_guest' section found")
        if parms.entry != _UNSET:
            return
        loader, system = parms.strings.get(_LOADER, b""), parms.strings.get(_GUEST_OS, b"")
        if not loader.startswith(b"generic") and not system.startswith(b"linux"):
            raise Refused(
                "ERROR: Will only load images built for the generic loader or Linux images "
                f"(Not '{_words(loader, 16)}' and '{_words(system, 16)}') or with PHYS32_ENTRY set"
            )
        version = parms.strings.get(_XEN_VERSION, b"")
        if not version.startswith(b"xen-3.0"):
            raise Refused(f"ERROR: Xen will only load images built for Xen v3.0 (Not '{_words(version, 16)}')")

    def _check_addresses(self) -> None:
        entry = self.parms.entry
        if entry == _UNSET:
            entry = self.attempt.kernel.elf.header.e_entry
        if self.start > self.end or not self.start <= entry <= self.end:
            self.attempt.remark(
                f"the entry {entry:#x} is not in {self.start:#x} to {self.end:#x}", _INFO + "elf_xen_addr_calc_check"
            )
            raise Refused("ERROR: ELF start or entries are out of bounds")


def _number(data: Buffer, at: int, size: int) -> int:
    return int.from_bytes(bytes(data[at : at + size]), "little") if at + size <= len(data) else 0


def _string(data: Buffer, at: int) -> bytes | None:
    """elf_strval(): the bytes up to a NUL; None without a NUL in the file or within the bound."""
    text, nul, _ = bytes(data[at : at + _STRING_BOUND + 1]).partition(b"\0")
    return text if nul else None


def _words(text: bytes, bound: int) -> str:
    return text[: bound - 1].decode("latin-1")


# --- the toolstack --------------------------------------------------------------------------------------------------


_NONE_FOUND = "xc_dom_find_loader: no loader found"


def _toolstack(attempt: Attempt) -> Entered:
    core = "tools/libs/guest/xg_dom_core.c xc_dom_find_loader"
    container = attempt.kernel.container
    if container.setup is None and container.compression not in (None, "gzip"):
        attempt.remark("a compressed ELF is unpacked if it is gzip, or inside a bzImage", "tools/libs/guest/xg_dom_core.c")
        raise Refused(_NONE_FOUND)
    parser = _Parser(attempt)
    if not parser.check():
        raise Refused(_NONE_FOUND)
    try:
        parms = parser.parse()
    except Refused as error:
        if error.words:
            attempt.remark(f"libelf's own reason, “{error.words}”, is not logged while loaders are probed", core)
        if container.setup is not None:
            raise Refused(_NONE_FOUND) from None
        attempt.remark("the HVM loader takes an ELF that libelf refuses for firmware", "tools/libs/guest/xg_dom_hvmloader.c")
        if attempt.kernel.elf.bits == 64:
            raise Refused("xc_dom_parse_hvm_kernel: ELF image is not 32bit") from None
        return EntryProtocol.PVH, attempt.kernel.elf.header.e_entry & 0xFFFFFFFF
    if container.setup is None and _hides_payload(attempt.kernel):
        attempt.remark("with HdrS at 0x202 the bzImage loader, which is tried first, unpacks the file as a bzImage", core)
        raise Refused(_NONE_FOUND)
    if b"dom0" in parms.required:
        raise Refused("xc_dom_parse_elf_kernel: Kernel does not support unprivileged (DomU) operation")
    if parms.entry == _UNSET:
        raise Refused("xc_dom_guest_type: image not capable of booting inside a HVM container")
    _allocate(attempt)
    return EntryProtocol.PVH, parms.entry


def _allocate(attempt: Attempt) -> None:
    """xc_dom_alloc_segment: pages up to the kernel as padding, then its own. Raises Refused where the domain has fewer."""
    memory, loads = attempt.boot.memory, attempt.kernel.elf.loads
    if memory is None or not loads:
        return
    total, start = memory // _PAGE, min(load.p_paddr for load in loads) // _PAGE
    pages = -(-max(load.p_paddr + load.p_memsz for load in loads) // _PAGE) - start
    for name, wanted, taken in (("padding", start, 0), ("kernel", pages, start)):
        if wanted > total - taken:
            raise Refused(f"xc_dom_chk_alloc_pages: segment {name} too large ({wanted:#x} > {total:#x} - {taken:#x} pages)")


def _hides_payload(kernel: KernelFile) -> bool:
    """Whether an ELF passes for a bzImage whose payload lies in the file."""
    setup = linux_setup(kernel.data)
    if setup is None or setup.version < linux_boot.PAYLOAD_SINCE:
        return False
    start = (setup.setup_sects + 1) * linux_boot.SECTOR + setup.payload_offset
    return start < len(kernel.data) and start + setup.payload_length <= len(kernel.data)


# --- the hypervisor's dom0 builder ----------------------------------------------------------------------------------


def _dom0(attempt: Attempt) -> Entered:
    parser = _Parser(attempt)
    if not parser.check():
        raise Refused("Unable to init ELF")
    try:
        parms = parser.parse()
    except Refused as error:
        if error.words:
            attempt.remark(f"libelf logs “{error.words}”", _DOM0 + "pvh_load_kernel")
        raise Refused("Unable to parse kernel for ELFNOTES") from None
    if parms.entry == _UNSET:
        raise Refused("Unable to find XEN_ELFNOTE_PHYS32_ENTRY address")
    if not parms.relocatable:
        attempt.remark(
            "without PHYS32_RELOC the host's memory map must have RAM where the kernel is linked", _DOM0 + "pvh_load_kernel"
        )
        return EntryProtocol.PVH, parms.entry
    align = parms.align
    if align == _UNSET:
        largest = max((segment.p_align for segment in attempt.kernel.elf.loads), default=0)
        align = largest if largest >= _PAGE else _DEFAULT_ALIGN
    if not align or align & align - 1:
        attempt.remark(
            f"the alignment {align:#x} of PHYS32_RELOC is not a power of two: a move goes wrong", _DOM0 + "find_kernel_memory"
        )
    attempt.remark(
        f"if the host has no RAM at {parser.start:#x}, kernel and entry are moved: alignment {align:#x}, from {parms.lowest:#x} to {parms.highest:#x}",
        _DOM0 + "check_and_adjust_load_address",
    )
    return EntryProtocol.PVH, parms.entry


XEN = Loader("xen", "Xen, type=pvh", "xen/common/libelf and tools/libs/guest, Xen 4.17 and later", _toolstack)
XEN_DOM0 = Loader("xen-dom0", "Xen, PVH dom0", "xen/common/libelf and xen/arch/x86/hvm/dom0_build.c, Xen 4.19", _dom0)
