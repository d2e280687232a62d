"""A snapshot as an ELF core: a real GDB shows its registers and memory, and what was observed comes back."""

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest

from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.core_file import parse
from pvhdbg.decode.snapshot_extent import linear_ranges, needed
from pvhdbg.errors import BadInput
from pvhdbg.model import Kernel, Memory, MemoryPiece, NeedMemory, Registers, Vmm
from pvhdbg.report.core_export import core
from pvhdbg.rules.examples import ENTRY, START_INFO, Example, at_entry
from pvhdbg.spec.revisions import V1

CODE = 0xFFFFFFFF81000000  # a kernel's linear address of physical 16 MiB


def gdb(core: Path, *commands: str) -> str:
    """What a real GDB prints of a core."""
    words = [word for command in ("set confirm off", f"core-file {core}", *commands) for word in ("-ex", command)]
    ran = subprocess.run(["gdb", "-nx", "-batch", *words], capture_output=True, text=True, timeout=30, check=False)
    assert "not a core" not in ran.stderr
    return ran.stdout


def shown(text: str) -> dict[str, int]:
    """`info registers` as numbers."""
    return {name: int(value, 16) for name, value in re.findall(r"^(\w+) +(0x[0-9a-f]+)", text, re.MULTILINE)}


def long_mode() -> BootState:
    """A CPU in the higher half: 4-level tables at 0x2000 map 2 MiB there, a GDT at its physical address, code at 16 MiB."""
    tables = {
        0x2000: {0: 0x3003, 511: 0x3003},
        0x3000: {0: 0x4003, 510: 0x4003},
        0x4000: {0: 0x0000083, 8: 0x1000083},
    }
    pages = {base: b"".join(rows.get(index, 0).to_bytes(8, "little") for index in range(512)) for base, rows in tables.items()}
    boot = at_entry(
        rip=CODE + 0x10,
        rsp=CODE + 0x1800,
        cr0=0x80000011,
        cr3=0x2000,
        cr4=0x20,
        efer=0x500,
        found_by="here",
        vmm=Vmm("QEMU", "7.2"),
    ).boot(V1)
    pieces = [MemoryPiece(base, data) for base, data in pages.items()]
    memory = Memory([*pieces, MemoryPiece(0x1000000, bytes(range(16)) + b"\xeb\xfe" + bytes(8174))])
    return dataclasses.replace(boot, snapshot=dataclasses.replace(boot.snapshot, memory=memory))


@pytest.mark.gdb
def test_gdb_shows_registers_and_memory(tmp_path: Path) -> None:
    boot = at_entry(rax=0x123456789A, eflags=0x46).boot(V1)
    path = tmp_path / "core"
    path.write_bytes(core(boot).data)
    text = gdb(path, "info registers", f"x/4xw {START_INFO}", "x/s 0x20000")
    assert "The target architecture is" not in text
    registers = shown(text)
    for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "eflags", "cs", "ss", "ds", "es", "fs", "gs"):
        assert registers[name] == boot.registers[name], name
    assert "0x336ec578\t0x00000001" in text
    assert '"console=ttyS0"' in text


@pytest.mark.gdb
def test_a_32_bit_kernels_core_is_an_i386_one(tmp_path: Path) -> None:
    boot = at_entry(kernel=Kernel(entry=ENTRY, elf_class=32), rdx=0x77).boot(V1)
    path = tmp_path / "core"
    path.write_bytes(core(boot).data)
    text = gdb(path, "info registers", "show architecture", f"x/1xw {START_INFO}")
    registers = shown(text)
    assert "i386" in text
    assert "x86-64" not in text
    assert (registers["eip"], registers["ebx"], registers["edx"], registers["cs"]) == (ENTRY, START_INFO, 0x77, 8)
    assert "0x336ec578" in text


@pytest.mark.gdb
def test_with_paging_gdb_sees_the_code_at_its_linear_address(tmp_path: Path) -> None:
    boot = long_mode()
    path = tmp_path / "core"
    path.write_bytes(core(boot).data)
    text = gdb(path, "x/2xb $pc", f"x/4xb {CODE}", "x/2xb 0x1000010")
    assert text.count("0xeb\t0xfe") == 2
    assert "0x00\t0x01\t0x02\t0x03" in text


