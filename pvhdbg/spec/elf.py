"""The ELF structures and numbers that kernel loaders read (System V gABI, both classes)."""

from __future__ import annotations

from pvhdbg.layout import Structure, raw, u8, u16, u32, u64

ET_CORE = 4
PT_LOAD, PT_NOTE = 1, 4
SEGMENT_TYPES = {
    0: "NULL", 1: "LOAD", 2: "DYNAMIC", 3: "INTERP", 4: "NOTE", 6: "PHDR", 7: "TLS", 0x6474E550: "GNU_EH_FRAME",
    0x6474E551: "GNU_STACK", 0x6474E552: "GNU_RELRO", 0x6474E553: "GNU_PROPERTY",
}  # fmt: skip
PF_X, PF_W, PF_R = 1, 2, 4
SHT_SYMTAB, SHT_STRTAB, SHT_NOTE, SHT_NOBITS = 2, 3, 7, 8
SHF_EXECINSTR = 4
EM_386, EM_X86_64 = 3, 62
MACHINES = {2: "SPARC", 3: "x86", 8: "MIPS", 20: "PowerPC", 21: "PowerPC 64", 22: "S/390", 40: "Arm", 62: "x86-64", 183: "AArch64",
            243: "RISC-V", 258: "LoongArch"}  # fmt: skip


class NoteHeader(Structure):
    """Elf_Nhdr, the same in both classes."""

    n_namesz: int = u32("length of the owner's name, its NUL included")
    n_descsz: int = u32("length of the descriptor")
    n_type: int = u32("type, in the owner's numbering")


class Ident(Structure):
    """e_ident, 16 bytes."""

    magic: bytes = raw(4, "\\x7fELF")
    elf_class: int = u8("1: 32-bit, 2: 64-bit")
    data: int = u8("1: little endian, 2: big endian")
    version: int = u8("1")
    osabi: int = u8("OS")
    rest: bytes = raw(8, "padding")


class Header32(Structure):
    """Elf32_Ehdr without e_ident."""

    e_type: int = u16("object file type")
    e_machine: int = u16("architecture")
    e_version: int = u32("1")
    e_entry: int = u32("entry point")
    e_phoff: int = u32("program header table's file offset")
    e_shoff: int = u32("section header table's file offset")
    e_flags: int = u32("processor flags")
    e_ehsize: int = u16("header size")
    e_phentsize: int = u16("program header entry size")
    e_phnum: int = u16("program header entry count")
    e_shentsize: int = u16("section header entry size")
    e_shnum: int = u16("section header entry count")
    e_shstrndx: int = u16("section name string table index")


class Header64(Structure):
    """Elf64_Ehdr without e_ident."""

    e_type: int = u16("object file type")
    e_machine: int = u16("architecture")
    e_version: int = u32("1")
    e_entry: int = u64("entry point")
    e_phoff: int = u64("program header table's file offset")
    e_shoff: int = u64("section header table's file offset")
    e_flags: int = u32("processor flags")
    e_ehsize: int = u16("header size")
    e_phentsize: int = u16("program header entry size")
    e_phnum: int = u16("program header entry count")
    e_shentsize: int = u16("section header entry size")
    e_shnum: int = u16("section header entry count")
    e_shstrndx: int = u16("section name string table index")


class Segment32(Structure):
    """Elf32_Phdr."""

    p_type: int = u32("segment type")
    p_offset: int = u32("file offset")
    p_vaddr: int = u32("virtual address")
    p_paddr: int = u32("physical address")
    p_filesz: int = u32("size in the file")
    p_memsz: int = u32("size in memory")
    p_flags: int = u32("PF_X 1, PF_W 2, PF_R 4")
    p_align: int = u32("alignment")


class Segment64(Structure):
    """Elf64_Phdr."""

    p_type: int = u32("segment type")
    p_flags: int = u32("PF_X 1, PF_W 2, PF_R 4")
    p_offset: int = u64("file offset")
    p_vaddr: int = u64("virtual address")
    p_paddr: int = u64("physical address")
    p_filesz: int = u64("size in the file")
    p_memsz: int = u64("size in memory")
    p_align: int = u64("alignment")


class Section32(Structure):
    """Elf32_Shdr."""

    sh_name: int = u32("name, in the section name string table")
    sh_type: int = u32("section type")
    sh_flags: int = u32("flags")
    sh_addr: int = u32("virtual address")
    sh_offset: int = u32("file offset")
    sh_size: int = u32("size")
    sh_link: int = u32("index of a related section")
    sh_info: int = u32("extra information")
    sh_addralign: int = u32("alignment")
    sh_entsize: int = u32("entry size")


class Section64(Structure):
    """Elf64_Shdr."""

    sh_name: int = u32("name, in the section name string table")
    sh_type: int = u32("section type")
    sh_flags: int = u64("flags")
    sh_addr: int = u64("virtual address")
    sh_offset: int = u64("file offset")
    sh_size: int = u64("size")
    sh_link: int = u32("index of a related section")
    sh_info: int = u32("extra information")
    sh_addralign: int = u64("alignment")
    sh_entsize: int = u64("entry size")
