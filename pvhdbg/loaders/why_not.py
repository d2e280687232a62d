"""Why a kernel has no usable PVH entry: what the file has instead of the note, and what QEMU does with it."""

from __future__ import annotations

from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.decode.text import printable
from pvhdbg.decode.toolchain import Tool, maker
from pvhdbg.errors import NotBootable
from pvhdbg.loaders.loading import EntryProtocol, Loading
from pvhdbg.loaders.qemu import QEMU
from pvhdbg.spec.elf import PT_NOTE
from pvhdbg.spec.elf_notes import PHYS32_ENTRY

_OWNER_BOUND = 64


def why_not(kernel: KernelFile) -> NotBootable:
    """Why this file has no usable PVH entry (or, if it has one, why QEMU misses it), and what QEMU does with it."""
    found, todo = _found(kernel)
    usable = "PVH entry that QEMU finds" if kernel.entry_notes else "usable PVH entry"
    foreign = kernel.elf.foreign
    where, todo = ("", todo) if foreign is None else (f" and is for {foreign}, not for x86", "give a kernel for x86 or x86-64")
    return NotBootable(f"the kernel has no {usable}{where}: {found}. {_qemu(kernel)}", todo)


def _found(kernel: KernelFile) -> tuple[str, str]:
    elf = kernel.elf
    numbered = [note for note in elf.notes if note.type == PHYS32_ENTRY]
    wrong = [note for note in numbered if note.is_xen]
    if kernel.entry is not None and not kernel.entry.address:
        return (
            f"its PHYS32_ENTRY note at file offset {kernel.entry.note.offset:#x} holds the address 0, which QEMU takes for a missing note",
            "link the entry at another address; pvhdbg elf says which other loaders enter at 0",
        )
    if kernel.entry_notes:
        note = kernel.entry_notes[-1]
        because = ": remove .note.gnu.property, which requires 8 (objcopy --remove-section)" if note.align == 8 else ""
        return (
            f"its PHYS32_ENTRY note at file offset {note.offset:#x} lies in a PT_NOTE of p_align {note.align}, by which QEMU pads notes",
            f"link the notes with p_align 4{because}",
        )
    if wrong:
        return (
            f"its PHYS32_ENTRY note at file offset {wrong[0].offset:#x} holds {wrong[0].desc[:8].hex() or 'nothing'}"
            f" in {len(wrong[0].desc)} bytes",
            "the descriptor must be the entry's physical address in 4 (or 8) bytes",
        )
    if numbered:
        owner = printable(numbered[0].owner[:_OWNER_BOUND])
        size = len(numbered[0].owner)
        return (
            f'its note of type 18 belongs to "{owner}" (namesz {size}), not to Xen',
            'the owner must be "Xen" with its NUL: namesz 4',
        )
    has_segment = any(segment.p_type == PT_NOTE for segment in elf.segments)
    found = f"none of its {len(elf.notes)} notes is XEN_ELFNOTE_PHYS32_ENTRY" if has_segment else "it has no PT_NOTE segment"
    outside = next((note for note in kernel.section_notes if note.is_xen and note.type == PHYS32_ENTRY), None)
    if outside is not None:
        name = kernel.sections[outside.segment].name or str(outside.segment)
        return (
            f"{found}; the note is in section {name}, which no PT_NOTE segment covers",
            "loaders do not read sections: put the note into a PT_NOTE in the linker script (PHDRS { note PT_NOTE; } … :note)",
        )
    if elf.damage:
        return f"{found}; {elf.damage}", "write n_namesz and n_descsz as the lengths without padding"
    if has_segment:
        if maker(kernel) is Tool.LINUX:
            return found, "build Linux with CONFIG_PVH=y"
        return found, "add the note (type 18, owner Xen) to a PT_NOTE segment"
    return found, "add the note (type 18, owner Xen) and a PT_NOTE for it in the linker script (PHDRS { note PT_NOTE; })"


def _qemu(kernel: KernelFile) -> str:
    first, *others = QEMU.answers(kernel)
    return ". ".join([_words(kernel, first), *(f"Before 10.0.13: {_words(kernel, other)}" for other in others)])


def _words(kernel: KernelFile, loading: Loading) -> str:
    if loading.crash is not None:
        return loading.crash
    if loading.undefined is not None:
        return f"What QEMU does is undefined: {loading.undefined}"
    if loading.refusal is not None:
        also = "It also has a multiboot header: " if kernel.multiboot1 is not None else ""
        return f"{also}QEMU refuses it{' with' if also else ':'} “{loading.refusal}”"
    if loading.protocol is EntryProtocol.MULTIBOOT1:
        return "QEMU boots it by its multiboot header"
    return f"QEMU, which checks neither owner nor size of a note, enters it at {loading.entry:#x} all the same"
