"""What to change in a kernel file, in the syntax of the tool that made it.

Every fix is written for GNU ld, and that text is also used for a file without a tool's signature. lld, Rust and Zig have
their own text where theirs differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.decode.toolchain import Tool, maker

Fix = Mapping[Tool, str]


def fix(gnu_ld: str, *, lld: str = "", rust: str = "", zig: str = "", linux: str = "") -> Fix:
    """Declare a fix. A tool without its own text takes that of its linker: Rust and Zig take lld's, lld takes GNU ld's."""
    lld = lld or gnu_ld
    words = {Tool.GNU_LD: gnu_ld, Tool.LLD: lld, Tool.RUST: rust or lld, Tool.ZIG: zig or lld, Tool.LINUX: linux or gnu_ld}
    return MappingProxyType(words)


def words(chosen: Fix, kernel: KernelFile) -> str:
    """The fix for the tool that made `kernel`, preceded by the tool's name where the file names it."""
    tool = maker(kernel)
    return f"{tool.value}: {chosen[tool]}" if tool is not None else chosen[Tool.GNU_LD]


_ASM = '.pushsection .note.Xen, "a", @note; .p2align 2; .long 4, 4, 18; .asciz "Xen"; .long ENTRY; .popsection'
_SCRIPT = "PHDRS { text PT_LOAD; note PT_NOTE; } and .note.Xen : { KEEP(*(.note.Xen)) } :text :note"
_RUST = (
    '#[used] #[unsafe(link_section = ".note.Xen")] static NOTE: Note = Note(4, 8, 18, *b"Xen\\0", entry), with '
    '#[repr(C, packed(4))] struct Note(u32, u32, u32, [u8; 4], unsafe extern "C" fn() -> !)'
)
_ZIG = (
    'export const note linksection(".note.Xen") = extern struct { namesz: u32 = 4, descsz: u32 = 4, type: u32 = 18, '
    'name: [4]u8 = "Xen\\x00".*, entry: u32 }'
)

ADD_NOTE = fix(
    f"{_ASM}, and in the linker script {_SCRIPT}",
    lld=f"{_ASM}; lld makes a PT_NOTE by itself unless the linker script has PHDRS: then add {_SCRIPT}",
    rust=f"{_RUST}; with a linker script that has PHDRS add {_SCRIPT} (-C link-arg=-Tlink.ld)",
    zig=f"{_ZIG}; with a linker script that has PHDRS add {_SCRIPT}",
    linux="CONFIG_PVH=y (Processor type and features, Linux guest support, Support for running PVH guests)",
)
COVER_NOTE = fix(
    f"{_SCRIPT}: loaders do not see a section that no PT_NOTE covers",
    rust=f"in the linker script (-C link-arg=-Tlink.ld) {_SCRIPT}",
    linux="link with the kernel's own linker script, which has `note PT_NOTE FLAGS(0)`, and do not strip program headers",
)
OWN_NOTE = fix(
    f'the owner is "Xen" with its NUL, n_namesz 4: {_ASM}',
    rust=f'the owner is b"Xen\\0", n_namesz 4: {_RUST}',
    zig=f'the owner is "Xen\\x00", n_namesz 4: {_ZIG}',
)
DESCRIBE_ENTRY = fix(
    f"n_descsz is 4 and the descriptor the entry's physical address: {_ASM} (for a higher-half kernel .long ENTRY - VIRT_BASE)",
    rust=f"the descriptor is the entry's physical address: {_RUST}",
)
ALIGN_NOTE = fix(
    "p_align 8 comes from .note.gnu.property: /DISCARD/ : { *(.note.gnu.property) } in the linker script, before any "
    "*(.note.*), or objcopy --remove-section .note.gnu.property on the object files (assembler: -Wa,-mx86-used-note=no)",
    rust="/DISCARD/ : { *(.note.gnu.property) } in the linker script, before any *(.note.*), and #[repr(C, packed(4))] on the note's struct",
    linux="objcopy --remove-section .note.gnu.property on the object files, as arch/x86/kernel/vmlinux.lds.S discards it",
)
SET_ALIGN = fix(
    "link the notes with p_align 4: . = ALIGN(4) before them and .p2align 2 in their section; a tool that writes the program "
    "header itself writes 4 there",
)
LAST_NOTE = fix(
    "list the PT_NOTE of .note.Xen last in PHDRS, or put all notes into one: /DISCARD/ : { *(.note.gnu.property) } and after it "
    ".notes : { KEEP(*(.note.Xen)) *(.note.*) } :text :note",
)
ONE_NOTE = fix(
    "remove all but one: KEEP(*(.note.Xen)) once in the linker script, and objcopy --remove-section for the others",
    rust="link only one crate that declares .note.Xen",
)
PLACE_ENTRY = fix(
    "the note holds the physical address: subtract the offset between p_vaddr and p_paddr (.long ENTRY - VIRT_BASE), and keep the "
    "entry's section: KEEP(*(.text.pvh))",
    linux="keep .head.text in its segment: do not relink vmlinux by hand",
)
MOVE_ENTRY = fix(
    "link the kernel at 1 MiB or above (. = 0x100000 in the linker script), or put code before the entry, so that its address is not 0",
)
RAISE_ENTRY = fix(
    "ENTRY(symbol) in the linker script (or -e): a physical address of at least 1 MiB, such as the PVH entry's own",
    rust="-C link-arg=-e -C link-arg=SYMBOL with a physical address of at least 1 MiB, such as the PVH entry's own",
)
WIDEN = fix(
    "OUTPUT_FORMAT(elf64-x86-64), or objcopy -I elf32-i386 -O elf64-x86-64: the code stays 32-bit",
    rust="build for an x86_64 target; the entry itself is 32-bit code in global_asm!",
)
SET_MACHINE = fix("build for x86-64 or x86 (OUTPUT_FORMAT(elf64-x86-64)); where the code is x86 already, set e_machine to 62")
HIDE_MULTIBOOT = fix(
    "in a build that must boot by PVH, place the multiboot header after the first 8 KiB of the file, or leave it out",
)
RELOCATE = fix("the note holds up to three 32-bit numbers: alignment (a power of two), lowest start, highest end")
LOAD_PHYSICALLY = fix(
    "give p_paddr the physical address: .text : AT(ADDR(.text) - VIRT_BASE) in the linker script; PADDR_OFFSET is for PV only",
)
