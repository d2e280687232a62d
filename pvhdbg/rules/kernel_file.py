"""The kernel file: what loaders need to find its PVH entry, and what is known to mislead one of them.

The ABI's own text is in elfnote.h. The recommendations follow from how Xen's libelf, QEMU and linux-loader read a file.
"""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.decode.elf import load_ranges
from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.decode.notes import Note
from pvhdbg.decode.text import printable, shorten
from pvhdbg.rules import fixes
from pvhdbg.rules.declare import FileRule, NotApplicable, Severity, Violation, file_rule
from pvhdbg.rules.file_examples import ENTRY, READ, ExampleLoad, ExampleNote, a_kernel
from pvhdbg.spec.documents import ELFNOTE_H, GABI, LIBELF, LINUX_LOADER, QEMU_ELF, QEMU_X86, Clause
from pvhdbg.spec.elf import EM_386, PT_NOTE
from pvhdbg.spec.elf_notes import PADDR_OFFSET, PHYS32_ENTRY, PHYS32_RELOC, VIRT_BASE

MUST, SHOULD, INFO = Severity.MUST, Severity.SHOULD, Severity.INFO

ONE_MIB = 1 << 20
FOUR_GIB = 1 << 32
_EXECUTE = 1
_EARLY = Clause(ELFNOTE_H, "Notes should live in a PT_NOTE segment and have “Xen” in the name field")
_ENTRY_WORDS = "Xen will use this entry point to launch the guest in 32bit protected mode with paging disabled"
_OTHER = (ExampleNote(b"\x14" * 20, b"GNU\0", 3),)


def _where(note: Note) -> str:
    return f"note at {note.offset:#x}"


def _xen(kernel: KernelFile) -> tuple[Note, ...]:
    """The PHYS32_ENTRY notes of owner Xen in segments; without one, the rules on their form do not apply."""
    found = tuple(note for note in kernel.elf.notes if note.is_xen and note.type == PHYS32_ENTRY)
    if not found:
        raise NotApplicable("no PT_NOTE holds a PHYS32_ENTRY note of owner Xen")
    return found


def _entry(kernel: KernelFile) -> tuple[int, Note]:
    if kernel.entry is None:
        raise NotApplicable("there is no usable PHYS32_ENTRY note")
    return kernel.entry.address, kernel.entry.note


@file_rule(
    "ELF-NOTE-18",
    "the file has a usable PHYS32_ENTRY note",
    clause=Clause(ELFNOTE_H, _ENTRY_WORDS, "XEN_ELFNOTE_PHYS32_ENTRY"),
    severity=MUST,
    passes=[a_kernel(), a_kernel(notes=((*_OTHER, ExampleNote(ENTRY.to_bytes(8, "little"))),))],
    fails=[
        a_kernel(notes=()),
        a_kernel(notes=(_OTHER,)),
        a_kernel(notes=((ExampleNote(bytes(4)),),)),
        a_kernel(notes=((ExampleNote(bytes(8)),),)),
        a_kernel(notes=((ExampleNote(b"\1\2"),),)),
        a_kernel(notes=((ExampleNote(owner=b"GNU\0"),),)),
    ],
)
def note_18(kernel: KernelFile) -> Iterator[Violation]:
    """Without it there is no PVH boot: Xen reports a missing PHYS32_ENTRY, QEMU refuses the file as an uncompressed kernel
    without PVH ELF Note, Firecracker silently takes the Linux 64-bit protocol at e_entry instead. Address 0 is an entry to Xen and
    to linux-loader; QEMU takes it for a missing note where all bytes that it reads are 0 (8 of an ELF64, beyond a shorter descriptor)."""
    if kernel.entry is not None:
        address, note = kernel.entry.address, kernel.entry.note
        read = (note.desc + note.behind)[:8] if kernel.elf.bits == 64 else note.desc[:4]
        if not address and not any(read):
            found = f"0x0 in {len(note.desc)} bytes, with which QEMU refuses the file as one without a note"
            fix = fixes.words(fixes.MOVE_ENTRY, kernel)
            yield Violation(_where(note), "an address that every loader takes for one", found, SHOULD, fix)
        return
    wrong = [note for note in kernel.elf.notes if note.is_xen and note.type == PHYS32_ENTRY]
    expected = "a note of type 18, owner Xen, that holds a physical address in 4 or 8 bytes"
    if wrong:
        found = f"{wrong[0].desc[:8].hex() or 'nothing'} in {len(wrong[0].desc)} bytes"
        yield Violation(_where(wrong[0]), expected, found, fix=fixes.words(fixes.DESCRIBE_ENTRY, kernel))
        return
    has_segment = any(segment.p_type == PT_NOTE for segment in kernel.elf.segments)
    found = f"{len(kernel.elf.notes)} notes, none of them usable" if has_segment else "no PT_NOTE segment"
    if kernel.elf.damage:
        found += f"; {kernel.elf.damage}"
    yield Violation("PT_NOTE", expected, found, fix=fixes.words(fixes.ADD_NOTE, kernel))


