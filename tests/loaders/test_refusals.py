"""Every message with which a VMM refuses a kernel, brought about by a file (or a run) made for it."""

from typing import Any

import pytest

from pvhdbg.decode.kernel_file import survey
from pvhdbg.loaders.catalogue import BY_NAME, find, simulate
from pvhdbg.loaders.loading import BootParameters, Loading
from pvhdbg.spec.elf import PT_LOAD, PT_NOTE, NoteHeader, Segment64
from tests.support.elf_writer import ENTRY, NoteSpec, Piece, Program, RawNotes

CODE = Piece(content=b"\xeb\xfe" + bytes(62))
MIB = 1 << 20


def note(*specs: NoteSpec | RawNotes, align: int = 4) -> Piece:
    return Piece(PT_NOTE, b"".join(spec.encode() for spec in specs), paddr=0, flags=4, align=align)


NOTE = note(NoteSpec())


def load(name: str, data: bytes, boot: BootParameters | None = None) -> Loading:
    return BY_NAME[name].load(survey(data), boot or BootParameters())


def program(*pieces: Piece, **changes: Any) -> bytes:
    return bytes(Program((CODE, *pieces), tail=b"\xff" * 64, **changes).encode())


# --- linux-loader ---------------------------------------------------------------------------------------------------

FIRECRACKER = "Cannot load kernel due to invalid memory configuration or invalid kernel image: "
IN_ELF = "Kernel Loader: failed to load ELF kernel image: Kernel Loader: "
LONG_NOTE = RawNotes(NoteHeader(0xFFFFFFFF, 4, 5).encode() + b"Xen\0" + bytes(8))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (program(NOTE, entry=0xFFFFF), "Invalid entry address"),
        (program(NOTE, bits=32, machine=3), "Invalid program header size"),
        (program(note(NoteSpec(desc=b"\0\0\x10"))), "Invalid PVH note header"),
        (program(note(LONG_NOTE)), "Overflow occurred during an arithmetic operation"),
        (bytes(Program((CODE, note(RawNotes(NoteSpec().encode()[:12]))), tail=b"").encode()), "Unable to read note header"),
    ],
)  # fmt: skip
def test_linux_loader(data: bytes, words: str) -> None:
    assert load("firecracker", data).refusal == FIRECRACKER + IN_ELF + words
    for name in ("firecracker-old", "cloud-hypervisor-old"):
        assert str(load(name, data).refusal).endswith(IN_ELF + words), name
    hypervisor = load("cloud-hypervisor", data)
    assert hypervisor.refusal == (
        "Cannot load the kernel into memory: Kernel Loader: failed to load bzImage kernel image: Kernel Loader: Invalid bzImage"
    )
    assert any(words in quirk.text and "is lost" in quirk.text for quirk in hypervisor.quirks)
    if words != "Invalid entry address":
        assert load("libkrun", data).refusal == f"Cannot load the kernel into the VM: {IN_ELF}{words}"


def test_linux_loader_seeks_before_it_reads() -> None:
    """Even where a segment is empty; on which offset a seek fails depends on the file system."""
    data = bytearray(program(Piece(PT_NOTE, paddr=0, flags=4)))
    at = 64 + 56 + Segment64.offset_of("p_offset")
    data[at : at + 8] = (1 << 63).to_bytes(8, "little")
    assert load("firecracker", bytes(data)).refusal == f"{FIRECRACKER}{IN_ELF}Unable to seek to note header"
    data[at : at + 8] = (1 << 45).to_bytes(8, "little")
    assert "ext4" in str(load("firecracker", bytes(data)).undefined)


def test_libkrun_does_not_check_e_entry() -> None:
    assert load("libkrun", program(NOTE, entry=0x1000)).entry == ENTRY


def test_memory_is_checked_where_it_is_known() -> None:
    high = program(Piece(content=bytes(64), paddr=128 * MIB), NOTE)
    assert load("firecracker", high).entry == ENTRY
    assert load("firecracker", high, BootParameters(memory=256 * MIB)).entry == ENTRY
    assert str(load("firecracker", high, BootParameters(memory=64 * MIB)).refusal).endswith(IN_ELF + "Unable to read kernel image")
    wraps = program(Piece(content=b"", filesz=0, memsz=4, paddr=(1 << 64) - 8), NOTE)
    assert load("firecracker", wraps).entry == ENTRY  # nothing of it is in the file


