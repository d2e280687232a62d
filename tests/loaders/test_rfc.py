"""QEMU as the RFC v2 of 2018 has it, which no release ships: by cases, beside the merged one."""

import struct
from dataclasses import replace

from pvhdbg.decode.kernel_file import survey
from pvhdbg.loaders.catalogue import BY_NAME
from pvhdbg.loaders.loading import BootParameters, Loading
from tests.support.elf_writer import ENTRY, ElfSpec, NoteSpec

BOOT = BootParameters(b"quiet", memory=64 << 20, machine="pc")


def load(data: bytes, name: str = "qemu-rfc", boot: BootParameters = BOOT) -> Loading:
    return BY_NAME[name].load(survey(data), boot)


def items(loading: Loading) -> dict[str, int | bytes | None]:
    return {item.name: item.value for item in loading.fw_cfg}


def test_pvh_comes_before_multiboot() -> None:
    for bits, machine in ((64, 62), (32, 3)):
        data = ElfSpec(bits=bits, machine=machine, multiboot=True).encode()
        loading = load(data)
        assert (loading.protocol, loading.entry) == ("pvh", ENTRY)
        assert any("before the multiboot header" in quirk.text for quirk in loading.quirks)
        assert load(data, "qemu").protocol == (None if bits == 64 else "multiboot1")


def test_an_elf_without_a_note_is_refused_though_multiboot_could_boot_it() -> None:
    data = ElfSpec(bits=32, machine=3, multiboot=True, notes=()).encode()
    assert load(data).refusal == "Error loading uncompressed kernel without PVH ELF Note"
    assert load(data, "qemu").protocol == "multiboot1"


def test_its_refusal_of_e_flags() -> None:
    data = bytearray(ElfSpec().encode())
    data[48:52] = struct.pack("<I", 0x00010004)
    assert load(bytes(data)).refusal == load(bytes(data), "qemu").refusal == "elfboot unsupported flags = 10004"
    data[48:52] = struct.pack("<I", 0x8)
    assert load(bytes(data)).entry == ENTRY


def test_the_note_is_read_as_size_t_in_both_classes() -> None:
    # An ELF32's note of 4 bytes with 0, and a note behind it: 8 bytes are read, which are not 0.
    notes = ((NoteSpec(desc=bytes(4)), NoteSpec(5, desc=b"xen-3.0\0")),)
    data = ElfSpec(bits=32, machine=3, notes=notes).encode()
    assert (load(data).protocol, load(data).entry) == ("pvh", 0)
    assert "without PVH ELF Note" in str(load(data, "qemu").refusal)


def test_what_lies_behind_the_notes_is_nobodys() -> None:
    data = ElfSpec(notes=((NoteSpec(5, desc=b"xen-3.0\0"),),)).encode() + b"\xff" * 64
    assert "past the end of the note segment" in str(load(data).undefined)
    assert "without PVH ELF Note" in str(load(data, "qemu").refusal)
    short = ElfSpec(notes=((NoteSpec(desc=b""),),)).encode() + b"\xff" * 64
    assert load(short).undefined is not None
    assert load(short, "qemu").entry == 0xFFFFFFFF
    assert load(ElfSpec().encode()).entry == ENTRY  # 4 of the 8 bytes are the note's, and only they are passed on


def test_what_it_passes_on() -> None:
    data = ElfSpec().encode() + bytes(8192)
    loading = load(data)
    assert items(loading) == {
        "KERNEL_ENTRY": ENTRY,
        "KERNEL_ADDR": ENTRY,
        "KERNEL_SIZE": 96,
        "CMDLINE_SIZE": 6,
        "CMDLINE_DATA": b"quiet\0",
        "SETUP_SIZE": 8192,
        "SETUP_DATA": data[:8192],
        "KERNEL_DATA": None,
    }
    assert {item.name: item.size for item in loading.fw_cfg}["KERNEL_DATA"] == 32
    assert any("describes device_memory" in quirk.text for quirk in loading.quirks)
    known = load(data, boot=replace(BOOT, device_memory=(0x140000000, 0x40000000)))
    assert items(known)["KERNEL_DATA"] == struct.pack("<QQQQ", 0x140000000, 0x40000000, 0, 0)


def test_the_initrd_is_lost() -> None:
    boot = replace(BOOT, initrd_size=4096)
    loading = load(ElfSpec().encode(), boot=boot)
    assert not any(name.startswith("INITRD") for name in items(loading))
    assert any("initrd is not passed to the guest" in quirk.text for quirk in loading.quirks)
    merged = items(load(ElfSpec().encode(), "qemu", boot))
    assert merged["INITRD_SIZE"] == 4096
    assert merged["INITRD_ADDR"] == (64 << 20) - 0x28000 - 1 - 4096 & ~0xFFF