@file_rule(
    "ELF-NOTE-OWNER",
    "the note of type 18 belongs to Xen",
    clause=_EARLY,
    severity=MUST,
    passes=[a_kernel(), a_kernel(notes=((ExampleNote(), ExampleNote(owner=b"GNU\0")),))],
    fails=[a_kernel(notes=((ExampleNote(owner=owner),),)) for owner in (b"GNU\0", b"Xen", b"XEN\0")],
)
def note_owner(kernel: KernelFile) -> Iterator[Violation]:
    """Note numbers belong to their owner: type 18 of another owner has another meaning. Xen and linux-loader compare the four
    bytes of the name with its NUL. QEMU does not compare the name, so that the file boots there and nowhere else."""
    numbered = kernel.numbered_18
    if not numbered:
        raise NotApplicable("there is no note of type 18")
    if any(note.is_xen for note in numbered):
        return
    for note in numbered:
        owner = f'"{shorten(printable(note.owner), 40)}", n_namesz {len(note.owner)}'
        yield Violation(_where(note), '"Xen" with its NUL, n_namesz 4', owner, fix=fixes.words(fixes.OWN_NOTE, kernel))


@file_rule(
    "ELF-NOTE-DESC",
    "the entry is given in 4 bytes, or in 8 whose upper half is 0",
    clause=Clause(ELFNOTE_H, "32bit entry point into the kernel", "XEN_ELFNOTE_PHYS32_ENTRY"),
    severity=SHOULD,
    passes=[a_kernel(), a_kernel(notes=((ExampleNote(ENTRY.to_bytes(8, "little")),),))],
    fails=[a_kernel(notes=((ExampleNote(b"\0\0\x10\0\1\0\0\0"),),)), a_kernel(notes=((ExampleNote(b"\0\0\x10"),),))],
)
def note_desc(kernel: KernelFile) -> Iterator[Violation]:
    """Loaders read other sizes differently: Xen reads 1, 2, 4 or 8 bytes, QEMU always 8 of an ELF64 (past the end of a shorter
    descriptor), linux-loader the lower 4; Alioth keeps all 64 bits and jumps there."""
    for note in _xen(kernel):
        if len(note.desc) not in (4, 8):
            found = f"{len(note.desc)} bytes"
        elif any(note.desc[4:]):
            found = f"{int.from_bytes(note.desc, 'little'):#x} in 8 bytes"
        else:
            continue
        physical = _made_physical(kernel, note)
        fix = fixes.words(fixes.DESCRIBE_ENTRY, kernel) if physical is None else _subtract(kernel, physical)
        yield Violation(_where(note), "a 32-bit address in 4 or 8 bytes", found, fix=fix)


