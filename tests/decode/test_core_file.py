"""ELF cores: what QEMU's notes say is what is decoded; what is cut, foreign or hostile is one BadInput."""

import struct
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg.decode.core_file import CorePart, FlatMemory, is_core, parse
from pvhdbg.errors import BadInput
from pvhdbg.model import BackingKind, DescriptorTable, Unavailable
from tests.support.core_writer import (
    MEMORY,
    REGISTERS,
    build_core,
    note,
    prstatus32,
    prstatus64,
    qemu_note,
)

CORE = build_core()


def test_qemus_note_is_what_is_decoded() -> None:
    core = parse(CORE)
    registers, segments = core.snapshot.registers, core.snapshot.segments
    assert {name: registers[name] for name in REGISTERS if name != "rflags"} == {
        k: v for k, v in REGISTERS.items() if k != "rflags"
    }
    assert (registers["eflags"], registers["cs"], registers["ss"], registers["cr0"], registers["cr4"]) == (2, 8, 16, 0x11, 0)
    assert (segments["cs"].limit, segments["cs"].flags, segments["tr"].base, segments["tr"].limit) == (
        0xFFFFFFFF,
        0xCF9A00,
        0x500,
        0x67,
    )
    assert (segments.gdt, segments.idt) == (DescriptorTable(0x1000, 0x27), DescriptorTable(0, 0x3FF))
    assert (registers["fs_base"], registers["k_gs_base"]) == (0, 0x5000)
    assert core.snapshot.vmm.name == "QEMU"
    assert core.cpus == 1


@pytest.mark.parametrize("name", ["efer", "cr8"])
def test_what_a_core_does_not_hold_is_unobserved(name: str) -> None:
    with pytest.raises(Unavailable):
        parse(CORE).snapshot.registers[name]


@pytest.mark.parametrize("status", [prstatus32(), prstatus64()], ids=["32", "64"])
@pytest.mark.parametrize("bits", [32, 64])
def test_without_qemus_note_the_registers_are_those_of_nt_prstatus(status: bytes, bits: int) -> None:
    snapshot = parse(build_core(status, bits=bits)).snapshot
    assert [snapshot.registers[name] for name in ("rax", "rbx", "rip", "rsp", "eflags", "cs", "ds")] == [
        0x2A, 0x2000, 0x100000, 0x7000, 2, 8, 16
    ]  # fmt: skip
    assert snapshot.segments.gdt is None
    assert snapshot.vmm.name is None
    with pytest.raises(Unavailable):
        snapshot.registers["cr0"]


def test_what_no_part_speaks_of_is_unknown_and_not_absent() -> None:
    backing = parse(CORE).snapshot.backing
    assert backing is not None
    assert [(area.start, area.kind) for area in backing] == [
        (0, BackingKind.RAM),
        (0x4000, BackingKind.UNKNOWN),
        (0x100000, BackingKind.RAM),
        (0x101000, BackingKind.UNKNOWN),
    ]
    assert backing[-1].end == 1 << 64


def test_the_first_cpu_counts() -> None:
    second = qemu_note(registers={**REGISTERS, "rip": 0xFFF0})
    core = parse(build_core(prstatus32() + prstatus32() + qemu_note() + second))
    assert (core.cpus, core.snapshot.registers["rip"]) == (2, 0x100000)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (build_core(header={"machine": 183}), "AArch64"),
        (build_core(header={"machine": 0x1234}), "machine 4660"),
        (build_core(header={"data": 2}), "big-endian"),
        (build_core(header={"type": 2}), "e_type is 2"),
        (build_core(header={"phentsize": 8}), "e_phentsize"),
        (build_core(header={"phnum": 0xFFFE}), "65534 program headers"),
        (build_core(header={"phnum": 0xFFFF}), "section header 0"),
        (build_core(header={"phnum": 0xFFFF, "shoff": 200}), "program headers"),
        (build_core(header={"phoff": 1 << 62}), "truncated"),
        (build_core(load={"filesz": 1 << 62}), "truncated"),
        (build_core(load={"offset": (1 << 64) - 1}), "truncated"),
        (build_core(load={"paddr": (1 << 64) - 4}), "beyond the address space"),
        (build_core(b""), "no registers"),
        (build_core(prstatus32()[:40]), "notes are damaged"),
        (build_core(note(b"CORE\0", 1, bytes(100))), "100 bytes"),
        (build_core(qemu_note(version=2)), "version 2"),
        (build_core(note(b"QEMU\0", 0, bytes(300))), "300 bytes"),
        (build_core(prstatus64() + note(b"CORE\0", 3, bytes(136))), "of a process"),
        (build_core(memory={}), "no memory"),
        (b"KDUMP   " + bytes(4096), "kdump"),
        (b"makedumpfile\0\0\0\0" + bytes(4096), "kdump"),
        (CORE[:10], "truncated"),
        (CORE[:40], "truncated"),
        (CORE[:100], "truncated"),
        (CORE[:300], "truncated"),
        (CORE[:-1], "truncated"),
        (b"", "truncated"),
    ],
)
def test_damage_is_named(data: bytes, named: str) -> None:
    with pytest.raises(BadInput) as error:
        parse(data)
    assert named in error.value.what
    assert "\n" not in error.value.what
    assert error.value.todo


def test_more_program_headers_than_the_header_can_count() -> None:
    memory = [(page << 12, b"x") for page in range(3)]
    plain = build_core(memory=memory, header={"phnum": 0xFFFF})
    section = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 4, 0, 0)
    data = build_core(memory=memory, header={"phnum": 0xFFFF, "shoff": len(plain)}) + section
    assert [part.address for part in parse(data).memory.parts] == [0, 0x1000, 0x2000]


@settings(deadline=None)
@given(st.data())
def test_an_edited_core_is_a_bad_input_or_still_one(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(CORE) - len(MEMORY[0]) - len(MEMORY[0x100000])))
    put = data.draw(st.binary(min_size=1, max_size=8))
    for edited in (CORE[:at], CORE[:at] + put + CORE[at + len(put) :]):
        try:
            core = parse(edited)
        except BadInput as error:
            assert error.what  # noqa: PT017 - any other exception fails the test
        else:
            core.memory.read(0, 16)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=8), st.integers(0, 80), st.integers(1, 40))
def test_flat_memory_is_the_first_part_that_has_a_byte(parts: list[tuple[int, int]], address: int, size: int) -> None:
    data = bytes(range(200))
    rows = [CorePart(start, length, 20 * index) for index, (start, length) in enumerate(parts)]
    flat = FlatMemory(data, rows)
    held: dict[int, set[int]] = {}
    for part in rows:
        for offset in range(part.size):
            held.setdefault(part.address + offset, set()).add(data[part.offset + offset])
    found = flat.read(address, size)
    wanted: list[Mapping[int, object] | set[int]] = [held.get(at, set()) for at in range(address, address + size)]
    if all(wanted):
        assert found is not None
        assert all(byte in one for byte, one in zip(found, wanted, strict=True))
    else:
        assert found is None
    assert all(one.end <= other.address for one, other in zip(flat.parts, flat.parts[1:], strict=False))


def test_the_head_tells_a_core_from_a_kernel() -> None:
    assert is_core(CORE[:32])
    assert not is_core(build_core(header={"type": 2})[:32])
    assert not is_core(b"\x7fELF")
    assert is_core(b"KDUMP   " + bytes(8))
