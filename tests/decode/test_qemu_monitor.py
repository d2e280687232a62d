"""The monitor's listings, on text as QEMU 7.2 and 10.0 print it, and on anything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.decode import qemu_monitor
from pvhdbg.model import Backing, BackingKind, DescriptorTable, LoadRange

REGISTERS = """
CPU#0
EAX=00000000 EBX=000021e0 ECX=01000850 EDX=00000518
EIP=01000850 EFL=00000006 [-----P-] CPL=0 II=0 A20=1 SMM=0 HLT=0
ES =0010 00000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
CS =0008 00000000 ffffffff 00cf9a00 DPL=0 CS32 [-R-]
SS =0010 00000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
LDT=0000 00000000 0000ffff 00008200 DPL=0 LDT
TR =0000 00000000 0000ffff 00008b00 DPL=0 TSS32-busy
GDT=     000cb118 00000027
IDT=     00000000 000003ff
"""
REGISTERS_64 = """
ES =0000 0000000000000000 00000000 00000000
CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
GDT=     ffffffff82f60000 0000007f
RIP=ffffffff81000000 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=0 SMM=0 HLT=0
"""
MTREE = """FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan

FlatView #3
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  00000000000f0000-00000000000fffff (prio 0, rom): pc.ram @00000000000f0000
  0000000100000000-00000001bfffffff (prio 0, ram): pc.ram @0000000080000000 KVM

"""
ROMS = """fw=genroms/pvh.bin size=0x000600 name="pvh.bin"
addr=0000000001000000 size=0x1826634 mem=ram name="/a b/vm linux ELF program header segment 0"
addr=0000000002a00000 size=0x61a000 mem=ram name="/a b/vm linux ELF program header segment 1"
addr=00000000fffc0000 size=0x040000 mem=rom name="bios-256k.bin"
"""


def test_hidden_state_of_a_32_bit_cpu() -> None:
    state = qemu_monitor.cpu_state(REGISTERS)
    cs, tr = state.segments["cs"], state.segments["tr"]
    assert (cs.selector, cs.base, cs.limit, cs.flags) == (8, 0, 0xFFFFFFFF, 0x00CF9A00)
    assert (cs.present, cs.s, cs.type, cs.db, cs.long, cs.granularity) == (1, 1, 0xA, 1, 0, 1)
    assert (tr.limit, tr.type, tr.s) == (0xFFFF, 0xB, 0)
    assert state.segments.gdt == DescriptorTable(0xCB118, 0x27)
    assert state.a20 is True


def test_hidden_state_of_a_64_bit_cpu() -> None:
    state = qemu_monitor.cpu_state(REGISTERS_64)
    assert state.segments["cs"].long == 1
    assert state.segments.gdt == DescriptorTable(0xFFFFFFFF82F60000, 0x7F)
    assert state.a20 is False
    assert state.segments["tr"].flags is None


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["by QMP", "by a gdbstub"])
def test_only_the_memory_address_space_counts(end: str) -> None:
    assert qemu_monitor.physical_ranges(MTREE.replace("\n", end)) == (
        Backing(0, 0xA0000, BackingKind.RAM, "pc.ram"),
        Backing(0xA0000, 0x20000, BackingKind.IO, "vga-lowmem"),
        Backing(0xF0000, 0x10000, BackingKind.ROM, "pc.ram"),
        Backing(1 << 32, 0xC0000000, BackingKind.RAM, "pc.ram"),
    )


def test_the_loaded_kernel_and_its_path() -> None:
    kernel = qemu_monitor.loaded_kernel(ROMS)
    assert kernel is not None
    assert kernel.path == "/a b/vm linux"
    assert kernel.loads == (LoadRange(0x1000000, 0x1826634), LoadRange(0x2A00000, 0x61A000))
    assert qemu_monitor.loaded_kernel("") is None


def test_version_and_accelerator() -> None:
    assert qemu_monitor.version("7.2.22Debian 1:7.2+dfsg-7+deb12u18+b3\r\n") == "7.2.22"
    assert qemu_monitor.version("QEMU?") is None
    assert qemu_monitor.accelerator("kvm support: enabled\r\n") == "kvm"
    assert qemu_monitor.accelerator("kvm support: disabled\r\n") == "tcg"
    assert qemu_monitor.accelerator("unknown command") is None


@given(st.text(), st.integers(0, 700))
def test_any_text_is_survived(text: str, cut: int) -> None:
    for listing in (text, REGISTERS[:cut] + text, MTREE[:cut] + text, ROMS[:cut] + text):
        qemu_monitor.cpu_state(listing)
        qemu_monitor.physical_ranges(listing)
        qemu_monitor.loaded_kernel(listing)
        qemu_monitor.version(listing)
        qemu_monitor.accelerator(listing)