@file_rule(
    "ELF-NOTE-PTNOTE",
    "the note lies in a PT_NOTE segment",
    clause=_EARLY,
    severity=MUST,
    passes=[a_kernel()],
    fails=[a_kernel(notes=(), section_notes=(ExampleNote(),)), a_kernel(offsets=(0,))],
)
def note_ptnote(kernel: KernelFile) -> Iterator[Violation]:
    """QEMU and linux-loader read only program headers. Xen falls back to SHT_NOTE sections, and skips a PT_NOTE whose
    p_offset is 0. A linker script with PHDRS must assign the section to a PT_NOTE explicitly."""
    inside = [note for note in kernel.elf.notes if note.is_xen and note.type == PHYS32_ENTRY]
    outside = [note for note in kernel.section_notes if note.is_xen and note.type == PHYS32_ENTRY]
    if not inside and not outside:
        raise NotApplicable("there is no PHYS32_ENTRY note of owner Xen")
    expected = "a PT_NOTE segment that covers it"
    if not inside:
        for note in outside:
            name = kernel.sections[note.segment].name if note.segment < len(kernel.sections) else ""
            found = f"section {name or note.segment} alone"
            yield Violation(_where(note), expected, found, fix=fixes.words(fixes.COVER_NOTE, kernel))
        return
    if all(kernel.elf.segments[note.segment].p_offset == 0 for note in inside):
        yield Violation(_where(inside[0]), expected, "a PT_NOTE with p_offset 0", fix=fixes.words(fixes.COVER_NOTE, kernel))


@file_rule(
    "ELF-NOTE-PALIGN",
    "the PT_NOTE of the note has p_align 4",
    clause=Clause(QEMU_ELF, "QEMU_ALIGN_UP(nhdr_namesz, phdr_align) + QEMU_ALIGN_UP(nhdr_descsz, phdr_align)", "get_elf_note_type"),
    severity=SHOULD,
    passes=[a_kernel(), a_kernel(aligns=(1,)), a_kernel(notes=((ExampleNote(),), _OTHER), aligns=(4, 8))],
    fails=[a_kernel(aligns=(8,)), a_kernel(aligns=(0,)), a_kernel(notes=(_OTHER, (ExampleNote(),)), aligns=(0, 4))],
)
def note_palign(kernel: KernelFile) -> Iterator[Violation]:
    """QEMU pads owner and descriptor to p_align and divides by it. With 8 it misses notes that are padded to 4, as all tools
    pad them; with 0 it dies of SIGFPE. Xen and today's linux-loader always pad to 4."""
    holders = {note.segment for note in _xen(kernel)}
    for span in kernel.elf.note_spans:
        at = f"program header {span.holder}: p_align"
        if span.align == 0:
            yield Violation(at, "4", "0, by which QEMU divides", fix=fixes.words(fixes.SET_ALIGN, kernel))
        elif span.holder in holders and span.align not in (1, 4):
            chosen = fixes.ALIGN_NOTE if span.align == 8 else fixes.SET_ALIGN
            yield Violation(at, "4", f"{span.align}", fix=fixes.words(chosen, kernel))


@file_rule(
    "ELF-NOTE-LASTSEG",
    "the last PT_NOTE holds the note",
    clause=Clause(LINUX_LOADER, "loader_result.pvh_boot_cap = parse_elf_note(&phdr, kernel_image)? for each PT_NOTE", "Elf::load"),
    severity=SHOULD,
    passes=[a_kernel(), a_kernel(notes=(_OTHER, (ExampleNote(),)))],
    fails=[a_kernel(notes=((ExampleNote(),), _OTHER))],
)
def note_lastseg(kernel: KernelFile) -> Iterator[Violation]:
    """linux-loader (cloud-hypervisor, Firecracker, libkrun) keeps only the result of the last PT_NOTE. A later PT_NOTE, such
    as that of a build-id or of .note.gnu.property, discards the entry without a message."""
    last = max(index for index, segment in enumerate(kernel.elf.segments) if segment.p_type == PT_NOTE) if _xen(kernel) else 0
    if not any(note.segment == last for note in _xen(kernel)):
        found = f"program header {last} is a PT_NOTE without it"
        yield Violation(f"program header {last}", "the PHYS32_ENTRY note", found, fix=fixes.words(fixes.LAST_NOTE, kernel))