@pytest.mark.parametrize(
    "example",
    [
        at_entry(vmm=Vmm("QEMU", "7.2.22")),
        at_entry(segments=False, backing=None, kernel=None, a20=None),
        at_entry(unobserved=("cr0", "rdi")),
    ],
)
def test_what_is_exported_is_imported_again(example: Example) -> None:
    boot = example.boot(V1)
    back = parse(core(boot).data)
    for piece in boot.snapshot.memory.pieces:
        assert back.memory.read(piece.address, len(piece.data)) == piece.data
    assert dataclasses.replace(back.snapshot, memory=boot.snapshot.memory) == boot.snapshot


def test_a_damaged_snapshot_in_it_is_told() -> None:
    data = core(at_entry().boot(V1)).data
    with pytest.raises(BadInput, match=r"registers\.rax"):
        parse(data.replace(b'"rax": "0x0"', b'"rax": "zzz"'))


def test_a_register_that_nobody_observed_is_named() -> None:
    exported = core(at_entry(unobserved=("rdi",)).boot(V1))
    assert "rdi" in exported.unobserved
    assert "rsi" not in exported.unobserved


def test_no_core_without_an_instruction_pointer() -> None:
    boot = at_entry().boot(V1)
    with pytest.raises(BadInput, match="instruction pointer"):
        core(dataclasses.replace(boot, snapshot=dataclasses.replace(boot.snapshot, registers=Registers({"rbx": 1}))))


# --- what is in use -----------------------------------------------------------------------------------------------


def fed(boot: BootState, holds: dict[int, bytes]) -> list[NeedMemory]:
    """What `needed` asks for until it has all; pages that are not given hold zeros."""
    asked: list[NeedMemory] = []
    while (need := needed(boot)) is not None:
        asked.append(need)
        assert len(asked) < 100
        base = next((base for base, data in holds.items() if base <= need.address < base + len(data)), None)
        data = bytes(need.size) if base is None else holds[base][need.address - base :][: need.size].ljust(need.size, b"\0")
        memory = boot.snapshot.memory.with_piece(need.address, data)
        boot = dataclasses.replace(boot, snapshot=dataclasses.replace(boot.snapshot, memory=memory))
    return asked


def test_at_the_entry_the_code_and_the_descriptor_tables_are_asked_for() -> None:
    boot = at_entry().boot(V1)
    asked = fed(boot, {})
    for address, size in linear_ranges(boot):
        assert any(need.address <= address < need.address + need.size for need in asked) or boot.snapshot.memory.read(address, size)
    assert any(need.address == ENTRY & -4096 for need in asked)
    assert len(asked) <= 6


@pytest.mark.parametrize("entry", [False, True], ids=["nothing is there", "one entry is there"])
def test_in_long_mode_the_page_tables_on_the_way_are_asked_for_whole(entry: bool) -> None:
    held = long_mode().snapshot.memory
    boot = long_mode()
    there = Memory().with_piece(0x2000, held.read(0x2000, 8)) if entry else Memory()  # read by who looked for something else
    empty = dataclasses.replace(boot, snapshot=dataclasses.replace(boot.snapshot, memory=there))
    asked = {(need.address, need.size) for need in fed(empty, {piece.address: piece.data for piece in held.pieces})}
    assert {(0x2000, 4096), (0x3000, 4096), (0x4000, 4096), (0x1000000, 4096), (0x1001000, 4096)} <= asked


def test_a_cpu_whose_control_registers_were_not_observed_asks_for_nothing() -> None:
    assert needed(at_entry(unobserved=("cr0",)).boot(V1)) is None


def test_tables_of_nonsense_end_it_soon() -> None:
    boot = at_entry(cr0=0x80000011, cr3=0xFFFFFFFFFF000, cr4=0x20, efer=0x500, gdt=None, rip=(1 << 64) - 8).boot(V1)
    assert len(fed(boot, {})) < 10