def test_without_a_note() -> None:
    data = program()
    assert load("cloud-hypervisor", data).refusal == load("cloud-hypervisor-old", data).refusal == "Kernel lacks PVH header"
    for name in ("firecracker", "libkrun"):
        loading = load(name, data)
        assert (loading.protocol, loading.entry, loading.bits) == ("linux64", ENTRY, 64)
        assert any("without a message" in quirk.text for quirk in loading.quirks)
    assert load("firecracker-old", program(NOTE, entry=ENTRY + 2)).entry == ENTRY + 2


def test_the_old_linux_loader_pads_by_p_align() -> None:
    by_eight = program(note(RawNotes(NoteSpec().padded_by_lengths(8)), align=8))
    assert load("cloud-hypervisor-old", by_eight).entry == ENTRY
    assert load("cloud-hypervisor", by_eight).entry == 0
    other = NoteSpec(5, b"Xen\0", b"xen-3.0\0")
    for align in (0, 3, 6):
        data = program(note(other, NoteSpec(), align=align))
        assert str(load("cloud-hypervisor-old", data).refusal).endswith(IN_ELF + "Invalid alignment")
        assert load("cloud-hypervisor", data).entry == ENTRY


# --- Alioth ---------------------------------------------------------------------------------------------------------


def test_alioth() -> None:
    assert load("alioth", program(NOTE, bits=32, machine=3)).refusal == "Not a 64-bit kernel"
    assert load("alioth", program()).refusal == "Cannot find payload entry point"
    assert load("alioth", program(note(NoteSpec(desc=bytes(12))))).refusal == "Cannot find payload entry point"
    assert load("alioth", program(note(NoteSpec(), align=6))).refusal == "Cannot access file"
    assert load("alioth", program(note(NoteSpec(desc=bytes(12)), NoteSpec()))).entry == ENTRY


# --- Xen ------------------------------------------------------------------------------------------------------------

NO_NOTES = "ERROR: Not a Xen-ELF image: No ELF notes or '__xen_guest' section found"
LOADERS = (
    "ERROR: Will only load images built for the generic loader or Linux images (Not 'mine' and 'BeOS') or with PHYS32_ENTRY set"
)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (program(), NO_NOTES),
        (program(note(NoteSpec(8, desc=b"mine\0"), NoteSpec(6, desc=b"BeOS\0"))), LOADERS),
        (program(note(NoteSpec(8, desc=b"generic\0"), NoteSpec(5, desc=b"xen-2.0\0"))),
         "ERROR: Xen will only load images built for Xen v3.0 (Not 'xen-2.0')"),
        (program(note(NoteSpec(desc=(ENTRY - 1).to_bytes(4, "little")))), "ERROR: ELF start or entries are out of bounds"),
        (program(note(NoteSpec(desc=bytes(12)))), "ERROR: ELF start or entries are out of bounds"),
    ],
)  # fmt: skip
def test_what_libelf_refuses(data: bytes, reason: str) -> None:
    toolstack, dom0 = load("xen", data), load("xen-dom0", data)
    assert toolstack.refusal == "xc_dom_parse_hvm_kernel: ELF image is not 32bit"
    assert dom0.refusal == "Unable to parse kernel for ELFNOTES"
    for loading in (toolstack, dom0):
        assert any(reason in quirk.text for quirk in loading.quirks)


def test_an_elf32_that_libelf_refuses_is_taken_for_firmware() -> None:
    loading = load("xen", program(bits=32, machine=3, entry=ENTRY + 4))
    assert (loading.protocol, loading.entry) == ("pvh", ENTRY + 4)
    assert any("for firmware" in quirk.text for quirk in loading.quirks)