@file_rule(
    "ELF-NOTE-UNIQUE",
    "there is one note of type 18 only",
    clause=Clause(QEMU_ELF, "while (note_type != elf_note_type)", "get_elf_note_type compares the type only"),
    severity=SHOULD,
    passes=[a_kernel()],
    fails=[
        a_kernel(notes=((ExampleNote(), ExampleNote(b"\0\0\x20\0")),)),
        a_kernel(notes=((ExampleNote(),), (ExampleNote(b"\0\0\x20\0"),))),
        a_kernel(notes=((ExampleNote(), ExampleNote(owner=b"GNU\0")),)),
    ],
)
def note_unique(kernel: KernelFile) -> Iterator[Violation]:
    """Of several notes each loader takes a different one: Xen the very last, QEMU the first of the last segment that has one
    (of any owner), linux-loader the first of the last segment, Alioth the very first."""
    _xen(kernel)
    numbered = kernel.numbered_18
    if len(numbered) > 1:
        values = [f"{int.from_bytes(note.desc[:4], 'little'):#x} at {note.offset:#x}" for note in numbered]
        same = all(note.is_xen for note in numbered) and len({bytes(note.desc[:4]) for note in numbered}) == 1
        yield Violation(
            "notes of type 18", "one", f"{len(numbered)}: {', '.join(values[:4])}", INFO if same else None,
            fixes.words(fixes.ONE_NOTE, kernel),
        )  # fmt: skip


def _number(kernel: KernelFile, kind: int) -> int | None:
    """The number in the last note of that type and owner Xen."""
    found = [note for note in kernel.elf.notes if note.is_xen and note.type == kind and len(note.desc) in (4, 8)]
    return int.from_bytes(found[-1].desc, "little") if found else None


def _made_physical(kernel: KernelFile, note: Note) -> int | None:
    """The physical address that a note means which holds a virtual one: less VIRT_BASE, if that lies in a PT_LOAD."""
    base = _number(kernel, VIRT_BASE)
    if not base:
        return None
    address = int.from_bytes(note.desc, "little") - base & (1 << 8 * len(note.desc)) - 1
    inside = any(load.p_paddr <= address < load.p_paddr + load.p_memsz for load in kernel.elf.loads)
    return address if inside else None


def _subtract(kernel: KernelFile, physical: int) -> str:
    return f"the note holds a virtual address, and VIRT_BASE is {_number(kernel, VIRT_BASE):#x}: subtract it: {physical:#x}"


@file_rule(
    "ELF-ENTRY-RANGE",
    "the entry lies in a loaded segment",
    clause=Clause(
        LIBELF, "parms->phys_entry < parms->phys_kstart || parms->phys_entry > parms->phys_kend", "elf_xen_addr_calc_check"
    ),
    severity=MUST,
    passes=[a_kernel()],
    fails=[
        a_kernel(loads=(ExampleLoad(paddr=0x200000),)),
        a_kernel(loads=(ExampleLoad(0xFFFFFFFF80100000, vaddr=0xFFFFFFFF80100000),)),
        a_kernel(loads=(ExampleLoad(size=0x40),)),
    ],
)
def entry_range(kernel: KernelFile) -> Iterator[Violation]:
    """Xen refuses a file whose entry is outside of its segments. QEMU and the others jump there all the same: the CPU executes
    zeros (add %al,(%eax)) until the guest dies. The usual cause is a virtual address in the note."""
    address, note = _entry(kernel)
    physical = _made_physical(kernel, note)
    fix = fixes.words(fixes.PLACE_ENTRY, kernel) if physical is None else _subtract(kernel, physical)
    inside = [load for load in kernel.elf.loads if load.p_paddr <= address < load.p_paddr + load.p_memsz]
    if not inside:
        ranges = ", ".join(f"{load.start:#x}-{load.end:#x}" for load in load_ranges(kernel.elf)[:4]) or "none"
        yield Violation(_where(note), f"an address inside a PT_LOAD ({ranges})", f"{address:#x}", fix=fix)
    elif not any(load.p_flags & _EXECUTE for load in inside):
        found = f"{address:#x} is in one without PF_X, which no loader checks"
        yield Violation(_where(note), "an executable PT_LOAD", found, INFO, fix)


@file_rule(
    "ELF-E_ENTRY",
    "e_entry is at 1 MiB or above",
    clause=Clause(
        LINUX_LOADER, "if (ehdr.e_entry) < addr.raw_value() { return Err(Error::InvalidEntryAddress.into()) }", "Elf::load"
    ),
    severity=SHOULD,
    passes=[a_kernel(), a_kernel(e_entry=ONE_MIB)],
    fails=[a_kernel(e_entry=0), a_kernel(e_entry=0x7C00)],
)
def e_entry(kernel: KernelFile) -> Iterator[Violation]:
    """cloud-hypervisor and Firecracker refuse the file (“Invalid entry address”), although a PVH boot never uses e_entry."""
    if kernel.elf.bits != 64:
        raise NotApplicable("linux-loader does not read ELF32")
    entry = kernel.elf.header.e_entry
    if entry < ONE_MIB:
        yield Violation("e_entry", f"{ONE_MIB:#x} or above", f"{entry:#x}", fix=fixes.words(fixes.RAISE_ENTRY, kernel))


