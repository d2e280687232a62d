"""Kernels of distributions: what the simulators say of them, and how QEMU really takes them."""

from pathlib import Path

import pytest

from pvhdbg.decode.fw_cfg import NUMBERS
from pvhdbg.kernel.image import open_kernel
from pvhdbg.loaders.loading import BootParameters, Loading
from tests.loaders import real_qemu
from tests.loaders.generated import answers


def agrees_with_qemu(loading: Loading, kernel: Path, boot: BootParameters) -> None:
    seen = real_qemu.start(kernel, boot, run=False)
    items = {item.name: item.value for item in loading.fw_cfg if item.name in NUMBERS and item.value is not None}
    assert items["KERNEL_ENTRY"] == loading.entry
    assert {name: seen.items[name] for name in items} == items


@pytest.mark.boot
def test_linux(vmlinux: Path, folder: Path) -> None:
    kernel = folder / "vmlinux"
    kernel.symlink_to(vmlinux)
    boot = BootParameters(b"quiet", 5000, 256 << 20, "q35")
    found = answers(kernel, boot)
    agrees_with_qemu(found["qemu"], kernel, boot)
    entries = {loading.entry for name, loading in found.items() if name != "firecracker-old"}
    assert entries == {found["qemu"].entry}
    assert {loading.protocol for loading in found.values()} == {"pvh", "linux64"}


@pytest.mark.boot
def test_xen_shim_is_entered_by_multiboot_on_qemu_alone(xen_shim: Path, folder: Path) -> None:
    kernel = folder / "xen-shim"
    kernel.symlink_to(xen_shim)
    boot = BootParameters(b"", 0, 256 << 20, "pc", str(kernel).encode())
    found = answers(kernel, boot)
    agrees_with_qemu(found["qemu"], kernel, boot)
    assert (found["qemu"].protocol, found["qemu"].entry) == ("multiboot1", 0x200000)
    assert any("hides the PVH note" in quirk.text for quirk in found["qemu"].quirks)
    assert found["xen"].protocol == found["qemu-rfc"].protocol == "pvh"
    assert found["xen"].entry == found["qemu-rfc"].entry != 0x200000
    assert {found[name].protocol for name in ("cloud-hypervisor", "firecracker", "libkrun", "alioth")} == {None}


@pytest.mark.boot
def test_grub_is_an_elf32_that_xen_and_qemu_alone_take(grub_pvh: Path, folder: Path) -> None:
    kernel = folder / "grub"
    kernel.symlink_to(grub_pvh)
    boot = BootParameters(b"", 0, 256 << 20, "q35")
    found = answers(kernel, boot)
    agrees_with_qemu(found["qemu"], kernel, boot)
    assert {name for name, loading in found.items() if loading.protocol == "pvh"} == {"xen", "xen-dom0", "qemu", "qemu-rfc"}


@pytest.mark.boot
def test_xen_itself_is_no_pvh_kernel(xen_gz: Path, folder: Path) -> None:
    kernel = folder / "xen.gz"
    kernel.symlink_to(xen_gz)
    boot = BootParameters(b"", 0, 256 << 20, "pc")
    packed = answers(kernel, boot)["qemu"]
    seen = real_qemu.start(kernel, boot, run=False)
    assert (packed.protocol, seen.option_rom, seen.items["SETUP_ADDR"]) == ("linux16", "linuxboot", 0x90000)
    with open_kernel(str(xen_gz)) as image:
        unpacked = folder / "xen"
        unpacked.write_bytes(image.data[:])
    boot = BootParameters(b"", 0, 256 << 20, "pc", str(unpacked).encode())
    found = answers(unpacked, boot)
    agrees_with_qemu(found["qemu"], unpacked, boot)
    assert found["qemu"].protocol == "multiboot1"
    assert found["xen-dom0"].refusal == "Unable to parse kernel for ELFNOTES"
