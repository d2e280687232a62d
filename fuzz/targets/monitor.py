"""QEMU's human monitor: its listings, and fw_cfg by its port commands."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

from fuzz.target import Form, Output, Target
from pvhdbg.decode import fw_cfg, qemu_monitor
from pvhdbg.decode.text import printable
from pvhdbg.tracing import cpu_text
from tests.tracing.test_qemu_log import state

REGISTERS = state(eax=0x2A000, eip=0x100000).decode()
MTREE = """FlatView #0
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram KVM
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  00000000000c0000-00000000000cafff (prio 0, rom): pc.ram @00000000000c0000
  0000000000100000-0000000003ffffff (prio 0, ram): pc.ram @0000000000100000
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios

"""
ROMS = """addr=00000000fffc0000 size=0x040000 mem=rom name="bios-256k.bin"
addr=0000000000100000 size=0x001000 mem=ram name="/tmp/hello.elf ELF program header segment 0"
addr=0000000000200000 size=0x001000 mem=ram name="/tmp/hello.elf ELF program header segment 1"
"""
PORTS = "portb[0x0511] = 0x51\nportb[0x0511] = 0x45\nportb[0x0511] = 0x4d\nportb[0x0511] = 0x55\n"


def _run(data: bytes) -> Iterator[Output]:
    text = data.decode("utf-8", "replace")
    state = qemu_monitor.cpu_state(text)
    found = [str(state.a20), *(f"{name} {one.base} {one.limit}" for name, one in state.segments.by_name.items())]
    found += [f"{area.start:#x} {area.size:#x} {area.kind} {area.name}" for area in qemu_monitor.physical_ranges(text)]
    found += [str(qemu_monitor.loaded_kernel(text)), str(qemu_monitor.version(text)), str(qemu_monitor.tells_stops(text))]
    found += [str(qemu_monitor.accelerator(text)), str(qemu_monitor.is_shut_down(text)), str(cpu_text.decode(data))]
    found.append(cpu_text.of_cpu(text, 1))
    lines = cycle(text.splitlines()[:64] or [""])
    found.append(str(fw_cfg.kernel_entry(lambda _: next(lines))))
    yield Output(Form.TEXT, printable("\n".join(found)))


def _seeds() -> Iterator[bytes]:
    for text in (
        REGISTERS,
        MTREE,
        ROMS,
        PORTS,
        "7.2.22 (Debian 1:7.2+dfsg-7)\nkvm support: enabled\nVM status: paused (shutdown)\n",
        f"CPU#0\n{REGISTERS}\nCPU#1\n{REGISTERS}",
    ):
        yield text.encode()


TARGET = Target(
    _run,
    _seeds,
    (
        b"FlatView #",
        b'AS "memory"',
        b"(prio 0, ram): ",
        b" @0000000000000000",
        b'mem=ram name="',
        b' ELF program header segment 0"',
        b"CS =",
        b"portb[0x0511] = 0x",
    ),
)