@file_rule(
    "ELF-CLASS",
    "the file is an ELF64",
    clause=Clause(LINUX_LOADER, "let mut ehdr = elf::Elf64_Ehdr::default()", "Elf::load"),
    severity=INFO,
    passes=[a_kernel()],
    fails=[a_kernel(bits=32)],
)
def elf_class(kernel: KernelFile) -> Iterator[Violation]:
    """Xen and QEMU load ELF32 too; linux-loader (cloud-hypervisor, Firecracker, libkrun) and Alioth know only the 64-bit
    layout. The entry is 32-bit code in both."""
    if kernel.elf.bits != 64:
        found = "ELFCLASS32, which linux-loader and Alioth cannot read"
        yield Violation("EI_CLASS", "ELFCLASS64", found, fix=fixes.words(fixes.WIDEN, kernel))


@file_rule(
    "ELF-MACHINE",
    "e_machine is that of x86",
    clause=Clause(GABI, "e_machine: This member's value specifies the required architecture for an individual file.", "ELF header"),
    severity=SHOULD,
    passes=[a_kernel(), a_kernel(bits=32, machine=EM_386)],
    fails=[a_kernel(machine=183)],
)
def elf_machine(kernel: KernelFile) -> Iterator[Violation]:
    """QEMU refuses another machine's file (“Error while loading elf kernel”). linux-loader (cloud-hypervisor, Firecracker, libkrun)
    does not look at e_machine and enters it all the same."""
    if kernel.elf.foreign is not None:
        found = f"{kernel.elf.header.e_machine}: {kernel.elf.foreign}"
        yield Violation("e_machine", "62 (x86-64) or 3 (x86)", found, fix=fixes.words(fixes.SET_MACHINE, kernel))


@file_rule(
    "ELF-MULTIBOOT",
    "no multiboot header hides the note",
    clause=Clause(QEMU_X86, "load_multiboot() is tried before load_elfboot()", "x86_load_linux"),
    severity=SHOULD,
    passes=[a_kernel()],
    fails=[a_kernel(multiboot=0), a_kernel(multiboot=1 << 16), a_kernel(multiboot=0, bits=32)],
)
def multiboot(kernel: KernelFile) -> Iterator[Violation]:
    """QEMU loads a file with a multiboot 1 header in its first 8 KiB by that protocol and never reads the notes. It refuses an
    x86-64 file whose header has no addresses (“Cannot load x86-64 image, give a 32bit one.”)."""
    if kernel.entry is None:
        raise NotApplicable("there is no usable PHYS32_ENTRY note that a multiboot header could hide")
    header = kernel.multiboot1
    if header is not None:
        found = f"one, flags {header.flags:#x}"
        fix = fixes.words(fixes.HIDE_MULTIBOOT, kernel)
        yield Violation(f"file offset {header.offset:#x}", "no multiboot 1 header", found, fix=fix)


