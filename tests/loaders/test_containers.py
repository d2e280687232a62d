"""Packed kernels: a bzImage, a compressed ELF, as each VMM takes the file; QEMU's part against the installed QEMU."""

import gzip
import lzma
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from pvhdbg.decode.fw_cfg import NUMBERS
from pvhdbg.kernel.image import open_kernel
from pvhdbg.loaders.loading import BootParameters, Loading
from tests.loaders import real_qemu
from tests.loaders.generated import answers
from tests.support.elf_writer import ENTRY, ElfSpec

BOOT = BootParameters(b"console=ttyS0", memory=64 << 20, machine="pc")
ELF: bytes = ElfSpec(code=b"\xeb\xfe" + bytes(range(256)) * 20).encode()


def bzimage(payload: bytes, version: int = 0x20F, loadflags: int = 1, code32: int = 0x100000) -> bytes:
    setup = bytearray(3 * 512)
    setup[0x1F1] = 2
    setup[0x202:0x208] = b"HdrS" + struct.pack("<H", version)
    setup[0x211] = loadflags
    setup[0x214:0x218] = struct.pack("<I", code32)
    setup[0x22C:0x230] = struct.pack("<I", 0x7FFFFFFF)
    setup[0x248:0x250] = struct.pack("<II", 0, len(payload))
    return bytes(setup) + payload


def agrees_with_qemu(path: Path, loading: Loading, boot: BootParameters) -> None:
    seen = real_qemu.start(path, boot, run=False)
    if loading.refusal is not None:
        assert (seen.status, loading.refusal in seen.words) == (1, True), seen
        return
    assert seen.option_rom == "linuxboot"
    items = {item.name: item.value for item in loading.fw_cfg if item.name in NUMBERS and item.value is not None}
    assert len(items) >= 5
    assert {name: seen.items[name] for name in items} == items


@pytest.mark.boot
def test_the_real_bzimage(vmlinuz: Path, folder: Path) -> None:
    kernel = folder / "vmlinuz"
    kernel.symlink_to(vmlinuz)
    for boot in (BOOT, replace(BOOT, initrd_size=5000), replace(BOOT, initrd_size=70 << 20), replace(BOOT, machine="microvm")):
        found = answers(kernel, boot)
        agrees_with_qemu(kernel, found["qemu"], boot)
    found = answers(kernel, replace(BOOT, memory=512 << 20))
    assert (found["qemu"].protocol, found["qemu"].entry, found["qemu"].bits) == ("linux16", 0x10200, 16)
    assert found["xen"].protocol == found["xen-dom0"].protocol == "pvh"
    with open_kernel(str(vmlinuz)) as image:
        assert found["xen"].entry == image.kernel().entry
    assert (found["cloud-hypervisor"].protocol, found["cloud-hypervisor"].entry) == ("linux32", 0x100000)
    assert "Invalid Elf magic number" in str(found["firecracker"].refusal)
    assert "Invalid Elf magic number" in str(found["cloud-hypervisor-old"].refusal)
    assert "Missing magic number 0x464c457f, found" in str(found["alioth"].refusal)


@pytest.mark.boot
@pytest.mark.parametrize(("version", "loadflags"), [(0x20F, 1), (0x20F, 0), (0x201, 1), (0x209, 1)])
def test_qemu_places_a_bzimage_by_its_protocol(folder: Path, version: int, loadflags: int) -> None:
    path = folder / "vmlinuz"
    path.write_bytes(bzimage(gzip.compress(ELF), max(version, 0x208), loadflags))
    for boot in (BOOT, replace(BOOT, initrd_size=5000)):
        agrees_with_qemu(path, answers(path, boot)["qemu"], boot)


@pytest.mark.boot
def test_qemu_takes_what_it_does_not_know_for_an_ancient_linux(folder: Path) -> None:
    path = folder / "vmlinux.gz"
    path.write_bytes(gzip.compress(ELF) + bytes(0x40000))
    loading = answers(path, BOOT)["qemu"]
    assert (loading.protocol, loading.entry) == ("linux16", 0x90200)
    assert any("without a message" in quirk.text for quirk in loading.quirks)
    agrees_with_qemu(path, loading, BOOT)
    path.write_bytes(lzma.compress(ELF))  # shorter than the setup code that it would have
    assert answers(path, BOOT)["qemu"].refusal == "qemu: invalid kernel header"
    agrees_with_qemu(path, answers(path, BOOT)["qemu"], BOOT)
    boot = replace(BOOT, initrd_size=1)
    assert answers(path, boot)["qemu"].refusal == "qemu: linux kernel too old to load a ram disk"
    agrees_with_qemu(path, answers(path, boot)["qemu"], boot)


def test_who_unpacks_what(folder: Path) -> None:
    path = folder / "kernel"
    path.write_bytes(gzip.compress(ELF))
    found = answers(path, BOOT)
    assert {name for name, loading in found.items() if loading.protocol == "pvh"} == {"xen", "xen-dom0"}
    assert (found["libkrun"].protocol, found["libkrun"].entry) == ("linux64", ENTRY)  # by e_entry: the note is not used
    path.write_bytes(lzma.compress(ELF))
    found = answers(path, BOOT)
    assert {name for name, loading in found.items() if loading.protocol == "pvh"} == {"xen-dom0"}
    assert found["xen"].refusal == "xc_dom_find_loader: no loader found"
    for payload in (ELF, lzma.compress(ELF)):
        path.write_bytes(bzimage(payload))
        assert answers(path, BOOT)["xen"].entry == ENTRY


def test_cloud_hypervisor_checks_a_bzimage(folder: Path) -> None:
    path = folder / "vmlinuz"
    for changes, words in (
        ({"loadflags": 0}, "failed to load bzImage kernel image: Kernel Loader: Invalid bzImage"),
        ({"code32": 0x10000}, "Kernel Loader: invalid kernel start address"),
    ):
        path.write_bytes(bzimage(gzip.compress(ELF), **changes))
        assert str(answers(path, BOOT)["cloud-hypervisor"].refusal).endswith(words)
    path.write_bytes(bzimage(gzip.compress(ELF), code32=0x2000000))
    assert answers(path, BOOT)["cloud-hypervisor"].entry == 0x2000000