def test_a_pv_kernel_is_not_for_pvh() -> None:
    data = program(note(NoteSpec(8, desc=b"generic\0"), NoteSpec(5, desc=b"xen-3.0\0")))
    assert load("xen", data).refusal == "xc_dom_guest_type: image not capable of booting inside a HVM container"
    assert load("xen-dom0", data).refusal == "Unable to find XEN_ELFNOTE_PHYS32_ENTRY address"


def test_features_that_a_kernel_requires() -> None:
    dom0 = program(note(NoteSpec(), NoteSpec(10, desc=b"!dom0|pae_pgdir_above_4gb\0")))
    assert load("xen", dom0).refusal == "xc_dom_parse_elf_kernel: Kernel does not support unprivileged (DomU) operation"
    assert load("xen-dom0", dom0).entry == ENTRY
    unknown = program(note(NoteSpec(), NoteSpec(10, desc=b"!warp_drive\0")))
    assert load("xen-dom0", unknown).refusal == "Unable to parse kernel for ELFNOTES"
    assert any("Xen does not know a feature" in quirk.text for quirk in load("xen-dom0", unknown).quirks)


def test_a_dom0_kernel_may_be_moved() -> None:
    def words(*values: int, **changes: Any) -> str:
        desc = b"".join(value.to_bytes(4, "little") for value in values)
        loading = load("xen-dom0", program(note(NoteSpec(), NoteSpec(19, desc=desc)), **changes))
        assert loading.entry == ENTRY
        return "; ".join(quirk.text for quirk in loading.quirks)

    assert "moved: alignment 0x200000, from 0x0 to 0xffffffff" in words()
    assert "moved: alignment 0x400000, from 0x1000000 to 0x3fffffff" in words(0x400000, 0x1000000, 0x3FFFFFFF)
    assert "not a power of two" in words(0x300000)
    assert "must have RAM where the kernel is linked" in "; ".join(quirk.text for quirk in load("xen-dom0", program(NOTE)).quirks)


def test_a_load_without_permissions_is_no_load_for_xen() -> None:
    data = bytes(Program((Piece(PT_LOAD, CODE.content, flags=0), NOTE), tail=b"\xff" * 64).encode())
    assert load("xen", data).refusal == "xc_dom_parse_hvm_kernel: ELF image is not 32bit"


# --- QEMU: what test_against_qemu does not bring about ----------------------------------------------------------------


def test_a_kernel_where_firmware_lies() -> None:
    top = program(Piece(content=bytes(64), paddr=0xFFFF0000), NOTE)
    assert "firmware" in str(load("qemu", top).undefined)


def test_an_empty_note_is_read_all_the_same() -> None:
    data = bytes(Program((note(NoteSpec(desc=b"")), CODE)).encode())
    loading = load("qemu", data)
    assert (loading.protocol, loading.entry) == ("pvh", 0xFEEB)  # the code behind the note
    assert any("which is not in the note segment" in quirk.text for quirk in loading.quirks)


def test_what_lies_behind_the_file_is_not_guessed() -> None:
    data = program(note(NoteSpec(5, desc=b"xen-3.0\0")))
    zeros = data[: data.index(b"\xff" * 64)]
    assert "past the end of the file" in str(load("qemu", zeros).undefined)  # a run of zeros up to the end of the page, and on
    assert "without PVH ELF Note" in str(load("qemu", data).refusal)


# --- versions that differ -------------------------------------------------------------------------------------------


def test_versions_of_qemu_that_differ_are_both_heard_and_told_apart() -> None:
    (qemu,) = find(["qemu"])
    longer = survey(bytes(Program((Piece(content=b"\xeb\xfe" + bytes(62), memsz=32), NOTE)).encode()))
    now, before = simulate(longer, loaders=[qemu])
    assert (now.loader, now.refusal) == ("qemu", "Error while loading elf kernel")
    assert "p_filesz 0x40 above p_memsz 0x20: QEMU 10.0.13 and 11.1 refuse that" in now.quirks[-1].text
    assert before.loader == "qemu-before-10.0.13"
    assert "hangs" in str(before.crash)
    assert [one.loader for one in simulate(survey(program(NOTE)), loaders=[qemu])] == ["qemu"]