@file_rule(
    "ELF-RELOC",
    "PHYS32_RELOC is well-formed and allows where the file is linked",
    clause=Clause(
        ELFNOTE_H,
        "a required start alignment (default 0x200000); a minimum address for the start of the image; a maximum address "
        "for the last byte of the image",
        "XEN_ELFNOTE_PHYS32_RELOC",
    ),
    severity=INFO,
    passes=[
        a_kernel(notes=((ExampleNote(), ExampleNote(bytes(0), type=PHYS32_RELOC)),)),
        a_kernel(notes=((ExampleNote(), ExampleNote(b"\0\0\x20\0\0\0\0\0\xff\xff\xff\x3f", type=PHYS32_RELOC)),)),
    ],
    fails=[
        a_kernel(notes=((ExampleNote(), ExampleNote(b"\3\0\0\0", type=PHYS32_RELOC)),)),
        a_kernel(notes=((ExampleNote(), ExampleNote(b"\0\0\x20\0\0\0\0\1", type=PHYS32_RELOC)),)),
        a_kernel(notes=((ExampleNote(), ExampleNote(b"\0\0\x20\0\0\0\0\0\0\0\1\0", type=PHYS32_RELOC)),)),
        a_kernel(notes=((ExampleNote(), ExampleNote(bytes(16), type=PHYS32_RELOC)),)),
    ],
)
def reloc(kernel: KernelFile) -> Iterator[Violation]:
    """Xen's dom0 builder (4.19 and later) moves a kernel within these bounds. With wrong bounds it finds no place for the
    kernel, or one where the kernel cannot run. Other loaders do not read the note."""
    found = [note for note in kernel.elf.notes if note.is_xen and note.type == PHYS32_RELOC]
    if not found:
        raise NotApplicable("there is no PHYS32_RELOC note: the kernel is loaded where it was linked")
    fix = fixes.words(fixes.RELOCATE, kernel)
    note = found[-1]
    if len(note.desc) % 4 or len(note.desc) > 12:
        yield Violation(_where(note), "0 to 3 numbers of 32 bits", f"{len(note.desc)} bytes", fix=fix)
        return
    values = [int.from_bytes(note.desc[at : at + 4], "little") for at in range(0, len(note.desc), 4)]
    align, low, high = (*values, *(0x200000, 0, 0xFFFFFFFF)[len(values) :])
    if not align or align & (align - 1):
        yield Violation(f"{_where(note)}: alignment", "a power of two", f"{align:#x}", fix=fix)
    loads = load_ranges(kernel.elf)
    start, end = min((load.start for load in loads), default=0), max((load.end for load in loads), default=0)
    if loads and start < low:
        yield Violation(f"{_where(note)}: lowest start", f"at most {start:#x}, where the file is linked", f"{low:#x}", fix=fix)
    if loads and end - 1 > high:
        yield Violation(f"{_where(note)}: highest end", f"at least {end - 1:#x}, where the file ends", f"{high:#x}", fix=fix)


@file_rule(
    "ELF-PADDR",
    "p_paddr is a physical address without an offset",
    clause=Clause(GABI, "p_paddr: On systems for which physical addressing is relevant, this member is reserved for the segment's "
                  "physical address", "program header"),
    severity=MUST,
    passes=[a_kernel(), a_kernel(loads=(ExampleLoad(vaddr=0xFFFFFFFF80100000),))],
    fails=[
        a_kernel(loads=(ExampleLoad(0xFFFFFFFF80200000, 0x1000, READ),)),
        a_kernel(
            loads=(ExampleLoad(0xFFFFFFFF80200000),),
            notes=((ExampleNote(), ExampleNote((0xFFFFFFFF80000000).to_bytes(8, "little"), type=PADDR_OFFSET)),),
        ),
    ],
)  # fmt: skip
def paddr(kernel: KernelFile) -> Iterator[Violation]:
    """Loaders copy each segment to p_paddr. Draft A subtracted PADDR_OFFSET from it, but for PVH Xen takes that offset as 0,
    and no other loader reads it: a kernel whose p_paddr is its virtual address (FreeBSD's of 2015) has no place in memory."""
    offset = paddr_offset(kernel)
    for index, segment in enumerate(kernel.elf.segments):
        if segment not in kernel.elf.loads or not segment.p_memsz or segment.p_paddr + segment.p_memsz <= FOUR_GIB:
            continue
        found = f"{segment.p_paddr:#x}"
        if offset:
            found += f" (minus PADDR_OFFSET {offset:#x}: {(segment.p_paddr - offset) % (1 << 64):#x})"
        at = f"program header {index}: p_paddr"
        yield Violation(at, "an address below 4 GiB, without an offset", found, fix=fixes.words(fixes.LOAD_PHYSICALLY, kernel))


def paddr_offset(kernel: KernelFile) -> int:
    """The number in the last PADDR_OFFSET note; 0 without one."""
    return _number(kernel, PADDR_OFFSET) or 0


CHAPTER: tuple[FileRule, ...] = (
    note_18, note_owner, note_desc, note_ptnote, note_palign, note_lastseg, note_unique, entry_range, e_entry, elf_class, elf_machine, multiboot,
    reloc, paddr,
)  # fmt: skip
