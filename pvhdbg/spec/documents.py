"""The cited documents, and the format of a citation."""

from __future__ import annotations

from pvhdbg.record import NamedTuple


class Document(NamedTuple):
    """A published text: its short name, its URL, and the version that was read."""

    name: str
    url: str
    state: str


class Clause(NamedTuple):
    """A passage of a document: its words, and their place in the document."""

    document: Document
    words: str
    where: str = ""

    def __str__(self) -> str:
        place = f", {self.where}" if self.where else ""
        return f"{self.document.name}{place}: “{self.words}”"


_XEN = "https://xenbits.xen.org/gitweb/?p=xen.git;a=blob;f="

PVH_PANDOC = Document("docs/misc/pvh.pandoc", f"{_XEN}docs/misc/pvh.pandoc", "Xen c447b7308b, 2026-08-20")
START_INFO_H = Document(
    "public/arch-x86/hvm/start_info.h",
    f"{_XEN}xen/include/public/arch-x86/hvm/start_info.h",
    "Xen c447b7308b, 2026-08-20",
)
ELFNOTE_H = Document("public/elfnote.h", f"{_XEN}xen/include/public/elfnote.h", "Xen c447b7308b, 2026-08-20")
LIBELF = Document("xen/common/libelf/libelf-dominfo.c", f"{_XEN}xen/common/libelf/libelf-dominfo.c", "Xen c447b7308b, 2026-08-20")
XEN_H = Document("public/xen.h", f"{_XEN}xen/include/public/xen.h", "Xen c447b7308b, 2026-08-20")
DRAFT_A_MAIL = Document(
    "[Draft A] Boot ABI for HVM guests without a device-model",
    "https://lists.xenproject.org/archives/html/xen-devel/2015-06/",
    "xen-devel, 2015-06-10",
)
DRAFT_A_CR0 = "cr0: bit 31 (PG) must be cleared. Bit 0 (PE) must be set. Other bits are all undefined."
DRAFT_A_CS = "cs: must be a 32-bit read/execute code segment with an offset of ‘0’ and a limit of ‘0xFFFFFFFF’."
DRAFT_A_DATA = "ds, es, fs, gs, ss: must be a 32-bit read/write data segment with an offset of ‘0’ and a limit of ‘0xFFFFFFFF’."
DRAFT_A_EFLAGS = "eflags: bit 17 (VM) must be cleared. Bit 9 (IF) must be cleared. Other bits are all undefined."
ACPI = Document("ACPI specification", "https://uefi.org/specifications", "6.2")
LINUX_PVH = Document(
    "arch/x86/platform/pvh/enlighten.c",
    "https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/arch/x86/platform/pvh/enlighten.c",
    "Linux 6.x",
)
LINUX_BOOT = Document("Documentation/arch/x86/boot.rst", "https://docs.kernel.org/arch/x86/boot.html", "Linux 6.x")
QEMU_PVH = Document("pc-bios/optionrom/pvh_main.c", "https://gitlab.com/qemu-project/qemu", "QEMU d649689a8e")
QEMU_ELF = Document("include/hw/elf_ops.h.inc", "https://gitlab.com/qemu-project/qemu", "QEMU d649689a8e")
QEMU_X86 = Document("hw/i386/x86-common.c", "https://gitlab.com/qemu-project/qemu", "QEMU d649689a8e")
LINUX_LOADER = Document(
    "src/loader/elf/mod.rs", "https://github.com/rust-vmm/linux-loader/blob/main/src/loader/elf/mod.rs", "linux-loader 0b82095cc5"
)
GABI = Document("System V gABI", "https://www.sco.com/developers/gabi/latest/contents.html", "chapters 4 and 5")
QBOOT = Document("qboot fw_cfg.c", "https://github.com/qemu/qboot/blob/master/fw_cfg.c", "qboot a5300c4")
MULTIBOOT = Document("Multiboot Specification", "https://www.gnu.org/software/grub/manual/multiboot/multiboot.html", "0.6.96")
MULTIBOOT2 = Document("Multiboot2 Specification", "https://www.gnu.org/software/grub/manual/multiboot2/multiboot.html", "2.0")
INTEL_SDM = Document("Intel SDM volume 3A", "https://www.intel.com/sdm", "2024")
